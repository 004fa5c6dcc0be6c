"""What each database has to be told, or asked, before it keeps what it acknowledges.

SQLite as it comes loses the last commits in a power cut once it writes ahead; PostgreSQL can be set so that it does. The
former is set on every connection, the latter is looked at on every connection, and a warning says what it cannot keep.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import structlog
from sqlalchemy import URL

from bamboo_sessions._frozen import frozen
from bamboo_sessions.errors import InvalidValue

Durability = Literal["full", "process"]
_log = structlog.get_logger("bamboo_sessions")


@frozen(slots=True)
class Loan:
    """Statements: what a connection is told while it is used here, and what it is told afterwards if it is somebody else's."""

    taken: str = ""
    returned: str = ""


class Settings:
    """Of one kind of database."""

    name: ClassVar[str]
    driver: ClassVar[str]
    install: ClassVar[str]
    one_writer: ClassVar[bool] = False
    """Whether the whole database has room for one writer at a time."""
    makes_tables: ClassVar[bool] = False
    """Whether tables are made where it is not said."""

    def __init__(self, durability: Durability = "full") -> None:
        self.durability = durability

    @property
    def connect(self) -> Callable[..., Any] | None:
        """How to connect, where not as the driver does."""
        return None

    @classmethod
    def checked(cls, url: URL) -> URL:
        """`url`, or an error that says why it cannot be one."""
        return url

    def arguments(self, url: URL, wait: float) -> dict[str, Any]:
        """What the driver is told on connecting, where the URL does not say otherwise."""
        return {}

    def settle(self, connection: Any, where: str) -> Loan:
        """Called once for each connection of the driver, in autocommit; raises `InvalidValue` for a database that cannot be used."""
        return Loan()

    def lend(self, connection: Any) -> object:
        """Put a connection of somebody else's in autocommit; gives what `take_back` needs. Called before each use of it."""
        raise NotImplementedError

    def take_back(self, connection: Any, mode: Any) -> None:
        """The reverse, exactly: what its owner chose in a listener, his engine does not know."""

    def is_lost(self, error: BaseException, connection: Any) -> bool:
        """Whether this error ended the connection, so that nobody knows what became of the last statement."""
        return False

    def is_read_only(self, error: BaseException) -> bool:
        """Whether this error says that the server takes no changes, so that the place to go to is another one."""
        return False

    def is_too_long(self, error: BaseException) -> bool:
        """Whether this error says that one value of an answer would be longer than any may be."""
        return False

    def before_tables(self, url: URL) -> None:
        """Called before tables are made where there is no database yet."""

    def is_there(self, url: URL) -> bool:
        """Whether connecting would not make the database, as far as can be told without connecting."""
        return True


