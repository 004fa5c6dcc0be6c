"""Pages of session summaries that stay right while others write. Pure.

A cursor by position loses or repeats sessions whenever one moves to the top. This one remembers two places: how far down
the list has been given out (`low`), and the newest change that there was when it began (`high`). What changed since then
is above `high`, wherever it was before; such sessions come once the rest is through. So a session that is not changed
comes exactly once, a changed one at least once. Oldest first, one place is enough: what changes moves to where the list
has not been yet.

A storage that can seek (`Queries`) gives only the rows behind those places; `cut` makes the page of them. `page` looks
through all heads and is the model of it.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator
from heapq import nlargest, nsmallest
from typing import Any, Final

import attrs
import orjson

from bamboo_sessions.codec import decode_times
from bamboo_sessions.errors import InvalidValue
from bamboo_sessions.filters import ORDERS, Filter, Order
from bamboo_sessions.models.summary import SessionPage, SessionSummary

Key = tuple[str, str]
"""(a time as stored, id): stored times compare as text."""

Row = tuple[Key, Key, dict[str, Any], int]
"""Where a session stands in the order, where by its last change, its head, its number of messages."""

LeaveOut = Callable[[str, Exception], object]
_NEVER: Final = ("", "")  # before every time


@attrs.frozen(slots=True)
class Place:
    """How far a list has come."""

    order: Order
    low: Key | None = None
    """Where the last one stands that was given out in order; None: none was."""
    high: Key | None = None
    """The newest change that was given out, or was there at the beginning; None: this is the beginning."""

    @classmethod
    def read(cls, cursor: str | None, limit: int, order: Order) -> Place:
        """Raises `InvalidValue` for a cursor that no list in this order gave, or limit < 1."""
        if limit < 1:
            raise InvalidValue("limit", f"at least 1 is needed, not {limit}")
        return cls(order) if cursor is None else _read(cursor, order)

    def written(self) -> str:
        """As a cursor."""
        return urlsafe_b64encode(orjson.dumps([self.order, self.low or _NEVER, self.high or _NEVER])).decode("ascii")


def page(heads: Iterable[tuple[dict[str, Any], int]], limit: int, cursor: str | None, wanted: Filter,
         leave_out: LeaveOut = lambda _id, _error: None) -> SessionPage:
    """One page of at most `limit` summaries. Raises `InvalidValue` for a cursor that no list gave, or limit < 1.

    A head that no version writes must not hide the others: `leave_out` is told of it.
    """
    at = Place.read(cursor, limit, wanted.order)
    rows = list(_rows(heads, wanted, leave_out))
    if wanted.order == "oldest":
        return cut(at, limit, nsmallest(limit + 1, (row for row in rows if at.low is None or row[0] > at.low), key=_stand), [],
                   leave_out)
    high = max((row[1] for row in rows), default=_NEVER) if at.high is None else at.high
    older = (row for row in rows if row[1] <= high and (at.low is None or row[0] < at.low))
    changed = (row for row in rows if row[1] > high)
    return cut(attrs.evolve(at, high=high), limit, nlargest(limit + 1, older, key=_stand),
               nsmallest(limit + 1, changed, key=_change), leave_out)


def cut(at: Place, limit: int, older: list[Row], changed: list[Row], leave_out: LeaveOut) -> SessionPage:
    """The page at this place. `older`: what was there when the list began and was not given out, in order. `changed`: what
    changed since, in order of the changes. Of both the first `limit + 1`, where there are so many."""
    taken = older[:limit]
    late = changed[: limit - len(taken)]
    low = taken[-1][0] if taken else at.low
    high = late[-1][1] if late else at.high
    more = len(older) > len(taken) or len(changed) > len(late)
    rows = sorted([*taken, *late], key=_stand, reverse=at.order != "oldest")
    return SessionPage(tuple(_summaries(rows, leave_out)), Place(at.order, low, high).written() if more else None)


def _rows(heads: Iterable[tuple[dict[str, Any], int]], wanted: Filter, leave_out: LeaveOut) -> Iterator[Row]:
    time = "created_at" if wanted.order == "created" else "updated_at"
    for head, count in heads:
        try:
            if wanted.takes(head):
                name = _text(head["id"])
                yield (_text(head[time]), name), (_text(head["updated_at"]), name), head, count
        except (KeyError, TypeError) as error:
            leave_out(str(head.get("id")), error)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is needed, not {type(value).__name__}")
    return value


def _stand(row: Row) -> Key:
    return row[0]


def _change(row: Row) -> Key:
    return row[1]


def _read(cursor: str, order: Order) -> Place:
    try:
        given, (a, b), (c, d) = orjson.loads(urlsafe_b64decode(cursor))
        known = given in ORDERS and all(isinstance(text, str) and "\0" not in text for text in (a, b, c, d))
    except (ValueError, TypeError, binascii.Error) as error:
        raise InvalidValue("cursor", "not one that a list gave") from error
    if not known:
        raise InvalidValue("cursor", "not one that a list gave")
    if given != order:
        raise InvalidValue("cursor", f"of a list with order={given!r}, not {order!r}")
    return Place(order, None if (a, b) == _NEVER else (a, b), (c, d))


_TAKEN: Final[tuple[str, ...]] = (
    "id", "birth", "revision", "title", "title_source", "pinned", "archived", "model", "provider", "external_id",
    "context_id", "parent_id",
)
_make: Callable[..., SessionSummary] = SessionSummary


def _summaries(rows: Iterable[Row], leave_out: LeaveOut) -> Iterator[SessionSummary]:
    for (_, session_id), _, head, count in rows:
        try:
            yield summary_of(head, count)
        except (AttributeError, KeyError, TypeError, ValueError, InvalidValue) as error:
            leave_out(session_id, error)


def summary_of(head: dict[str, Any], count: int) -> SessionSummary:
    """What a list shows of a stored head and its number of messages; raises what decoding raises for no head."""
    fields = {name: head[name] for name in _TAKEN if name in head}
    return _make(**fields, **decode_times(head), message_count=count, tags=frozenset(head.get("tags", ())),
                 open_questions=len(head.get("questions", ())))
