"""Times as stored: UTC, to the microsecond, as `2026-11-21T09:30:00.000000Z` (27 characters)."""

from __future__ import annotations

from datetime import UTC, datetime

from bamboo_sessions.errors import InvalidValue


def checked_time(value: object, where: str) -> datetime:
    """`value` in UTC; raises `InvalidValue` for anything but an aware datetime (a naive one has no place in time)."""
    if not isinstance(value, datetime):
        raise InvalidValue(where, f"a datetime is needed, not {type(value).__name__}")
    if value.tzinfo is None or value.utcoffset() is None:
        raise InvalidValue(where, "a naive datetime; give it a time zone, such as datetime.now(UTC)")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise InvalidValue(where, str(error)) from error


def to_text(value: datetime) -> str:
    """A UTC time as stored."""
    return value.isoformat(timespec="microseconds")[:-6] + "Z"


def from_text(text: str) -> datetime:
    """The reverse of `to_text`; any ISO time with an offset is understood."""
    try:
        value = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise InvalidValue("time", str(error)) from error
    return checked_time(value, "time")
