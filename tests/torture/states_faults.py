"""Writers and readers with one defect each, to show that a power cut would show it.

Each leaves out, or does too early, one step of the order that `docs/explanation/durability.md` tells. `seen_by`: the
models of a disk that must show it. A sync of a folder that is left out shows only where names may come late one by one:
a journalled file system brings the earlier names with the next folder that is synced, and ext4 with the next file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from unittest.mock import patch

import attrs

from bamboo_sessions._files import Files
from bamboo_sessions.storages.json_files import lines, writer
from bamboo_sessions.storages.json_files.graves import Graves
from bamboo_sessions.storages.json_files.writer import Writer
from tests.torture.states_disk import MODELS, Model


class NoSyncOfLines(Files):
    """A line counts as soon as it is written."""

    def sync(self, fd: int) -> None:
        if not os.readlink(f"/proc/self/fd/{fd}").endswith("/journal.jsonl"):
            super().sync(fd)


class NoSyncOfNewFiles(Files):
    """A file takes its name before its bytes are on the disk."""

    def sync(self, fd: int) -> None:
        if not os.readlink(f"/proc/self/fd/{fd}").endswith((".new", "session.json")):
            super().sync(fd)


class NoSyncOfFolders(Files):
    """A rename counts as soon as it is made."""

    def sync_dir(self, path: str) -> None:
        """Nothing."""


class NoSyncOfShards(Files):
    """A session counts before the folder that holds its name is synced."""

    def sync_dir(self, path: str) -> None:
        if len(os.path.basename(path)) != 2:
            super().sync_dir(path)


class NoSyncOfTheFolderOfShards(Files):
    """The first session of a shard counts, and the shard's own name may be lost."""

    def sync_dir(self, path: str) -> None:
        if os.path.basename(path) != "sessions":
            super().sync_dir(path)


class RemovesFirst(Files):
    """Makes room for the new name before it takes it."""

    def rename(self, old: str, new: str) -> None:
        if os.path.isfile(new):
            self.unlink(new)
        super().rename(old, new)


class NoSyncOfTombstones(Files):
    """A session is removed before it is on the disk that it is to be removed."""

    def sync(self, fd: int) -> None:
        if not os.readlink(f"/proc/self/fd/{fd}").endswith("/deleted.jsonl"):
            super().sync(fd)


class NoSyncOfUsage(Files):
    def sync(self, fd: int) -> None:
        if not os.readlink(f"/proc/self/fd/{fd}").endswith("/usage.jsonl"):
            super().sync(fd)


def _journal_first(self: Writer, place, path: str, data: bytes) -> None:
    """Of a fold's two files the journal is exchanged first."""
    self._files.write_new(path + ".new", data, self._mode)
    if path == place.journal:
        self._files.rename(path + ".new", path)
        self._files.rename(place.snapshot + ".new", place.snapshot)
        self._files.sync_dir(place.folder)


def _both_at_once(self: Writer, place, path: str, data: bytes) -> None:
    """Both files of a fold take their names, and then their folder is synced once."""
    self._files.write_new(path + ".new", data, self._mode)
    self._files.rename(path + ".new", path)
    if path == place.journal:
        self._files.sync_dir(place.folder)


def _believing(line: bytes) -> int:
    """A line's checksum is what the line says, whatever the bytes are."""
    try:
        return int(line[8:16], 16)
    except ValueError:
        return -1


def _filled_in_place(self: Writer, place, commit):
    """A new session's folder has its name before it has its files."""
    head = writer._first_head(commit)
    if not self._reader.is_absent(place):
        return self._is_there(place, commit)
    self._make_shard(place)
    self._fill(place.folder, head, commit.change)
    return self._settled(place, head, commit.change)


def _not_buried(self: Graves, place, birth, *, expired=False) -> None:
    """Nobody writes down that this life ended."""


@contextmanager
def _nothing_else() -> Iterator[None]:
    yield


def _instead(owner: object, name: str, made: Callable[..., object]) -> Callable[[], AbstractContextManager[object]]:
    return lambda: patch.object(owner, name, made)


@attrs.frozen
class Fault:
    """`story`: one in which it must be found; `kinds`: as what."""

    story: str
    kinds: tuple[str, ...]
    files: type[Files] | None = None
    writing: Callable[[], AbstractContextManager[object]] = _nothing_else
    reading: Callable[[], AbstractContextManager[object]] = _nothing_else
    seen_by: tuple[Model, ...] = MODELS

    def layer(self, ordinary: type[Files]) -> type[Files]:
        """The file layer of a writer with this defect, on top of the story's own."""
        return ordinary if self.files is None else type("Faulty", (self.files, ordinary), {})


_SHOWN = ("lost", "broken", "ghost")
FAULTS = {
    "no_sync_of_lines": Fault("append", _SHOWN, NoSyncOfLines),
    "no_sync_of_new_files": Fault("fold", _SHOWN, NoSyncOfNewFiles),
    "no_sync_of_folders": Fault("create", _SHOWN, NoSyncOfFolders),
    "no_sync_of_shards": Fault("create", _SHOWN, NoSyncOfShards),
    "no_sync_of_the_folder_of_shards": Fault("create", _SHOWN, NoSyncOfTheFolderOfShards, seen_by=("posix",)),
    "no_sync_of_tombstones": Fault("delete", _SHOWN, NoSyncOfTombstones),
    "no_sync_of_usage": Fault("usage", _SHOWN, NoSyncOfUsage),
    "removes_the_old_name_first": Fault("fold", _SHOWN, RemovesFirst),
    "exchanges_the_journal_first": Fault("fold", _SHOWN, writing=_instead(Writer, "_replace", _journal_first)),
    "syncs_a_fold_once": Fault("fold", _SHOWN, writing=_instead(Writer, "_replace", _both_at_once), seen_by=("posix",)),
    "fills_in_place": Fault("create", _SHOWN, writing=_instead(Writer, "create", _filled_in_place)),
    "forgets_who_was_deleted": Fault("delete", ("ghost",), writing=_instead(Graves, "bury", _not_buried)),
    "trusts_the_length": Fault("append", _SHOWN, reading=_instead(lines, "checksum", _believing)),
}
