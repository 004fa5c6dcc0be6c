"""An index of words beside the sessions: a file of SQLite that can be thrown away at any time.

Nothing is written to it when a session is saved. Whoever searches compares what was indexed (birth and revision of each
session) with what is there, reads again what differs, and asks then. So it holds nothing that is not elsewhere: where it is
missing, broken or somebody else's it is made anew, and where nothing can be written it is kept in memory.

Several processes may do that at once; a session is indexed in one transaction, and SQLite's locks keep them in turn.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Final

import structlog

from bamboo_sessions._locks import _after_fork
from bamboo_sessions.errors import StorageUnavailable
from bamboo_sessions.search import TITLE, said
from bamboo_sessions.search_words import terms

State = tuple[str, int]
"""(birth, revision)."""

ReadSession = Callable[[str], tuple[State, str, Sequence[bytes]] | None]
"""A session's state, title and messages by its id; None where it cannot be read (any more)."""

_FORMAT: Final = 1
_APPLICATION: Final = 0x62616D62  # "bamb": how SQLite's files say whose they are
_BATCH: Final = 100
_WAIT: Final = 30.0
_READ_ONLY: Final = ("readonly", "unable to open")
_SCHEMA: Final = """
CREATE TABLE store (id TEXT NOT NULL);
CREATE TABLE session (id TEXT PRIMARY KEY, birth TEXT NOT NULL, revision INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE place (n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, at INTEGER NOT NULL);
CREATE INDEX place_of ON place (id);
CREATE VIRTUAL TABLE words USING fts5(terms, detail=none, columnsize=0, tokenize='ascii');
"""
_log = structlog.get_logger("bamboo_sessions")


class WordIndex:
    """The index of one store, at `path`, for one object."""

    def __init__(self, path: str, store_id: str, mode: int) -> None:
        self._path, self._store_id, self._mode = path, store_id, mode
        self._connection: sqlite3.Connection | None = None
        self._inherited: list[object] = []  # a parent's: never used, never closed here
        self._forked()
        _after_fork(self)

    def _forked(self) -> None:
        self._lock = threading.Lock()  # guards the connection: one search of this object at a time
        self._inherited.append(self._connection)
        self._connection = None

    def places(self, there: Mapping[str, State], read: ReadSession, wanted: Sequence[tuple[str, bool]]) -> dict[str, list[int]]:
        """Where the terms are, by session, once the index is what the store is. Raises `StorageUnavailable`."""
        with self._lock:
            try:
                return self._asked(there, read, wanted)
            except sqlite3.OperationalError as error:
                raise self._unavailable(error) from error
            except sqlite3.DatabaseError as error:
                _log.warning("the index of words is damaged, making it anew", path=self._path, error=str(error))
                self._throw_away()
            try:
                return self._asked(there, read, wanted)
            except sqlite3.Error as error:
                raise self._unavailable(error) from error

    def _asked(self, there: Mapping[str, State], read: ReadSession, wanted: Sequence[tuple[str, bool]]) -> dict[str, list[int]]:
        connection = self._opened()
        self._bring_up(connection, there, read)
        words = " AND ".join(f'"{term}"{"*" if begins else ""}' for term, begins in wanted)
        found: dict[str, list[int]] = {}
        for session_id, at in connection.execute(
                "SELECT id, at FROM words JOIN place ON n = words.rowid WHERE words MATCH ? ORDER BY id, at", (words,)):
            found.setdefault(session_id, []).append(at)
        return found

    def close(self) -> None:
        """Let go of the file; the next search opens it again."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # -- bringing it up to date ----------------------------------------------------------------------------------

    def _bring_up(self, connection: sqlite3.Connection, there: Mapping[str, State], read: ReadSession) -> None:
        known = {name: (birth, revision) for name, birth, revision in connection.execute("SELECT id, birth, revision FROM session")}
        todo = iter([name for name, state in there.items() if known.get(name) != state] + [name for name in known if name not in there])
        while batch := list(islice(todo, _BATCH)):  # in between, others may have their turn
            with _transaction(connection):
                for name in batch:
                    self._index(connection, name, read(name) if name in there else None)

    def _index(self, connection: sqlite3.Connection, name: str, found: tuple[State, str, Sequence[bytes]] | None) -> None:
        connection.execute("DELETE FROM words WHERE rowid IN (SELECT n FROM place WHERE id = ?)", (name,))
        connection.execute("DELETE FROM place WHERE id = ?", (name,))
        connection.execute("DELETE FROM session WHERE id = ?", (name,))
        if found is None:
            return
        (birth, revision), title, lines = found
        connection.execute("INSERT INTO session VALUES (?, ?, ?)", (name, birth, revision))
        for at, words in _terms_of(title, lines):
            made = connection.execute("INSERT INTO place (id, at) VALUES (?, ?)", (name, at))
            connection.execute("INSERT INTO words (rowid, terms) VALUES (?, ?)", (made.lastrowid, " ".join(sorted(words))))

    # -- the file ------------------------------------------------------------------------------------------------

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                self._connection = self._file()
            except (sqlite3.OperationalError, OSError) as error:
                if isinstance(error, sqlite3.OperationalError) and not any(why in str(error) for why in _READ_ONLY):
                    raise
                _log.warning("the index of words is kept in memory: nothing can be written beside the sessions", path=self._path,
                             error=str(error))
                self._connection = _connected(":memory:")
                self._make(self._connection)
        return self._connection

    def _file(self) -> sqlite3.Connection:
        folder = os.path.dirname(self._path)
        with suppress(FileExistsError):
            os.mkdir(folder, self._mode | (self._mode & 0o444) >> 2)  # whoever may read may enter
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, self._mode))
        connection = _connected(self._path)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")  # a power cut may take the last searches' work, and no more
            if not self._is_ours(connection):
                self._make(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _is_ours(self, connection: sqlite3.Connection) -> bool:
        """Of this store and this format; raises for what is somebody else's. An empty file is nobody's."""
        if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            return False
        says = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        if says != [_APPLICATION, _FORMAT] or connection.execute("SELECT id FROM store").fetchall() != [(self._store_id,)]:
            raise sqlite3.DatabaseError("it belongs to another store or another version")
        return True

    def _make(self, connection: sqlite3.Connection) -> None:
        with _transaction(connection):
            if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                return  # somebody was faster
            for statement in filter(str.strip, _SCHEMA.split(";")):
                connection.execute(statement)
            connection.execute("INSERT INTO store VALUES (?)", (self._store_id,))
            connection.execute(f"PRAGMA application_id={_APPLICATION}")
            connection.execute(f"PRAGMA user_version={_FORMAT}")

    def _throw_away(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        for end in ("", "-wal", "-shm", "-journal"):
            with suppress(FileNotFoundError):
                os.unlink(self._path + end)

    def _unavailable(self, error: sqlite3.Error) -> StorageUnavailable:
        return StorageUnavailable("search", path=self._path, reason=f"{type(error).__name__}: {error}")


def _terms_of(title: str, lines: Sequence[bytes]) -> Iterator[tuple[int, set[str]]]:
    """What is not empty."""
    texts = [(TITLE, title), *((at, heard.text) for at, line in enumerate(lines) if (heard := said(line)) is not None)]
    return ((at, words) for at, text in texts if (words := terms(text)))


def _connected(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_WAIT, isolation_level=None, check_same_thread=False)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
