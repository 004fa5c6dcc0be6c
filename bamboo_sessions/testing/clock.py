"""A clock that a test moves by hand: nothing waits for real time, and a jump of the wall clock is one line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

START: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)
"""Where a `ManualClock` stands unless told otherwise."""


class ManualClock:
    """A `Clock` that stands until it is moved. Waiting takes no time, and only the monotonic reading notices it."""

    def __init__(self, now: datetime = START) -> None:
        self.time, self.seconds = now, 0.0

    def now(self) -> datetime:
        """The wall clock as it was set last."""
        return self.time

    def monotonic(self) -> float:
        """Seconds since the clock was made; `jump` does not move it."""
        return self.seconds

    def sleep(self, seconds: float) -> None:
        """Return at once, that much later."""
        self.seconds += seconds

    def forward(self, **by: float) -> None:
        """Both readings, as time passes: `clock.forward(minutes=5)`, words as in `timedelta`."""
        self.time += timedelta(**by)
        self.seconds += timedelta(**by).total_seconds()

    def jump(self, **by: float) -> None:
        """The wall clock alone, as when somebody sets it; either way."""
        self.time += timedelta(**by)
