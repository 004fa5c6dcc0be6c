"""How somebody's storage is opened, what it claims, and how a test looks behind its back.

A storage's author fills a `StorageHarness`: one method that opens the storage at a place, and the set of powers it
claims. Which contracts apply follows from the claim alone, never from the storage's name; a power that is claimed and
missing, or there and not claimed, is a failure of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self, TypeVar, cast

from bamboo_sessions.cache import SessionCache
from bamboo_sessions.clock import SYSTEM_CLOCK, Clock
from bamboo_sessions.locked_store import LockedSessionStore
from bamboo_sessions.models import Session
from bamboo_sessions.repository import SessionRepository
from bamboo_sessions.storages.protocol import Expiry, RecordStorage, Storage, has_expiry, keeps_records
from bamboo_sessions.testing.wrappers import Wrapping

Test = TypeVar("Test", bound=Callable[..., Any] | type[Any])


class Power(StrEnum):
    """What a storage may claim beyond its three methods."""

    ALONE = "alone"
    """`alone(id)`: room for a writer whom others overtake; they wait. Needs `RECORDS`, and is of use without `LOCKS`."""
    EXPIRY = "expiry"
    """`Expiry`: sessions whose time runs out, for a storage opened with a `ttl`. Needs `RECORDS` and `open_expiring`."""
    HELD_READS = "held reads"
    """`read_held(id, known)`: a cheaper read for whoever holds the lock. Needs `RECORDS` and `LOCKS`."""
    IDENTITY = "identity"
    """Sessions come back with their birth, with a revision not below the one saved, and with their message ids."""
    LIKELY_STAMPS = "likely stamps"
    """`is_likely(id, stamp)`: a guess whether a save may do without a look. Needs `RECORDS`, and is of use without `LOCKS`."""
    LISTING = "listing"
    """`heads()`: every session's head, so that `repo.list` works. Part of `RECORDS`."""
    LOCKS = "locks"
    """`lock(id, timeout)`: writers exclude one another; across processes where `PROCESSES` is claimed."""
    PLAIN_READS = "plain reads"
    """`read_plain(id)`: a shorter way for plain loads. Needs `RECORDS`."""
    PROCESSES = "processes"
    """Writers of several processes are safe. Needs `REOPEN`, and `RECORDS` or `LOCKS`."""
    RECORDS = "records"
    """The delta interface: `read`, `commit`, `delete_record`, `exists`, `was_deleted`, `heads`, `store_id`, `name`."""
    REOPEN = "reopen"
    """What is stored outlives the object: a second one, opened at the same place, has it."""
    SEARCH = "search"
    """`search(query, wanted, limit, cursor)`: sessions found by words. Needs `RECORDS`."""
    STAMPS = "stamps"
    """`is_current(stamp)`: that nothing has changed, told at a glance. Needs `RECORDS`."""
    USAGE = "usage"
    """`append_usage(id, line)`: a log of token usage beside the session."""
    USAGE_READS = "usage reads"
    """`read_usage(id, birth)` and `add_usage(id, birth, lines, after)`: that log read back. Needs `RECORDS` and `USAGE`."""


class StorageHarness:
    """What the suite has to know about a storage. Subclass it at the top level of a module: where the storage claims
    `PROCESSES`, other processes import it from there.

    `open` is all that is needed. The methods below it are the back door; without them the contracts that look behind
    the storage's back are skipped, and say so.
    """

    powers: frozenset[Power] = frozenset()
    writers: int = 4
    """Who writes at the same time in a race."""
    turns: int = 8
    """How often each of them does."""
    examples: int = 8
    """Runs of each state machine; the variable BAMBOO_SESSIONS_EXAMPLES overrides it (and then each run differs)."""
    steps: int = 25
    """Steps of one run."""
    shrinks: bool = True
    """Whether a failed run is made as short as it gets before it is shown; that takes its time."""
    commits_under_lock: bool = False
    """The storage relies on its caller's lock: the suite takes it around every commit and deletion. (Where this is False
    and there are locks, `commit` has to be safe without them: the lock is for thrift, the expected state decides.)"""

    def open(self, place: Path) -> Storage:
        """A new storage object for what is kept at `place`: a folder of the test's own, or a name for one elsewhere
        (`place.name` is fresh for each test). Called again with the same place wherever `REOPEN` is claimed."""
        raise NotImplementedError(f"{type(self).__name__} has to say how to open its storage")

    def open_expiring(self, place: Path, ttl: timedelta, clock: Clock) -> Storage:
        """The same, with sessions that expire after `ttl` without activity, by this clock; where `EXPIRY` is claimed."""
        raise NotImplementedError(f"{type(self).__name__} has to say how to open a storage whose sessions expire")

    def open_beside(self, place: Path) -> Storage:
        """A storage for the sessions of somebody else who is kept at the same place, such as in another namespace."""
        raise NotImplementedError

    def peek(self, storage: Storage, place: Path, session_id: str) -> bytes | None:
        """What is stored for this session, as bytes of any form that change when it does; None where nothing is."""
        raise NotImplementedError

    def damage(self, storage: Storage, place: Path, session_id: str) -> None:
        """Make what is stored for this session unreadable, as a bad disk or a foreign hand would."""
        raise NotImplementedError

    def usage_lines(self, storage: Storage, place: Path, session_id: str) -> list[bytes]:
        """The session's usage log, without line breaks, oldest first."""
        raise NotImplementedError

    def has_back_door(self, name: str) -> bool:
        """Whether that method was filled in."""
        return getattr(type(self), name) is not getattr(StorageHarness, name)


