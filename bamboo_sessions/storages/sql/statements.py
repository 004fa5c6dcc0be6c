"""Every statement, written once with SQLAlchemy Core and compiled once for a dialect.

They run on the driver's cursor, under the pool but beside `Connection.execute`: what that does per statement costs as much
as a commit to memory does, several times in each save.

Where the dialect lets a change of the session and its new messages be one statement (PostgreSQL), an ordinary commit is one
round trip: the insert takes its rows from the update, and none where the update found another state. Elsewhere the
statements of a commit stand one after another in a transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, Protocol

from sqlalchemy import (
    CTE,
    ColumnElement,
    LargeBinary,
    SmallInteger,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.elements import ClauseElement

from bamboo_sessions.storages.sql import texts
from bamboo_sessions.storages.sql.schema import grave, message, session, store, text, usage

GRAVES_KEPT: Final = 100_000
"""How many deletions a store remembers."""

Values = Mapping[str, Any]


class Cursor(Protocol):
    """What is used of a driver's cursor."""

    rowcount: int

    def execute(self, text: str, values: Any = ..., /) -> object:
        """Run a statement."""

    def executemany(self, text: str, values: Iterable[Any], /) -> object:
        """Run it for each."""

    def fetchone(self) -> Any:
        """A row, or None."""

    def fetchall(self) -> list[Any]:
        """The rows."""

    def close(self) -> object:
        """Release it."""


class Statement:
    """SQL text for one driver."""

    def __init__(self, element: ClauseElement, dialect: Dialect) -> None:
        compiled = element.compile(dialect=dialect)
        self.text = str(compiled)
        fixed = {name: value for name, value in compiled.params.items() if value is not None}
        order = getattr(compiled, "positiontup", None)
        if order is None:
            self._bound: Callable[[Values], Any] = (lambda values: {**fixed, **values}) if fixed else (lambda values: values)
        elif fixed or len(order) < 2:
            self._bound = lambda values: [fixed[name] if name in fixed else values[name] for name in order]
        else:
            self._bound = itemgetter(*order)

    def run(self, cursor: Cursor, values: Values) -> int:
        """How many rows it changed."""
        cursor.execute(self.text, self._bound(values))
        return cursor.rowcount

    def row(self, cursor: Cursor, values: Values) -> Any:
        """The only row, or None."""
        cursor.execute(self.text, self._bound(values))
        return cursor.fetchone()

    def rows(self, cursor: Cursor, values: Values) -> list[Any]:
        """All rows."""
        cursor.execute(self.text, self._bound(values))
        return cursor.fetchall()

    def many(self, cursor: Cursor, rows: Iterable[Values]) -> None:
        """Run it for each row."""
        cursor.executemany(self.text, [self._bound(row) for row in rows])


# -- parts -------------------------------------------------------------------------------------------------------
#
# Parameters are named after what they are compared with, behind a letter: `k_` for the key, `v_` for a value to store.

_STATE: Final = ("birth", "revision", "op", "ops", "messages", "rewrites", "created_at", "updated_at", "activity", "model",
                 "provider", "context_id", "parent_id", "pinned", "archived", "questions", "head")


def _of(table: Any) -> ColumnElement[bool]:
    return and_(table.c.namespace == bindparam("k_namespace"), table.c.id == bindparam("k_id"))


def _values(*names: str) -> dict[str, Any]:
    return {name: bindparam(f"v_{name}", type_=session.c[name].type) for name in names}


_KEY: Final = {"namespace": bindparam("k_namespace", type_=session.c.namespace.type),
               "id": bindparam("k_id", type_=session.c.id.type)}
_HOLDS_EXPECTED: Final = and_(_of(session), session.c.birth == bindparam("k_birth"),
                              session.c.revision == bindparam("k_revision"), session.c.op == bindparam("k_op"))
