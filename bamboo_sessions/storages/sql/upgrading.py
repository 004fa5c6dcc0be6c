"""Making the tables, and bringing older ones up to date.

An open store's version is one number in one table, read before anything else. Alembic runs only where that number is not
the one that this code was written for, under a lock, and looks at the number again once it has it: of two processes that
start at once, one makes the tables and the other finds them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from sqlalchemy import URL, Connection, Engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from bamboo_sessions.errors import StorageUnavailable, UnsupportedFormat
from bamboo_sessions.storages.sql.database import Database, acquire, release
from bamboo_sessions.storages.sql.failures import said
from bamboo_sessions.storages.sql.schema import VERSION, VERSION_TABLE

_LOCK: Final = 0x62616D626F6F  # "bamboo": among advisory locks, which one database's programs share
_running = threading.Lock()  # guards what Alembic keeps in a module while it runs: one database of this process at a time
_ADVICE: Final = "call bamboo_sessions.storages.sql.upgrade(url), or open it with create=True"
_FOLDER: Final = Path(__file__).parent / "migrations"


def upgrade(url_or_engine: str | URL | Engine) -> int:
    """Make the tables of a database, or bring those of an earlier version up to date; gives their version.

    Safe while others do the same. Sessions stay what they are, and a store that is up to date already is only looked at.
    Raises `UnsupportedFormat` for tables of a newer version, `StorageUnavailable`.
    """
    database = acquire(url_or_engine)
    try:
        prepare(database, create=True)
    finally:
        release(database)
    return VERSION


def prepare(database: Database, *, create: bool) -> None:
    """See that the tables are those of this version; make them so where `create`."""
    if create:
        database.settings.before_tables(database.engine.url)
    elif not database.settings.is_there(database.engine.url):
        raise StorageUnavailable("open", path=database.where, reason=f"the database is not there; {_ADVICE}")
    found = _found(database)
    if found == VERSION:
        return
    if not create:
        has = "has no tables of this library" if found is None else f"has tables of version {found}, {VERSION} is needed"
        raise StorageUnavailable("open", path=database.where, reason=f"the database {has}; {_ADVICE}")
    try:
        with _alone(database) as connection:
            found = _version(connection, database)
            if found != VERSION:
                _run(connection)
    except SQLAlchemyError as error:
        raise StorageUnavailable("upgrade", path=database.where, reason=str(error)) from error


def _found(database: Database) -> int | None:
    try:
        with database.connected("open") as connection:
            return _version(connection, database)
    except SQLAlchemyError as error:
        raise StorageUnavailable("open", path=database.where, reason=said(error)) from error


def _version(connection: Connection, database: Database) -> int | None:
    """The number that is there; raises `UnsupportedFormat` for one that this code does not know."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - a constant
    if found is None:
        return None
    if not str(found).isdigit() or int(found) > VERSION:
        raise UnsupportedFormat(database.where, found, VERSION)
    return int(found)


@contextmanager
def _alone(database: Database) -> Iterator[Connection]:
    """A transaction that nobody else has here at the same time, on a connection of its own."""
    with database.connected("upgrade") as connection:
        postgres = database.engine.dialect.name == "postgresql"
        connection.exec_driver_sql("BEGIN" if postgres else "BEGIN IMMEDIATE")
        try:
            if postgres:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            yield connection
        except BaseException:
            with suppress(SQLAlchemyError):  # where the connection is gone, so is the transaction
                connection.exec_driver_sql("ROLLBACK")
            raise
        connection.exec_driver_sql("COMMIT")


def _run(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - a third of a second, for what is needed once in a store's life
    from alembic.config import Config  # noqa: PLC0415 - see above

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    with _running:
        command.upgrade(config, "head")
