"""The whole suite on every storage here, and on the wrappers of the kit where they pass through."""

from __future__ import annotations

from bamboo_sessions.testing import StorageContract
from tests.conformance import harnesses


class TestMemory(StorageContract):
    harness = harnesses.Memory()


class TestStrict(StorageContract):
    harness = harnesses.Strict()


class TestStrictLocking(StorageContract):
    harness = harnesses.StrictLocking()


class TestJsonFiles(StorageContract):
    harness = harnesses.JsonFiles()


class TestJsonFilesProcess(StorageContract):
    harness = harnesses.JsonFilesProcess()


class TestJsonFilesPortable(StorageContract):
    harness = harnesses.JsonFilesPortable()


class TestWholeSessions(StorageContract):
    harness = harnesses.Whole()


class TestChatsOnly(StorageContract):
    harness = harnesses.Chats()


class TestTextFiles(StorageContract):
    harness = harnesses.Texts()


class TestSlow(StorageContract):
    harness = harnesses.Slow()


class TestNotFailing(StorageContract):
    harness = harnesses.NotFailing()


class TestForgetful(StorageContract):
    harness = harnesses.Forgetful()


class TestNotFailingThreeMethods(StorageContract):
    harness = harnesses.NotFailingThree()


class TestLayeredMemory(StorageContract):
    harness = harnesses.LayeredMemory()


class TestLayeredStrict(StorageContract):
    harness = harnesses.LayeredStrict()


class TestLayeredStrictLocking(StorageContract):
    harness = harnesses.LayeredStrictLocking()


class TestLayeredMoody(StorageContract):
    harness = harnesses.LayeredMoody()


class TestLayeredJsonFiles(StorageContract):
    harness = harnesses.LayeredJsonFiles()


class TestLayeredThree(StorageContract):
    harness = harnesses.LayeredThree()


class TestSqlite(StorageContract):
    harness = harnesses.Sqlite()


class TestPostgres(StorageContract):
    harness = harnesses.Postgres()


class TestLayeredSqlite(StorageContract):
    harness = harnesses.LayeredSqlite()
