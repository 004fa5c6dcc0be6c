"""The cache and its hook between threads: shared loads, saves that are overtaken, and waiting for nobody else's key."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
import structlog

from bamboo_sessions.cache import NoPersistence, SessionCache
from bamboo_sessions.errors import CapacityExceeded
from bamboo_sessions.testing.clock import ManualClock
from tests.support import PATIENCE, Gate, Worker


class Stopped(NoPersistence):
    """A hook with a dict behind it, whose calls can be held at a gate: `at["load", "a"] = Gate()`, once."""

    def __init__(self, **kept):
        self.kept, self.at, self.calls = kept, {}, []

    def _pass(self, name, key):
        self.calls.append(f"{name} {key}")
        stop = self.at.pop((name, key), None)
        if stop is not None:
            stop()

    def load(self, key, context_id):
        value = self.kept.get(key)  # read before the gate: what is held there is a slow reader
        self._pass("load", key)
        return value

    def save(self, key, context_id, value):
        self._pass("save", key)
        self.kept[key] = value

    def delete(self, key, context_id):
        self._pass("delete", key)
        self.kept.pop(key, None)

    def stop(self, name, key):
        gate = self.at[name, key] = Gate()
        return gate


class Box:
    def __init__(self, *items):
        self.items = list(items)

    def snapshot(self):
        return Box(*self.items)


def waiting(cache, number):
    """Until that many callers wait for the load of "a": they have counted their misses before they do."""
    deadline = threading.Event()
    for _ in range(int(PATIENCE * 1000)):
        if cache.stats().misses >= number:
            return
        deadline.wait(0.001)
    raise AssertionError("they did not come")


# -- one load for all --------------------------------------------------------------------------------------------------


def test_a_key_is_loaded_once_however_many_miss_it():
    """Eight callers, one call of the hook; each has a copy of its own (P6)."""
    hook = Stopped(a=Box(1))
    cache, gate = SessionCache(5, hook=hook), hook.stop("load", "a")
    workers = [Worker(cache.get_or_load, "a") for _ in range(8)]
    gate.reached()
    waiting(cache, 8)
    gate.open()
    boxes = [worker.result() for worker in workers]
    for box in boxes:
        box.items.append("mine")
    assert hook.calls == ["load a"]
    assert [box.items for box in boxes] == [[1, "mine"]] * 8
    assert cache.peek("a").items == [1]
    assert (cache.stats().loads, cache.stats().misses) == (1, 8)


def test_P11_other_keys_do_not_wait_for_a_load():
    """While one key is being read, others are read, inserted, changed and removed."""
    hook = Stopped(a=1, b=2)
    cache, gate = SessionCache(5, hook=hook), hook.stop("load", "a")
    slow = Worker(cache.get_or_load, "a")
    gate.reached()
    assert Worker(cache.get_or_load, "b").result() == 2
    assert Worker(cache.update, "b", lambda value: value + 1).result() == 3
    Worker(cache.insert, "c", 1).result()
    assert Worker(cache.remove, "b").result()
    gate.open()
    assert slow.result() == 1


def test_a_failed_load_reaches_all_who_waited_for_it():
    """One call, one error for each; the next caller tries again."""
    hook = Stopped()
    cache, gate = SessionCache(5, hook=hook), Gate()

    def fail():
        gate()
        raise OSError("on purpose")

    hook.at["load", "a"] = fail
    workers = [Worker(cache.get_or_load, "a") for _ in range(4)]
    gate.reached()
    waiting(cache, 4)
    gate.open()
    assert [worker.outcome() for worker in workers] == ["OSError"] * 4
    assert (hook.calls, cache.stats().load_failures) == (["load a"], 1)
    hook.kept["a"] = 1
    assert cache.get_or_load("a") == 1


def test_an_interrupted_load_is_no_answer():
    """The one who read was stopped from outside; of those who waited, one reads again, and all get that."""
    hook = Stopped(a=1)
    cache, gate = SessionCache(5, hook=hook), Gate()

    def interrupt():
        gate()
        raise KeyboardInterrupt

    hook.at["load", "a"] = interrupt
    first = Worker(cache.get_or_load, "a")
    gate.reached()
    others = [Worker(cache.get_or_load, "a") for _ in range(3)]
    waiting(cache, 4)
    gate.open()
    assert first.outcome() == "KeyboardInterrupt"
    assert [other.result() for other in others] == [1] * 3
    assert hook.calls == ["load a", "load a"]


def test_a_load_that_finds_its_gap_filled_asks_nobody():
    """Between its miss and its load somebody published: that is given, as one miss and no hit."""

    class Readings(ManualClock):
        due = ()

        def monotonic(self):
            if self.due:
                todo, *self.due = self.due
                todo()
            return super().monotonic()

    hook, clock = Stopped(a="old"), Readings()
    cache = SessionCache(5, timedelta(minutes=1), hook, clock=clock)
    clock.due = [lambda: None, lambda: cache.insert("a", "new")]
    assert cache.get_or_load("a") == "new"
    stats = cache.stats()
    assert (hook.calls, stats.hits, stats.misses, stats.loads) == ([], 0, 1, 0)


@pytest.mark.parametrize(("publish", "cached"), [
    (lambda cache: cache.insert("a", "new"), "new"), (lambda cache: cache.remove("a"), None),
    (lambda cache: cache.invalidate("a"), None), (lambda cache: cache.clear(), None)])
def test_P3_a_load_that_was_overtaken_is_returned_and_not_cached(publish, cached):
    """None of those who overtake it waits; and whoever asks afterwards is not given the old value."""
    hook = Stopped(a="old")
    cache, gate = SessionCache(5, hook=hook), hook.stop("load", "a")
    slow = Worker(cache.get_or_load, "a")
    gate.reached()
    Worker(publish, cache).result()
    hook.kept["a"] = "newer"
    assert cache.peek("a") == cached
    assert Worker(cache.get_or_load, "a").result() == (cached or "newer")
    gate.open()
    assert slow.result() == "old"
    assert cache.peek("a") == (cached or "newer")


def test_P9_a_load_that_began_during_a_removal_does_not_bring_it_back():
    """The hook still had it then; it is not cached after the removal."""
    hook = Stopped(a="old")
    cache, deleting = SessionCache(5, hook=hook), hook.stop("delete", "a")
    removal = Worker(cache.remove, "a")
    deleting.reached()
    assert cache.get_or_load("a") == "old"
    deleting.open()
    removal.result()
    assert cache.get_or_load("a") is None


def test_P9_a_load_that_outlasts_a_removal_does_not_bring_it_back_either():
    """It began while the hook still had the value, and ends when everything is over."""
    hook = Stopped(a="old")
    cache, deleting, loading = SessionCache(5, hook=hook), hook.stop("delete", "a"), hook.stop("load", "a")
    removal = Worker(cache.remove, "a")
    deleting.reached()
    slow = Worker(cache.get_or_load, "a")
    loading.reached()
    deleting.open()
    removal.result()
    loading.open()
    assert slow.result() == "old"
    assert "a" not in cache


def test_an_insert_during_a_removal_is_newer_than_it():
    """It neither waits for the hook nor is dropped by the end of what began before it."""
    hook = Stopped(a="old")
    cache, deleting = SessionCache(5, hook=hook), hook.stop("delete", "a")
    removal = Worker(cache.remove, "a")
    deleting.reached()
    Worker(cache.insert, "a", "new").result()
    deleting.open()
    removal.result()
    cache.flush()
    assert (cache.peek("a"), hook.kept) == ("new", {"a": "new"})


# -- saves and evictions that are overtaken ----------------------------------------------------------------------------


def test_what_changes_while_it_is_being_saved_stays_unsaved():
    """The hook got the older value; the mark belongs to the newer one."""
    hook = Stopped()
    cache, gate = SessionCache(5, hook=hook), hook.stop("save", "a")
    cache.insert("a", 1)
    saving = Worker(cache.save, "a")
    gate.reached()
    Worker(cache.insert, "a", 2).result()  # waits for no I/O, not even of its own key
    gate.open()
    assert saving.result()
    assert (hook.kept, cache.unsaved_ids()) == ({"a": 1}, ["a"])


def test_an_evicted_entry_is_there_until_it_is_saved_and_a_newer_one_stays():
    """No load can find the hook's older value in between; what is inserted meanwhile is not dropped for it."""
    hook = Stopped(a="older")
    cache, gate = SessionCache(1, hook=hook), hook.stop("save", "a")
    cache.insert("a", 1)
    other = Worker(cache.insert, "b", 1)
    gate.reached()
    assert cache.get_or_load("a") == 1
    Worker(cache.insert, "a", 2).result()
    gate.open()
    other.result()
    assert cache.get_or_load("a") == 2
    cache.flush()
    assert hook.kept == {"a": 2, "b": 1}


