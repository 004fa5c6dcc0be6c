"""The two readings of time, and the one that no test can freeze."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from freezegun import freeze_time

from bamboo_sessions import Clock, SystemClock
from bamboo_sessions.clock import real_monotonic
from tests.support import START, ManualClock


def test_clocks_satisfy_the_protocol():
    """The machine's and the tests'."""
    assert isinstance(SystemClock(), Clock)
    assert isinstance(ManualClock(), Clock)


def test_the_system_clock_is_the_machines():
    """Aware, in UTC, close to what Python says."""
    before, now, after = datetime.now(UTC), SystemClock().now(), datetime.now(UTC)
    assert before <= now <= after
    assert now.utcoffset() == timedelta(0)
    a, b = SystemClock().monotonic(), SystemClock().monotonic()
    assert a <= b


def test_a_frozen_clock_is_obeyed_and_the_real_one_goes_on():
    """freeze_time stops both readings; the deadline of a lock wait still comes."""
    with freeze_time(START):
        clock = SystemClock()
        first = clock.monotonic()
        begun = real_monotonic()
        while real_monotonic() - begun < 0.002:
            pass
        assert clock.now() == START
        assert clock.monotonic() == first


def test_sleeping():
    """At least that long, by the machine's clock; none at all by hand."""
    begun = time.perf_counter()
    SystemClock().sleep(0.002)
    assert time.perf_counter() - begun >= 0.002
    clock = ManualClock()
    clock.sleep(1000)
    assert (clock.monotonic(), clock.now()) == (1000, START)
