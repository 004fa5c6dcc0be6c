"""Listing: every session's head, at one `stat` a session where nothing changed.

A first listing reads of each session the snapshot's first line and the journal, and decodes no message. Heads are kept
as encoded JSON beside their stamps, some hundred bytes each; the table is bounded, and a session that does not fit is
merely read again.
"""

from __future__ import annotations

import os
import stat as stat_bits
from collections.abc import Iterator
from typing import Final

import attrs
import orjson
import structlog

from bamboo_sessions._files import Files
from bamboo_sessions.errors import StorageError
from bamboo_sessions.storages.json_files.layout import Layout, Place, journal_in, snapshot_in
from bamboo_sessions.storages.json_files.reader import Damaged, Reader
from bamboo_sessions.storages.json_files.stamp import Stamp, still
from bamboo_sessions.storages.protocol import Head

KEPT: Final = 200_000

_log = structlog.get_logger(__name__)


@attrs.frozen(slots=True)
class _Kept:
    stamp: Stamp
    head: bytes
    count: int


class Listing:
    """The heads of one store."""

    def __init__(self, files: Files, layout: Layout, reader: Reader) -> None:
        self._files, self._layout, self._reader = files, layout, reader
        self._kept: dict[str, _Kept] = {}

    def heads(self) -> Iterator[tuple[Head, int]]:
        """Only a store that cannot be listed raises; a session that cannot be read is logged and left out."""
        for shard in sorted(self._files.listdir(self._layout.sessions)):
            folder = os.path.join(self._layout.sessions, shard)
            for name in self._names(folder):
                found = self._one(os.path.join(folder, name))
                if found is not None:
                    yield found

    def _names(self, shard: str) -> list[str]:
        """No session's name has a dot: what has one is a file of the shard itself."""
        try:
            if not stat_bits.S_ISDIR(self._files.stat(shard).st_mode):
                return []
            return [name for name in self._files.listdir(shard) if "." not in name]
        except FileNotFoundError:
            return []

    def _one(self, folder: str) -> tuple[Head, int] | None:
        kept = self._kept.get(folder)
        try:
            if kept is not None and kept.stamp.trusted and still(kept.stamp, self._files.stat(kept.stamp.path)):
                return orjson.loads(kept.head), kept.count
            return self._read(folder)
        except FileNotFoundError:
            self._kept.pop(folder, None)
            return None
        except (Damaged, StorageError, OSError) as error:
            self._kept.pop(folder, None)
            _log.warning("session left out of the listing", path=folder, error=str(error))
            return None

    def _read(self, folder: str) -> tuple[Head, int] | None:
        listed = self._reader.listed(_place(folder))
        if listed is None:
            self._kept.pop(folder, None)
            return None
        if folder in self._kept or len(self._kept) < KEPT:
            self._kept[folder] = _Kept(listed.stamp, orjson.dumps(listed.head), listed.count)
        return listed.head, listed.count


def _place(folder: str) -> Place:
    """A session known by its folder alone; which id it has, its head tells."""
    return Place("", 0, os.path.dirname(folder), folder, snapshot_in(folder), journal_in(folder))
