"""What one process knows of the sessions in the last of several layers, and which of the others hold exactly that.

One entry a session: the state that the last layer told last. A copy may be served where it is that state, to the mark. An
entry is only ever replaced by newer knowledge, or by the knowledge that there is none; where two that overlap cannot be
put in order, it is the latter. So entries may be dropped at any time, and the table is bounded: it forgets, it does not lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from bamboo_sessions._frozen import frozen
from bamboo_sessions.cache import KEEP, Cached, Put, SessionCache, Ticket, Verdict
from bamboo_sessions.clock import Clock
from bamboo_sessions.codec import patch_json
from bamboo_sessions.storages.protocol import OPS_KEPT, Change, Record, Stamp


@frozen(slots=True, eq=False)
class Known:
    """The newest state of one session that the last layer told this process, and which layers hold exactly that."""

    birth: str
    revision: int
    updated_at: str
    """Beside birth and revision: a last layer that came back from a backup counts its revisions a second time."""
    ops: tuple[str, ...]
    stamp: Stamp
    """The last layer's."""
    holders: frozenset[int] = frozenset()

    def is_it(self, head: dict[str, Any]) -> bool:
        """Whether a stored head is of exactly this state."""
        return bool(head.get("updated_at") == self.updated_at and head.get("revision") == self.revision
                    and head.get("birth") == self.birth)

    def not_behind(self, birth: str, revision: int, updated_at: str) -> bool:
        """Whether this is that state or a later one of the same life."""
        if self.birth != birth:
            return False
        return self.revision > revision or (self.revision == revision and self.updated_at == updated_at)

    def allows(self, head: dict[str, Any]) -> bool:
        """Whether a stored head is of this state, or of one that may follow it."""
        return self.is_it(head) or bool(head.get("birth") == self.birth and head.get("revision", 0) > self.revision)

    def held_by(self, holders: frozenset[int]) -> Known:
        return Known(self.birth, self.revision, self.updated_at, self.ops, self.stamp, holders)


NOT_KNOWN: Final = Known("", -1, "", (), None)
"""Something has happened that was not seen whole (a deletion, somebody else's commit): until the last layer is asked,
nothing that any layer holds of this session is served."""


def known_of(record: Record, stamp: Stamp) -> Known | None:
    """What a whole record tells; None for one without birth or revision, which no copy can be compared with."""
    head = record.head
    birth, revision = head.get("birth"), head.get("revision")
    if not birth or not revision:
        return None
    return Known(birth, revision, head.get("updated_at", ""), record.ops, stamp)


def advanced(known: Known, changes: Sequence[Change], stamp: Stamp) -> Known:
    """What is known after these changes, which follow it without a gap."""
    birth, updated_at, ops = known.birth, known.updated_at, known.ops
    for change in changes:
        told = change.head.get("set", {})
        birth, updated_at = told.get("birth", birth), told.get("updated_at", updated_at)
        ops = ops if ops[-1:] == (change.op,) else (*ops, change.op)
    return Known(birth, changes[-1].revision if changes else known.revision, updated_at, ops[-OPS_KEPT:], stamp)


def first_record(change: Change, stamp: Stamp) -> Record:
    """The record that a first commit makes."""
    return Record({**patch_json({}, change.head), "revision": change.revision}, change.add, (change.op,), stamp)


class OfNoState:
    """The stamp of a copy that the last layer did not confirm, or whose own stamp is too large to keep."""

    __slots__ = ()


OF_NO_STATE: Final = OfNoState()


class Knowledge:
    """The table, with the tickets of those who are asking the last layer just now."""

    def __init__(self, remembered: int, clock: Clock) -> None:
        self._entries: SessionCache[Known] = SessionCache(remembered, clock=clock)
        self.get, self.held = self._entries.get, self._entries.held
        self.ticket, self.release = self._entries.ticket, self._entries.release

    def __len__(self) -> int:
        return len(self._entries)

    def has_forgotten(self) -> bool:
        """Whether an entry that is not here may have been."""
        return self._entries.stats().evictions > 0

    def settle(self, ticket: Ticket, made: Known | None) -> None:
        """Remember `made`, learned since the ticket was taken; None: something was learned that makes no entry.

        Where somebody else settled meanwhile, which of the two is newer can be told within one life of the session. Where it
        cannot, nothing is known until the last layer has been asked again.
        """

        def decide(entry: Cached[Known] | None) -> Verdict[Known]:
            if made is not None and not ticket.void:
                return Put(made, given=True)
            if entry is None:
                return KEEP
            if made is not None and entry.value.not_behind(made.birth, made.revision, made.updated_at):
                return KEEP
            return Put(NOT_KNOWN, given=True)

        self._entries.change(ticket.key, decide)

    def add_holders(self, session_id: str, known: Known, holders: frozenset[int]) -> None:
        """They hold it too, unless anything was learned since `known` was looked up."""
        made = known.held_by(known.holders | holders)
        self._entries.change(session_id, lambda entry: (
            Put(made, given=True) if entry is not None and entry.value is known else KEEP))

    def forget(self, session_id: str) -> None:
        """Serve nothing of this session until the last layer has been asked; loads that are under way do not fill."""
        self._entries.change(session_id, lambda _: Put(NOT_KNOWN, given=True))
