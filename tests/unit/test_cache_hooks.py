"""The cache with a hook behind it: what is loaded, saved and told to it, and what happens where it fails."""

from __future__ import annotations

from datetime import timedelta

import pytest
import structlog

from bamboo_sessions.cache import NoPersistence, Put, SessionCache
from bamboo_sessions.errors import CapacityExceeded, SessionError, StorageError
from bamboo_sessions.testing.clock import ManualClock

MINUTE = timedelta(minutes=1)


class Recorder:
    """A hook that keeps values in a dict and notes every call; `fails` names the calls that raise."""

    def __init__(self):
        self.kept, self.calls, self.fails = {}, [], set()

    def _note(self, name, key, context_id):
        self.calls.append((name, key, context_id))
        if name in self.fails or (name, key) in self.fails:
            raise OSError(f"{name} of {key} failed on purpose")

    def load(self, key, context_id):
        self._note("load", key, context_id)
        return self.kept.get(key)

    def save(self, key, context_id, value):
        self._note("save", key, context_id)
        self.kept[key] = value

    def delete(self, key, context_id):
        self._note("delete", key, context_id)
        self.kept.pop(key, None)

    def on_evict(self, key, context_id):
        self._note("on_evict", key, context_id)

    def names(self, *keys):
        return [f"{name} {key}" for name, key, _ in self.calls if not keys or key in keys]


@pytest.fixture
def hook():
    return Recorder()


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def cache(hook, clock):
    return SessionCache(2, MINUTE, hook, clock=clock)


@pytest.fixture(autouse=True)
def _quiet():
    with structlog.testing.capture_logs():
        yield


# -- loading -------------------------------------------------------------------------------------------------------


def test_a_miss_is_loaded_once_and_cached(cache, hook):
    """The second look is a hit; what was loaded is saved already, and belongs to the context that was asked for."""
    hook.kept["a"] = 1
    assert cache.get_or_load("a", "ctx") == 1
    assert cache.get_or_load("a", "ctx") == 1
    assert hook.calls == [("load", "a", "ctx")]
    entry = cache.peek_entry("a")
    assert (entry.value, entry.context_id, entry.unsaved) == (1, "ctx", None)
    stats = cache.stats()
    assert (stats.loads, stats.load_failures, stats.hits, stats.misses) == (1, 0, 1, 1)


def test_absence_is_not_cached(cache, hook):
    """Somebody may put it there; the hook is asked each time."""
    assert cache.get_or_load("a") is None
    hook.kept["a"] = 1
    assert cache.get_or_load("a") == 1
    assert hook.names() == ["load a", "load a"]


def test_a_failed_load_reaches_the_caller_and_is_forgotten(cache, hook):
    """The hook's own error, unchanged; the next caller asks again."""
    hook.fails.add("load")
    with pytest.raises(OSError, match="on purpose"):
        cache.get_or_load("a")
    hook.fails.clear()
    hook.kept["a"] = 1
    assert cache.get_or_load("a") == 1
    assert (cache.stats().loads, cache.stats().load_failures) == (2, 1)


def test_without_a_hook_nothing_is_loaded_saved_or_unsaved():
    """`get_or_load` is `get`, `save` has nobody to give it to, and eviction asks nobody."""
    cache = SessionCache(1)
    assert cache.get_or_load("a") is None
    cache.insert("a", 1)
    cache.update("a", lambda value: value + 1)
    assert cache.peek_entry("a").unsaved is None
    assert not cache.save("a")
    cache.flush()
    cache.insert("b", 1)
    assert cache.list_cached() == ["b"]
    assert cache.stats().loads == 0


def test_a_hook_made_from_the_empty_one_is_a_hook():
    """Overriding what one needs is the shortest way to write one."""

    class Saves(NoPersistence):
        def save(self, key, context_id, value):
            saved.append(key)

    saved = []
    cache = SessionCache(1, hook=Saves())
    cache.insert("a", 1)
    cache.insert("b", 1)
    assert saved == ["a"]


