"""What a cache speaks of: entries, what is told about them, verdicts on them, and the tickets of readers under way."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final, Generic, Protocol, Self, TypeVar

import attrs

from bamboo_sessions._frozen import frozen

V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)


class Snapshot(Protocol):
    """What a value offers to be isolated from the cache; values without it are handed through as they are.

    Called without a lock by any number of threads at a time, on a value that nobody changes: it is the cache's own.
    """

    def snapshot(self) -> Self:
        """An isolated copy, quickly: this is most of what a hit costs, and `change` calls it under the cache's lock."""


@attrs.frozen
class CacheConfig:
    """How large a cache is and how long it keeps; refuses what could hold nothing."""

    max_sessions: int = 10_000
    ttl: timedelta | None = None
    """How long after its last access an entry is shown; None: for ever."""

    def __attrs_post_init__(self) -> None:
        if self.max_sessions <= 0:
            raise ValueError(f"max_sessions must be positive, not {self.max_sessions}")
        if self.ttl is not None and self.ttl <= timedelta(0):
            raise ValueError(f"ttl must be positive, not {self.ttl}")


@attrs.frozen
class CacheEntry(Generic[V]):
    """What is cached under one key: for which context, since when, and whether it exists nowhere else.

    `unsaved` is a token, the owner's or the cache's own, and None for what is saved: as a condition it reads like a yes
    or a no.
    """

    value: V
    context_id: str
    cached_at: datetime
    unsaved: str | None = None


class Cached(Protocol[V_co]):
    """What `change` shows of an entry; read it within `decide` only."""

    @property
    def value(self) -> V_co:
        """The cached value itself, not a copy: never to be modified."""

    @property
    def unsaved(self) -> str | None:
        """The owner's token where the value exists nowhere else."""


@attrs.frozen
class CacheStats:
    """Counters since the cache was made, in entries and calls."""

    size: int
    """Entries held, expired ones included that nobody has come across."""
    capacity: int
    """`max_sessions` of the cache."""
    ttl_tracked: int
    """Entries held whose time is limited: all of them, or none."""
    hits: int
    misses: int
    evictions: int
    """Entries that left for want of room."""
    expirations: int
    """Entries that left because their time was over."""
    loads: int
    """Calls of the hook's `load`; callers that waited for somebody else's are not counted."""
    load_failures: int
    """Those of them that raised."""
    unsaved: int
    """Entries held that exist nowhere else."""
    hook_failures: int
    """Evictions and expirations at which the hook raised: the entry stayed where it was unsaved."""


@frozen(slots=True)
class Put(Generic[V]):
    """Verdict: cache this value. Without a token it exists elsewhere too, and may be evicted.

    `given`: nobody else holds the value, so that the cache need not isolate itself from it.
    """

    value: V
    unsaved: str | None = None
    given: bool = False


class Plain(Enum):
    """The verdicts that carry no value."""

    KEEP = "keep"
    DROP = "drop"


KEEP: Final = Plain.KEEP
DROP: Final = Plain.DROP
Verdict = Put[V] | Plain


class Ticket:
    """The right of one reader to fill one gap; `void` once somebody else has settled what belongs there, and `gone` once what was
    there has been dropped on purpose: what is found there later was not there when the reader set out."""

    __slots__ = ("gone", "key", "void")

    def __init__(self, key: str) -> None:
        self.key, self.void, self.gone = key, False, False


class Held(Generic[V]):
    """One cached value. `tick` and `deadline` are written by hits, which hold no lock; the rest only under the lock.

    `cached_at` is what the clock gave, or the machine's own time as a number: few ever ask, and it is read at each insert.
    """

    __slots__ = ("cached_at", "context_id", "copy", "deadline", "tick", "unsaved", "value")

    def __init__(self, value: V, unsaved: str | None, deadline: float, cached_at: datetime | float, context_id: str,
                 given: bool = False) -> None:
        # Most caches hold one type, which offers nothing: a tuple and two comparisons take half of what a call takes.
        isolate = None if _kind == (type(value), False) else isolation(value)
        if isolate is not None and not given:
            value = isolate()
            isolate = isolation(value)
        self.value, self.copy = value, isolate
        self.unsaved, self.deadline, self.cached_at, self.context_id = unsaved, deadline, cached_at, context_id
        self.tick = -1

    def copied(self) -> V:
        return self.value if self.copy is None else self.copy()

    def shown(self, value: V) -> CacheEntry[V]:
        at = self.cached_at
        return CacheEntry(value, self.context_id, at if isinstance(at, datetime) else datetime.fromtimestamp(at, UTC),
                          self.unsaved)


_kind: tuple[type[object], bool] = (object, False)  # the last type that was asked for, and whether it offers `snapshot`


def isolation(value: V) -> Callable[[], V] | None:
    """How to copy the value. The type has the last word: a class, cached as a value, offers `snapshot` for others only.

    Most caches hold one type, and to find out that it lacks a method costs as much as a lock.
    """
    global _kind  # noqa: PLW0603 - replaced whole, so that it needs no lock
    kind, offers = _kind
    if kind is not type(value):
        offers = callable(getattr(type(value), "snapshot", None))
        _kind = type(value), offers
    if not offers:
        return None
    found: Callable[[], V] | None = getattr(value, "snapshot", None)
    return found


def isolated(value: V) -> V:
    """A copy, where the value offers one."""
    copy = isolation(value)
    return value if copy is None else copy()
