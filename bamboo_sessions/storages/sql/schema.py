"""The tables, as the statements see them. The migrations make them; a test holds both to each other.

Every key begins with the namespace, so that no statement can reach another tenant's rows by leaving out a condition. A
head is kept twice: whole, as the JSON text that comes back to the byte, and taken apart into the columns that lists filter
and sort by. A message is a row of its own, its place in the conversation is its key.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, MetaData, SmallInteger, Table, Text, literal_column
from sqlalchemy.dialects import postgresql

VERSION: Final = 3
"""The number of the newest migration: what this code reads and writes."""

VERSION_TABLE: Final = "bamboo_schema"

metadata = MetaData()

# Compared and sorted by code point, as Python and SQLite do: a cursor made on one page must mean the same on the next, and
# no two ids may be taken for one another.
_Exact = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
_Serial = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts up by itself in an INTEGER key only

store = Table(
    "bamboo_store", metadata,
    Column("namespace", _Exact, primary_key=True),
    Column("store_id", Text, nullable=False),
)

session = Table(
    "bamboo_session", metadata,
    Column("namespace", _Exact, primary_key=True),
    Column("id", _Exact, primary_key=True),
    Column("birth", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("op", Text, nullable=False),  # the operation id that made this revision
    Column("ops", Text, nullable=False),  # the newest operation ids, a JSON list, oldest first; `op` is the last
    Column("messages", Integer, nullable=False),  # how many rows there have to be
    Column("rewrites", BigInteger, nullable=False),  # how often messages were not just appended
    Column("created_at", _Exact, nullable=False),
    Column("updated_at", _Exact, nullable=False),
    Column("activity", BigInteger, nullable=False),  # microseconds since 1970, by the clock of whoever committed or touched
    Column("model", Text),
    Column("provider", Text),
    Column("context_id", Text),
    Column("parent_id", Text),
    Column("pinned", Boolean, nullable=False),
    Column("archived", Boolean, nullable=False),
    Column("questions", Integer, nullable=False),
    Column("head", Text, nullable=False),
)
Index("bamboo_session_newest", session.c.namespace, session.c.updated_at, session.c.id)
Index("bamboo_session_created", session.c.namespace, session.c.created_at, session.c.id)
# The filters that leave few of many. A session that none of them takes costs nothing here.
for _owner in (session.c.context_id, session.c.parent_id):
    Index(f"bamboo_session_{_owner.name}", session.c.namespace, _owner, session.c.updated_at, session.c.id,
          sqlite_where=_owner.is_not(None), postgresql_where=_owner.is_not(None))
for _name, _some in (("pinned", session.c.pinned), ("questions", session.c.questions > literal_column("0"))):
    Index(f"bamboo_session_{_name}", session.c.namespace, session.c.updated_at, session.c.id,
          sqlite_where=_some, postgresql_where=_some)

message = Table(
    "bamboo_message", metadata,
    Column("namespace", _Exact, primary_key=True),
    Column("id", _Exact, primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("line", Text, nullable=False),
)

text = Table(
    "bamboo_text", metadata,
    Column("n", _Serial, primary_key=True, autoincrement=True),  # FTS5 knows its rows by number
    Column("namespace", _Exact, nullable=False),
    Column("id", _Exact, nullable=False),
    Column("seq", Integer, nullable=False),  # of the message; -1: title, tags and metadata
    Column("words", Text().with_variant(postgresql.TSVECTOR(), "postgresql"), nullable=False),
)
Index("bamboo_text_of", text.c.namespace, text.c.id, text.c.seq, unique=True)
# Its index for searches is another thing in each database, see `texts.index_statements`.

usage = Table(
    "bamboo_usage", metadata,
    Column("n", _Serial, primary_key=True, autoincrement=True),
    Column("namespace", _Exact, nullable=False),
    Column("id", _Exact, nullable=False),
    Column("birth", Text, nullable=False),
    Column("line", Text, nullable=False),
)
Index("bamboo_usage_of", usage.c.namespace, usage.c.id, usage.c.n)

grave = Table(
    "bamboo_grave", metadata,
    Column("n", _Serial, primary_key=True, autoincrement=True),
    Column("namespace", _Exact, nullable=False),
    Column("id", _Exact, nullable=False),
    Column("birth", Text, nullable=False),
    Column("ops", Text, nullable=False),
    Column("expired", SmallInteger, nullable=False),  # 1: its time had run out
)
Index("bamboo_grave_of", grave.c.namespace, grave.c.id, grave.c.birth)
