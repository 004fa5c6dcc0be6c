"""Lists: a page is one statement, which starts where the last one stopped and reads no further than the page is long.

What the columns say is exact. What only the head says (tags, metadata) is first looked for in its text: a value that is there
was written as exactly this JSON, so a row without it cannot pass. The rows that come are asked `Filter.takes`, as in every
other storage, and the walk goes on where too few of them passed. So a head with NUL in it, or one that is no JSON any more,
disturbs no list, where PostgreSQL's own JSON would refuse the statement; and both databases run the same text.

A tag or a value that few sessions have would take the walk through all of them. The index of words knows those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs
import orjson
from sqlalchemy import (
    ColumnElement,
    Integer,
    Text,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.engine import Dialect

from bamboo_sessions._json import loads
from bamboo_sessions.filters import Filter
from bamboo_sessions.listing import Place, Row, cut
from bamboo_sessions.models import SessionPage
from bamboo_sessions.models.values import MARK
from bamboo_sessions.storages.records import leave_out
from bamboo_sessions.storages.sql.expiring import Expiring
from bamboo_sessions.storages.sql.schema import session
from bamboo_sessions.storages.sql.statements import Statement
from bamboo_sessions.storages.sql.states import as_column, needle
from bamboo_sessions.storages.sql.texts import (
    count_named,
    index_is_there,
    looked_up,
    match_head,
)

_SHAPES: Final = 256
_BATCH: Final = 1000
"""Rows to go on with where those that came did not pass."""
_TEXTS: Final = ("model", "provider", "context_id", "parent_id")
_OLDER, _CHANGED, _NEWEST = 0, 1, 2
_EXACT: Final = 10**15
"""Below it, a whole number is written the same by every encoder, as an integer or as a float with `.0` behind it."""

_FREQUENT_FOR: Final = 600_000_000
"""Microseconds until it is asked again whether so many sessions still have it."""

RARE: Final = 1000
"""Sessions with a tag or a value: so many are looked up one by one."""

Needles = tuple[str, ...]


class Listing(Expiring):
    """The power `Queries`."""

    _indexed = False
    _frequent: dict[str, int]  # what is asked of the index, and when that named too many; losing an entry costs one question

    def page(self, wanted: Filter, limit: int, cursor: str | None = None) -> SessionPage:
        """See `Queries`."""
        walk = _Walk(Place.read(cursor, limit, wanted.order), limit)
        asked, batch, rare = asked_of(wanted), min(limit + 1, _BATCH + 1), self._rare(wanted)
        whose, dialect = {"k_namespace": self.namespace, "k_rare": rare}, self._open.engine.dialect
        while not walk.done:
            values = {**whose, "k_limit": batch, **asked.values, **walk.values, **self._active()}
            shape = asked.shape, walk.shape, self._ttl is not None, rare is not None
            ask = compiled(dialect, shape, lambda: _page(shape, postgres=dialect.name == "postgresql"))  # noqa: B023 - called at once
            rows = self._asked("list", None, lambda on: ask.rows(on, values))  # noqa: B023 - called at once
            walk.take(rows, batch, wanted)
            batch = _BATCH
        return cut(walk.at, limit, walk.older, walk.changed, leave_out)

    def _rare(self, wanted: Filter) -> str | None:
        """What to ask the index of words for the sessions with these tags and this metadata; None where it would name too many:
        those are soon met by whoever goes through the list."""
        dialect = self._open.engine.dialect
        postgres = dialect.name == "postgresql"
        words = match_head(self.namespace, wanted, postgres=postgres)
        if words is None or self._is_frequent(words) or not self._has_index():
            return None
        ask = compiled(dialect, "rare", lambda: count_named(postgres=postgres))
        rows = self._asked("list", None, lambda on: ask.rows(on, {"k_match": words, "k_few": RARE + 1}))
        if rows[0][0] <= RARE:
            return words
        if len(self._frequent) >= _SHAPES:
            self._frequent.clear()
        self._frequent[words] = self._now()
        return None

    def _is_frequent(self, words: str) -> bool:
        """PostgreSQL goes through all that the index names, however few of them are counted: so that is not asked each time."""
        known = self._frequent.get(words)
        return known is not None and self._now() - known < _FREQUENT_FOR

    def _has_index(self) -> bool:
        """An SQLite without FTS5 makes the tables and leaves this out. Once it is there, it stays."""
        if not self._indexed:
            dialect = self._open.engine.dialect
            ask = compiled(dialect, "index", lambda: index_is_there(dialect))
            self._indexed = bool(self._asked("look for", None, lambda on: ask.rows(on, {})))
        return self._indexed


class _Walk:
    """Down the list and, behind it, along what changed meanwhile, until there is a page and one more."""

    def __init__(self, at: Place, limit: int) -> None:
        self.at, self._limit = at, limit
        self.older: list[Row] = []
        self.changed: list[Row] = []
        self._low, self._high = at.low, at.high
        self._more_older = self._more_changed = self._begun = False

    @property
    def done(self) -> bool:
        """What changed is only looked at behind the last of the rest."""
        if not self._begun or (self._more_older and len(self.older) <= self._limit):
            return False
        return len(self.older) + len(self.changed) > self._limit or not self._more_changed

    @property
    def shape(self) -> tuple[str, bool, bool]:
        """What decides the text of the statement."""
        return self.at.order, self._low is not None, self._high is not None

    @property
    def values(self) -> dict[str, str]:
        """Where to go on."""
        low = {} if self._low is None else {"k_low_at": self._low[0], "k_low_id": self._low[1]}
        high = {} if self._high is None else {"k_high_at": self._high[0], "k_high_id": self._high[1]}
        return low | high

    def take(self, rows: list[Any], batch: int, wanted: Filter) -> None:
        """The next rows, of which some pass."""
        self._begun = True
        older = [row for row in rows if row[0] == _OLDER]
        changed = [row for row in rows if row[0] == _CHANGED]
        self._more_older, self._more_changed = len(older) == batch, len(changed) == batch
        self.older.extend(_passed(older, wanted))
        self.changed.extend(_passed(changed, wanted))
        if older:
            self._low = older[-1][2], older[-1][1]
        if changed:
            self._high = changed[-1][3], changed[-1][1]
        elif self.at.high is None:
            self._begin([row for row in rows if row[0] == _NEWEST] or older)

    def _begin(self, newest: list[Any]) -> None:
        """From here on, what changes is told from what was there."""
        if self.at.order != "oldest":
            self._high = (newest[0][3], newest[0][1]) if newest else ("", "")
            self.at = attrs.evolve(self.at, high=self._high)


def _passed(rows: list[Any], wanted: Filter) -> Iterator[Row]:
    for _, session_id, time, updated_at, written, count in rows:
        try:
            head = loads(written)
            if wanted.takes(head):
                yield (time, session_id), (updated_at, session_id), head, count
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            leave_out(session_id, error)


# -- the filter --------------------------------------------------------------------------------------------------


@attrs.frozen(slots=True)
class Asked:
    """A filter as conditions: their text follows from the shape, so that it is compiled once."""

    shape: tuple[tuple[str, ...], tuple[int, ...]]
    """Which fields are compared, and for each group of needles how many there are, one of which has to be found."""
    values: dict[str, Any]


def asked_of(wanted: Filter) -> Asked:
    plain = {name: as_column(getattr(wanted, name)) for name in (*_TEXTS, "updated_after", "updated_before")}
    flags = {name: getattr(wanted, name) for name in ("pinned", "archived", "has_open_question")}
    given = {name: value for name, value in {**plain, **flags}.items() if value is not None}
    groups = [*map(_tag_needles, sorted(wanted.all_tags)), *(_value_needles(path[-1], value) for path, value in wanted.metadata)]
    needles = {f"k_needle_{n}_{m}": text for n, group in enumerate(groups) for m, text in enumerate(group)}
    values = {f"k_{name}": value for name, value in given.items() if name not in flags}
    names = tuple(name if name not in flags else name if given[name] else f"not {name}" for name in given)
    return Asked((names, tuple(map(len, groups))), values | needles)


def _tag_needles(tag: str) -> Needles:
    """An element of a list has one of four pairs of neighbours; a field's name or value has another."""
    text = needle(tag)
    return f"[{text}]", f"[{text},", f",{text},", f",{text}]"


