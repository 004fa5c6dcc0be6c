"""Lists by any metadata, after any changes, against what the sessions say themselves."""

from __future__ import annotations

import random
from math import isnan

import pytest

from bamboo_sessions import Session
from bamboo_sessions.storages.sql import metadata_terms, queries

KEYS = ["k", "é", "a.b", "a\0b", "", "$json", "long" * 400]
LEAVES = ["", "a", "é", "a\0b", "\ud800", "$json", "v" * 3000, "v" * 2999 + "w", None, True, False, 0, -0.0, 1, 1.0, 2, 2.5, 1e300, 2**53 + 1,
          2.0**53, 2**64 - 1, 10**30, float("nan"), float("inf"), [], [1], {}, {"$json": "1"}]


def some_value(dice, depth=0):
    if depth < 3 and dice.random() < 0.3:
        return {dice.choice(KEYS): some_value(dice, depth + 1) for _ in range(dice.randrange(3))}
    return dice.choice(LEAVES)


def same(one, other):
    """As a person would say it; nothing of the library's."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, float) and isinstance(other, float) and isnan(one) and isnan(other):
        return True
    return one == other


def has(metadata, path, value):
    for key in path:
        if not isinstance(metadata, dict) or key not in metadata:
            return False
        metadata = metadata[key]
    return same(metadata, value)


class Store:
    """Sessions under random hands, and what they say by themselves."""

    def __init__(self, repo, dice):
        self.repo, self.dice, self.there, self.copies = repo, dice, set(), []

    def step(self):
        name = f"s{self.dice.randrange(7)}"
        if name not in self.there:
            self.repo.save(Session.new(name, metadata={self.key(): some_value(self.dice) for _ in range(self.dice.randrange(5))}))
            self.there.add(name)
        elif self.dice.random() < 0.1:
            self.repo.delete(name)
            self.there.discard(name)
            self.copies = [copy for copy in self.copies if copy.id != name]
        else:
            self.change(name)

    def change(self, name):
        """Of a fresh copy, or of one that others have overtaken."""
        old = [copy for copy in self.copies if copy.id == name]
        session = self.dice.choice(old) if old and self.dice.random() < 0.4 else self.repo.load(name)
        if self.dice.random() < 0.3:
            self.copies.append(self.repo.load(name))
        if session.metadata and self.dice.random() < 0.3:
            del session.metadata[self.dice.choice(list(session.metadata))]
        else:
            session.metadata[self.key()] = some_value(self.dice)
        if self.dice.random() < 0.2:
            session.tags = frozenset(self.dice.sample(["red", "blue"], self.dice.randrange(3)))
        self.repo.save(session)

    def key(self):
        return self.dice.choice(KEYS)

    def wanted(self):
        """Mostly what is there, of one session; one time in five something else besides, or alone."""
        metadata = dict(self.repo.load(self.dice.choice(sorted(self.there))).metadata) if self.there else {}
        there = [self.place(metadata) for _ in range(self.dice.choice([1, 1, 2]) if metadata else 0)]
        if not there or self.dice.random() < 0.2:
            there[:1] = [(tuple(self.key() for _ in range(self.dice.choice([1, 1, 2]))), some_value(self.dice))]
        return dict(there)

    def place(self, metadata):
        """(a path, what stands there)."""
        at, path = metadata, ()
        while not path or (isinstance(at, dict) and at and self.dice.random() < 0.7):
            key = self.dice.choice(list(at))
            at, path = at[key], (*path, key)
        return path, at


@pytest.mark.parametrize("rare", [-1, 3, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_a_lookup_finds_what_the_sessions_say(opened, bundle, monkeypatch, seed, rare):
    """After saves, merges, deletions and new beginnings: those whose own metadata has the value, by whichever way."""
    monkeypatch.setattr(queries, "RARE", rare)
    monkeypatch.setattr(metadata_terms, "MOST", 5)
    dice = random.Random(seed)
    store, found, several = Store(bundle(opened()), dice), 0, 0
    for _ in range(12):
        for _ in range(8):
            store.step()
        sessions = [store.repo.load(name) for name in sorted(store.there)]
        for _ in range(20):
            wanted = store.wanted()
            tags = dice.choice([[], [], [], ["red"]])
            expected = {one.id for one in sessions if set(tags) <= one.tags
                        and all(has(dict(one.metadata), path, value) for path, value in wanted.items())}
            listed = store.repo.list(metadata=wanted, tags=tags).items
            assert {item.id for item in listed} == expected, f"asked for {wanted!r} {tags}"
            found, several = found + len(expected), several + (len(wanted) > 1 and bool(expected))
    assert (found > 100, several > 5) == (True, True)
