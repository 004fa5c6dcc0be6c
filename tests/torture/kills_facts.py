"""What must, may and must not be in one state of a session, from what was attempted and acknowledged.

A state that was read between two offsets must hold what was acknowledged before the first, and may hold what was begun
before the second, unless it was refused. What a killed process left in doubt may be there, whole, once, or not at all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from bamboo_sessions import Message, Session
from tests.torture.kills_lives import words
from tests.torture.kills_order import Op, Wrong


class Facts:
    """Everything said about one session, by all its lives: what is said has a name that no other saying has."""

    def __init__(self, wrong: Wrong) -> None:
        self._wrong = wrong
        self.said: dict[str, Op] = {}
        self.anchors: dict[str, str | None] = {}
        self.acked: dict[str, dict[str, Op]] = defaultdict(dict)
        """By birth: acknowledged messages."""
        self.unknown: list[Op] = []
        self.versions: dict[str, list[tuple[int, Op]]] = defaultdict(list)
        self.drops: dict[str, list[Op]] = defaultdict(list)
        self.writes: dict[str, list[tuple[Any, Op]]] = defaultdict(list)
        self.asked: dict[str, Op] = {}
        self.answers: dict[str, list[tuple[str, Op]]] = defaultdict(list)
        self.withdrawals: dict[str, list[Op]] = defaultdict(list)
        self.usage: dict[str, Op] = {}

    def tried(self, op: Op) -> None:
        facts = op.facts
        for message_id, anchor in facts.get("say", ()):
            self.said[message_id], self.anchors[message_id] = op, anchor
        if "revise" in facts:
            message_id, version = facts["revise"]
            self.versions[message_id].append((version, op))
        for message_id in facts.get("drop", ()):
            self.drops[message_id].append(op)
        for key, value in facts.get("set", {}).items():
            self.writes[key].append((value, op))
        if "ask" in facts:
            self.asked[facts["ask"]] = op
        if "answer" in facts:
            call, text = facts["answer"]
            self.answers[call].append((text, op))
        if "withdraw" in facts:
            self.withdrawals[facts["withdraw"]].append(op)
        if "usage" in facts:
            self.usage[facts["usage"]] = op

    def settled(self, op: Op) -> None:
        if op.state == "acked" and op.birth is not None:
            self.acked[op.birth].update((message_id, op) for message_id, _ in op.facts.get("say", ()))
        elif op.state == "unknown" and len(op.facts.get("say", ())) > 1:
            self.unknown.append(op)

    # -- a state -----------------------------------------------------------------------------------------------------

    def check(self, session: Session, start: float, end: float) -> None:
        """`session` was read when the log had between `start` and `end` bytes."""
        state = _State(session, start, end)
        for message_id, count in Counter(m.id for m in session.messages).items():
            if count > 1:
                self._wrong("twice", f"{message_id} is there {count} times")
        self._check_messages(state)
        self._check_order(state)
        self._check_whole_changes(state)
        self._check_questions(state)
        self._check_values(state)

    def _check_messages(self, state: _State) -> None:
        for message_id, op in self.acked[state.birth].items():
            is_due = op.end <= state.start and not self._may_be(self.drops[message_id], state)
            if is_due and message_id not in state.ids:
                self._wrong("lost", f"{message_id}, acknowledged in {op.name} (revision {op.revision}), is not there")
        for message in state.session.messages:
            if message.role != "tool":
                self._check_message(message, state)

    def _check_message(self, message: Message, state: _State) -> None:
        op = self.said.get(message.id)
        if op is None or op.start > state.end or not op.may_be_there:
            self._wrong("never attempted", f"{message.id} is there, and nobody tried to say that here, or was refused")
            return
        if op.state == "acked" and op.birth != state.birth:
            self._wrong("deleted came back", f"{message.id} was said in birth {op.birth}, and is in {state.birth}")
        if any(drop.is_acked_by(state.start) and drop.birth == state.birth for drop in self.drops[message.id]):
            self._wrong("removed came back", f"{message.id}")
        self._check_words(message, state)

    def _check_words(self, message: Message, state: _State) -> None:
        versions = self.versions[message.id]
        least = max((v for v, op in versions if op.is_acked_by(state.start) and op.birth == state.birth), default=0)
        begun = {v for v, op in versions if op.start < state.end and op.may_be_there}
        allowed = {version for version in {0, *begun} if version >= least}
        if not any(message.content == words(message.id, version) for version in allowed):
            self._wrong("other words", f"{message.id} says {message.content[:40]!r}…, and may say its versions {allowed}")

    def _may_be(self, ops: Iterable[Op], state: _State) -> bool:
        return any(op.start < state.end and op.may_be_there for op in ops)

    def _check_order(self, state: _State) -> None:
        """Each slot's messages in the order in which it said them, but for what it inserted; that, behind its anchor."""
        last: dict[str, tuple[int, int]] = {}
        for message_id, at in state.ids.items():
            if message_id not in self.said:
                continue
            anchor = self.anchors[message_id]
            if anchor is not None:
                if state.ids.get(anchor, -1) > at:
                    self._wrong("order", f"{message_id} was inserted behind {anchor} and stands before it")
                continue
            slot, _, rest = message_id.partition(".")
            life, _, number = rest.partition("/")
            place = (int(life), int(number))
            if place < last.get(slot, (-1, -1)):
                self._wrong("order", f"{message_id} stands behind what its slot said later")
            last[slot] = place

    def _check_whole_changes(self, state: _State) -> None:
        for op in self.unknown:
            ids = [message_id for message_id, _ in op.facts["say"]]
            there = [message_id in state.ids for message_id in ids]
            if any(there) and not all(there):
                missing = [message_id for message_id in ids if message_id not in state.ids]
                if not all(self._may_be(self.drops[message_id], state) for message_id in missing):
                    self._wrong("half a change", f"of {op.name}, which nobody acknowledged, only {missing} are missing")

    # -- questions ---------------------------------------------------------------------------------------------------

    def _check_questions(self, state: _State) -> None:
        calls = {question.tool_call_id for question in state.session.pending_questions}
        results: dict[str, list[str]] = defaultdict(list)
        for message in state.session.messages:
            if message.role == "tool":
                results[message.tool_call_id or ""].append(message.content)
        for call in calls:
            op = self.asked.get(call)
            if op is None or op.start > state.end or not op.may_be_there:
                self._wrong("never attempted", f"question {call} is open, and nobody asked it here")
        for call in results:
            if call not in self.asked:
                self._wrong("never attempted", f"an answer to {call}, which nobody asked")
        for call, op in self.asked.items():
            is_due = op.is_acked_by(state.start) and op.birth == state.birth
            if is_due or call in calls or call in results:
                self._check_question(call, state, is_due, call in calls, results.get(call, []))

    def _check_question(self, call: str, state: _State, is_due: bool, is_open: bool, results: list[str]) -> None:
        answers, withdrawals = self.answers[call], self.withdrawals[call]
        acked = [text for text, op in answers if op.is_acked_by(state.start)]
        may = {text for text, op in answers if op.start < state.end and op.may_be_there}
        if len(results) + is_open > 1:
            self._wrong("answered twice", f"{call}: open is {is_open}, answers {results}")
        if not set(results) <= may:
            self._wrong("never attempted", f"{call} has the answer {results}, of which nobody knows")
        if len([1 for _, op in answers if op.state == "acked"]) > 1:
            self._wrong("answered twice", f"{call}: two answers were acknowledged, {answers}")
        if acked and acked != results:
            self._wrong("lost", f"{call} was answered with {acked}, and there is {results}")
        if is_open and any(op.is_acked_by(state.start) and op.changed for op in withdrawals):
            self._wrong("question came back", f"{call} was withdrawn and is open")
        if is_due and not is_open and not results and not self._may_be(withdrawals, state):
            self._wrong("question lost", f"{call} is not open, and nobody answered or withdrew it")

    # -- values that one change puts in the place of another -----------------------------------------------------------

    def _check_values(self, state: _State) -> None:
        session = state.session
        there = {"title": session.title, "pinned": session.pinned, "archived": session.archived,
                 **{f"tag/{tag}": True for tag in session.tags},
                 **{f"meta/{key}": value for key, value in session.metadata.items()}}
        for key in there.keys() | self.writes.keys():
            value = there.get(key, _at_first(key))
            allowed = self._last_values(key, state)
            if not any(value == one for one in allowed):
                self._wrong("value", f"{key} is {value!r}, where the last change leaves {allowed}")

    def _last_values(self, key: str, state: _State) -> list[Any]:
        """What the last acknowledged change leaves, and what may have come after it."""
        made = [(value, op) for value, op in self.writes[key]
                if op.start < state.end and op.may_be_there and op.changed and op.birth in (None, state.birth)]
        sure = [op for _, op in made if op.is_acked_by(state.start)]
        newest, begun = max((op.revision for op in sure), default=0), max((op.start for op in sure), default=-1)
        allowed = [value for value, op in made if (op.revision >= newest if op.state == "acked" else op.end > begun)]
        return allowed if sure else [*allowed, _at_first(key)]


def _at_first(key: str) -> bool | None:
    return None if key == "title" or key.startswith("meta/") else False


class _State:
    """One state of the session, and when it was read."""

    def __init__(self, session: Session, start: float, end: float) -> None:
        self.session, self.start, self.end, self.birth = session, start, end, session.birth
        self.ids = {message.id: at for at, message in enumerate(session.messages)}
