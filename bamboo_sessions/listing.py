"""Pages of session summaries, newest first, that stay right while others write. Pure.

A cursor by position loses or repeats sessions whenever one moves to the top. This one remembers two places: how far down
the list has been given out (`low`), and the newest key that existed when it began (`high`). What changed since then has
a key above `high`, wherever it was before; such sessions come once the rest is through. So a session that is not changed
comes exactly once, a changed one at least once.
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
from bamboo_sessions.models.summary import SessionPage, SessionSummary

Key = tuple[str, str]
"""(updated_at as stored, id): stored times compare as text."""

_ANYTHING: Final = ("~", "")  # above every time


@attrs.frozen(slots=True)
class Filter:
    """Which sessions a list shows; None: does not matter."""

    model: str | None = None
    provider: str | None = None
    context_id: str | None = None
    parent_id: str | None = None
    pinned: bool | None = None
    archived: bool | None = None
    tag: str | None = None
    has_open_question: bool | None = None

    def takes(self, head: dict[str, Any]) -> bool:
        """Whether a stored head passes."""
        texts = ("model", "provider", "context_id", "parent_id")
        return (
            all(head.get(name) == want for name in texts if (want := getattr(self, name)) is not None)
            and (self.pinned is None or head.get("pinned", False) == self.pinned)
            and (self.archived is None or head.get("archived", False) == self.archived)
            and (self.tag is None or self.tag in head.get("tags", ()))
            and (self.has_open_question is None or bool(head.get("questions")) == self.has_open_question)
        )


def page(heads: Iterable[tuple[dict[str, Any], int]], limit: int, cursor: str | None, wanted: Filter,
         leave_out: Callable[[str, Exception], object] = lambda _id, _error: None) -> SessionPage:
    """One page of at most `limit` summaries. Raises `InvalidValue` for a cursor that no list gave, or limit < 1.

    A head that no version writes must not hide the others: `leave_out` is told of it.
    """
    if limit < 1:
        raise InvalidValue("limit", f"at least 1 is needed, not {limit}")
    low, high = (_ANYTHING, None) if cursor is None else _read(cursor)
    rows = [(_key(head), head, count) for head, count in heads if wanted.takes(head)]
    high = max((key for key, _, _ in rows), default=("", "")) if high is None else high
    first = _key_of_row
    older = nlargest(limit + 1, (row for row in rows if row[0] < low and row[0] <= high), key=first)
    changed = nsmallest(limit + 1, (row for row in rows if row[0] > high), key=first)
    taken = older[:limit]
    late = changed[: limit - len(taken)]
    low = taken[-1][0] if taken else low
    high = late[-1][0] if late else high
    more = len(older) > len(taken) or len(changed) > len(late)
    rows = sorted([*taken, *late], key=first, reverse=True)
    return SessionPage(tuple(_summaries(rows, leave_out)), _write(low, high) if more else None)


def _key(head: dict[str, Any]) -> Key:
    return head["updated_at"], head["id"]


def _key_of_row(row: tuple[Key, dict[str, Any], int]) -> Key:
    return row[0]


def _write(low: Key, high: Key) -> str:
    return urlsafe_b64encode(orjson.dumps([*low, *high])).decode("ascii")


def _read(cursor: str) -> tuple[Key, Key]:
    try:
        a, b, c, d = map(str.__str__, orjson.loads(urlsafe_b64decode(cursor)))
    except (ValueError, TypeError, binascii.Error) as error:
        raise InvalidValue("cursor", "not one that a list gave") from error
    return (a, b), (c, d)


_TAKEN: Final[tuple[str, ...]] = (
    "id", "birth", "revision", "title", "title_source", "pinned", "archived", "model", "provider", "external_id",
    "context_id", "parent_id",
)
_make: Callable[..., SessionSummary] = SessionSummary


def _summaries(rows: Iterable[tuple[Key, dict[str, Any], int]], leave_out: Callable[[str, Exception], object]
               ) -> Iterator[SessionSummary]:
    for (_, session_id), head, count in rows:
        try:
            yield summary_of(head, count)
        except (AttributeError, KeyError, TypeError, ValueError, InvalidValue) as error:
            leave_out(session_id, error)


def summary_of(head: dict[str, Any], count: int) -> SessionSummary:
    """What a list shows of a stored head and its number of messages; raises what decoding raises for no head."""
    fields = {name: head[name] for name in _TAKEN if name in head}
    return _make(**fields, **decode_times(head), message_count=count, tags=frozenset(head.get("tags", ())),
                 open_questions=len(head.get("questions", ())))