def test_P11_an_insert_does_not_wait_for_a_session_that_somebody_changes():
    """The least recently used one would have to leave, and cannot now: it does so later."""
    cache = SessionCache(1, hook=(hook := Stopped()))
    cache.insert("a", 1)
    with cache.with_mut("a"):
        Worker(cache.insert, "b", 1).result()
        assert (len(cache), hook.calls) == (2, [])
    assert len(cache) == 1


def test_many_inserts_at_once_are_no_reason_to_refuse_one():
    """The hook works, only slowly: at the limit an insert saves another entry itself instead of giving up."""
    hook = Stopped()
    cache = SessionCache(2, hook=hook)
    for key in "ab":
        cache.insert(key, key)
    gate = hook.stop("save", "a")
    third = Worker(cache.insert, "c", "c")
    gate.reached()  # three are held, which is the limit, and "a" is on its way out
    Worker(cache.insert, "d", "d").result()
    gate.open()
    third.result()
    cache.flush()
    assert sorted(hook.kept) == ["a", "b", "c", "d"]
    assert len(cache) == 2


# -- exclusion ---------------------------------------------------------------------------------------------------------


def test_changes_of_one_key_take_turns():
    """Four threads each raise a number 500 times, in a value that cannot be copied; none is lost."""
    cache = SessionCache(5, hook=Stopped())
    cache.insert("a", [0])

    def raise_it():
        for _ in range(500):
            with cache.with_mut("a") as box:
                seen = box[0]
                cache.peek("b")
                box[0] = seen + 1

    for worker in [Worker(raise_it) for _ in range(4)]:
        worker.result()
    assert cache.peek("a") == [2000]