# -- what is unsaved -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutate", [
    lambda cache: cache.insert("a", 2), lambda cache: cache.update("a", lambda value: value + 1),
    lambda cache: mutated(cache)])
def test_a_mutation_is_unsaved_until_it_is_saved(mutate, cache, hook):
    """The mark comes with each change and goes with `save`, which gives the hook context and value."""
    hook.kept["a"] = 1
    cache.get_or_load("a", "ctx")
    mutate(cache)
    assert cache.peek_entry("a").unsaved
    assert cache.unsaved_ids() == ["a"]
    assert cache.stats().unsaved == 1
    assert cache.save("a")
    assert not cache.peek_entry("a").unsaved
    assert (cache.unsaved_ids(), cache.overdue()) == ([], None)


def mutated(cache):
    with cache.with_mut("a"):
        pass


def test_an_insert_of_what_the_hook_has_is_clean(cache, hook):
    """Nothing is saved when it is evicted."""
    for key in "abc":
        assert cache.insert(key, key, saved=True)
    assert cache.unsaved_ids() == []
    assert hook.names() == ["on_evict a"]


def test_save_gives_the_hook_what_is_cached_whether_marked_or_not(cache, hook):
    """A value that is handed through can be changed without the cache's knowledge."""
    turns = []
    cache.insert("a", turns, "ctx")
    cache.save("a")
    turns.append("later")
    assert cache.save("a")
    assert hook.calls == [("save", "a", "ctx")] * 2
    assert not cache.save("b")


def test_a_failed_save_reaches_the_caller_and_leaves_the_mark(cache, hook):
    """Nothing is taken for saved that is not."""
    cache.insert("a", 1)
    hook.fails.add("save")
    with pytest.raises(OSError, match="save of a"):
        cache.save("a")
    assert cache.unsaved_ids() == ["a"]


def test_flush_saves_all_it_can_and_raises_the_first_error(hook):
    """One bad session does not keep the others from being saved; `close` flushes too."""
    cache = SessionCache(5, hook=hook)
    for key in "abc":
        cache.insert(key, key)
    hook.fails.add(("save", "b"))
    with pytest.raises(OSError, match="save of b"):
        cache.flush()
    assert hook.kept == {"a": "a", "c": "c"}
    hook.fails.clear()
    with cache:
        pass
    assert (hook.kept, cache.unsaved_ids()) == ({"a": "a", "b": "b", "c": "c"}, [])


# -- removing ------------------------------------------------------------------------------------------------------


def test_remove_is_for_cache_and_hook_and_invalidate_for_the_cache(cache, hook):
    """After `invalidate` a load brings it back, after `remove` nothing does."""
    hook.kept["a"] = 1
    cache.get_or_load("a", "ctx")
    assert cache.invalidate("a")
    assert cache.get_or_load("a", "ctx") == 1
    assert cache.remove("a")
    assert cache.get_or_load("a", "ctx") is None
    assert ("delete", "a", "ctx") in hook.calls
    assert "on_evict a" not in hook.names()


def test_what_is_not_cached_can_be_removed_too(cache, hook):
    """From the hook, in the context that the caller names; the answer is about the cache."""
    hook.kept["a"] = 1
    assert not cache.remove("a", "ctx")
    assert (hook.kept, hook.calls) == ({}, [("delete", "a", "ctx")])


def test_a_removal_that_fails_changes_nothing_here(cache, hook):
    """The unsaved value is still there to be saved or removed again."""
    cache.insert("a", 1)
    hook.fails.add("delete")
    with pytest.raises(OSError, match="delete of a"):
        cache.remove("a")
    assert (cache.peek("a"), cache.unsaved_ids()) == (1, ["a"])


# -- eviction ------------------------------------------------------------------------------------------------------


