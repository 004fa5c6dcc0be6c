"""The cache beside a naive model: an ordered dict, times, a version for every key ever seen, and no cleverness."""

from __future__ import annotations

import os
import random
from collections import Counter, OrderedDict
from datetime import UTC, datetime, timedelta

import pytest
import structlog
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from bamboo_sessions.cache import DROP, KEEP, CacheStats, Put, SessionCache
from bamboo_sessions.errors import CapacityExceeded, SessionNotFound

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
        while len(self.held) > most:
            key = next((key for key, (_, _, token, _) in self.held.items() if token is None), None)
            if key is None:
                return
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
            size=len(held), capacity=self.model.capacity, ttl_tracked=0 if self.model.ttl is None else len(held),
            hits=counted["hits"], misses=counted["misses"], evictions=counted["evictions"],
            expirations=counted["expirations"], loads=0, load_failures=0, unsaved=len(unsaved), hook_failures=0)

    def teardown(self):
        if hasattr(self, "cache"):
            for ticket in self.open:
                self.cache.release(ticket)
            assert not self.cache._tickets


CacheMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
test_the_cache_and_a_naive_model_agree = CacheMachine.TestCase


# -- many of them ------------------------------------------------------------------------------------------------------

OPERATIONS = int(os.environ.get("BAMBOO_SESSIONS_CACHE_OPERATIONS", "50000"))
"""A million, with the variable set, takes half a minute a clock."""


def frozen(clock, rng):
    """Time stands still: only ticks tell what was used last."""


def jumping(clock, rng):
    """Mostly a little later, now and then a good deal."""
    clock.seconds += rng.choice((0, 0, 0, 1, 2, 30))


def backward(clock, rng):
    """Set back as often as forward."""
    clock.seconds += rng.choice((-400, -3, 0, 0, 0, 3, 400))


@pytest.mark.parametrize("move", [frozen, jumping, backward])
@pytest.mark.timeout(600)
def test_ten_thousand_sessions_and_the_model_agree(move):
    """Gets, inserts, changes, removals and clean-ups over more keys than there are places, with entries that expire."""
    rng, clock = random.Random(move.__name__), Hands()
    cache, model = SessionCache(10_000, timedelta(seconds=3_000), clock=clock), Model(10_000, 3_000, clock)
    keys = [f"chat-{number}" for number in range(14_000)]
    for number in range(OPERATIONS):
        draw, key = rng.random(), rng.choice(keys)
        if draw < 0.5 and number > 14_000:
            there = model.settle(key)
            model.counted["hits" if there else "misses"] += 1
            if there:
                model.held[key][1] = clock.seconds
                model.held.move_to_end(key)
            assert cache.get(key) == (model.held[key][0] if there else None)
        elif draw < 0.96:
            key = keys[number] if number < 12_000 else key
            model.place(key, number, None)
            cache.insert(key, number)
        elif draw < 0.98:
            shown = model.held[key][0] if model.shows(key) else None
            assert (cache.peek(key), key in cache) == (shown, shown is not None)
        elif draw < 0.9995:
            there = model.settle(key)
            model.held.pop(key, None)
            assert cache.remove(key) == there
        else:
            late = [key for key in model.held if not model.shows(key)]
            assert cache.cleanup_expired() == sum(not model.settle(key) for key in late)
        if number % 50 == 0:
            move(clock, rng)
    assert cache._entries.keys() == model.held.keys()
    stats = cache.stats()
    assert {name: getattr(stats, name) for name in ("hits", "misses", "evictions", "expirations")} == {
        name: model.counted[name] for name in ("hits", "misses", "evictions", "expirations")}
    assert min(model.counted["hits"], model.counted["misses"], model.counted["evictions"]) > 1000
    assert (model.counted["expirations"] > 0) == (move is not frozen)


# -- with a hook -------------------------------------------------------------------------------------------------------


class Disk:
    """Keeps numbers, and fails while it is told to."""

    def __init__(self):
        self.kept, self.failing = {}, False

    def load(self, key, context_id):
        self._maybe()
        return self.kept.get(key)

    def save(self, key, context_id, value):
        self._maybe()
        self.kept[key] = value

    def delete(self, key, context_id):
        self._maybe()
        self.kept.pop(key, None)

    def on_evict(self, key, context_id):
        self._maybe()

    def _maybe(self):
        if self.failing:
            raise OSError("on purpose")


class HookMachine(RuleBasedStateMachine):
    """Whatever was acknowledged is what a load gives, as long as nobody drops it: the model is one dict."""

    @initialize(capacity=st.integers(1, 4), ttl=st.sampled_from([None, 3]))
    def begin(self, capacity, ttl):
        self.clock, self.disk, self.truth = Hands(), Disk(), {}
        self.capacity = capacity
        self.cache = SessionCache(capacity, None if ttl is None else timedelta(seconds=ttl), self.disk, clock=self.clock)

    @rule(seconds=st.sampled_from([1, 2, 5, -2]))
    def time_passes(self, seconds):
        self.clock.seconds += seconds

    @rule(failing=st.booleans())
    def the_disk(self, failing):
        self.disk.failing = failing

    @rule(key=KEYS, number=VALUES)
    def insert(self, key, number):
        try:
            assert self.cache.insert(key, number)
        except CapacityExceeded:
            assert self.disk.failing
            assert len(self.cache) > self.capacity
            assert key not in self.cache
        else:
            self.truth[key] = number

    @rule(key=KEYS)
    def load(self, key):
        try:
            assert self.cache.get_or_load(key) == self.truth.get(key)
        except OSError:
            assert self.disk.failing
            assert key not in self.cache

    @rule(key=KEYS)
    def get(self, key):
        assert self.cache.get(key) in (None, self.truth.get(key))

    @rule(key=KEYS)
    def raise_it(self, key):
        there = key in self.cache
        try:
            made = self.cache.update(key, lambda number: number + 1)
        except SessionNotFound:
            assert not there
        else:
            self.truth[key] += 1
            assert made == self.truth[key]

    @rule(key=KEYS, how=st.sampled_from(["save", "flush", "cleanup_expired"]))
    def save(self, key, how):
        try:
            getattr(self.cache, how)(*[key] if how == "save" else [])
        except OSError:
            assert self.disk.failing

    @rule(key=KEYS)
    def remove(self, key):
        try:
            self.cache.remove(key)
        except OSError:
            assert self.disk.failing
        else:
            self.truth.pop(key, None)
            assert key not in self.disk.kept

    @rule(key=KEYS)
    def invalidate(self, key):
        """What the hook has is what is left."""
        self.cache.invalidate(key)
        self.truth.pop(key, None)
        if key in self.disk.kept:
            self.truth[key] = self.disk.kept[key]

    @invariant()
    def nothing_unsaved_is_lost(self):
        unsaved = set(self.cache.unsaved_ids())
        for key, number in self.truth.items():
            held = self.cache._entries.get(key)
            assert (held.value if held is not None else self.disk.kept.get(key)) == number
            assert key in unsaved or self.disk.kept[key] == number
        assert len(self.cache) <= self.capacity + 1
        assert len(self.cache) <= self.capacity or unsaved
        assert len(self.cache._turns) == len(self.cache._loads) == 0

    def teardown(self):
        if hasattr(self, "cache"):
            self.disk.failing = False
            self.cache.close()
            assert self.disk.kept == self.truth


HookMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


class TestHook(HookMachine.TestCase):
    def setUp(self):
        """Disks that fail on purpose are logged."""
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
        self.addCleanup(structlog.reset_defaults)
