"""A concurrent cache, exactly least-recently-used, with an optional time to live; it knows keys and values, no sessions.

A hit takes no lock: a dict look-up, a comparison with the deadline, a number from a counter written into the entry (its
*tick*), a copy. The order of use is found when room is needed: all entries are sorted by tick, once, and that list serves
many evictions. Its first item whose tick has not moved on is the least recently used of all, since whatever was used or
added after the sorting has a higher tick than anything in the list; items that have moved on are passed over. The next
sorting comes when the list is used up, so each use pays for at most one item of it. (A heap in which moved items are
queued again gives the same order; measured, it costs an insert twice as much and needs bookkeeping for removed keys.)
Ticks come from a counter and not from the clock, because under a clock that stands still all times are equal.

Time to live counts from the last access. A clock that is set back makes a life shorter or longer and does nothing worse.

Three things keep a cache in front of a slow store honest:

- *Tickets.* A miss takes one before it reads the store, and what it read is cached only while nobody has changed that
  key since. A slow reader can bring back neither what was replaced and then evicted, nor what was deleted.
- *`change`.* Comparing with what is cached and replacing it is one step, so that no two writers can both find
  themselves newer.
- *Unsaved entries.* A value that exists nowhere else carries a token. It is neither evicted nor expired; the cache grows
  over its capacity instead and names the key to its owner (`overdue`), who saves it while holding no lock.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import Enum
from itertools import count
from operator import attrgetter
from typing import Any, Final, Generic, Protocol, Self, TypeVar

import attrs

from bamboo_sessions._frozen import frozen
from bamboo_sessions.clock import SYSTEM_CLOCK, Clock

V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)

_NEVER: Final = float("inf")
_tick_of = attrgetter("tick")


class Snapshot(Protocol):
    """What a value offers to be isolated from the cache; values without it are handed through as they are.

    Called without a lock by any number of threads at a time, on a value that nobody changes: it is the cache's own.
    """

    def snapshot(self) -> Self:
        """An isolated copy, quickly: this is most of what a hit costs, and `change` calls it under the cache's lock."""


@attrs.frozen
class CacheEntry(Generic[V]):
    """What is cached under one key: since when, and whether it exists nowhere else (`unsaved`, a token of its owner)."""

    value: V
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
    hits: int
    misses: int
    evictions: int
    """Entries dropped for want of room."""
    expirations: int
    """Entries dropped because their time was over."""
    unsaved: int
    """Entries held that exist nowhere else."""


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
    """The right of one reader to fill one gap; `void` once somebody else has settled what belongs there."""

    __slots__ = ("key", "void")

    def __init__(self, key: str) -> None:
        self.key, self.void = key, False


class _Entry(Generic[V]):
    """One cached value. `tick` and `deadline` are written by hits, which hold no lock; the rest only under the lock."""

    __slots__ = ("cached_at", "copy", "deadline", "tick", "unsaved", "value")

    def __init__(self, value: V, unsaved: str | None, deadline: float, cached_at: datetime,
                 given: bool = False) -> None:
        isolate = _isolate(value)
        if isolate is not None and not given:
            value = isolate()
            isolate = _isolate(value)
        self.value, self.copy = value, isolate
        self.unsaved, self.deadline, self.cached_at = unsaved, deadline, cached_at
        self.tick = -1

    def copied(self) -> V:
        return self.value if self.copy is None else self.copy()

    def shown(self, value: V) -> CacheEntry[V]:
        return CacheEntry(value, self.cached_at, self.unsaved)


def _isolate(value: V) -> Callable[[], V] | None:
    """How to copy the value. The type has the last word: a class, cached as a value, offers `snapshot` for others only."""
    if callable(getattr(type(value), "snapshot", None)):
        found: Callable[[], V] | None = getattr(value, "snapshot", None)
        return found
    return None