class Sqlite(Settings):
    """One file, written ahead and flushed at every commit."""

    name = "sqlite"
    driver = "sqlite+pysqlite"
    install = "pip install 'bamboo-sessions[sql]'"
    one_writer = True
    makes_tables = True

    @classmethod
    def checked(cls, url: URL) -> URL:
        """A file it has to be: a database in memory is another one for each connection."""
        if _file(url) is None or "uri" in url.query:
            raise InvalidValue("storage URL", _NO_FILE)
        if "\0" in str(url.database):
            raise InvalidValue("storage URL", "no file has NUL in its name")
        return url.set(database=str(Path(str(url.database)).absolute()))  # connections are made later too, wherever the process is by then

    def arguments(self, url: URL, wait: float) -> dict[str, Any]:
        """How long SQLite itself waits for another process's commit."""
        return {} if "timeout" in url.query else {"timeout": wait}

    @property
    def connect(self) -> Callable[..., Any]:
        """To a file that is there: one that somebody took away is not to come back empty, and readable for everybody."""
        return _to_existing

    def lend(self, connection: Any) -> object:
        """The driver begins no transactions of its own then."""
        mode, connection.isolation_level = connection.isolation_level, None
        return mode

    def take_back(self, connection: Any, mode: Any) -> None:
        """As it was."""
        connection.isolation_level = mode

    def settle(self, connection: Any, where: str) -> Loan:
        """`synchronous` first: changing the mode is a write already."""
        found, encoding = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "encoding"))
        if not connection.execute("PRAGMA database_list").fetchone()[2]:
            raise InvalidValue("engine", _NO_FILE)
        if getattr(connection, "autocommit", _LEGACY) != _LEGACY:  # from Python 3.12 on: its rollback does nothing, or begins anew
            raise InvalidValue("engine", "it says autocommit to sqlite3, and transactions would not be those that are begun here")
        if encoding != "UTF-8":  # messages are joined and taken apart as bytes
            raise InvalidValue("storage URL", f"the database's encoding is {encoding}; UTF-8 is needed")
        level = "FULL" if self.durability == "full" else "NORMAL"
        connection.execute(f"PRAGMA synchronous={level}")
        connection.execute("PRAGMA fullfsync=1")  # macOS: a sync that reaches the disk; elsewhere it says nothing
        connection.execute("PRAGMA checkpoint_fullfsync=1")
        mode = _write_ahead(connection)
        connection.execute(f"PRAGMA synchronous={found}")
        if mode in ("memory", "off"):
            raise InvalidValue("engine", f"its journal is {mode}: a crash in the middle of a commit would leave half of it")
        if mode != "wal":
            # Not on every file system. Then EXTRA, because FULL does not sync the folder that the journal leaves.
            level = "EXTRA"
            _log.warning("SQLite cannot write ahead here: readers and writers wait for each other", store=where)
        return Loan(f"PRAGMA synchronous={level}", f"PRAGMA synchronous={found}")

    def is_too_long(self, error: BaseException) -> bool:
        """A gigabyte, where nobody chose less."""
        return getattr(error, "sqlite_errorname", None) == "SQLITE_TOOBIG"

    def before_tables(self, url: URL) -> None:
        """Only the owner may read what people said; SQLite gives its other files the mode of this one."""
        path = _file(url)
        if path is None:  # an engine that connects by a function knows where
            return
        with suppress(OSError):  # it is there, or SQLite will say why it cannot be
            os.close(os.open(path.resolve(), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))

    def is_there(self, url: URL) -> bool:
        """SQLite makes the file by connecting."""
        path = _file(url)
        return path is None or path.exists()


_LEGACY: Final = getattr(sqlite3, "LEGACY_TRANSACTION_CONTROL", -1)
_NO_FILE: Final = "SQLite needs the path of a file, sqlite:///sessions.db; memory:// is for memory"


def _file(url: URL) -> Path | None:
    """None for a database in memory, which is another one for each connection, and for what only SQLite can read."""
    name = url.database
    return None if not name or name == ":memory:" or name.startswith("file:") else Path(name)


def _to_existing(path: str, **options: Any) -> sqlite3.Connection:
    """A name that is no URI cannot say that it must be there."""
    connection: sqlite3.Connection = sqlite3.connect(f"{Path(path).as_uri()}?mode=rw", uri=True, **options)
    return connection


def _write_ahead(connection: Any) -> str:
    """Two processes may make one new file at once, and SQLite's own waiting does not cover the change of mode."""
    for attempt in range(50):
        try:
            return str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])
        except Exception as error:
            if "locked" not in str(error) or attempt == 49:
                raise
            time.sleep(0.02)
    raise AssertionError("unreachable")


_LIMITS: Final = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
_ASKED: Final = ("synchronous_commit", "fsync", "full_page_writes", "server_encoding", "default_transaction_isolation")
_UTF8: Final = ("client_encoding", "UTF8")


