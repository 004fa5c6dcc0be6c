"""One layer above the last one: a storage that holds copies, and may lose, miss or spoil any of them at any time.

Nothing it holds is believed on its own word. A copy is served only where it is, to the mark, the state that this process
last learned from the last layer (`Known`). So whatever happens to a layer (it missed a commit, was down during a delete,
was restored from yesterday, evicts, is written by another process) costs a look at the last layer and shows nobody a
wrong state. What is done here, on top of that, is thrift: a layer that fails rests a while before it is asked again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, TypeVar

import attrs
import structlog

from bamboo_sessions._locks import _after_fork
from bamboo_sessions.clock import Clock
from bamboo_sessions.errors import CapacityExceeded, CorruptSession, LockTimeout, RevisionConflict
from bamboo_sessions.ids import new_token
from bamboo_sessions.storages.layers_known import Known
from bamboo_sessions.storages.protocol import Change, Commit, Record, RecordStorage, has_locks

Made = TypeVar("Made")

_log = structlog.get_logger("bamboo_sessions")

_PATIENCE: Final = 1.0
"""Seconds that a write waits for a layer's own lock; a fill, which is in a reader's way, waits for nobody."""
_FIRST_REST, _LONGEST_REST = 0.1, 5.0
"""Seconds that a layer is left alone after its second failure in a row, doubled with each further one, and at most."""


@attrs.frozen
class LayerStats:
    """What became of one layer above the last one."""

    name: str
    """The storage's own."""
    stale: bool
    """Its last call failed. It serves nothing until one succeeds, and then only what the last layer confirmed."""
    failures: int
    """Calls that failed since the layers were put together."""
    last_error: str
    """What the newest of them said; empty where there was none."""


