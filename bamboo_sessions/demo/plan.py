"""Who says what: each conversation is cut into turns, and the turns are dealt to the runtimes like cards.

Pure: chats and a seed in, scripts out. A turn is what one runtime adds in one save: a message, with the results behind
it where it calls tools. So every session has several writers, a call and its results come from one of them, and each
writer has an order of its own that must be found again in the end. A call that asks the user, and every few other
calls, opens a question; the UI's script says which of them are answered and which must still be open in the end.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs

from bamboo_sessions.demo.chats import Chat, ChatDict

ASK_EVERY: Final = 5
"""Every fifth call of a tool waits for a permission."""

OPEN_AT_ONCE: Final = 8
"""So many conversations run side by side before the next ones begin."""


@attrs.frozen
class Question:
    """What a runtime asks, what a person will answer (None: nobody does), and whether the answer is the result."""

    tool_call_id: str
    tool_name: str
    text: str
    answer: str | None
    is_result: bool


@attrs.frozen
class Turn:
    """What one save adds to one session. The position in the recording names a message: "12" is the thirteenth."""

    session: str
    messages: tuple[tuple[str, ChatDict], ...]
    question: Question | None = None
    title: str | None = None
    """A title that the runtime makes up, once a session."""


@attrs.frozen
class Edit:
    """What the UI does to a session: `what` is title, pinned or tag."""

    session: str
    what: str
    value: Any


@attrs.frozen
class Plan:
    """A script for each runtime, and one for the UI."""

    turns: tuple[tuple[Turn, ...], ...]
    edits: tuple[Edit, ...]
    answers: dict[str, dict[str, Question]]
    """By session and tool call id: the questions that the UI answers."""


def make_plan(chats: Sequence[Chat], *, runtimes: int, seed: int) -> Plan:
    """Deal the turns of all chats; the same arguments give the same plan."""
    chance = random.Random(seed)
    hands: list[list[Turn]] = [[] for _ in range(runtimes)]
    answers: dict[str, dict[str, Question]] = {}
    for first in range(0, len(chats), OPEN_AT_ONCE):
        together = [_cut(chat, chance) for chat in chats[first : first + OPEN_AT_ONCE]]
        starts = [chance.randrange(runtimes) for _ in together]
        for number in range(max(map(len, together))):
            for start, turns in zip(starts, together, strict=True):
                if number < len(turns):
                    hands[(start + number) % runtimes].extend(turns[number])
    for turn in (turn for hand in hands for turn in hand if turn.question and turn.question.answer is not None):
        assert turn.question is not None
        answers.setdefault(turn.session, {})[turn.question.tool_call_id] = turn.question
    edits = [edit for chat in chats for edit in _edits(chat.id, chance)]
    chance.shuffle(edits)
    return Plan(tuple(map(tuple, hands)), tuple(edits), answers)


def _cut(chat: Chat, chance: random.Random) -> list[list[Turn]]:
    """The chat in portions, in order; a portion is what one runtime does in a row."""
    numbered = [(str(position), message) for position, message in enumerate(chat.messages)]
    seen = Counter(call_id for message in chat.messages for call_id, _, _ in _calls(message))
    portions = [_portion(chat.id, block, _question(block, seen, chance)) for block in _blocks(numbered)]
    portions[0][0] = attrs.evolve(portions[0][0], title=f"About {chat.id}"[:60])
    return portions


def _portion(session: str, block: list[tuple[str, ChatDict]], question: Question | None) -> list[Turn]:
    if question is None:
        return [Turn(session, tuple(block))]
    if question.is_result:  # the answer is the result: the UI says it, in the commit that closes the question
        said = question.answer is not None
        rest = [(name, m) for name, m in block if not said or m.get("tool_call_id") != question.tool_call_id]
        return [Turn(session, tuple(rest), question)]
    # Asked first, called then: the results come in a save of their own, when others have said things in between.
    return [Turn(session, tuple(turn), asks) for turn, asks in ((block[:1], question), (block[1:], None)) if turn]


def _blocks(numbered: list[tuple[str, ChatDict]]) -> Iterator[list[tuple[str, ChatDict]]]:
    """Each message with the results that follow it."""
    block: list[tuple[str, ChatDict]] = []
    for name, message in numbered:
        if block and message.get("role") not in ("tool", "function"):
            yield block
            block = []
        block.append((name, message))
    yield block


def _calls(message: ChatDict) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(id, tool name, arguments as text or object) of the calls that have an id, in any of the variants in use."""
    for call in message.get("tool_calls") or ():
        if isinstance(call, dict) and isinstance(call.get("id"), str) and call["id"]:
            inner = call.get("function")
            inside = inner if isinstance(inner, dict) else call
            name = inside.get("name", inner)
            yield call["id"], name if isinstance(name, str) else "tool", inside


def _question(block: list[tuple[str, ChatDict]], seen: Counter[str], chance: random.Random) -> Question | None:
    """The question that this turn opens. A call id that the chat uses twice would make two questions look like one."""
    for call_id, tool_name, call in _calls(block[0][1]):
        if seen[call_id] > 1:
            continue
        arguments = str(call.get("arguments"))[:300]
        if tool_name == "AskUserQuestion":
            said = [m.get("content") for _, m in block if m.get("tool_call_id") == call_id]
            answer = said[0] if len(said) == 1 and isinstance(said[0], str) else None
            return Question(call_id, tool_name, arguments, answer, is_result=True)
        if chance.randrange(ASK_EVERY) == 0:
            answer = chance.choice(["yes", "yes, always", None])
            return Question(call_id, tool_name, f"May I call {tool_name} with {arguments}?", answer, is_result=False)
    return None


def _edits(session: str, chance: random.Random) -> list[Edit]:
    """A few edits a session; shuffled together with those of the others, they come in any order."""
    titles = [Edit(session, "title", f"Renamed {number}: {session}"[:80]) for number in (1, 2)]
    pins = [Edit(session, "pinned", chance.random() < 0.5) for _ in range(2)]
    return [*titles, *pins, Edit(session, "tag", chance.choice(["work", "仕事", "עבודה", "🎋"]))]
