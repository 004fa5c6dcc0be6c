"""The messages of two copies become one sequence.

Theirs is the skeleton, because it is what everybody else has seen. My deletions and edits are carried out on it, my
additions put where they belong: behind the neighbour they were written behind, at the end as one block, and a tool
result behind its call. What both sides share by construction is never looked at, so a turn costs what was added in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

from bamboo_sessions.models.message import Message
from bamboo_sessions.models.messages import Messages

Note = Callable[[str, str, str, str], None]
Index = Mapping[str, Message]


def merge_messages(base: Messages | None, mine: Messages, theirs: Messages, note: Note) -> Messages:
    """All of theirs and mine, less what either side removed; see `merge` for the laws."""
    if base is None:
        return _union(mine, theirs, note)
    k = _common(base, mine, theirs)
    if len(base) == k == len(mine):
        return theirs
    if len(base) == k == len(theirs):
        return mine
    was, ours, other = base[k:], mine[k:], theirs[k:]
    if _all_same(was, ours):
        return theirs
    if _all_same(was, other):
        return mine
    merged = _three_way(was, ours, other, theirs.kept(k), note)
    return _on_top_of(theirs, k, other, merged)


def _all_same(a: Sequence[Message], b: Sequence[Message]) -> bool:
    return len(a) == len(b) and all(map(Message.same_as, a, b))


def _common(base: Messages, mine: Messages, theirs: Messages) -> int:
    """How many leading messages all three have, found without looking where sharing proves it."""
    k = min(base.shared_with(mine), base.shared_with(theirs))
    longest = min(len(base), len(mine), len(theirs))
    while k < longest and base[k].same_as(mine[k]) and base[k].same_as(theirs[k]):
        k += 1
    return k


def _three_way(base: list[Message], mine: list[Message], theirs: list[Message], before: Messages,
               note: Note) -> list[Message]:
    was, ours, other = _by_id(base), _by_id(mine), _by_id(theirs)
    chosen = _contents(was, ours, other, note)
    skeleton, guests = _who_leads(was, mine, theirs, note)
    made = [chosen[message.id] for message in skeleton if message.id in chosen]
    return _place(made, [chosen[message.id] for message in guests if message.id in chosen], was, before)


def _contents(was: Index, ours: Index, other: Index, note: Note) -> dict[str, Message]:
    """Which messages stand, and in which version: by id, without regard to order."""
    chosen: dict[str, Message] = {}
    for message_id in {**other, **ours}:
        before, mine, theirs = was.get(message_id), ours.get(message_id), other.get(message_id)
        kept = _content(before, mine, theirs, message_id, note)
        if kept is not None:
            chosen[message_id] = kept
    return chosen


def _content(before: Message | None, mine: Message | None, theirs: Message | None, message_id: str,
             note: Note) -> Message | None:
    if mine is None or theirs is None:
        return _one_sided(before, mine, theirs, message_id, note)
    if mine.same_as(theirs) or (before is not None and mine.same_as(before)):
        return theirs
    if before is None or not theirs.same_as(before):
        note("messages", message_id, "both edited it: the later commit", "mine")
    return mine


def _one_sided(before: Message | None, mine: Message | None, theirs: Message | None, message_id: str,
               note: Note) -> Message | None:
    """An addition stays, a deletion is carried out, a deletion against an edit gives way to the edit."""
    there = mine if mine is not None else theirs
    if before is None or there is None:
        return there
    if there.same_as(before):
        return None
    note("messages", message_id, "edited here, deleted there: the edit", "mine" if mine is not None else "theirs")
    return there


def _who_leads(was: Index, mine: list[Message], theirs: list[Message], note: Note) -> tuple[list[Message], list[Message]]:
    """(skeleton, guests): theirs lead, unless I alone put the common messages into another order."""
    common = was.keys() & _by_id(mine).keys() & _by_id(theirs).keys()
    before, ours, other = (_order(messages, common) for messages in (was.values(), mine, theirs))
    if ours in (before, other):
        return theirs, mine
    if other == before:
        return mine, theirs
    note("messages", "", "both put them into another order", "theirs")
    return theirs, mine


def _order(messages: Iterable[Message], of: Iterable[str]) -> list[str]:
    wanted = set(of)
    return [message.id for message in messages if message.id in wanted]


def _place(made: list[Message], guests: list[Message], was: Index, before: Messages) -> list[Message]:
    """Put the guests that the skeleton does not have where they belong.

    A guest that stands before an old message, or before one that both sides have as new, goes behind its nearest
    predecessor; what stands behind the last of those goes to the end as one block. An old one that the skeleton lacks was
    edited here and deleted there: it is a guest like the others.
    """
    there = {message.id for message in made}
    last_old = max((i for i, guest in enumerate(guests) if guest.id in was or guest.id in there), default=-1)
    placed = _insert_inside(made, guests[: last_old + 1], there, before)
    block = [guest for guest in guests[last_old + 1 :] if guest.id not in there]
    return _append_block(placed, block, guests, before)


def _append_block(placed: list[Message], block: list[Message], guests: Sequence[Message],
                  before: Messages) -> list[Message]:
    """`placed` with `block` at its end, but for the tool results that open the block: they go behind their calls."""
    while block and (at := _behind_its_call(block[0], placed, guests, before)) is not None:
        placed.insert(at, block.pop(0))  # only from the front: a writer's own order is kept
    return [*placed, *block]


def _insert_inside(made: list[Message], guests: Sequence[Message], there: set[str],
                   before: Messages) -> list[Message]:
    behind: dict[str | None, list[Message]] = {}
    anchor: str | None = None
    for guest in guests:
        if guest.id in there:
            anchor = guest.id
        else:
            behind.setdefault(anchor, []).append(guest)
    placed: list[Message] = []
    waiting = behind.get(None, [])[:]
    seen = {guest.id for guest in guests}
    for message in made:
        if waiting and (message.id in seen or message.tool_call_id not in _calls_at_the_end(before, placed)):
            placed.extend(waiting)  # not earlier: a result that the guests' writer did not know stays with its call
            waiting = []
        placed.append(message)
        waiting.extend(behind.get(message.id, ()))
    return [*placed, *waiting]


def _behind_its_call(result: Message, made: list[Message], guests: Sequence[Message], before: Messages) -> int | None:
    """Where in `made` a tool result belongs; None where it answers no call that can be found.

    Transcripts repeat call ids, so the call is the nearest one in front of it where its writer put it: among the
    guests, or at the end of what stands in front of all of them (`before`). Only then somebody else's may be meant.
    """
    call_id = result.tool_call_id
    if call_id is None:
        return None
    here = next(i for i, guest in enumerate(guests) if guest.id == result.id)
    own = next((guest for guest in reversed(guests[:here]) if call_id in _calls(guest)), None)
    if own is None and call_id in (calls := _calls_at_the_end(before)):
        return _behind_results(made, 0, calls)
    for i in range(len(made) - 1, -1, -1):
        if (own is None or made[i].id == own.id) and call_id in (calls := _calls(made[i])):
            return _behind_results(made, i + 1, calls)
    return None


def _calls(message: Message) -> set[str]:
    return {call.id for call in message.tool_calls if call.id is not None}


def _calls_at_the_end(*parts: Sequence[Message]) -> set[str]:
    """The calls of the last message that is no tool result, looked for from the end of the last part."""
    backwards = chain.from_iterable(reversed(part) for part in reversed(parts))
    return next((_calls(message) for message in backwards if message.tool_call_id is None), set())


def _behind_results(made: list[Message], at: int, calls: set[str]) -> int:
    while at < len(made) and made[at].tool_call_id in calls:
        at += 1
    return at


def _union(mine: Messages, theirs: Messages, note: Note) -> Messages:
    """Without a base: equal leading messages are one (a transcript that was rebuilt is not doubled), then the union."""
    k = mine.shared_with(theirs)
    longest = min(len(mine), len(theirs))
    while k < longest and mine[k].says_as(theirs[k]):
        k += 1
    other = theirs[k:]
    rest = _by_id(other)
    aligned = {message.id for message in theirs[:k]} if k < len(mine) else set()
    added = []
    for message in mine[k:]:
        if message.id in rest:
            if not message.same_as(rest[message.id]):
                note("messages", message.id, "no common base: the stored one", "theirs")
        elif message.id not in aligned:
            added.append(message)
    return _on_top_of(theirs, k, other, _append_block(other[:], added, mine[k:], theirs.kept(k)))


def _on_top_of(theirs: Messages, k: int, other: Sequence[Message], merged: Sequence[Message]) -> Messages:
    """The first `k` of theirs and `merged`, sharing what it has in front with `other`, the rest of theirs."""
    keep = next((i for i, (a, b) in enumerate(zip(merged, other, strict=False)) if a is not b),
                min(len(merged), len(other)))
    kept = theirs if k + keep == len(theirs) else theirs.kept(k + keep)
    return kept.appended(*merged[keep:]) if keep < len(merged) else kept


# -- the order of two sequences ----------------------------------------------------------------------------------


def in_one_order(a: Messages, b: Messages) -> bool:
    """Whether the messages that both have stand in the same order."""
    k = a.shared_with(b)
    rest, other = a[k:], b[k:]
    common = _by_id(rest).keys() & _by_id(other).keys()
    return _order(rest, common) == _order(other, common)


def ordered_as(messages: Messages, like: Messages) -> Messages:
    """The same messages in the same places, but those that `like` has too stand among each other as they do there."""
    k = messages.shared_with(like)
    rest, other = messages[k:], like[k:]
    there = _by_id(rest)
    wanted = [there[message.id] for message in other if message.id in there]
    common, turn = {message.id for message in wanted}, iter(wanted)
    return _on_top_of(messages, k, rest, [next(turn) if message.id in common else message for message in rest])


def _by_id(messages: Iterable[Message]) -> dict[str, Message]:
    return {message.id: message for message in messages}
