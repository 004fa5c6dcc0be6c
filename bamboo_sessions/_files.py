"""The file system as the storages see it: one small object, so that a test can fail, count or delay any call.

Every method is one system call, or a loop that makes one honest (`write_all`), and raises `OSError` untranslated: what
a failure means is known to the caller alone. Nothing here follows a symbolic link in the last part of a path, and
every descriptor is closed on exec. Locks are beside this, in `_locks`.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from contextlib import suppress
from copy import copy
from typing import Final

with suppress(ImportError):  # Windows
    import fcntl

# macOS: fsync alone leaves the bytes in the drive's own cache.
_FULL_SYNC: Final[int | None] = getattr(fcntl, "F_FULLFSYNC", None) if os.name == "posix" else None

# O_NONBLOCK: a FIFO planted under a file's name must not hang the reader; it means nothing for regular files.
_COMMON: Final = (getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
                  | getattr(os, "O_BINARY", 0))
READ: Final = os.O_RDONLY | _COMMON
CHANGE: Final = os.O_RDWR | _COMMON
CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_TRUNC | _COMMON
APPEND: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | _COMMON
SHARED: Final = os.O_RDWR | os.O_CREAT | _COMMON
_FOLDER: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _COMMON


class Files:
    """The real one. Subclass it to fail or count; every durable step of a storage passes through here."""

    syncs = True

    def without_syncs(self) -> Files:
        """The same files, but `sync` and `sync_dir` return at once: safe against a crash of the process only."""
        made = copy(self)
        made.syncs = False
        return made

    # -- descriptors ---------------------------------------------------------------------------------------------

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        return os.open(path, flags, mode)

    def close(self, fd: int) -> None:
        os.close(fd)

    def fstat(self, fd: int) -> os.stat_result:
        return os.fstat(fd)

    def set_mode(self, fd: int, mode: int) -> None:
        """The exact mode, whatever the umask: said by the owner of the store, who may want to share it."""
        os.fchmod(fd, mode)

    def read_at(self, fd: int, size: int, offset: int) -> bytes:
        """`size` bytes from `offset`, fewer only at the end of the file; a call that gives less is repeated."""
        data = os.pread(fd, size, offset)
        if len(data) == size or not data:
            return data
        return data + self.read_at(fd, size - len(data), offset + len(data))

    def write_at(self, fd: int, data: bytes, offset: int) -> int:
        """One write; the number of bytes that went out may be smaller than asked."""
        return os.pwrite(fd, data, offset)

    def append(self, fd: int, data: bytes) -> int:
        return os.write(fd, data)

    def write_all(self, fd: int, data: bytes, offset: int) -> None:
        """A full disk answers the first write short and without an error; only the next one tells why."""
        done = self.write_at(fd, data, offset)
        while done < len(data):
            done += self.write_at(fd, data[done:], offset + done)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """The file's bytes and length, through the drive's own cache. A failure is final: see `os.fsync(2)`, errseq."""
        if self.syncs:
            _sync(fd)

    # -- names ---------------------------------------------------------------------------------------------------

    stat = staticmethod(os.lstat)  # without a call around it: it is nearly all of what an unchanged `load_merged` costs

    def set_mtime(self, path: str, ns: int) -> None:
        """Of a file that is there, and of no link's target."""
        os.utime(path, ns=(ns, ns), follow_symlinks=os.utime not in os.supports_follow_symlinks)

    def listdir(self, path: str) -> list[str]:
        return os.listdir(path)

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(path, mode)
        if mode & 0o077:  # only a shared mode can have lost bits to the umask
            os.chmod(path, mode)

    def rename(self, old: str, new: str) -> None:
        """Replaces a file of the new name; fails on a folder that is there and not empty."""
        os.replace(old, new)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def remove_tree(self, path: str) -> None:
        """Best effort: what remains is swept at the next opening of the store."""
        shutil.rmtree(path, ignore_errors=True)

    def sync_dir(self, path: str) -> None:
        """Makes names durable: creations, renames and removals in this folder."""
        if not self.syncs or os.name == "nt":
            return
        fd = os.open(path, _FOLDER)
        try:
            _sync(fd, names=True)
        finally:
            os.close(fd)

    # -- time ----------------------------------------------------------------------------------------------------

    def wall_ns(self) -> int:
        """The clock that stamps files, read from the kernel: a test that freezes `time` does not freeze mtimes."""
        return time.clock_gettime_ns(time.CLOCK_REALTIME) if os.name == "posix" else time.time_ns()

    # -- several calls -------------------------------------------------------------------------------------------

    def read_whole(self, path: str) -> bytes:
        fd = self.open(path, READ)
        try:
            return self.read_at(fd, self.fstat(fd).st_size, 0)
        finally:
            self.close(fd)

    def write_new(self, path: str, data: bytes, mode: int) -> None:
        """A whole file under a temporary name, durable but for its name; its length is looked at before it counts."""
        fd = self.open(path, CREATE, mode)
        try:
            if mode & 0o077:
                self.set_mode(fd, mode)
            self.write_all(fd, data, 0)
            self.sync(fd)
            if self.fstat(fd).st_size != len(data):
                raise OSError(errno.EIO, "the file came out shorter than what was written", path)
        finally:
            self.close(fd)


def _sync(fd: int, *, names: bool = False) -> None:
    if _FULL_SYNC is not None:
        fcntl.fcntl(fd, _FULL_SYNC)
    elif names or not hasattr(os, "fdatasync"):
        os.fsync(fd)
    else:
        os.fdatasync(fd)
