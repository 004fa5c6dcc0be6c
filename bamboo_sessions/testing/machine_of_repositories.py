"""Repositories against sets of words: writers with held copies, each with a cache of its own, on one session.

The model knows no merge. Every message says a word that nobody says twice, every writer has a metadata key of his own;
so what has to be there is what was added, less what was removed, by saves that were acknowledged.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import attrs
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from bamboo_sessions.errors import QuestionNotOpen, SessionDeleted
from bamboo_sessions.models import Message, Session
from bamboo_sessions.repository import SessionRepository
from bamboo_sessions.testing.harness import Power
from bamboo_sessions.testing.machines import StorageMachine
from bamboo_sessions.testing.samples import texts

writers = st.integers(0, 2)


@attrs.define
class World:
    """What is stored, as far as acknowledged saves say."""

    words: set[str] = attrs.field(factory=set)
    notes: dict[str, int] = attrs.field(factory=dict)
    title: str | None = None
    asked: set[str] = attrs.field(factory=set)
    closed: set[str] = attrs.field(factory=set)
    answers: list[str] = attrs.field(factory=list)
    life: int = 0

    def said(self) -> tuple[Any, ...]:
        """To compare with a session."""
        return sorted([*self.words, *self.answers]), self.notes, self.title, sorted(self.asked)


def said(session: Session) -> tuple[Any, ...]:
    """The same of a session."""
    return (sorted(texts(session)), dict(session.metadata), session.title,
            sorted(question.tool_call_id for question in session.pending_questions))


@attrs.define
class Held:
    """One writer's copy, and what he did to it since it was loaded or saved."""

    session: Session
    life: int
    """0: never saved."""
    added: list[str] = attrs.field(factory=list)
    removed: list[str] = attrs.field(factory=list)
    notes: dict[str, int] = attrs.field(factory=dict)
    asked: list[str] = attrs.field(factory=list)

    def forget(self) -> None:
        """Saved: nothing is left to do."""
        self.added, self.removed, self.notes, self.asked = [], [], {}, []