class Postgres(Settings):
    """A server, asked whether it keeps what it says."""

    name = "postgresql"
    driver = "postgresql+psycopg"
    install = "pip install 'bamboo-sessions[postgres]'"

    def __init__(self, durability: Durability = "full") -> None:
        super().__init__(durability)
        self._told: set[str] = set()
        self._telling = threading.Lock()  # guards it: each warning once a process and database

    def arguments(self, url: URL, wait: float) -> dict[str, Any]:
        """Time limits on the server's side too, so that what nobody waits for any more ends there as well."""
        milliseconds = int(wait * 1000)
        limits = " ".join(f"-c {name}={milliseconds}" for name in _LIMITS)
        told = {"connect_timeout": 10, "client_encoding": "utf8", "application_name": "bamboo_sessions", "keepalives_idle": 30,
                "keepalives_interval": 10, "keepalives_count": 3}
        own = url.query.get("options", "")  # behind ours, so that they have the last word
        options = " ".join([limits, *([own] if isinstance(own, str) else own)])
        return {**{name: value for name, value in told.items() if name not in url.query}, "options": options}

    @property
    def connect(self) -> Callable[..., Any]:
        """Connections that do not wait for ever."""
        from bamboo_sessions.storages.sql.patience import PatientConnection  # noqa: PLC0415 - psycopg is an extra

        return PatientConnection.connect

    def lend(self, connection: Any) -> object:
        """With the patience of the connections that are made here."""
        from bamboo_sessions.storages.sql.patience import lend_patience  # noqa: PLC0415 - psycopg is an extra

        mode, connection.autocommit = connection.autocommit, True
        lend_patience(connection)
        return mode

    def take_back(self, connection: Any, mode: Any) -> None:
        """Whoever owns it may wait as long as he likes."""
        from bamboo_sessions.storages.sql.patience import take_patience_back  # noqa: PLC0415 - psycopg is an extra

        take_patience_back(connection)
        connection.autocommit = mode

    def settle(self, connection: Any, where: str) -> Loan:
        """One question a connection."""
        client = connection.info.parameter_status("client_encoding")  # as the server told on connecting
        if client != "UTF8":  # in another one not every word can be said; what SQL_ASCII brings are bytes
            connection.execute(_set([_UTF8]))
        asked = ", ".join(f"current_setting('{name}')" for name in _ASKED)
        found = dict(zip(_ASKED, connection.execute(f"SELECT {asked}").fetchone(), strict=True))
        if client != "UTF8":
            found["client_encoding"] = client
            connection.execute(_set([("client_encoding", client)]))
        if found["server_encoding"] != "UTF8":
            raise InvalidValue("storage URL", f"the database's encoding is {found['server_encoding']}; UTF8 is needed")
        if self.durability == "full":
            self._warn(found, where)
        wanted = [(name, value) for name, value in self._wanted(found) if found.get(name, value) != value]
        return Loan(_set(wanted), _set([(name, found[name]) for name, _ in wanted]))

    def _wanted(self, found: Mapping[str, str]) -> list[tuple[str, str]]:
        # Commits compare for themselves. At a stricter level whoever was overtaken gets an error instead of the answer.
        wanted = [_UTF8, ("default_transaction_isolation", "read committed")]
        if self.durability == "process":
            wanted.append(("synchronous_commit", "off"))
        elif found["synchronous_commit"] == "off":
            wanted.append(("synchronous_commit", "on"))
        return wanted

    def _warn(self, found: Mapping[str, str], where: str) -> None:
        if found["synchronous_commit"] == "off":
            self._tell("synchronous_commit is off on the server; it is switched on for the connections of this library", where)
        for name in ("fsync", "full_page_writes"):
            if found[name] == "off":
                self._tell(f"{name} is off on the server: what was acknowledged does not survive a power cut", where)

    def is_lost(self, error: BaseException, connection: Any) -> bool:
        """psycopg closes a connection that cannot go on."""
        return connection is None or bool(connection.closed)

    def is_read_only(self, error: BaseException) -> bool:
        """A replica, or a primary that was made one: `read_only_sql_transaction`."""
        return getattr(error, "sqlstate", None) == "25006"

    def is_too_long(self, error: BaseException) -> bool:
        """A gigabyte: `program_limit_exceeded`."""
        return getattr(error, "sqlstate", None) == "54000"

    def _tell(self, what: str, where: str) -> None:
        with self._telling:
            if what in self._told:
                return
            self._told.add(what)
        _log.warning(what, store=where)


def _set(values: Sequence[tuple[str, str]]) -> str:
    """One statement for all, and none for nothing; for the session, not for a transaction."""
    told = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in values)
    return f"SELECT {told}" if told else ""


SETTINGS: Final[Mapping[str, type[Settings]]] = {
    "sqlite": Sqlite, "sqlite+pysqlite": Sqlite, "postgresql": Postgres, "postgresql+psycopg": Postgres}
"""By the first part of a URL."""
