"""Where things lie, and how any session id becomes a file name that every file system keeps apart.

    root/store.json                 format and store id; made once
    root/locks                      one file for the locks of all ids (or a folder of lock files, the portable way)
    root/sessions/ab/<name>/        one session: session.json, journal.jsonl, usage.jsonl, quarantine/
    root/sessions/ab/deleted.jsonl  the births of the sessions that were deleted here
    root/new, root/trash            what is being made or removed; a crash leaves something here and nowhere else
    root/index                      the index of words, made by the first search; can be deleted at any time

`ab` is the beginning of a hash of the id, `<name>` the id as `_names` encodes it.
"""

from __future__ import annotations

import hashlib
import os

import attrs

from bamboo_sessions._names import LONGEST_NAME as LONGEST_NAME  # noqa: PLC0414 - re-exported
from bamboo_sessions._names import decode_name, encode_name

encode_id, decode_id = encode_name, decode_name


@attrs.frozen(slots=True)
class Place:
    """The paths of one session, worked out once."""

    session_id: str
    number: int
    """The session's number in the lock file."""
    shard: str
    folder: str
    snapshot: str
    journal: str


@attrs.frozen(slots=True)
class Layout:
    """The paths of one store."""

    root: str

    @property
    def store(self) -> str:
        return os.path.join(self.root, "store.json")

    @property
    def locks(self) -> str:
        return os.path.join(self.root, "locks")

    @property
    def sessions(self) -> str:
        return os.path.join(self.root, "sessions")

    @property
    def new(self) -> str:
        return os.path.join(self.root, "new")

    @property
    def trash(self) -> str:
        return os.path.join(self.root, "trash")

    def place(self, session_id: str) -> Place:
        digest = hashlib.sha256(session_id.encode()).digest()
        shard = os.path.join(self.sessions, digest[:1].hex())
        folder = os.path.join(shard, encode_id(session_id))
        return Place(session_id, lock_number(digest), shard, folder, snapshot_in(folder), journal_in(folder))


def shard_of(session_id: str) -> str:
    """The name of the folder above the session's."""
    return hashlib.sha256(session_id.encode()).digest()[:1].hex()


def lock_number(digest: bytes) -> int:
    """62 bits of it: the kernel's offsets are signed, and the last one has to have a successor."""
    return int.from_bytes(digest[1:9], "big") >> 2


def number_of(name: str) -> int:
    """The lock number of something that is no session; NUL keeps it apart from every id."""
    return lock_number(hashlib.sha256(b"\0" + name.encode()).digest())


def snapshot_in(folder: str) -> str:
    return os.path.join(folder, "session.json")


def journal_in(folder: str) -> str:
    return os.path.join(folder, "journal.jsonl")


def usage_in(folder: str) -> str:
    return os.path.join(folder, "usage.jsonl")


def active_in(folder: str) -> str:
    return os.path.join(folder, "active")


def quarantine_in(folder: str) -> str:
    return os.path.join(folder, "quarantine")


def graves_in(shard: str) -> str:
    return os.path.join(shard, "deleted.jsonl")
