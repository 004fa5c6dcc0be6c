"""Times as stored: UTC, to the microsecond, as `2026-11-21T09:30:00.000000Z` (27 characters)."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import orjson

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
    """A UTC time as stored, always to the microsecond."""
    if value.microsecond:  # orjson is four times as fast and asked with every save, but leaves a fraction of 0 out
        with suppress(TypeError):  # a subclass of datetime, such as a frozen test has
            return orjson.dumps(value, option=orjson.OPT_UTC_Z)[1:-1].decode("ascii")
    return value.isoformat(timespec="microseconds")[:-6] + "Z"


def from_text(text: str) -> datetime:
    """The reverse of `to_text`; any ISO time with an offset is understood."""
    try:
        value = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise InvalidValue("time", str(error)) from error
    if value.tzinfo is UTC:  # as `to_text` wrote it
        return value
    return checked_time(value, "time")
