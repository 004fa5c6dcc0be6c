"""What a storage owes that makes room for a writer: others wait, nobody for ever, and nothing is lost but that room.

The others are threads of the same object, another object and another process, as far as the storage claims to reach them.
Whether somebody waits shows only while he does: each of them says that he is about to try, and is then given a moment in
which a storage that keeps nobody out would have let him through. Longer than that moment waits only who has to.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final

import pytest

from bamboo_sessions.errors import LockTimeout, RevisionConflict, StorageUnavailable
from bamboo_sessions.models import Message
from bamboo_sessions.repository import SessionRepository
from bamboo_sessions.storages.shortcuts import Alone, makes_room
from bamboo_sessions.testing.elsewhere import PATIENCE, Elsewhere, Line, Task, heard_from
from bamboo_sessions.testing.harness import Desk, Power, needs
from bamboo_sessions.testing.records import page, whole
from bamboo_sessions.testing.records_shared import second
from bamboo_sessions.testing.samples import talk, texts
from bamboo_sessions.testing.scribe import Page, first, later, written
from bamboo_sessions.testing.wrappers import Wrapping

MOMENT: Final = 0.2
"""Seconds in which whoever need not wait is done."""
_OVERTAKEN: Final = 3
"""After so many tries a save asks for room."""
TOLD: Final = frozenset({"refused", "unavailable, not applied"})
"""How a call may end that changed nothing and says so."""


def rooms_of(storage: object) -> Alone:
    """The storage, as something that makes room."""
    assert makes_room(storage), f"{type(storage).__name__} claims room and has no method `alone`"
    return storage


def outcome(call: Callable[[], object]) -> str:
    """How it ended: "done", or what was told."""
    try:
        call()
    except (LockTimeout, RevisionConflict):
        return "refused"
    except StorageUnavailable as error:
        return f"unavailable, {error.outcome}"
    return "done"


# -- what the others do ------------------------------------------------------------------------------------------------


def commit_theirs(storage: Any, line: Line, number: int) -> str:
    """A second revision of "s"."""
    _ready_to_try(line)
    return outcome(lambda: storage.commit(later("s", 2, 1, "theirs", op=f"theirs {number}")))


def delete_it(storage: Any, line: Line, _number: int) -> str:
    _ready_to_try(line)
    return outcome(lambda: storage.delete_record("s"))


def add_theirs(storage: Any, line: Line, number: int, session_id: str = "s") -> str:
    """One more message, on whatever is there."""
    _ready_to_try(line)
    found = whole(storage, session_id)
    revision, length = found.head["revision"], len(found.messages)
    return outcome(lambda: storage.commit(later(session_id, revision + 1, length, f"theirs {number}", op=f"theirs {number}")))


def _ready_to_try(line: Line) -> None:
    line.say("ready")
    line.hear()
    line.say("trying")


def in_rooms_of_rooms(storage: Any, _: Line) -> None:
    """Every order of two rooms, and of a room and a change of something else."""
    with storage.alone("a"), storage.alone("a"):
        storage.commit(later("a", 2, 1, "a2"))
    with storage.alone("a"):
        with storage.alone("a"):
            whole(storage, "a")
        storage.commit(later("a", 3, 2, "a3"))
    with storage.alone("a"), storage.alone("b"):
        storage.commit(later("b", 2, 1, "b2"))
        storage.commit(later("a", 4, 3, "a4"))
    with storage.alone("a"):
        with storage.alone("b"):
            whole(storage, "a")
        storage.commit(later("a", 5, 4, "a5"))
    with storage.alone("a"):
        storage.commit(later("b", 3, 2, "b3"))
        storage.commit(later("a", 6, 5, "a6"))
        storage.commit(later("a", 7, 6, "a7"))
    with storage.alone("a"):
        storage.delete_record("b")
        whole(storage, "a")


def change_another(storage: Any, line: Line, mine: str, yours: str) -> None:
    """Alone with one session, which somebody wants who is alone with the other one."""
    line.say("ready")
    line.hear()
    with storage.alone(mine):
        line.say("alone")
        line.hear()
        storage.commit(later(yours, 2, 1, f"by {mine}", op=f"by {mine}"))


@contextmanager
def _others(desk: Desk, task: Task, *args: Any) -> Iterator[Sequence[Elsewhere]]:
    """Everybody else whom the storage claims to reach, ready to try: opened before there is a room to wait for."""
    there: list[Any] = [desk.storage, *([desk.open()] if desk.has(Power.REOPEN) else []),
                        *([None] if desk.has(Power.PROCESSES) else [])]
    with ExitStack() as stack:
        others = [stack.enter_context(Elsewhere(desk, task, number, *args, storage=storage)) for number, storage in enumerate(there)]
        for other in others:
            assert other.hear() == "ready"
        yield others


def _let_try(others: Sequence[Elsewhere]) -> list[Elsewhere]:
    """Those who were through within a moment."""
    for other in others:
        other.say("go")
    for other in others:
        assert other.hear() == "trying"
    return heard_from(others, MOMENT)


def _go_on(others: Sequence[Elsewhere]) -> list[Any]:
    """How it ends for each, one after the other."""
    ended = []
    for other in others:
        other.say("go")
        assert other.hear() == "trying"
        ended.append(other.result())
    return ended


class Overtaken(Wrapping):
    """Whenever it was read, somebody else saves at once: three times before there is room, for which he is waited for, and then
    for a moment, of which he takes no more than he needs."""

    def __init__(self, inner: Any, busy: SessionRepository) -> None:
        super().__init__(inner)
        self._busy, self._one_by_one = busy, threading.Lock()  # guards the count: who had to wait meets the next one
        self.overtaking = False
        self.looks = self.saved = 0
        self._threads: list[threading.Thread] = []

    def _call(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        answer = call(*args)
        if name == "read" and self.overtaking:
            self.looks += 1
            self._threads.append(threading.Thread(target=self._save, daemon=True))
            self._threads[-1].start()
            self._threads[-1].join(PATIENCE if self.looks <= _OVERTAKEN else MOMENT)
        return answer

    def _save(self) -> None:
        with self._one_by_one:
            self._busy.update("s", lambda session: session.add_message(Message.user(f"busy {self.saved + 1}")))
            self.saved += 1

    def ended(self) -> int:
        """How many saves it were in the end."""
        for thread in self._threads:
            thread.join(PATIENCE)
        return self.saved


@needs(Power.RECORDS, Power.ALONE)
class RoomContract:
    """`alone`."""

    def test_nobody_else_commits_meanwhile(self, desk: Desk) -> None:
        """They wait; whoever is alone reads and commits, and what the others stood on is not there any more."""
        storage = desk.records
        storage.commit(first("s", "w1"))
        with _others(desk, commit_theirs) as others:
            with rooms_of(desk.storage).alone("s"):
                assert _let_try(others) == [], "a commit went through while somebody else was alone with the session"
                assert page(storage, "s") == written(first("s", "w1"))
                storage.commit(later("s", 2, 1, "mine", op="mine"))
            told = [other.result() for other in others]
        assert set(told) <= TOLD, told
        assert page(storage, "s") == written(first("s", "w1"), later("s", 2, 1, "mine", op="mine"))

    def test_nobody_else_deletes_meanwhile(self, desk: Desk) -> None:
        """They wait; a deletion that went through comes after the commit, and one that did not says so."""
        storage = desk.records
        storage.commit(first("s", "w1"))
        with _others(desk, delete_it) as others:
            with rooms_of(desk.storage).alone("s"):
                assert _let_try(others) == [], "a deletion went through while somebody else was alone with the session"
                storage.commit(later("s", 2, 1, "mine", op="mine"))
            told = [other.result() for other in others]
        assert set(told) <= TOLD | {"done"}, told
        assert storage.exists("s") is ("done" not in told)

    @needs(Power.RECORDS, Power.ALONE, Power.REOPEN)
    def test_who_is_alone_sees_the_newest_state(self, desk: Desk) -> None:
        """Whatever it knew before: by a stamp, and whole; and a commit on that is applied."""
        storage, other, commits = desk.records, second(desk), [first("s", "w1"), later("s", 2, 1, "w2"), later("s", 3, 0, "w3")]
        storage.commit(commits[0])
        known = whole(storage, "s")
        for commit in commits[1:]:
            other.commit(commit)
        with rooms_of(desk.storage).alone("s"):
            assert Page().as_seen(known).as_seen(storage.read("s", known.stamp)) == written(*commits)
            assert page(storage, "s") == written(*commits)
            storage.commit(later("s", 4, 1, "mine"))
        assert page(other, "s") == written(*commits, later("s", 4, 1, "mine"))

    @pytest.mark.parametrize("left", ["by an error", "without a commit", "after a commit"])
    def test_others_go_on_when_the_room_is_left(self, desk: Desk, left: str) -> None:
        """However that is, and an error is the caller's to see. What was not committed is not there."""
        storage, commits, caught = desk.records, [first("s", "w1")], ""
        storage.commit(commits[0])
        with _others(desk, add_theirs) as others:
            try:
                with rooms_of(desk.storage).alone("s"):
                    assert page(storage, "s") == written(*commits)
                    if left == "by an error":
                        raise KeyError(left)
                    if left == "after a commit":
                        commits.append(later("s", 2, 1, "mine", op="mine"))
                        storage.commit(commits[1])
            except KeyError as error:
                caught = str(error.args[0])
            assert caught == (left if left == "by an error" else "")
            assert page(storage, "s") == written(*commits)
            assert set(_go_on(others)) == {"done"}
        for number in range(len(others)):
            commits.append(later("s", len(commits) + 1, len(commits), f"theirs {number}", op=f"theirs {number}"))
        assert page(storage, "s") == written(*commits)

    def test_what_was_committed_within_stays(self, desk: Desk) -> None:
        """Durable when the commit returned, here as anywhere, and whatever is raised afterwards."""
        storage, commits = desk.records, [first("s", "w1"), later("s", 2, 1, "mine")]
        storage.commit(commits[0])
        with suppress(KeyError), rooms_of(desk.storage).alone("s"):
            storage.commit(commits[1])
            raise KeyError("after it")
        assert page(storage, "s") == written(*commits)
        if desk.has(Power.REOPEN):
            assert page(second(desk), "s") == written(*commits)
        storage.commit(later("s", 3, 2, "and on"))
        assert page(storage, "s") == written(*commits, later("s", 3, 2, "and on"))

    def test_room_makes_no_session(self, desk: Desk) -> None:
        """Nobody has to be there, and nobody is afterwards; a first commit within makes one."""
        storage, rooms = desk.records, rooms_of(desk.storage)
        with rooms.alone("nobody"):
            assert storage.read("nobody") is None
        assert (storage.read("nobody"), storage.exists("nobody"), list(storage.heads())) == (None, False, [])
        with rooms.alone("new"):
            storage.commit(first("new", "w1"))
        assert page(storage, "new") == written(first("new", "w1"))

    def test_a_room_within_a_room_is_safe(self, desk: Desk) -> None:
        """Of the same session, of another one, and a change of another one: nobody waits for himself, every commit is applied
        once, and nobody is kept out afterwards."""
        storage = desk.records
        for name in ("a", "b"):
            storage.commit(first(name, f"{name}1"))
        with Elsewhere(desk, in_rooms_of_rooms, storage=desk.storage) as other:
            other.result()
        assert page(storage, "a") == written(first("a", "a1"), *(later("a", n, n - 1, f"a{n}") for n in range(2, 8)))
        assert storage.read("b") is None
        storage.commit(first("b", "anew", birth="anotherbirth0000", op="anew"))
        with _others(desk, add_theirs, "a") as others:
            assert set(_go_on(others)) == {"done"}

    @pytest.mark.parametrize("here", [True, False])
    def test_two_who_want_each_others_sessions_do_not_wait_for_ever(self, desk: Desk, here: bool) -> None:
        """Each is alone with one and changes the other's: threads of one object, and as far away as the storage reaches. Where
        there is one room for all sessions, one of them comes second."""
        storage = desk.records
        for name in ("a", "b"):
            storage.commit(first(name, "w1"))
        of = desk.storage if here else None
        with Elsewhere(desk, change_another, "a", "b", storage=of) as one, Elsewhere(desk, change_another, "b", "a", storage=of) as two:
            for other in (one, two):
                assert other.hear() == "ready"
            for other in (one, two):
                other.say("go")
            got_in = heard_from((one, two), PATIENCE)
            assert got_in, "nobody is let in"
            heard_from([other for other in (one, two) if other not in got_in], MOMENT)
            for other in (one, two):
                other.say("go on")
            for other in (one, two):
                assert other.hear() == "alone"
                other.result()
        for mine, yours in (("a", "b"), ("b", "a")):
            assert page(storage, yours) == written(first(yours, "w1"), later(yours, 2, 1, f"by {mine}", op=f"by {mine}"))

    def test_whoever_is_overtaken_again_and_again_gets_through(self, desk: Desk) -> None:
        """A save that somebody busy was ahead of three times comes fourth, and neither loses a word (P2)."""
        busy = desk.repository(desk.storage)
        busy.save(talk("s", "begun"))
        overtaken = Overtaken(desk.open() if desk.has(Power.REOPEN) else desk.storage, busy)
        slow = desk.repository(overtaken)
        mine = slow.load("s")
        assert mine is not None
        busy.update("s", lambda session: session.add_message(Message.user("busy")))  # whoever guesses is wrong already
        mine.add_message(Message.user("at last"))
        overtaken.overtaking = True
        slow.save(mine)
        overtaken.overtaking = False
        saved = overtaken.ended()
        found = desk.repository(desk.storage).try_load("s")
        assert found is not None
        assert texts(found) == ["begun", "busy", "busy 1", "busy 2", "busy 3", "at last", "busy 4"]
        assert overtaken.looks == saved == _OVERTAKEN + 1