def test_an_insert_waits_for_a_change_of_its_key():
    """It was asked for later, so it is what stays."""
    cache, gate = SessionCache(5), Gate()
    cache.insert("a", [1])

    def change():
        with cache.with_mut("a") as box:
            gate()
            box.append(2)

    changing = Worker(change)
    gate.reached()
    inserting = Worker(cache.insert, "a", ["new"])
    assert cache.peek("a") == [1]  # readers do not wait
    gate.open()
    changing.result()
    inserting.result()
    assert cache.peek("a") == ["new"]


def test_P12_under_load_nothing_unsaved_is_lost():
    """Threads insert, change, load and remove over a hook that fails now and then: what was acknowledged is somewhere."""
    hook, turn = Stopped(), iter(range(10**9))

    def sometimes(name, key):
        if next(turn) % 13 == 0:
            raise OSError("on purpose")

    hook._pass = sometimes
    cache = SessionCache(8, hook=hook)

    def work(name):
        last = {}
        for number in range(600):
            key = f"{name}{number % 17}"
            try:
                if number % 3 == 0:
                    cache.insert(key, number)
                elif number % 3 == 1 and key in cache:
                    cache.update(key, lambda _, number=number: number)
                else:
                    found = cache.get_or_load(key)
                    assert found == last.get(key), (key, found, last.get(key))
                    continue
            except (OSError, CapacityExceeded, KeyError):
                continue
            except Exception as error:
                if type(error).__name__ == "SessionNotFound":
                    continue
                raise
            last[key] = number
        return last

    with structlog.testing.capture_logs():
        lasts = [worker.result() for worker in [Worker(work, name) for name in "xyz"]]
        for _ in range(50):
            try:
                cache.flush()
            except OSError:
                continue
            break
    expected = {key: number for last in lasts for key, number in last.items()}
    assert {key: hook.kept.get(key) for key in expected} == expected
    assert len(cache._loads) == len(cache._tickets) == len(cache._turns) == 0
