"""Holds: exclusion by session that calls from within can join."""

from __future__ import annotations

import contextvars
from contextlib import contextmanager

import pytest

from bamboo_sessions._holds import Holds
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
        assert inner is outer
        assert len(holds) == 1
        with pytest.raises(LockTimeout) as caught:
            Worker(_hold, holds).result()
    assert (caught.value.session_id, caught.value.seconds) == ("s", 0.02)
    assert len(holds) == 0


def _hold(holds):
    with holds.hold("s") as hold:
        return hold


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
