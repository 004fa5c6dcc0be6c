"""Somebody's own storage with three methods, seen as one that keeps records.

Whatever such a storage raises is translated here. What it is handed is a copy and what it returns is copied. It may
give sessions back without birth, revision or message ids; then it has no opinion on them, and known messages are
recognised by content, so that a merge does not take a re-read message for a new one.

Where the storage has a `ttl`, its sessions expire: activity is kept in this process, and for a session that this process
has not met it begins with the stored `updated_at`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final, cast
from weakref import WeakValueDictionary, finalize

import attrs
import structlog

from bamboo_sessions._locks import KeyedLocks
from bamboo_sessions.clock import SYSTEM_CLOCK, Clock, real_monotonic
from bamboo_sessions.codec import decode_head, encode_head, patch_json
from bamboo_sessions.errors import (
    LockTimeout,
    RevisionConflict,
    SessionError,
    SessionNotFound,
    StorageError,
    StorageUnavailable,
)
from bamboo_sessions.ids import new_birth
from bamboo_sessions.models import Message, Messages, Session, State
from bamboo_sessions.models.alignment import align
from bamboo_sessions.models.state import Head, Origin
from bamboo_sessions.models.times import from_text
from bamboo_sessions.storages.expiry import NONE_LEFT, checked_ttl, later_ttl, left_of
from bamboo_sessions.storages.protocol import (
    OPS_KEPT,
    Commit,
    Record,
    RecordStorage,
    Stamp,
    Storage,
    has_locks,
    keeps_records,
)
from bamboo_sessions.storages.records import RecordBacked

_log = structlog.get_logger("bamboo_sessions")
_adapted: WeakValueDictionary[int, ThreeMethods] = WeakValueDictionary()
"""By `id`: a storage need not be hashable. An adapter keeps its storage alive, so no other one can get its number."""
_store_ids: dict[int, str] = {}  # an entry per living storage: its sessions know it again when its adapter is made anew
_adapting = threading.Lock()  # guards both: two adapters of one storage would be two lock tables


def as_records(storage: Storage | RecordStorage) -> RecordStorage:
    """`storage` itself where it keeps records, else the one adapter of it: two repositories must share its locks."""
    if keeps_records(storage):
        return storage
    plain = cast("Storage", storage)
    with _adapting:
        adapter = _adapted.get(id(plain))
        if adapter is None:
            adapter = _adapted[id(plain)] = ThreeMethods(plain, _store_id(plain))
    return adapter


def _store_id(storage: Storage) -> str:
    number = id(storage)
    if number not in _store_ids:
        if not has_locks(storage):
            _log.warning("storage has no lock or commit of its own: safe for the writers of one process only",
                         storage=type(storage).__name__)
        _store_ids[number] = new_birth()
        finalize(storage, _store_ids.pop, number, None)
    return _store_ids[number]


@attrs.frozen(slots=True, eq=False)
class _Seen:
    """The stamp of a storage that has none: the messages as last seen. Never equal to another one."""

    messages: Messages


_PASTS_KEPT: Final = 10_000


@attrs.define(slots=True)
class _Past:
    """What this process knows of a session's commits: the storage remembers none, and is asked by `updated_at`."""

    birth: str
    at: datetime | None = None
    ops: tuple[str, ...] = ()
    """The commits that led to the state of that time."""
    tried: tuple[str, datetime] | None = None
    """A commit whose outcome is unknown, and the time of the state it was to give."""