class Desk:
    """What one test works on: a place, the storages that it opens there, and repositories over them."""

    def __init__(self, harness: StorageHarness, place: Path) -> None:
        self.harness, self.place = harness, place
        self._opened = ExitStack()

    def has(self, *powers: Power) -> bool:
        """Whether the harness claims all of these."""
        return self.harness.powers.issuperset(powers)

    def open(self) -> Storage:
        """A storage object at the place; closed at the end of the test."""
        storage = self.harness.open(self.place)
        self._opened.callback(storage.close)
        return storage

    def open_expiring(self, ttl: timedelta, clock: Clock) -> Storage:
        """Another one there, whose sessions expire; closed at the end of the test."""
        storage = self.harness.open_expiring(self.place, ttl, clock)
        self._opened.callback(storage.close)
        return storage

    @cached_property
    def storage(self) -> Storage:
        """The first object, opened when somebody asks."""
        return self.open()

    @property
    def records(self) -> RecordStorage:
        """The same, as one that keeps records."""
        storage = self.storage
        return self.as_records(storage)

    def as_records(self, storage: object) -> RecordStorage:
        """A storage that was opened here, as one whose commits may be called as they are."""
        assert keeps_records(storage), f"{type(storage).__name__} claims records and lacks methods of RecordStorage"
        return UnderLock(storage) if self.harness.commits_under_lock else storage

    def as_expiry(self, storage: object) -> Expiry:
        """A storage that was opened here, as one whose sessions may be touched and purged by a plain call."""
        assert has_expiry(storage), f"{type(storage).__name__} claims expiry and lacks methods of Expiry"
        return UnderLock(storage) if self.harness.commits_under_lock else storage

    def another(self) -> Storage:
        """A second writer's storage: an object of its own where writers in other processes are safe, else the same."""
        return self.open() if self.has(Power.PROCESSES) else self.storage

    def repository(self, storage: object = None, clock: Clock = SYSTEM_CLOCK) -> SessionRepository:
        """A repository with a cache of its own, on `another()` unless told otherwise."""
        under = self.another() if storage is None else cast("Storage", storage)
        return SessionRepository(SessionCache(clock=clock), under, LockedSessionStore(under, clock=clock), clock=clock)

    def newest(self, session_id: str) -> Session | None:
        """What a newcomer sees, whose cache is empty."""
        return self.repository().try_load(session_id)

    def peek(self, session_id: str) -> bytes | None:
        """The harness's, of the first storage."""
        return self.harness.peek(self.storage, self.place, session_id)

    def close(self) -> None:
        """Close every storage that was opened."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class UnderLock(Wrapping):
    """Takes the lock of what it stands around for every change."""

    def _call(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        if name not in ("commit", "delete_record", "purge_record", "touch"):
            return call(*args)
        with self.inner.lock(args[0] if isinstance(args[0], str) else args[0].session_id, 30.0):
            return call(*args)


_MARK: Final = "_contract_applies"


def needs(*powers: Power, without: Power | None = None) -> Callable[[Test], Test]:
    """The contract applies to storages that claim all of `powers`, and do not claim `without`."""

    def mark(test: Test) -> Test:
        setattr(test, _MARK, (frozenset(powers), frozenset() if without is None else frozenset([without])))
        return test

    return mark


def applies(test: object, powers: frozenset[Power]) -> bool:
    """Whether a test, or a class of tests, applies to a storage that claims `powers`."""
    needed, without = getattr(test, _MARK, (frozenset(), frozenset()))
    return bool(needed <= powers and not without & powers)
