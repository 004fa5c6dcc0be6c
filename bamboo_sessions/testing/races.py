"""The promises again, with nobody taking turns: processes where the storage reaches them, else threads of one object.

Each of them works through a repository of its own. What has to hold afterwards does not depend on who was faster.
"""

from __future__ import annotations

import time
from typing import Any, Final

from bamboo_sessions.cache import SessionCache
from bamboo_sessions.errors import QuestionNotOpen, SessionDeleted
from bamboo_sessions.locked_store import LockedSessionStore
from bamboo_sessions.models import Message, Session
from bamboo_sessions.repository import SessionRepository
from bamboo_sessions.testing.elsewhere import PATIENCE, Elsewhere, Line, at_once
from bamboo_sessions.testing.harness import Desk
from bamboo_sessions.testing.repositories import now
from bamboo_sessions.testing.samples import talk, texts

A_BREATH: Final = 0.005
"""Seconds between two saves of a writer without end. Over a storage with neither lock nor room, who never pauses overtakes another
one for ever; that is another contract's matter (`RoomContract`)."""
SOME: Final = 20
"""Messages of one writer that goes on until it is told."""


def repository(storage: Any) -> SessionRepository:
    """A writer's own."""
    return SessionRepository(SessionCache(), storage, LockedSessionStore(storage))


def held(repo: SessionRepository) -> Session:
    session = repo.try_load("s")
    assert session is not None
    return session


def append(storage: Any, _: Line, name: str, turns: int) -> None:
    """Loads once, and goes on saving that one copy."""
    repo = repository(storage)
    session = held(repo)
    for number in range(turns):
        session.add_message(Message.user(f"{name} {number}"))
        repo.save(session)


def edit(storage: Any, _: Line, turns: int) -> None:
    """Renames, pins and tags."""
    repo = repository(storage)
    for number in range(turns):
        repo.set_title("s", f"title {number}")
        repo.set_pinned("s", number % 2 == 0)
        repo.add_tags("s", f"tag {number}")


def ask(storage: Any, _: Line, turns: int) -> None:
    """Asks from a held copy and answers every second question."""
    repo = repository(storage)
    session = held(repo)
    for number in range(turns):
        session.set_pending_question(tool_call_id=f"call {number}", question=f"{number}?")
        repo.save(session)
        if number % 2:
            repo.answer("s", f"call {number}", f"answer {number}")


def answer(storage: Any, _: Line, name: str, turns: int) -> list[int]:
    """Tries to answer every question; which ones it was first at."""
    repo, first_at = repository(storage), []
    for number in range(turns):
        try:
            repo.answer("s", f"call {number}", name)
            first_at.append(number)
        except QuestionNotOpen:
            pass
    return first_at


def append_until_told(storage: Any, line: Line, name: str) -> str:
    """Saves until that is refused; once it is told of the deletion, the next save has to be."""
    repo, number = repository(storage), 0
    session = held(repo)
    line.say("began")
    while True:
        told, number = line.is_waiting(), number + 1
        say_another(session, name, number)
        try:
            repo.save(session)
        except SessionDeleted:
            return "refused"
        if told:
            return "saved after it was deleted"
        time.sleep(A_BREATH)


def say_another(session: Session, name: str, number: int) -> None:
    """One message more; after some of them in the place of the last. A session that grew until a slow machine has started the
    next process would make it slower still."""
    mine = [message for message in session.messages if str(message.content).startswith(name)]
    if len(mine) < SOME:
        session.add_message(Message.user(f"{name} {number}"))
    else:
        session.replace_message(mine[-1].id, Message.user(f"{name} {number}"))