_SINCE: Final = bindparam("v_activity", type_=session.c.activity.type)
# A clock that jumped back makes no session older than it was.
_RENEWED: Final = {"activity": case((session.c.activity > _SINCE, session.c.activity), else_=_SINCE)}
_ADVANCE: Final = update(session).where(_HOLDS_EXPECTED).values({**_values(*_STATE), **_RENEWED})
# What an ordinary turn changes. A column that is not named costs no index anything.
_GO_ON: Final = update(session).where(_HOLDS_EXPECTED).values({
    **_values("revision", "op", "ops", "messages", "rewrites", "updated_at", "head"), **_RENEWED})


_compiled: dict[str, Statements] = {}


def statements_for(dialect: Dialect) -> Statements:
    """Compiled at the first call: that takes as long as ten loads from a database."""
    driver = f"{dialect.name}+{dialect.driver}"
    if driver not in _compiled:
        _compiled[driver] = Statements(dialect)
    return _compiled[driver]


class Statements:
    """All of them, for one dialect."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._postgres = dialect.name == "postgresql"
        self.goes_at_once = self._postgres
        """Whether a commit that takes nothing away can be one statement."""
        self.begin_writing = "BEGIN" if self._postgres else "BEGIN IMMEDIATE"
        self._reading()
        self._committing()
        self._deleting()
        self._expiring()
        self._beside()

    def _made(self, element: ClauseElement) -> Statement:
        return Statement(element, self._dialect)

    def _has(self, column: Any, parameter: str) -> ColumnElement[bool]:
        """Whether a column's text contains the parameter's."""
        find = func.strpos if self._postgres else func.instr
        return find(column, bindparam(parameter, type_=Text())) > literal_column("0")

    def _lines(self, start: Any) -> Any:
        """The session's messages from `start` on as one text, a line each: one value costs less than many rows."""
        of = and_(message.c.namespace == session.c.namespace, message.c.id == session.c.id, message.c.seq >= start)
        if self._postgres:
            joined = func.string_agg(message.c.line, postgresql.aggregate_order_by(literal_column("chr(10)"), message.c.seq))
            return select(joined).where(of).correlate(session).scalar_subquery()
        ordered = select(message.c.line).where(of).order_by(message.c.seq).correlate(session).subquery()
        joined = func.group_concat(ordered.c.line, literal_column("char(10)"))
        return select(cast(joined, LargeBinary)).correlate(session).scalar_subquery()

    # Each read is a single statement, so that a snapshot is what it sees: head and messages of one commit.

    def _reading(self) -> None:
        s = session.c
        zero: ColumnElement[int] = literal_column("0")
        state = s.birth, s.revision, s.op, s.messages, s.rewrites
        same = and_(s.birth == bindparam("k_birth"), s.revision == bindparam("k_revision"), s.op == bindparam("k_op"))
        goes_on = and_(s.birth == bindparam("k_birth"), s.rewrites == bindparam("k_rewrites"), self._has(s.ops, "k_needle"))
        start: Any = case((goes_on, bindparam("k_messages", type_=s.messages.type)), else_=zero)
        news = [case((same, null()), else_=value) for value in (s.ops, s.head, self._lines(start))]
        self.whole = self._made(select(*state, zero, s.ops, s.head, self._lines(zero)).where(_of(session)))
        self.since = self._made(select(*state, start, *news).where(_of(session)))
        self.state = self._made(select(*state, s.ops, s.head).where(_of(session)))
        parts = (*state, s.ops, s.head)
        first = select(literal_column("-1").label("at"), null().label("line"), *parts).where(_of(session))
        others = select(message.c.seq, message.c.line, *(null() for _ in parts)).where(_of(message))
        self.in_rows = self._made(union_all(first, others).order_by(literal_column("1")))
        self.heads = self._made(
            select(s.id, s.head, s.messages).where(s.namespace == bindparam("k_namespace"), s.id > bindparam("k_id"))
            .order_by(s.id).limit(bindparam("k_limit", type_=s.messages.type)))

    def _committing(self) -> None:
        upsert = postgresql.insert if self._postgres else sqlite.insert
        create = upsert(session).values({**_KEY, **_values(*_STATE)}).on_conflict_do_nothing()
        steps = {"create": create, "advance": _ADVANCE, "go_on": _GO_ON}
        self.steps = {name: self._made(step) for name, step in steps.items()}
        self.cut = self._made(delete(message).where(_of(message), message.c.seq >= bindparam("k_keep")))
        row = {**_KEY, "seq": bindparam("v_seq", type_=message.c.seq.type), "line": bindparam("v_line", type_=Text())}
        self._add_row = self._made(insert(message).values(row))
        self.cut_texts, self._drop_title = self._made(texts.cut_texts()), self._made(texts.drop_title())
        self._add_text = self._made(texts.add_text())
        if self._postgres:
            self._add_rows, self._put_texts = self._made(_add_all(None)), self._made(texts.put_texts(None))
            self._at_once = {(step, lines, rows): self._made(_together(steps[step], lines=lines, rows=rows))
                             for step in steps for lines in (False, True) for rows in (False, True)}

    def at_once(self, cursor: Cursor, values: Values, lines: Sequence[str], rows: texts.Rows, *, step: str) -> bool:
        """A change of the session, or a new one, with its new messages, in one statement; whether it was made."""
        made = self._at_once[step, bool(lines), bool(rows)].run(cursor, {**values, "v_lines": lines, **texts.values_of(rows)})
        return made == (len(lines) or len(rows) or 1)

    def one_by_one(self, cursor: Cursor, values: Values, lines: Sequence[str], rows: texts.Rows, *, step: str, cut: bool) -> bool:
        """The same in several statements, in a transaction of the caller's. `cut`: take messages off first, from `k_keep` on."""
        if self.steps[step].run(cursor, values) != 1:
            return False
        if cut:
            self.cut.run(cursor, values)
            self.cut_texts.run(cursor, values)
        if lines:
            self.add(cursor, values, values["k_keep"], lines)
        if rows:
            self.tell(cursor, values, rows)
        return True

    def tell(self, cursor: Cursor, key: Values, rows: texts.Rows) -> None:
        """Let searches find these; a title in the place of the one before."""
        if self._postgres:
            self._put_texts.run(cursor, {**key, **texts.values_of(rows)})
            return
        if rows[0][0] < 0:
            self._drop_title.run(cursor, key)
        self._add_text.many(cursor, ({**key, "v_seq": at, "v_words": words} for at, words in rows))

    def add(self, cursor: Cursor, key: Values, keep: int, lines: Sequence[str]) -> None:
        """Insert these messages behind the first `keep`."""
        if self._postgres:
            self._add_rows.run(cursor, {**key, "k_keep": keep, "v_lines": lines})
        elif len(lines) == 1:
            self._add_row.run(cursor, {**key, "v_seq": keep, "v_line": lines[0]})
        else:
            self._add_row.many(cursor, ({**key, "v_seq": keep + at, "v_line": line} for at, line in enumerate(lines)))

    def _deleting(self) -> None:
        self.hold = self._made(select(session.c.birth, session.c.ops).where(_of(session)).with_for_update())
        self.drops = [self._made(delete(table).where(_of(table))) for table in (session, message, text, usage)]
        self.bury = self._made(insert(grave).values({
            **_KEY, "birth": bindparam("v_birth", type_=Text()), "ops": bindparam("v_ops", type_=Text()),
            "expired": bindparam("v_expired", type_=SmallInteger())}))
        oldest = select(func.max(grave.c.n) - literal_column(str(GRAVES_KEPT))).scalar_subquery()
        self.forget = self._made(delete(grave).where(grave.c.n <= oldest))
        of_birth = and_(_of(grave), grave.c.birth == bindparam("k_birth"))
        self.ended = self._made(select(literal_column("1")).where(of_birth).limit(literal_column("1")))
        lives = exists().where(_of(session), session.c.birth == bindparam("k_birth"))
        self.buried = self._made(select(literal_column("1")).where(of_birth, ~lives).limit(literal_column("1")))
        self.buried_op = self._made(
            select(literal_column("1")).where(_of(grave), self._has(grave.c.ops, "k_needle")).limit(literal_column("1")))

    def _expiring(self) -> None:
        s = session.c
        spared = or_(s.pinned, s.questions > literal_column("0"))
        active = bindparam("k_active", type_=s.activity.type)
        self.activity = self._made(select(s.activity, s.pinned, s.questions).where(_of(session)))
        self.touch = self._made(update(session).where(_of(session)).values(_RENEWED))
        self.expired = self._made(
            select(s.id).where(s.namespace == bindparam("k_namespace"), s.id > bindparam("k_id"), s.activity <= active, ~spared)
            .order_by(s.id).limit(bindparam("k_limit", type_=s.messages.type)))
        self.hold_expired = self._made(
            select(s.birth, s.ops).where(_of(session), s.activity <= active, ~spared).with_for_update())
        self.exists_since = self._made(select(literal_column("1")).where(_of(session), or_(s.activity > active, spared)))
        self.heads_since = self._made(
            select(s.id, s.head, s.messages)
            .where(s.namespace == bindparam("k_namespace"), s.id > bindparam("k_id"), or_(s.activity > active, spared))
            .order_by(s.id).limit(bindparam("k_limit", type_=s.messages.type)))
        lives = exists().where(_of(session))
        newest = select(grave.c.birth, grave.c.expired).where(_of(grave), ~lives).order_by(grave.c.n.desc())
        self.last_grave = self._made(newest.limit(literal_column("1")))
        birth = bindparam("k_birth", type_=Text())
        same = exists().where(_of(session), session.c.birth == birth)
        self.grave_of = self._made(
            select(grave.c.birth, grave.c.expired).where(_of(grave), grave.c.birth == birth, ~same)
            .order_by(grave.c.n.desc()).limit(literal_column("1")))

    def _beside(self) -> None:
        upsert = postgresql.insert if self._postgres else sqlite.insert
        self.exists = self._made(select(literal_column("1")).where(_of(session)))
        self.store_id = self._made(select(store.c.store_id).where(store.c.namespace == bindparam("k_namespace")))
        self.name_store = self._made(upsert(store).values(
            namespace=_KEY["namespace"], store_id=bindparam("v_store_id", type_=Text())).on_conflict_do_nothing())
        # The row's shared lock keeps a deletion from coming in between; commits do not wait for it.
        owner = select(session.c.namespace, session.c.id, session.c.birth, bindparam("v_line", type_=Text()))
        self.append_usage = self._made(insert(usage).from_select(
            ["namespace", "id", "birth", "line"], owner.where(_of(session)).with_for_update(read=True, key_share=True)))
        of_birth = and_(_of(usage), usage.c.birth == bindparam("k_birth"))
        self.usage = self._made(select(usage.c.line).where(of_birth).order_by(usage.c.n))
        self.count_usage = self._made(select(func.count()).select_from(usage).where(of_birth))
        self.add_usage = self._made(insert(usage).values(
            {**_KEY, "birth": bindparam("k_birth", type_=Text()), "line": bindparam("v_line", type_=Text())}))


def _together(change: Any, *, lines: bool, rows: bool) -> Any:
    """A change of a session with what goes with it; the number of rows is that of what stands last."""
    made = change.returning(session.c.revision).cte("made")
    if lines:
        return _add_all(made).add_cte(texts.put_texts(made).cte("told")) if rows else _add_all(made)
    return texts.put_texts(made) if rows else change


def _add_all(made: CTE | None) -> Any:
    """Insert a list of messages by one statement of PostgreSQL; with `made`, only where that gave a row."""
    given = func.unnest(bindparam("v_lines", type_=postgresql.ARRAY(Text))).table_valued(
        "line", with_ordinality="place").render_derived()
    seq = bindparam("k_keep", type_=message.c.seq.type) + given.c.place - literal_column("1")
    rows = select(_KEY["namespace"], _KEY["id"], seq, given.c.line)
    if made is not None:
        rows = rows.where(exists(select(made.c.revision)))
    return insert(message).from_select(["namespace", "id", "seq", "line"], rows)
