"""Many ids through one small cache: it ends where it began."""

from __future__ import annotations

import gc
import os
import tracemalloc
from datetime import timedelta

import pytest

from bamboo_sessions.cache import NoPersistence, SessionCache

IDS = int(os.environ.get("BAMBOO_SESSIONS_CACHE_IDS", "10000"))
"""A million, with the variable set, takes some minutes."""


class Forgets(NoPersistence):
    """A hook that finds something for every key and keeps nothing."""

    def load(self, key, context_id):
        return {"id": key}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("hook", [NoPersistence, Forgets])
def test_P12_a_cache_of_a_thousand_ends_where_it_began(hook):
    """Each id is loaded, inserted, hit and changed; the memory in use is that of the first few thousand, give or take a twentieth."""
    cache = SessionCache(1_000, timedelta(hours=1), hook())

    def through(ids):
        for number in ids:
            key = f"chat-{number:07}"
            cache.get_or_load(key)
            cache.insert(key, {"id": key})
            cache.get(key)
            cache.update(key, lambda value: {**value, "changed": True})

    def in_use():
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        through(range(5_000))
        before = in_use()
        through(range(5_000, 5_000 + IDS))
        after = in_use()
    finally:
        tracemalloc.stop()
    assert before > 200_000
    assert abs(after - before) <= before / 20
    assert len(cache) == 1_000
