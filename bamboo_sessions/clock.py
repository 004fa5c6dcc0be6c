"""Time comes in as an argument: nothing below the edges looks at a clock of its own.

Two readings that must never be mixed: `now` is what people and other hosts see and may jump either way; `monotonic`
measures waiting and expiry inside one process and means nothing outside of it.
"""

from __future__ import annotations

import datetime as _datetime
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable


@runtime_checkable
class Clock(Protocol):
    """What the library asks of time. `bamboo_sessions` ships `SystemClock`; tests move one by hand."""

    def now(self) -> _datetime.datetime:
        """The wall clock, aware, in UTC, to the microsecond."""

    def monotonic(self) -> float:
        """Seconds since nowhere in particular; never goes backwards within a process."""

    def sleep(self, seconds: float) -> None:
        """Wait that long. Lock waits use it; a clock that stands still must still return."""


class SystemClock:
    """The machine's clocks, looked up at each call so that a test which freezes `datetime` or `time` is obeyed."""

    def now(self) -> _datetime.datetime:
        return _datetime.datetime.now(_datetime.UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


SYSTEM_CLOCK = SystemClock()


def seconds_of(clock: Clock) -> Callable[[], float]:
    """`clock.now` as seconds since 1970, for comparisons that come with every load: a datetime costs five times as much."""
    if type(clock) is SystemClock:
        return lambda: time.time()  # noqa: PLW0108 - looked up at each call, for whoever freezes it
    return lambda: clock.now().timestamp()


def real_monotonic() -> float:
    """Seconds for deadlines of lock waits: read from the kernel, so that a frozen `time.monotonic` cannot hang a wait."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)
