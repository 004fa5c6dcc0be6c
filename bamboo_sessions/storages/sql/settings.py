"""What each database has to be told, or asked, before it keeps what it acknowledges.

SQLite as it comes loses the last commits in a power cut once it writes ahead; PostgreSQL can be set so that it does. The
former is set on every connection, the latter is looked at on every connection, and a warning says what it cannot keep.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import structlog
from sqlalchemy import URL

from bamboo_sessions.errors import InvalidValue

Durability = Literal["full", "process"]
_log = structlog.get_logger("bamboo_sessions")


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

    def settle(self, connection: Any, where: str) -> None:
        """Called once for each new connection of the driver."""

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
        if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
            raise InvalidValue("storage URL", "SQLite needs the path of a file, sqlite:///sessions.db; memory:// is for memory")
        return url.set(database=str(Path(url.database).absolute()))  # connections are made later too, wherever the process is by then

    def arguments(self, url: URL, wait: float) -> dict[str, Any]:
        """How long SQLite itself waits for another process's commit."""
        return {"timeout": wait}

    def settle(self, connection: Any, where: str) -> None:
        """`synchronous` first: changing the mode is a write already."""
        connection.execute(f"PRAGMA synchronous={'FULL' if self.durability == 'full' else 'NORMAL'}")
        connection.execute("PRAGMA fullfsync=1")  # macOS: a sync that reaches the disk; elsewhere it says nothing
        connection.execute("PRAGMA checkpoint_fullfsync=1")
        if _write_ahead(connection) != "wal":
            # Not on every file system. Then EXTRA, because FULL does not sync the folder that the journal leaves.
            connection.execute("PRAGMA synchronous=EXTRA")
            _log.warning("SQLite cannot write ahead here: readers and writers wait for each other", store=where)

    def is_too_long(self, error: BaseException) -> bool:
        """A gigabyte, where nobody chose less."""
        return getattr(error, "sqlite_errorname", None) == "SQLITE_TOOBIG"

    def before_tables(self, url: URL) -> None:
        """Only the owner may read what people said; SQLite gives its other files the mode of this one."""
        assert url.database is not None
        with suppress(OSError):  # it is there, or SQLite will say why it cannot be
            os.close(os.open(url.database, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


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

    def settle(self, connection: Any, where: str) -> None:
        """One question a connection."""
        # The isolation level is set before this: each statement here is a transaction of its own.
        asked = ", ".join(f"current_setting('{name}')" for name in _ASKED)
        found = dict(zip(_ASKED, connection.execute(f"SELECT {asked}").fetchone(), strict=True))
        if found["server_encoding"] != "UTF8":
            raise InvalidValue("storage URL", f"the database's encoding is {found['server_encoding']}; UTF8 is needed")
        if found["default_transaction_isolation"] != "read committed":
            # Commits compare for themselves. At a stricter level whoever was overtaken gets an error instead of the answer.
            connection.execute("SET default_transaction_isolation = 'read committed'")
        if self.durability == "process":
            connection.execute("SET synchronous_commit = off")
            return
        if found["synchronous_commit"] == "off":
            connection.execute("SET synchronous_commit = on")
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


SETTINGS: Final[Mapping[str, type[Settings]]] = {
    "sqlite": Sqlite, "sqlite+pysqlite": Sqlite, "postgresql": Postgres, "postgresql+psycopg": Postgres}
"""By the first part of a URL."""