def _value_needles(key: str, value: Any) -> Needles:
    """The value with its key before it, as far as it has one form only; or a value that is kept as text, which says all."""
    name = f"{needle(key)}:"
    return *(name + text for text in _forms(value)), f'{{"{MARK}":'


def _forms(value: Any) -> Needles:
    if isinstance(value, dict):
        return ("{",)
    if isinstance(value, list):
        return ("[",)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number_forms(value)
    try:
        return (orjson.dumps(value).decode(),)
    except TypeError:  # a lone surrogate: kept as text wherever it is
        return ()


def _number_forms(value: float) -> Needles:
    """How it begins: encoders differ in what is very large or small."""
    if not -_EXACT < value < _EXACT:
        return ("",)
    if value == int(value):
        return ("0", "-0") if value == 0 else (str(int(value)),)
    return (repr(value),) if abs(value) >= 0.001 else ("",)


# -- statements --------------------------------------------------------------------------------------------------

Shape = tuple[tuple[tuple[str, ...], tuple[int, ...]], tuple[str, bool, bool], bool, bool]
_compiled: dict[tuple[str, object], Statement] = {}  # dict operations are atomic, and losing an entry costs a compilation


def compiled(dialect: Dialect, shape: object, make: Callable[[], Any]) -> Statement:
    """The statement of this shape; made where it was not made yet."""
    key = f"{dialect.name}+{dialect.driver}", shape
    known = _compiled.get(key)
    if known is None:
        if len(_compiled) >= _SHAPES:
            _compiled.clear()
        known = _compiled[key] = Statement(make(), dialect)
    return known


