"""What counts as JSON at the door, and that it comes back exactly as it went in."""

from __future__ import annotations

import json
import math
from collections import OrderedDict, namedtuple
from copy import copy, deepcopy
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pickle import dumps, loads
from uuid import UUID

import pytest

from bamboo_sessions.errors import InvalidValue
from bamboo_sessions.models.values import MAX_DEPTH, decode_text, encode_text, freeze, is_plain, pack, thaw, unpack


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Plain(Enum):
    ONE = 1


class Share(float):
    pass


Point = namedtuple("Point", "x y")  # noqa: PYI024 - the plain kind is what callers have


def nested(levels):
    value = "leaf"
    for _ in range(levels):
        value = {"in": value} if levels % 2 else [value]
    return value


def at_depth(frames, work):
    return work() if frames == 0 else at_depth(frames - 1, work)


FAITHFUL = [
    None, True, False, 0, 1, -1, 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**300, 1.0, -0.0, 1e-320, 1e308, 1.1,
    "", "text", "\x00\x1f\x7f", "\u2028\u2029\u0085", "\U0001f600", "\ud800", "a\udfffb", [], {}, [[]], {"": {}},
    [1, 1.0, True, None], {"$json": "1"}, {"$json": 1}, {"$json": {"$json": "[]"}}, [{"$json": "x"}],
    {"a": 1, "$json": "null"}, {"\ud800": "key"}, {"z": 1, "a": 2, "m": [2**70, "\udc00"]},
    math.inf, -math.inf,
]


def exactly(value):
    """A form in which 1, 1.0 and True, 0.0 and -0.0, and two orders of keys differ."""
    if isinstance(value, dict):
        return ("dict", [(key, exactly(inner)) for key, inner in value.items()])
    if isinstance(value, list):
        return ("list", [exactly(inner) for inner in value])
    return (type(value).__name__, repr(value))


@pytest.mark.parametrize("value", FAITHFUL, ids=ascii)
def test_a_packed_value_comes_back_with_its_types_signs_and_order_of_keys(value):
    """Whatever JSON there is in Python's wider sense survives, also what orjson would silently change."""
    assert exactly(unpack(pack(value, "it"))) == exactly(value)


@pytest.mark.parametrize("value", FAITHFUL, ids=ascii)
def test_packing_what_was_unpacked_gives_the_same_bytes(value):
    """Looking at a value and saving it again must not look like a change."""
    packed = pack(value, "it")
    assert pack(unpack(packed), "it") == packed


def test_nan_is_kept_and_not_turned_into_null():
    """orjson writes NaN as null and says nothing."""
    assert math.isnan(unpack(pack({"x": math.nan}, "it"))["x"])


@pytest.mark.parametrize(("value", "plain"), [
    (Colour.RED, "red"), (Level.HIGH, 3), (Share(0.5), 0.5), (Point(1, 2), [1, 2]), ((1, (2,)), [1, [2]]),
    (OrderedDict(b=1, a=2), {"b": 1, "a": 2}), ({Colour.RED: Level.HIGH}, {"red": 3}), ([Share(2.0)], [2.0]),
])
def test_subclasses_of_json_types_are_kept_as_the_json_they_are(value, plain):
    """A subclass is stored as the plain value, in the very bytes of the plain value."""
    assert pack(value, "it") == pack(plain, "it") == json.dumps(plain, separators=(",", ":")).encode()


