"""The reference storage: the shortest one that keeps every promise that needs no disk.

It lives as long as its process. What goes in and comes out is immutable or copied, so that a test which leans on shared
objects fails here first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeVar

import attrs

from bamboo_sessions._locks import _after_fork
from bamboo_sessions.clock import SYSTEM_CLOCK, Clock
from bamboo_sessions.codec import check_usage, patch_json
from bamboo_sessions.errors import CapacityExceeded, RevisionConflict, SessionNotFound
from bamboo_sessions.filters import Filter
from bamboo_sessions.ids import new_birth
from bamboo_sessions.models.hits import SearchPage
from bamboo_sessions.search import Query, page
from bamboo_sessions.storages.expiry import NONE_LEFT, checked_ttl, later_ttl, left_of
from bamboo_sessions.storages.protocol import OPS_KEPT, UNCHANGED, Change, Commit, Delta, Record, Stamp, Unchanged
from bamboo_sessions.storages.records import RecordBacked, leave_out

_BURIED_KEPT: Final = 10_000
_Key = TypeVar("_Key")
_Fact = TypeVar("_Fact")


@attrs.frozen(slots=True)
class _Stamp:
    birth: str
    revision: int
    op: str


@attrs.define(slots=True)
class _Kept:
    head: dict[str, Any]
    messages: list[bytes]
    stamp: _Stamp
    ops: tuple[str, ...]
    recent: deque[Change] = attrs.field(factory=lambda: deque(maxlen=OPS_KEPT))
    usage: list[bytes] = attrs.field(factory=list)
    active: datetime | None = None
    """When it was last active; kept where there is a time to live."""


class MemoryStorage(RecordBacked):
    """Sessions in this process's memory; several repositories of one process may share it.

    `capacity`: how many it takes; one more raises `CapacityExceeded`, or with `evict="lru"` takes the place of the one that
    was longest neither read nor committed nor touched. An evicted session is not a deleted one: whoever holds a copy can
    save it, as if for the first time. `ttl`: how long a session is kept after its last activity (see `Expiry`); one whose
    time ran out makes room before any other.
    """

    name = "memory"

    def __init__(self, capacity: int | None = None, ttl: timedelta | None = None, evict: Literal["lru"] | None = None, *,
                 clock: Clock = SYSTEM_CLOCK) -> None:
        if capacity is not None and capacity < 1:
            raise ValueError(f"capacity must be positive, not {capacity}")
        if evict not in (None, "lru") or (evict is not None and capacity is None):
            raise ValueError(f"evict is None, or 'lru' where there is a capacity; not {evict!r}")
        self.clock, self.capacity, self._ttl = clock, capacity, checked_ttl(ttl)
        self.evicts = evict is not None
        self._store_id = new_birth()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        """By use where it evicts, the longest unused first."""
        self._buried: OrderedDict[tuple[str, str], bool] = OrderedDict()
        """(id, birth): whether it had expired; the last one to go comes last."""
        self._evicted: OrderedDict[str, str] = OrderedDict()
        """Births of those that made room, by id: who deletes one of them means its copies as well."""
        self._forked()
        _after_fork(self)

    def _forked(self) -> None:
        self._lock = threading.Lock()  # guards all three: a commit compares and replaces in one step

    @property
    def store_id(self) -> str:
        """A random name, new with each object."""
        return self._store_id

    @property
    def ttl(self) -> timedelta | None:
        """See `Expiry`."""
        return self._ttl

    def expire_after(self, ttl: timedelta) -> None:
        """See `LateExpiry`; the time of what is there begins now."""
        with self._lock:
            self._ttl = later_ttl(self._ttl, ttl)
            for kept in self._kept.values():
                self._renew(kept)

    def read(self, session_id: str, known: Stamp | None = None) -> Record | Delta | Unchanged | None:
        """See `RecordStorage`."""
        with self._lock:
            kept = self._kept.get(session_id)
            if kept is None:
                return None
            self._used(session_id)
            if kept.stamp == known:
                return UNCHANGED
            since = _since(kept, known)
            if since is not None:
                return Delta([_own(change) for change in since], kept.stamp)
            return Record(deepcopy(kept.head), tuple(kept.messages), kept.ops, kept.stamp)

    def commit(self, commit: Commit) -> Stamp:
        """See `RecordStorage`."""
        with self._lock:
            kept = self._kept.get(commit.session_id)
            if kept is not None and kept.stamp.op == commit.change.op:
                self._renew(kept)
                return kept.stamp
            there = None if kept is None else (kept.stamp.birth, kept.stamp.revision)
            if there != commit.expected or (commit.anew and self._is_buried(commit)):
                raise RevisionConflict(commit.session_id, commit.expected, there)
            if kept is None:
                self._make_room(commit.session_id)
            made = self._kept[commit.session_id] = _applied(kept, _own(commit.change))
            self._renew(made)
            self._used(commit.session_id)
            return made.stamp

    def _is_buried(self, commit: Commit) -> bool:
        return (commit.session_id, commit.change.head.get("set", {}).get("birth")) in self._buried

    def _used(self, session_id: str) -> None:
        if self.evicts:
            self._kept.move_to_end(session_id)

    def _make_room(self, session_id: str) -> None:
        """For one more. What nobody sees any more goes first; whoever holds a copy of that is told that it expired."""
        if self.capacity is None or len(self._kept) < self.capacity:
            return
        for gone in [name for name, kept in self._kept.items() if self._has_expired(kept)]:
            self._bury(gone, expired=True)
        while self.evicts and len(self._kept) >= self.capacity:
            name, kept = self._kept.popitem(last=False)
            _noted(self._evicted, name, kept.stamp.birth)
        if len(self._kept) >= self.capacity:
            raise CapacityExceeded(session_id, self.capacity)

    def delete_record(self, session_id: str) -> bool:
        """See `RecordStorage`."""
        with self._lock:
            evicted = self._evicted.pop(session_id, None)
            if evicted is not None:
                _noted(self._buried, (session_id, evicted), False)
            return self._bury(session_id, expired=False)

    def _bury(self, session_id: str, *, expired: bool) -> bool:
        kept = self._kept.pop(session_id, None)
        if kept is None:
            return False
        _noted(self._buried, (session_id, kept.stamp.birth), expired)
        return True

    def exists(self, session_id: str) -> bool:
        """See `RecordStorage`."""
        kept = self._kept.get(session_id)
        return kept is not None and not self._has_expired(kept)

    def was_deleted(self, session_id: str, birth: str) -> bool:
        """See `RecordStorage`."""
        with self._lock:
            kept = self._kept.get(session_id)
            return (session_id, birth) in self._buried and (kept is None or kept.stamp.birth != birth)

    def heads(self) -> Iterator[tuple[dict[str, Any], int]]:
        """See `RecordStorage`."""
        with self._lock:
            heads = [(kept.head, len(kept.messages)) for kept in self._kept.values() if not self._has_expired(kept)]
        return ((deepcopy(head), count) for head, count in heads)  # a head that is kept is replaced, never modified

    def search(self, query: Query, wanted: Filter, limit: int, cursor: str | None = None) -> SearchPage:
        """See `Search`: by a look at everything."""
        with self._lock:
            there = [(kept.head, tuple(kept.messages)) for kept in self._kept.values() if not self._has_expired(kept)]
        return page(there, query, wanted, limit, cursor, leave_out)

    def append_usage(self, session_id: str, line: bytes) -> None:
        """See `UsageLog`; kept in memory."""
        check_usage(line)
        with self._lock:
            if session_id not in self._kept:
                raise SessionNotFound(session_id)
            self._kept[session_id].usage.append(line)

    def read_usage(self, session_id: str, birth: str) -> Sequence[bytes]:
        """See `UsageReads`."""
        with self._lock:
            kept = self._kept.get(session_id)
            return () if kept is None or kept.stamp.birth != birth else tuple(kept.usage)

    def add_usage(self, session_id: str, birth: str, lines: Sequence[bytes], after: int) -> bool:
        """See `UsageReads`."""
        for line in lines:
            check_usage(line)
        with self._lock:
            kept = self._kept.get(session_id)
            if kept is None or kept.stamp.birth != birth or len(kept.usage) != after:
                return False
            kept.usage.extend(lines)
            return True

    # -- time to live --------------------------------------------------------------------------------------------

    def _renew(self, kept: _Kept) -> None:
        """A clock that jumped back must not make a session older than it was."""
        if self._ttl is not None:
            now = self.clock.now()
            kept.active = now if kept.active is None else max(kept.active, now)

    def _left(self, kept: _Kept) -> timedelta:
        if self._ttl is None or kept.active is None:
            return timedelta.max
        return left_of(self._ttl, self.clock.now() - kept.active, kept.head)

    def _has_expired(self, kept: _Kept) -> bool:
        return self._ttl is not None and self._left(kept) <= NONE_LEFT

    def time_left(self, session_id: str) -> timedelta | None:
        """See `Expiry`."""
        with self._lock:
            kept = self._kept.get(session_id)
            return None if kept is None or self._ttl is None else self._left(kept)

    def touch(self, session_id: str) -> None:
        """See `Expiry`; a touched session is also one that was used."""
        with self._lock:
            kept = self._kept.get(session_id)
            if kept is None:
                raise SessionNotFound(session_id)
            self._renew(kept)
            self._used(session_id)

    def expired(self) -> Iterator[str]:
        """See `Expiry`."""
        with self._lock:
            return iter([name for name, kept in self._kept.items() if self._has_expired(kept)])

    def purge_record(self, session_id: str) -> bool:
        """See `Expiry`."""
        with self._lock:
            kept = self._kept.get(session_id)
            return kept is not None and self._has_expired(kept) and self._bury(session_id, expired=True)

    def was_expired(self, session_id: str, birth: str | None = None) -> bool:
        """See `Expiry`."""
        with self._lock:
            kept = self._kept.get(session_id)
            if kept is not None and birth in (None, kept.stamp.birth):
                return False
            if birth is not None:
                return self._buried.get((session_id, birth), False)
            return next((expired for (name, _), expired in reversed(self._buried.items()) if name == session_id), False)


def _noted(table: OrderedDict[_Key, _Fact], key: _Key, fact: _Fact) -> None:
    """As the newest entry of a table that is bounded."""
    table.pop(key, None)
    table[key] = fact
    if len(table) > _BURIED_KEPT:
        table.popitem(last=False)


def _own(change: Change) -> Change:
    """Nothing in it is shared with whoever handed it in or is given it."""
    return Change(change.revision, change.op, change.keep, tuple(change.add), deepcopy(change.head))


def _since(kept: _Kept, known: Stamp | None) -> list[Change] | None:
    """The changes after the state that `known` marks, where they are still remembered."""
    if not isinstance(known, _Stamp) or known.birth != kept.stamp.birth or known.op not in kept.ops:
        return None
    changes = [change for change in kept.recent if change.revision > known.revision]
    return changes if len(changes) == kept.stamp.revision - known.revision else None


def _applied(kept: _Kept | None, change: Change) -> _Kept:
    head = patch_json({} if kept is None else kept.head, change.head)
    head["revision"] = change.revision
    stamp = _Stamp(head["birth"], change.revision, change.op)
    if kept is None:
        return _Kept(head, list(change.add), stamp, (change.op,))
    if stamp.birth != kept.stamp.birth:
        kept.recent.clear()
    kept.messages[change.keep :] = change.add  # in place: a turn must not cost what the conversation is long
    kept.recent.append(change)
    kept.head, kept.stamp, kept.ops = head, stamp, (*kept.ops, change.op)[-OPS_KEPT:]
    return kept