class LayerAbove:
    """A storage with copies. No method raises what the storage raises: a failure is logged, counted, and an answer of
    "not here"."""

    def __init__(self, storage: RecordStorage, number: int, clock: Clock) -> None:
        self.storage, self.number = storage, number
        self._clock = clock
        self._forked()
        _after_fork(self)
        self._failures, self._in_a_row, self._last_error = 0, 0, ""
        self._rests_until = 0.0
        self._read = storage.read

    def _forked(self) -> None:
        self._lock = threading.Lock()  # guards how it fails and rests, not the storage

    def stats(self) -> LayerStats:
        with self._lock:
            return LayerStats(self.storage.name, self._in_a_row > 0, self._failures, self._last_error)

    # -- reading -------------------------------------------------------------------------------------------------

    def copy_of(self, session_id: str, known: Known) -> Record | None:
        """Its copy, where that is exactly the known state; then with what is known of its past, and the last layer's stamp."""
        if self._in_a_row:
            record = self._tried("read", session_id, lambda: self._read(session_id))
        else:
            try:  # the way of every hit: `_tried` would cost a tenth of it
                record = self._read(session_id)
            except Exception as error:  # noqa: BLE001 - see `_tried`
                self._failed("read", session_id, error)
                return None
        if not isinstance(record, Record) or not known.is_it(record.head):
            return None
        return Record(record.head, record.messages, known.ops, known.stamp)

    def anything(self, session_id: str) -> Record | None:
        """Whatever it holds, confirmed or not."""
        answer = self._tried("read", session_id, lambda: self.storage.read(session_id))
        return answer if isinstance(answer, Record) else None

    # -- writing -------------------------------------------------------------------------------------------------

    def take(self, record: Record, known: Known, is_fresh: Callable[[], bool], *, patience: float = 0.0) -> bool:
        """Hold a copy of this state, whatever is held now; whether it does. Not, where `is_fresh` says that somebody else
        settled what belongs there, or that is newer."""
        session_id = str(record.head["id"])
        return bool(self._tried("fill", session_id, lambda: self._take(session_id, record, known, is_fresh, patience)))

    def _take(self, session_id: str, record: Record, known: Known, is_fresh: Callable[[], bool], patience: float) -> bool:
        with self._locked(session_id, patience):
            held = self._held(session_id)
            if held is not None and known.is_it(held):
                return True
            if held is not None and not (held.get("birth") and held.get("revision")):
                raise ValueError("keeps no births and revisions: its copies cannot be told apart")
            if not is_fresh():
                return False
            if held is not None and not _is_earlier(held, known):
                self.storage.delete_record(session_id)  # another life, or a future that the last layer never had
                held = None
            self.storage.commit(_whole(session_id, held, record, known))
            return True

    def _held(self, session_id: str) -> dict[str, Any] | None:
        """The head of its copy. A damaged one is cleared away: it is a copy, and kept the others from being served."""
        try:
            there = self.storage.read(session_id)
        except CorruptSession as error:
            _log.warning("a damaged copy is removed from a layer", layer=self.storage.name, session_id=session_id, error=str(error))
            self.storage.delete_record(session_id)
            return None
        return there.head if isinstance(there, Record) else None

    def follow(self, session_id: str, before: Known, changes: Sequence[Change]) -> bool:
        """Do what the last layer did, on a copy of the state before; whether it was done. The storage compares itself."""
        return bool(self._tried("commit", session_id, lambda: self._follow(session_id, before, changes)))

    def _follow(self, session_id: str, before: Known, changes: Sequence[Change]) -> bool:
        expected = before.birth, before.revision
        with self._locked(session_id, _PATIENCE):
            for change in changes:
                self.storage.commit(Commit(session_id, expected, change))
                expected = change.head.get("set", {}).get("birth", expected[0]), change.revision
        return True

    def drop(self, session_id: str) -> bool:
        """Hold nothing of this session; False where that cannot be told."""
        return bool(self._tried("delete", session_id, lambda: self._drop(session_id)))

    def _drop(self, session_id: str) -> bool:
        if self._held(session_id) is not None:
            with self._locked(session_id, _PATIENCE):
                self.storage.delete_record(session_id)
        return True

    def _locked(self, session_id: str, patience: float) -> AbstractContextManager[None]:
        """Under the layer's own lock, where it has one. Whoever holds it waits for nothing, so the last layer's may be held."""
        return self.storage.lock(session_id, patience) if has_locks(self.storage) else nullcontext()

    def close(self) -> None:
        self._tried("close", "", self.storage.close, even_if_resting=True)

    # -- failing and healing -------------------------------------------------------------------------------------

    def _tried(self, action: str, session_id: str, do: Callable[[], Made], *, even_if_resting: bool = False) -> Made | None:
        """What `do` gives; None where the layer rests, refuses or fails.

        To be full, busy or overtaken is no failure: the copy is not there, and that is all. Everything else is, whatever
        its class: a copy is not worth an error in a call that the last layer has answered.
        """
        if self._in_a_row and not even_if_resting and self._clock.monotonic() < self._rests_until:
            return None
        try:
            made = do()
        except (CapacityExceeded, LockTimeout, RevisionConflict):
            return None
        except Exception as error:  # noqa: BLE001 - see above
            self._failed(action, session_id, error)
            return None
        if self._in_a_row:
            self._healed()
        return made

    def _failed(self, action: str, session_id: str, error: Exception) -> None:
        with self._lock:
            self._failures, self._in_a_row = self._failures + 1, self._in_a_row + 1
            self._last_error = f"{type(error).__name__}: {error}"
            if self._in_a_row > 1:
                rest = min(_LONGEST_REST, _FIRST_REST * 2.0 ** min(self._in_a_row - 2, 10))
                self._rests_until = self._clock.monotonic() + rest
        _log.warning("a layer failed, going on without it", layer=self.storage.name, action=action, session_id=session_id,
                     error=self._last_error)

    def _healed(self) -> None:
        with self._lock:
            self._in_a_row, self._rests_until = 0, 0.0
        _log.info("a layer answers again", layer=self.storage.name)


def _is_earlier(head: dict[str, Any], known: Known) -> bool:
    """Whether a stored head is of an earlier state of the same life: what a commit may replace."""
    return bool(head.get("birth") == known.birth and head.get("revision", 0) < known.revision)


def _whole(session_id: str, held: dict[str, Any] | None, record: Record, known: Known) -> Commit:
    """The commit that makes `record` of what is held; its operation id is that of the state, so that doing it twice is once."""
    new = {name: value for name, value in record.head.items() if name != "revision"}  # that one a storage writes itself
    head: dict[str, Any] = {"set": new}
    gone = [] if held is None else [name for name in held if name not in record.head]
    if gone:
        head["unset"] = gone
    change = Change(known.revision, known.ops[-1] if known.ops else new_token(), 0, list(record.messages), head)
    return Commit(session_id, None if held is None else (held["birth"], held["revision"]), change)
