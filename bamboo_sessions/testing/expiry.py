"""What a storage owes whose sessions expire: nobody sees them, nobody's work is lost, and nothing that is active goes.

Time is the test's: the harness opens the storage with a clock that stands until it is moved. It starts at the real time, for
a storage may also go by times that others stamp (a file system does).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from bamboo_sessions.errors import SessionDeleted, SessionExpired, SessionNotFound
from bamboo_sessions.models import Message, Session
from bamboo_sessions.repository import SessionRepository
from bamboo_sessions.storages.protocol import Expiry, Record, has_expiry
from bamboo_sessions.testing.clock import ManualClock
from bamboo_sessions.testing.harness import Desk, Power, needs
from bamboo_sessions.testing.samples import talk, texts

TTL: Final = timedelta(hours=1)
ROUNDS: Final = 12


class Table:
    """One test's clock, and repositories over storages that go by it."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.clock = desk, ManualClock(datetime.now(UTC))
        self.storage: Any = desk.open_expiring(TTL, self.clock)
        assert has_expiry(self.storage), "expiry is claimed and there is none"
        self.expiry: Expiry = self.storage
        self.repo = self.repository()

    def repository(self) -> SessionRepository:
        """A writer's, with a cache of its own, and a storage of its own where processes may share the place."""
        storage = self.desk.open_expiring(TTL, self.clock) if self.desk.has(Power.PROCESSES) else self.storage
        return self.desk.repository(storage, self.clock)

    def saved(self, session_id: str = "s", *words: str) -> Session:
        """A session that was just saved."""
        session = talk(session_id, *(words or ("first",)))
        self.repo.save(session)
        return session

    def seen(self, session_id: str = "s") -> set[str]:
        """Every way in which the session is shown, by name."""
        newcomer, storage = self.repository(), self.storage
        ways: dict[str, Callable[[], object]] = {
            "load_session": lambda: storage.load_session(session_id), "storage.exists": lambda: storage.exists(session_id),
            "heads": lambda: [head for head, _ in storage.heads() if head["id"] == session_id],
            "load": lambda: self.repo.load(session_id), "try_load": lambda: self.repo.try_load(session_id),
            "load_merged": lambda: self.repo.load_merged(session_id), "exists": lambda: newcomer.exists(session_id),
            "a first load": lambda: newcomer.try_load(session_id), "store": lambda: newcomer.persistence.load(session_id),
            "a first load_merged": lambda: self.repository().try_load_merged(session_id),
            "list": lambda: [item for item in newcomer.list().items if item.id == session_id]}
        return {name for name, look in ways.items() if look()}

    def is_shown(self, session_id: str = "s") -> bool:
        """In every way, or in none."""
        seen = self.seen(session_id)
        assert len(seen) in (0, 11), f"shown by these alone: {sorted(seen)}"
        return bool(seen)

    def record(self, session_id: str = "s") -> Record | None:
        """What is kept."""
        answer = self.storage.read(session_id)
        assert answer is None or isinstance(answer, Record)
        return answer


