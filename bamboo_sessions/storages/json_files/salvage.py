"""One state out of what is left of a session's files, such that nothing readable is missing from it. Pure.

Up to the damage, history is known. Behind it, a change says "keep the first k": k of a list that nobody knows any more. A
change that keeps nothing says all there is, and history is known again. Any other one is taken as an addition: its messages
join what is there (of two versions of one message the newer one stands), and nothing is removed. Not even where k is no
more than what was known before the damage: had the lost change taken the second of five messages out, "keep four, append
one" would take the fifth for removed, which nobody did.

Operation ids are what tells a copy in some process's memory whether it descends from what is stored. A copy of the lost
revisions must find that it does not: then it is merged without a base, and brings back what was lost. So every revision
from the first damaged one on gets a new operation id; those before it keep theirs. Operation ids are remembered for 64
commits only; for copies older than that, the head says which revisions were lost.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final

import attrs

from bamboo_sessions.codec import patch_json
from bamboo_sessions.errors import InvalidValue
from bamboo_sessions.ids import new_token
from bamboo_sessions.models.message import Message
from bamboo_sessions.models.times import from_text, to_text
from bamboo_sessions.storages.json_files import journal
from bamboo_sessions.storages.json_files.audit import head_fault
from bamboo_sessions.storages.json_files.remains import JournalRemains, Piece, SnapshotRemains
from bamboo_sessions.storages.protocol import OPS_KEPT, Change, Head

_RANGES_KEPT: Final = 16
_BAD = (AttributeError, KeyError, TypeError, ValueError)


@attrs.define(slots=True)
class Salvaged:
    """The state so far, and what there is to say about it."""

    head: Head
    messages: list[bytes | None]
    """A place each; None: a message is lost there."""
    placed: bool
    """These are the places that the writers meant by their numbers."""
    revision: int
    """The newest one that went in."""
    newest: datetime
    """The latest time that was ever there."""
    ops: list[str] = attrs.field(factory=list)
    """Of the revisions before the first loss."""
    good: int | None = None
    """The newest revision before the first loss; None: nothing was lost so far."""
    taken: int = 0
    """Changes that went in exactly as they were meant."""
    joined: int = 0
    """Changes that were taken as additions."""
    places: dict[str, int] | None = None
    """Where each message stands, by id, while changes are joined: each must not cost what the session is long."""
    kept: list[str] = attrs.field(factory=list)
    not_usable: list[str] = attrs.field(factory=list)

    def lose(self, what: str, *, places: bool = True) -> None:
        """Something cannot be used; `places`: and from here on, positions mean nothing certain."""
        self.not_usable.append(what)
        self.placed = self.placed and not places
        if self.good is None:
            self.good = self.revision

    def saw(self, head: Head) -> None:
        """Note a time."""
        with suppress(InvalidValue, KeyError, OverflowError):
            self.newest = max(self.newest, from_text(head["updated_at"]) + timedelta(microseconds=1))


def salvage(head: Head, snap: SnapshotRemains, log: JournalRemains | None, now: datetime) -> Salvaged:
    """The snapshot and then each change behind it. `head`: the snapshot's, or one that was made in its place."""
    at = Salvaged(head, list(snap.messages), snap.places_known, head["revision"], now)
    if snap.vouched:  # else its time may be the damaged word, and would push all later ones away
        at.saw(head)
    _tell_snapshot(at, snap)
    if snap.whole:
        at.ops = list(dict.fromkeys(op for op in snap.ops if type(op) is str and op))
    else:
        at.good = 0
    if log is None:
        at.lose(f"the journal, which is missing: changes behind revision {at.revision}")
    else:
        _through(at, snap, log)
    _tell_changes(at)
    return at


def finish(at: Salvaged) -> tuple[Head, list[bytes], list[str]]:
    """(head, messages, operation ids) of the repaired state: a commit of its own, above all that was ever there."""
    revision = at.revision + 1
    fresh = revision - (at.good if at.good is not None else at.revision)
    ops = (at.ops + [new_token() for _ in range(min(fresh, OPS_KEPT))])[-OPS_KEPT:]
    head = {**at.head, "revision": revision, "updated_at": to_text(at.newest)}
    if at.good is not None:
        head["lost_revisions"] = _lost(at.head.get("lost_revisions", ()), at.good + 1, at.revision)
    return head, _each_once([line for line in at.messages if line is not None]), ops


def _lost(before: Any, first: int, last: int) -> list[list[int]]:
    """With the ranges of earlier repairs; one range where there were too many to keep apart."""
    with suppress(TypeError, ValueError):
        earlier = [[int(a), int(b)] for a, b in before]
        ranges = [*earlier, [first, last]] if first <= last else earlier
        return ranges if len(ranges) <= _RANGES_KEPT else [[min(a for a, _ in ranges), max(b for _, b in ranges)]]
    return [[0, last]]


# -- the journal -------------------------------------------------------------------------------------------------


def _through(at: Salvaged, snap: SnapshotRemains, log: JournalRemains) -> None:
    """Take each piece in. One that does not name the one before it shows that something between them is lost."""
    pieces, link = list(log.pieces), _first_link(at, snap, log)
    if log.header is None and pieces and pieces[0].start == 0 and pieces[0].change is None:
        at.not_usable.append("the journal's first line, which only said what it follows")
        del pieces[0]
    last = max((index for index, piece in enumerate(pieces) if piece.change is not None), default=-1)
    for index, piece in enumerate(pieces):
        if piece.change is None:
            _skip(at, piece, at_the_end=index > last)
            link = piece.crc
        elif piece.change.revision <= at.revision:
            link = _known_already(at, piece, link)
        else:
            if piece.prev != link and (link or at.placed):  # else it was told before
                at.lose(f"what was committed between revisions {at.revision} and {piece.change.revision}")
            _take(at, piece.change)
            link = piece.crc


