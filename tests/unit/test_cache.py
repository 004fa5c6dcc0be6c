"""The cache: what each method shows, keeps, evicts and counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
import pytest

from bamboo_sessions.cache import DROP, KEEP, CacheConfig, CacheEntry, CacheStats, NoPersistence, Put, SessionCache
from bamboo_sessions.clock import SYSTEM_CLOCK

START = datetime(2030, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Hands:
    """A clock moved by hand."""

    def __init__(self):
        self.seconds = 1000.0

    def now(self):
        return START + timedelta(seconds=self.seconds)

    def monotonic(self):
        return self.seconds

    def sleep(self, seconds):
        self.seconds += seconds


class Box:
    """A value that can be changed, and copied."""

    def __init__(self, *items):
        self.items = list(items)

    def snapshot(self):
        return Box(*self.items)


@pytest.fixture
def clock():
    return Hands()


@pytest.fixture
def timed(clock):
    """Three places, a minute each."""
    return SessionCache(3, MINUTE, clock=clock)


def unsaved(cache, key, value, token="token"):
    return cache.change(key, lambda _: Put(value, token))


# -- copies --------------------------------------------------------------------------------------------------------


def test_P6_the_one_who_inserts_keeps_no_hold_on_the_cached_value():
    """Changing a value after `insert`, `fill` or `Put` changes nothing in the cache."""
    cache, box = SessionCache(), Box(1)
    cache.insert("a", box)
    cache.fill(cache.ticket("b"), box)
    cache.change("c", lambda _: Put(box))
    box.items.append(2)
    assert [cache.peek(key).items for key in "abc"] == [[1], [1], [1]]


@pytest.mark.parametrize("look", [
    lambda cache: cache.get("a"), lambda cache: cache.peek("a"), lambda cache: cache.peek_entry("a").value,
    lambda cache: cache.change("a", lambda _: KEEP), lambda cache: cache.change("a", lambda entry: Put(entry.value))])
def test_P6_whoever_looks_gets_a_copy_of_his_own(look):
    """Changing what any method gave changes nothing in the cache."""
    cache = SessionCache()
    cache.insert("a", Box(1))
    look(cache).items.append(2)
    assert cache.peek("a").items == [1]


def test_a_value_without_snapshot_is_handed_through():
    """The very object comes back, also where it is a class whose instances could be copied."""
    cache, thing = SessionCache(), object()
    cache.insert("a", thing)
    cache.insert("b", Box)
    assert cache.get("a") is thing
    assert cache.get("b") is Box


def test_values_of_both_kinds_live_side_by_side():
    """Whether to copy is asked of each value, not once for the cache."""
    cache, plain, box = SessionCache(), [1], Box(1)
    cache.insert("a", plain)
    cache.insert("b", box)
    cache.insert("a", box)
    cache.insert("b", plain)
    assert cache.get("a") is not box
    assert cache.get("b") is plain


# -- order of use --------------------------------------------------------------------------------------------------


def test_the_least_recently_used_is_evicted(timed):
    """A `get` counts as use, under a clock that stands still too."""
    for key in "abc":
        timed.insert(key, key)
    timed.get("a")
    timed.insert("d", "d")
    timed.insert("e", "e")
    assert sorted(timed.list_cached()) == ["a", "d", "e"]


@pytest.mark.parametrize("look", [
    lambda cache: cache.peek("a"), lambda cache: cache.peek_entry("a"), lambda cache: cache.contains("a"),
    lambda cache: "a" in cache, lambda cache: cache.list_cached(), lambda cache: cache.stats(),
    lambda cache: cache.peek_context_id("a"), lambda cache: cache.for_each(lambda key, value: None),
    lambda cache: cache.held("a"), lambda cache: cache.change("a", lambda _: KEEP)])
def test_looking_on_is_no_use_and_no_access(look, timed, clock):
    """Neither eviction nor expiry comes later for it."""
    for key in "abc":
        timed.insert(key, key)
    clock.sleep(59)
    look(timed)
    timed.insert("d", "d")
    assert sorted(timed.list_cached()) == ["b", "c", "d"]
    timed = SessionCache(3, MINUTE, clock=clock)
    timed.insert("a", "a")
    clock.sleep(59)
    look(timed)
    clock.sleep(1)
    assert "a" not in timed


@pytest.mark.parametrize("again", [
    lambda cache: cache.insert("a", "A"), lambda cache: cache.change("a", lambda _: Put("A"))])
def test_replacing_counts_as_use_and_evicts_nobody(again, timed):
    """The replaced key is the newest one; the size stays."""
    for key in "abc":
        timed.insert(key, key)
    again(timed)
    assert len(timed) == 3
    timed.insert("d", "d")
    assert sorted(timed.list_cached()) == ["a", "c", "d"]


def test_a_key_that_was_removed_and_came_back_is_new():
    """Its former place in the order is forgotten."""
    cache = SessionCache(2)
    cache.insert("a", 1)
    cache.insert("b", 1)
    cache.insert("c", 1)  # the order is looked up here, with b in it
    cache.remove("b")
    cache.insert("b", 2)
    cache.insert("d", 1)
    assert sorted(cache.list_cached()) == ["b", "d"]


def test_P12_nothing_grows_with_the_keys_ever_seen():
    """After keys came, were hit, missed, loaded, evicted and removed, nothing is held but what is cached."""
    cache = SessionCache(10, MINUTE)
    for number in range(5000):
        key = str(number)
        assert cache.get(key) is None
        ticket = cache.ticket(key)
        assert cache.fill(ticket, number)
        cache.release(ticket)
        cache.get(str(number - 3))
        if number % 3 == 0:
            cache.remove(key)
        if number % 7 == 0:
            unsaved(cache, key, number)
            cache.overdue()
            cache.insert(key, number)
    held = {name: len(value) for name, value in vars(cache).items() if isinstance(value, dict | list)}
    assert held == {"_entries": 10, "_oldest": held["_oldest"], "_unsaved": 0, "_overdue": 0, "_tickets": 0, "_loads": 0}
    assert len(cache._turns) == len(cache._turns.changing) == len(cache._left) == 0
    assert held["_oldest"] <= 10


# -- time to live --------------------------------------------------------------------------------------------------


def test_time_to_live_counts_from_the_last_access(timed, clock):
    """A minute after the last `get`, to the second, the entry is gone; before, it is there."""
    timed.insert("a", 1)
    for _ in range(5):
        clock.sleep(59)
        assert timed.get("a") == 1
    clock.sleep(60)
    assert timed.get("a") is None


def test_nothing_shows_an_expired_entry(timed, clock):
    """All looks agree on it, before anything has cleaned up."""
    timed.insert("a", 1)
    clock.sleep(60)
    assert timed.peek("a") is None
    assert timed.peek_entry("a") is None
    assert timed.peek_context_id("a") is None
    assert timed.held("a") is None
    timed.for_each(lambda key, value: pytest.fail(key))
    assert not timed.contains("a")
    assert "a" not in timed
    assert timed.list_cached() == []
    assert len(timed) == 1
    assert timed.change("a", lambda entry: KEEP if entry is None else DROP) is None
    assert len(timed) == 0


def test_an_expired_entry_is_not_there_to_be_removed(timed, clock):
    """`remove` says what `contains` would have said."""
    timed.insert("a", 1)
    clock.sleep(60)
    assert not timed.remove("a")


def test_cleanup_drops_what_expired_and_counts_it(timed, clock):
    """Only the expired ones, and a second time none."""
    timed.insert("a", 1)
    timed.insert("b", 1)
    clock.sleep(30)
    timed.insert("c", 1)
    clock.sleep(30)
    assert timed.cleanup_expired() == 2
    assert timed.cleanup_expired() == 0
    assert timed.list_cached() == ["c"]


def test_without_a_time_to_live_nothing_expires(clock):
    """Not in a thousand years; the clock is not even asked for them."""
    cache = SessionCache(3, clock=clock)
    cache.insert("a", 1)
    clock.sleep(3e10)
    clock.monotonic = None
    assert cache.get("a") == 1
    assert cache.cleanup_expired() == 0


def test_a_clock_that_is_set_back_loses_nothing(timed, clock):
    """The entry lives on, and for a minute from its last access by that clock."""
    timed.insert("a", 1)
    clock.sleep(-500)
    assert timed.get("a") == 1
    clock.sleep(60)
    assert timed.get("a") is None


@pytest.mark.parametrize("arguments", [(0,), (-1,), (5, timedelta(0)), (5, timedelta(seconds=-1))])
def test_a_cache_that_could_hold_nothing_is_refused(arguments):
    """`max_sessions` and `ttl` must be positive."""
    with pytest.raises(ValueError, match="positive"):
        SessionCache(*arguments)


def test_the_same_under_the_clock_of_the_machine(monkeypatch):
    """That one is read on a shorter way, and looked up at each call: a test that freezes `time` is obeyed."""
    seconds = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: seconds[0])
    cache = SessionCache(3, MINUTE)
    cache.insert("a", 1)
    for _ in range(3):
        seconds[0] += 59
        assert cache.get("a") == 1
    seconds[0] += 59
    assert cache.peek("a") == 1
    seconds[0] += 1
    assert cache.peek("a") is None
    assert cache.get("a") is None


def test_since_when_is_told_in_whole_times():
    """The machine's time is kept as a number until somebody asks; what comes out is a time all the same."""
    cache, before = SessionCache(), SYSTEM_CLOCK.now()
    cache.insert("a", 1)
    since, after = cache.peek_entry("a").cached_at, SYSTEM_CLOCK.now()
    assert before - timedelta(milliseconds=1) <= since <= after + timedelta(milliseconds=1)
    assert since.utcoffset() == timedelta(0)


