"""The cache between threads: interleavings that were chosen, not hoped for, and two runs that hammer."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count

import pytest

from bamboo_sessions.cache import DROP, KEEP, Put, SessionCache

PATIENCE = 10  # seconds until something that should not wait is taken to wait for ever


@contextmanager
def running(work):
    """`work` in a thread of its own; leaving the block waits for it and raises what it raised."""
    met = []

    def run():
        try:
            work()
        except BaseException as error:
            met.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield thread
    thread.join(PATIENCE)
    assert not thread.is_alive()
    for error in met:
        raise error


@pytest.fixture
def hasty():
    """Threads change places a thousand times as often as usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(usual)


class Clock:
    """Stands still; `on_reading` is what somebody else does just then."""

    def __init__(self):
        self.seconds, self.on_reading = 0.0, []

    def now(self):
        return datetime(2030, 1, 1, tzinfo=UTC)

    def monotonic(self):
        seconds = self.seconds
        if self.on_reading:
            self.on_reading.pop(0)()
        return seconds


class Slow:
    """A value whose copying can be stopped half-way."""

    def __init__(self, name):
        self.name, self.begun, self.go_on = name, threading.Event(), threading.Event()
        self.stops = False

    def snapshot(self):
        if self.stops:
            self.begun.set()
            assert self.go_on.wait(PATIENCE)
        return self


# -- hits wait for nobody --------------------------------------------------------------------------------------------


def test_P11_a_hit_takes_no_lock():
    """With the cache's lock gone, everything that only looks up a live entry still works."""
    cache = SessionCache(4, timedelta(minutes=1))
    cache.insert("a", 1)
    cache._lock = None
    assert (cache.get("a"), cache.peek("a"), cache.peek_entry("a").value, "a" in cache, len(cache)) == (1, 1, 1, True, 1)


def test_P11_a_hit_does_not_wait_for_a_writer_that_is_deciding():
    """Nor a hit on the very key that is about to be replaced: it gets what is there."""
    cache, deciding, go_on = SessionCache(), threading.Event(), threading.Event()
    cache.insert("a", 1)

    def decide(entry):
        deciding.set()
        assert go_on.wait(PATIENCE)
        return Put(2)

    with running(lambda: cache.change("a", decide)):
        assert deciding.wait(PATIENCE)
        with running(lambda: (cache.get("a"), cache.peek("a"))) as hit:
            hit.join(PATIENCE)
            answered = not hit.is_alive()
            assert cache.get("a") == 1 if answered else True
            go_on.set()
    assert answered
    assert cache.get("a") == 2


def test_P11_copies_of_one_value_are_made_side_by_side():
    """Two hits are both amidst `snapshot`, and a third thread writes meanwhile."""
    cache, meeting = SessionCache(), threading.Barrier(3, timeout=PATIENCE)

    class Meets:
        armed = False

        def snapshot(self):
            if self.armed:
                meeting.wait()
            return self

    cache.insert("a", value := Meets())
    value.armed = True
    with running(lambda: cache.get("a")), running(lambda: cache.peek("a")):
        cache.insert("b", 1)
        meeting.wait()


def test_a_hit_that_is_overtaken_gives_what_it_found():
    """The entry was replaced and then removed while it was being copied; neither is undone by the late hit."""
    cache, old, got = SessionCache(2, timedelta(minutes=1)), Slow("old"), []
    cache.insert("a", old)
    old.stops = True
    with running(lambda: got.append(cache.get("a"))):
        assert old.begun.wait(PATIENCE)
        cache.insert("a", "new")
        assert cache.get("a") == "new"
        cache.remove("a")
        old.go_on.set()
    assert got == [old]
    assert cache.get("a") is None
    assert len(cache) == 0


# -- tickets: a slow reader ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("publish", [
    lambda cache: cache.insert("a", "new"),
    lambda cache: cache.change("a", lambda _: Put("new")),
    lambda cache: cache.fill(cache.ticket("a"), "new")])
def test_P3_a_slow_load_does_not_come_back_after_an_eviction(publish):
    """It read the old copy; a newer one was published and evicted since; the old one is not cached."""
    cache = SessionCache(1)
    ticket = cache.ticket("a")
    publish(cache)
    assert cache.peek("a") == "new"
    cache.insert("b", 1)
    assert "a" not in cache
    assert not cache.fill(ticket, "old")
    assert "a" not in cache


