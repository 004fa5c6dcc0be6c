"""Sessions and edits for property tests, made through what users have: the mutators of `Session`.

Beside every session a plain list of (id, chat form) is led by hand, so that a test can say what must come out without
asking the code under test. Scripts are drawn first and played afterwards: a failing example prints as its script.
"""

from __future__ import annotations

from copy import deepcopy

import attrs
from hypothesis import strategies as st

from bamboo_sessions.models import Message, Origin, Session, State

CALL_IDS = ("q1", "q2", "q3")
KEYS = ("a", "b", "c")
TAGS = ("red", "green", "blue")
VALUES = st.sampled_from([0, 1, True, 1.0, None, "x", [1, [2]], {"n": {"z": 1, "a": 2}}, 2**70, "\ud800", {"$json": "1"}, -0.0])
WHERE = st.integers(0, 7)

MESSAGE_STEPS = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(["ok", "go on", "no"])),
    st.tuples(st.just("call"), st.integers(1, 2)),
    st.tuples(st.just("result"), WHERE),
    st.tuples(st.just("insert"), WHERE),
    st.tuples(st.just("edit"), WHERE),
    st.tuples(st.just("remove"), WHERE),
)
MOVES = st.tuples(st.just("move"), WHERE)
HEAD_STEPS = st.one_of(
    st.tuples(st.just("tag"), st.sampled_from(TAGS)),
    st.tuples(st.just("untag"), st.sampled_from(TAGS)),
    st.tuples(st.just("set"), st.sampled_from(KEYS), VALUES),
    st.tuples(st.just("unset"), st.sampled_from(KEYS)),
    st.tuples(st.just("inside"), st.sampled_from(KEYS), VALUES),
    st.tuples(st.just("ask"), st.sampled_from(CALL_IDS), st.sampled_from(["one?", "two?"])),
    st.tuples(st.just("close"), st.sampled_from(CALL_IDS)),
    st.tuples(st.just("title"), st.sampled_from(["A", "B", None]), st.sampled_from(["user", "generated"])),
    st.tuples(st.just("pin"), st.booleans()),
    st.tuples(st.just("archive"), st.booleans()),
    st.tuples(st.just("model"), st.sampled_from(["m1", "m2", None])),
)


def scripts(*steps, max_size=7):
    """Lists of steps, messages and head mixed unless other kinds are named."""
    return st.lists(st.one_of(*(steps or (MESSAGE_STEPS, HEAD_STEPS))), max_size=max_size)


class Copy:
    """A session in one writer's hands, and beside it the plain list of what its messages must be."""

    def __init__(self, session, plain, name):
        self.session, self.plain, self.name, self.made = session, list(plain), name, 0
        self.asked, self.moved = [], False

    @classmethod
    def new(cls, script=()):
        made = cls(Session.new("s"), [], "base")
        return made.play(script)

    def copy(self, name):
        """Another writer's copy, with no base: tests hand the base to the merge themselves."""
        return Copy(Session._of(self.state(), Origin()), self.plain, name)

    def state(self) -> State:
        return self.session._state()

    def play(self, script):
        for step in script:
            getattr(self, f"do_{step[0]}")(*step[1:])
        assert [(m.id, m.to_dict()) for m in self.session.messages] == self.plain
        return self

    def _fresh(self, chat):
        self.made += 1
        return f"{self.name}{self.made}", chat

    def _put(self, at, chat):
        message_id, chat = self._fresh(chat)
        self.plain.insert(at, (message_id, chat))
        messages = list(self.session.messages)
        messages.insert(at, Message.from_dict(chat, id=message_id))
        self.session.messages = messages

    def _at(self, where):
        return where % len(self.plain) if self.plain else None

    def do_add(self, text):
        message_id, chat = self._fresh({"role": "user", "content": text})
        self.plain.append((message_id, chat))
        self.session.add_message(Message.from_dict(chat, id=message_id))

    def do_call(self, calls):
        message_id, chat = self._fresh({"role": "assistant", "content": None})
        chat["tool_calls"] = [{"id": f"{message_id}/{i}", "function": {"name": "f", "arguments": "{}"}} for i in range(calls)]
        self.plain.append((message_id, chat))
        self.session.add_message(Message.from_dict(chat, id=message_id))

    def do_result(self, where):
        """A result right behind a call's results."""
        calls = [i for i, (_, chat) in enumerate(self.plain) if chat.get("tool_calls")]
        if not calls:
            return
        at = calls[where % len(calls)]
        ids = [call["id"] for call in self.plain[at][1]["tool_calls"]]
        at += 1
        while at < len(self.plain) and self.plain[at][1].get("tool_call_id") in ids:
            at += 1
        self._put(at, {"role": "tool", "tool_call_id": ids[where % len(ids)], "content": self.name})

    def do_insert(self, where):
        """Somewhere in the middle, but never between a call and its results."""
        at = where % (len(self.plain) + 1)
        while at < len(self.plain) and self.plain[at][1].get("tool_call_id"):
            at += 1
        self._put(at, {"role": "user", "content": "in between"})

    def do_edit(self, where):
        at = self._at(where)
        if at is not None and "tool_calls" not in self.plain[at][1]:
            message_id, chat = self.plain[at]
            chat = {**chat, "content": f"edited by {self.name} {self.made}"}
            self.made += 1
            self.plain[at] = (message_id, chat)
            self.session.replace_message(message_id, chat)

    def do_remove(self, where):
        at = self._at(where)
        if at is not None:
            self.session.remove_message(self.plain.pop(at)[0])

    def do_move(self, where):
        at = self._at(where)
        if at is not None and len(self.plain) > 1:
            self.plain.append(self.plain.pop(at))
            by_id = {m.id: m for m in self.session.messages}
            self.session.messages = [by_id[i] for i, _ in self.plain]

    def do_tag(self, tag):
        self.session.tags |= {tag}

    def do_untag(self, tag):
        self.session.tags -= {tag}

    def do_set(self, key, value):
        self.session.metadata[key] = deepcopy(value)

    def do_unset(self, key):
        self.session.metadata.pop(key, None)

    def do_inside(self, key, value):
        """A change in place, where there is a place."""
        held = self.session.metadata.get(key)
        if isinstance(held, list):
            held.append(deepcopy(value))
        elif isinstance(held, dict):
            held["inside"] = deepcopy(value)

    def do_ask(self, call_id, text):
        asked = self.session.set_pending_question(call_id, text)
        if asked.token not in self.asked:
            self.asked.append(asked.token)

    def do_close(self, call_id):
        self.session.clear_pending_question(call_id)

    def do_title(self, title, source):
        self.session.set_title(title, source=source)

    def do_pin(self, pinned):
        self.session.pinned = pinned

    def do_archive(self, archived):
        self.session.archived = archived

    def do_model(self, model):
        self.session.model = model


@attrs.frozen
class Three:
    """A base and two copies of it that went different ways."""

    base: Copy
    mine: Copy
    theirs: Copy

    @classmethod
    def of(cls, base, mine, theirs):
        start = Copy.new(base)
        return cls(start, start.copy("mine").play(mine), start.copy("theirs").play(theirs))


def threes(*steps, moves=False):
    """Triples of a base and two copies of it."""
    kinds = steps or (MESSAGE_STEPS, HEAD_STEPS)
    edits = scripts(*kinds, MOVES) if moves else scripts(*kinds)
    return st.builds(Three.of, scripts(*kinds), edits, edits)
