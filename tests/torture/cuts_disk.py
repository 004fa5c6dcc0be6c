"""A file system of its own in a file, which can lose its power: made, mounted, shut down in the middle of everything.

The shutdown is an `ioctl` of ext4 and xfs, made for tests like these: from then on nothing more reaches the device, the log
that is still in memory is not written, and every call fails. What the device holds is what a power cut would have left to a
disk that keeps its word about flushes; mounting it again plays the journal back, as after any power cut.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

_SHUT_DOWN = 0x8004587D
_WITHOUT_FLUSHING_THE_LOG = 2
MAKE = {
    "ext4": (64, ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]),
    "xfs": (300, ["mkfs.xfs", "-q", "-f"]),
}
"""Megabytes (sparse), and the command."""


def make(image: Path, kind: str, *more: str, megabytes: int | None = None) -> None:
    size, command = MAKE[kind]
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate((megabytes or size) << 20)
    subprocess.run([*command, *more, str(image)], check=True, capture_output=True)


def mount(image: str | Path, where: Path) -> bool:
    return subprocess.run(["mount", "-o", "loop", str(image), str(where)], capture_output=True, check=False).returncode == 0


def unmount(where: Path) -> None:
    """Somebody who was just killed may still be letting go of it."""
    for _ in range(200):
        if subprocess.run(["umount", str(where)], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.02)
    subprocess.run(["umount", "-l", str(where)], check=True, capture_output=True)


class PoweredDisk:
    """`path`: where it is mounted; `outside`: a folder that keeps its power."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        base = tempfile.mkdtemp(prefix="power-cuts-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
        self.outside = Path(base)
        self.image, self.path = self.outside / "image", self.outside / "mounted"
        self.path.mkdir()
        make(self.image, kind)
        self.on()

    def on(self) -> None:
        if not mount(self.image, self.path):
            raise AssertionError(f"what the cut left of {self.kind} cannot be mounted")

    def cut(self) -> None:
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUT_DOWN, struct.pack("I", _WITHOUT_FLUSHING_THE_LOG))
        finally:
            os.close(fd)

    def off(self) -> None:
        unmount(self.path)

    def close(self) -> None:
        with suppress(subprocess.CalledProcessError):
            self.off()
        shutil.rmtree(self.outside, ignore_errors=True)