@pytest.mark.parametrize("end", [
    lambda cache: cache.remove("a"),
    lambda cache: cache.invalidate("a"),
    lambda cache: cache.clear(),
    lambda cache: cache.change("a", lambda _: DROP),
    lambda cache: cache.change("a", lambda _: KEEP)])
@pytest.mark.parametrize("there", [True, False])
def test_P9_a_slow_load_does_not_bring_back_what_was_deleted(end, there):
    """Whether or not something was cached at the moment of the deletion."""
    cache = SessionCache()
    if there:
        cache.insert("a", "old")
    ticket = cache.ticket("a")
    end(cache)
    cache.remove("a") if there and "a" in cache else None
    assert not cache.fill(ticket, "old")
    assert "a" not in cache


def test_P3_the_first_of_two_loads_fills():
    """The second may have read something older, and only a comparison could tell."""
    cache = SessionCache()
    first, second = cache.ticket("a"), cache.ticket("a")
    assert cache.fill(second, "newer")
    assert not cache.fill(first, "older")
    cache.remove("a")
    assert not cache.fill(first, "older")


def test_a_ticket_is_void_before_the_next_one_decides():
    """One who still holds a ticket can see in his own `decide` whether anybody was there since."""
    cache, seen = SessionCache(), []
    ticket = cache.ticket("a")
    for _ in range(2):
        cache.change("a", lambda _: seen.append(ticket.void) or KEEP)
    assert seen == [False, True]


# -- expiry ----------------------------------------------------------------------------------------------------------


def test_a_get_that_found_an_expired_entry_looks_again():
    """Between its look and the lock somebody published anew; that is served, not dropped."""
    clock = Clock()
    cache = SessionCache(2, timedelta(seconds=5), clock=clock)
    cache.insert("a", "old")
    clock.seconds = 5.0
    clock.on_reading = [lambda: None, lambda: cache.insert("a", "new")]
    assert cache.get("a") == "new"
    assert cache.peek("a") == "new"


def test_a_get_that_found_nothing_looks_again():
    """What was published between its look and the lock is a hit, and no miss is counted."""
    clock = Clock()
    cache = SessionCache(2, timedelta(seconds=5), clock=clock)
    clock.on_reading = [lambda: cache.insert("a", "new")]
    assert cache.get("a") == "new"
    assert (cache.stats().hits, cache.stats().misses) == (1, 0)


# -- one step --------------------------------------------------------------------------------------------------------


def test_P3_compare_and_publish_is_one_step(hasty):
    """Four threads each raise the number 2,000 times; none overwrites another."""
    cache = SessionCache()
    cache.insert("a", 0)

    def raise_it():
        for _ in range(2000):
            cache.change("a", lambda entry: Put(entry.value + 1))

    with running(raise_it), running(raise_it), running(raise_it), running(raise_it):
        pass
    assert cache.get("a") == 8000


def test_a_value_that_is_being_replaced_is_never_missing(hasty):
    """Clean over unsaved, over capacity, is the longest way; a look finds the one or the other, never a gap."""
    cache, done = SessionCache(1), threading.Event()
    cache.insert("a", 0)

    def replace():
        for number in range(3000):
            cache.change("a", lambda _, number=number: Put(number, "token"))
            cache.change("b", lambda _: Put(0, "token"))
            cache.insert("a", number)
            cache.remove("b")
        done.set()

    found = []
    with running(replace):
        while not done.is_set():
            found.append(cache.peek("a"))  # `get` would look again, under the lock
    assert None not in found
    assert found == sorted(found)


