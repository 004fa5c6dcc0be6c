"""What users see through a repository over this storage: the promises, as one order of steps each.

Where the storage reaches several processes, each writer here has a storage object of its own.
"""

from __future__ import annotations

from typing import Literal

import pytest

from bamboo_sessions.errors import QuestionNotOpen, SessionDeleted, StorageError
from bamboo_sessions.models import Message, Session
from bamboo_sessions.repository import SessionRepository
from bamboo_sessions.testing.harness import Desk, Power, needs
from bamboo_sessions.testing.samples import differences, everything, talk, texts
from bamboo_sessions.testing.wrappers import FailingStorage


def begun(desk: Desk, *words: str) -> tuple[SessionRepository, Session, SessionRepository, Session]:
    """Two writers who hold copies of one session "s" in which these words were said."""
    one, other = desk.repository(), desk.repository()
    mine = talk("s", *words)
    one.save(mine)
    return one, mine, other, held(other)


def held(repo: SessionRepository) -> Session:
    """A copy of "s", which must be there."""
    session = repo.try_load("s")
    assert session is not None
    return session


def now(desk: Desk) -> Session:
    """What a newcomer finds as "s", which must be there."""
    session = desk.newest("s")
    assert session is not None
    return session


class RepositoryContract:
    """Two writers, step by step."""

    def test_a_session_comes_back_whole_through_a_repository(self, desk: Desk) -> None:
        """Every field; and saving what was loaded changes nothing and writes nothing."""
        repo, given = desk.repository(), everything("s")
        repo.save(given)
        found = now(desk)
        assert differences(given, found) == {}
        other = desk.repository()
        again = held(other)
        result = other.save(again)
        assert (result.changed, result.conflicts, again.updated_at) == (False, (), given.updated_at)

    def test_two_held_copies_lose_nothing(self, desk: Desk) -> None:
        """Each says more and saves, again and again: every word is there, once, in its writer's order (P2)."""
        one, mine, other, yours = begun(desk, "first")
        for number in range(4):
            mine.add_message(Message.user(f"one {number}"))
            yours.add_message(Message.user(f"other {number}"))
            one.save(mine)
            other.save(yours)
        said = texts(now(desk))
        assert sorted(said) == sorted(["first", *(f"{who} {n}" for who in ("one", "other") for n in range(4))])
        for who in ("one", "other"):
            assert [text for text in said if text.startswith(who)] == [f"{who} {n}" for n in range(4)]
        assert texts(yours) == said

    def test_edits_and_removals_meet(self, desk: Desk) -> None:
        """A message removed by one, replaced by the other, metadata by both: each change is in the result (P2)."""
        one, mine, other, yours = begun(desk, "a", "b", "c")
        mine.remove_message(mine.messages[0].id)
        mine.metadata["one"] = {"n": [1]}
        one.save(mine)
        yours.replace_message(yours.messages[1].id, Message.user("B"))
        yours.metadata["other"] = None
        other.save(yours)
        found = now(desk)
        assert (texts(found), found.metadata) == (["B", "c"], {"one": {"n": [1]}, "other": None})

    def test_time_goes_forward(self, desk: Desk) -> None:
        """`updated_at` grows with every save, by whichever writer (P10)."""
        one, mine, other, yours = begun(desk, "first")
        seen = [mine.updated_at]
        for number in range(3):
            for repo, session in ((one, mine), (other, yours)):
                session.metadata["n"] = number
                session.metadata[repr(id(repo))] = number
                repo.save(session)
                seen.append(now(desk).updated_at)
        assert seen == sorted(set(seen))

    def test_deleted_stays_deleted(self, desk: Desk) -> None:
        """A save of a copy from before raises SessionDeleted, and nothing is there afterwards (P9)."""
        one, mine, other, _ = begun(desk, "first")
        assert other.delete("s") is True
        mine.add_message(Message.user("late"))
        with pytest.raises(SessionDeleted):
            one.save(mine)
        assert (desk.newest("s"), one.load_merged("s"), one.exists("s"), other.delete("s")) == (None, None, False, False)

    @needs(Power.IDENTITY)
    def test_deleted_and_made_anew_is_another_session(self, desk: Desk) -> None:
        """The old copy is refused, the new session untouched, and a cached copy of the old one gives way (P9)."""
        one, mine, other, _ = begun(desk, "first")
        other.delete("s")
        other.save(talk("s", "anew"))
        mine.add_message(Message.user("late"))
        with pytest.raises(SessionDeleted) as caught:
            one.save(mine)
        assert caught.value.recreated is True
        assert texts(now(desk)) == ["anew"]
        merged = one.load_merged("s")
        assert merged is not None
        assert texts(merged) == ["anew"]

    def test_a_title_given_by_a_person_stays(self, desk: Desk) -> None:
        """With pin, archive and tags, through saves of a runtime that holds an older copy and makes up titles (P5)."""
        one, mine, other, _ = begun(desk, "first")
        other.set_title("s", "By a person")
        other.set_pinned("s", True)
        other.set_archived("s", True)
        other.add_tags("s", "a", "b")
        mine.set_title("made up", source="generated")
        mine.add_message(Message.user("more"))
        one.save(mine)
        found = now(desk)
        assert (found.title, found.title_source, found.pinned, found.archived, found.tags, texts(found)) == (
            "By a person", "user", True, True, frozenset("ab"), ["first", "more"])

    def test_a_question_stays_open_through_other_saves(self, desk: Desk) -> None:
        """Asked by one, while the other saves a copy that never saw it (P4)."""
        one, mine, other, yours = begun(desk, "first")
        mine.set_pending_question(tool_call_id="call", tool_name="ask", question="Really?", options=["y", "n"])
        one.save(mine)
        yours.add_message(Message.user("meanwhile"))
        other.save(yours)
        found = now(desk)
        assert texts(found) == ["first", "meanwhile"]
        assert found.pending_questions == yours.pending_questions == mine.pending_questions != ()

    def test_a_question_is_answered_once(self, desk: Desk) -> None:
        """The second answer is refused, the result stands once, and no older copy opens the question again (P4)."""
        one, mine, other, _ = begun(desk, "first")
        mine.set_pending_question(tool_call_id="call", question="Really?")
        one.save(mine)
        stale = held(desk.repository())
        other.answer("s", "call", "yes")
        with pytest.raises(QuestionNotOpen):
            one.answer("s", "call", "no")
        for session in (mine, stale):
            session.add_message(Message.user("late"))
            one.save(session)
        found = now(desk)
        assert (found.pending_questions, [m.content for m in found.messages if m.role == "tool"]) == ((), ["yes"])

    def test_load_merged_never_goes_back(self, desk: Desk) -> None:
        """Each look shows what was committed last, by whomever; plain load follows and nothing takes it back (P3)."""
        one, mine, other, yours = begun(desk, "first")
        for number in range(4):
            for writer, session, reader in ((other, yours, one), (one, mine, other)):
                session.add_message(Message.user(str(number)))
                writer.save(session)
                merged, loaded = reader.load_merged("s"), reader.load("s")
                assert merged is not None
                assert loaded is not None
                assert texts(merged) == texts(loaded) == texts(session)
                assert loaded.updated_at == session.updated_at

    def test_what_is_loaded_is_the_callers_own(self, desk: Desk) -> None:
        """Nested values included; nobody sees a change before it is saved, nor after a save what comes later (P6)."""
        one, mine, other, _ = begun(desk, "first")
        mine.metadata["k"] = {"list": [1]}
        one.save(mine)
        mine.metadata["k"]["list"].append("unsaved")
        loaded = one.load("s")
        assert loaded is not None
        loaded.metadata["k"]["list"].append("unsaved too")
        loaded.add_message(Message.user("unsaved"))
        found = [now(desk), other.load_merged("s"), one.load("s")]
        assert [session and (session.metadata, texts(session)) for session in found] == [({"k": {"list": [1]}}, ["first"])] * 3

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_a_failed_save_is_repeated_without_harm(self, desk: Desk, when: Literal["before", "after"]) -> None:
        """Whether it was applied or not: saved again, everything is there once, with what was said since."""
        failing = FailingStorage(desk.another())
        repo, other = desk.repository(failing), desk.repository()
        mine, writes = talk("s", "first"), "commit" if desk.has(Power.RECORDS) else "save_session"
        for number in range(3):
            mine.add_message(Message.user(f"mine {number}"))
            failing.fail(writes, when=when)
            with pytest.raises(StorageError):
                repo.save(mine)
            mine.metadata["n"] = number
            repo.save(mine)
            other.update("s", lambda s, number=number: s.add_message(Message.user(f"theirs {number}")))  # type: ignore[misc]  # a default argument binds
        assert failing.failed == 3
        found = now(desk)
        expected = ["first", "mine 0", "theirs 0", "mine 1", "theirs 1", "mine 2", "theirs 2"]
        assert (sorted(texts(found)), found.metadata) == (sorted(expected), {"n": 2})

    def test_what_could_not_be_saved_is_kept_and_flushed(self, desk: Desk) -> None:
        """save_and_cache swallows the failure, loads give the copy, and flush stores it beside what others did."""
        failing = FailingStorage(desk.another())
        repo, other = desk.repository(failing), desk.repository()
        mine, writes = talk("s", "first"), "commit" if desk.has(Power.RECORDS) else "save_session"
        repo.save(mine)
        mine.add_message(Message.user("kept"))
        failing.fail(writes)
        repo.save_and_cache(mine)
        other.update("s", lambda session: session.add_message(Message.user("theirs")))
        loaded = repo.load("s")
        assert loaded is not None
        assert (failing.failed, texts(loaded), texts(now(desk))) == (1, ["first", "kept"], ["first", "theirs"])
        repo.flush()
        assert sorted(texts(now(desk))) == ["first", "kept", "theirs"]