# -- ways to make one ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda clock: SessionCache(2, MINUTE, clock=clock), lambda clock: SessionCache(2, MINUTE, NoPersistence(), clock=clock),
    lambda clock: SessionCache(max_sessions=2, ttl=MINUTE, hook=NoPersistence(), clock=clock),
    lambda clock: SessionCache(CacheConfig(2, MINUTE), clock=clock),
    lambda clock: SessionCache.from_config(CacheConfig(max_sessions=2, ttl=MINUTE), clock=clock)])
def test_numbers_and_a_config_say_the_same(make, clock):
    """Capacity and time to live are what was said, in whatever way."""
    cache = make(clock)
    for key in "abc":
        cache.insert(key, key)
    assert sorted(cache.list_cached()) == ["b", "c"]
    assert (cache.stats().capacity, cache.stats().ttl_tracked) == (2, 2)
    clock.sleep(60)
    assert cache.list_cached() == []


def test_a_cache_is_of_ten_thousand_for_ever_unless_told_otherwise():
    """The defaults of the cache are those of its config, and without a time to live none is tracked."""
    cache = SessionCache()
    cache.insert("a", 1)
    assert (cache.stats().capacity, cache.stats().ttl_tracked) == (10_000, 0)
    assert CacheConfig() == CacheConfig(10_000, None)


