"""An engine that keeps what it is given, shared by everybody in this process who names the same database.

Two hundred repositories in eight processes must not open more connections than a server allows, so there is one pool for
a URL, it is small, and whoever waits for a connection waits for a limited time. A child of a fork starts with an empty
pool: a connection that both used would mix up their conversations.

Foreign errors end here. What breaks a connection is told from what a statement was refused for, because only the latter
is sure not to have been applied.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, cast
from weakref import WeakSet

import attrs
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool

from bamboo_sessions.clock import real_monotonic
from bamboo_sessions.errors import InvalidValue, StorageError, StorageUnavailable
from bamboo_sessions.storages.sql.settings import SETTINGS, Durability, Settings
from bamboo_sessions.storages.sql.statements import Cursor, statements_for

POOL_SIZE: Final = 8
"""Connections a process and database, at most: eight processes stay below the hundred of a PostgreSQL as it comes."""
WAIT: Final = 30.0
"""Seconds to wait for a connection, for another writer, for an answer."""
_SINCE: Final = "bamboo_sessions since"


class ConnectionLost(StorageUnavailable):
    """The connection broke, or gave no answer in time; what was under way may have been carried out."""


@attrs.frozen(slots=True)
class Line:
    """A connection that was taken from the pool, and a cursor on it."""

    connection: PoolProxiedConnection
    cursor: Cursor


class Database:
    """One engine, its statements, and what its driver's errors mean."""

    def __init__(self, engine: Engine, settings: Settings, *, owned: bool) -> None:
        self.engine, self.settings, self._owned = engine, settings, owned
        self.where = engine.url.render_as_string(hide_password=True)
        self.statements = statements_for(engine.dialect)
        self.users = 0
        self._error: type[BaseException] = engine.dialect.loaded_dbapi.Error
        self._trusted_since = 0.0
        self._warm: deque[Line] = deque()  # at most one; its operations are atomic
        self._writing = threading.Lock()  # guards the one writer of SQLite: threads of one process queue here, not by polling
        _alive.add(self)

    def after_fork(self) -> None:
        """In the child: leave the parent its connections, and never close them either."""
        _inherited.extend([self.engine.pool, self._warm])
        self._warm = deque()
        self.engine.dispose(close=False)
        self._writing = threading.Lock()

    @contextmanager
    def cursor(self, action: str, session_id: str | None = None) -> Iterator[Cursor]:
        """A driver's cursor in autocommit; raises `StorageUnavailable`, or `ConnectionLost` once something was sent."""
        try:
            line = self._line()
        except (SQLAlchemyError, self._error) as error:
            raise self._unavailable(action, session_id, error) from error
        try:
            yield line.cursor
        except BaseException as error:
            self._give_back(line, fit=isinstance(error, StorageError) or
                            (isinstance(error, self._error) and not self._is_lost(error, line.connection)))
            if not isinstance(error, self._error):
                raise
            if self._is_lost(error, line.connection):
                raise ConnectionLost(action, session_id=session_id, reason=_said(error)) from error
            raise self._unavailable(action, session_id, error) from error
        self._keep(line)

    def _line(self) -> Line:
        with suppress(IndexError):
            return self._warm.pop()
        connection = self.engine.raw_connection()
        while connection.info.get(_SINCE, self._trusted_since) < self._trusted_since:
            connection.invalidate()
            connection.close()
            connection = self.engine.raw_connection()
        if not self._owned and connection.dbapi_connection is not None:
            self.engine.dialect.set_isolation_level(connection.dbapi_connection, "AUTOCOMMIT")
        return Line(connection, cast("Cursor", connection.cursor()))

    def _keep(self, line: Line) -> None:
        """For the next one, with its cursor: to give it back to the pool and to ask for it again costs more than a read.

        Not where the pool is nearly used up: somebody may be waiting there. (Who came to wait in the instant between is served
        by whoever gives back next.)
        """
        pool = self.engine.pool
        if self._owned and isinstance(pool, QueuePool) and not self._warm and pool.checkedout() < pool.size():
            self._warm.append(line)
        else:
            self._give_back(line, fit=True)

    def _give_back(self, line: Line, *, fit: bool) -> None:
        """To the pool, which rolls back what is open. What came through otherwise (an interrupt, no memory) may have left
        half an answer on the line: such a connection is closed."""
        with suppress(self._error):
            if not fit:
                line.connection.invalidate()
            elif not self._owned and line.connection.dbapi_connection is not None:
                line.connection.rollback()  # in a transaction the level cannot be changed
                self.engine.dialect.reset_isolation_level(line.connection.dbapi_connection)
        line.connection.close()

    @contextmanager
    def writing(self, action: str, session_id: str) -> Iterator[Cursor]:
        """A transaction. An error in the body undoes it; one of its commit leaves the outcome unknown."""
        with self._turn(action, session_id), self.cursor(action, session_id) as cursor:
            cursor.execute(self.statements.begin_writing)
            yield cursor
            try:
                cursor.execute("COMMIT")
            except self._error as error:
                if self._is_lost(error, None):
                    raise
                raise StorageUnavailable(action, session_id=session_id, outcome="unknown", reason=_said(error)) from error

    @contextmanager
    def _turn(self, action: str, session_id: str) -> Iterator[None]:
        if not self.settings.one_writer:
            yield
            return
        if not self._writing.acquire(timeout=WAIT):
            raise StorageUnavailable(action, session_id=session_id, reason=f"another thread writes since {WAIT:g} s")
        try:
            yield
        finally:
            self._writing.release()

    def start_anew(self) -> None:
        """Use no connection that was made before: where one broke, its neighbours did, most likely.

        They are closed one by one as they come out of the pool. A new pool instead would leave those that are in use to the
        old one, which nobody ever closes.
        """
        self._trusted_since = real_monotonic()
        self._cool()

    def close(self) -> None:
        """Give back what is held; somebody's own pool stays open."""
        self._cool()
        if self._owned:
            self.engine.dispose()

    def _cool(self) -> None:
        with suppress(IndexError):
            while True:
                self._give_back(self._warm.pop(), fit=False)

    def _is_lost(self, error: BaseException, connection: PoolProxiedConnection | None) -> bool:
        return self.settings.is_lost(error, None if connection is None else connection.dbapi_connection)

    def _unavailable(self, action: str, session_id: str | None, error: BaseException) -> StorageUnavailable:
        return StorageUnavailable(action, session_id=session_id, path=self.where, reason=_said(error))


