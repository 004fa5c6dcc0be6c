"""How each kind of storage here is opened, what it claims, and how to look behind its back."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from bamboo_sessions import (
    JsonFileStorage,
    LayeredStorage,
    LockTimeout,
    MemoryStorage,
    Session,
    Storage,
    StorageUnavailable,
)
from bamboo_sessions.testing import (
    FailingStorage,
    ForgetfulStorage,
    Power,
    SlowStorage,
    StorageHarness,
    StrictLockingStorage,
    StrictStorage,
    Wrapping,
)
from tests import servers
from tests.support import ChatsOnly, WholeSessions

WITHOUT_LOCKS = frozenset({Power.ALONE, Power.LIKELY_STAMPS})
"""What is there for storages that exclude nobody by a lock."""
IN_MEMORY = frozenset({Power.IDENTITY, Power.LISTING, Power.RECORDS, Power.SEARCH, Power.USAGE, Power.USAGE_READS})


class Memory(StorageHarness):
    """Lives as long as its object, and nothing can rot in it."""

    powers = IN_MEMORY | {Power.EXPIRY}
    storage_class = MemoryStorage

    def open(self, place):
        return self.storage_class()

    def open_expiring(self, place, ttl, clock):
        return self.storage_class(ttl=ttl, clock=clock)

    def peek(self, storage, place, session_id):
        kept = storage._kept.get(session_id)
        return None if kept is None else pickle.dumps((kept.head, kept.messages))

    def usage_lines(self, storage, place, session_id):
        return list(storage._kept[session_id].usage)


class Strict(Memory):
    storage_class = StrictStorage


class StrictLocking(Memory):
    powers = IN_MEMORY | {Power.EXPIRY, Power.LOCKS}
    storage_class = StrictLockingStorage
    commits_under_lock = True


class JsonFiles(StorageHarness):
    """A folder, shared by processes."""

    powers = frozenset(Power) - {Power.PLAIN_READS, *WITHOUT_LOCKS}
    options: dict = {}

    def open(self, place):
        return JsonFileStorage(place, **self.options)

    def open_expiring(self, place, ttl, clock):
        return JsonFileStorage(place, ttl=ttl, clock=clock, **self.options)

    def folder(self, place, session_id):
        return Path(JsonFileStorage(place)._place(session_id).folder)

    def peek(self, storage, place, session_id):
        folder = self.folder(place, session_id)
        if not folder.exists():
            return None
        return b"".join((folder / name).read_bytes() for name in sorted(os.listdir(folder)) if (folder / name).is_file())

    def damage(self, storage, place, session_id):
        snapshot = self.folder(place, session_id) / "session.json"
        data = bytearray(snapshot.read_bytes())
        data[len(data) // 2] ^= 0x04
        snapshot.write_bytes(data)

    def usage_lines(self, storage, place, session_id):
        with suppress(FileNotFoundError):
            return (self.folder(place, session_id) / "usage.jsonl").read_bytes().splitlines()
        return []


class JsonFilesProcess(JsonFiles):
    options = {"durability": "process"}


class JsonFilesPortable(JsonFiles):
    options = {"portable_locks": True}


class Whole(StorageHarness):
    """Three methods that keep sessions as they are."""

    powers = frozenset({Power.IDENTITY})

    def open(self, place):
        return WholeSessions()

    def peek(self, storage, place, session_id):
        kept = storage.kept.get(session_id)
        return None if kept is None else repr(kept if isinstance(kept, str) else kept.to_dict()).encode()

    def damage(self, storage, place, session_id):
        storage.kept[session_id] = "no session"


class Chats(StorageHarness):
    """Three methods that keep next to nothing."""

    def open(self, place):
        return ChatsOnly()


class TextFiles(Storage):
    """Three methods and a lock: a text file a session, for several processes."""

    def __init__(self, root):
        self.root = root

    def _path(self, session_id, suffix):
        return self.root / (hashlib.sha256(session_id.encode()).hexdigest() + suffix)

    @contextmanager
    def lock(self, session_id, timeout):
        try:
            with FileLock(self._path(session_id, ".lock"), timeout=timeout, poll_interval=0.002):
                yield
        except Timeout as error:
            raise LockTimeout(session_id, timeout) from error

    def load_session(self, session_id):
        with suppress(FileNotFoundError):
            return Session.from_dict(json.loads(self._path(session_id, ".json").read_text()))

    def save_session(self, session):
        new = self._path(session.id, f".{os.getpid()}.{threading.get_ident()}.new")
        new.write_text(json.dumps(session.to_dict()))
        new.replace(self._path(session.id, ".json"))

    def delete_session(self, session_id):
        with suppress(FileNotFoundError):
            self._path(session_id, ".json").unlink()
            return True
        return False


class Texts(StorageHarness):
    """Somebody's own lock, across processes."""

    powers = frozenset({Power.IDENTITY, Power.LOCKS, Power.PROCESSES, Power.REOPEN})

    def open(self, place):
        return TextFiles(place)

    def peek(self, storage, place, session_id):
        with suppress(FileNotFoundError):
            return storage._path(session_id, ".json").read_bytes()

    def damage(self, storage, place, session_id):
        path = storage._path(session_id, ".json")
        path.write_bytes(path.read_bytes()[:-1])


