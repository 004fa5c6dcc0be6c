"""An engine that keeps what it is given, shared by everybody in this process who names the same database.

Two hundred repositories in eight processes must not open more connections than a server allows, so there is one pool for
a URL, it is small, and whoever waits for a connection waits for a limited time. A child of a fork starts with an empty
pool: a connection that both used would mix up their conversations.

Foreign errors end here. What breaks a connection is told from what a statement was refused for, because only the latter
is sure not to have been applied.
"""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast
from weakref import WeakSet

import attrs
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool

from bamboo_sessions.clock import real_monotonic
from bamboo_sessions.errors import InvalidValue, SessionError, StorageUnavailable
from bamboo_sessions.storages.sql.settings import SETTINGS, Durability, Settings
from bamboo_sessions.storages.sql.statements import Cursor, statements_for
from bamboo_sessions.storages.sql.using import Alone, Change, Own, Use

POOL_SIZE: Final = 8
"""Connections a process and database, at most: eight processes stay below the hundred of a PostgreSQL as it comes."""
WAIT: Final = 30.0
"""Seconds to wait for a connection, for another writer, for an answer."""
_SINCE: Final = "bamboo_sessions since"


class ConnectionLost(StorageUnavailable):
    """The connection broke, or gave no answer in time; what was under way may have been carried out."""


class ReadOnlyServer(StorageUnavailable):
    """The server takes no changes: a replica that nobody promoted, or one that was the primary. Nothing was applied."""


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
        self.own = Own()
        _alive.add(self)

    def after_fork(self) -> None:
        """In the child: leave the parent its connections, and never close them either."""
        _inherited.extend([self.engine.pool, self._warm])
        self._warm = deque()
        self.engine.dispose(close=False)
        self._writing, self.own = threading.Lock(), Own()

    def cursor(self, action: str, session_id: str | None = None) -> Use:
        """`with` a cursor: see `Use`."""
        return Use(self, action, session_id)

    def writing(self, action: str, session_id: str) -> Change:
        """`with` a cursor in a transaction: see `Change`."""
        return Change(self, action, session_id)

    def alone(self, session_id: str, hold: Callable[[Cursor], object]) -> Alone:
        """`with` a session that nobody else commits to; `hold` sees to that, in a transaction: see `Alone`."""
        return Alone(self, session_id, hold)

    # -- for those three

    def take(self, action: str, session_id: str | None) -> Line:
        """A connection of one's own; raises `StorageUnavailable`."""
        try:
            return self._line()
        except (SQLAlchemyError, self._error) as error:
            raise self._unavailable(action, session_id, error) from error

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

    def keep(self, line: Line) -> None:
        """For the next one, with its cursor: to give it back to the pool and to ask for it again costs more than a read.

        Not where the pool is nearly used up: somebody may be waiting there. (Who came to wait in the instant between is served
        by whoever gives back next.)
        """
        pool = self.engine.pool
        if self._owned and not self._warm and isinstance(pool, QueuePool) and pool.checkedout() < pool.size():
            self._warm.append(line)
        else:
            self.give_back(line, fit=True)

    def give_back(self, line: Line, *, fit: bool) -> None:
        """To the pool, which rolls back what is open; one that is not fit for that is closed."""
        with suppress(self._error):
            if not fit:
                line.connection.invalidate()
            elif not self._owned and line.connection.dbapi_connection is not None:
                line.connection.rollback()  # in a transaction the level cannot be changed
                self.engine.dialect.reset_isolation_level(line.connection.dbapi_connection)
        line.connection.close()

    def is_foreign(self, error: BaseException) -> bool:
        """Whether it is the driver's."""
        return isinstance(error, self._error)

    def is_fit_after(self, error: BaseException, line: Line) -> bool:
        """Whether the connection can be used again. What is neither the driver's nor ours (an interrupt, no memory) may have
        left half an answer on it."""
        return isinstance(error, SessionError) or (self.is_foreign(error) and not self.is_lost(error, line))

    def is_lost(self, error: BaseException, line: Line | None) -> bool:
        """Whether it ended the connection; without one: whether it may have."""
        return self.settings.is_lost(error, None if line is None else line.connection.dbapi_connection)

    def translate(self, error: BaseException, action: str, session_id: str | None, *, lost: bool) -> None:
        """Raise what an error of the driver's means."""
        if not self.is_foreign(error):
            return
        if lost:
            raise ConnectionLost(action, session_id=session_id, reason=_said(error)) from error
        if self.settings.is_read_only(error):
            self.start_anew()  # whoever is asked next may be sent to the primary
            reason = f"the server takes no changes, it is a replica ({_said(error)})"
            raise ReadOnlyServer(action, session_id=session_id, path=self.where, reason=reason) from error
        raise self._unavailable(action, session_id, error) from error

    def of_commit(self, error: BaseException, action: str, session_id: str | None) -> BaseException:
        """An error of COMMIT itself, which may have been carried out for all that."""
        if not self.is_foreign(error) or self.is_lost(error, None):
            return error
        undecided = StorageUnavailable(action, session_id=session_id, outcome="unknown", reason=_said(error))
        undecided.__cause__ = error
        return undecided

    def queue(self, action: str, session_id: str | None) -> None:
        """Wait for the only writer's place, where the database has just one."""
        if self.settings.one_writer and not self._writing.acquire(timeout=WAIT):
            raise StorageUnavailable(action, session_id=session_id, reason=f"another thread writes since {WAIT:g} s")

    def leave(self) -> None:
        """Make room for the next writer."""
        if self.settings.one_writer:
            self._writing.release()

    # -- what becomes of the pool

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
                self.give_back(self._warm.pop(), fit=False)

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


_SEVERAL: Final = re.compile(r"(postgres[^:/?#]*://(?:[^@/?#]*@)?)([^@/?#]*,[^@/?#]*)(/[^?#]*)?(?:\?(.*))?", re.DOTALL)


def _plain(where: str) -> str:
    """Several hosts stand in libpq's URLs side by side, and in SQLAlchemy's behind the question mark."""
    if found := _SEVERAL.fullmatch(where):
        begin, hosts, rest, query = found.groups()
        said = "&".join([*(f"host={host}" for host in hosts.split(",")), *([query] if query else [])])
        where = f"{begin}{rest or '/'}?{said}"
    return "postgresql" + where[len("postgres"):] if where.startswith("postgres://") else where


def read_url(where: str | URL) -> URL:
    """The URL with the driver that is used here; raises `InvalidValue` for a database that is not tried."""
    try:
        url = make_url(_plain(where) if isinstance(where, str) else where)
    except (ArgumentError, ValueError) as error:
        raise InvalidValue("storage URL", "not one that SQLAlchemy understands") from error  # which may hold a password
    name = SETTINGS.get(url.drivername)
    if name is None:
        raise InvalidValue("storage URL", _refusal(url.drivername))
    return name.checked(url.set(drivername=name.driver))


def _refusal(driver: str) -> str:
    if driver.partition("+")[0] in ("mariadb", "mysql"):
        return (f"{driver}:// cannot keep sessions: they would be cut off at the server's max_allowed_packet (see the how-to about "
                "databases); use postgresql://… or sqlite:///…")
    return f"{driver}:// is not tried; there are {', '.join(sorted(SETTINGS))}"


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
        raise InvalidValue("engine", _refusal(engine.url.drivername))
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
