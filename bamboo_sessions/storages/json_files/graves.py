"""Deleting: the session's birth is written down, durably, before its folder leaves its name.

Whoever holds a copy of a deleted session then learns that it was deleted, also after the id was taken anew. The memory
is a file a shard, one line a birth, bounded; a session whose birth is written here and which is still there was merely
about to be deleted when somebody was killed, so "deleted" always also means "not there". A session that was removed
because its time had run out says so in its line.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Final

import orjson

from bamboo_sessions._files import APPEND, Files
from bamboo_sessions.ids import new_token
from bamboo_sessions.storages.json_files import lines
from bamboo_sessions.storages.json_files.layout import Layout, Place, graves_in

KEPT: Final = 1000
"""Births remembered a shard, at least; 256 shards."""
_LOOK_FROM: Final = 64 * 1024
"""Below this length a file cannot hold too many lines to care."""


class Graves:
    """The tombstones of a store. The caller holds the session's lock, and for `bury` the shard's."""

    def __init__(self, files: Files, layout: Layout, mode: int) -> None:
        self._files, self._layout, self._mode = files, layout, mode

    def bury(self, place: Place, birth: str, *, expired: bool = False) -> None:
        """Write the birth down, durably."""
        line, _ = lines.sealed(_body(place, birth, expired=expired))
        path = graves_in(place.shard)
        fd = self._files.open(path, APPEND, self._mode)
        try:
            if self._mode & 0o077:
                with suppress(PermissionError):
                    self._files.set_mode(fd, self._mode)
            size = self._append(fd, path, line)
            self._files.sync(fd)
        finally:
            self._files.close(fd)
        self._files.sync_dir(place.shard)
        if size > _LOOK_FROM:
            self._trim(path)

    def _append(self, fd: int, path: str, line: bytes) -> int:
        """What no line break ends was never acknowledged. A power cut may leave anything there, line breaks too, of which
        nobody could tell later, with a line behind it, that it is no damage: so it goes, and what began as a line is ended."""
        size = self._files.fstat(fd).st_size
        if size > 0 and self._files.read_at(fd, 1, size - 1) != b"\n":
            data = self._files.read_whole(path)
            size = lines.torn_from(data)
            self._files.truncate(fd, size)
            line = line if data[:size].endswith(b"\n") or not size else b"\n" + line
        if self._files.append(fd, line) != len(line):
            raise OSError(errno.ENOSPC, "the line was written in part")
        return size + len(line)

    def _trim(self, path: str) -> None:
        kept = [line for line in self._files.read_whole(path).split(b"\n") if lines.checksum(line) >= 0]
        if len(kept) > 2 * KEPT:
            self._files.write_new(path + ".new", b"\n".join(kept[-KEPT:]) + b"\n", self._mode)
            self._files.rename(path + ".new", path)
            self._files.sync_dir(os.path.dirname(path))

    def remembers(self, place: Place, birth: str) -> bool:
        """Whether this birth was written down for this id; the caller looks whether it is gone."""
        wanted = (_body(place, birth), _body(place, birth, expired=True))
        return any(line[lines.BODY :] in wanted and lines.checksum(line) >= 0 for line in self._lines(place))

    def remembers_expired(self, place: Place, birth: str | None) -> bool:
        """Whether the last line of this birth, or of this id where none is named, says that its time had run out. There may
        be several of one birth: whoever died between line and removal left a session that lived on."""
        dead, expired = _body(place, birth or ""), _body(place, birth or "", expired=True)
        if birth is None:  # births differ and have no quotes: what is left behind them tells id and kind
            dead, expired = dead.partition(b'","')[2], expired.partition(b'","')[2]
        for line in reversed(self._lines(place)):
            body = line[lines.BODY :] if birth is not None else line[lines.BODY :].partition(b'","')[2]
            if body in (dead, expired) and lines.checksum(line) >= 0:
                return body == expired
        return False

    def _lines(self, place: Place) -> list[bytes]:
        try:
            return self._files.read_whole(graves_in(place.shard)).split(b"\n")
        except FileNotFoundError:
            return []

    def confirm(self, place: Place) -> None:
        """There is no session, and that is durable: whoever removed it may have failed, or died, before it was."""
        with suppress(FileNotFoundError):
            self._files.sync_dir(place.shard)

    def clear_away(self, place: Place) -> None:
        """One rename takes the session off its name; what it held is removed behind the scenes."""
        aside = os.path.join(self._layout.trash, new_token())
        self._files.rename(place.folder, aside)
        try:
            self._files.sync_dir(place.shard)
        finally:
            self._files.remove_tree(aside)


def _body(place: Place, birth: str, *, expired: bool = False) -> bytes:
    fields: dict[str, object] = {"birth": birth, "id": place.session_id}
    return orjson.dumps({**fields, "expired": True} if expired else fields)[1:]
