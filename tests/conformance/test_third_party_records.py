"""What somebody writes whose storage keeps records and serves several processes: SQLite again, with the delta interface."""

from __future__ import annotations

import json
import sqlite3
import uuid
from contextlib import closing, contextmanager, suppress

from bamboo_sessions import RevisionConflict, StorageUnavailable
from bamboo_sessions.codec import patch_json
from bamboo_sessions.storages.protocol import OPS_KEPT, UNCHANGED, Record
from bamboo_sessions.storages.records import RecordBacked
from bamboo_sessions.testing import Power, StorageContract, StorageHarness

TABLES = """
CREATE TABLE IF NOT EXISTS store (one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT);
CREATE TABLE IF NOT EXISTS heads (id TEXT PRIMARY KEY, birth TEXT, revision INTEGER, head TEXT, ops TEXT);
CREATE TABLE IF NOT EXISTS messages (id TEXT, at INTEGER, line BLOB, PRIMARY KEY (id, at));
CREATE TABLE IF NOT EXISTS deleted (id TEXT, birth TEXT, PRIMARY KEY (id, birth));
"""


class SqliteRecords(RecordBacked):
    name = "sqlite"

    def __init__(self, path, *, durable=True):
        self.path, self.synchronous = path, "FULL" if durable else "OFF"
        with self._transaction() as do:
            for statement in TABLES.split(";"):
                do(statement)
            do("INSERT OR IGNORE INTO store VALUES (1, ?)", uuid.uuid4().hex)
            ((self._store_id,),) = do("SELECT name FROM store")

    @property
    def store_id(self):
        return self._store_id

    @contextmanager
    def _transaction(self, kind="IMMEDIATE"):
        """What is not committed when the connection closes is rolled back; only a lost answer to COMMIT leaves a doubt."""
        outcome = "not applied"
        try:
            with closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as connection:
                connection.execute(f"PRAGMA synchronous = {self.synchronous}")
                connection.execute(f"BEGIN {kind}")
                yield lambda statement, *values: connection.execute(statement, values).fetchall()
                outcome = "unknown"
                connection.execute("COMMIT")
        except (sqlite3.Error, ValueError) as error:
            raise StorageUnavailable(kind.lower(), path=self.path, outcome=outcome, reason=str(error)) from error

    def read(self, session_id, known=None):
        with self._transaction("DEFERRED") as do:  # one snapshot for both tables, and no writer is held up
            rows = do("SELECT head, ops FROM heads WHERE id = ?", session_id)
            if not rows:
                return None
            head, ops = map(json.loads, rows[0])
            stamp = (session_id, head["birth"], ops[-1])
            if stamp == known:
                return UNCHANGED
            lines = do("SELECT line FROM messages WHERE id = ? ORDER BY at", session_id)
            return Record(head, [line for (line,) in lines], tuple(ops), stamp)

    def commit(self, commit):
        session_id, change = commit.session_id, commit.change
        with self._transaction() as do:
            rows = do("SELECT birth, revision, head, ops FROM heads WHERE id = ?", session_id)
            birth, revision, head, ops = rows[0] if rows else (None, 0, "{}", "[]")
            ops = json.loads(ops)
            if change.op in ops[-1:]:
                return session_id, birth, change.op
            there = (birth, revision) if rows else None
            if there != commit.expected:
                raise RevisionConflict(session_id, commit.expected, there)
            head = {**patch_json(json.loads(head), change.head), "revision": change.revision}
            do("DELETE FROM messages WHERE id = ? AND at >= ?", session_id, change.keep)
            for at, line in enumerate(change.add, change.keep):
                do("INSERT INTO messages VALUES (?, ?, ?)", session_id, at, line)
            do("INSERT OR REPLACE INTO heads VALUES (?, ?, ?, ?, ?)", session_id, head["birth"], change.revision,
               json.dumps(head), json.dumps([*ops, change.op][-OPS_KEPT:]))
            return session_id, head["birth"], change.op

    def delete_record(self, session_id):
        with self._transaction() as do:
            do("INSERT OR IGNORE INTO deleted SELECT id, birth FROM heads WHERE id = ?", session_id)
            do("DELETE FROM messages WHERE id = ?", session_id)
            return bool(do("DELETE FROM heads WHERE id = ? RETURNING id", session_id))

    def exists(self, session_id):
        with self._transaction("DEFERRED") as do:
            return bool(do("SELECT 1 FROM heads WHERE id = ?", session_id))

    def was_deleted(self, session_id, birth):
        with self._transaction("DEFERRED") as do:
            return bool(do("SELECT id, birth FROM deleted WHERE id = ? AND birth = ? EXCEPT SELECT id, birth FROM heads",
                           session_id, birth))

    def heads(self):
        with self._transaction("DEFERRED") as do:
            rows = do("SELECT head, (SELECT count(*) FROM messages m WHERE m.id = h.id) FROM heads h")
        for head, count in rows:
            with suppress(ValueError):  # a damaged one hides no other
                yield json.loads(head), count


class Harness(StorageHarness):
    powers = frozenset({Power.IDENTITY, Power.LISTING, Power.PROCESSES, Power.RECORDS, Power.REOPEN})

    def open(self, place):
        return SqliteRecords(place / "sessions.db", durable=False)  # tests need no disk that survives a power cut

    def peek(self, storage, place, session_id):
        with storage._transaction() as do:
            rows = do("SELECT * FROM heads LEFT JOIN messages USING (id) WHERE id = ?", session_id)
        return repr(rows).encode() if rows else None

    def damage(self, storage, place, session_id):
        with storage._transaction() as do:
            do("UPDATE heads SET head = substr(head, 1, 20) WHERE id = ?", session_id)


class TestSqliteRecords(StorageContract):
    harness = Harness()