def test_a_time_to_live_is_not_said_twice():
    """A config has one already, and neither of the two could win silently."""
    with pytest.raises(ValueError, match="ttl"):
        SessionCache(CacheConfig(5), MINUTE)


# -- contexts and walks --------------------------------------------------------------------------------------------


def test_an_entry_knows_its_context():
    """From whatever put it there; a change keeps it, an insert says it anew."""
    cache = SessionCache()
    cache.insert("a", 1, "alpha")
    ticket = cache.ticket("b")
    cache.fill(ticket, 1, "beta")
    cache.insert("c", 1)
    assert [cache.peek_context_id(key) for key in "abcd"] == ["alpha", "beta", "", None]
    cache.change("a", lambda _: Put(2))
    cache.update("a", lambda value: value + 1)
    assert cache.peek_entry("a").context_id == "alpha"
    cache.insert("a", 1)
    assert cache.peek_context_id("a") == ""


def test_a_walk_shows_each_live_value_as_a_copy(timed, clock):
    """The expired ones are left out, the walker may use the cache, and what it changes is its own."""
    timed.insert("a", Box(1))
    clock.sleep(60)
    timed.insert("b", Box(2))
    timed.insert("c", Box(3))
    seen = {}

    def look(key, box):
        seen[key] = list(box.items)
        box.items.append("changed")
        timed.remove("c" if key == "b" else "b")

    timed.for_each(look)
    assert seen in ({"b": [2]}, {"c": [3]})
    assert all(timed.peek(key).items == items for key, items in seen.items())


# -- entries and counters ------------------------------------------------------------------------------------------


def test_an_entry_says_since_when_and_whether_it_is_saved(timed, clock):
    """`cached_at` is the wall clock at the last replacement; a `get` does not move it."""
    unsaved(timed, "a", 1)
    clock.sleep(5)
    timed.get("a")
    assert timed.peek_entry("a") == CacheEntry(1, "", START + timedelta(seconds=1000), "token")
    timed.insert("a", 2)
    assert timed.peek_entry("a") == CacheEntry(2, "", START + timedelta(seconds=1005), None)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        timed.peek_entry("a").value = 3


