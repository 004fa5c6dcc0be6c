"""Storages in layers: fast ones with copies above a last one that holds the truth.

Whatever has to be right asks the last layer: conditional reads, commits, deletions, existence, lists, locks. Only plain
loads may be answered further up, with a state that this process has learned from the last layer and has seen nothing
newer than; see `layers_known` for why that needs no trust in the layers. What was learned is one small entry a session in
a table of bounded size. Who forgets an entry asks the last layer again, so the bound costs time and never a wrong answer.

Every write goes to the last layer first. Until that has it, nothing above may show it; once that has it, a crash before
the layers above have it leaves copies that nobody will believe.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, Final, TypeVar

import attrs
import structlog

from bamboo_sessions._lifetimes import Lifetimes, lifetimes_of
from bamboo_sessions._locks import _after_fork
from bamboo_sessions.clock import SYSTEM_CLOCK, Clock
from bamboo_sessions.errors import StorageUnavailable
from bamboo_sessions.ids import check_session_id
from bamboo_sessions.models import Session, SessionPage
from bamboo_sessions.models.findings import Finding, Repair
from bamboo_sessions.models.hits import SearchPage
from bamboo_sessions.storages.adapted import as_records
from bamboo_sessions.storages.layers_above import LayerAbove, LayerStats
from bamboo_sessions.storages.layers_copies import Copies
from bamboo_sessions.storages.layers_known import Knowledge, Known, OfNoState
from bamboo_sessions.storages.protocol import (
    Commit,
    Head,
    LeftOut,
    Record,
    RecordStorage,
    Stamp,
    Storage,
    has_checks,
    has_expiry,
    has_late_expiry,
    has_locks,
    has_queries,
    has_search,
    has_telling_heads,
    has_usage_log,
    has_usage_reads,
    keeps_records,
)
from bamboo_sessions.storages.records import Answer, RecordBacked
from bamboo_sessions.storages.shortcuts import has_current_stamps, has_held_reads, has_likely_stamps, makes_room

_log = structlog.get_logger("bamboo_sessions")
Made = TypeVar("Made")


_OWN_WAIT: Final = 30.0
"""Seconds that a plain save waits for the last layer's lock."""


@attrs.frozen
class LayeredStats:
    """How the layers are."""

    degraded: bool
    """The last layer did not answer its last call: plain loads go on with copies, everything else raises."""
    layers: tuple[LayerStats, ...]
    """Those above the last one, in order."""


