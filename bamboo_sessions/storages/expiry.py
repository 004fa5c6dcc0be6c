"""When a session's time has run out: one rule for every storage. Pure.

Whatever keeps sessions measures activity in its own way; what follows from it is decided here, so that no two storages
disagree on which sessions are spared, or on the moment.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from bamboo_sessions.errors import InvalidValue

NONE_LEFT: Final = timedelta(0)


def is_spared(head: dict[str, Any]) -> bool:
    """Whether a stored head is of a session that does not expire: somebody pinned it, or it waits for an answer."""
    return bool(head.get("pinned", False) or head.get("questions"))


def left_of(ttl: timedelta, idle: timedelta, head: dict[str, Any] | None = None) -> timedelta:
    """What is left after `idle` of no activity. The `head` is asked where nothing is: a spared session has a whole `ttl`
    before it, for the commit that ends its being spared starts its time anew."""
    if idle < ttl:  # also where idle is negative: a clock that jumped back makes nothing older
        return min(ttl - idle, ttl)
    return ttl if head is not None and is_spared(head) else NONE_LEFT


def later_ttl(now: timedelta | None, ttl: timedelta) -> timedelta:
    """`ttl` for a storage that has `now` so far. Raises `InvalidValue` for another one, `ValueError` for a time of nothing."""
    if now is not None and now != ttl:
        raise InvalidValue("ttl", f"its sessions expire after {now} already, and not after {ttl}")
    checked_ttl(ttl)
    return ttl


def checked_ttl(ttl: timedelta | None) -> timedelta | None:
    """Raises `ValueError` for a time to live of nothing."""
    if ttl is not None and ttl <= NONE_LEFT:
        raise ValueError(f"ttl must be positive, not {ttl}")
    return ttl