def test_counters(timed, clock):
    """Each event is counted once, under its own name; asking for the counters counts as nothing."""
    for key in "abcd":
        timed.insert(key, key)
    assert [timed.get(key) for key in "abcd"] == [None, "b", "c", "d"]
    timed.stats()
    unsaved(timed, "b", "B")
    clock.sleep(60)
    assert [timed.get(key) for key in "bc"] == ["B", None]
    assert timed.cleanup_expired() == 1
    timed.remove("b")
    assert timed.stats() == CacheStats(size=0, capacity=3, ttl_tracked=0, hits=4, misses=2, evictions=1, expirations=2,
                                       loads=0, load_failures=0, unsaved=0, hook_failures=0)


def test_an_empty_cache_is_true():
    """`cache or SessionCache()` must not replace a cache for being empty."""
    assert SessionCache()
    assert len(SessionCache()) == 0


def test_a_key_of_another_type_is_not_in_the_cache():
    """`in` answers instead of raising."""
    assert 5 not in SessionCache()
    assert [] not in SessionCache()


def test_clear_drops_everything(timed):
    """Unsaved entries too, and nothing is overdue afterwards."""
    timed.insert("a", 1)
    unsaved(timed, "b", 1)
    timed.clear()
    assert (len(timed), timed.unsaved_ids(), timed.overdue(), timed.get("a")) == (0, [], None, None)


# -- change --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("verdict", "held"), [(KEEP, 1), (DROP, None), (Put(2), 2), (Put(2, "t"), 2)])
def test_change_carries_out_the_verdict_and_says_what_is_held(verdict, held):
    """The answer and the cache agree."""
    cache = SessionCache()
    cache.insert("a", 1)
    assert cache.change("a", lambda _: verdict) == held
    assert cache.peek("a") == held


def test_change_shows_the_value_itself():
    """No copy is made for a comparison."""
    cache, seen = SessionCache(), []
    cache.insert("a", Box(1))
    for _ in range(2):
        cache.change("a", lambda entry: seen.append(entry.value) or KEEP)
    assert seen[0] is seen[1]


@pytest.mark.parametrize("verdict", [None, "DROP", 5])
def test_a_verdict_that_is_none_is_refused(verdict):
    """A forgotten `return` must not pass for a decision."""
    cache = SessionCache()
    cache.insert("a", 1)
    with pytest.raises(TypeError, match="KEEP, DROP or Put"):
        cache.change("a", lambda _: verdict)
    assert cache.peek("a") == 1


def test_an_exception_in_decide_changes_nothing():
    """It reaches the caller; entry, tickets and lock are as before."""
    cache = SessionCache()
    ticket = cache.ticket("a")
    with pytest.raises(ZeroDivisionError):
        cache.change("a", lambda _: 1 / 0)
    assert cache.fill(ticket, 1)
    with pytest.raises(ZeroDivisionError):
        cache.change("a", lambda _: 1 / 0)
    assert cache.peek("a") == 1


# -- unsaved -------------------------------------------------------------------------------------------------------


def test_unsaved_entries_are_spared_and_named_to_their_owner():
    """Eviction passes over them, over capacity if need be, and each is overdue then, once."""
    cache = SessionCache(2)
    unsaved(cache, "a", 1)
    unsaved(cache, "b", 1)
    assert cache.overdue() is None
    cache.insert("c", 1)
    cache.insert("d", 1)
    assert sorted(cache.list_cached()) == ["a", "b", "d"]
    assert {cache.overdue(), cache.overdue()} == {"a", "b"}
    assert cache.overdue() is None
    assert cache.unsaved_ids() == ["a", "b"]


def test_only_what_is_in_the_way_is_overdue():
    """An unsaved entry that was used more recently than a clean one need not hurry."""
    cache = SessionCache(2)
    cache.insert("a", 1)
    unsaved(cache, "b", 1)
    cache.insert("c", 1)
    assert sorted(cache.list_cached()) == ["b", "c"]
    assert cache.overdue() is None


def test_an_overdue_entry_that_stays_unsaved_is_named_again():
    """Its owner tried and failed; the next eviction that comes upon it says so."""
    cache = SessionCache(1)
    unsaved(cache, "a", 1)
    for number in range(5):
        cache.insert(str(number), 1)
        assert cache.overdue() == "a"
        assert cache.overdue() is None
    assert sorted(cache.list_cached()) == ["4", "a"]


