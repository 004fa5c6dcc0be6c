"""What somebody writes to run the whole suite on a storage of their own: three methods on SQLite."""

import json
import sqlite3
from contextlib import closing

from bamboo_sessions import Session, Storage
from bamboo_sessions.testing import Power, StorageContract, StorageHarness


class Sqlite(Storage):
    def __init__(self, path):
        self.path = path
        self._do("CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, json TEXT)")

    def _do(self, statement, *values):
        with closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
            return connection.execute(statement, values).fetchone()

    def load_session(self, session_id):
        row = self._do("SELECT json FROM sessions WHERE id = ?", session_id)
        return None if row is None else Session.from_dict(json.loads(row[0]))

    def save_session(self, session):
        self._do("INSERT OR REPLACE INTO sessions VALUES (?, ?)", session.id, json.dumps(session.to_dict()))

    def delete_session(self, session_id):
        return self._do("DELETE FROM sessions WHERE id = ? RETURNING id", session_id) is not None


class Harness(StorageHarness):
    powers = frozenset({Power.IDENTITY, Power.REOPEN})

    def open(self, place):
        return Sqlite(place / "sessions.db")


class TestSqlite(StorageContract):
    harness = Harness()