class _Pasts:
    """Bounded: the sessions longest not written are forgotten, and retries of theirs are no longer recognised."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Past] = OrderedDict()
        self._buried: OrderedDict[tuple[str, str], bool] = OrderedDict()
        """(id, birth): whether it had expired; the last one to go comes last."""
        self._lock = threading.Lock()  # guards both, and every _Past in them

    def ops(self, head: Head) -> tuple[str, ...]:
        """The operation ids that led to this state, as far back as they are known."""
        with self._lock:
            past = self._known.get(head.id)
            if past is not None and past.tried is not None and past.at != head.updated_at == past.tried[1]:
                past.at, past.ops, past.tried = head.updated_at, (*past.ops, past.tried[0])[-OPS_KEPT:], None
            return past.ops if past is not None and past.at == head.updated_at else ()

    def committed(self, head: Head, ops: tuple[str, ...]) -> None:
        self._remember(head.id, _Past(head.birth, head.updated_at, ops[-OPS_KEPT:]))

    def tried(self, before: Head | None, head: Head, op: str) -> None:
        """Whether that was applied, the next look at the state tells."""
        ops = () if before is None else self.ops(before)
        self._remember(head.id, _Past(head.birth, None if before is None else before.updated_at, ops, (op, head.updated_at)))

    def _remember(self, session_id: str, past: _Past) -> None:
        with self._lock:
            self._known[session_id] = past
            self._known.move_to_end(session_id)
            if len(self._known) > _PASTS_KEPT:
                self._known.popitem(last=False)

    def bury(self, session_id: str, *, expired: str | None = None) -> None:
        """`expired`: the birth of one that was purged; this process may never have written it."""
        with self._lock:
            past = self._known.pop(session_id, None)
            birth = expired if past is None else past.birth
            if birth is not None:
                self._buried.pop((session_id, birth), None)
                self._buried[session_id, birth] = expired is not None
                if len(self._buried) > _PASTS_KEPT:
                    self._buried.popitem(last=False)

    def is_buried(self, session_id: str, birth: str) -> bool:
        return (session_id, birth) in self._buried

    def is_expired(self, session_id: str, birth: str | None) -> bool:
        """Of this birth; where none is named, or the storage keeps none, the last one of this id."""
        with self._lock:
            for (name, dead), expired in reversed(self._buried.items()):
                if name == session_id and (not birth or not dead or dead == birth):
                    return expired
        return False


class _Touches:
    """When sessions were active here. Bounded: one that is forgotten may have been active as late as the last one that is.
    So none is taken for older than it is, and some that nobody touched are kept for longer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at: OrderedDict[str, datetime] = OrderedDict()
        self._forgotten: datetime | None = None
        self._lock = threading.Lock()  # guards the table

    def renew(self, session_id: str) -> None:
        with self._lock:
            now = self._clock.now()
            self._at[session_id] = max(now, self._at.pop(session_id, now))  # clocks jump back, activity does not
            if len(self._at) > _PASTS_KEPT:
                _, at = self._at.popitem(last=False)
                self._forgotten = at if self._forgotten is None else max(at, self._forgotten)

    def idle(self, session_id: str, updated_at: datetime | None = None) -> timedelta | None:
        """Since when nothing happened; None where only the session itself could tell."""
        at = self._at.get(session_id)
        if at is None and updated_at is not None:
            at = self._forgotten
        known = [when for when in (at, updated_at) if when is not None]
        return self._clock.now() - max(known) if known else None

    def ids(self) -> list[str]:
        with self._lock:
            return list(self._at)

    def forget(self, session_id: str) -> None:
        with self._lock:
            self._at.pop(session_id, None)


