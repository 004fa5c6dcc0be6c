"""A memory storage that is stricter than reality: what another storage would forgive is an error here.

Where a test over it passes, the layers above keep to the contract: they commit only what follows what they read, hold
the lock while they write, touch nothing after `close`, share nothing that can change, and do no I/O while publishing.
A breach raises `Misuse`, which is no `SessionError`, so that nothing on the way takes it for a storage that failed.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from datetime import timedelta
from types import FrameType
from typing import Any, Final

from bamboo_sessions.clock import SYSTEM_CLOCK, Clock
from bamboo_sessions.errors import LockTimeout
from bamboo_sessions.filters import Filter
from bamboo_sessions.models import Session
from bamboo_sessions.models.hits import SearchPage
from bamboo_sessions.search import Query
from bamboo_sessions.storages.memory import MemoryStorage
from bamboo_sessions.storages.protocol import Change, Commit, Delta, Record, Stamp, Unchanged

_PUBLISHING: Final = frozenset({"committed", "deleted", "known", "purged"})


class Misuse(AssertionError):
    """The caller broke the contract of storages."""


class StrictStorage(MemoryStorage):
    """Commits are looked at before they are applied, and what goes in and out is copied to the bottom."""

    name = "strict"

    def __init__(self, *, ttl: timedelta | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(ttl=ttl, clock=clock)
        self._closed = False
        self._by_thread: dict[str, int] = {}  # session id -> who is writing it; one key is set and removed by one thread

    def read(self, session_id: str, known: Stamp | None = None) -> Record | Delta | Unchanged | None:
        """See `RecordStorage`."""
        self._look(session_id, "read")
        answer = super().read(session_id, known)
        return deepcopy(answer) if isinstance(answer, Record | Delta) else answer

    def commit(self, commit: Commit) -> Stamp:
        """See `RecordStorage`."""
        self._look(commit.session_id, "commit")
        with self._writing(commit.session_id):
            self._check(commit)
            return super().commit(deepcopy(commit))

    def delete_record(self, session_id: str) -> bool:
        """See `RecordStorage`."""
        self._look(session_id, "delete")
        with self._writing(session_id):
            return super().delete_record(session_id)

    def time_left(self, session_id: str) -> timedelta | None:
        """See `Expiry`."""
        self._look(session_id, "look up")
        return super().time_left(session_id)

    def touch(self, session_id: str) -> None:
        """See `Expiry`."""
        self._look(session_id, "touch")
        with self._writing(session_id):
            super().touch(session_id)

    def purge_record(self, session_id: str) -> bool:
        """See `Expiry`."""
        self._look(session_id, "purge")
        with self._writing(session_id):
            return super().purge_record(session_id)

    def exists(self, session_id: str) -> bool:
        """See `RecordStorage`."""
        self._look(session_id, "look up")
        return super().exists(session_id)

    def was_deleted(self, session_id: str, birth: str) -> bool:
        """See `RecordStorage`."""
        self._look(session_id, "look up")
        return super().was_deleted(session_id, birth)

    def heads(self) -> Iterator[tuple[dict[str, Any], int]]:
        """See `RecordStorage`."""
        self._look("", "list")
        return iter(deepcopy(list(super().heads())))

    def search(self, query: Query, wanted: Filter, limit: int, cursor: str | None = None) -> SearchPage:
        """See `Search`."""
        self._look("", "search")
        return super().search(query, wanted, limit, cursor)

    def append_usage(self, session_id: str, line: bytes) -> None:
        """See `UsageLog`."""
        self._look(session_id, "append usage")
        _only_bytes([line])
        super().append_usage(session_id, line)

    def read_usage(self, session_id: str, birth: str) -> Sequence[bytes]:
        """See `UsageReads`."""
        self._look(session_id, "read usage")
        return super().read_usage(session_id, birth)

    def add_usage(self, session_id: str, birth: str, lines: Sequence[bytes], after: int) -> bool:
        """See `UsageReads`."""
        self._look(session_id, "add usage")
        _only_bytes(lines)
        return super().add_usage(session_id, birth, lines, after)

    def close(self) -> None:
        """Nothing but `close` may follow."""
        self._closed = True

    # -- what is looked at ---------------------------------------------------------------------------------------

    def _look(self, session_id: str, action: str) -> None:
        if self._closed:
            raise Misuse(f"{action} of session {session_id!r} after close")
        publisher = _publisher_above(sys._getframe())
        if publisher is not None:
            raise Misuse(f"{action} of session {session_id!r} within {publisher}: no I/O while publishing")

    def _check(self, commit: Commit) -> None:
        change, kept = commit.change, self._kept.get(commit.session_id)
        _only_bytes(change.add)
        for line in change.add:
            if b"\n" in line or not isinstance(json.loads(line), dict):
                raise Misuse(f"a message is one JSON object on one line, not {line!r}")
        _only_json(change.head)
        if kept is None or kept.stamp.op == change.op:
            return
        there = kept.stamp.birth, kept.stamp.revision
        if there == commit.expected:
            self._check_step(change, len(kept.messages), kept.stamp.revision, kept.ops)

    def _check_step(self, change: Change, length: int, revision: int, ops: tuple[str, ...]) -> None:
        if not 0 <= change.keep <= length:
            raise Misuse(f"keep {change.keep} of {length} messages")
        if change.revision <= revision:
            raise Misuse(f"revision {change.revision} after {revision}")
        if change.op in ops:
            raise Misuse(f"operation id {change.op!r} a second time")

    @contextmanager
    def _writing(self, session_id: str) -> Iterator[None]:
        """Without a lock, writers may meet; see the subclass."""
        yield


class StrictLockingStorage(StrictStorage):
    """The same with a lock, which has to be held by whoever writes.

    The three plain methods take it themselves. The lock belongs to the `with`, not to a thread: others may write within.
    """

    def __init__(self, *, ttl: timedelta | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(ttl=ttl, clock=clock)
        self._locks: dict[str, threading.Lock] = {}  # as many as ids were locked: a double need not be thrifty
        self._held: set[str] = set()

    @contextmanager
    def lock(self, session_id: str, timeout: float) -> Iterator[None]:
        """See `SessionLocks`."""
        self._look(session_id, "lock")
        lock = self._locks.setdefault(session_id, threading.Lock())
        if not lock.acquire(timeout=max(0.0, timeout)):
            raise LockTimeout(session_id, timeout)
        self._held.add(session_id)
        try:
            yield
        finally:
            self._held.discard(session_id)
            lock.release()

    @contextmanager
    def _writing(self, session_id: str) -> Iterator[None]:
        if session_id not in self._held:
            raise Misuse(f"session {session_id!r} is written without its lock")
        if self._by_thread.setdefault(session_id, threading.get_ident()) != threading.get_ident():
            raise Misuse(f"two threads write session {session_id!r} at a time")
        try:
            yield
        finally:
            self._by_thread.pop(session_id, None)

    def save_session(self, session: Session) -> None:
        """See `RecordBacked`."""
        with self.lock(session.id, 30.0):
            super().save_session(session)

    def delete_session(self, session_id: str) -> bool:
        """See `RecordBacked`."""
        with self.lock(session_id, 30.0):
            return super().delete_session(session_id)


def _publisher_above(frame: FrameType | None) -> str | None:
    """The publisher in whose `committed`, `deleted`, `purged` or `known` this call is made, if any."""
    while frame is not None:
        if frame.f_code.co_name in _PUBLISHING:
            owner = frame.f_locals.get("self")
            if all(hasattr(owner, name) for name in _PUBLISHING):
                return f"{type(owner).__name__}.{frame.f_code.co_name}"
        frame = frame.f_back
    return None


def _only_bytes(lines: Any) -> None:
    for line in lines:
        if type(line) is not bytes:
            raise Misuse(f"a line is bytes, which cannot change; not {type(line).__name__}")


def _only_json(head: Any) -> None:
    try:
        if json.loads(json.dumps(head)) == head:
            return
    except (TypeError, ValueError) as error:
        raise Misuse(f"a head change is plain JSON: {error}") from error
    raise Misuse("a head change is plain JSON, and this one is not what JSON makes of it")