def _first_link(at: Salvaged, snap: SnapshotRemains, log: JournalRemains) -> str:
    """The checksum that the first change must name. Where the first line is lost: what it must have been, for it says
    nothing that the snapshot does not."""
    header = log.header
    if header is None:
        return journal.header_line(at.head["birth"], snap.generation, at.revision)[8:16].decode()
    if header.birth != at.head["birth"]:
        at.lose(f"the journal of another life of the session (birth {header.birth})")
        log.pieces.clear()
    elif header.revision > at.revision:
        at.lose(f"what was committed between revisions {at.revision} and {header.revision}")
        at.revision = header.revision
    return f"{header.crc:08x}" if header.revision == at.revision else ""


def _known_already(at: Salvaged, piece: Piece, link: str) -> str:
    """What the next change must name: this one, where it is the very commit that the snapshot ends with."""
    assert piece.change is not None
    if at.ops and at.ops[-1] == piece.change.op and at.revision == piece.change.revision:
        return piece.crc
    if piece.prev == link and link:
        at.lose(f"a change that goes back to revision {piece.change.revision}", places=False)
    return ""


def _skip(at: Salvaged, piece: Piece, *, at_the_end: bool) -> None:
    where = f"{piece.end - piece.start} bytes at byte {piece.start} of the journal: {piece.reason}"
    if at_the_end:
        at.not_usable.append(f"{where}; nothing follows them")
        at.good = at.revision if at.good is None else at.good
    else:
        at.lose(where)


def _take(at: Salvaged, change: Change) -> None:
    """Exactly, where the places that it keeps are those that its writer meant."""
    if change.keep == 0 or (at.placed and change.keep <= len(at.messages)):
        at.messages[change.keep :] = change.add
        at.placed, at.taken, at.places = True, at.taken + 1, None
    else:
        _join(at, {_id(line): line for line in change.add})
        at.joined += 1
    _patch(at, change)
    at.revision = change.revision
    if at.good is None:
        at.ops.append(change.op if change.op not in at.ops else new_token())


def _patch(at: Salvaged, change: Change) -> None:
    try:
        made = _closed_wins({**patch_json(at.head, change.head), "revision": change.revision})
        at.saw(made)
        fault = head_fault(made)
    except _BAD as error:
        fault = str(error)
    if fault or made["id"] != at.head["id"]:
        at.lose(f"the change of the head at revision {change.revision}: {fault}", places=False)
    else:
        at.head = made


def _closed_wins(head: Head) -> Head:
    """What was closed stays closed."""
    questions, closed = head.get("questions", {}), head.get("closed_questions", {})
    if not questions.keys() & closed.keys():
        return head
    return {**head, "questions": {token: asked for token, asked in questions.items() if token not in closed}}


# -- messages ----------------------------------------------------------------------------------------------------


def _join(at: Salvaged, newer: dict[str, bytes]) -> None:
    """Both, each message once, in its newer version; what is new stands behind the neighbour that it was written behind."""
    if at.places is None:
        at.places = {_id(line): index for index, line in enumerate(at.messages) if line is not None}
    behind: dict[int, list[bytes]] = {}
    neighbour = len(at.messages) - 1
    for message_id, line in newer.items():
        place = at.places.get(message_id)
        if place is None:
            behind.setdefault(neighbour, []).append(line)
        else:
            at.messages[place], neighbour = line, place
    at_the_end = behind.pop(len(at.messages) - 1, [])
    at.places.update((_id(line), len(at.messages) + index) for index, line in enumerate(at_the_end))
    if behind:
        at.messages = [one for index, old in enumerate(at.messages) for one in (old, *behind.get(index, ()))]
        at.places = None
    at.messages += at_the_end


def _each_once(messages: list[bytes]) -> list[bytes]:
    """Of two messages with one id and one content, one; of two with another content, the earlier under a new id."""
    last = {_id(line): (index, line) for index, line in enumerate(messages)}
    made = []
    for index, line in enumerate(messages):
        place, newest = last[_id(line)]
        if place == index:
            made.append(line)
        elif line != newest:
            made.append(Message.from_line(line).with_id(new_token()).line)
    return made


def _id(line: bytes) -> str:
    return Message.from_line(line).id


# -- telling -----------------------------------------------------------------------------------------------------


def _count(number: int, what: str = "message") -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _tell_snapshot(at: Salvaged, snap: SnapshotRemains) -> None:
    lost = snap.messages.count(None)
    there = len(snap.messages) - lost
    if snap.whole:
        at.kept.append(f"the whole snapshot: revision {at.revision}, {_count(there)}")
        return
    how = ", each by its own checksum"
    if snap.by_form:
        how = f", {snap.by_form} of them by their form alone: their checksums are damaged"
    at.kept.append(f"{_count(there)} of the damaged snapshot{how if there else ''}")
    if not snap.vouched:
        at.not_usable.append("the snapshot's first line: " + (
            "its fields could be read, but nothing vouches for them" if snap.head is not None else
            "title, metadata and the like as of then; what the journal says of them is kept"))
    if lost:
        at.not_usable.append(f"{_count(lost)} of the snapshot")
    elif not snap.places_known:
        at.not_usable.append("how many messages the snapshot had")


def _tell_changes(at: Salvaged) -> None:
    if at.taken:
        at.kept.append(f"{_count(at.taken, 'change')} of the journal exactly as meant")
    if at.joined:
        at.kept.append(f"{_count(at.joined, 'change')} of the journal behind the damage, as additions: all their messages, and "
                       "nothing removed")