@pytest.mark.parametrize("value", [
    b"bytes", bytearray(b"x"), {1, 2}, frozenset(), datetime(2026, 1, 1, tzinfo=UTC), UUID(int=1), Decimal(1), 1j,
    object(), Plain.ONE, range(3), {1: "x"}, {None: 1}, {("a",): 1}, {b"k": 1}, [[{"a": {1: 2}}]], (x for x in ()),
], ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("around", [lambda v: v, lambda v: [v], lambda v: {"k": [v]}])
def test_what_json_has_no_form_for_is_refused(value, around):
    """Nothing is turned into text on the quiet, at any level."""
    with pytest.raises(InvalidValue):
        pack(around(value), "it")


def test_a_value_that_contains_itself_is_refused():
    """A cycle meets the depth limit instead of never ending."""
    ring = {}
    ring["self"] = [ring]
    with pytest.raises(InvalidValue):
        pack(ring, "it")


def test_an_integer_too_long_to_write_is_refused():
    """Python writes no more than 4,300 digits."""
    with pytest.raises(InvalidValue):
        pack(10**5000, "it")


@pytest.mark.parametrize("frames", [0, 300])
@pytest.mark.parametrize("levels", [199, 200, 201, 260, MAX_DEPTH - 1, MAX_DEPTH - 2])
def test_deep_values_survive_also_when_the_callers_own_stack_is_deep(levels, frames):
    """The limit is a number of levels of the value, whatever the stack."""
    value = nested(levels)
    there_and_back = at_depth(frames, lambda: json.dumps(thaw(freeze(unpack(pack(value, "it")))))) if frames == 0 else (
        at_depth(frames, lambda: decode_text(encode_text(thaw(freeze(unpack(pack(value, "it")))), "it"))))
    assert (there_and_back if frames == 0 else json.dumps(there_and_back)) == json.dumps(value)


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 5000, 200_000])
def test_too_deep_is_refused_and_never_a_recursion_error(levels):
    """Far beyond the interpreter's own limit the answer is the same."""
    with pytest.raises(InvalidValue, match="levels"):
        is_plain(nested(levels), "it")


# -- frozen ------------------------------------------------------------------------------------------------------

CHANGES = [
    lambda v: v["d"].__setitem__("x", 1), lambda v: v["d"].pop("a"), lambda v: v["d"].update(x=1),
    lambda v: v["d"].clear(), lambda v: v["d"].popitem(), lambda v: v["d"].setdefault("x", 1),
    lambda v: v["d"].__delitem__("a"), lambda v: v["d"].__ior__({"x": 1}),
    lambda v: v["l"].append(1), lambda v: v["l"].__setitem__(0, 1), lambda v: v["l"].__delitem__(0),
    lambda v: v["l"].extend([1]), lambda v: v["l"].insert(0, 1), lambda v: v["l"].pop(), lambda v: v["l"].remove(1),
    lambda v: v["l"].clear(), lambda v: v["l"].sort(), lambda v: v["l"].reverse(), lambda v: v["l"].__iadd__([1]),
    lambda v: v["l"].__imul__(2), lambda v: v["l"][0]["in"].append(1), lambda v: v["t"][0].__setitem__("x", 1),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_frozen_value_refuses_every_change_at_every_level(change):
    """What is shared between copies cannot be changed through any of them."""
    value = {"d": {"a": 1}, "l": [{"in": [1]}], "t": ({"y": 1},)}
    frozen = freeze(value)
    with pytest.raises(TypeError, match="immutable"):
        change(frozen)
    assert frozen == {"d": {"a": 1}, "l": [{"in": [1]}], "t": [{"y": 1}]}


def test_freezing_leaves_no_way_back_to_the_callers_own_value():
    """The caller goes on changing what it handed in."""
    value = {"l": [1], "t": ({"y": [1]},)}
    frozen = freeze(value)
    value["l"].append(2)
    value["t"][0]["y"].append(2)
    assert frozen == {"l": [1], "t": [{"y": [1]}]}


@pytest.mark.parametrize("way", [deepcopy, thaw, lambda v: loads(dumps(v))])
def test_a_thawed_copied_or_pickled_frozen_value_is_plain_all_the_way_down(way):
    """Copies are the caller's own."""
    value = {"d": {"a": [1]}, "l": [{"in": [1]}]}
    made = way(freeze(value))
    assert made == value
    assert [type(x) for x in (made, made["d"], made["d"]["a"], made["l"], made["l"][0])] == [dict, dict, list, list, dict]


def test_a_frozen_value_reads_and_dumps_like_any_other():
    """`json.dumps`, equality, `+`, `|` and a shallow copy work as with plain values."""
    frozen = freeze({"l": [1, 2], "d": {"a": None}})
    assert json.dumps(frozen) == '{"l": [1, 2], "d": {"a": null}}'
    assert frozen["l"] + [3] == [1, 2, 3]
    assert frozen["d"] | {"b": 1} == {"a": None, "b": 1}
    assert type(copy(frozen)) is dict
    assert type(copy(frozen["l"])) is list
