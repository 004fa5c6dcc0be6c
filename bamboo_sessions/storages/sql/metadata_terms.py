"""Metadata in the index of words: for each plain value of a session's metadata a term, made of its path and of the value.

A term may stand for more than one value, and what it names is looked at again. It never stands for too little: values that
`filters.same_json` takes for the same have the same term (1 and 1.0, NaN and NaN). Lists have none, nor has what is in them; an
object stands for the plain values in it. Where there is nothing to ask for, a list walks through the heads.

A session of which not everything is named bears one term that says so instead, and whoever asks for a value asks for that term
as well. So a save never pays for more than so many values, and no session is missed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from math import isfinite
from typing import Any, Final

from bamboo_sessions.filters import Path, opened
from bamboo_sessions.models.values import MARK

MOST: Final = 256
"""Values of one session, the objects and lists around them included."""
ASKED: Final = 64
"""Terms to ask for: what has those is looked at again, by all of the filter."""
_LONGEST: Final = 1000  # characters of a key or a value; longer ones are told apart by the second look
_VALUE, _MORE = "\ue002", "\ue003"  # of no script, as those of namespaces and tags

_UNKNOWN: Final = object()

Leaf = tuple[bytes, object]
"""(its path, hashed; what stands there)."""


def terms_of(namespace: str, metadata: object) -> set[str]:
    """Of the metadata in a stored head."""
    made: set[str] = set()
    for number, (at, value) in enumerate(_all_of(namespace, metadata)):
        plain = _plain(value)
        if number == MOST or (plain is None and not isinstance(value, dict | list | tuple)):
            return {more_term(namespace)}
        if plain is not None:
            made.add(_term(at, plain))
    return made


def more_term(namespace: str) -> str:
    """What bears a session that has more than is named."""
    return _MORE + hashlib.sha256(_root(namespace)).hexdigest()[:16]


def asked_terms(namespace: str, wanted: Iterable[tuple[Path, Any]]) -> list[str]:
    """Of what a filter wants at these paths: a session that passes has all of them, or the other one."""
    found = (leaf for path, value in wanted for leaf in _leaves(_at(namespace, path), value))
    named = ((at, _plain(value)) for at, value in found)
    return list(islice((_term(at, plain) for at, plain in named if plain is not None), ASKED))


def _all_of(namespace: str, metadata: object) -> Iterator[Leaf]:
    if isinstance(metadata, dict):
        root = _root(namespace)
        for key, value in metadata.items():
            yield from _leaves(_below(root, key), _opened(value))


def _opened(value: object) -> object:
    """As its owner sees it, see `filters`. A long text is not decoded at every save; it counts as more than is named."""
    long = isinstance(value, dict) and value.keys() == {MARK} and len(str(value[MARK])) > _LONGEST
    return _UNKNOWN if long else opened(value)


def _leaves(at: bytes, value: object) -> Iterator[Leaf]:
    """The value and everything in it, objects included, so that whoever counts can stop at any time."""
    todo = [iter([(at, value)])]
    while todo:
        for below, inner in todo[-1]:
            yield below, inner
            if isinstance(inner, dict):
                todo.append(_entries(below, inner))
                break
        else:
            todo.pop()


def _entries(at: bytes, value: dict[str, object]) -> Iterator[Leaf]:
    return ((_below(at, key), inner) for key, inner in value.items())


def _plain(value: object) -> str | None:
    """One text for all values that are the same; None for what is no plain value."""
    if isinstance(value, str):
        return f"s{value[:_LONGEST]}"
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return f"#{value:x}"
    if isinstance(value, float):
        return _number(value)
    return None


def _number(value: float) -> str:
    """Whole ones as integers. What is no number is written as null where nobody kept it as text."""
    if not isfinite(value):
        return str(None)
    return f"#{int(value):x}" if value.is_integer() else f"#{value!r}"


# -- names -------------------------------------------------------------------------------------------------------
#
# A path is hashed key by key, on top of what it goes on from: each key of a session once, however deep it stands.


def _root(namespace: str) -> bytes:
    return hashlib.sha256(namespace.encode("utf-8", "surrogatepass")).digest()


def _at(namespace: str, path: Path) -> bytes:
    at = _root(namespace)
    for key in path:
        at = _below(at, key)
    return at


def _below(at: bytes, key: str) -> bytes:
    return hashlib.sha256(at + key[:_LONGEST].encode("utf-8", "surrogatepass")).digest()


def _term(at: bytes, plain: str) -> str:
    return _VALUE + hashlib.sha256(at + plain.encode("utf-8", "surrogatepass")).hexdigest()[:16]