class LayeredStorage(RecordBacked):
    """`LayeredStorage([fast, …, slow])`: plain loads from the first layer that has a good copy, all else by the last.

        storage = LayeredStorage([MemoryStorage(), JsonFileStorage("sessions/")])

    A layer is any storage, a three-method one too; the powers of the last one are those of the whole. A load that a lower
    layer answers fills those above. A layer above that fails is logged, counted, and does without until it answers again;
    see `stats`. `remembered`: of how many sessions it is remembered what the last layer last said; the others' next plain
    load asks it. `clock` times how long a failing layer is left alone.
    """

    def __init__(self, layers: Sequence[Storage | RecordStorage], *, remembered: int = 10_000,
                 clock: Clock = SYSTEM_CLOCK) -> None:
        if not layers:
            raise ValueError("a LayeredStorage needs at least one layer")
        *above, last = layers
        self.clock = clock
        self._last = as_records(last)
        self._times_of_last: Clock = getattr(self._last, "clock", clock)  # its sessions expire by that one
        self._above = tuple(LayerAbove(as_records(layer), number, clock) for number, layer in enumerate(above))
        self._known = Knowledge(remembered, clock)
        self._copies = Copies(self._above, self._known, keeps_records=keeps_records(last))
        self._lifetimes: Lifetimes | None = None
        self._degraded = False
        self._take_powers()
        self._forked()
        _after_fork(self)

    def _forked(self) -> None:
        self._turning = threading.Lock()  # guards `_degraded`: each turn of it is logged once

    def _take_powers(self) -> None:
        """What the last layer can do beside the contract, this can; what it cannot, there is no method for here."""
        last = self._last
        if has_locks(last):
            self.lock: Callable[[str, float], AbstractContextManager[None]] = last.lock
        if has_held_reads(last):
            self._read_held_of_last = last.read_held
            self.read_held: Callable[..., Answer] = self._read_held
        if has_current_stamps(last):
            self._is_current_of_last = last.is_current
            self.is_current: Callable[[Stamp], bool] = self._is_current
        if has_likely_stamps(last):
            self._is_likely_of_last = last.is_likely
            self.is_likely: Callable[[str, Stamp], bool] = self._is_likely
        if makes_room(last):
            self._alone_of_last = last.alone
            self.alone: Callable[[str], AbstractContextManager[object]] = self._room
        if has_usage_log(last):
            self.append_usage: Callable[[str, bytes], None] = last.append_usage
        if has_usage_reads(last):
            self.read_usage: Callable[[str, str], Sequence[bytes]] = last.read_usage
            self.add_usage: Callable[[str, str, Sequence[bytes], int], bool] = last.add_usage
        if has_queries(last):
            self.page: Callable[..., SessionPage] = last.page
        if has_search(last):
            self.search: Callable[..., SearchPage] = last.search
        if has_checks(last):
            self._repair_of_last = last.repair
            self.check: Callable[..., Iterator[Finding]] = last.check
            self.repair: Callable[[str], Repair] = self._repair
        if has_telling_heads(last):
            self.heads_telling: Callable[[LeftOut], Iterator[tuple[Head, int]]] = last.heads_telling
        if has_expiry(last):
            self.ttl: timedelta | None = last.ttl
            self._lifetimes = lifetimes_of(self._last, self._times_of_last)
            self.time_left: Callable[[str], timedelta | None] = last.time_left
            self.touch: Callable[[str], None] = last.touch
            self.expired: Callable[[], Iterator[str]] = last.expired
            self._purge_of_last = last.purge_record
            self.purge_record: Callable[[str], bool] = self._purge_record
            self.was_expired: Callable[..., bool] = last.was_expired
        if has_late_expiry(last):
            self._expire_last_after = last.expire_after
            self.expire_after: Callable[[timedelta], None] = self._expire_after

    def _expire_after(self, ttl: timedelta) -> None:
        self._expire_last_after(ttl)
        self.ttl, self._lifetimes = ttl, lifetimes_of(self._last, self._times_of_last)

    @property
    def name(self) -> str:
        """Those of the layers, the first one first."""
        return " over ".join([*(layer.storage.name for layer in self._above), self._last.name])

    @property
    def store_id(self) -> str:
        """The last layer's: copies of a session are copies of what that holds."""
        return self._last.store_id

    @property
    def evicts(self) -> bool:
        """Whether the last layer makes room by letting sessions go; what those above let go of is nobody's loss."""
        return bool(getattr(self._last, "evicts", False))

    @property
    def degraded(self) -> bool:
        """Whether the last layer did not answer its last call."""
        return self._degraded

    def stats(self) -> LayeredStats:
        """How the layers are."""
        return LayeredStats(self._degraded, tuple(layer.stats() for layer in self._above))

    # -- plain loads ---------------------------------------------------------------------------------------------

    def read_plain(self, session_id: str) -> Record | None:
        """See `PlainReads`."""
        known = self._known.get(session_id)
        if known is not None and (self._lifetimes is None or self._lifetimes.is_shown(session_id)):
            for layer in self._above:
                if layer.number in known.holders:
                    record = layer.copy_of(session_id, known)
                    if record is not None:
                        if layer.number:
                            self._copies.fill(layer.number, known, record)
                        return record
        return self._from_the_last(session_id, known)

    def _shown(self, session_id: str) -> Record | None:
        """The three plain methods load plainly."""
        return None if self._is_over(check_session_id(session_id)) else self.read_plain(session_id)

    def _is_over(self, session_id: str) -> bool:
        return self._lifetimes is not None and self._lifetimes.is_over(session_id)

    def _from_the_last(self, session_id: str, known: Known | None) -> Record | None:
        """Its whole record, copied upwards; where it does not answer, a copy that contradicts nothing that is known."""
        ticket = self._known.ticket(session_id)
        until = None if self._lifetimes is None else self._lifetimes.until(session_id)
        try:
            answer = self._asked(lambda: self._last.read(session_id))
            self._copies.learn(ticket, None, answer)
            if self._lifetimes is not None and until is not None and answer is not None:
                self._lifetimes.note(session_id, until)  # as long, copies of this state need no word of the last layer
        except StorageUnavailable:
            copy = self._copies.best(session_id, known, self.name)
            if copy is None:
                raise
            return copy
        finally:
            self._known.release(ticket)
        return answer if isinstance(answer, Record) else None

    # -- the truth -----------------------------------------------------------------------------------------------

    def read(self, session_id: str, known: Stamp | None = None) -> Answer:
        """See `RecordStorage`; what the last layer says."""
        return self._truth(self._last.read, session_id, known)

    def _read_held(self, session_id: str, known: Stamp | None = None) -> Answer:
        return self._truth(self._read_held_of_last, session_id, known)

    def _truth(self, read: Callable[[str, Stamp | None], Answer], session_id: str, known: Stamp | None) -> Answer:
        stamp = None if isinstance(known, OfNoState) else known
        ticket = self._known.ticket(session_id)
        try:
            answer = self._asked(lambda: read(session_id, stamp))
            self._copies.learn(ticket, stamp, answer)
        finally:
            self._known.release(ticket)
        return answer

    def _is_current(self, stamp: Stamp) -> bool:
        return not isinstance(stamp, OfNoState) and self._is_current_of_last(stamp)

    def _is_likely(self, session_id: str, stamp: Stamp) -> bool:
        """The stamps are the last layer's, and so is the commit that confirms the guess: no copy has a say in either."""
        return not isinstance(stamp, OfNoState) and self._is_likely_of_last(session_id, stamp)

    @contextmanager
    def _room(self, session_id: str) -> Iterator[None]:
        """The last layer's, entered and left by the thread that asked for it; see `Copies` for why nothing goes up within."""
        with ExitStack() as room:
            self._asked(lambda: room.enter_context(self._alone_of_last(session_id)))
            with self._copies.left_alone():
                yield

    def commit(self, commit: Commit) -> Stamp:
        """See `RecordStorage`: by the last layer, then by those above that hold the state before."""
        ticket, began = self._known.ticket(commit.session_id), self._times_of_last.now().timestamp()
        try:
            before = self._known.held(commit.session_id)
            # An error, of whatever outcome, leaves what is known as it is: that was committed, and nobody was told of more.
            stamp = self._asked(lambda: self._last.commit(commit))
            self._copies.committed(ticket, commit, before, stamp)
            if self._lifetimes is not None:
                self._lifetimes.renewed(commit.session_id, began)
        finally:
            self._known.release(ticket)
        return stamp

    def delete_record(self, session_id: str) -> bool:
        """See `RecordStorage`: from the last layer, then from those above."""
        return self._removed(self._last.delete_record, session_id)

    def _purge_record(self, session_id: str) -> bool:
        return self._removed(self._purge_of_last, session_id)

    def _removed(self, remove: Callable[[str], bool], session_id: str) -> bool:
        removed = self._asked(lambda: remove(session_id))
        self._known.forget(session_id)
        if self._lifetimes is not None:
            self._lifetimes.forget(session_id)
        self._copies.drop(session_id)
        return removed

    def _repair(self, session_id: str) -> Repair:
        try:
            return self._repair_of_last(session_id)
        finally:
            self._known.forget(session_id)

    def save_session(self, session: Session) -> None:
        """A plain, unmerged save, under the last layer's lock where it has one; see `RecordBacked`."""
        with self._locked(session.id):
            super().save_session(session)

    def delete_session(self, session_id: str) -> bool:
        """Remove it, under the last layer's lock where it has one; True where there was one to be seen."""
        with self._locked(check_session_id(session_id)):
            return super().delete_session(session_id)

    def _locked(self, session_id: str) -> AbstractContextManager[None]:
        return self._last.lock(session_id, _OWN_WAIT) if has_locks(self._last) else nullcontext()

    def exists(self, session_id: str) -> bool:
        """See `RecordStorage`; asks the last layer."""
        return self._asked(lambda: self._last.exists(session_id))

    def was_deleted(self, session_id: str, birth: str) -> bool:
        """See `RecordStorage`; asks the last layer."""
        return self._asked(lambda: self._last.was_deleted(session_id, birth))

    def heads(self) -> Iterator[tuple[dict[str, Any], int]]:
        """See `RecordStorage`; asks the last layer."""
        return self._last.heads()

    def close(self) -> None:
        """Close every layer; what one above raises is logged."""
        for layer in self._above:
            layer.close()
        self._last.close()

    # -- the last layer's health ---------------------------------------------------------------------------------

    def _asked(self, ask: Callable[[], Made]) -> Made:
        try:
            answer = ask()
        except StorageUnavailable as error:
            self._turn(str(error))
            raise
        if self._degraded:
            self._turn("")
        return answer

    def _turn(self, error: str) -> None:
        with self._turning:
            turned, self._degraded = self._degraded != bool(error), bool(error)
        if turned and error:
            _log.warning("the last layer does not answer: plain loads go on with copies", store=self.name, error=error)
        elif turned:
            _log.info("the last layer answers again", store=self.name)

