"""The index behind searches: for each title and each message one row, with its terms.

SQLite keeps the terms as a text, of which an FTS5 table is the index (triggers hold the two together); PostgreSQL keeps them as
a `tsvector`, with a GIN index. Neither takes texts apart: that has one rule for all, `search_words`. A row is written in the
transaction of the commit that it belongs to, and only for what that commit adds.

Whose row it is stands among its terms as well, so that a search of one namespace does not go through the hits of all others;
so do the tags of a session and the values of its metadata, beside its title, so that a rare one is found without a look at every
session. All of these begin with a character that no word has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    CTE,
    Boolean,
    ColumnElement,
    Integer,
    Text,
    and_,
    bindparam,
    cast,
    column,
    delete,
    exists,
    func,
    insert,
    literal_column,
    select,
    table,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.elements import ClauseElement

from bamboo_sessions.filters import Filter
from bamboo_sessions.search import TITLE, said, title_of
from bamboo_sessions.search_words import terms
from bamboo_sessions.storages.protocol import Change, Head
from bamboo_sessions.storages.sql.metadata_terms import ASKED, asked_terms, more_term, terms_of
from bamboo_sessions.storages.sql.schema import text

_NAMESPACE, _TAG = "\ue000", "\ue001"  # of no script: no word begins with them

_index: Final = table("bamboo_words", column("bamboo_words"))  # FTS5: a column of the table's name is the table

_LOOKED_AT: Final = 8
_ROWID: Final[ColumnElement[int]] = literal_column("bamboo_words.rowid", Integer)

_NAMED: Final = frozenset({"title", "tags", "metadata"})

Rows = list[tuple[int, str]]
"""(place, terms)."""


# -- what is kept of a commit ------------------------------------------------------------------------------------


def rows_of(namespace: str, change: Change, head: Head, start: int) -> Rows:
    """Of the messages that it adds, the first of them in place `start`; and of title, tags and metadata, where it says something of
    them."""
    whose = namespace_term(namespace)
    rows = [(TITLE, packed(head_terms(namespace, head), whose))] if _names_them(change.head) else []
    for at, line in enumerate(change.add, start):
        words = line_terms(line)
        if words:
            rows.append((at, packed(words, whose)))
    return rows


def _names_them(change: dict[str, Any]) -> bool:
    return not all(_NAMED.isdisjoint(names) for names in change.values())


def line_terms(line: bytes) -> set[str]:
    """Of a message."""
    heard = said(line)
    return set() if heard is None else terms(heard.text)


def head_terms(namespace: str, head: Head) -> set[str]:
    """Of what stands in a head."""
    tags = head.get("tags")
    named = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list | tuple) else []
    return terms(title_of(head)) | {tag_term(namespace, tag) for tag in named} | terms_of(namespace, head.get("metadata"))


def packed(words: Iterable[str], whose: str) -> str:
    """As a column takes them. There is nothing in a term that would have to be quoted."""
    return " ".join([*sorted(words), whose])


@lru_cache(maxsize=256)
def namespace_term(namespace: str) -> str:
    """What each row of a namespace has. Two that share it are told apart by the column."""
    return _NAMESPACE + _digest(namespace)


def tag_term(namespace: str, tag: str) -> str:
    """What the row of a session has that bears the tag."""
    return _TAG + _digest(f"{namespace}\0{tag}")


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def match(wanted: Iterable[tuple[str, bool]], *, postgres: bool) -> str:
    """What an index is asked for: all of these terms, of some of them the beginning."""
    if postgres:
        return " & ".join(f"'{term}'{':*' if begins else ''}" for term, begins in wanted)
    return " AND ".join(f'"{term}"{"*" if begins else ""}' for term, begins in wanted)


def match_head(namespace: str, wanted: Filter, *, postgres: bool) -> str | None:
    """What the index is asked for, for the sessions that have these tags and these values in their metadata; None where it knows
    nothing of what is wanted. It names too many where a session has more metadata than it keeps, and never too few."""
    both, either, quote = (" & ", " | ", "'") if postgres else (" AND ", " OR ", '"')
    tags = [f"{quote}{tag_term(namespace, tag)}{quote}" for tag in sorted(wanted.all_tags)[:ASKED]]
    values = [f"{quote}{term}{quote}" for term in asked_terms(namespace, wanted.metadata)]
    groups = [*tags, *([f"({both.join(values)}{either}{quote}{more_term(namespace)}{quote})"] if values else [])]
    return both.join(groups) or None


def named(*, postgres: bool) -> ColumnElement[bool]:
    """The rows that the index names: it comes first, and is asked once."""
    return _has_words() if postgres else and_(_matches(), text.c.n == _ROWID)


def is_named(asked: int, *, postgres: bool) -> ColumnElement[bool]:
    """Whether a row has the terms, by the row itself: to ask an index for each of many costs more. `asked` of them are looked at."""
    if postgres:
        return _has_words()
    found = literal_column("' '", Text) + text.c.words
    return and_(*(func.instr(found, bindparam(f"k_term_{n}", type_=Text())) > literal_column("0") for n in range(asked)))


def looked_at(wanted: Sequence[tuple[str, bool]]) -> dict[str, str]:
    """The parameters of `is_named`: behind every term but the last, which is the namespace, stands a space."""
    return {f"k_term_{n}": f" {term}{'' if begins else ' '}" for n, (term, begins) in enumerate(wanted[:_LOOKED_AT])}


def _has_words(parameter: str = "k_match") -> ColumnElement[bool]:
    wanted = cast(bindparam(parameter, type_=Text()), postgresql.TSQUERY)
    return text.c.words.op("@@", is_comparison=True, return_type=Boolean())(wanted)


def _matches(parameter: str = "k_match") -> ColumnElement[bool]:
    return _index.c.bamboo_words.op("MATCH", is_comparison=True, return_type=Boolean())(bindparam(parameter, type_=Text()))


def few(*, postgres: bool) -> Any:
    """Those rows, as many as matter."""
    rows = select(text.c.namespace, text.c.id, text.c.seq).where(named(postgres=postgres))
    return rows.limit(bindparam("k_few", type_=Integer)).subquery("few")


def count_named(*, postgres: bool) -> ClauseElement:
    """How many there are, counted no further than it matters."""
    rows = few(postgres=True) if postgres else (
        select(_ROWID).select_from(_index).where(_matches()).limit(bindparam("k_few", type_=Integer)).subquery("few"))
    return select(func.count()).select_from(rows)


def looked_up(*, postgres: bool) -> Any:
    """The ids of sessions that `match_head` is for; those of another namespace among them, if it looks the same."""
    those = _has_words("k_rare") if postgres else and_(_matches("k_rare"), text.c.n == _ROWID)
    return select(text.c.id).where(those, text.c.seq == literal_column(str(TITLE))).correlate(None)


def index_is_there(dialect: Dialect) -> ClauseElement:
    """A row where searches are possible."""
    if dialect.name == "postgresql":
        return select(literal_column("1"))
    tables = table("sqlite_master", column("name"))
    return select(literal_column("1")).select_from(tables).where(tables.c.name == literal_column("'bamboo_words'"))


# -- statements --------------------------------------------------------------------------------------------------

_WORDS: Final = bindparam("v_words", type_=Text())
_KEY: Final = {"namespace": bindparam("k_namespace", type_=text.c.namespace.type), "id": bindparam("k_id", type_=text.c.id.type)}
_COLUMNS: Final = ("namespace", "id", "seq", "words")
_OF: Final[ColumnElement[bool]] = and_(text.c.namespace == bindparam("k_namespace"), text.c.id == bindparam("k_id"))


def cut_texts() -> ClauseElement:
    """The rows of the messages from a place on."""
    return delete(text).where(_OF, text.c.seq >= bindparam("k_keep"))


def drop_title() -> ClauseElement:
    """The row of the title."""
    return delete(text).where(_OF, text.c.seq == literal_column(str(TITLE)))


def add_text() -> ClauseElement:
    """A row, one by one."""
    return insert(text).values({**_KEY, "seq": bindparam("v_seq", type_=text.c.seq.type), "words": _WORDS})


def put_texts(made: CTE | None) -> Any:
    """All rows by one statement of PostgreSQL; with `made`, only where that gave a row."""
    given = func.unnest(bindparam("v_seqs", type_=postgresql.ARRAY(Integer)), bindparam("v_words", type_=postgresql.ARRAY(Text)))
    row = given.table_valued("seq", "words").render_derived()
    rows = select(_KEY["namespace"], _KEY["id"], row.c.seq, cast(row.c.words, postgresql.TSVECTOR))
    if made is not None:
        rows = rows.where(exists(select(made.c.revision)))
    put = postgresql.insert(text).from_select(_COLUMNS, rows)
    return put.on_conflict_do_update(index_elements=["namespace", "id", "seq"], set_={"words": put.excluded.words})


def values_of(rows: Rows) -> dict[str, Sequence[object]]:
    """The parameters of `put_texts`."""
    return {"v_seqs": [at for at, _ in rows], "v_words": [words for _, words in rows]}


# -- tables ------------------------------------------------------------------------------------------------------


def index_statements(connection: Connection) -> Sequence[str]:
    """What makes the index over rows that are there; nothing in an SQLite without FTS5, where searches are refused then."""
    if connection.dialect.name == "postgresql":
        # What waits to be sorted in is read through by every search, and one save in so many has to sort it in: a short list.
        return ("CREATE INDEX bamboo_text_words ON bamboo_text USING gin (words) WITH (gin_pending_list_limit = 64)",)
    try:
        connection.exec_driver_sql("CREATE VIRTUAL TABLE temp.bamboo_try USING fts5(words)")
        connection.exec_driver_sql("DROP TABLE temp.bamboo_try")
    except DBAPIError:
        return ()
    return _FTS5


_FTS5: Final = (
    """CREATE VIRTUAL TABLE bamboo_words
       USING fts5(words, content='bamboo_text', content_rowid='n', detail=none, columnsize=0, tokenize='ascii')""",
    "INSERT INTO bamboo_words (bamboo_words) VALUES ('rebuild')",
    """CREATE TRIGGER bamboo_text_added AFTER INSERT ON bamboo_text
       BEGIN INSERT INTO bamboo_words (rowid, words) VALUES (new.n, new.words); END""",
    """CREATE TRIGGER bamboo_text_gone AFTER DELETE ON bamboo_text
       BEGIN INSERT INTO bamboo_words (bamboo_words, rowid, words) VALUES ('delete', old.n, old.words); END""")
"""It keeps which words a row has, and nothing about where: what is found is looked at again."""
