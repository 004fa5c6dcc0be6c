"""The layers above the last one, taken together: what the last one says goes up before anybody is told of it.

So no plain load of this process can be behind what somebody in it was given. What was learned and what is written upwards
are two things: where a layer above cannot take a copy, or must not be waited for, what is known is known all the same, and
who holds it is nobody.

While a thread is alone with a session, others wait for it, in SQLite all who write to the database. It writes nothing upwards
then: a layer above that hangs would keep them all waiting. The copies come with the next plain load.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from bamboo_sessions._locks import _after_fork
from bamboo_sessions.cache import Ticket
from bamboo_sessions.storages.layers_above import LayerAbove
from bamboo_sessions.storages.layers_known import OF_NO_STATE, Knowledge, Known, advanced, first_record, known_of
from bamboo_sessions.storages.protocol import Commit, Delta, Record, Stamp, Unchanged
from bamboo_sessions.storages.records import Answer

_log = structlog.get_logger("bamboo_sessions")


class _Here(threading.local):
    """What each thread is in."""

    waited_for = False


class Copies:
    """Layers with copies, and what is known of the sessions that they hold."""

    def __init__(self, layers: tuple[LayerAbove, ...], known: Knowledge, *, keeps_records: bool) -> None:
        self._layers, self._known = layers, known
        self._keeps_stamps = keeps_records  # an adapter's stamp holds all messages: too much to remember
        self._keeps_births = keeps_records  # of three methods, only what they give back can tell
        self._forked()
        _after_fork(self)

    def _forked(self) -> None:
        self._here = _Here()

    @contextmanager
    def left_alone(self) -> Iterator[None]:
        """Within, this thread writes nothing upwards."""
        before, self._here.waited_for = self._here.waited_for, True
        try:
            yield
        finally:
            self._here.waited_for = before

    @property
    def _to_write(self) -> tuple[LayerAbove, ...]:
        return () if self._here.waited_for else self._layers

    # -- what the last layer said --------------------------------------------------------------------------------

    def learn(self, ticket: Ticket, asked: Stamp | None, answer: Answer) -> None:
        """Take up what the last layer said to a reader that held `ticket` while it asked and named the stamp `asked`.

        Before the reader gets the answer: nobody in this process may be shown less than that after it.
        """
        if isinstance(answer, Record):
            self._learn_whole(ticket, answer)
        elif isinstance(answer, Delta):
            self._learn_more(ticket, asked, answer)
        elif isinstance(answer, Unchanged):
            known = self._known.held(ticket.key)
            if known is not None and known.stamp != asked:
                self._known.forget(ticket.key)  # the reader had that state from elsewhere: it may be newer than what is known here
        else:
            self._learn_absence(ticket)

    def _learn_whole(self, ticket: Ticket, record: Record) -> None:
        made = known_of(record, self._kept(record.stamp))
        self._keeps_births = made is not None
        if made is not None:
            made = made.held_by(self._taken(record, made, lambda: not ticket.void))
        self._known.settle(ticket, made)

    def _learn_more(self, ticket: Ticket, asked: Stamp | None, delta: Delta) -> None:
        known = self._known.held(ticket.key)
        if known is None or known.stamp == delta.stamp:
            return
        if known.stamp != asked:
            self._known.forget(ticket.key)
            return
        holders = frozenset(layer.number for layer in self._to_write if layer.number in known.holders
                            and (not delta.changes or layer.follow(ticket.key, known, delta.changes)))
        self._known.settle(ticket, advanced(known, delta.changes, delta.stamp).held_by(holders))

    def _learn_absence(self, ticket: Ticket) -> None:
        """Copies that are still held (a delete that did not come so far, somebody else's delete) go, and so does what is known."""
        cleared = [not self._here.waited_for and layer.drop(ticket.key) for layer in self._layers if not ticket.void]
        if self._known.held(ticket.key) is not None or not all(cleared):
            self._known.forget(ticket.key)

    # -- what was committed and removed --------------------------------------------------------------------------

    def committed(self, ticket: Ticket, commit: Commit, before: Known | None, stamp: Stamp) -> None:
        """Go along with a commit of the last layer, made of what was known as `before`."""
        self._known.settle(ticket, self._followed(commit, before, stamp, lambda: not ticket.void))

    def _followed(self, commit: Commit, before: Known | None, stamp: Stamp, is_fresh: Callable[[], bool]) -> Known | None:
        """What is known after a commit, and who holds it by now; None where the state before is not known."""
        change, kept = commit.change, self._kept(stamp)
        if not self._keeps_births:
            return None
        if commit.expected is None:
            record = first_record(change, kept)
            made = known_of(record, kept)
            return None if made is None else made.held_by(self._taken(record, made, is_fresh, patience=1.0))
        if before is None or (before.birth, before.revision) != commit.expected:
            return None
        followed = frozenset(layer.number for layer in self._to_write
                             if layer.number in before.holders and layer.follow(commit.session_id, before, [change]))
        return advanced(before, [change], kept).held_by(followed)

    def drop(self, session_id: str) -> None:
        """Hold nothing of it. Also by a thread that others wait for: whoever deletes wants it gone, everywhere and now."""
        for layer in self._layers:
            layer.drop(session_id)

    # -- plain loads ---------------------------------------------------------------------------------------------

    def fill(self, number: int, known: Known, record: Record) -> None:
        """Copies for the layers above the one that answered. What is known is the ticket: whoever learns more replaces it."""
        session_id = str(record.head["id"])
        filled = frozenset(layer.number for layer in self._to_write[:number]
                           if layer.take(record, known, lambda: self._known.held(session_id) is known))
        if not filled <= known.holders:
            self._known.add_holders(session_id, known, filled)

    def best(self, session_id: str, known: Known | None, store: str) -> Record | None:
        """While the last layer is away. A copy that was never confirmed (it was there before this process began) will do,
        unless something newer is known, or was and may have been forgotten."""
        if known is None and self._known.has_forgotten():
            return None
        best: Record | None = None
        for layer in self._layers:
            copy = layer.anything(session_id)
            if copy is not None and (known is None or known.allows(copy.head)) and (best is None or _is_later(copy, best)):
                best = copy
        if best is None:
            return None
        _log.warning("serving a copy, the last layer does not answer", session_id=session_id, store=store)
        return Record(best.head, best.messages, best.ops, OF_NO_STATE)

    def _taken(self, record: Record, known: Known, is_fresh: Callable[[], bool], *, patience: float = 0.0) -> frozenset[int]:
        return frozenset(layer.number for layer in self._to_write if layer.take(record, known, is_fresh, patience=patience))

    def _kept(self, stamp: Stamp) -> Stamp:
        return stamp if self._keeps_stamps else OF_NO_STATE


def _is_later(copy: Record, best: Record) -> bool:
    """Of two copies of one life, the later one; of two lives nobody here can tell, and the upper layer's stands."""
    one, other = copy.head, best.head
    return bool(one.get("birth") == other.get("birth") and one.get("revision", 0) > other.get("revision", 0))
