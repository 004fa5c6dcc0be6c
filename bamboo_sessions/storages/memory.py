"""The reference storage: the shortest one that keeps every promise that needs no disk.

It lives as long as its process. What goes in and comes out is immutable or copied, so that a test which leans on shared
objects fails here first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, Final

import attrs

from bamboo_sessions.clock import SYSTEM_CLOCK, Clock
from bamboo_sessions.codec import check_usage, patch_json
from bamboo_sessions.errors import RevisionConflict, SessionNotFound
from bamboo_sessions.ids import new_birth
from bamboo_sessions.storages.protocol import OPS_KEPT, UNCHANGED, Change, Commit, Delta, Record, Stamp, Unchanged
from bamboo_sessions.storages.records import RecordBacked

_BURIED_KEPT: Final = 10_000


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


class MemoryStorage(RecordBacked):
    """Sessions in this process's memory; several repositories of one process may share it."""

    name = "memory"

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.clock = clock
        self._store_id = new_birth()
        self._kept: dict[str, _Kept] = {}
        self._buried: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._lock = threading.Lock()  # guards both: a commit compares and replaces in one step

    @property
    def store_id(self) -> str:
        """A random name, new with each object."""
        return self._store_id

    def read(self, session_id: str, known: Stamp | None = None) -> Record | Delta | Unchanged | None:
        """See `RecordStorage`."""
        with self._lock:
            kept = self._kept.get(session_id)
            if kept is None:
                return None
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
                return kept.stamp
            there = None if kept is None else (kept.stamp.birth, kept.stamp.revision)
            if there != commit.expected:
                raise RevisionConflict(commit.session_id, commit.expected, there)
            made = _applied(kept, _own(commit.change))
            self._kept[commit.session_id] = made
            return made.stamp

    def delete_record(self, session_id: str) -> bool:
        """See `RecordStorage`."""
        with self._lock:
            kept = self._kept.pop(session_id, None)
            if kept is None:
                return False
            self._buried[session_id, kept.stamp.birth] = None
            if len(self._buried) > _BURIED_KEPT:
                self._buried.popitem(last=False)
            return True

    def exists(self, session_id: str) -> bool:
        """See `RecordStorage`."""
        return session_id in self._kept

    def was_deleted(self, session_id: str, birth: str) -> bool:
        """See `RecordStorage`."""
        with self._lock:
            kept = self._kept.get(session_id)
            return (session_id, birth) in self._buried and (kept is None or kept.stamp.birth != birth)

    def heads(self) -> Iterator[tuple[dict[str, Any], int]]:
        """See `RecordStorage`."""
        with self._lock:
            heads = [(kept.head, len(kept.messages)) for kept in self._kept.values()]
        return ((deepcopy(head), count) for head, count in heads)  # a head that is kept is replaced, never modified

    def append_usage(self, session_id: str, line: bytes) -> None:
        """See `UsageLog`; kept in memory."""
        check_usage(line)
        with self._lock:
            if session_id not in self._kept:
                raise SessionNotFound(session_id)
            self._kept[session_id].usage.append(line)


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
