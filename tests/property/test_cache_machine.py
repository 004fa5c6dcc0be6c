"""The cache beside a naive model: an ordered dict, times, a version for every key ever seen, and no cleverness."""

from __future__ import annotations

from collections import Counter, OrderedDict
from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from bamboo_sessions.cache import DROP, KEEP, CacheStats, Put, SessionCache

KEYS = st.sampled_from("abcdef")
VALUES = st.integers(0, 99)
TOKENS = st.sampled_from([None, None, "token"])
DAY = datetime(2030, 1, 1, tzinfo=UTC)


class Hands:
    """A clock moved by hand, either way."""

    def __init__(self):
        self.seconds = 0

    def now(self):
        return DAY + timedelta(seconds=self.seconds)

    def monotonic(self):
        return float(self.seconds)


class Box:
    """A value that has to be copied to be isolated."""

    def __init__(self, number):
        self.number = number

    def snapshot(self):
        return Box(self.number)


def number_in(value):
    return value.number if isinstance(value, Box) else value


class Model:
    """What is cached: key -> [number, second of the last access, token, second of caching], least recently used first."""

    def __init__(self, capacity, ttl, clock):
        self.capacity, self.ttl, self.clock = capacity, ttl, clock
        self.held, self.versions, self.counted = OrderedDict(), Counter(), Counter()

    def expired(self, key):
        return self.ttl is not None and self.clock.seconds - self.held[key][1] >= self.ttl

    def shows(self, key):
        return key in self.held and (self.held[key][2] is not None or not self.expired(key))

    def settle(self, key):
        """Drop the entry if its time is over; whether one is there now."""
        if key in self.held and not self.shows(key):
            del self.held[key]
            self.counted["expirations"] += 1
        return key in self.held

    def place(self, key, number, token):
        was_unsaved = key in self.held and self.held[key][2] is not None
        if key not in self.held:
            self.evict(self.capacity - 1)
        elif was_unsaved and token is None:
            self.evict(self.capacity)
        self.held[key] = [number, self.clock.seconds, token, self.clock.seconds]
        self.held.move_to_end(key)
        self.versions[key] += 1

    def evict(self, most):
        for key in [key for key, (_, _, token, _) in self.held.items() if token is None]:
            if len(self.held) > most:
                del self.held[key]
                self.counted["evictions"] += 1


class CacheMachine(RuleBasedStateMachine):
    tickets = Bundle("tickets")

    @initialize(capacity=st.integers(1, 4), ttl=st.sampled_from([None, 3, 10]), copied=st.booleans())
    def begin(self, capacity, ttl, copied):
        self.clock = Hands()
        self.cache = SessionCache(capacity, None if ttl is None else timedelta(seconds=ttl), clock=self.clock)
        self.model = Model(capacity, ttl, self.clock)
        self.value = Box if copied else int
        self.open = []

    @rule(seconds=st.sampled_from([1, 1, 2, 3, 10, -1, -5]))
    def time_passes(self, seconds):
        self.clock.seconds += seconds

    @rule(key=KEYS)
    def get(self, key):
        there = self.model.settle(key)
        self.model.counted["hits" if there else "misses"] += 1
        if there:
            self.model.held[key][1] = self.clock.seconds
            self.model.held.move_to_end(key)
        assert number_in(self.cache.get(key)) == (self.model.held[key][0] if there else None)

    @rule(key=KEYS)
    def peek(self, key):
        number, _, token, since = self.model.held[key] if self.model.shows(key) else [None] * 4
        entry = self.cache.peek_entry(key)
        assert number_in(self.cache.peek(key)) == number
        assert (key in self.cache) == (entry is not None) == (number is not None)
        if entry is not None:
            assert (number_in(entry.value), entry.unsaved) == (number, token)
            assert entry.cached_at == DAY + timedelta(seconds=since)

    @rule(key=KEYS, number=VALUES)
    def insert(self, key, number):
        self.model.place(key, number, None)
        self.cache.insert(key, self.value(number))

    @rule(key=KEYS, verdict=st.one_of(st.sampled_from([KEEP, DROP]), st.tuples(VALUES, TOKENS)))
    def change(self, key, verdict):
        expected = tuple(self.model.held[key][:3:2]) if self.model.settle(key) else None
        if verdict is DROP:
            self.model.held.pop(key, None)
        elif verdict is not KEEP:
            self.model.place(key, *verdict)
        self.model.versions[key] += 1
        seen = []

        def decide(entry):
            seen.append(None if entry is None else (number_in(entry.value), entry.unsaved))
            return verdict if verdict in (KEEP, DROP) else Put(self.value(verdict[0]), verdict[1])

        held = self.cache.change(key, decide)
        assert seen == [expected]
        assert number_in(held) == (self.model.held[key][0] if key in self.model.held else None)

    @rule(key=KEYS, how=st.sampled_from(["remove", "invalidate"]))
    def remove(self, key, how):
        there = self.model.settle(key)
        self.model.held.pop(key, None)
        self.model.versions[key] += 1
        assert getattr(self.cache, how)(key) == there

    @rule()
    def clear(self):
        self.model.held.clear()
        self.model.versions.update(set("abcdef"))
        self.cache.clear()

    @rule()
    def cleanup(self):
        late = [key for key in self.model.held if not self.model.shows(key)]
        assert self.cache.cleanup_expired() == sum(self.model.settle(key) is False for key in late)

    @rule()
    def overdue(self):
        named = self.cache.overdue()
        assert named is None or self.model.held[named][2] is not None

    @rule(target=tickets, key=KEYS)
    def ticket(self, key):
        ticket = self.cache.ticket(key)
        self.open.append(ticket)
        return ticket, self.model.versions[key]

    @rule(taken=tickets, number=VALUES)
    def fill(self, taken, number):
        ticket, version = taken
        fits = not self.model.settle(ticket.key) and version == self.model.versions[ticket.key] and ticket in self.open
        if fits:
            self.model.place(ticket.key, number, None)
        assert self.cache.fill(ticket, self.value(number)) == fits

    @rule(taken=consumes(tickets))
    def release(self, taken):
        self.cache.release(taken[0])
        self.open.remove(taken[0])

    @rule()
    def in_the_way(self):
        """Where a new key finds no room, everything that is unsaved is overdue."""
        self.remove("full", "remove")
        self.model.place("full", 0, None)
        self.cache.insert("full", self.value(0))
        named = set(iter(self.cache.overdue, None))
        unsaved = {key for key, (_, _, token, _) in self.model.held.items() if token is not None}
        assert named <= unsaved
        if len(self.model.held) > self.model.capacity:
            assert named == unsaved

    @invariant()
    def they_agree(self):
        held, counted = self.model.held, self.model.counted
        unsaved = {key for key, entry in held.items() if entry[2] is not None}
        assert sorted(self.cache.list_cached()) == sorted(key for key in held if self.model.shows(key))
        assert set(self.cache.unsaved_ids()) == unsaved
        assert len(self.cache) == len(held) <= max(self.model.capacity, len(unsaved) + 1)
        assert self.cache.stats() == CacheStats(
            size=len(held), capacity=self.model.capacity, hits=counted["hits"], misses=counted["misses"],
            evictions=counted["evictions"], expirations=counted["expirations"], unsaved=len(unsaved))

    def teardown(self):
        if hasattr(self, "cache"):
            for ticket in self.open:
                self.cache.release(ticket)
            assert not self.cache._tickets


CacheMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
test_the_cache_and_a_naive_model_agree = CacheMachine.TestCase
