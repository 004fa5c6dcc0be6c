"""Changes of cached values in place: `update`, `with_mut`, `with_ref`, and what may not be done within them."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from bamboo_sessions.cache import DROP, NoPersistence, Put, SessionCache
from bamboo_sessions.errors import SessionNotFound
from bamboo_sessions.testing.clock import ManualClock


class Box:
    """A value that can be changed, and copied."""

    def __init__(self, *items):
        self.items = list(items)

    def snapshot(self):
        return Box(*self.items)


class Kept(NoPersistence):
    """A hook that takes everything."""


@pytest.fixture
def cache():
    return SessionCache(3, hook=Kept())


def test_update_takes_the_new_value_or_the_one_that_was_changed(cache):
    """A function may give a value or change what it was given; the answer is what is cached."""
    cache.insert("a", 1)
    assert cache.update("a", lambda value: value + 1) == 2
    cache.insert("b", [1])
    assert cache.update("b", lambda value: value.append(2)) == [1, 2]
    assert (cache.peek("a"), cache.peek("b")) == (2, [1, 2])


def test_with_mut_caches_what_its_body_made(cache):
    """A copied value changes when the body ends, not before; afterwards it is nobody's but the cache's (P6)."""
    cache.insert("a", Box(1))
    with cache.with_mut("a") as box:
        box.items.append(2)
        assert cache.peek("a").items == [1]
    assert cache.peek("a").items == [1, 2]
    box.items.append(3)
    assert cache.peek("a").items == [1, 2]
    cache.update("a", lambda _: box).items.append(4)
    box.items.append(5)
    assert cache.peek("a").items == [1, 2, 3]


def test_an_exception_in_a_body_changes_nothing_that_could_be_copied(cache):
    """The error passes; the entry is as it was, its mark too, and the key is free."""
    cache.insert("a", Box(1), saved=True)
    with pytest.raises(ZeroDivisionError), cache.with_mut("a") as box:
        box.items.append(1 / len(box.items[1:]))
    with pytest.raises(ZeroDivisionError):
        cache.update("a", lambda box: box.items.append(2) or 1 / 0)
    assert (cache.peek("a").items, cache.unsaved_ids()) == ([1], [])
    cache.insert("a", Box(2))


def test_an_exception_in_a_body_leaves_what_could_not_be_copied_unsaved(cache):
    """It may have been changed in place before the error, and must be saved then."""
    cache.insert("a", [1], saved=True)
    with pytest.raises(ZeroDivisionError), cache.with_mut("a") as turns:
        turns.append(2)
        turns.append(1 / 0)
    assert (cache.peek("a"), cache.unsaved_ids()) == ([1, 2], ["a"])


def test_with_ref_shows_the_cached_value_itself(cache):
    """Nothing is copied, and nothing is unsaved afterwards."""
    cache.insert("a", Box(1), saved=True)
    with cache.with_ref("a") as box:
        assert box is cache.held("a")
    assert cache.unsaved_ids() == []


@pytest.mark.parametrize("use", [
    lambda cache: cache.with_ref("a").__enter__(), lambda cache: cache.with_mut("a").__enter__(),
    lambda cache: cache.update("a", lambda value: value)])
def test_what_is_not_there_cannot_be_changed(use, cache):
    """Absent and expired are the same; the key is free afterwards, and the look counted as a miss."""
    with pytest.raises(SessionNotFound):
        use(cache)
    clock = ManualClock()
    timed = SessionCache(3, timedelta(seconds=5), clock=clock)
    timed.insert("a", 1)
    clock.forward(seconds=5)
    with pytest.raises(SessionNotFound):
        use(timed)
    assert timed.stats().misses == 1
    assert len(timed._turns) == len(timed._tickets) == 0


@pytest.mark.parametrize("use", ["with_ref", "with_mut"])
def test_a_body_counts_as_use_and_as_access(use):
    """Eviction and expiry come later for it."""
    clock = ManualClock()
    cache = SessionCache(2, timedelta(seconds=5), clock=clock)
    cache.insert("a", 1)
    cache.insert("b", 1)
    clock.forward(seconds=3)
    with getattr(cache, use)("a"):
        pass
    cache.insert("c", 1)
    assert sorted(cache.list_cached()) == ["a", "c"]
    clock.forward(seconds=4)
    assert "a" in cache


def test_what_is_evicted_during_its_change_comes_back_with_it():
    """Room may be needed meanwhile; the change is not lost for it."""
    cache = SessionCache(1)
    cache.insert("a", 1)
    with cache.with_mut("a"):
        cache.insert("b", 1)
        assert "a" not in cache
    assert cache.list_cached() == ["a"]


def test_what_is_cleared_during_its_change_stays_away(cache):
    """`clear` is about everything, this as well; a verdict of the owner's is no less."""
    for end in (lambda: cache.clear(), lambda: cache.change("a", lambda _: DROP)):
        cache.insert("a", [1])
        with cache.with_mut("a") as turns:
            turns.append(2)
            end()
        assert "a" not in cache


def test_a_change_of_what_the_owner_keeps_unsaved_leaves_his_token():
    """Without a hook the token is the owner's: nothing that is unsaved becomes clean by a change."""
    cache = SessionCache(3)
    cache.change("a", lambda _: Put(1, "token"))
    cache.update("a", lambda value: value + 1)
    assert (cache.peek_entry("a").value, cache.peek_entry("a").unsaved) == (2, "token")


@pytest.mark.parametrize("wait", [
    lambda cache: cache.with_mut("a").__enter__(), lambda cache: cache.with_mut("b").__enter__(),
    lambda cache: cache.with_ref("b").__enter__(), lambda cache: cache.update("b", lambda value: value),
    lambda cache: cache.save("b"), lambda cache: cache.remove("b"), lambda cache: cache.get_or_load("absent"),
    lambda cache: cache.insert("a", 2), lambda cache: cache.invalidate("a")])
def test_P11_nobody_waits_for_a_key_while_holding_one(wait, cache):
    """A circle of threads cannot come about: who would close it is told at once."""
    cache.insert("a", 1)
    cache.insert("b", 1)
    with cache.with_mut("a"), pytest.raises(RuntimeError, match=re.escape("'a'")):
        wait(cache)
    with cache.with_mut("a"):
        assert cache.get("b") == cache.get_or_load("b") == 1
        cache.insert("b", 2)
    assert cache.peek("b") == 2
    assert len(cache._turns) == 0


def test_an_insert_within_a_body_leaves_the_hook_for_later():
    """No I/O there; the end of the body, or the next call, does what is due."""
    calls = []

    class Notes(NoPersistence):
        def save(self, key, context_id, value):
            calls.append(key)

    cache = SessionCache(2, hook=Notes())
    cache.insert("a", 1)
    cache.insert("b", 1)
    with cache.with_mut("b"):
        cache.insert("c", 1)
        assert (calls, len(cache)) == ([], 3)
    assert (calls, len(cache)) == (["a"], 2)
