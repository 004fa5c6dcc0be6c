"""What a writer asked of its disk, call by call, taken down where every durable step passes: the file seam.

Names are kept apart from what they name: an operation is on a numbered object (a file or a folder), or on an entry of a
folder. So what a power cut may take back can be told per object: a file's bytes by themselves, a folder's names by
themselves.

What does not pass here are lock files (`locks`, `store.json.lock`, `locks.d`): nothing is ever read from them, and a store
that lost them makes new ones.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import attrs

from bamboo_sessions._files import Files
from bamboo_sessions.clock import SystemClock


@attrs.frozen
class Write:
    """Bytes of a file, written and perhaps not on the disk."""

    file: int
    at: int
    data: bytes


@attrs.frozen
class Truncate:
    file: int
    size: int


@attrs.frozen
class Names:
    """Entries of folders, changed in one step: (folder, name, what it names now, or None). Two of them: a rename."""

    entries: tuple[tuple[int, str, int | None], ...]


@attrs.frozen
class Sync:
    """All bytes of this file that were written before are on the disk."""

    file: int


@attrs.frozen
class SyncFolder:
    """All names of this folder that were made, changed or removed before are on the disk."""

    folder: int


@attrs.frozen
class Acknowledged:
    """Somebody was told that this change is stored."""

    number: int


@attrs.frozen
class Timed:
    """The time of a file was set. `passed`: nobody did that, time went by; it is true whatever is lost."""

    file: int
    ns: int
    passed: bool = False


Operation = Write | Truncate | Names | Sync | SyncFolder | Acknowledged | Timed
Tree = dict[str, "bytes | Tree"]
ROOT = 0


class Old(bytes):
    """A file's bytes, and that they were written some time ago."""

    ns = 0


