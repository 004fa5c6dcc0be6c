"""Holds: exclusion by session that calls from within can join."""

from __future__ import annotations

import contextvars
from contextlib import contextmanager

import pytest

from bamboo_sessions._holds import Holds
from bamboo_sessions.clock import real_monotonic
from bamboo_sessions.errors import LockTimeout
from tests.support import Gate, Worker


def test_one_holder_at_a_time():
    """A second thread gets in when the first one is out."""
    holds, gate, order = Holds(None, 10), Gate(), []

    def first():
        with holds.hold("s"):
            gate()
            order.append("first")

    def second():
        with holds.hold("s"):
            order.append("second")

    one = Worker(first)
    gate.reached()
    two = Worker(second)
    assert two.is_waiting()
    gate.open()
    one.result()
    two.result()
    assert order == ["first", "second"]
    assert len(holds) == 0


def test_other_sessions_do_not_wait():
    """P11: another id is free."""
    holds = Holds(None, 0)
    with holds.hold("s"):
        assert Worker(lambda: holds.hold("t").__enter__()).result() is not None


def test_within_joins_and_without_times_out():
    """The same context joins, at any depth; another one waits to its deadline."""
    holds = Holds(None, 0.02)
    with holds.hold("s") as outer, holds.hold("s") as inner:
        assert len(holds) == 1
        inner.at = "a state"
        assert outer.at == "a state"
        with pytest.raises(LockTimeout) as caught:
            Worker(_hold, holds).result()
    assert (caught.value.session_id, caught.value.seconds) == ("s", 0.02)
    assert len(holds) == 0


def test_the_storages_lock_is_taken_second_and_released_first():
    """Within the process's own, with what is left of the time; a failure to get it frees the process's."""
    seen = []

    @contextmanager
    def across(session_id, timeout):
        seen.append(("take", len(holds), timeout <= 5))
        if session_id == "locked":
            raise LockTimeout(session_id, timeout)
        yield
        seen.append(("release", len(holds)))

    holds = Holds(across, 5)
    with holds.hold("s"), holds.hold("s"):
        pass
    assert seen == [("take", 1, True), ("release", 1)]
    with pytest.raises(LockTimeout), holds.hold("locked"):
        pytest.fail("it was not locked")
    assert len(holds) == 0


def test_leaving_on_another_thread_frees():
    """The context that entered is not the one that leaves."""
    holds = Holds(None, 0.02)
    hold = holds.hold("s")
    Worker(contextvars.copy_context().run, hold.__enter__).result()
    Worker(contextvars.copy_context().run, hold.__exit__, None, None, None).result()
    assert len(holds) == 0
    assert Worker(_hold, holds).result() is not None


def test_the_end_waits_for_whoever_joined():
    """A hold is not let go of while a call that joined it is at work."""
    holds, gate = Holds(None, 10), Gate()

    def joined():
        with holds.hold("s"):
            gate()

    def outer():
        with holds.hold("s"):
            worker = Worker(contextvars.copy_context().run, joined)
            gate.reached()
        return worker

    holder = Worker(outer)
    gate.reached()
    assert holder.is_waiting()
    assert len(holds) == 1
    gate.open()
    holder.result().result()
    assert len(holds) == 0


def test_what_joined_may_leave_on_another_thread():
    """Joined here, left there: the outer hold lets the next one in, and can itself be left."""
    holds = Holds(None, 10)
    with holds.hold("s"):
        inner = holds.hold("s")
        Worker(contextvars.copy_context().run, inner.__enter__).result()
        Worker(contextvars.copy_context().run, inner.__exit__, None, None, None).result()
        assert Worker(contextvars.copy_context().run, _hold, holds).result() is not None
    assert len(holds) == 0


def test_joined_calls_take_turns_and_give_up_in_time():
    """What is called from within a joined call joins that one; whoever joins beside it waits, to its deadline."""
    holds = Holds(None, 10)
    with holds.hold("s"):
        beside = contextvars.copy_context()
        with holds.hold("s"):
            within = contextvars.copy_context()
            assert Worker(within.run, _hold, holds).result() is not None
            with pytest.raises(LockTimeout) as caught:
                Worker(beside.run, _hold, holds, 0.02).result()
            assert (caught.value.session_id, caught.value.seconds) == ("s", 0.02)
        assert Worker(beside.run, _hold, holds, 0.02).result() is not None
    assert len(holds) == 0


def test_what_outlives_a_joined_call_joins_the_outer_hold():
    """Started within the inner one, at work after its end: still within the outer one, and no deadlock with it."""
    holds = Holds(None, 0.02)
    with holds.hold("s"):
        with holds.hold("s"):
            started = contextvars.copy_context()
        assert Worker(started.run, _hold, holds).result() is not None
    with holds.hold("s"), pytest.raises(LockTimeout):
        Worker(started.run, _hold, holds).result()


@pytest.mark.parametrize("at", ["taking", "joining", "leaving"])
def test_an_interrupt_leaves_nothing_held(at):
    """A KeyboardInterrupt while waiting for either lock, or for those who joined, frees what had been taken."""
    def across(session_id, timeout):
        raise KeyboardInterrupt

    class Interrupted:
        """In the place of a hold's `body`: what waits for it is interrupted."""

        def acquire(self, timeout):
            raise KeyboardInterrupt

        __enter__ = __exit__ = lambda self, *error: self.acquire(0)

        def release(self):
            pytest.fail("it was never taken")

    holds = Holds(across if at == "taking" else None, 10)
    with pytest.raises(KeyboardInterrupt), holds.hold("s") as outer:
        started, outer.body = contextvars.copy_context(), Interrupted()
        if at == "joining":
            with holds.hold("s"):
                pytest.fail("it joined")
    assert len(holds) == 0
    assert at == "taking" or started.run(holds.live, "s") is None


def test_a_wait_that_began_elsewhere_counts():
    """`since` is for the next hold alone: what it waited before, it does not wait again."""
    holds = Holds(None, 10)
    holds.since.set(real_monotonic() - 9.99)
    other = Worker(lambda: holds.hold("s").__enter__())
    other.result()
    with pytest.raises(LockTimeout) as caught:
        holds.hold("s").__enter__()
    assert caught.value.seconds == 10
    assert holds.since.get() is None


def _hold(holds, *timeout):
    with holds.hold("s", *timeout) as hold:
        return hold
