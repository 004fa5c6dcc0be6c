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
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, PoolProxiedConnection, QueuePool

from bamboo_sessions.clock import real_monotonic
from bamboo_sessions.errors import InvalidValue, SessionError, StorageUnavailable
from bamboo_sessions.storages.sql.failures import ConnectionLost, ReadOnlyServer, said
from bamboo_sessions.storages.sql.settings import SETTINGS, Durability, Loan, Settings
from bamboo_sessions.storages.sql.statements import Cursor, statements_for
from bamboo_sessions.storages.sql.turns import Turn, Turns
from bamboo_sessions.storages.sql.urls import read_url, refusal, shown
from bamboo_sessions.storages.sql.using import Alone, Change, Own, Use

POOL_SIZE: Final = 8
"""Connections a process and database, at most: eight processes stay below the hundred of a PostgreSQL as it comes."""
WAIT: Final = 30.0
"""Seconds to wait for a connection, for another writer, for an answer."""
_SINCE: Final = "bamboo_sessions since"


class Lent:
    """Keeps what belongs to somebody else from going back with what was set on it here.

    An interrupt may drop a connection instead of giving it back. Its pool would take it, and then its owner's rollback, on
    a connection in autocommit, would be none.
    """

    __slots__ = ("connection", "loan", "mode")

    def __init__(self, connection: PoolProxiedConnection) -> None:
        self.connection, self.loan = connection, Loan()
        self.mode: object = None

    def __del__(self) -> None:
        connection: PoolProxiedConnection | None = getattr(self, "connection", None)  # it may have been dropped before it was made
        if connection is not None and connection.dbapi_connection is not None:
            connection.invalidate()


@attrs.frozen(slots=True)
class Line:
    """A connection that was taken from the pool, and a cursor on it."""

    connection: PoolProxiedConnection
    cursor: Cursor
    lent: Lent | None = None
    """Where the pool is somebody else's."""


