"""Which sessions a list shows. Pure.

What passes is decided here, over a stored head, for every storage alike. A database may leave out beforehand what cannot
pass; what it brings is asked again here, so that no two storages have their own idea of equality.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from math import isnan
from typing import Any, Final, Literal, get_args

import attrs

from bamboo_sessions.errors import InvalidValue
from bamboo_sessions.models.times import checked_time, to_text
from bamboo_sessions.models.values import MARK, checked_text, decode_text, pack, unpack

Order = Literal["newest", "oldest", "created"]
"""By the last change, newest or oldest first; or by creation, newest first."""

ORDERS: Final[tuple[str, ...]] = get_args(Order)
Path = tuple[str, ...]
_MISSING: Final = object()
_TEXTS: Final = ("model", "provider", "context_id", "parent_id")


def _is_text(_filter: object, field: attrs.Attribute[Any], value: str | None) -> None:
    if value is not None:
        checked_text(value, field.name)


def _tags(value: str | Iterable[str] | None) -> frozenset[str]:
    """One tag is no set of letters."""
    given = () if value is None else (value,) if isinstance(value, str) else value
    return frozenset(checked_text(tag, "tags") for tag in given)


def _after(value: datetime | None) -> str | None:
    return None if value is None else to_text(checked_time(value, "updated_after"))


def _before(value: datetime | None) -> str | None:
    return None if value is None else to_text(checked_time(value, "updated_before"))


def _order(value: Order) -> Order:
    if value not in ORDERS:
        raise InvalidValue("order", f"{', '.join(ORDERS)} are there, not {value!r}")
    return value


def _metadata(value: Mapping[str | Path, Any] | None) -> tuple[tuple[Path, Any], ...]:
    """Values as a store would give them back: what JSON has no form for is refused here."""
    return tuple((_path(path), unpack(pack(wanted, f"metadata[{path!r}]"))) for path, wanted in (value or {}).items())


def _path(path: object) -> Path:
    keys = tuple(path.split(".")) if isinstance(path, str) else path
    if not isinstance(keys, tuple) or not keys or (isinstance(path, str) and "" in keys):
        raise InvalidValue("metadata", f"a path is 'a.b' or a tuple of keys, not {path!r}")
    return tuple(checked_text(key, "metadata path") for key in keys)


@attrs.frozen(slots=True)
class Filter:
    """Which sessions a list shows, and in which order; None, or nothing: does not matter."""

    model: str | None = attrs.field(default=None, validator=_is_text)
    provider: str | None = attrs.field(default=None, validator=_is_text)
    context_id: str | None = attrs.field(default=None, validator=_is_text)
    parent_id: str | None = attrs.field(default=None, validator=_is_text)
    pinned: bool | None = None
    archived: bool | None = None
    tag: str | None = attrs.field(default=None, validator=_is_text)
    has_open_question: bool | None = None
    tags: frozenset[str] = attrs.field(default=(), converter=_tags)
    """All of them."""
    updated_after: str | None = attrs.field(default=None, converter=_after)
    """Changed then or later; given as an aware datetime, kept as times are stored."""
    updated_before: str | None = attrs.field(default=None, converter=_before)
    """Changed earlier than that."""
    metadata: tuple[tuple[Path, Any], ...] = attrs.field(default=None, converter=_metadata)
    """Given as a mapping of paths to JSON values. A path is "a.b", or a tuple of keys where one has a dot in it. Equal as JSON:
    1 is 1.0 and not true; an object's keys have no order; what is not there equals nothing, null neither."""
    order: Order = attrs.field(default="newest", converter=_order)

    @property
    def all_tags(self) -> frozenset[str]:
        """`tag` and `tags`."""
        return self.tags if self.tag is None else self.tags | {self.tag}

    def takes(self, head: dict[str, Any]) -> bool:
        """Whether a stored head passes."""
        return (
            all(head.get(name) == want for name in _TEXTS if (want := getattr(self, name)) is not None)
            and (self.pinned is None or head.get("pinned", False) == self.pinned)
            and (self.archived is None or head.get("archived", False) == self.archived)
            and (self.has_open_question is None or bool(head.get("questions")) == self.has_open_question)
            and (self.updated_after is None or head["updated_at"] >= self.updated_after)
            and (self.updated_before is None or head["updated_at"] < self.updated_before)
            and self._takes_tags(head)
            and all(same_json(_found(head, path), wanted) for path, wanted in self.metadata)
        )

    def _takes_tags(self, head: dict[str, Any]) -> bool:
        if self.tag is None and not self.tags:
            return True
        tags = head.get("tags", ())
        return isinstance(tags, list | tuple) and all(tag in tags for tag in self.all_tags)


def _found(head: dict[str, Any], path: Path) -> Any:
    """What stands at a path of a stored head's metadata."""
    at: Any = head.get("metadata")
    for depth, key in enumerate(path):
        if not isinstance(at, dict) or key not in at:
            return _MISSING
        at = at[key] if depth else opened(at[key])
    return at


def opened(value: Any) -> Any:
    """A value of the metadata as its owner sees it: some are kept as text, see `models.values`. What is no JSON in there equals
    nothing."""
    if isinstance(value, dict) and value.keys() == {MARK}:
        try:
            return decode_text(value[MARK])
        except (TypeError, ValueError, RecursionError):
            return _MISSING
    return value


def same_json(one: Any, other: Any) -> bool:
    """Whether two decoded values are the same JSON. Without recursion: values are deeper than a stack."""
    todo = [(one, other)]
    while todo:
        a, b = todo.pop()
        if isinstance(a, dict) and isinstance(b, dict):
            if a.keys() != b.keys():
                return False
            todo.extend((value, b[key]) for key, value in a.items())
        elif isinstance(a, list) and isinstance(b, list):
            if len(a) != len(b):
                return False
            todo.extend(zip(a, b, strict=True))
        elif not _same_scalar(a, b):
            return False
    return True


def _same_scalar(a: Any, b: Any) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    return bool(a == b) or (isinstance(a, float) and isinstance(b, float) and isnan(a) and isnan(b))  # NaN is itself here
