"""What a storage is asked for: records and changes, never models.

A *record* is one committed state of one session: a small JSON head and an ordered list of encoded messages. A *change*
says "keep the first k messages, append these, change these head fields" and covers every edit there is. Because
storages only move such bytes, format upgrades happen in one place (the codec) and no storage can have its own idea of a
session.

Somebody's own storage needs none of this: three methods (`Storage`) are enough, and an adapter gives it the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, Final, Protocol, TypeGuard, runtime_checkable

from bamboo_sessions._frozen import frozen
from bamboo_sessions.filters import Filter
from bamboo_sessions.models import Session, SessionPage
from bamboo_sessions.models.findings import Finding, Repair
from bamboo_sessions.models.hits import SearchPage
from bamboo_sessions.search import Query

OPS_KEPT: Final = 64
"""How many operation ids a record remembers: the window in which a retry after an unknown outcome is recognised."""

Head = dict[str, Any]
"""A JSON object: every field of a session but its messages, as `codec.encode_head` writes it."""

HeadChange = dict[str, Any]
"""A JSON object that turns one head into another, as `codec.diff_head` writes it and `codec.patch_head` applies it."""

LeftOut = Callable[[str, str], object]
"""Is told (id, why) of a session that a listing leaves out."""

Stamp = object
"""A storage's own cheap mark of one state of one record; equal marks mean that nothing changed in between."""


@frozen(slots=True)
class Change:
    """One committed step: keep the first `keep` messages, append `add`, change the head; gives `revision`."""

    revision: int
    op: str
    """The operation id; also the commit id at `revision`."""
    keep: int
    add: Sequence[bytes]
    """Encoded messages (one JSON object each, without a line break), in order."""
    head: HeadChange


@frozen(slots=True)
class Commit:
    """A change, made against an expected state. `expected` None: the session must not exist yet."""

    session_id: str
    expected: tuple[str, int] | None
    """(birth, revision) that the storage must hold, else `RevisionConflict`."""
    change: Change
    anew: bool = False
    """Of a first commit: nobody may have deleted a session of its birth either, else `RevisionConflict`. For storages without a
    lock, which alone can tell at the moment of the commit; asked by a save and by a move, not by a restore."""


@frozen(slots=True)
class Record:
    """One whole committed state."""

    head: Head
    messages: Sequence[bytes]
    ops: tuple[str, ...]
    """The newest operation ids, oldest first, at most 64; the last one made the head's `revision`."""
    stamp: Stamp


@frozen(slots=True)
class Delta:
    """What was committed since the stamp that the reader named; `changes` follow it without a gap, oldest first."""

    changes: Sequence[Change]
    stamp: Stamp