class Slow(Memory):
    """Passing through, a moment later."""

    def open(self, place):
        return SlowStorage(MemoryStorage(), 0.0001)

    def open_expiring(self, place, ttl, clock):
        return SlowStorage(MemoryStorage(ttl=ttl, clock=clock), 0.0001)

    def peek(self, storage, place, session_id):
        return super().peek(storage.inner, place, session_id)

    def usage_lines(self, storage, place, session_id):
        return super().usage_lines(storage.inner, place, session_id)


class NotFailing(JsonFilesProcess):
    """Passing through, with every power of what it stands around."""

    def open(self, place):
        return FailingStorage(super().open(place))

    def open_expiring(self, place, ttl, clock):
        return FailingStorage(super().open_expiring(place, ttl, clock))


class Forgetful(Slow):
    """Always the whole record."""

    def open(self, place):
        return ForgetfulStorage(MemoryStorage())

    def open_expiring(self, place, ttl, clock):
        return ForgetfulStorage(MemoryStorage(ttl=ttl, clock=clock))


class NotFailingThree(Whole):
    """A wrapper around three methods."""

    def open(self, place):
        return FailingStorage(WholeSessions())

    def peek(self, storage, place, session_id):
        return super().peek(storage.inner, place, session_id)

    def damage(self, storage, place, session_id):
        super().damage(storage.inner, place, session_id)


# -- layers ------------------------------------------------------------------------------------------------------


class Moody(Wrapping):
    """A layer above that fails every so often, before or after it did what it was asked."""

    def __init__(self, inner, seed=7, often=0.25):
        super().__init__(inner)
        self.dice, self.often, self.failed = random.Random(seed), often, 0

    def _call(self, name, call, *args):
        lot = self.dice.random()
        if lot < self.often / 2:
            self._fail(name)
        answer = call(*args)
        if self.often / 2 <= lot < self.often:
            self._fail(name)
        return answer

    def _fail(self, name):
        self.failed += 1
        raise StorageUnavailable(name, reason="in a mood", outcome="unknown")


class LayeredMemory(Memory):
    """Memory over memory: the lower one is the truth."""

    powers = IN_MEMORY | {Power.PLAIN_READS}
    layered_class = LayeredStorage

    def layers(self):
        return [MemoryStorage(), self.storage_class()]

    def open(self, place):
        return self.layered_class(self.layers())

    def open_expiring(self, place, ttl, clock):
        return LayeredStorage([MemoryStorage(), super().open_expiring(place, ttl, clock)])

    def peek(self, storage, place, session_id):
        return super().peek(storage._last, place, session_id)

    def usage_lines(self, storage, place, session_id):
        return super().usage_lines(storage._last, place, session_id)


class Unharmed(LayeredStorage):
    """Layers that never failed: what they do to one another breaks no rule."""

    def close(self):
        super().close()
        assert [layer.failures for layer in self.stats().layers] == [0], self.stats()


class LayeredStrict(LayeredMemory):
    """Both are strict."""

    layered_class = Unharmed
    storage_class = StrictStorage

    def layers(self):
        return [StrictStorage(), StrictStorage()]