def test_the_cache_shrinks_when_what_was_unsaved_is_saved():
    """Each clean publish over an unsaved entry gives back the place that was taken too much."""
    cache = SessionCache(2)
    for key in "abcd":
        unsaved(cache, key, 1)
    assert len(cache) == 4
    for key, size in (("a", 4), ("b", 3), ("c", 2), ("d", 2)):
        assert cache.change(key, lambda _: Put(2)) == 2
        assert len(cache) == size
    assert sorted(cache.list_cached()) == ["c", "d"]
    assert (cache.unsaved_ids(), cache.overdue()) == ([], None)


def test_P3_an_unsaved_entry_outlives_its_time(timed, clock):
    """It is the only copy: shown, served, given to `decide`, kept by the clean-up, and overdue."""
    unsaved(timed, "a", 1)
    clock.sleep(60)
    assert (timed.peek("a"), "a" in timed, timed.list_cached()) == (1, True, ["a"])
    assert timed.cleanup_expired() == 0
    assert timed.overdue() == "a"
    assert timed.get("a") == 1
    assert timed.overdue() == "a"
    clock.sleep(60)
    seen = []
    timed.change("a", lambda entry: seen.append(entry.unsaved) or KEEP)
    assert seen == ["token"]


@pytest.mark.parametrize("drop", ["remove", "invalidate"])
def test_who_names_an_unsaved_entry_may_drop_it(drop):
    """Both are explicit; nothing is overdue afterwards."""
    cache = SessionCache(1)
    unsaved(cache, "a", 1)
    cache.insert("b", 1)
    assert getattr(cache, drop)("a")
    assert not getattr(cache, drop)("a")
    assert (cache.overdue(), cache.unsaved_ids(), cache.peek("a")) == (None, [], None)


# -- tickets -------------------------------------------------------------------------------------------------------


def test_a_miss_fills_its_gap():
    """With a ticket that nobody voided."""
    cache = SessionCache()
    ticket = cache.ticket("a")
    assert cache.fill(ticket, 1)
    cache.release(ticket)
    assert cache.get("a") == 1


def test_a_ticket_fills_once():
    """What was filled, evicted and may have been changed elsewhere is not filled again from the same look."""
    cache = SessionCache(1)
    ticket = cache.ticket("a")
    assert cache.fill(ticket, 1)
    cache.insert("b", 1)
    assert not cache.fill(ticket, 1)


def test_a_released_ticket_fills_nothing():
    """And the tickets of other readers of that key are as good as before."""
    cache = SessionCache()
    mine, theirs = cache.ticket("a"), cache.ticket("a")
    cache.release(mine)
    cache.release(mine)
    assert not cache.fill(mine, 1)
    assert cache.fill(theirs, 2)


def test_other_keys_void_nothing():
    """A ticket is about one key."""
    cache = SessionCache()
    ticket = cache.ticket("a")
    cache.insert("b", 1)
    cache.remove("c")
    assert cache.fill(ticket, 1)


@pytest.mark.parametrize("before", [False, True], ids=["", "void already"])
@pytest.mark.parametrize(("deed", "gone"), [
    (lambda cache: cache.invalidate("a"), True), (lambda cache: cache.remove("a"), True), (lambda cache: cache.clear(), True),
    (lambda cache: cache.change("a", lambda _: DROP), True), (lambda cache: cache.change("a", lambda _: KEEP), False),
    (lambda cache: cache.change("a", lambda _: Put(2)), False), (lambda cache: cache.insert("a", 2), False),
], ids=["invalidate", "remove", "clear", "drop", "keep", "put", "insert"])
def test_a_ticket_tells_whether_what_was_there_has_gone(deed, gone, before):
    """To be dropped on purpose is another thing than to be replaced; room that is made for others is neither."""
    cache = SessionCache(1)
    cache.insert("a", 1)
    ticket = cache.ticket("a")
    cache.insert("b", 1)
    assert (ticket.void, ticket.gone) == (False, False)
    if before:
        cache.insert("a", 1)
    deed(cache)
    assert (ticket.void, ticket.gone) == (True, gone)


def test_a_fill_replaces_nothing():
    """A ticket that was taken while something was cached fills only if that is gone; an unsaved entry never is."""
    cache = SessionCache()
    cache.insert("a", 1)
    unsaved(cache, "b", 1)
    assert not cache.fill(cache.ticket("a"), 2)
    assert not cache.fill(cache.ticket("b"), 2)
    assert (cache.peek("a"), cache.peek("b")) == (1, 1)