def test_an_unsaved_entry_is_saved_and_told_before_it_leaves(cache, hook):
    """Least recently used first, before `insert` returns; and then it is out of the cache and in the hook."""
    for key in "abc":
        cache.insert(key, key, f"of {key}")
    assert hook.calls == [("save", "a", "of a"), ("on_evict", "a", "of a")]
    assert sorted(cache.list_cached()) == ["b", "c"]
    assert cache.stats().evictions == 1
    assert cache.get_or_load("a") == "a"


def test_at_its_eviction_an_entry_can_still_be_seen():
    """The hook's last look at it, and nobody meanwhile finds a gap or an older value."""

    class Looks(Recorder):
        def on_evict(self, key, context_id):
            seen.append((key, cache.peek(key), cache.get("b")))

    seen, hook = [], Looks()
    cache = SessionCache(2, hook=hook)
    for key in "abc":
        cache.insert(key, key)
    assert seen == [("a", "a", "b")]


def test_a_clean_entry_leaves_without_being_saved(cache, hook):
    """It is only told."""
    hook.kept.update(a=1, b=2, c=3)
    for key in "abc":
        cache.get_or_load(key, "ctx")
    assert hook.names("a") == ["load a", "on_evict a"]
    assert sorted(cache.list_cached()) == ["b", "c"]


def test_a_clean_newer_entry_does_not_leave_in_place_of_an_unsaved_older_one(cache, hook):
    """The order of use is kept where the hook works."""
    hook.kept.update(b=1)
    cache.insert("a", 1)
    cache.get_or_load("b")
    cache.insert("c", 1)
    assert sorted(cache.list_cached()) == ["b", "c"]


@pytest.mark.parametrize("call", ["save", "on_evict"])
def test_where_the_hook_fails_an_unsaved_entry_stays(call, cache, hook):
    """Over capacity, counted and logged; it leaves when the hook works again."""
    hook.fails.add(call)
    with structlog.testing.capture_logs() as logs:
        for key in "abc":
            cache.insert(key, key)
    assert sorted(cache.list_cached()) == ["a", "b", "c"]
    assert cache.stats().hook_failures == 1
    assert sorted(cache.unsaved_ids()) == ["a", "b", "c"]
    assert [(log["log_level"], log["session_id"]) for log in logs] == [("warning", "a")]
    hook.fails.clear()
    cache.insert("d", "d")
    assert (len(cache), hook.kept) == (2, {"a": "a", "b": "b"})


def test_a_tenth_over_capacity_is_the_end(hook):
    """Twenty places hold twenty-two unsaved values; the next one is refused, a clean one is not cached; nothing is lost."""
    cache = SessionCache(20, hook=hook)
    hook.fails.add("save")
    for number in range(22):
        cache.insert(str(number), number)
    with pytest.raises(CapacityExceeded) as raised:
        cache.insert("one more", 1)
    assert (raised.value.session_id, raised.value.capacity) == ("one more", 20)
    assert isinstance(raised.value, StorageError)
    assert isinstance(raised.value, SessionError)
    hook.kept["clean"] = "loaded"
    assert cache.get_or_load("clean") == "loaded"
    assert "clean" not in cache
    assert not cache.insert("clean", 1, saved=True)
    assert sorted(map(int, cache.unsaved_ids())) == list(range(22))
    cache.insert("5", "replaced")
    cache.update("6", lambda value: value + 1)
    hook.fails.clear()
    cache.insert("one more", 1)
    assert len(cache) == 20
    cache.flush()
    assert {key: hook.kept[key] for key in ("0", "5", "6", "21", "one more")} == {
        "0": 0, "5": "replaced", "6": 7, "21": 21, "one more": 1}


def test_a_clean_entry_makes_room_where_the_hook_fails(hook):
    """What can be had again goes first then."""
    cache = SessionCache(10, hook=hook)
    for number in range(9):
        cache.insert(str(number), number, saved=number >= 5)
    hook.fails.add("save")
    for number in range(9, 15):
        cache.insert(str(number), number)
    assert len(cache) == 11
    assert sorted(map(int, cache.unsaved_ids())) == [0, 1, 2, 3, 4, 9, 10, 11, 12, 13, 14]


