"""A session's metadata: plain values, the caller's own, checked at the door, changes in place included."""

from __future__ import annotations

import json
import math
from collections import namedtuple
from copy import copy, deepcopy
from datetime import UTC, datetime
from pickle import dumps, loads

import pytest

from bamboo_sessions.errors import InvalidValue
from bamboo_sessions.models import Session
from bamboo_sessions.models.values import MAX_DEPTH


def reloaded(session):
    """Another copy, as a storage would give it: nothing opened, nothing shared but packed bytes."""
    return session.snapshot()


def test_values_are_kept_also_where_they_were_changed_in_place():
    """No assignment is needed for a nested change to count."""
    session = Session.new("s")
    session.metadata["a"] = {"list": [1]}
    again = reloaded(session)
    again.metadata["a"]["list"].append({"two": 2})
    again.metadata["a"]["more"] = None
    assert reloaded(again).metadata == {"a": {"list": [1, {"two": 2}], "more": None}}
    assert session.metadata == {"a": {"list": [1]}}


def test_P6_copies_share_no_value():
    """Whatever way a copy is made, a nested change stays in it, on both sides."""
    for way in (lambda s: s.snapshot(), copy, deepcopy, lambda s: loads(dumps(s)), lambda s: s.as_new("t")):
        session = Session.new("s", metadata={"a": [{"b": []}]})
        other = way(session)
        other.metadata["a"][0]["b"].append(1)
        session.metadata["a"][0]["c"] = 2
        assert other.metadata == {"a": [{"b": [1]}]}
        assert session.metadata == {"a": [{"b": [], "c": 2}]}


BAD = [b"x", {1}, datetime(2026, 1, 1, tzinfo=UTC), object(), {1: 2}, [[{"a": {b"k": 1}}]], 10**5000]
NAMES = ["bytes", "set", "datetime", "object", "key", "nested key", "endless"]
WAYS = [
    lambda m, k, v: m.__setitem__(k, v), lambda m, k, v: m.update({k: v}), lambda m, k, v: m.update([(k, v)]),
    lambda m, k, v: m.setdefault(k, v), lambda m, k, v: m.__ior__({k: v}),
]


@pytest.mark.parametrize("way", WAYS, ids=["[]=", "update", "update pairs", "setdefault", "|="])
@pytest.mark.parametrize("bad", BAD, ids=NAMES)
def test_what_cannot_be_kept_is_refused_on_assignment_and_nothing_changed(way, bad):
    """Never at a later save, which it would block; a good value handed in beside it is not taken either."""
    session = Session.new("s", metadata={"good": 1})
    with pytest.raises(InvalidValue):
        way(session.metadata, "bad", bad)
    with pytest.raises(InvalidValue):
        session.metadata.update({"first": 1, "bad": bad})
    with pytest.raises(InvalidValue):
        session.metadata = {"first": 1, "bad": bad}
    with pytest.raises(InvalidValue):
        Session.new("s", metadata={"bad": bad})
    assert session.to_dict()["metadata"] == {"good": 1}


@pytest.mark.parametrize("key", [1, None, ("a",), b"k", "\ud800"])
def test_keys_are_text_that_utf8_can_carry(key):
    """A key that could not be written is refused with the value."""
    session = Session.new("s")
    for way in WAYS:
        with pytest.raises(InvalidValue):
            way(session.metadata, key, 1)
    assert session.metadata == {}


def test_a_cycle_and_a_value_too_deep_are_refused():
    """Also a cycle that was made in place, at the first copy."""
    session = Session.new("s")
    ring = []
    ring.append(ring)
    with pytest.raises(InvalidValue):
        session.metadata["ring"] = ring
    deep = "x"
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    with pytest.raises(InvalidValue):
        session.metadata["deep"] = deep
    session.metadata["later"] = later = []
    later.append(later)
    with pytest.raises(InvalidValue, match="later"):
        session.snapshot()


@pytest.mark.parametrize("value", [
    math.nan, math.inf, 2**64, -(2**200), "\ud800", {"\udfff": [2**64, {"$json": "1"}]}, {"$json": "not json"}, {"$json": 3},
    {"b": 1, "a": 2}, [1, 1.0, True, -0.0], "\u2028\x00",
], ids=ascii)
def test_looking_at_a_value_is_no_change(value):
    """Opening the metadata and saving again packs the very same bytes, whatever the value."""
    session = reloaded(Session.new("s", metadata={"k": value}))
    before = session._head.metadata
    assert repr(session.metadata["k"]) == repr(value)
    assert session._settled().metadata is before


Point = namedtuple("Point", "x y")  # noqa: PYI024 - the plain kind is what callers have


class Share(float):
    pass


@pytest.mark.parametrize("value", [Share(0.5), Point(1, 2), {"p": (Point(1, 2),)}])
def test_looking_at_what_was_a_subclass_is_no_change(value):
    """Or a runtime that only reads would win over a person who changed the key."""
    session = reloaded(Session.new("s", metadata={"k": value}))
    before = session._head.metadata
    assert json.loads(json.dumps(session.metadata["k"])) == json.loads(json.dumps(value))
    assert session._settled().metadata is before


def test_a_change_that_python_calls_equal_is_still_a_change():
    """1, 1.0 and True, 0.0 and -0.0 are different values."""
    for was, now in ((1, True), (1, 1.0), (0.0, -0.0), ({"a": 1}, {"a": True})):
        session = reloaded(Session.new("s", metadata={"k": was}))
        session.metadata["k"] = now
        assert repr(reloaded(session).metadata["k"]) == repr(now)


def test_it_is_a_dict_and_dumps_like_one():
    """Nothing to learn: deletion, pop, clear, json, equality; copies are plain dicts."""
    session = Session.new("s", metadata={"a": 1, "b": [2], "c": 3})
    del session.metadata["a"]
    assert session.metadata.pop("b") == [2]
    assert isinstance(session.metadata, dict)
    assert json.dumps(session.metadata) == '{"c": 3}'
    assert type(copy(session.metadata)) is type(deepcopy(session.metadata)) is type(loads(dumps(session.metadata))) is dict
    session.metadata.clear()
    assert reloaded(session).metadata == {}


def test_keys_stay_in_order():
    """In the order in which they were set."""
    session = Session.new("s", metadata={"z": 1, "a": 2, "m": 3})
    assert list(reloaded(session).metadata) == ["z", "a", "m"]


def test_copies_that_opened_nothing_share_the_packed_values():
    """A load copies no metadata however much there is."""
    session = Session.new("s", metadata={"k": list(range(1000))}).snapshot()
    assert session.snapshot()._head is session._head