def watch(storage: Any, _: Line, until: int) -> list[str]:
    """Looks until so many messages are there; complaints about looks that went back."""
    repo, wrong, seen = repository(storage), list[str](), list[Any]()
    deadline = time.monotonic() + PATIENCE
    while len(seen) < until and not wrong:
        if time.monotonic() > deadline:
            wrong.append(f"only {len(seen)} of {until} messages came")
        merged = repo.load_merged("s")
        loaded = repo.load("s")
        if merged is None or loaded is None:
            wrong.append("the session is gone")
            continue
        if not set(seen) <= set(texts(merged)) <= set(texts(loaded)):
            wrong.append(f"{len(texts(loaded))} messages after {len(texts(merged))} after {len(seen)}")
        seen = texts(loaded)
    return wrong


class RaceContract:
    """All at once."""

    def test_writers_and_an_editor_lose_nothing(self, desk: Desk) -> None:
        """Appends from held copies, titles, pins, tags, questions and answers: all of it is there, once (P2, P4, P5)."""
        repository(desk.storage).save(talk("s", "first"))
        writers, turns = [f"writer {n}" for n in range(desk.harness.writers)], desk.harness.turns
        at_once(desk, *((append, name, turns) for name in writers), (edit, turns), (ask, turns))
        found = now(desk)
        for name in writers:
            assert [text for text in texts(found) if text.startswith(name)] == [f"{name} {n}" for n in range(turns)]
        answers = [message.content for message in found.messages if message.role == "tool"]
        assert answers == [f"answer {n}" for n in range(1, turns, 2)]
        assert len(found.messages) == 1 + len(writers) * turns + len(answers)
        assert (found.title, found.pinned, found.tags) == (
            f"title {turns - 1}", (turns - 1) % 2 == 0, frozenset(f"tag {n}" for n in range(turns)))
        assert [q.tool_call_id for q in found.pending_questions] == [f"call {n}" for n in range(0, turns, 2)]

    def test_every_question_is_answered_by_one(self, desk: Desk) -> None:
        """Whoever is first; the others are told, and the result stands once (P4)."""
        session, turns = talk("s"), desk.harness.turns
        for number in range(turns):
            session.set_pending_question(tool_call_id=f"call {number}", question="?")
        repository(desk.storage).save(session)
        names = [f"human {n}" for n in range(3)]
        first_at = at_once(desk, *((answer, name, turns) for name in names))
        assert sorted(number for numbers in first_at for number in numbers) == list(range(turns))
        won = {number: name for name, numbers in zip(names, first_at, strict=True) for number in numbers}
        found = now(desk)
        assert found.pending_questions == ()
        assert {m.tool_call_id: m.content for m in found.messages} == {f"call {n}": won[n] for n in range(turns)}
        assert len(found.messages) == turns

    def test_a_deletion_among_saves_stands(self, desk: Desk) -> None:
        """The writers are told, and none of them brings the session back (P9)."""
        repo = repository(desk.storage)
        repo.save(talk("s", "first"))
        with Elsewhere(desk, append_until_told, "a") as a, Elsewhere(desk, append_until_told, "b") as b:
            assert (a.hear(), b.hear()) == ("began", "began")
            with Elsewhere(desk, delete_when_both_wrote) as deleter:
                assert deleter.result() is True
            for writer in (a, b):
                writer.say("deleted")
            assert (a.result(), b.result()) == ("refused", "refused")
        assert desk.newest("s") is None
        assert repo.load_merged("s") is None

    def test_looks_never_go_back(self, desk: Desk) -> None:
        """Of a reader beside writers, who sees more and never less (P3, P7)."""
        repository(desk.storage).save(talk("s", "first"))
        turns = desk.harness.turns
        ended = at_once(desk, (append, "a", turns), (append, "b", turns), (watch, 1 + 2 * turns))
        assert ended[2] == []


def delete_when_both_wrote(storage: Any, _: Line) -> bool:
    """Waits until "a" and "b" have each been seen in it, then deletes."""
    repo, deadline = repository(storage), time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        session = repo.load_merged("s")
        if session is not None and {str(text)[0] for text in texts(session)} >= {"a", "b"}:
            return repo.delete("s")
    return False