def test_change_does_no_io_and_keeps_within_the_same_bound(hook):
    """It is for owners who hold locks: what it leaves undone the next insert does."""
    cache = SessionCache(1, hook=hook)
    cache.change("a", lambda _: Put(1, "token"))
    cache.change("b", lambda _: Put(2, "token"))
    assert hook.calls == []
    with pytest.raises(CapacityExceeded):
        cache.change("c", lambda _: Put(3, "token"))
    assert cache.change("c", lambda _: Put(3)) is None
    assert sorted(cache.list_cached()) == ["a", "b"]
    cache.insert("d", 4)
    assert (cache.list_cached(), hook.kept) == (["d"], {"a": 1, "b": 2})


def test_a_failing_farewell_to_a_clean_entry_changes_nothing(cache, hook):
    """It has left, and nothing of it was unsaved; the failure is counted."""
    hook.fails.add("on_evict")
    for key in "abc":
        cache.insert(key, key, saved=True)
    assert sorted(cache.list_cached()) == ["b", "c"]
    assert cache.stats().hook_failures == 1


# -- time ----------------------------------------------------------------------------------------------------------


def test_an_expired_entry_is_never_shown_and_never_lost(cache, hook, clock):
    """Not even an unsaved one: a load saves it first, and then asks the hook."""
    cache.insert("a", 1, "ctx")
    clock.forward(minutes=1)
    assert (cache.get("a"), cache.peek("a"), cache.peek_entry("a"), "a" in cache, cache.list_cached()) == (
        None, None, None, False, [])
    assert cache.unsaved_ids() == ["a"]
    assert cache.get_or_load("a", "ctx") == 1
    assert hook.names() == ["save a", "on_evict a", "load a"]
    assert cache.stats().expirations == 1


def test_a_load_of_what_cannot_be_saved_raises(cache, hook, clock):
    """The hook's older value must not pass for the newest one."""
    cache.insert("a", 2)
    hook.kept["a"] = 1
    clock.forward(minutes=1)
    hook.fails.add("save")
    with pytest.raises(OSError, match="save of a"):
        cache.get_or_load("a")
    hook.fails.clear()
    assert cache.get_or_load("a") == 2


def test_cleanup_saves_what_has_expired(cache, hook, clock):
    """It is counted where it left; where the hook fails it stays."""
    cache.insert("a", 1)
    cache.insert("b", 2, saved=True)
    clock.forward(minutes=1)
    hook.fails.add("save")
    assert cache.cleanup_expired() == 1
    assert (cache.stats().hook_failures, cache.unsaved_ids()) == (1, ["a"])
    hook.fails.clear()
    assert cache.cleanup_expired() == 1
    assert (len(cache), hook.kept) == (0, {"a": 1})
    assert hook.names("b") == ["on_evict b"]
    assert cache.stats().expirations == 2


def test_P12_with_a_hook_nothing_grows_with_the_keys_ever_seen(hook, clock):
    """Loads, failures, evictions and removals leave nothing behind but what is cached."""
    cache = SessionCache(10, MINUTE, hook, clock=clock)
    for number in range(3000):
        key = str(number)
        hook.fails = {"load"} if number % 5 == 0 else {"save"} if number % 7 == 0 else set()
        try:
            cache.get_or_load(key)
            cache.insert(key, number)
            cache.update(key, lambda value: value + 1)
            if number % 3 == 0:
                cache.remove(key)
        except (OSError, CapacityExceeded):
            pass
        clock.forward(seconds=number % 11)
    hook.fails.clear()
    cache.insert("last", 1)
    cache.cleanup_expired()
    held = {name: len(value) for name, value in vars(cache).items() if isinstance(value, dict | list)}
    size = held.pop("_entries")
    assert size <= 10
    assert held.pop("_oldest") <= 10
    assert held.pop("_unsaved") <= size
    assert held == {"_overdue": 0, "_tickets": 0, "_loads": 0}
    assert (len(cache._left), len(cache._turns), len(cache._turns.changing)) == (0, 0, 0)
