"""Sessions in SQLite and PostgreSQL: the same records and commits, kept in tables. Needs the extra `sql`, or `postgres`.

    schema  migrations/  upgrading      the tables, the steps that make them, who runs the steps and when
    statements                          every statement, written once, compiled for a dialect
    database  settings  patience        an engine with what durability needs, shared by the process; what its errors mean
    using                               a connection for a statement, for a transaction, for a session that nobody else commits to
    states                              between rows and records: what a head is in columns, what a stamp says
    queries                             a page of a list as one statement
    base  expiring  storage             `SqlStorage`: which statements make a look, a deletion, a read, a commit

Exclusion comes from the database: a commit is one transaction whose update names the birth, the revision and the operation
id that it stands on, and the number of rows it changed is the answer.
"""

from importlib.util import find_spec as _find_spec

for _name in ("sqlalchemy", "alembic"):  # the latter is imported when tables are made
    if _find_spec(_name) is None:
        raise ImportError(
            f"sessions in a database need {_name}: pip install 'bamboo-sessions[sql]', or 'bamboo-sessions[postgres]' for "
            "PostgreSQL", name=_name)

from bamboo_sessions.storages.sql.storage import SqlStorage  # noqa: E402 - when it is sure that the extra is there
from bamboo_sessions.storages.sql.upgrading import upgrade  # noqa: E402 - when it is sure that the extra is there

__all__ = ["SqlStorage", "upgrade"]
