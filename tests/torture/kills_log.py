"""The log of a torture run: what was attempted, what was acknowledged, what was seen, who died; outside the store.

One file for all processes, opened with O_APPEND, one `write` a record: where a record ends is a point in time that all
processes agree on, because a write that began after another one returned stands behind it. So "before" and "after" are
comparisons of offsets, and no clock is asked:

    try   about to do something; its offset is when that began
    ack   it was done: birth, revision and fingerprint of the state that the library says is committed
    no    it was refused for a reason that the library documents
    look  a reader saw this revision, having begun to look when the log was `at` bytes long
    dead  this life is over; whatever it tried and did not acknowledge was done by now, or never will be
    wrong something happened that never may

A record begins and ends with a line break, so that one cut short by a kill spoils no other: half an `ack` promises nothing.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import Any

import orjson

from bamboo_sessions import Session


class Log:
    """Appends records, and tells how long the log is."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def now(self) -> int:
        return os.fstat(self._fd).st_size

    def write(self, kind: str, **facts: Any) -> None:
        data = b"\n" + orjson.dumps({"k": kind, **facts}) + b"\n"
        if os.write(self._fd, data) != len(data):
            raise OSError("the log's disk is full: this run proves nothing")


class LogReader:
    """Gives the records that were added since it last looked, each with the offsets at which it begins and ends."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._done = 0
        self.torn = 0

    def news(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        data = os.pread(self._fd, os.fstat(self._fd).st_size - self._done, self._done)
        end = data.rfind(b"\n") + 1
        at, self._done = self._done, self._done + end
        for line in data[:end].split(b"\n")[:-1]:
            begin, at = at, at + len(line) + 1
            if not line:
                continue
            try:
                record = orjson.loads(line)
            except ValueError:
                self.torn += 1
                continue
            yield begin, at, record


def what_is_seen(session: Session) -> dict[str, Any]:
    """Of one revision: a checksum of every field and message, how many messages, and its time."""
    plain = session.to_dict()
    whole = zlib.crc32(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS))
    return {"f": f"{whole:08x}", "n": len(session.messages), "u": plain["updated_at"]}