class RepositoryMachine(StorageMachine):
    """See the module."""

    def begin(self) -> None:
        """Three writers, no session."""
        self.repos: list[SessionRepository] = [self.desk.repository() for _ in range(3)]
        self.held: dict[int, Held] = {}
        self.world: World | None = None
        self.lives, self.numbers = count(1), count(1)
        self.seen: dict[int, tuple[int, Any]] = {}
        self.orders: list[list[str]] = []

    @initialize(begun=st.sampled_from([True, True, False]))
    def start(self, begun: bool) -> None:
        """Mostly with a session of two words, of which everybody holds a copy: what is interesting needs several."""
        if begun:
            self.held[0] = Held(Session.new("s"), 0)
            self._say(0)
            self._say(0)
            self._save(0)
            for who in (1, 2):
                self.load(who)

    # -- what writers do to their copies

    @rule(who=writers)
    def load(self, who: int) -> None:
        """Cached or stored; or a new one, where there is none."""
        session = self.repos[who].load_merged("s")
        assert (None if session is None else said(session)) == (None if self.world is None else self.world.said())
        life = self.world.life if self.world is not None else 0
        self.held[who] = Held(session or Session.new("s"), life)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def add(self, data: Any) -> None:
        """A word that nobody said before."""
        self._say(data.draw(st.sampled_from(sorted(self.held))))

    def _say(self, who: int) -> None:
        held, word = self.held[who], f"word {next(self.numbers)}"
        held.session.add_message(Message.user(word))
        held.added.append(word)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def remove(self, data: Any) -> None:
        """One of the words in the copy."""
        held = self.held[data.draw(st.sampled_from(sorted(self.held)))]
        words = [message for message in held.session.messages if message.role == "user"]
        if words:
            message = data.draw(st.sampled_from(words))
            held.session.remove_message(message.id)
            if message.content in held.added:
                held.added.remove(message.content)
            else:
                held.removed.append(message.content)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), value=st.integers(0, 9))
    def note(self, data: Any, value: int) -> None:
        """Under the writer's own key."""
        who = data.draw(st.sampled_from(sorted(self.held)))
        self.held[who].session.metadata[f"writer {who}"] = self.held[who].notes[f"writer {who}"] = value

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def ask(self, data: Any) -> None:
        """Under a call id of its own."""
        held, call = self.held[data.draw(st.sampled_from(sorted(self.held)))], f"call {next(self.numbers)}"
        held.session.set_pending_question(tool_call_id=call, question="?")
        held.asked.append(call)

    # -- what reaches the storage

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def save(self, data: Any) -> None:
        """Merged into what is there; refused where the session that the copy is of is gone."""
        self._save(data.draw(st.sampled_from(sorted(self.held))))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def say_and_save(self, data: Any) -> None:
        """An ordinary turn."""
        who = data.draw(st.sampled_from(sorted(self.held)))
        self._say(who)
        self._save(who)

    def _save(self, who: int) -> None:
        held = self.held[who]
        there = 0 if self.world is None else self.world.life
        if held.life and held.life != there:
            with pytest.raises(SessionDeleted):
                self.repos[who].save(held.session)
            del self.held[who]
            return
        self.orders.append(texts(held.session))
        self.repos[who].save(held.session)
        world = self.world = self.world or World(life=next(self.lives))
        world.words = (world.words | set(held.added)) - set(held.removed)
        world.notes |= held.notes
        world.asked |= set(held.asked) - world.closed
        held.life = world.life
        held.forget()
        assert said(held.session) == world.said()

    @rule(who=writers, by=st.sampled_from(["user", "user", "generated"]))
    def rename(self, who: int, by: str) -> None:
        """By a person, or by a runtime, who does not replace what a person gave."""
        if self.world is not None:
            title = f"{by} {next(self.numbers)}"
            self.repos[who].set_title("s", title, source=by)
            if by == "user" or not (self.world.title or "").startswith("user"):
                self.world.title = title

    @rule(who=writers, data=st.data())
    def answer(self, who: int, data: Any) -> None:
        """Once; the second answer is refused."""
        if self.world is not None and self.world.asked | self.world.closed:
            call = data.draw(st.sampled_from(sorted(self.world.asked | self.world.closed)))
            if call in self.world.closed:
                with pytest.raises(QuestionNotOpen):
                    self.repos[who].answer("s", call, "too late")
                return
            self.repos[who].answer("s", call, f"answer to {call}")
            self.world.asked.remove(call)
            self.world.closed.add(call)
            self.world.answers.append(f"answer to {call}")

    @rule(who=writers)
    def delete(self, who: int) -> None:
        """For good. Where births are not kept, a copy of the dead cannot be told from one of its successor: those are
        put aside."""
        assert self.repos[who].delete("s") is (self.world is not None)
        self.world, self.orders = None, []
        if not self.desk.has(Power.IDENTITY):
            self.held = {n: held for n, held in self.held.items() if not held.life}

    # -- what has to hold

    @invariant()
    def a_newcomer_sees_what_was_acknowledged(self) -> None:
        """All of it and no more, in every order that somebody saw or wrote."""
        session = self.desk.newest("s")
        assert (session is None) is (self.world is None)
        if session is None or self.world is None:
            return
        assert said(session) == self.world.said()
        found = [text for text in texts(session) if text in self.world.words]
        for order in self.orders:
            known = set(order)
            assert [text for text in found if text in known] == [text for text in order if text in found]

    @invariant()
    def nobody_sees_less_than_before(self) -> None:
        """Plain loads of each repository: the time of what it gives never goes back while the session lives (P3)."""
        for who, repo in enumerate(self.repos):
            session = repo.load("s")
            if session is None or self.world is None:
                self.seen.pop(who, None)
                continue
            life, last = self.seen.get(who, (0, None))
            assert life != self.world.life or last is None or session.updated_at >= last
            self.seen[who] = self.world.life, session.updated_at