class ThreeMethods(RecordBacked):
    """A `RecordStorage` with `SessionLocks` over a three-method `Storage`: its own lock where it has one, beneath one
    for the threads of this process."""

    def __init__(self, storage: Storage, store_id: str) -> None:
        self._storage = storage
        self._locks: KeyedLocks[str] = KeyedLocks()  # one writer of a session at a time, among the threads of this process
        self._pasts = _Pasts()
        self._mine = threading.local()  # what this thread read last: by those message ids its commit goes on
        self._store_id = store_id
        self.name = type(storage).__name__
        self.clock = getattr(storage, "clock", SYSTEM_CLOCK)
        self._ttl = checked_ttl(getattr(storage, "ttl", None))
        self._touches = _Touches(self.clock)

    @property
    def store_id(self) -> str:
        """See `RecordStorage`; lives as long as the storage object."""
        return self._store_id

    @contextmanager
    def lock(self, session_id: str, timeout: float) -> Iterator[None]:
        """See `SessionLocks`."""
        began = real_monotonic()
        entry = self._locks.acquire(session_id, timeout)
        if entry is None:
            raise LockTimeout(session_id, timeout)
        try:
            if has_locks(self._storage):
                with self._storage.lock(session_id, max(0.0, timeout - (real_monotonic() - began))):
                    yield
            else:
                yield
        finally:
            self._locks.release(session_id, entry)

    def read(self, session_id: str, known: Stamp | None = None) -> Record | None:
        """See `RecordStorage`; always the whole record."""
        state = self._load(session_id, known.messages if isinstance(known, _Seen) else None)
        if state is None:
            return None
        ops = self._pasts.ops(state.head)
        self._mine.read = session_id, state.messages
        return Record(encode_head(state.head), [m.line for m in state.messages], ops, _Seen(state.messages))

    def _load(self, session_id: str, known: Messages | None) -> State | None:
        try:
            session = self._storage.load_session(session_id)
            state = None if session is None else session.snapshot()._state()
        except StorageError:
            raise
        except Exception as error:
            raise self._unavailable("load", session_id, error) from error
        if state is None or known is None:
            return state
        return State(state.head, Messages.of(align(known, list(state.messages))))

    def commit(self, commit: Commit) -> Stamp:
        """See `RecordStorage`. Compares with what is there now, for this storage cannot do it itself.

        What the holder of the lock read before it would save a load, and cannot be kept: readers without the lock read
        too, and a late one brings an older state.
        """
        session_id, change = commit.session_id, commit.change
        read, messages = getattr(self._mine, "read", ("", None))
        before = self._load(session_id, messages if read == session_id else None)
        there = None if before is None else (before.head.birth, before.head.revision)
        if there != commit.expected:
            raise RevisionConflict(session_id, commit.expected, there)
        head = patch_json({} if before is None else encode_head(before.head), change.head)
        head["revision"] = change.revision
        kept = () if before is None else before.messages[: change.keep]
        state = State(decode_head(head), Messages.of([*kept, *map(Message.from_line, change.add)]))
        ops = () if before is None else self._pasts.ops(before.head)
        self._pasts.tried(None if before is None else before.head, state.head, change.op)
        self._save(state)
        self._pasts.committed(state.head, (*ops, change.op))
        if self._ttl is not None:
            self._touches.renew(session_id)
        return _Seen(state.messages)

    def _save(self, state: State) -> None:
        try:
            self._storage.save_session(Session._of(state, Origin()))
        except StorageError:
            raise
        except Exception as error:
            raise self._unavailable("save", state.head.id, error, outcome="unknown") from error

    def delete_record(self, session_id: str) -> bool:
        """See `RecordStorage`."""
        return self._removed(session_id)

    def _removed(self, session_id: str, *, expired: str | None = None) -> bool:
        """`expired`: the birth of a session that goes because its time ran out."""
        try:
            was_there = bool(self._storage.delete_session(session_id))
        except StorageError:
            raise
        except Exception as error:
            raise self._unavailable("delete", session_id, error, outcome="unknown") from error
        self._touches.forget(session_id)
        if was_there:
            self._pasts.bury(session_id, expired=expired)
        return was_there

    def exists(self, session_id: str) -> bool:
        """See `RecordStorage`; by loading it."""
        state = self._load(session_id, None)
        return state is not None and (self._ttl is None or self._left(encode_head(state.head)) > NONE_LEFT)

    def was_deleted(self, session_id: str, birth: str) -> bool:
        """See `RecordStorage`; as far as this process deleted it, for the storage remembers nothing of what is gone."""
        return self._pasts.is_buried(session_id, birth)

    def heads(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Not to be had from three methods; a storage may have a fourth one for it."""
        heads = self._heads()
        if self._ttl is None:
            return heads
        return ((head, count) for head, count in heads if self._left(head) > NONE_LEFT)

    def _heads(self) -> Iterator[tuple[dict[str, Any], int]]:
        heads: Callable[[], Iterator[tuple[dict[str, Any], int]]] | None = getattr(self._storage, "heads", None)
        if heads is not None:
            return self._translated(heads)
        raise StorageUnavailable("list", reason=f"{self.name} cannot list its sessions; give it a `heads` method")

    def _translated(self, heads: Callable[[], Iterator[tuple[dict[str, Any], int]]]) -> Iterator[tuple[dict[str, Any], int]]:
        try:
            yield from heads()
        except StorageError:
            raise
        except Exception as error:
            raise StorageUnavailable("list", reason=f"{type(error).__name__}: {error}") from error

    # -- time to live --------------------------------------------------------------------------------------------

    @property
    def ttl(self) -> timedelta | None:
        """The storage's `ttl`, where it has one."""
        return self._ttl

    def expire_after(self, ttl: timedelta) -> None:
        """See `LateExpiry`."""
        self._ttl = later_ttl(self._ttl, ttl)

    def _left(self, head: dict[str, Any]) -> timedelta:
        idle = self._touches.idle(head["id"], from_text(head["updated_at"]))
        assert self._ttl is not None
        assert idle is not None
        return left_of(self._ttl, idle, head)

    def time_left(self, session_id: str) -> timedelta | None:
        """See `Expiry`; loads the session where this process has not heard of it for as long."""
        if self._ttl is None:
            return None
        idle = self._touches.idle(session_id)
        if idle is not None and idle < self._ttl:
            return left_of(self._ttl, idle)
        state = self._load(session_id, None)
        return None if state is None else self._left(encode_head(state.head))

    def touch(self, session_id: str) -> None:
        """See `Expiry`; other processes do not hear of it."""
        if self._load(session_id, None) is None:
            raise SessionNotFound(session_id)
        if self._ttl is not None:
            self._touches.renew(session_id)

    def expired(self) -> Iterator[str]:
        """See `Expiry`. Of a storage that cannot list: as far as this process was active in them."""
        if self._ttl is None:
            return iter(())
        if hasattr(self._storage, "heads"):
            return (head["id"] for head, _ in self._heads() if self._left(head) <= NONE_LEFT)
        ttl, idle = self._ttl, self._touches.idle
        return iter([name for name in self._touches.ids() if (since := idle(name)) is not None and since >= ttl])

    def purge_record(self, session_id: str) -> bool:
        """See `Expiry`; the caller holds the lock."""
        state = None if self._ttl is None else self._load(session_id, None)
        if state is None or self._left(encode_head(state.head)) > NONE_LEFT:
            return False
        return self._removed(session_id, expired=state.head.birth)

    def was_expired(self, session_id: str, birth: str | None = None) -> bool:
        """See `Expiry`; as far as this process purged it."""
        if not self._pasts.is_expired(session_id, birth):
            return False
        state = self._load(session_id, None)
        return state is None or (birth is not None and state.head.birth not in (birth, ""))

    def close(self) -> None:
        """Close what is below."""
        self._storage.close()

    def _unavailable(self, action: str, session_id: str, error: Exception, **facts: Any) -> SessionError:
        return StorageUnavailable(action, session_id=session_id, reason=f"{type(error).__name__}: {error}", **facts)
