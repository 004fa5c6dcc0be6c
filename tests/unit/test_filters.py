"""Which heads pass a filter, and what is refused at its door."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest

from bamboo_sessions import InvalidValue
from bamboo_sessions.filters import Filter, same_json

NOON = "2026-01-01T12:00:00.000000Z"
HEAD = {
    "id": "s", "updated_at": NOON, "tags": ["red", "work"],
    "metadata": {"customer": {"plan": "pro", "seats": 3, "a.b": None, "": 0}, "ok": True, "list": [1, {"k": 2.0}],
                 "long": {"$json": '{"n": 1180591620717411303424, "bad": "\\ud800", "nan": NaN}'}, "odd": {"$json": 7}},
}


@pytest.mark.parametrize(("path", "value", "passes"), [
    ("customer.plan", "pro", True), ("customer.plan", "Pro", False), (("customer", "plan"), "pro", True),
    ("customer.seats", 3.0, True), ("customer.seats", "3", False), ("customer.seats", True, False),
    (("customer", "a.b"), None, True), ("customer.a.b", None, False), (("customer", ""), 0, True),
    (("customer", ""), False, False), (("customer", ""), -0.0, True), ("customer.none", None, False), ("none", None, False),
    ("ok", True, True), ("ok", 1, False), ("ok.deeper", True, False), ("list", [1.0, {"k": 2}], True),
    ("list", (1, {"k": 2}), True), ("list", [1], False), ("list.0", 1, False),
    ("customer", {"": 0, "a.b": None, "seats": 3, "plan": "pro"}, True), ("customer", {"plan": "pro"}, False),
    ("long.n", 2**70, True), ("long.n", float(2**70), True), ("long.n", 2**70 + 1, False), ("long.bad", "\ud800", True),
    ("long.nan", math.nan, True), ("long.$json", 1, False), ("odd", {"$json": 7}, False),
])
def test_metadata_is_compared_as_json(path, value, passes):
    """By a path of keys; a value that a head keeps as text counts as what its owner gave."""
    assert Filter(metadata={path: value}).takes(HEAD) is passes


def test_every_path_has_to_agree():
    """Two conditions narrow."""
    assert Filter(metadata={"ok": True, "customer.plan": "pro"}).takes(HEAD)
    assert not Filter(metadata={"ok": True, "customer.plan": "free"}).takes(HEAD)


def test_a_value_deeper_than_the_stack_is_compared():
    """Metadata may be 900 levels deep."""
    deep, other = 1, 2
    for _ in range(800):
        deep, other = {"k": [deep]}, {"k": [other]}
    assert same_json(deep, deep)
    assert not same_json(deep, other)


@pytest.mark.parametrize(("given", "passes"), [
    ({"tags": ["red", "work"]}, True), ({"tags": {"red"}}, True), ({"tags": "red"}, True), ({"tags": ["red", "blue"]}, False),
    ({"tag": "work", "tags": ["red"]}, True), ({"tag": "blue", "tags": ["red"]}, False), ({"tags": ()}, True),
    ({"tags": "re"}, False),
])
def test_all_of_the_tags_are_needed(given, passes):
    """`tag` is one more of them; a text is one tag and not a set of letters."""
    assert Filter(**given).takes(HEAD) is passes


@pytest.mark.parametrize(("given", "passes"), [
    ({"updated_after": datetime(2026, 1, 1, 12, tzinfo=UTC)}, True),
    ({"updated_after": datetime(2026, 1, 1, 12, 0, 0, 1, tzinfo=UTC)}, False),
    ({"updated_before": datetime(2026, 1, 1, 12, tzinfo=UTC)}, False),
    ({"updated_before": datetime(2026, 1, 1, 12, 0, 0, 1, tzinfo=UTC)}, True),
    ({"updated_after": datetime(2026, 1, 1, 14, tzinfo=timezone(timedelta(hours=2)))}, True),
    ({"updated_before": datetime(2026, 1, 1, 13, 30, tzinfo=timezone(timedelta(hours=2)))}, False),
])
def test_times_bound_from_and_until(given, passes):
    """From a moment on, up to before one, in any time zone."""
    assert Filter(**given).takes(HEAD) is passes


@pytest.mark.parametrize("given", [
    {"updated_after": datetime(2026, 1, 1)}, {"updated_before": datetime(2026, 1, 1)}, {"updated_after": NOON},
    {"order": "best"}, {"order": None}, {"metadata": {"": 1}}, {"metadata": {"a..b": 1}}, {"metadata": {".a": 1}},
    {"metadata": {(): 1}}, {"metadata": {("a", 1): 1}}, {"metadata": {7: 1}}, {"metadata": {"a": object()}},
    {"metadata": {"\ud800": 1}}, {"model": 7}, {"model": "\ud800"}, {"tags": [7]}, {"tag": 7},
])
def test_what_cannot_be_asked_is_refused(given):
    """InvalidValue: a naive datetime has no place in time, an unknown order is none, and a bad path leads nowhere."""
    with pytest.raises(InvalidValue):
        Filter(**given)


@pytest.mark.parametrize("tags", [7, None, "red", {"red": 1}])
def test_tags_that_are_no_list_pass_no_question_for_one(tags):
    """A head that no version writes disturbs no list."""
    assert not Filter(tag="red").takes({**HEAD, "tags": tags})