def test_P12_under_load_the_size_holds_and_nothing_unsaved_is_lost(hasty):
    """Two threads insert, evict and remove, one keeps unsaved values, two hit; all counters agree afterwards."""
    cache, done = SessionCache(50, timedelta(minutes=1)), threading.Event()
    hits, sizes = [], []

    def churn(name):
        for number in range(4000):
            key = f"{name}{number % 90}"
            ticket = cache.ticket(key)
            cache.fill(ticket, key)
            cache.release(ticket)
            if number % 11 == 0:
                cache.remove(f"{name}{number % 13}")
            sizes.append(len(cache))

    def keep():
        for number in range(20):
            cache.change(f"unsaved{number}", lambda _, number=number: Put(number, "token"))
            cache.overdue()

    def hit():
        count = 0
        while not done.is_set():
            for number in range(90):
                for name in "xy":
                    got = cache.get(f"{name}{number}")
                    assert got in (None, f"{name}{number}")
                    count += 1
        hits.append(count)

    with running(hit), running(hit):
        try:
            with running(lambda: churn("x")), running(lambda: churn("y")), running(keep):
                pass
        finally:
            done.set()
    stats = cache.stats()
    assert max(sizes) <= 50
    assert stats.size == len(cache.list_cached()) <= 50
    assert stats.hits + stats.misses == sum(hits)
    assert [cache.peek(f"unsaved{number}") for number in range(20)] == list(range(20))
    assert cache._tickets == {}


@contextmanager
def at_step(number, act):
    """`act` once, before the `number`-th bytecode instruction that the block executes in the cache's own code."""
    left = [number]

    def trace(frame, event, _):
        if not frame.f_code.co_filename.endswith(("/cache.py", "/_lru.py")):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left[0] -= 1
            if left[0] == 0:
                act()
        return trace

    usual = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # 3.12 counts instructions only where a frame asked for it before the trace began
    sys.settrace(trace)
    try:
        yield left
    finally:
        sys.settrace(usual)


def test_the_order_of_use_is_exact_whenever_others_hit():
    """Two hits at any step of an eviction come before its choice or after it, and are never seen by halves.

    Before it, the entry that nobody hit goes; after it, the one that was the oldest until then. Tried at one step after
    the other, the answer changes once.
    """
    def hit(cache):
        for key in ("oldest", "newest"):
            if key in cache:  # a miss would wait for the lock
                cache.get(key)

    gone = []
    for number in count(1):
        cache, keys = SessionCache(3), ["oldest", "idle", "newest"]
        for key in keys:
            cache.insert(key, 1)
        with at_step(number, partial(hit, cache)) as left:
            cache.insert("one more", 1)
        gone += [key for key in keys if key not in cache]
        if left[0] > 0:  # the insert has fewer steps than that
            break
    turn = gone.index("oldest")
    assert gone == ["idle"] * turn + ["oldest"] * (number - turn)
    assert 50 < turn < number - 5


# -- what runs under the lock ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", [
    lambda cache: cache.remove("a"),
    lambda cache: cache.clear(),
    lambda cache: cache.insert("a", 1),
    lambda cache: cache.insert("b", 1),
    lambda cache: cache.change("a", lambda _: DROP),
    lambda cache: cache.fill(cache.ticket("b"), 1)])
def test_a_finalizer_may_use_the_cache(leave):
    """A value that left is let go after the lock is released, so its finalizer can take that lock."""
    cache, left = SessionCache(1), []

    class Last:
        def __del__(self):
            left.append(cache.remove("z"))

    cache.insert("a", Last())
    with running(lambda: leave(cache)):
        pass
    assert left == [False]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_does_not_inherit_a_held_lock():
    """Forked amidst a change in another thread: the child has the entries, their marks and order, and a free lock."""
    cache = SessionCache(3)
    cache.insert("a", 1)
    cache.change("b", lambda _: Put(2, "token"))
    cache.insert("c", 3)
    ticket = cache.ticket("d")
    cache.get("a")
    with cache._lock, warnings.catch_warnings():
        cache._unsaved.clear()  # amidst a change: the bookkeeping is behind the entries
        warnings.simplefilter("ignore", DeprecationWarning)  # a test runner has threads of its own
        child = os.fork()
        if child == 0:
            signal.alarm(PATIENCE)  # ends a child that waits for ever
            filled = cache.fill(ticket, 4)
            cache.insert("e", 5)
            fine = (not filled and cache.unsaved_ids() == ["b"] and sorted(cache.list_cached()) == ["a", "b", "e"]
                    and cache.get("b") == 2 and cache.overdue() == "b")
            os._exit(0 if fine else 1)
    assert os.waitpid(child, 0)[1] == 0
