"""Times as stored: one form, whatever way it is made."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from freezegun import freeze_time

from bamboo_sessions.models.times import from_text, to_text


class Own(datetime):
    """What a program may hand in as its time."""


@pytest.mark.parametrize(("value", "text"), [
    (datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), "2026-01-02T03:04:05.678901Z"),
    (datetime(2026, 1, 2, 3, 4, 5, 7, UTC), "2026-01-02T03:04:05.000007Z"),
    (datetime(2026, 1, 2, 3, 4, 5, 0, UTC), "2026-01-02T03:04:05.000000Z"),
    (datetime(1, 1, 1, 0, 0, 0, 1, UTC), "0001-01-01T00:00:00.000001Z"),
    (datetime.max.replace(tzinfo=UTC), "9999-12-31T23:59:59.999999Z"),
    (Own(2026, 1, 2, 3, 4, 5, 678901, UTC), "2026-01-02T03:04:05.678901Z"),
])
def test_a_time_has_one_text_of_27_characters_and_comes_back(value, text):
    """Fractions of zero and subclasses of datetime included."""
    assert to_text(value) == text
    assert from_text(text) == value


def test_a_time_of_a_frozen_clock_is_written_like_any_other():
    """Its class is freezegun's own."""
    with freeze_time("2026-01-02 03:04:05.678901"):
        assert to_text(datetime.now(UTC)) == "2026-01-02T03:04:05.678901Z"


def test_a_time_with_another_offset_is_read_in_utc():
    """The same moment, in the one zone that is stored."""
    read = from_text("2026-01-02T05:04:05.678901+02:00")
    assert read == datetime(2026, 1, 2, 5, 4, 5, 678901, timezone(timedelta(hours=2)))
    assert read.tzinfo is UTC
