"""Exactly least recently used, with an optional time to live: what a cache holds in memory, with no I/O in it.

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

With a `limit` the unsaved entries that are in the way are expected to leave by themselves soon (see `SessionCache`): no
clean ones are evicted in their place until the limit is reached, and there the cache is full.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from datetime import datetime
from itertools import count
from operator import attrgetter
from typing import Any, Final, Generic

from bamboo_sessions.cache_entries import DROP, KEEP, CacheConfig, Cached, Held, Put, Ticket, V, Verdict
from bamboo_sessions.clock import Clock, SystemClock
from bamboo_sessions.errors import CapacityExceeded

_NEVER: Final = float("inf")
_tick_of = attrgetter("tick")


def _wall() -> float:
    return time.time()


class Lru(Generic[V]):
    """At most `max_sessions` values by key; with `ttl`, each for that long after its last access.

    A hit never waits for anybody. Without a `limit` the size exceeds `max_sessions` only where unsaved entries leave no
    room: it is at most their number plus one. With one, that is the most.
    """

    def __init__(self, config: CacheConfig, clock: Clock, limit: int | None = None) -> None:
        self._capacity, self._limit, self._clock = config.max_sessions, limit, clock
        self._ttl = None if config.ttl is None else config.ttl.total_seconds()
        # The machine's own clock is read without the call around it, which would be a tenth of a hit.
        self._system_ttl = self._ttl if type(clock) is SystemClock else None
        self._cached_at: Callable[[], datetime | float] = _wall if type(clock) is SystemClock else clock.now
        self._monotonic, self._ticks = clock.monotonic, count()
        self._entries: dict[str, Held[V]] = {}
        self._oldest: list[str] = []  # the keys at the last sorting, the least recently used at the end
        self._sorted_at = -1  # the highest tick that the sorting saw: whatever has a higher one has moved on since
        self._unsaved: dict[str, None] = {}  # a set that keeps its order, as is the next one
        self._overdue: dict[str, None] = {}  # part of _unsaved
        self._left: deque[tuple[str, str]] = deque()  # with a limit: keys and contexts of the clean ones that had to go
        self._tickets: dict[str, list[Ticket]] = {}  # the open ones, void or not; a key is here only while somebody loads it
        self._placed = self._misses = self._evictions = self._expirations = 0
        # Guards every write to the above (not the ticks and deadlines in the entries). Held for a few dict operations,
        # an eviction, a `decide` or a value's `snapshot`; no other lock is taken under it, and values that left the
        # cache are let go after it, since their finalizers may be anybody's code.
        self._lock = threading.Lock()
        _forkable.add(self)

    # -- looking -------------------------------------------------------------------------------------------------

    def get(self, key: str) -> V | None:
        """The value, now the most recently used one, its time to live begun anew; None where there is none.

        Where the cache has no hook to save it with, an unsaved value is served beyond its time as well: it is the only copy.
        """
        try:
            entry = self._entries[key]
        except KeyError:
            entry = None
        if entry is None:
            return self._look_again(key)
        ttl = self._system_ttl
        if ttl is not None:
            now = time.monotonic()
            if now >= entry.deadline:
                return self._look_again(key)
            entry.deadline = now + ttl
        elif self._ttl is not None:
            now = self._monotonic()
            if now >= entry.deadline:
                return self._look_again(key)
            entry.deadline = now + self._ttl
        entry.tick = next(self._ticks)
        return entry.value if entry.copy is None else entry.copy()

    def _look_again(self, key: str) -> V | None:
        """The rest of a `get` that found nothing it may simply hand out: under the lock, and this time to the end."""
        now = self._now()
        with self._lock:
            entry, _gone = self._used(key, now)
        return None if entry is None else entry.copied()

    def _used(self, key: str, now: float) -> tuple[Held[V] | None, list[Held[V]]]:
        """The entry that may be shown, used just now, or a miss; under the lock."""
        entry, gone = self._live(key, now)
        if entry is not None and now >= entry.deadline:
            self._overdue[key] = None
            entry = None if self._limit is not None else entry
        if entry is None:
            self._misses += 1
        else:
            entry.deadline, entry.tick = self._deadline(now), next(self._ticks)
        return entry, gone

    def held(self, key: str) -> V | None:
        """The cached value itself, to compare with and never to modify, or None; counts neither as use nor as access.

        A reader that finds the same object again in `change` knows that nobody replaced or dropped it in between: for a
        key that is cached that is as good as a ticket, and takes no lock.
        """
        entry = self._visible(key)
        return None if entry is None else entry.value

    def __len__(self) -> int:
        """How many entries are held, expired ones included that nobody has come across. An empty cache is still true."""
        return len(self._entries)

    def __bool__(self) -> bool:
        return True

    def unsaved_ids(self) -> list[str]:
        """The keys whose values exist nowhere else, longest unsaved first."""
        with self._lock:
            return list(self._unsaved)

    # -- changing ------------------------------------------------------------------------------------------------

    def change(self, key: str, decide: Callable[[Cached[V] | None], Verdict[V]]) -> V | None:
        """Compare and replace in one step: carry out the verdict, and answer with what is cached then, or None.

        `decide` is given the live entry, or an unsaved one of any age, with the value itself: it must not modify it. It
        runs under the cache's lock: quick, no I/O, no call on this cache (that would wait for ever). An exception in
        it reaches the caller and nothing has changed. Every verdict voids the tickets of the key, KEEP too: whoever
        decided that nothing is to be cached knew more than a reader that set out before.

        There is never any I/O in it. A cache with a hook that is full beyond its tenth caches nothing clean then, and
        raises `CapacityExceeded` for an unsaved value.
        """
        now, cached_at = self._now(), self._cached_at()
        with self._lock:
            entry, _gone = self._live(key, now)
            verdict = decide(entry)
            if type(verdict) is Put:
                context_id = "" if entry is None else entry.context_id
                entry = Held(verdict.value, verdict.unsaved, self._deadline(now), cached_at, context_id, verdict.given)
                placed, left = self._place(key, entry)
                _gone += left
                if not placed:
                    self._refuse(key, entry)
                    entry = None
            elif verdict is DROP:
                entry = None
                _gone += self._unlink(key)
            elif verdict is not KEEP:
                raise TypeError(f"decide must give KEEP, DROP or Put(value), not {verdict!r}")
            if key in self._tickets:
                self._void(key, gone=verdict is DROP)
        return None if entry is None else entry.copied()

    def _dropped(self, key: str) -> bool:
        """Whether there was one that could be shown; it is not there any more, and neither is an expired one."""
        now = self._now()
        with self._lock:
            self._void(key, gone=True)
            entry, _gone = self._live(key, now)
            _gone += self._unlink(key)
        return entry is not None

    def clear(self) -> None:
        """Drop everything, unsaved entries too."""
        with self._lock:
            for key in self._tickets:
                self._void(key, gone=True)
            _gone = list(self._entries.values())
            for held in (self._entries, self._unsaved, self._overdue, self._oldest, self._left):
                held.clear()

    def _dropped_late(self) -> int:
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

    def fill(self, ticket: Ticket, value: V, context_id: str = "") -> bool:
        """Cache what a miss has read; False, and nothing changes, where the ticket is void, the gap is no gap, or there is no room.

        The first fill voids the other tickets of its key. Their readers may have read something newer in the meantime,
        or something older, and to compare is the business of `change`.
        """
        entry, now = self._entry(value, None, context_id), self._now()
        with self._lock:
            held, _gone = self._live(ticket.key, now)
            filled = held is None and not ticket.void
            if filled:
                self._void(ticket.key)
                filled, left = self._place(ticket.key, entry)
                _gone += left
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

    def _void(self, key: str, *, gone: bool = False) -> None:
        """They stay until they are released: a ticket that is void can still be told that what was there has gone."""
        for ticket in self._tickets.get(key, ()):
            ticket.void = True
            ticket.gone = ticket.gone or gone

    # -- entries: without a lock ---------------------------------------------------------------------------------

    def _now(self) -> float:
        return 0.0 if self._ttl is None else self._monotonic()

    def _deadline(self, now: float) -> float:
        return _NEVER if self._ttl is None else now + self._ttl

    def _entry(self, value: V, unsaved: str | None, context_id: str) -> Held[V]:
        if self._system_ttl is not None:
            return Held(value, unsaved, time.monotonic() + self._system_ttl, time.time(), context_id)
        return Held(value, unsaved, self._deadline(self._now()), self._cached_at(), context_id)

    def _visible(self, key: str) -> Held[V] | None:
        entry = self._entries.get(key)
        return None if entry is None or self._is_over(entry, self._now()) else entry

    def _is_over(self, entry: Held[V], now: float) -> bool:
        """Whether it is not to be shown. With a hook (a limit) that is so of unsaved ones too: they are held, not shown."""
        return now >= entry.deadline and (entry.unsaved is None or self._limit is not None)

    def _refuse(self, key: str, entry: Held[V]) -> None:
        if entry.unsaved is not None:
            raise CapacityExceeded(key, self._capacity)

    # -- entries: under the lock; lists of entries are what left, for the caller to let go of afterwards ---------------

    def _live(self, key: str, now: float) -> tuple[Held[V] | None, list[Held[V]]]:
        """The entry, unless it has expired; then it leaves."""
        entry = self._entries.get(key)
        if entry is None or now < entry.deadline or entry.unsaved is not None:
            return entry, []
        self._expirations += 1
        if self._limit is not None:
            self._left.append((key, entry.context_id))
        return None, self._unlink(key)

    def _unlink(self, key: str) -> list[Held[V]]:
        entry = self._entries.pop(key, None)
        self._unmark(key)
        return [] if entry is None else [entry]

    def _place(self, key: str, entry: Held[V], *, forced: bool = False) -> tuple[bool, list[Held[V]]]:
        """Whether it was cached. Room is made first, so what was just cached is there for at least one look.

        Nothing is taken out that is about to be replaced: a hit in between would find nothing.
        """
        entries = self._entries
        old = entries.get(key)
        if old is not None:
            gone = [old]
        elif len(entries) < self._capacity:
            gone = []
        else:
            gone = self._make_room(self._capacity - 1)
            if self._limit is not None and len(entries) >= self._limit and not forced:
                return False, gone
        if entry.unsaved is not None:
            self._unsaved[key] = None
        elif old is not None and old.unsaved is not None:
            gone += self._make_room(self._capacity)  # `old` is spared, as it is marked still
            self._unmark(key)
        self._placed += 1
        entry.tick = next(self._ticks)
        entries[key] = entry
        return True, gone

    def _unmark(self, key: str) -> None:
        self._unsaved.pop(key, None)
        self._overdue.pop(key, None)

    def _make_room(self, most: int) -> list[Held[V]]:
        """Evict until at most that many are left, or only unsaved ones, which are overdue then."""
        entries, gone = self._entries, []
        while len(entries) > most and (self._limit is None or not self._will_do(most)):
            while self._oldest or self._sort():
                entry = entries.get(key := self._oldest.pop())
                if entry is not None and entry.tick <= self._sorted_at:
                    break
            else:
                break  # there are only overdue ones, which have had their turn
            if entry.unsaved is not None:
                self._overdue[key] = None
                continue
            del entries[key]
            self._evictions += 1
            gone.append(entry)
            if self._limit is not None:
                self._left.append((key, entry.context_id))
        return gone

    def _will_do(self, most: int) -> bool:
        """Whether those that are about to leave anyway make room enough."""
        size, limit = len(self._entries), self._limit or 0
        return size - len(self._overdue) <= most and size <= most + limit - self._capacity

    def _sort(self) -> bool:
        """Whether there was anything to sort.

        The ticks are read in one call that lets no other thread in. Read one by one, an early one might move on to a tick
        below that of one read later, and would be passed over in its favour.
        """
        ticks = list(map(_tick_of, self._entries.values()))
        key_at = dict(zip(ticks, self._entries, strict=True))
        ticks.sort(reverse=True)
        self._sorted_at = ticks[0] if ticks else -1
        self._oldest = list(map(key_at.__getitem__, ticks))
        if self._overdue:
            self._oldest = [key for key in self._oldest if key not in self._overdue]
        return bool(self._oldest)

    # -- fork ----------------------------------------------------------------------------------------------------

    def _forked(self) -> None:
        """In the child: entries stay, loads that were under way do not exist here.

        The thread that held the lock does not either, and may have been amidst a change. The dict of entries is whole at
        any moment; everything else is drawn up again from it.
        """
        self._lock = threading.Lock()
        for key in self._tickets:
            self._void(key, gone=True)
        self._tickets.clear()
        self._unsaved = {key: None for key, entry in self._entries.items() if entry.unsaved is not None}
        self._overdue = dict(self._unsaved)  # more than before, perhaps; too few would be a loss
        self._oldest = []


_forkable: weakref.WeakSet[Lru[Any]] = weakref.WeakSet()


def _all_forked() -> None:
    for cache in list(_forkable):
        cache._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_all_forked)