class Unchanged:
    """The answer "still what your stamp says". `UNCHANGED` is the only one."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged()


class Storage(ABC):
    """The least a storage can be: three methods. Cache, merge and the promises come from the layers above.

    Raise whatever your backend raises: it reaches callers as `StorageError` with the cause kept. What you are handed is
    a copy that is yours, what you return is copied.

        class Mine(Storage):
            def load_session(self, session_id): ...     # Session, or None where there is none
            def save_session(self, session): ...        # store it whole, over whatever is there
            def delete_session(self, session_id): ...   # True where there was one
    """

    @abstractmethod
    def load_session(self, session_id: str) -> Session | None:
        """The stored session, or None where there is none (absence is not an error; a failure is not absence)."""

    @abstractmethod
    def save_session(self, session: Session) -> None:
        """Store this session whole, over whatever is there. Durable on return, as far as this storage is."""

    @abstractmethod
    def delete_session(self, session_id: str) -> bool:
        """Remove it; True where there was one, False where there was none (not an error)."""

    def close(self) -> None:  # noqa: B027 - a storage without resources has nothing to do here
        """Release what is held open. Called once by `SessionRepository.close`; a second call must be harmless."""


@runtime_checkable
class RecordStorage(Protocol):
    """The delta interface of the built-in storages.

    `read` takes no lock and never waits for a writer; it sees one committed state, never a mixture. `commit` is durable
    on return. A caller that serialises writers by `SessionLocks.lock` never sees `RevisionConflict`; one that does not
    has to expect it.
    """

    @property
    def name(self) -> str:
        """A short name for logs and errors, such as `json_files`."""

    @property
    def store_id(self) -> str:
        """A random name given to this store when it was made; tells a copy of this store from one of another."""

    def read(self, session_id: str, known: Stamp | None = None) -> Record | Delta | Unchanged | None:
        """The committed state; None where there is no session.

        With `known` (a stamp this storage gave): `UNCHANGED` where nothing was committed since, or a `Delta` of what
        was. A storage may always answer with the whole record. Raises `StorageError`; a failure is never None.
        """

    def commit(self, commit: Commit) -> Stamp:
        """Apply it durably and give the new state's stamp.

        Raises `RevisionConflict` where the stored (birth, revision) is not the expected one, `StorageUnavailable` with
        its `outcome` where it failed. A commit whose operation id is already the newest one is not applied twice.
        """

    def delete_record(self, session_id: str) -> bool:
        """Remove the session for good and remember its birth; True where there was one."""

    def exists(self, session_id: str) -> bool:
        """Whether there is such a session."""

    def was_deleted(self, session_id: str, birth: str) -> bool:
        """Whether a session of this id and birth was deleted here (best effort: the memory is bounded)."""

    def heads(self) -> Iterator[tuple[Head, int]]:
        """(head, number of messages) of every session, in no particular order; one that vanishes meanwhile is left out.

        A damaged session is logged and left out: one bad file must not hide the others.
        """

    def close(self) -> None:
        """Release what is held open; harmless when repeated."""


@runtime_checkable
class SessionLocks(Protocol):
    """Optional power: exclusion of writers in other processes, for the time of a read-merge-commit."""

    def lock(self, session_id: str, timeout: float) -> AbstractContextManager[None]:
        """Hold the session's lock across processes; raises `LockTimeout` after `timeout` seconds.

        Not re-entrant, and not for two threads of one process at a time: the caller holds its in-process lock first.
        """


@runtime_checkable
class PlainReads(Protocol):
    """Optional power: a read that may be answered by something nearer than what decides, as a cache does it."""

    def read_plain(self, session_id: str) -> Record | None:
        """A committed state for a plain load; None where there is no session.

        It may be older than what `read` gives where another process wrote or deleted since, and never older than what this
        object committed, deleted or gave to anybody before. Its stamp is one for `read`. Raises what `read` raises.
        """


@runtime_checkable
class Expiry(Protocol):
    """Optional power of a record storage: sessions whose time runs out.

    *Activity* is a time of its own, kept by the storage and read by its clock: it is not `updated_at`, and starting it anew
    makes no revision. A `commit` starts it anew, whatever the `ttl` of the object that made it; so does `touch`. When the
    `ttl` has passed since, the session has expired: it is still there, and still what `read`, `read_held`, `commit` and
    `is_current` speak of, for those are truthful about what is kept. `exists`, `heads` and the plain methods do not show it
    any more, and no more does anything above the storage. `purge_record` removes it for good.

    A session that is pinned or waits for an answer does not expire (`expiry.is_spared`); the commit that ends that starts its
    time anew. In doubt a storage keeps: where a clock jumped back, where hosts disagree, where something cannot be read.
    """

    @property
    def ttl(self) -> timedelta | None:
        """How long a session is kept after its last activity; None: nothing here expires, and nothing of this costs anything.

        Never changes while the object is in use.
        """

    def time_left(self, session_id: str) -> timedelta | None:
        """How long the session will still be shown, at the least, counted from the beginning of the call.

        Zero or less: it has expired, and is there. None: there is no such session, or nothing here expires. Cheap where the
        time has not run out; whether a session is there at all need not be looked up for that. May be less than the truth while it is positive, never more: whoever asked relies on it. Raises
        `StorageUnavailable`; callers then take the session for one that has not expired.
        """

    def touch(self, session_id: str) -> None:
        """Start its activity anew, also where it had expired. Writes no revision and changes no stamp.

        Raises `SessionNotFound` where there is none (any more), `StorageUnavailable`. A touch that returned counts for every
        later purge. It need not survive a power cut: what is lost then is this activity, and the one before it counts.
        """

    def expired(self) -> Iterator[str]:
        """The ids of sessions that may have expired, for a purge, which looks again; in no order, each at most once."""

    def purge_record(self, session_id: str) -> bool:
        """Remove the session for good if it has expired; True where it did.

        Looking and removing are one step: no commit and no touch comes in between (the storage's own atomicity, or its lock,
        which the caller may hold). Its birth is remembered as that of an expired one; `was_deleted` says True of it too.
        """

    def was_expired(self, session_id: str, birth: str | None = None) -> bool:
        """Whether the session of this birth expired and was purged here; without a birth: the last one of this id that is gone.

        False while it is there. Best effort, as `was_deleted`: the memory is bounded.
        """


@runtime_checkable
class LateExpiry(Protocol):
    """Optional power: a time to live that is given to a storage after it was opened."""

    def expire_after(self, ttl: timedelta) -> None:
        """Let its sessions expire, where they did not; before anybody uses this object, for what is cached was not told.

        Raises `InvalidValue` where they have another time to live already; the same one changes nothing.
        """


@runtime_checkable
class UsageLog(Protocol):
    """Optional power: an append-only log of token usage beside the session."""

    def append_usage(self, session_id: str, line: bytes) -> None:
        """Append one line of JSON (given without line break), durably. Takes no lock of the session.

        Raises `SessionNotFound` where there is no session, `InvalidValue` for what is not one line of JSON.
        """


@runtime_checkable
class UsageReads(Protocol):
    """Optional power beside `UsageLog`: a log that can be read back and carried on by the bundle, which is what a move takes.

    A log belongs to one birth of its session and goes with it.
    """

    def read_usage(self, session_id: str, birth: str) -> Sequence[bytes]:
        """The lines of the session of this birth, without line breaks, in the order in which they became visible here or
        nearly so; none where there is no such session (any more).

        Takes no lock and never shows half a line that somebody is writing. What a crash left of a line that was never
        acknowledged may be among them, and is no JSON. Raises `StorageUnavailable`, `CorruptSession`.
        """

    def add_usage(self, session_id: str, birth: str, lines: Sequence[bytes], after: int) -> bool:
        """Append these lines in one step, durably, if the session is of this birth and `read_usage` has `after` lines.

        False, and nothing is changed, where not. Raises `InvalidValue` for what is not one line of JSON each,
        `StorageUnavailable` with its `outcome`.
        """


@runtime_checkable
class Queries(Protocol):
    """Optional power: a page of a list without a look at every head."""

    def page(self, wanted: Filter, limit: int, cursor: str | None = None) -> SessionPage:
        """What `listing.page` gives over `heads`: the same sessions in the same order, in pages that stay right while others
        write. `Place.read` understands a cursor, `cut` makes the page, and `wanted.takes` decides."""


@runtime_checkable
class Search(Protocol):
    """Optional power: finding sessions by the words in their titles and messages."""

    def search(self, query: Query, wanted: Filter, limit: int, cursor: str | None = None) -> SearchPage:
        """What `search.page` gives over all sessions that pass the filter: the same hits in the same order.

        `Query.terms` is for an index, `Query.spans` decides; `Spot.read` understands a cursor, `cut` makes the page. Never
        shows what nobody sees any more: expired and deleted sessions, messages that were removed. Raises `InvalidValue` for
        a cursor that no search gave, `StorageUnavailable` where the storage cannot search.
        """


@runtime_checkable
class Checks(Protocol):
    """Optional power: looking whether everything on disk is as it should be, and mending what is not."""

    def check(self, session_id: str | None = None, *, progress: Callable[[int, int], object] | None = None
              ) -> Iterator[Finding]:
        """Every finding of one session, or of the whole store where `session_id` is None; nothing is changed.

        Safe while others write: what they are in the middle of is no finding. `progress` is called with (sessions done,
        sessions in all). Raises `SessionNotFound`, and `StorageUnavailable` where the disk does not answer.
        """

    def repair(self, session_id: str) -> Repair:
        """Write a damaged session anew from all that can still be read of it; what was there is kept beside it.

        The caller may hold the session's lock. Raises `SessionNotFound`; `CorruptSession` where nothing can be done without
        losing something, in which case nothing was changed; `UnsupportedFormat`, `LockTimeout`, `StorageUnavailable`.
        """


@runtime_checkable
class TellingHeads(Protocol):
    """Optional power: a listing for whoever must not pass anything over, as a move must not."""

    def heads_telling(self, left_out: LeftOut) -> Iterator[tuple[Head, int]]:
        """`heads`, and `left_out(id, why)` is called for each session that it leaves out because it could not be read: for damage,
        or for an error of that moment. A path stands for an id that cannot be told."""


# -- which powers a storage has -----------------------------------------------------------------------------------
#
# By looking for the names. `isinstance` with a Protocol answers by the class alone from Python 3.12 on, so that a wrapper
# which hands everything on would lose the powers of what it wraps, in silence and on some interpreters only.


def _has(storage: object, *names: str) -> bool:
    return all(hasattr(storage, name) for name in names)


def keeps_records(storage: object) -> TypeGuard[RecordStorage]:
    """Whether it speaks records itself."""
    return _has(storage, "read", "commit", "delete_record", "exists", "was_deleted", "heads", "store_id", "name")


def has_locks(storage: object) -> TypeGuard[SessionLocks]:
    """Whether it can exclude writers in other processes."""
    return _has(storage, "lock")


def has_plain_reads(storage: object) -> TypeGuard[PlainReads]:
    """Whether a plain load has a shorter way than `read`."""
    return _has(storage, "read_plain")


def has_expiry(storage: object) -> TypeGuard[Expiry]:
    """Whether its sessions can expire; they do where its `ttl` is not None."""
    return _has(storage, "ttl", "time_left", "touch", "expired", "purge_record", "was_expired")


def has_late_expiry(storage: object) -> TypeGuard[LateExpiry]:
    """Whether it takes a time to live later on."""
    return _has(storage, "expire_after")


def has_usage_log(storage: object) -> TypeGuard[UsageLog]:
    """Whether it keeps token usage."""
    return _has(storage, "append_usage")


def has_usage_reads(storage: object) -> TypeGuard[UsageReads]:
    """Whether what it keeps of token usage can be read back."""
    return _has(storage, "read_usage", "add_usage")


def has_queries(storage: object) -> TypeGuard[Queries]:
    """Whether it finds the sessions of a list itself."""
    return _has(storage, "page")


def has_search(storage: object) -> TypeGuard[Search]:
    """Whether it finds words itself."""
    return _has(storage, "search")


def has_checks(storage: object) -> TypeGuard[Checks]:
    """Whether it can check and repair what it stored."""
    return _has(storage, "check", "repair")


def has_telling_heads(storage: object) -> TypeGuard[TellingHeads]:
    """Whether it names what its listing leaves out."""
    return _has(storage, "heads_telling")
