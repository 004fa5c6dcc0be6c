"""The file of the index of words: whose it is, whether it can be relied on, and what takes its place.

It is made, opened and thrown away by one process at a time: SQLite keeps a log and a shared memory beside a database, by
name, and whoever opened one while those are taken away one by one would share them with another file. Who has an older file
open goes on with that, and what he is told is right; SQLite itself takes no log away from a file that has lost its name.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Final
from zlib import crc32

import structlog

from bamboo_sessions.errors import StorageError

_FORMAT: Final = 2
_APPLICATION: Final = 0x62616D62  # "bamb": how SQLite's files say whose they are
_WAIT: Final = 30.0
_SMALL: Final = 4_000_000
"""Bytes of a file that is looked through whenever it is opened, in some hundredths of a second."""
_LARGE: Final = 500_000_000
"""Bytes of a file that is not looked through at all: others would have to wait too long."""
_EVERY_NS: Final = 24 * 3600 * 10**9
"""All others are looked through once a day."""
_FOR_NOW: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_PROTOCOL})
_REFUSED: Final = frozenset({sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
                             sqlite3.SQLITE_NOLFS, sqlite3.SQLITE_AUTH})
_SCHEMA: Final = """
CREATE TABLE store (id TEXT NOT NULL, checked INTEGER NOT NULL);
CREATE TABLE session (id TEXT PRIMARY KEY, state TEXT NOT NULL, sum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE place (n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, at INTEGER NOT NULL);
CREATE INDEX place_of ON place (id);
CREATE VIRTUAL TABLE words USING fts5(terms, detail=none, columnsize=0, tokenize='ascii');
"""

_BESIDE: Final = ("-wal", "-shm", "-journal")

DRIVERS: Final = (sqlite3.Error, OSError, UnicodeError, OverflowError, SystemError)
"""What comes out of Python's driver for a file that is damaged, or cannot be written: not its own errors alone."""

_log = structlog.get_logger("bamboo_sessions")


def is_for_now(error: Exception) -> bool:
    """Whether a later search may have more luck with the same file; or nothing that is done to the file would help."""
    return _code(error) in _FOR_NOW or str(error) == "no such module: fts5"


def is_refused(error: Exception) -> bool:
    """Whether the file may not, or cannot, be written."""
    return isinstance(error, OSError) or _code(error) in _REFUSED


def _code(error: Exception) -> int:
    """Without what SQLite's extended codes add."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


class WordsFile:
    """The file at `path`. `alone` holds all others off; `now_ns` is the time of day."""

    def __init__(self, path: str, store_id: str, mode: int, alone: Callable[[], AbstractContextManager[None]],
                 now_ns: Callable[[], int]) -> None:
        self.path, self._store_id, self._mode, self._alone, self._now_ns = path, store_id, mode, alone, now_ns
        self._inode = 0  # of the file that was opened last; 0: none
        self._is_in_memory = False

    def opened(self) -> sqlite3.Connection:
        """A connection to it, made where there was none. Raises what is among `DRIVERS`."""
        if self._is_in_memory:
            return self._made_in_memory()
        with self._held():
            connection = self._file()
        with _closed_by_errors(connection):
            self._look_through(connection)
        return connection

    def is_another_one(self) -> bool:
        """Whether the name has gone from the file that was opened, or to another one."""
        try:
            return self._inode != 0 and os.stat(self.path).st_ino != self._inode
        except OSError:
            return True

    def go_to_memory(self, error: Exception) -> None:
        """For all that is opened from now on, until `come_back`."""
        _log.warning("the index of words is kept in memory: nothing can be written beside the sessions", path=self.path, error=str(error))
        self._is_in_memory, self._inode = True, 0

    def come_back(self) -> None:
        """To the file: it may be writable by now."""
        self._is_in_memory = False

    def throw_away(self, error: Exception) -> None:
        """The file that was opened last, unless somebody else has done so meanwhile."""
        with self._held():
            if self._inode and not self.is_another_one():
                _log.warning("the index of words is damaged, making it anew", path=self.path, error=str(error))
                self._remove("", *_BESIDE)

    @contextmanager
    def _held(self) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                stack.enter_context(self._alone())
            except StorageError as error:
                raise PermissionError(str(error)) from error
            yield

    # -- opening and making --------------------------------------------------------------------------------------

    def _file(self) -> sqlite3.Connection:
        self._create()
        connection = _connected(self.path)
        with _closed_by_errors(connection):
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")  # a power cut may take the last searches' work, and no more
            if not self._is_ours(connection):
                self._make(connection)
        return connection

    def _made_in_memory(self) -> sqlite3.Connection:
        connection = _connected(":memory:")
        with _closed_by_errors(connection):
            self._make(connection)
        return connection

    def _create(self) -> None:
        with suppress(FileExistsError):
            os.mkdir(os.path.dirname(self.path), self._mode | (self._mode & 0o444) >> 2)  # whoever may read may enter
        self._inode = 0
        with suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, self._mode))
            self._remove(*_BESIDE)  # of a file that somebody took away
        self._inode = os.stat(self.path).st_ino

    def _is_ours(self, connection: sqlite3.Connection) -> bool:
        """Of this store and this format; raises for what is somebody else's. An empty file is nobody's."""
        if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            return False
        says = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        if says != [_APPLICATION, _FORMAT] or connection.execute("SELECT id FROM store").fetchall() != [(self._store_id,)]:
            raise sqlite3.DatabaseError("it belongs to another store or another version")
        return True

    def _make(self, connection: sqlite3.Connection) -> None:
        with transaction(connection):
            for statement in filter(str.strip, _SCHEMA.split(";")):
                connection.execute(statement)
            connection.execute("INSERT INTO store VALUES (?, ?)", (self._store_id, self._now_ns()))
            connection.execute(f"PRAGMA application_id={_APPLICATION}")
            connection.execute(f"PRAGMA user_version={_FORMAT}")

    def _remove(self, *ends: str) -> None:
        for end in ends:
            with suppress(FileNotFoundError):
                os.unlink(self.path + end)

    # -- damage --------------------------------------------------------------------------------------------------

    def _look_through(self, connection: sqlite3.Connection) -> None:
        """Whether it is what was written. SQLite has no checksums: a word that is spoilt is merely not found any more."""
        size, now = os.stat(self.path).st_size, self._now_ns()
        if size > _LARGE:
            return
        ((checked,),) = connection.execute("SELECT checked FROM store").fetchall()
        if size > _SMALL and type(checked) is int and 0 <= now - checked < _EVERY_NS:
            return
        with transaction(connection):
            _check(connection)
            if size > _SMALL:
                connection.execute("UPDATE store SET checked = ?", (now,))


def _check(connection: sqlite3.Connection) -> None:
    """Raises what SQLite raises for damage. The words and their index tell of each other, a sum tells of the rest."""
    connection.execute("INSERT INTO words (words) VALUES ('integrity-check')")
    if connection.execute("PRAGMA integrity_check(1)").fetchall() != [("ok",)]:
        raise sqlite3.DatabaseError("its pages are damaged")
    places: dict[str, list[tuple[int, int]]] = {}
    for name, row, at in connection.execute("SELECT id, n, at FROM place ORDER BY n"):
        places.setdefault(name, []).append((row, at))
    for name, state, total in connection.execute("SELECT id, state, sum FROM session"):
        if total != sum_of(name, state, places.get(name, [])):
            raise sqlite3.DatabaseError("a session's rows are damaged")


def sum_of(name: str, state: str, places: Iterable[tuple[int | None, int]]) -> int:
    """By which it is seen that a session's rows are as they were written."""
    return crc32(repr((name, state, *places)).encode())


def _connected(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_WAIT, isolation_level=None, check_same_thread=False)


@contextmanager
def _closed_by_errors(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """The only writer until the end; all of it, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
