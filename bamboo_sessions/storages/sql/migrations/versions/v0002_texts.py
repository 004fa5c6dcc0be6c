"""The words of titles and messages, for searches and rare tags; those of the messages that are there included.

What a word is, the current code says, and not this step: a version that has another idea of it comes with a step that does
this again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from bamboo_sessions._json import loads
from bamboo_sessions.search import TITLE
from bamboo_sessions.storages.sql.texts import head_terms, index_statements, line_terms, namespace_term, packed

revision = "2"
down_revision = "1"
branch_labels = None
depends_on = None

_BATCH = 200


def upgrade() -> None:
    """From version 1. The index comes last: over rows that are there it is made in a fraction of the time."""
    exact = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
    serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "bamboo_text",
        sa.Column("n", serial, primary_key=True, autoincrement=True),
        sa.Column("namespace", exact, nullable=False),
        sa.Column("id", exact, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("words", sa.Text().with_variant(postgresql.TSVECTOR(), "postgresql"), nullable=False),
    )
    op.create_index("bamboo_text_of", "bamboo_text", ["namespace", "id", "seq"], unique=True)
    connection = op.get_bind()
    _fill(connection, _HEADS, "", _of_head)
    _fill(connection, _LINES, ", seq", _of_line)
    for statement in index_statements(connection):
        connection.exec_driver_sql(statement)


_HEADS = "SELECT namespace, id, -1, head FROM bamboo_session"
_LINES = "SELECT namespace, id, seq, line FROM bamboo_message"


def _of_head(namespace: str, head: str) -> set[str]:
    try:
        return head_terms(namespace, loads(head))
    except (ValueError, TypeError, AttributeError):
        return set()  # whoever reads the session is told; nothing else has to wait for that


def _of_line(_namespace: str, line: str) -> set[str]:
    return line_terms(line.encode())


def _fill(connection: sa.Connection, ask: str, place: str, terms_of: Any) -> None:
    postgres = connection.dialect.name == "postgresql"
    words = "CAST(:words AS tsvector)" if postgres else ":words"
    insert = sa.text(f"INSERT INTO bamboo_text (namespace, id, seq, words) VALUES (:namespace, :id, :seq, {words})")  # noqa: S608 - constants
    for rows in _batches(connection, ask, place):
        made = [{"namespace": namespace, "id": name, "seq": seq, "words": packed(found, namespace_term(namespace))}
                for namespace, name, seq, text in rows if (found := terms_of(namespace, text))]
        if made:
            connection.execute(insert, made)


def _batches(connection: sa.Connection, ask: str, place: str) -> Iterator[Any]:
    """In the order of their key, so that no more than a batch is in memory, however many there are."""
    key = f"(namespace, id{place})"
    then = sa.text(f"{ask} WHERE {key} > (:a, :b{', :c' if place else ''}) ORDER BY namespace, id{place} LIMIT {_BATCH}")
    last: tuple[str, str, int] = ("", "", TITLE)
    while True:
        rows = connection.execute(then, {"a": last[0], "b": last[1], **({"c": last[2]} if place else {})}).fetchall()
        yield rows
        if len(rows) < _BATCH:
            return
        last = rows[-1][0], rows[-1][1], rows[-1][2]