class SessionCache(Generic[V]):
    """At most `max_sessions` values by key; with `ttl`, each for that long after its last access.

    A hit never waits for anybody. The size exceeds `max_sessions` only where unsaved entries leave no room: it is at most
    their number plus one.
    """

    def __init__(self, max_sessions: int = 10_000, ttl: timedelta | None = None, *, clock: Clock = SYSTEM_CLOCK) -> None:
        if max_sessions <= 0:
            raise ValueError(f"max_sessions must be positive, not {max_sessions}")
        if ttl is not None and ttl <= timedelta(0):
            raise ValueError(f"ttl must be positive, not {ttl}")
        self._capacity, self._clock = max_sessions, clock
        self._ttl = None if ttl is None else ttl.total_seconds()
        self._monotonic, self._tick = clock.monotonic, count().__next__
        self._entries: dict[str, _Entry[V]] = {}  # never bound anew: hits hold on to its `get`
        self._find = self._entries.get
        self._oldest: list[str] = []  # the keys at the last sorting, the least recently used at the end
        self._sorted_at = -1  # the highest tick that the sorting saw: whatever has a higher one has moved on since
        self._unsaved: dict[str, None] = {}  # a set that keeps its order, as is the next one
        self._overdue: dict[str, None] = {}  # part of _unsaved
        self._tickets: dict[str, list[Ticket]] = {}  # the open ones; a key is here only while somebody loads it
        self._placed = self._misses = self._evictions = self._expirations = 0
        # Guards every write to the above (not the ticks and deadlines in the entries). Held for a few dict operations,
        # an eviction, a `decide` or a value's `snapshot`; no other lock is taken under it, and values that left the
        # cache are let go after it, since their finalizers may be anybody's code.
        self._lock = threading.Lock()
        _forkable.add(self)

    # -- looking -------------------------------------------------------------------------------------------------

    def get(self, key: str) -> V | None:
        """The value, now the most recently used one, its time to live begun anew; None where there is none.

        An unsaved value is served beyond its time as well: it is the only copy.
        """
        entry = self._find(key)
        if entry is None:
            return self._look_again(key)
        if self._ttl is not None:
            now = self._monotonic()
            if now >= entry.deadline:
                return self._look_again(key)
            entry.deadline = now + self._ttl
        entry.tick = self._tick()
        return entry.value if entry.copy is None else entry.copy()

    def _look_again(self, key: str) -> V | None:
        """The rest of a `get` that found nothing it may simply hand out: under the lock, and this time to the end."""
        now = self._now()
        with self._lock:
            entry, _gone = self._live(key, now)
            if entry is None:
                self._misses += 1
                return None
            if now >= entry.deadline:
                self._overdue[key] = None
            entry.deadline, entry.tick = self._deadline(now), self._tick()
        return entry.copied()

    def peek(self, key: str) -> V | None:
        """The value, or None; counts neither as use nor as access."""
        entry = self._visible(key)
        return None if entry is None else entry.copied()

    def peek_entry(self, key: str) -> CacheEntry[V] | None:
        """The value with what is known about it, or None; counts neither as use nor as access."""
        entry = self._visible(key)
        return None if entry is None else entry.shown(entry.copied())

    def held(self, key: str) -> V | None:
        """The cached value itself, to compare with and never to modify, or None; counts neither as use nor as access.

        A reader that finds the same object again in `change` knows that nobody replaced or dropped it in between: for a
        key that is cached that is as good as a ticket, and takes no lock.
        """
        entry = self._find(key)
        if entry is None or (self._ttl is not None and _expired(entry, self._monotonic())):
            return None
        return entry.value

    def contains(self, key: str) -> bool:
        """Whether `get` would find it; counts neither as use nor as access."""
        return self._visible(key) is not None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.contains(key)

    def __len__(self) -> int:
        """How many entries are held, expired ones included that nobody has come across. An empty cache is still true."""
        return len(self._entries)

    def __bool__(self) -> bool:
        return True

    def list_cached(self) -> list[str]:
        """The keys that `get` would find, in no promised order."""
        now = self._now()
        with self._lock:
            return [key for key, entry in self._entries.items() if not _expired(entry, now)]

    def unsaved_ids(self) -> list[str]:
        """The keys whose values exist nowhere else, longest unsaved first."""
        with self._lock:
            return list(self._unsaved)

    def stats(self) -> CacheStats:
        """All counters, of one moment.

        Hits are the ticks that nobody else drew: counting them one by one would need the lock, or lose some.
        """
        with self._lock:
            hits = self._tick() - self._placed
            self._placed += 1
            return CacheStats(len(self._entries), self._capacity, hits, self._misses, self._evictions,
                              self._expirations, len(self._unsaved))

    # -- changing ------------------------------------------------------------------------------------------------

    def insert(self, key: str, value: V) -> None:
        """Cache the value, whatever is there, an unsaved one included."""
        entry = self._entry(value)
        with self._lock:
            self._void(key)
            _gone = self._place(key, entry)

    def change(self, key: str, decide: Callable[[Cached[V] | None], Verdict[V]]) -> V | None:
        """Compare and replace in one step: carry out the verdict, and answer with what is cached then, or None.

        `decide` is given the live entry, or an unsaved one of any age, with the value itself: it must not modify it. It
        runs under the cache's lock: quick, no I/O, no call on this cache (that would wait for ever). An exception in
        it reaches the caller and nothing has changed. Every verdict voids the tickets of the key, KEEP too: whoever
        decided that nothing is to be cached knew more than a reader that set out before.
        """
        now, cached_at = self._now(), self._clock.now()
        with self._lock:
            entry, _gone = self._live(key, now)
            verdict = decide(entry)
            if type(verdict) is Put:
                entry = _Entry(verdict.value, verdict.unsaved, self._deadline(now), cached_at, verdict.given)
                _gone += self._place(key, entry)
            elif verdict is DROP:
                entry = None
                _gone += self._unlink(key)
            elif verdict is not KEEP:
                raise TypeError(f"decide must give KEEP, DROP or Put(value), not {verdict!r}")
            if key in self._tickets:
                self._void(key)
        return None if entry is None else entry.copied()

    def remove(self, key: str) -> bool:
        """Drop the entry, an unsaved one too: the caller names it. True where there was one."""
        now = self._now()
        with self._lock:
            self._void(key)
            entry, _gone = self._live(key, now)
            _gone += self._unlink(key)
        return entry is not None

    def invalidate(self, key: str) -> bool:
        """Drop the entry from this cache and from nowhere else; otherwise like `remove`."""
        return self.remove(key)

    def clear(self) -> None:
        """Drop everything, unsaved entries too."""
        with self._lock:
            for key in list(self._tickets):
                self._void(key)
            _gone = list(self._entries.values())
            for held in (self._entries, self._unsaved, self._overdue, self._oldest):
                held.clear()

    def cleanup_expired(self) -> int:
        """Drop what has expired and say how many; unsaved entries stay and become overdue."""
        now = self._now()
        with self._lock:
            late = [key for key, entry in self._entries.items() if now >= entry.deadline]
            self._overdue.update((key, None) for key in late if key in self._unsaved)
            _gone = [entry for key in late for entry in self._live(key, now)[1]]
        return len(_gone)

    def overdue(self) -> str | None:
        """Take the key of an unsaved entry that eviction or expiry had to spare, for its owner to save; None: no more.

        It is named again when it is in the way again, perhaps soon: an owner whose save fails should leave off.
        """
        if not self._overdue:  # one look without the lock: whoever is marked meanwhile is taken by the next call
            return None
        with self._lock:
            key = next(iter(self._overdue), None)
            if key is not None:
                del self._overdue[key]
            return key

    # -- filling gaps --------------------------------------------------------------------------------------------

    def ticket(self, key: str) -> Ticket:
        """Taken by a miss before it reads the store; give it back with `release`, in a `finally`."""
        ticket = Ticket(key)
        with self._lock:
            self._tickets.setdefault(key, []).append(ticket)
        return ticket

    def fill(self, ticket: Ticket, value: V) -> bool:
        """Cache what a miss has read; False, and nothing changes, where the ticket is void or the gap is no gap.

        The first fill voids the other tickets of its key. Their readers may have read something newer in the meantime,
        or something older, and to compare is the business of `change`.
        """
        entry, now = self._entry(value), self._now()
        with self._lock:
            held, _gone = self._live(ticket.key, now)
            filled = held is None and not ticket.void
            if filled:
                self._void(ticket.key)
                _gone += self._place(ticket.key, entry)
        return filled

    def release(self, ticket: Ticket) -> None:
        """The ticket is void and forgotten; harmless for one that already is."""
        with self._lock:
            ticket.void = True
            still = [other for other in self._tickets.get(ticket.key, ()) if other is not ticket]
            if still:
                self._tickets[ticket.key] = still
            else:
                self._tickets.pop(ticket.key, None)

    def _void(self, key: str) -> None:
        for ticket in self._tickets.pop(key, ()):
            ticket.void = True

    # -- entries: without a lock ---------------------------------------------------------------------------------

    def _now(self) -> float:
        return 0.0 if self._ttl is None else self._monotonic()

    def _deadline(self, now: float) -> float:
        return _NEVER if self._ttl is None else now + self._ttl

    def _entry(self, value: V) -> _Entry[V]:
        deadline = _NEVER if self._ttl is None else self._monotonic() + self._ttl
        return _Entry(value, None, deadline, self._clock.now())

    def _visible(self, key: str) -> _Entry[V] | None:
        entry = self._find(key)
        return None if entry is None or _expired(entry, self._now()) else entry

    # -- entries: under the lock; lists of entries are what left, for the caller to let go of afterwards ---------------

    def _live(self, key: str, now: float) -> tuple[_Entry[V] | None, list[_Entry[V]]]:
        """The entry, unless it has expired; then it leaves."""
        entry = self._entries.get(key)
        if entry is None or now < entry.deadline or entry.unsaved is not None:
            return entry, []
        self._expirations += 1
        return None, self._unlink(key)

    def _unlink(self, key: str) -> list[_Entry[V]]:
        entry = self._entries.pop(key, None)
        self._unmark(key)
        return [] if entry is None else [entry]

    def _place(self, key: str, entry: _Entry[V]) -> list[_Entry[V]]:
        """Room is made first, so what was just cached is there for at least one look.

        Nothing is taken out that is about to be replaced: a hit in between would find nothing.
        """
        old = self._entries.get(key)
        gone = self._make_room(self._capacity - 1) if old is None else [old]
        if entry.unsaved is not None:
            self._unsaved[key] = None
        elif old is not None and old.unsaved is not None:
            gone += self._make_room(self._capacity)  # `old` is spared, as it is marked still
            self._unmark(key)
        self._placed += 1
        entry.tick = self._tick()
        self._entries[key] = entry
        return gone

    def _unmark(self, key: str) -> None:
        self._unsaved.pop(key, None)
        self._overdue.pop(key, None)

    def _make_room(self, most: int) -> list[_Entry[V]]:
        """Evict until at most that many are left, or only unsaved ones, which are overdue then."""
        gone: list[_Entry[V]] = []
        while len(self._entries) > most and (key := self._least()) is not None:
            if key in self._unsaved:
                self._overdue[key] = None
            else:
                self._evictions += 1
                gone.append(self._entries.pop(key))
        return gone

    def _least(self) -> str | None:
        """The least recently used key; None where there are only overdue ones, which have had their turn."""
        while self._oldest or self._sort():
            entry = self._entries.get(key := self._oldest.pop())
            if entry is not None and entry.tick <= self._sorted_at:
                return key
        return None

    def _sort(self) -> bool:
        """Whether there was anything to sort.

        The ticks are read in one call that lets no other thread in. Read one by one, an early one might move on to a tick
        below that of one read later, and would be passed over in its favour.
        """
        ticks = list(map(_tick_of, self._entries.values()))
        tick_of = dict(zip(self._entries, ticks, strict=True))
        self._oldest = sorted(tick_of.keys() - self._overdue.keys() if self._overdue else tick_of,
                              key=tick_of.__getitem__, reverse=True)
        self._sorted_at = max(ticks, default=-1)
        return bool(self._oldest)

    # -- fork ----------------------------------------------------------------------------------------------------

    def _forked(self) -> None:
        """In the child: entries stay, loads that were under way do not exist here.

        The thread that held the lock does not either, and may have been amidst a change. The dict of entries is whole at
        any moment; everything else is drawn up again from it.
        """
        self._lock = threading.Lock()
        for key in list(self._tickets):
            self._void(key)
        self._unsaved = {key: None for key, entry in self._entries.items() if entry.unsaved is not None}
        self._overdue = dict(self._unsaved)  # more than before, perhaps; too few would be a loss
        self._oldest = []


def _expired(entry: _Entry[V], now: float) -> bool:
    return now >= entry.deadline and entry.unsaved is None


_forkable: weakref.WeakSet[SessionCache[Any]] = weakref.WeakSet()


def _all_forked() -> None:
    for cache in list(_forkable):
        cache._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_all_forked)