@attrs.define
class Trace:
    """`objects`: what was on the disk at the beginning, folders as name -> number; `operations`: what came then;
    `folders`: the numbers of all folders, of the beginning and later; `times`: of files that were old at the beginning."""

    objects: dict[int, bytes | dict[str, int]]
    operations: list[Operation] = attrs.field(factory=list)
    folders: set[int] = attrs.field(factory=set)
    times: dict[int, int] = attrs.field(factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Trace:
        """Begin with all there is below `folder`, which is number 0; lock files are passed over."""
        trace = cls({})
        trace._take(folder, count())
        return trace

    def _take(self, path: Path, numbers: Iterator[int]) -> int:
        number = next(numbers)
        if not path.is_dir():
            self.objects[number] = path.read_bytes()
            if is_old(ns := path.stat().st_mtime_ns):
                self.times[number] = ns
            return number
        self.folders.add(number)
        entries = self.objects[number] = {}
        for child in sorted(path.iterdir()):
            if not is_lock(child.name):
                entries[child.name] = self._take(child, numbers)
        return number


def is_old(ns: int) -> bool:
    """Whether a file's time tells anything: one that was changed in this run is as good as new."""
    return time.time_ns() - ns > 10**9 * 3600


def is_lock(name: str) -> bool:
    return name in ("locks", "locks.d") or name.endswith(".lock")


class Recorder:
    """Follows the tree below `folder` as it changes, and writes the operations down."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = str(folder)
        self.trace = Trace.of(Path(folder))
        self.folders = {number: dict(found) for number, found in self.trace.objects.items() if isinstance(found, dict)}
        self.open: dict[int, int] = {}
        self._fresh = count(1 + max(self.trace.objects))

    def add(self, operation: Operation) -> None:
        self.trace.operations.append(operation)

    def place(self, path: str) -> tuple[int, str]:
        """(folder's number, name) of a path below."""
        *parents, name = Path(path).relative_to(self.folder).parts
        at = ROOT
        for part in parents:
            at = self.folders[at][part]
        return at, name

    def number(self, path: str) -> int:
        if path == self.folder:
            return ROOT
        folder, name = self.place(path)
        return self.folders[folder][name]

    def knows(self, path: str) -> bool:
        return path.startswith(self.folder)

    def made(self, path: str, *, is_folder: bool = False) -> int:
        folder, name = self.place(path)
        number = self.folders[folder][name] = next(self._fresh)
        if is_folder:
            self.folders[number] = {}
            self.trace.folders.add(number)
        self.add(Names(((folder, name, number),)))
        return number

    def moved(self, old: str, new: str) -> None:
        (src, src_name), (dst, dst_name) = self.place(old), self.place(new)
        number = self.folders[dst][dst_name] = self.folders[src].pop(src_name)
        self.add(Names(((src, src_name, None), (dst, dst_name, number))))

    def removed(self, path: str) -> None:
        folder, name = self.place(path)
        if self.folders[folder].pop(name, None) is not None:
            self.add(Names(((folder, name, None),)))


def recording(ordinary: type[Files], recorder: Recorder) -> type[Files]:
    """A file layer that is this class, but for writing its calls down as they succeed."""

    class Recording(ordinary):  # type: ignore[misc, valid-type]
        def open(self, path: str, flags: int, mode: int = 0o600) -> int:
            there = os.path.lexists(path)
            fd = super().open(path, flags, mode)
            if recorder.knows(path) and not is_lock(os.path.basename(path)):
                number = recorder.number(path) if there else recorder.made(path)
                recorder.open[fd] = number
                if there and flags & os.O_TRUNC:
                    recorder.add(Truncate(number, 0))
            return fd

        def close(self, fd: int) -> None:
            recorder.open.pop(fd, None)
            super().close(fd)

        def write_at(self, fd: int, data: bytes, offset: int) -> int:
            done = super().write_at(fd, data, offset)
            recorder.add(Write(recorder.open[fd], offset, bytes(data[:done])))
            return done

        def append(self, fd: int, data: bytes) -> int:
            end = os.fstat(fd).st_size
            done = super().append(fd, data)
            recorder.add(Write(recorder.open[fd], end, bytes(data[:done])))
            return done

        def set_mtime(self, path: str, ns: int) -> None:
            super().set_mtime(path, ns)
            recorder.add(Timed(recorder.number(path), ns))

        def age(self, path: str | Path, ns: int) -> None:
            """Where a real disk is cut off as well, it must not lose that time went by."""
            super().age(path, ns)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            recorder.add(Timed(recorder.number(str(path)), ns, passed=True))

        def truncate(self, fd: int, size: int) -> None:
            super().truncate(fd, size)
            recorder.add(Truncate(recorder.open[fd], size))

        def mkdir(self, path: str, mode: int) -> None:
            super().mkdir(path, mode)
            recorder.made(path, is_folder=True)

        def rename(self, old: str, new: str) -> None:
            super().rename(old, new)
            recorder.moved(old, new)

        def unlink(self, path: str) -> None:
            super().unlink(path)
            recorder.removed(path)

        def remove_tree(self, path: str) -> None:
            """Told name by name, as the system is asked."""
            below = [os.path.join(top, name) for top, folders, names in os.walk(path, topdown=False)
                     for name in (*names, *folders)]
            super().remove_tree(path)
            for one in [*below, path]:
                if not os.path.lexists(one):
                    recorder.removed(one)

        def sync(self, fd: int) -> None:
            super().sync(fd)
            recorder.add(Sync(recorder.open[fd]))

        def sync_dir(self, path: str) -> None:
            super().sync_dir(path)
            if recorder.knows(path):
                recorder.add(SyncFolder(recorder.number(path)))

    return Recording


@contextmanager
def same_bytes(randbytes: Callable[[int], bytes], now: Callable[[], datetime]) -> Iterator[None]:
    """Ids and tokens that a seed decides, and times: the same story gives the same bytes, and a state is counted once."""
    with patch.object(os, "urandom", randbytes), patch.object(SystemClock, "now", lambda self: now()):
        yield


def lay_out(tree: Any, path: str) -> None:
    """Make a folder that holds this, and is as old."""
    os.mkdir(path)
    for name, found in tree.items():
        below = f"{path}/{name}"
        if isinstance(found, dict):
            lay_out(found, below)
        else:
            fd = os.open(below, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.write(fd, found)
                if isinstance(found, Old):
                    os.utime(fd, ns=(found.ns, found.ns))
            finally:
                os.close(fd)