class Database:
    """One engine, its statements, and what its driver's errors mean."""

    def __init__(self, engine: Engine, settings: Settings, *, owned: bool) -> None:
        self.engine, self.settings, self._owned = engine, settings, owned
        self.where = shown(engine.url)
        self.statements = statements_for(engine.dialect)
        self.users = 0
        self._error: type[BaseException] = engine.dialect.loaded_dbapi.Error
        self._trusted_since = 0.0
        self._warm: deque[Line] = deque()  # at most one; its operations are atomic
        self._turns = Turns()  # of the one writer of SQLite: threads of one process queue here, not by polling
        self.own = Own()
        _alive.add(self)

    def after_fork(self) -> None:
        """In the child: leave the parent its connections, and never close them either."""
        _inherited.extend([self.engine.pool, self._warm])
        self._warm = deque()
        self.engine.dispose(close=False)
        self._turns, self.own = Turns(), Own()

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
        if not self._owned:
            return self._borrowed()
        connection = self._trusted()
        return Line(connection, cast("Cursor", connection.cursor()))

    def _trusted(self) -> PoolProxiedConnection:
        """From the pool. What was made before others broke is closed on the way."""
        connection = self._raw()
        while connection.info.get(_SINCE, self._trusted_since) < self._trusted_since:
            connection.invalidate()
            connection.close()
            connection = self._raw()
        return connection

    def _raw(self) -> PoolProxiedConnection:
        try:
            return self.engine.raw_connection()
        except TypeError as error:  # it asks the server who it is, and where the client's encoding is SQL_ASCII gets bytes
            raise InvalidValue("engine", f"SQLAlchemy itself cannot connect with what it was given: {error}") from error

    def _borrowed(self) -> Line:
        """From somebody's own pool. What broke in there while nobody used it is closed, and the next one taken: as long as
        it is being prepared, nothing that counts was sent over it."""
        pool = self.engine.pool
        idle = pool.checkedin() if isinstance(pool, QueuePool) else 0
        while True:
            lent = Lent(self._trusted())
            try:
                self._prepare(lent)
                return Line(lent.connection, cast("Cursor", lent.connection.cursor()), lent)
            except InvalidValue:
                lent.connection.close()
                raise
            except self._error as error:
                lost = self.settings.is_lost(error, lent.connection.dbapi_connection)
                lent.connection.invalidate()
                if not lost or idle == 0:
                    raise
            idle -= 1

    def _prepare(self, lent: Lent) -> None:
        """Each storage for itself, and only while it uses the connection: neither the engine's owner nor a storage of another
        durability beside this one is to get what was set here. What that is, is found out once for a connection."""
        connection, info = cast("Any", lent.connection.dbapi_connection), lent.connection.info
        lent.mode = self.settings.lend(connection)
        key = f"bamboo_sessions {self.settings.durability}"
        if key not in info:
            info.setdefault(_SINCE, real_monotonic())
            info[key] = self.settings.settle(connection, self.where)
        lent.loan = info[key]
        if lent.loan.taken:
            connection.execute(lent.loan.taken)

    def _put_back(self, lent: Lent) -> None:
        connection = cast("Any", lent.connection.dbapi_connection)
        connection.rollback()  # in a transaction nothing of this can be changed
        if lent.loan.returned:
            connection.execute(lent.loan.returned)
        self.settings.take_back(connection, lent.mode)

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
        try:
            if fit and line.lent is not None:
                self._put_back(line.lent)
        except self._error:
            fit = False
        if not fit:
            self._end(line)
        line.connection.close()

    def _end(self, line: Line) -> None:
        """Close it, and its statement first: a traceback may refer to the cursor for long, and a connection of SQLite's that
        is closed while a statement of its lives on keeps its transaction, and with it everybody's lock."""
        with suppress(self._error):
            line.cursor.close()
        with suppress(self._error):
            line.connection.invalidate()

    @contextmanager
    def connected(self, action: str) -> Iterator[Connection]:
        """A connection of SQLAlchemy's, in autocommit: for what is done once in a store's life."""
        line = self.take(action, None)
        try:
            connection = Connection(self.engine, line.connection)
            yield connection
            connection.rollback()  # of its own idea of a transaction
        except BaseException as error:
            self.give_back(line, fit=isinstance(error, SessionError))
            raise
        self.give_back(line, fit=True)

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
            raise ConnectionLost(action, session_id=session_id, reason=said(error)) from error
        if self.settings.is_read_only(error):
            self.start_anew()  # whoever is asked next may be sent to the primary
            reason = f"the server takes no changes, it is a replica ({said(error)})"
            raise ReadOnlyServer(action, session_id=session_id, path=self.where, reason=reason) from error
        raise self._unavailable(action, session_id, error) from error

    def of_commit(self, error: BaseException, action: str, session_id: str | None) -> BaseException:
        """An error of COMMIT itself, which may have been carried out for all that."""
        if not self.is_foreign(error) or self.is_lost(error, None):
            return error
        undecided = StorageUnavailable(action, session_id=session_id, outcome="unknown", reason=said(error))
        undecided.__cause__ = error
        return undecided

    def queue(self, action: str, session_id: str | None) -> Turn | None:
        """Wait for the only writer's turn, where the database has just one: it is over when nobody refers to it any more."""
        if not self.settings.one_writer:
            return None
        turn = self._turns.take(WAIT)
        if turn is None:
            raise StorageUnavailable(action, session_id=session_id, reason=f"another thread writes since {WAIT:g} s")
        return turn

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
        return StorageUnavailable(action, session_id=session_id, path=self.where, reason=said(error))


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
    except (TypeError, ValueError) as error:  # what stands behind the question mark is converted for the driver
        raise InvalidValue("storage URL", f"what it says behind the question mark cannot be: {error}") from error
    _settle_each(engine, settings)
    return Database(engine, settings, owned=True)


def _settle_each(engine: Engine, settings: Settings) -> None:
    """Once for each connection of an engine that nobody else has."""
    where = shown(engine.url)

    @event.listens_for(engine, "connect")
    def settle(connection: Any, record: ConnectionPoolEntry) -> None:
        record.info[_SINCE] = real_monotonic()
        engine.dialect.set_isolation_level(connection, "AUTOCOMMIT")  # what is set in a transaction goes with it
        loan = settings.settle(connection, where)
        if loan.taken:
            connection.execute(loan.taken)

    connect = settings.connect
    if connect is not None:
        event.listen(engine, "do_connect", lambda _dialect, _record, args, options: connect(*args, **options))


def _around(engine: Engine, durability: Durability) -> Database:
    """Somebody's own engine: its pool, its size, its credentials. Nothing is left on it, and nothing in it is closed."""
    driver = f"{engine.dialect.name}+{engine.dialect.driver}"  # "postgresql://" alone may be another one
    settings_class = SETTINGS.get(driver)
    if settings_class is None:
        raise InvalidValue("engine", refusal(driver))
    if engine.dialect.is_async:
        raise InvalidValue("engine", "it is an asynchronous one; create_engine makes one for threads")
    if not isinstance(engine.pool, QueuePool | NullPool):
        raise InvalidValue("engine", f"{type(engine.pool).__name__} may give one connection to two at once, who would commit what "
                           "the other one has not finished; QueuePool and NullPool do not, and SQLite needs a file for them")
    database = Database(engine, settings_class(durability), owned=False)
    database.users = 1
    return database
