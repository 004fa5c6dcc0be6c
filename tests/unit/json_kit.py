"""What the tests of the JSON files share: commits in one line, a file system that fails, counts and remembers."""

from __future__ import annotations

import errno
import os
from collections import Counter

from bamboo_sessions._files import Files
from bamboo_sessions.storages.json_files import JsonFileStorage
from bamboo_sessions.storages.protocol import Change, Commit

TIME = "2026-11-21T09:30:00.000000Z"
BIRTH = "birthbirthbirth0"


def message(number, size=20):
    return b'{"id":"m%d","m":{"":"%s"}}' % (number, b"x" * (size - 2))  # as long as it was with "text", which needs JSON


def first(session_id, *messages, birth=BIRTH, op="op1", **fields):
    head = {"id": session_id, "birth": birth, "created_at": TIME, "updated_at": TIME, **fields}
    return Commit(session_id, None, Change(1, op, 0, list(messages), {"set": head}))


def later(session_id, revision, keep, *messages, birth=BIRTH, op=None, head=None):
    """The commit that makes `revision` of the one before."""
    change = Change(revision, op or f"op{revision}", keep, list(messages), head or {"set": {"updated_at": TIME}})
    return Commit(session_id, (birth, revision - 1), change)


def grown(storage, session_id, revisions, size=20):
    """A session whose revision n has the messages 0 … n - 1."""
    storage.commit(first(session_id, message(0, size)))
    for revision in range(2, revisions + 1):
        storage.commit(later(session_id, revision, revision - 1, message(revision - 1, size)))
    return storage.read(session_id)


def journal_of(storage, session_id):
    return storage._place(session_id).journal


def snapshot_of(storage, session_id):
    return storage._place(session_id).snapshot


def state_of(record):
    return record and (record.head["revision"], list(record.messages), record.ops)


class Counting(Files):
    """Counts calls by name, and the bytes written."""

    def __init__(self):
        self.calls = Counter()
        self.written = 0

    def reset(self):
        self.calls.clear()
        self.written = 0


class Died(BaseException):
    """The process is gone: nothing it meant to do afterwards happens."""


class Failing(Files):
    """Fails the n-th call of those that change something; `dead`: that one and all calls behind it."""

    def __init__(self, at=0, error=errno.EIO, dead=False, short=False):
        self.at, self.error, self.dead, self.short = at, error, dead, short
        self.count = 0
        self.failed = ""

    def step(self, name):
        self.count += 1
        if self.count == self.at or (self.dead and self.failed):
            self.failed = self.failed or name
            raise Died if self.dead else OSError(self.error, os.strerror(self.error))


def _counted(name):
    def call(self, *args, **kwargs):
        self.calls[name] += 1
        if name in ("write_at", "append"):
            self.written += len(args[1])
        return getattr(super(Counting, self), name)(*args, **kwargs)

    return call


def _failing(name):
    def call(self, *args, **kwargs):
        if name in ("write_at", "append") and self.short and self.count + 1 == self.at:
            data = args[1]
            getattr(super(Failing, self), name)(args[0], data[: len(data) // 2], *args[2:])
        self.step(name)
        return getattr(super(Failing, self), name)(*args, **kwargs)

    return call


for _name in ("open", "close", "fstat", "read_at", "write_at", "append", "truncate", "sync", "stat", "listdir", "mkdir",
              "rename", "unlink", "sync_dir"):
    setattr(Counting, _name, _counted(_name))
for _name in ("write_at", "append", "truncate", "sync", "mkdir", "rename", "unlink", "sync_dir", "remove_tree"):
    setattr(Failing, _name, _failing(_name))


class Node:
    """A file (bytes) or folder (dict of names) as it is and as it would be after a power cut."""

    def __init__(self, now):
        self.now = now
        self.durable = type(now)()

    def sync(self):
        self.durable = type(self.now)(self.now)


class PowerCut(Files):
    """Real files, and beside them the worst disk that keeps its word: what was not synced is not there.

    Bytes are durable as of the last `sync` of their file, names as of the last `sync_dir` of their folder.
    """

    def __init__(self, root):
        self.root = root
        self.top = Node({})
        self.open_nodes = {}

    def node(self, path):
        here = self.top
        for part in os.path.relpath(path, self.root).split(os.sep):
            here = here.now[part] if part != "." else here
        return here

    def open(self, path, flags, mode=0o600):
        fd = super().open(path, flags, mode)
        folder, name = os.path.split(path)
        there = self.node(folder).now
        if name not in there:
            there[name] = Node(b"")
        if flags & os.O_TRUNC:
            there[name].now = b""
        self.open_nodes[fd] = there[name]
        return fd

    def write_at(self, fd, data, offset):
        node = self.open_nodes[fd]
        node.now = node.now[:offset].ljust(offset, b"\0") + data + node.now[offset + len(data) :]
        return super().write_at(fd, data, offset)

    def append(self, fd, data):
        self.open_nodes[fd].now += data
        return super().append(fd, data)

    def truncate(self, fd, size):
        self.open_nodes[fd].now = self.open_nodes[fd].now[:size]
        super().truncate(fd, size)

    def sync(self, fd):
        self.open_nodes[fd].sync()

    def mkdir(self, path, mode):
        super().mkdir(path, mode)
        self.node(os.path.dirname(path)).now[os.path.basename(path)] = Node({})

    def rename(self, old, new):
        super().rename(old, new)
        moved = self.node(os.path.dirname(old)).now.pop(os.path.basename(old))
        self.node(os.path.dirname(new)).now[os.path.basename(new)] = moved

    def unlink(self, path):
        super().unlink(path)
        del self.node(os.path.dirname(path)).now[os.path.basename(path)]

    def remove_tree(self, path):
        super().remove_tree(path)
        self.node(os.path.dirname(path)).now.pop(os.path.basename(path), None)

    def sync_dir(self, path):
        if path != os.path.dirname(self.root):  # the root's own name is there for good
            self.node(path).sync()

    def after_cut(self, target):
        """Lay the durable state out in the folder `target`."""
        _lay_out(self.top, target)
        return target


def _lay_out(node, path):
    os.makedirs(path, exist_ok=True)
    for name, inner in node.durable.items():
        there = os.path.join(path, name)
        if isinstance(inner.now, dict):
            _lay_out(inner, there)
        else:
            with open(there, "wb") as file:
                file.write(inner.durable)


__all__ = ["BIRTH", "TIME", "Counting", "Died", "Failing", "JsonFileStorage", "PowerCut", "first", "grown", "journal_of",
           "later", "message", "snapshot_of", "state_of"]