def _said(error: BaseException) -> str:
    """The driver's own words; SQLAlchemy adds links and statements to them."""
    said = getattr(error, "orig", None) or error
    return f"{type(said).__name__}: {str(said).strip()}"


# -- one for a URL -------------------------------------------------------------------------------------------------

_alive: WeakSet[Database] = WeakSet()
_inherited: list[object] = []  # what a fork brought along: kept, so that nothing of it is ever closed here
_shared: dict[tuple[str, int, str], Database] = {}
_guard = threading.Lock()  # guards _shared, and the counts of users


def _after_fork() -> None:
    global _guard  # noqa: PLW0603 - somebody may have held it
    _guard = threading.Lock()
    for database in list(_alive):
        database.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def read_url(where: str | URL) -> URL:
    """The URL with the driver that is used here; raises `InvalidValue` for a database that is not tried."""
    text = "postgresql" + where[len("postgres"):] if isinstance(where, str) and where.startswith("postgres://") else where
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise InvalidValue("storage URL", "not one that SQLAlchemy understands") from error  # which may hold a password
    name = SETTINGS.get(url.drivername)
    if name is None:
        raise InvalidValue("storage URL", f"{url.drivername}:// is not tried; there are {', '.join(sorted(SETTINGS))}")
    return name.checked(url.set(drivername=name.driver))


def acquire(where: str | URL | Engine, pool_size: int = POOL_SIZE, durability: Durability = "full") -> Database:
    """The database behind a URL, shared, or around somebody's engine; `release` it once."""
    if isinstance(where, Engine):
        return _around(where, durability)
    url = read_url(where)
    with _guard:
        key = url.render_as_string(hide_password=False), pool_size, durability
        database = _shared.get(key)
        if database is None:
            database = _shared[key] = _opened(url, pool_size, durability)
        database.users += 1
        return database


def release(database: Database) -> None:
    """One user less; the last one closes the pool."""
    with _guard:
        database.users -= 1
        if database.users > 0:
            return
        for key in [key for key, known in _shared.items() if known is database]:
            del _shared[key]
    database.close()


def _opened(url: URL, pool_size: int, durability: Durability) -> Database:
    settings = SETTINGS[url.drivername](durability)
    try:
        engine = create_engine(url, isolation_level="AUTOCOMMIT", pool_size=pool_size, max_overflow=0, pool_timeout=WAIT,
                               pool_use_lifo=True, connect_args=settings.arguments(url, WAIT))
    except ImportError as error:
        raise ImportError(f"{url.drivername} needs {error.name}: {settings.install}", name=error.name) from error
    _prepare(engine, settings)
    return Database(engine, settings, owned=True)


def _around(engine: Engine, durability: Durability) -> Database:
    """Somebody's own engine: its pool, its size, its credentials. The settings that durability needs are added to its
    connections; autocommit is theirs only while they are in use here."""
    settings_class = SETTINGS.get(engine.url.drivername)
    if settings_class is None:
        raise InvalidValue("engine", f"{engine.url.drivername} is not tried; there are {', '.join(sorted(SETTINGS))}")
    settings = settings_class(durability)
    _prepare(engine, settings)
    engine.dispose()  # connections that were made before know nothing of this
    database = Database(engine, settings, owned=False)
    database.users = 1
    return database


def _prepare(engine: Engine, settings: Settings) -> None:
    where = engine.url.render_as_string(hide_password=True)

    @event.listens_for(engine, "connect")
    def settle(connection: Any, record: ConnectionPoolEntry) -> None:
        record.info[_SINCE] = real_monotonic()
        engine.dialect.set_isolation_level(connection, "AUTOCOMMIT")  # what is set in a transaction goes with it
        settings.settle(connection, where)
        engine.dialect.reset_isolation_level(connection)

    connect: Callable[..., Any] | None = settings.connect
    if connect is not None:
        event.listen(engine, "do_connect", lambda _dialect, _record, args, options: connect(*args, **options))