def conditions(asked: Asked, *, expires: bool, postgres: bool) -> list[ColumnElement[bool]]:
    """What a session has to have, as far as columns and needles tell."""
    names, groups = asked.shape
    return [*([_seen()] if expires else []), *map(_compared, names), *(_contains(n, count, postgres) for n, count in enumerate(groups))]


def _page(shape: Shape, *, postgres: bool) -> Any:
    names_and_groups, (order, has_low, has_high), expires, rare = shape
    s = session.c
    changed, created = (_no_index(s.updated_at), _no_index(s.created_at)) if rare else (s.updated_at, s.created_at)
    time, change = created if order == "created" else changed, tuple_(changed, s.id)
    those = [s.namespace == bindparam("k_namespace"), *conditions(Asked(names_and_groups, {}), expires=expires, postgres=postgres)]
    if rare:
        those.append(s.id.in_(looked_up(postgres=postgres)))
    stand, low, high = tuple_(time, s.id), _key("low"), _key("high")
    older = list(those)
    if has_low:
        older.append(stand > low if order == "oldest" else stand < low)
    if has_high and order == "created":
        older.append(change <= high)  # in the other orders, what is below the one is below the other
    parts = [_part(_OLDER, time, time, older, descending=order != "oldest")]
    if has_high and order != "oldest":
        parts.append(_part(_CHANGED, time, changed, [*those, change > high], descending=False))
    elif order == "created":
        parts.append(_newest(those[0]))
    return union_all(*parts) if len(parts) > 1 else parts[0]


def _no_index(time: Any) -> Any:
    """The few that are looked up one by one are sorted; a walk along an index would meet all others."""
    return func.coalesce(time, literal_column("''", Text))


def _part(number: int, time: Any, along: Any, conditions: list[ColumnElement[bool]], *, descending: bool) -> Any:
    """A walk along an index, cut off; in a table of its own, for a union has one order for all."""
    s = session.c
    by = (along.desc(), s.id.desc()) if descending else (along, s.id)
    rows = select(literal_column(str(number), Integer).label("part"), s.id, time.label("time"),
                  s.updated_at.label("changed"), s.head, s.messages)
    return select(rows.where(*conditions).order_by(*by).limit(bindparam("k_limit", type_=Integer)).subquery())


def _newest(namespace: ColumnElement[bool]) -> Any:
    """The last change of all, where the order does not begin with it."""
    s = session.c
    rows = select(literal_column(str(_NEWEST), Integer).label("part"), s.id, s.created_at.label("time"),
                  s.updated_at.label("changed"), literal_column("''", Text).label("head"), s.messages)
    return select(rows.where(namespace).order_by(s.updated_at.desc(), s.id.desc()).limit(literal_column("1")).subquery())


def _key(name: str) -> Any:
    s = session.c
    return tuple_(bindparam(f"k_{name}_at", type_=s.updated_at.type), bindparam(f"k_{name}_id", type_=s.id.type))


def _seen() -> ColumnElement[bool]:
    """Not one whose time has run out."""
    s = session.c
    return or_(s.activity > bindparam("k_active", type_=s.activity.type), s.pinned, s.questions > literal_column("0"))


def _compared(name: str) -> ColumnElement[bool]:
    """Flags stand in the text, not in a parameter: an index over the few rows that have one is chosen by the text."""
    s = session.c
    flags: dict[str, ColumnElement[bool]] = {
        "pinned": s.pinned, "archived": s.archived, "has_open_question": s.questions > literal_column("0")}
    if name.removeprefix("not ") in flags:
        flag = flags[name.removeprefix("not ")]
        return ~flag if name.startswith("not ") else flag
    if name == "updated_after":
        return s.updated_at >= bindparam("k_updated_after", type_=s.updated_at.type)
    if name == "updated_before":
        return s.updated_at < bindparam("k_updated_before", type_=s.updated_at.type)
    return s[name] == bindparam(f"k_{name}", type_=Text())


def _contains(group: int, count: int, postgres: bool) -> ColumnElement[bool]:
    find = func.strpos if postgres else func.instr
    zero: ColumnElement[int] = literal_column("0")
    return or_(*(find(session.c.head, bindparam(f"k_needle_{group}_{n}", type_=Text())) > zero for n in range(count)))
