"""The background clean-up of a cache: it begins, it ends, and it holds on to nothing."""

from __future__ import annotations

import gc
import os
import signal
import threading
import warnings
import weakref
from datetime import timedelta

import pytest
import structlog

from bamboo_sessions.cache import NoPersistence, SessionCache
from bamboo_sessions.testing.clock import ManualClock

PATIENCE = 10
SECOND = timedelta(seconds=1)


class Steps(ManualClock):
    """A clock whose sleeper waits until the test lets it go on; only then time has passed."""

    def __init__(self):
        super().__init__()
        self.asleep, self.wake = threading.Semaphore(0), threading.Semaphore(0)
        self.asked = []

    def sleep(self, seconds):
        self.asked.append(seconds)
        self.asleep.release()
        assert self.wake.acquire(timeout=PATIENCE)
        super().sleep(seconds)

    def step(self):
        """One sleep, and what follows it up to the next."""
        self.reached()
        self.wake.release()
        self.reached()
        self.asleep.release()

    def reached(self):
        assert self.asleep.acquire(timeout=PATIENCE)


@pytest.fixture
def clock():
    clock = Steps()
    yield clock
    clock.wake.release(10)


def test_what_has_expired_leaves_without_anybody_looking(clock):
    """After each interval by the given clock, and not before."""
    cache = SessionCache(5, 3 * SECOND, clock=clock)
    cache.insert("a", 1)
    cache.start_cleanup(2 * SECOND)
    clock.step()
    assert len(cache) == 1
    clock.step()
    assert len(cache) == 0
    assert set(clock.asked) == {2.0}
    cache.close()


def test_after_close_nothing_is_cleaned(clock):
    """Also where the thread is just asleep: it wakes up, and ends without a pass."""
    cache = SessionCache(5, SECOND, clock=clock)
    cache.insert("a", 1)
    cache.start_cleanup(2 * SECOND)
    clock.reached()
    thread = cache._cleaner._thread
    cache.close()
    clock.wake.release()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert len(cache) == 1


def test_close_waits_for_a_pass_that_is_under_way(clock):
    """Once it returns, nobody calls the hook any more."""
    amidst, go_on, order = threading.Event(), threading.Event(), []

    class Slow(NoPersistence):
        def on_evict(self, key, context_id):
            amidst.set()
            assert go_on.wait(PATIENCE)
            order.append("told")

    cache = SessionCache(5, SECOND, Slow(), clock=clock)
    cache.insert("a", 1)
    cache.start_cleanup(2 * SECOND)
    clock.reached()
    clock.wake.release()
    assert amidst.wait(PATIENCE)
    closing = threading.Thread(target=lambda: (cache.close(), order.append("closed")))
    closing.start()
    go_on.set()
    closing.join(PATIENCE)
    assert order == ["told", "closed"]


def test_the_clock_of_the_machine_is_not_waited_for_at_the_end():
    """An hour's interval is cut short, and the thread is gone when `close` returns; started twice, there is one."""
    before, cache = threading.active_count(), SessionCache(5, SECOND)
    cache.start_cleanup(timedelta(hours=1))
    cache.start_cleanup(timedelta(hours=2))
    assert threading.active_count() == before + 1
    assert cache._cleaner.is_alive()
    cache.close()
    cache.close()
    assert threading.active_count() == before


def test_the_thread_does_not_keep_its_cache_alive(clock):
    """Who forgets to close it leaves nothing behind."""
    cache = SessionCache(5, SECOND, clock=clock)
    cache.start_cleanup(SECOND)
    clock.reached()
    thread, gone = cache._cleaner._thread, weakref.ref(cache)
    del cache
    gc.collect()
    assert gone() is None
    clock.wake.release()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_failing_pass_is_logged_and_the_next_one_comes(clock, monkeypatch):
    """Nobody else would hear of it."""
    cache = SessionCache(5, SECOND, clock=clock)
    passes = []
    monkeypatch.setattr(SessionCache, "cleanup_expired", lambda self: passes.append(1) or 1 / (len(passes) - 1))
    with structlog.testing.capture_logs() as logs:
        cache.start_cleanup(SECOND)
        clock.step()
        clock.step()
        cache.stop_cleanup()
    assert len(passes) == 2
    assert [log["event"] for log in logs] == ["clean-up of a cache failed"]


def test_an_interval_must_be_positive():
    """Anything else would be a loop without a pause."""
    with pytest.raises(ValueError, match="positive"):
        SessionCache().start_cleanup(timedelta(0))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_begins_without_a_clean_up():
    """Its parent's thread is not there, even if forked during a pass; it can close, or start one of its own."""
    cache = SessionCache(5, SECOND)
    cache.start_cleanup(timedelta(hours=1))
    with cache._cleaner._passing, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a test runner has threads of its own
        child = os.fork()
        if child == 0:
            signal.alarm(PATIENCE)
            cache.close()
            cache.start_cleanup(timedelta(hours=1))
            alive = cache._cleaner.is_alive()
            cache.close()
            os._exit(0 if alive else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert cache._cleaner.is_alive()
    cache.close()
