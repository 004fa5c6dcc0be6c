"""How each kind of storage here is opened, what it claims, and how to look behind its back."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from bamboo_sessions import JsonFileStorage, LockTimeout, MemoryStorage, Session, Storage
from bamboo_sessions.testing import (
    FailingStorage,
    ForgetfulStorage,
    Power,
    SlowStorage,
    StorageHarness,
    StrictLockingStorage,
    StrictStorage,
)
from tests.support import ChatsOnly, WholeSessions

IN_MEMORY = frozenset({Power.IDENTITY, Power.LISTING, Power.RECORDS, Power.USAGE})


class Memory(StorageHarness):
    """Lives as long as its object, and nothing can rot in it."""

    powers = IN_MEMORY
    storage_class = MemoryStorage

    def open(self, place):
        return self.storage_class()

    def peek(self, storage, place, session_id):
        kept = storage._kept.get(session_id)
        return None if kept is None else pickle.dumps((kept.head, kept.messages))

    def usage_lines(self, storage, place, session_id):
        return list(storage._kept[session_id].usage)


class Strict(Memory):
    storage_class = StrictStorage


class StrictLocking(Memory):
    powers = IN_MEMORY | {Power.LOCKS}
    storage_class = StrictLockingStorage
    commits_under_lock = True


class JsonFiles(StorageHarness):
    """A folder, shared by processes."""

    powers = frozenset(Power)
    options: dict = {}

    def open(self, place):
        return JsonFileStorage(place, **self.options)

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

    def peek(self, storage, place, session_id):
        return super().peek(storage.inner, place, session_id)

    def usage_lines(self, storage, place, session_id):
        return super().usage_lines(storage.inner, place, session_id)


class NotFailing(JsonFilesProcess):
    """Passing through, with every power of what it stands around."""

    def open(self, place):
        return FailingStorage(super().open(place))


class Forgetful(Slow):
    """Always the whole record."""

    def open(self, place):
        return ForgetfulStorage(MemoryStorage())


class NotFailingThree(Whole):
    """A wrapper around three methods."""

    def open(self, place):
        return FailingStorage(WholeSessions())

    def peek(self, storage, place, session_id):
        return super().peek(storage.inner, place, session_id)

    def damage(self, storage, place, session_id):
        super().damage(storage.inner, place, session_id)