class LayeredStrictLocking(LayeredMemory):
    powers = StrictLocking.powers | {Power.PLAIN_READS}
    storage_class = StrictLockingStorage
    commits_under_lock = True
    layered_class = Unharmed

    def layers(self):
        return [StrictLockingStorage(), StrictLockingStorage()]


class LayeredMoody(LayeredMemory):
    """What is above fails now and then, and nobody notices."""

    def layers(self):
        return [Moody(MemoryStorage()), MemoryStorage()]


class LayeredJsonFiles(JsonFilesProcess):
    """Memory over a folder that processes share; each has a memory of its own."""

    powers = frozenset(Power) - WITHOUT_LOCKS
    layered_class = LayeredStorage

    def open(self, place):
        return self.layered_class([MemoryStorage(), super().open(place)])

    def open_expiring(self, place, ttl, clock):
        return LayeredStorage([MemoryStorage(), super().open_expiring(place, ttl, clock)])


class LayeredThree(JsonFilesProcess):
    """Three layers: memory, somebody's three methods that fail now and then, and the folder."""

    powers = frozenset(Power) - WITHOUT_LOCKS

    def open(self, place):
        beside = place.with_name(place.name + " beside")
        beside.mkdir(exist_ok=True)
        return LayeredStorage([MemoryStorage(), Moody(TextFiles(beside)), super().open(place)])


class Sqlite(StorageHarness):
    """A file, shared by processes."""

    powers = WITHOUT_LOCKS | {Power.EXPIRY, Power.IDENTITY, Power.LISTING, Power.PROCESSES, Power.RECORDS, Power.REOPEN,
                              Power.SEARCH, Power.USAGE, Power.USAGE_READS}

    def open(self, place):
        return self.opened(place)

    def open_expiring(self, place, ttl, clock):
        return self.opened(place, ttl=ttl, clock=clock)

    def open_beside(self, place):
        return self.opened(place, namespace="beside" + hashlib.sha256(bytes(place)).hexdigest()[:8])

    def opened(self, place, **options):
        from bamboo_sessions.storages.sql import SqlStorage  # noqa: PLC0415 - an extra

        return SqlStorage(servers.sqlite(place / "sessions.db"), durability="process", **options)

    def rows(self, storage, statement, session_id):
        with storage._open.engine.connect() as connection:
            return connection.exec_driver_sql(
                statement.replace("$", "%s" if storage.name == "postgresql" else "?"), (storage.namespace, session_id)).fetchall()

    def peek(self, storage, place, session_id):
        head = self.rows(storage, "SELECT ops, head FROM bamboo_session WHERE namespace = $ AND id = $", session_id)
        lines = self.rows(storage, "SELECT line FROM bamboo_message WHERE namespace = $ AND id = $ ORDER BY seq", session_id)
        return pickle.dumps([tuple(row) for row in (*head, *lines)]) if head else None

    def damage(self, storage, place, session_id):
        text = "UPDATE bamboo_session SET head = '{' || head WHERE namespace = $ AND id = $ RETURNING 1"
        assert self.rows(storage, text, session_id)

    def usage_lines(self, storage, place, session_id):
        rows = self.rows(storage, "SELECT line FROM bamboo_usage WHERE namespace = $ AND id = $ ORDER BY n", session_id)
        return [row[0].encode() for row in rows]


class Postgres(Sqlite):
    """A server, shared by processes: a place is a namespace in this process's database."""

    def opened(self, place, **options):
        from bamboo_sessions.storages.sql import SqlStorage  # noqa: PLC0415 - an extra

        note = place / "url"  # other processes of this test find the same database here
        if not note.exists():
            note.write_text(servers.database())
        return SqlStorage(note.read_text(), **{"namespace": hashlib.sha256(bytes(place)).hexdigest()[:16], **options})


class LayeredSqlite(Sqlite):
    """Memory over a file: each process has a memory of its own, and all of them have the file."""

    powers = Sqlite.powers | {Power.PLAIN_READS}

    def opened(self, place, **options):
        return LayeredStorage([MemoryStorage(), super().opened(place, **options)])

    def peek(self, storage, place, session_id):
        return super().peek(storage._last, place, session_id)

    def damage(self, storage, place, session_id):
        super().damage(storage._last, place, session_id)

    def usage_lines(self, storage, place, session_id):
        return super().usage_lines(storage._last, place, session_id)
