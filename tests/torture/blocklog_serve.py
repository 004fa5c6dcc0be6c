"""A disk that remembers every block written to it, and every flush: one file in a file system of our own (FUSE).

A loop device on that file has a real file system on it, which writes and flushes as it would on a drive; each write and each
flush comes by here, in order, and is put into a log. What somebody was told stands in the same log: it is written to a second
file beside the first, and has to be taken down before the writer goes on.

    python -m tests.torture.blocklog_serve MOUNTPOINT IMAGE LOG
"""

from __future__ import annotations

import errno
import os
import pickle
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

BLOCK = 4096
"""A request may be for many blocks; a cut may come between any two of them."""
Entry = tuple[int, bytes] | bytes | None
"""Bytes written at an offset; what somebody was told; a flush."""


def serve(where: str, image: str, log: str) -> None:
    import mfusepy  # noqa: PLC0415 - a development package: only who records blocks needs it

    class Disk(mfusepy.Operations):
        use_ns = True

        def __init__(self) -> None:
            self.fd, self.log = os.open(image, os.O_RDWR), open(log, "wb")  # noqa: SIM115 - as long as the process

        def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
            if path == "/":
                return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
            if path == "/disk":
                return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": os.fstat(self.fd).st_size}
            if path == "/told":
                return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": 0}
            raise mfusepy.FuseOSError(errno.ENOENT)

        def open(self, path: str, flags: int) -> int:
            return 1

        def truncate(self, path: str, length: int, fh: int | None = None) -> None:
            """A file that is opened to be written anew; this one has no bytes."""

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            return os.pread(self.fd, size, offset)

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            if path == "/told":
                pickle.dump(bytes(data), self.log)
                return len(data)
            for begin in range(0, len(data), BLOCK):
                pickle.dump((offset + begin, bytes(data[begin : begin + BLOCK])), self.log)
            return os.pwrite(self.fd, data, offset)

        def fsync(self, path: str, datasync: int, fh: int) -> None:
            pickle.dump(None, self.log)

        def destroy(self, path: str) -> None:
            self.log.close()

    mfusepy.FUSE(Disk(), where, foreground=True, nothreads=True, direct_io=True)


def read_log(path: Path) -> Iterator[Entry]:
    with path.open("rb") as file:
        while True:
            try:
                yield pickle.load(file)
            except EOFError:
                return


if __name__ == "__main__":
    serve(*sys.argv[1:4])
