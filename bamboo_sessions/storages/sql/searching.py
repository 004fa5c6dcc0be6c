"""Searches: an index names what may be found, few of it is sorted, and of much only the newest sessions are looked at.

What is found comes by the last change of its session, which an index of words knows nothing of. Where it names few titles and
messages, they are sorted. A word that is nearly everywhere names too many for that, and is soon met by whoever goes through
the sessions from the newest on: then each message is asked whether the index names it. Both ways give the same hits in the
same order, and `Query.spans` decides in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, repeat
from typing import Any, Final

import attrs
from sqlalchemy import ColumnElement, Integer, and_, bindparam, or_, select, tuple_

from bamboo_sessions._json import loads
from bamboo_sessions.errors import StorageUnavailable
from bamboo_sessions.filters import Filter
from bamboo_sessions.models.hits import SearchPage
from bamboo_sessions.search import Found, Query, Spot, cut, hit
from bamboo_sessions.storages.records import leave_out
from bamboo_sessions.storages.sql.queries import Asked, Listing, asked_of, compiled, conditions
from bamboo_sessions.storages.sql.schema import message, session, text
from bamboo_sessions.storages.sql.texts import count_named, few, is_named, looked_at, looked_up, match, namespace_term

FEW: Final = 2000
"""So many are sorted."""
_SPARE: Final = 1000  # what others may add while it is asked
_ROOMS: Final = (500, 2000, 10_000)
_SESSIONS: Final = 1000
_LAST: Final = 2**31 - 1  # behind every message

Ask = Callable[[str, Spot | None, dict[str, Any]], list[Any]]
"""(which statement, where to go on, values) to rows."""


class Searching(Listing):
    """The power `Search`."""

    def search(self, query: Query, wanted: Filter, limit: int, cursor: str | None = None) -> SearchPage:
        """See `Search`."""
        after = Spot.read(cursor, limit)
        if not self._has_index():
            raise StorageUnavailable("search", path=self._open.where, reason="there is no index of words in the database: it "
                                     "was made by an SQLite without FTS5; copy the sessions into one made with it")
        return cut(_Walk(self._search_of(query, wanted), query, wanted, after, limit).found(), limit)

    def _search_of(self, query: Query, wanted: Filter) -> Ask:
        """What asks the database for rows of this search."""
        asked, dialect, postgres = asked_of(wanted), self._open.engine.dialect, self._open.engine.dialect.name == "postgresql"
        words = match([(namespace_term(self.namespace), False), *query.terms], postgres=postgres)
        terms = looked_at(query.terms)
        rare = self._rare(wanted)
        whose = {"k_namespace": self.namespace, "k_match": words, "k_rare": rare, **asked.values, **terms}

        def ask(kind: str, after: Spot | None, values: dict[str, Any]) -> list[Any]:
            those = Those(postgres, asked, self._ttl is not None, rare is not None, len(terms))
            shape = kind, asked.shape, after is not None, those.expires, those.rare, those.terms
            statement = compiled(dialect, shape, lambda: _MADE[kind](those, after is not None))
            at = {} if after is None else {"k_at": after.updated_at, "k_of": after.session_id, "k_seq": after.at}
            given = {**whose, **at, **self._active(), **values}
            return self._asked("search", None, lambda cursor: statement.rows(cursor, given))

        return ask


class _Walk:
    """To a page of one search, and one hit more."""

    def __init__(self, ask: Ask, query: Query, wanted: Filter, after: Spot | None, limit: int) -> None:
        self._ask, self._query, self._wanted, self._after, self._limit = ask, query, wanted, after, limit
        self._found: list[Found] = []

    def found(self) -> list[Found]:
        """In order. The newest sessions are looked at in any case: often that is enough. What only has to begin with something
        is worth a longer look: an index would put together all that begins so, which may be nearly everything."""
        begins = any(begins for _, begins in self._query.terms)
        if not self._go_through(_ROOMS[:2] if begins else _ROOMS[:1]):
            count = self._ask("count", None, {"k_few": FEW + 1})[0][0]
            if count <= FEW:
                self._sort()
            else:
                self._go_through(chain(_ROOMS[1:], repeat(_ROOMS[-1])))
        return self._found

    @property
    def _enough(self) -> bool:
        return len(self._found) > self._limit

    def _sort(self) -> None:
        """All that the index names; more of it where it named what has not the words."""
        batch = min(self._limit + 1, _SESSIONS)
        while not self._enough:
            rows = self._ask("sorted", self._after, {"k_few": FEW + _SPARE, "k_limit": batch})
            self._take(rows)
            if len(rows) < batch:
                return
            batch = _SESSIONS

    def _go_through(self, rooms: Iterable[int]) -> bool:
        """Sessions from the newest on, as many at a time as have so many messages; whether that was enough, or all."""
        for room in rooms:
            most = min(room, _SESSIONS)
            keys = self._ask("sessions", self._after, {"k_limit": most})
            these = _some(keys, room)
            if these:
                self._go_through_these(these[-1])
            if self._enough or len(these) == len(keys) < most:
                return True
            self._after = Spot(these[-1][0], these[-1][1], _LAST)
        return False

    def _go_through_these(self, last: Any) -> None:
        batch = min(self._limit + 1, _SESSIONS)
        while not self._enough:
            rows = self._ask("through", self._after, {"k_limit": batch, "k_last_at": last[0], "k_last_of": last[1]})
            self._take(rows)
            if len(rows) < batch:
                return

    def _take(self, rows: list[Any]) -> None:
        """Those that have the words, and pass the filter."""
        for session_id, updated_at, at, text_of_head, count, line in rows:
            self._after = Spot(updated_at, session_id, at)
            try:
                head = loads(text_of_head)
                one = hit(self._query, head, count, at, None if line is None else line.encode()) if self._wanted.takes(head) else None
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                leave_out(session_id, error)
            else:
                if one is not None:
                    self._found.append((self._after, one))


def _some(keys: list[Any], room: int) -> list[Any]:
    """The first ones, one at least, until so many messages are reached."""
    total = 0
    for number, (_, _, messages) in enumerate(keys, 1):
        total += messages
        if total >= room:
            return keys[:number]
    return keys


# -- statements --------------------------------------------------------------------------------------------------
#
# A subquery with a limit is worked out by itself in both databases: so the index of words is what a search begins with.


@attrs.frozen(slots=True)
class Those:
    """Which sessions are searched."""

    postgres: bool
    asked: Asked
    expires: bool
    rare: bool
    """Their tags and metadata are looked up."""
    terms: int
    """So many are looked for in each row, where rows are gone through."""

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        """In words of the columns."""
        made = conditions(self.asked, expires=self.expires, postgres=self.postgres)
        rare = [session.c.id.in_(looked_up(postgres=self.postgres))] if self.rare else []
        return [session.c.namespace == bindparam("k_namespace"), *rare, *made]


def _sorted(those: Those, goes_on: bool) -> Any:
    """All that the index names, in the order of their sessions."""
    found = few(postgres=those.postgres)
    owner = [found.c.namespace == session.c.namespace, found.c.id == session.c.id]
    return _whole(_places(found.c.seq).where(*those.conditions, *owner, *([_behind(found.c.seq)] if goes_on else [])))


def _sessions(those: Those, goes_on: bool) -> Any:
    """The next ones, the newest first."""
    s = session.c
    rows = select(s.updated_at, s.id, s.messages).where(*those.conditions)
    if goes_on:
        stand, here = tuple_(s.updated_at, s.id), _key("at", "of")
        rows = rows.where(stand <= here, or_(stand < here, s.messages > bindparam("k_seq", type_=Integer)))
    return rows.order_by(s.updated_at.desc(), s.id.desc()).limit(bindparam("k_limit", type_=Integer))


def _through(those: Those, goes_on: bool) -> Any:
    """What the index names of the sessions down to one of them."""
    s = session.c
    owned = [text.c.namespace == s.namespace, text.c.id == s.id, is_named(those.terms, postgres=those.postgres)]
    down_to = tuple_(s.updated_at, s.id) >= _key("last_at", "last_of")
    from_here = [tuple_(s.updated_at, s.id) <= _key("at", "of"), _behind(text.c.seq)] if goes_on else []
    return _whole(_places(text.c.seq).where(*those.conditions, *owned, down_to, *from_here))


_MADE: Final[dict[str, Callable[[Those, bool], Any]]] = {
    "count": lambda those, _: count_named(postgres=those.postgres), "sorted": _sorted, "sessions": _sessions, "through": _through}


def _behind(seq: Any) -> ColumnElement[bool]:
    """Where the last page stopped."""
    s = session.c
    same = and_(s.updated_at == bindparam("k_at"), s.id == bindparam("k_of"))
    return or_(tuple_(s.updated_at, s.id) < _key("at", "of"), and_(same, seq > bindparam("k_seq", type_=Integer)))


def _key(*names: str) -> Any:
    return tuple_(*(bindparam(f"k_{name}", type_=session.c.id.type) for name in names))


def _places(seq: Any) -> Any:
    s = session.c
    return (select(s.namespace, s.id, s.updated_at, seq.label("seq")).order_by(s.updated_at.desc(), s.id.desc(), seq)
            .limit(bindparam("k_limit", type_=Integer)))


def _whole(places: Any) -> Any:
    """With the texts, which are read for those only that are shown."""
    found = places.subquery("places")
    s, m, p = session.c, message.c, found.c
    owner = and_(s.namespace == p.namespace, s.id == p.id)
    said = and_(m.namespace == p.namespace, m.id == p.id, m.seq == p.seq)
    rows = select(p.id, p.updated_at, p.seq, s.head, s.messages, m.line)
    return (rows.select_from(found.join(session, owner).outerjoin(message, said))
            .order_by(p.updated_at.desc(), p.id.desc(), p.seq))
