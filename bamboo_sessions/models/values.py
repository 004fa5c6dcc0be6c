"""What counts as a JSON value here, and how one becomes bytes that give it back exactly.

orjson is fast and not faithful: it writes NaN as null, refuses integers beyond 64 bits and lone surrogates, and stops
at 254 levels. `json` carries all of these. So a value is looked at once, where it enters: what orjson keeps is stored
as plain JSON, the rest as JSON text inside a marked string (`{"$json": "…"}`), and what neither keeps is refused here
and never at a later save.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, Final, NoReturn, TypeVar

import orjson

from bamboo_sessions._json import loads
from bamboo_sessions.errors import InvalidValue

T = TypeVar("T")

MAX_DEPTH: Final = 900
"""Levels of nesting that are kept; Python's own `json` stops near 1,000."""

_PLAIN_DEPTH: Final = 200
"""Beyond it a value is stored as text: orjson stops writing at 254 levels, and a head adds a few of its own."""

_STRICT: Final = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
MARK: Final = "$json"


def is_plain(value: object, where: str) -> bool:
    """Whether orjson can carry `value` unchanged; raises `InvalidValue` for what no JSON can carry.

    Depth first, so that a value that contains itself meets the depth limit at once instead of never ending.
    """
    plain, todo = True, [(value, 1)]
    while todo:
        item, depth = todo.pop()
        if isinstance(item, str) or item is None or isinstance(item, bool):
            continue
        if isinstance(item, int):
            plain = plain and -(2**63) <= item < 2**64
        elif isinstance(item, float):
            plain = plain and item - item == 0  # false for NaN and both infinities
        elif isinstance(item, dict):
            _check_keys(item, where)
            todo.extend((inner, depth + 1) for inner in item.values())
        elif isinstance(item, list | tuple):
            todo.extend((inner, depth + 1) for inner in item)
        else:
            raise InvalidValue(where, f"JSON has no {type(item).__name__}")
        if depth > _PLAIN_DEPTH:
            plain = False
            if depth > MAX_DEPTH:
                raise InvalidValue(where, f"nested more than {MAX_DEPTH} levels deep")
    return plain


def _check_keys(item: Mapping[object, object], where: str) -> None:
    for key in item:
        if not isinstance(key, str):
            raise InvalidValue(where, f"keys must be strings, not {type(key).__name__} ({key!r})")


def encode_plain(value: object, where: str) -> bytes | None:
    """`value` as JSON bytes, or None where only JSON text can carry it (see `encode_text`)."""
    if not is_plain(value, where):
        return None
    try:
        return orjson.dumps(value, option=_STRICT)
    except TypeError:  # a lone surrogate, or a subclass that orjson does not know
        pass
    try:  # as plain values: a value must have one form in bytes, or looking at it would seem to change it
        return orjson.dumps(decode_text(encode_text(value, where)), option=_STRICT)
    except TypeError:
        return None


def check(value: object, where: str) -> None:
    """Raises `InvalidValue` for what `pack` could not keep."""
    if not is_plain(value, where):
        encode_text(value, where)  # an integer may have too many digits to be written


def encode_text(value: object, where: str, *, sort_keys: bool = False) -> str:
    """`value` as pure ASCII JSON text, in the wider sense of Python's `json` (NaN, long integers, lone surrogates)."""
    try:
        return deeply(lambda: json.dumps(value, sort_keys=sort_keys))
    except (ValueError, RecursionError, TypeError) as error:
        raise InvalidValue(where, str(error)) from error


def decode_text(text: str) -> Any:
    """What `encode_text` was given, as plain dicts and lists. Raises ValueError for what it never gave, be it too deep to be read."""
    try:
        return deeply(lambda: json.loads(text))
    except RecursionError as error:
        raise ValueError(f"nested too deeply: {error}") from error


