"""Listing: every session's head, at one `stat` a session where nothing changed.

A first listing reads of each session the snapshot's first line and the journal, and decodes no message. Heads are kept
as encoded JSON beside their stamps, some hundred bytes each, as long as their session is there; the table is bounded,
and a session that does not fit is merely read again.
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
from bamboo_sessions._json import loads
from bamboo_sessions.errors import StorageError
from bamboo_sessions.storages.json_files.layout import Layout, Place, decode_id, journal_in, snapshot_in
from bamboo_sessions.storages.json_files.reader import Damaged, Reader
from bamboo_sessions.storages.json_files.stamp import Stamp, still
from bamboo_sessions.storages.protocol import Head, LeftOut

KEPT: Final = 200_000
SHARDS: Final = 256
"""Ids spread evenly over them, so each may keep its share."""

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
        self._kept: dict[str, dict[str, _Kept]] = {}  # by shard, then by name

    def heads(self, left_out: LeftOut) -> Iterator[tuple[Head, int]]:
        """Only a store that cannot be listed raises; a session that cannot be read is logged and left out."""
        for shard in sorted(self._files.listdir(self._layout.sessions)):
            folder = os.path.join(self._layout.sessions, shard)
            names = self._names(folder)
            kept = self._of_those(shard, names)
            for name in names:
                found = self._one(kept, folder, name, left_out)
                if found is not None:
                    yield found

    def _of_those(self, shard: str, names: list[str]) -> dict[str, _Kept]:
        """What is kept of a shard, in a new dict where some are gone: an old one would keep their places."""
        kept, there = self._kept.setdefault(shard, {}), set(names)
        if kept.keys() <= there:
            return kept
        made = self._kept[shard] = {name: known for name, known in list(kept.items()) if name in there}
        return made

    def _names(self, shard: str) -> list[str]:
        """No session's name has a dot: what has one is a file of the shard itself."""
        try:
            if not stat_bits.S_ISDIR(self._files.stat(shard).st_mode):
                return []
            return [name for name in self._files.listdir(shard) if "." not in name]
        except FileNotFoundError:
            return []

    def _one(self, kept: dict[str, _Kept], shard: str, name: str, left_out: LeftOut) -> tuple[Head, int] | None:
        known = kept.get(name)
        try:
            if known is not None and known.stamp.trusted and still(known.stamp, self._files.stat(known.stamp.path)):
                return loads(known.head), known.count
            listed = self._reader.listed(_place(os.path.join(shard, name)))
        except FileNotFoundError:
            listed = None
        except (Damaged, StorageError, OSError) as error:
            path = os.path.join(shard, name)
            _log.warning("session left out of the listing", path=path, error=str(error))
            left_out(decode_id(name) or path, str(error))
            listed = None
        if listed is None:
            kept.pop(name, None)
            return None
        if known is not None or len(kept) < KEPT // SHARDS:
            encoded = bytes(memoryview(orjson.dumps(listed.head)))  # a copy: the original keeps a buffer of kilobytes
            kept[name] = _Kept(listed.stamp, encoded, listed.count)
        return listed.head, listed.count


def _place(folder: str) -> Place:
    """A session known by its folder alone; which id it has, its head tells."""
    return Place("", 0, os.path.dirname(folder), folder, snapshot_in(folder), journal_in(folder))