@needs(Power.EXPIRY, Power.RECORDS)
class ExpiryContract:
    """`Expiry`, through the storage and through repositories."""

    def test_an_expired_session_is_shown_nowhere(self, desk: Desk) -> None:
        """Neither by the storage nor from a warm cache, from one moment to the next; what is kept is still there to read."""
        table = Table(desk)
        table.saved("s")
        table.clock.forward(minutes=59)
        table.saved("younger")
        assert table.is_shown("s")
        table.clock.forward(minutes=2)
        assert not table.is_shown("s")
        assert table.is_shown("younger")
        assert table.record("s") is not None
        assert list(table.expiry.expired()) == ["s"]

    def test_a_save_starts_the_time_anew(self, desk: Desk) -> None:
        """Also one that has nothing to write, which makes no revision; whoever made it, all see that it is active."""
        table = Table(desk)
        mine = table.saved()
        for number in range(3):
            table.clock.forward(minutes=40)
            mine.add_message(Message.user(str(number)))
            assert table.repo.save(mine).changed
        other = table.repository()
        theirs = other.try_load("s")
        assert theirs is not None
        for _ in range(3):
            table.clock.forward(minutes=40)
            assert not other.save(theirs).changed
        assert table.is_shown()
        assert theirs.revision == mine.revision == 4

    def test_a_touch_starts_the_time_anew(self, desk: Desk) -> None:
        """Without a revision and without another stamp: nobody has to read anything again."""
        table = Table(desk)
        table.saved()
        before, other = table.record(), table.repository()
        for _ in range(3):
            table.clock.forward(minutes=40)
            other.touch("s")
        assert table.is_shown()
        after = table.record()
        assert before is not None
        assert after is not None
        assert (after.head, after.ops) == (before.head, before.ops)

    def test_touching_nobody_is_refused(self, desk: Desk) -> None:
        """SessionNotFound; none is made."""
        table = Table(desk)
        with pytest.raises(SessionNotFound):
            desk.as_expiry(table.storage).touch("nobody")
        with pytest.raises(SessionNotFound):
            table.repo.touch("nobody")
        assert table.record("nobody") is None
        assert table.expiry.time_left("nobody") is None

    def test_what_is_pinned_or_asks_does_not_expire(self, desk: Desk) -> None:
        """Nor is it purged; when that ends, its time starts anew."""
        table = Table(desk)
        for name in ("pinned", "asks"):
            table.saved(name)
        table.repo.set_pinned("pinned", True)
        table.repo.update("asks", lambda s: s.set_pending_question(tool_call_id="c", question="Really?"))
        table.clock.forward(days=30)
        assert table.repo.purge_expired() == 0
        assert table.is_shown("pinned")
        assert table.is_shown("asks")
        other = table.repository()
        other.set_pinned("pinned", False)
        other.answer("asks", "c", "yes")
        for minutes, shown in ((59, True), (2, False)):
            table.clock.forward(minutes=minutes)
            assert (table.is_shown("pinned"), table.is_shown("asks")) == (shown, shown)

    def test_a_save_of_a_copy_renews_an_expired_session(self, desk: Desk) -> None:
        """While it was not purged: with what the copy has to say, and with nothing."""
        table = Table(desk)
        mine = table.saved()
        for said in (["first", "more"], ["first", "more"]):
            table.clock.forward(hours=2)
            assert not table.is_shown()
            if texts(mine) != said:
                mine.add_message(Message.user("more"))
            table.repo.save(mine)
            assert table.is_shown()
            assert texts(mine) == said

    def test_what_is_expired_is_not_edited_by_its_id(self, desk: Desk) -> None:
        """SessionExpired from edit, update, set_*, answer and touch; nothing was changed."""
        table = Table(desk)
        table.saved()
        before = table.record()
        table.clock.forward(hours=2)
        repo = table.repo
        calls: tuple[Callable[[], object], ...] = (
            lambda: repo.touch("s"), lambda: repo.edit("s").__enter__(), lambda: repo.set_title("s", "title"),
            lambda: repo.update("s", lambda s: s.add_message(Message.user("late"))), lambda: repo.answer("s", "c", "yes"))
        for call in calls:
            with pytest.raises(SessionExpired):
                call()
        after = table.record()
        assert before is not None
        assert after is not None
        assert (after.head, list(after.messages)) == (before.head, list(before.messages))

    def test_a_purge_removes_what_has_expired(self, desk: Desk) -> None:
        """That and nothing else, and says how many; a later save of a copy is told that it expired, and how to go on."""
        table = Table(desk)
        mine, _, deleted = table.saved("s"), table.saved("t"), table.saved("deleted")
        table.clock.forward(hours=2)
        table.saved("younger")
        table.repo.delete("deleted")
        assert table.repository().purge_expired() == 2
        assert [table.record(name) for name in "st"] == [None, None]
        assert table.is_shown("younger")
        for copy, error in ((mine, SessionExpired), (deleted, SessionDeleted)):
            copy.add_message(Message.user("late"))
            with pytest.raises(error, match="as_new"):
                table.repo.save(copy)
        table.repo.save(mine.as_new())
        assert table.is_shown("s")
        assert table.repo.purge_expired() == 0

    def test_a_purge_is_remembered(self, desk: Desk) -> None:
        """By birth, and by id as long as that is free; what was deleted by somebody is not taken for expired."""
        table = Table(desk)
        mine, other = table.saved("s"), table.saved("other")
        assert not table.expiry.was_expired("s", mine.birth)
        table.clock.forward(hours=2)
        assert not table.expiry.was_expired("s", mine.birth)
        assert table.repo.purge_expired() == 2
        assert table.expiry.was_expired("s", mine.birth)
        assert table.expiry.was_expired("s")
        assert table.storage.was_deleted("s", mine.birth)
        assert not table.expiry.was_expired("s", other.birth)
        again = table.saved("s", "again")
        assert table.expiry.was_expired("s", mine.birth)
        assert not table.expiry.was_expired("s")
        table.repo.delete("s")
        assert not table.expiry.was_expired("s")
        assert not table.expiry.was_expired("s", again.birth)

    def test_a_fresh_session_takes_the_place_of_an_expired_one(self, desk: Desk) -> None:
        """Whether or not anybody purged: what is not shown is as good as gone, and its copies are refused from then on."""
        table = Table(desk)
        mine = table.saved("s", "old")
        table.clock.forward(hours=2)
        other = table.repository()
        fresh = other.load_or_create("s")
        assert texts(fresh) == []
        fresh.add_message(Message.user("new"))
        other.save(fresh)
        assert table.is_shown()
        record = table.record()
        assert record is not None
        assert len(record.messages) == 1
        mine.add_message(Message.user("late"))
        with pytest.raises(SessionExpired):
            table.repo.save(mine)
        merged = table.repo.load_merged("s")
        assert merged is not None
        assert texts(merged) == ["new"]

    def test_a_purge_looks_again(self, desk: Desk) -> None:
        """A candidate that was active since it was named stays, by a touch as by a commit."""
        table = Table(desk)
        mine, records = table.saved("s"), desk.as_expiry(table.storage)
        for renew in (lambda: records.touch("s"), lambda: table.repo.save(mine)):
            table.clock.forward(hours=2)
            assert list(table.expiry.expired()) == ["s"]
            renew()
            assert records.purge_record("s") is False
            assert table.is_shown()
        table.clock.forward(hours=2)
        assert (records.purge_record("s"), records.purge_record("s")) == (True, False)

    def test_a_clock_that_jumps_back_ages_nothing(self, desk: Desk) -> None:
        """Whatever was active keeps its whole time at the least, also when it is touched or saved meanwhile."""
        table = Table(desk)
        mine = table.saved()
        table.clock.jump(days=-30)
        assert table.is_shown()
        table.repo.touch("s")
        mine.add_message(Message.user("more"))
        table.repo.save(mine)
        assert table.repo.purge_expired() == 0
        table.clock.jump(days=30, minutes=59)
        assert table.is_shown()

    def test_a_clock_that_jumps_ahead_is_obeyed_and_forgiven(self, desk: Desk) -> None:
        """What it hides is shown again when it is set right; a clock that stands makes nothing old."""
        table = Table(desk)
        table.saved()
        for _ in range(3):
            assert table.is_shown()
        table.clock.jump(days=1)
        assert not table.is_shown()
        table.clock.jump(days=-1)
        assert table.is_shown()

    def test_a_save_and_a_purge_at_once(self, desk: Desk) -> None:
        """The save is acknowledged and all of it is there, or it is told that the session expired, and none of it is."""
        table = Table(desk)
        for number in range(ROUNDS):
            mine, purger = table.saved(f"s{number}"), table.repository()
            table.clock.forward(hours=2)
            mine.add_message(Message.user("late"))
            saved, _ = _at_once(number, lambda mine=mine: table.repo.save(mine), purger.purge_expired)  # type: ignore[misc]  # binds
            record = table.record(f"s{number}")
            assert isinstance(saved, SessionExpired) is (record is None), saved
            assert record is None or len(record.messages) == 2
            table.repo.delete(f"s{number}")  # the next purge has nothing to do before it meets the save

    def test_a_touch_and_a_purge_at_once(self, desk: Desk) -> None:
        """A touch that returned was in time: the session is there. One that came too late says so."""
        table = Table(desk)
        for number in range(ROUNDS):
            name, purger = f"s{number}", table.repository()
            table.saved(name)
            table.clock.forward(minutes=59)

            def late(purger: SessionRepository = purger) -> int:
                table.clock.forward(minutes=2)
                return purger.purge_expired()

            touched, _ = _at_once(number, lambda name=name: table.repo.touch(name), late)  # type: ignore[misc]  # binds
            assert touched is None or isinstance(touched, SessionExpired), touched
            assert touched is not None or table.record(name) is not None
            table.repo.delete(name)


def _at_once(turn: int, *calls: Callable[[], Any]) -> list[Any]:
    """What each of them gave, or raised, begun together. Whoever comes last to a barrier is mostly the first to leave it, so
    they come in another order each turn."""
    ready, given = threading.Barrier(len(calls)), list[Any]([None] * len(calls))

    def run(number: int, call: Callable[[], Any]) -> None:
        ready.wait()
        try:
            given[number] = call()
        except Exception as error:  # noqa: BLE001 - it is the answer
            given[number] = error

    threads = [threading.Thread(target=run, args=one) for one in enumerate(calls)]
    for thread in threads[:: 1 if turn % 2 else -1]:
        thread.start()
    for thread in threads:
        thread.join()
    return given
