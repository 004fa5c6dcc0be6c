"""An index of words beside the sessions: a file of SQLite that can be thrown away at any time.

Nothing is written to it when a session is saved. Whoever searches compares what was indexed (the state of each session)
with what is there, reads again what differs, and asks then. So it holds nothing that is not elsewhere: where it is
missing, broken or somebody else's it is made anew, and where nothing can be written it is kept in memory (`words_file`).

Several processes may do that at once; a session is indexed in one transaction, and SQLite's locks keep them in turn. Each
reads a session within the transaction that indexes it: so no one puts an older state in the place of a newer one, and what
is gone is what is gone now, whatever was there when somebody listed the sessions.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final

from bamboo_sessions._locks import _after_fork
from bamboo_sessions.errors import StorageUnavailable
from bamboo_sessions.search import TITLE, said
from bamboo_sessions.search_words import terms
from bamboo_sessions.storages.json_files.words_file import (
    DRIVERS,
    WordsFile,
    is_for_now,
    is_refused,
    sum_of,
    transaction,
)

ReadSession = Callable[[str], tuple[str, str, Sequence[bytes]] | None]
"""What names a session's state, its title and its messages, by its id; None where it cannot be read (any more)."""

_BATCH: Final = 100


class WordIndex:
    """The index of one store, for one object. `is_gone`: whether there certainly is no session of that id."""

    def __init__(self, file: WordsFile, is_gone: Callable[[str], bool]) -> None:
        self._file, self._is_gone = file, is_gone
        self._connection: sqlite3.Connection | None = None
        self._inherited: list[object] = []  # a parent's: never used, never closed here
        self._forked()
        _after_fork(self)

    def _forked(self) -> None:
        self._lock = threading.Lock()  # guards the connection: one search of this object at a time
        self._inherited.append(self._connection)
        self._connection = None

    def places(self, there: Mapping[str, str], read: ReadSession, wanted: Sequence[tuple[str, bool]]) -> dict[str, list[int]]:
        """Where the terms are, by session, once the index is what the store is (`there`: the sessions' states); of others than
        those too. Raises `StorageUnavailable`."""
        with self._lock:
            for mend in (self._make_anew, self._go_to_memory):
                try:
                    return self._asked(there, read, wanted)
                except DRIVERS as error:
                    if is_for_now(error):
                        raise self._unavailable(error) from error
                    (self._go_to_memory if is_refused(error) else mend)(error)
            try:
                return self._asked(there, read, wanted)
            except DRIVERS as error:
                raise self._unavailable(error) from error

    def _asked(self, there: Mapping[str, str], read: ReadSession, wanted: Sequence[tuple[str, bool]]) -> dict[str, list[int]]:
        connection = self._opened()
        self._bring_up(connection, there, read)
        words = " AND ".join(f'"{term}"{"*" if begins else ""}' for term, begins in wanted)
        found: dict[str, list[int]] = {}
        for session_id, at in connection.execute(
                "SELECT id, at FROM words LEFT JOIN place ON n = words.rowid WHERE words MATCH ? ORDER BY id, at", (words,)):
            if type(session_id) is not str or type(at) is not int or at < TITLE:
                raise sqlite3.DatabaseError("it names what is no place")
            found.setdefault(session_id, []).append(at)
        return found

    def close(self) -> None:
        """Let go of the file; the next search opens it again."""
        with self._lock:
            self._let_go()
            self._file.come_back()

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None and self._file.is_another_one():
            self._let_go()
        if self._connection is None:
            self._connection = self._file.opened()
        return self._connection

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*DRIVERS):
                connection.close()

    def _make_anew(self, error: Exception) -> None:
        self._let_go()
        try:
            self._file.throw_away(error)
        except DRIVERS as refused:
            self._go_to_memory(refused)

    def _go_to_memory(self, error: Exception) -> None:
        self._let_go()
        self._file.go_to_memory(error)

    def _unavailable(self, error: Exception) -> StorageUnavailable:
        return StorageUnavailable("search", path=self._file.path, reason=f"{type(error).__name__}: {error}")

    # -- bringing it up to date ----------------------------------------------------------------------------------

    def _bring_up(self, connection: sqlite3.Connection, there: Mapping[str, str], read: ReadSession) -> None:
        known = dict(connection.execute("SELECT id, state FROM session"))
        differ = [name for name, state in there.items() if known.get(name) != state]
        gone = [name for name in known if name not in there and self._is_gone(name)]
        todo = iter([*differ, *gone])
        while batch := list(islice(todo, _BATCH)):  # in between, others may have their turn
            with transaction(connection):
                for name in batch:
                    self._index(connection, name, read(name) if name in there else None)

    def _index(self, connection: sqlite3.Connection, name: str, found: tuple[str, str, Sequence[bytes]] | None) -> None:
        """What cannot be read just now keeps what it has: somebody else may be about to ask for it. It is tried again."""
        if found is None:
            if self._is_gone(name):  # looked at again: meanwhile somebody may have made it, and indexed it
                _drop(connection, name)
            return
        state, title, lines = found
        if connection.execute("SELECT state FROM session WHERE id = ?", (name,)).fetchone() == (state,):
            return  # somebody was faster
        _drop(connection, name)
        places = []
        for at, words in _terms_of(title, lines):
            row = connection.execute("INSERT INTO place (id, at) VALUES (?, ?)", (name, at)).lastrowid
            connection.execute("INSERT INTO words (rowid, terms) VALUES (?, ?)", (row, " ".join(sorted(words))))
            places.append((row, at))
        connection.execute("INSERT INTO session VALUES (?, ?, ?)", (name, state, sum_of(name, state, places)))


def _drop(connection: sqlite3.Connection, name: str) -> None:
    connection.execute("DELETE FROM words WHERE rowid IN (SELECT n FROM place WHERE id = ?)", (name,))
    connection.execute("DELETE FROM place WHERE id = ?", (name,))
    connection.execute("DELETE FROM session WHERE id = ?", (name,))


def _terms_of(title: str, lines: Sequence[bytes]) -> Iterator[tuple[int, set[str]]]:
    """What is not empty."""
    texts = [(TITLE, title), *((at, heard.text) for at, line in enumerate(lines) if (heard := said(line)) is not None)]
    return ((at, words) for at, text in texts if (words := terms(text)))
