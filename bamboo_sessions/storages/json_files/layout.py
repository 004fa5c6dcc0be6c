"""Where things lie, and how any session id becomes a file name that every file system keeps apart.

    root/store.json                 format and store id; made once
    root/locks                      one file for the locks of all ids (or a folder of lock files, the portable way)
    root/sessions/ab/<name>/        one session: session.json, journal.jsonl, usage.jsonl, quarantine/
    root/sessions/ab/deleted.jsonl  the births of the sessions that were deleted here
    root/new, root/trash            what is being made or removed; a crash leaves something here and nowhere else

`ab` is the beginning of a hash of the id. In `<name>` the bytes a-z 0-9 _ - stand for themselves and every other byte
of the id's UTF-8 is `=xx`: no upper case (file systems that fold case), no dots (`..`, Windows), nothing beyond ASCII
(file systems that normalise). A name longer than 200 bytes is cut and ends in `==` and the id's sha256; `=` is
otherwise always followed by a hex digit, so that no other id has that name. Whoever reads compares the id inside.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import Final

import attrs

LONGEST_NAME: Final = 200
_CUT: Final = LONGEST_NAME - len("==") - 64
_ESCAPED: Final = re.compile(rb"[^a-z0-9_-]")
_BYTE: Final = re.compile(rb"=([0-9a-f]{2})")
_RESERVED: Final = re.compile(r"con|prn|aux|nul|com[0-9]|lpt[0-9]|-.*")
"""Names that Windows keeps for devices, and a leading dash, which every shell command would take for an option."""


def encode_id(session_id: str) -> str:
    """The folder's name: at most 200 bytes of [a-z0-9_=-], different for different ids."""
    plain = session_id.encode()
    name = _ESCAPED.sub(lambda byte: b"=%02x" % ord(byte[0]), plain).decode("ascii")
    if _RESERVED.fullmatch(name):
        name = f"={plain[0]:02x}{name[1:]}"
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:_CUT]}=={hashlib.sha256(plain).hexdigest()}"


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


def decode_id(name: str) -> str | None:
    """The id that has this folder name; None where the name was cut, or is no id's."""
    try:
        session_id = _BYTE.sub(lambda found: bytes([int(found[1], 16)]), name.encode("ascii")).decode()
    except ValueError:
        return None
    return session_id if session_id and encode_id(session_id) == name else None


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


def quarantine_in(folder: str) -> str:
    return os.path.join(folder, "quarantine")


def graves_in(shard: str) -> str:
    return os.path.join(shard, "deleted.jsonl")
