"""The metadata of the sessions that are there, beside their titles and tags in the index of words; and columns as long as they
are compared, for an index has room for no more.

Which values have a term, and which one, the current code says, as in the step before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

from bamboo_sessions._json import loads
from bamboo_sessions.storages.sql.metadata_terms import terms_of
from bamboo_sessions.storages.sql.texts import head_terms, namespace_term, packed

revision = "3"
down_revision = "2"
branch_labels = None
depends_on = None

_BATCH = 200


def upgrade() -> None:
    """From version 2: the rows of titles are made anew, those of messages stay."""
    connection = op.get_bind()
    postgres = connection.dialect.name == "postgresql"
    if postgres:  # a title that a writer of version 2 changes meanwhile must not get its old terms back
        connection.exec_driver_sql("LOCK TABLE bamboo_session IN SHARE ROW EXCLUSIVE MODE")
    for name in ("model", "provider", "context_id", "parent_id"):
        connection.exec_driver_sql(f"UPDATE bamboo_session SET {name} = substr({name}, 1, 100) WHERE length({name}) > 100")  # noqa: S608 - constants
    for rows in _batches(connection, "strpos" if postgres else "instr"):
        made = [row for row in map(_row, rows) if row is not None]
        for statement in (_PUT if postgres else _REPLACE) if made else ():
            connection.execute(sa.text(statement), made)


_ROW = "INSERT INTO bamboo_text (namespace, id, seq, words) VALUES (:namespace, :id, -1, "
_PUT = (f"{_ROW}CAST(:words AS tsvector)) ON CONFLICT (namespace, id, seq) DO UPDATE SET words = excluded.words",)
# The triggers that tell FTS5 are those of rows that come and go.
_REPLACE = ("DELETE FROM bamboo_text WHERE namespace = :namespace AND id = :id AND seq = -1", f"{_ROW}:words)")


def _row(row: Any) -> dict[str, str] | None:
    """None where there is nothing to name; a head that is no JSON any more keeps what it has."""
    namespace, name, text = row
    try:
        head = loads(text)
        if not terms_of(namespace, head.get("metadata")):
            return None
        return {"namespace": namespace, "id": name, "words": packed(head_terms(namespace, head), namespace_term(namespace))}
    except (ValueError, TypeError, AttributeError):
        return None


def _batches(connection: sa.Connection, find: str) -> Iterator[Any]:
    """In the order of their key, so that no more than a batch is in memory, however many there are."""
    then = sa.text("SELECT namespace, id, head FROM bamboo_session WHERE (namespace, id) > (:a, :b)"  # noqa: S608 - constants
                   f" AND {find}(head, '\"metadata\"') > 0 ORDER BY namespace, id LIMIT {_BATCH}")
    last = "", ""
    while True:
        rows = connection.execute(then, {"a": last[0], "b": last[1]}).fetchall()
        yield rows
        if len(rows) < _BATCH:
            return
        last = rows[-1][0], rows[-1][1]
