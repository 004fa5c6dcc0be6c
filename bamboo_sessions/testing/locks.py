"""What a lock owes: it excludes, it gives up in time, and it does not outlive whoever held it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from bamboo_sessions.errors import LockTimeout
from bamboo_sessions.storages.protocol import SessionLocks, has_locks
from bamboo_sessions.testing.elsewhere import Elsewhere, Line
from bamboo_sessions.testing.harness import Desk, Power, needs


def locks_of(storage: object) -> SessionLocks:
    """The storage, as something with locks."""
    assert has_locks(storage), f"{type(storage).__name__} claims locks and has no method `lock`"
    return storage


def hold(storage: Any, line: Line, session_id: str) -> None:
    """Take the lock, say so, and keep it until told to let go."""
    with storage.lock(session_id, 10.0):
        line.say("held")
        line.hear()
    line.say("let go")


def try_for(storage: Any, _: Line, session_id: str, timeout: float) -> str:
    """"got it", or the name of what was raised."""
    try:
        with storage.lock(session_id, timeout):
            return "got it"
    except LockTimeout as error:
        return f"LockTimeout {error.session_id} {error.seconds:g}"


def take_in_turns(storage: Any, _: Line, counter: str, turns: int) -> None:
    """Read a number, and write the next one, in a file: two who are in at a time lose a turn."""
    for _turn in range(turns):
        with storage.lock("s", 20.0):
            with open(counter, encoding="ascii") as file:  # noqa: PTH123 - the path came through a pipe
                number = int(file.read())
            time.sleep(0.001)  # so that without exclusion the others do come in between
            with open(counter, "w", encoding="ascii") as file:  # noqa: PTH123 - see above
                file.write(str(number + 1))


@needs(Power.LOCKS)
class LockContract:
    """`lock`. The others are processes where the storage claims several, else threads."""

    def test_a_lock_excludes_others_elsewhere(self, desk: Desk) -> None:
        """While it is held elsewhere it cannot be had here, and the reverse; afterwards it can."""
        locks = locks_of(desk.storage)
        with Elsewhere(desk, hold, "s") as other:
            assert other.hear() == "held"
            with pytest.raises(LockTimeout) as caught, locks.lock("s", 0.05):
                pass
            assert caught.value.session_id == "s"
            other.say("let go")
            assert other.hear() == "let go"
            other.result()
        with locks.lock("s", 5.0), Elsewhere(desk, try_for, "s", 0.05) as other:
            assert other.result() == "LockTimeout s 0.05"
        with Elsewhere(desk, try_for, "s", 5.0) as other:
            assert other.result() == "got it"

    def test_a_lock_excludes_each_from_all(self, desk: Desk) -> None:
        """Several who count in a file, under the lock, lose no turn."""
        counter = desk.place.with_name("counter")
        counter.write_text("0", encoding="ascii")
        writers, turns = desk.harness.writers, desk.harness.turns
        others = [Elsewhere(desk, take_in_turns, str(counter), turns) for _ in range(writers)]
        for other in others:
            with other:
                other.result()
        assert counter.read_text(encoding="ascii") == str(writers * turns)

    def test_a_wait_for_a_lock_ends(self, desk: Desk) -> None:
        """After the seconds that were given, not at once and not much later; with none at all, at once."""
        locks = locks_of(desk.storage)
        with Elsewhere(desk, hold, "s") as other:
            assert other.hear() == "held"
            for seconds in (0.0, 0.2):
                began = time.monotonic()
                with pytest.raises(LockTimeout), locks.lock("s", seconds):
                    pass
                assert seconds * 0.9 <= time.monotonic() - began < seconds + 5
            other.say("let go")
            other.hear()
            other.result()

    def test_a_lock_is_of_one_session(self, desk: Desk) -> None:
        """Others can be had meanwhile, ids that look alike included (P11)."""
        locks = locks_of(desk.storage)
        with Elsewhere(desk, hold, "s") as other:
            assert other.hear() == "held"
            for name in ("S", "s ", "s/", "t"):
                with locks.lock(name, 0.5):
                    pass
            other.say("let go")
            other.hear()
            other.result()

    def test_a_failed_body_lets_go(self, desk: Desk) -> None:
        """Whatever is raised within."""
        locks = locks_of(desk.storage)
        with pytest.raises(KeyError), locks.lock("s", 5.0):
            raise KeyError("within")
        with Elsewhere(desk, try_for, "s", 5.0) as other:
            assert other.result() == "got it"

    def test_a_lock_makes_no_session(self, desk: Desk) -> None:
        """Nobody has to be there to be locked, and nobody is afterwards."""
        with locks_of(desk.storage).lock("nobody", 5.0):
            pass
        assert desk.storage.load_session("nobody") is None

    @needs(Power.PROCESSES)
    def test_a_lock_does_not_outlive_its_holder(self, desk: Desk) -> None:
        """A process that is killed while it holds the lock does not keep the others out."""
        with Elsewhere(desk, hold, "s") as other:
            assert other.hear() == "held"
            other.kill()
            with locks_of(desk.storage).lock("s", 10.0):
                pass