def deeply(work: Callable[[], T]) -> T:
    """Run `work`, once more on a fresh stack where it met the recursion limit: the caller's own depth counts as well."""
    try:
        return work()
    except RecursionError:
        pass
    made: list[T] = []
    failed: list[BaseException] = []

    def on_a_fresh_stack() -> None:
        try:
            made.append(work())
        except BaseException as error:  # noqa: BLE001 - handed to the caller below, whatever it is
            failed.append(error)

    thread = threading.Thread(target=on_a_fresh_stack)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def pack(value: object, where: str) -> bytes:
    """`value` as JSON bytes for a head: itself where orjson keeps it, marked text where only `json` does."""
    marked = isinstance(value, dict) and MARK in value
    plain = None if marked else encode_plain(value, where)
    return trimmed(plain if plain is not None else orjson.dumps({MARK: encode_text(value, where)}))


def trimmed(packed: bytes) -> bytes:
    """The same bytes without the spare room that orjson leaves behind them: some 4 KB, for as long as they are kept."""
    return bytes(memoryview(packed))


def unpack(packed: bytes) -> Any:
    """A fresh value, the caller's own, from what `pack` wrote."""
    value = loads(packed)
    if isinstance(value, dict) and value.keys() == {MARK}:
        return decode_text(value[MARK])
    return value


def checked_text(value: object, where: str) -> str:
    """`value` where it is a string that UTF-8 can carry; raises `InvalidValue` where it is not."""
    if not isinstance(value, str):
        raise InvalidValue(where, f"a string is needed, not {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidValue(where, f"a lone surrogate at {error.start}") from error
    return str.__str__(value)


def checked_type(value: object, kind: type | UnionType, where: str) -> Any:
    """`value` where it is of that kind; raises `InvalidValue` where it is not."""
    if not isinstance(value, kind):
        needed = kind.__name__ if isinstance(kind, type) else str(kind)
        raise InvalidValue(where, f"{needed} is needed, not {type(value).__name__}")
    return value


def _refuse(self: object, *args: object, **kwargs: object) -> NoReturn:  # noqa: ARG001 - whatever a change is given
    raise TypeError("this is part of an immutable message: change a copy from to_dict(), then session.replace_message")


class FrozenDict(dict[str, Any]):
    """A dict that equals, dumps and reads like any other and cannot be changed; copies and pickles are plain dicts."""

    __slots__ = ()
    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    def __deepcopy__(self, memo: object) -> dict[str, Any]:
        return {key: thaw(value) for key, value in self.items()}

    def __reduce__(self) -> tuple[object, ...]:
        return dict, (dict(self),)


class FrozenList(list[Any]):
    """A list that equals, dumps and reads like any other and cannot be changed; copies and pickles are plain lists."""

    __slots__ = ()
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __copy__(self) -> list[Any]:
        return list(self)

    def __deepcopy__(self, memo: object) -> list[Any]:
        return [thaw(value) for value in self]

    def __reduce__(self) -> tuple[object, ...]:
        return list, (list(self),)


def freeze(value: Any) -> Any:
    """The same JSON value, its dicts and lists replaced by frozen ones."""
    return deeply(lambda: _frozen(value))


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        made = {}
        for key, inner in value.items():  # a loop, not a comprehension: one stack frame a level
            made[key] = _frozen(inner)
        return FrozenDict(made)
    if isinstance(value, list | tuple):
        items = []
        for inner in value:
            items.append(_frozen(inner))  # noqa: PERF401 - as above
        return FrozenList(items)
    return value


def thaw(value: Any) -> Any:
    """The same JSON value as plain dicts and lists, the caller's own."""
    return deeply(lambda: _thawed(value))


def _thawed(value: Any) -> Any:
    if isinstance(value, dict):
        made = {}
        for key, inner in value.items():
            made[key] = _thawed(inner)
        return made
    if isinstance(value, list | tuple):
        items = []
        for inner in value:
            items.append(_thawed(inner))  # noqa: PERF401 - one stack frame a level
        return items
    return value
