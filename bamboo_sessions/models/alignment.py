"""Telling which of the messages handed back are ones we already know.

Frameworks hand the whole history back every turn, as fresh objects. Without alignment every one of them would look
like a deletion and an addition, and two such writers would double the conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from bamboo_sessions.errors import InvalidMessage
from bamboo_sessions.models.message import Message


def align(old: Sequence[Message], new: Sequence[Message]) -> list[Message]:
    """`new`, in which every message that is known from `old` (by id first, then by equal content in order) is that one.

    Raises `InvalidMessage` where one id comes twice in `new`.
    """
    start = _common(old, new)
    if start == len(new):
        return list(old[:start])
    middle = _by_content(old[start:], _by_id(old[start:], new[start:]))
    made = [*old[:start], *middle]
    refuse_repeats(made)
    for message in middle:
        message._fresh = False
    return made


def _common(old: Sequence[Message], new: Sequence[Message]) -> int:
    named: set[str] | None = None
    for k, (a, b) in enumerate(zip(old, new, strict=False)):
        if a is b or (not b._fresh and a.id == b.id and a.says_as(b)):
            continue
        if not b._fresh or not a.says_as(b):
            return k
        if named is None:
            named = {message.id for message in new if not message._fresh}
        if a.id in named:  # by id first: that message comes itself further on, this one is new and says the same
            return k
    return min(len(old), len(new))


def _by_id(old: Sequence[Message], new: Sequence[Message]) -> list[Message]:
    known = {message.id: message for message in old}
    made = []
    for message in new:
        before = None if message._fresh else known.get(message.id)
        made.append(before if before is not None and before.says_as(message) else message)
    return made


def _by_content(old: Sequence[Message], new: list[Message]) -> list[Message]:
    taken = {message.id for message in new if not message._fresh}
    free = [message for message in old if message.id not in taken]
    fresh = [i for i, message in enumerate(new) if message._fresh]
    while free and fresh and free[-1].says_as(new[fresh[-1]]):  # an edit near the front leaves the matcher little to do
        new[fresh.pop()] = free.pop()
    matcher = SequenceMatcher(None, [m.key for m in free], [new[i].key for i in fresh], autojunk=False)
    for block in matcher.get_matching_blocks():
        for step in range(block.size):
            new[fresh[block.b + step]] = free[block.a + step]
    return new


def refuse_repeats(messages: Sequence[Message]) -> None:
    """Raises `InvalidMessage` where one id comes twice: no merge could tell the two apart."""
    seen: set[str] = set()
    for message in messages:
        if message.id in seen:
            raise InvalidMessage(f"message {message.id!r}", "its id comes twice")
        seen.add(message.id)
