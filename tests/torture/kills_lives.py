"""Lives and deaths: who works in a torture run, how long, and how a process comes to die in the middle of a call.

A third of the lives is ended from outside, at whatever they are doing. The others end themselves, with the same SIGKILL,
at the n-th call that they make to the file system: before it or, where it writes, when half of it is written. That puts
most deaths where they hurt, and makes that part of a plan as repeatable as the work itself.
"""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from typing import Never

import attrs

from bamboo_sessions._files import Files

WRITERS = ("w0", "w1", "w2", "w3")
READERS = ("r0", "r1")
ROOMS = tuple(f"room-{n}" for n in range(6))
"""Sessions that nobody deletes."""
CHATS = tuple(f"chat-{n}" for n in range(26))
"""Sessions that are deleted and created anew all the time."""
SESSIONS = ROOMS + CHATS
FOLD_AT = 6_000
"""Bytes of journal, instead of 64 kB: folds come every few changes, also in short lives."""
MEAN_SECONDS = 0.06
MEAN_CALLS = 80
"""A change takes some five calls to the file system, and opening the store eight."""
ANY = "any"
CALLS = ("write_at", "append", "append", "sync", "sync_dir", "rename", "rename", "mkdir", "truncate", "remove_tree")
"""Half of those who die by a call die by one of these: some are rare, and it is there that two files change places."""


@attrs.frozen
class Life:
    """One process's life as the plan has it."""

    name: str
    """Slot and number: "w2.17" is the 18th life of the run and sits where "w2.…" sat before; two never live at once."""
    seed: str
    call: str | None
    """It dies at a call to the file system of this name, or of any; None: it is killed from outside."""
    calls: int
    """At how many such calls."""
    seconds: float
    """It is killed after this time if it is still alive, or sooner where the run is behind its plan."""

    @property
    def slot(self) -> str:
        return self.name.partition(".")[0]

    @property
    def is_reader(self) -> bool:
        return self.slot in READERS


def plan(seed: int, number: int, slot: str) -> Life:
    """The `number`-th life of the run with this seed."""
    dice = random.Random(f"{seed}/{number}/{slot}")
    seconds = min(dice.expovariate(1 / MEAN_SECONDS), 4 * MEAN_SECONDS)
    if slot in READERS or dice.random() < 1 / 3:
        return Life(f"{slot}.{number}", f"{seed}/{number}", None, 0, seconds)
    call = ANY if dice.random() < 0.5 else dice.choice(CALLS)
    calls = 8 + int(dice.expovariate(1 / MEAN_CALLS)) if call == ANY else dice.choice((1, 2, 3, 5, 8))
    return Life(f"{slot}.{number}", f"{seed}/{number}", call, calls, 0.2 + seconds)


class HesitantFiles(Files):
    """Waits a moment before some calls, as the scheduler may at any: what can come in between, does."""

    def __init__(self, life: Life) -> None:
        self._dice = random.Random(f"files of {life.seed}")

    def hesitate(self, share: float) -> None:
        if self._dice.random() < share:
            time.sleep(self._dice.random() * 0.003)

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        self.hesitate(0.05)
        return super().open(path, flags, mode)


class MortalFiles(HesitantFiles):
    """The file system of a writer: writes come out short now and then, and at one call the process dies.

    A short write is what the kernel may always do. Here it lets lock-free readers see half a line for as long as the
    writer lives, and leaves one behind if it does not.
    """

    def __init__(self, life: Life) -> None:
        super().__init__(life)
        self._call, self._left = life.call, life.calls
        self.folds = 0

    def _dies_at(self, call: str) -> bool:
        if self._call in (call, ANY):
            self._left -= 1
            return self._left <= 0
        return False

    def _pass(self, call: str) -> None:
        if self._dies_at(call):
            die()

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        self._pass("open")
        return super().open(path, flags, mode)

    def write_at(self, fd: int, data: bytes, offset: int) -> int:
        if self._dies_at("write_at"):
            super().write_at(fd, data[: self._dice.randrange(len(data) + 1)], offset)
            die()
        if len(data) > 1 and self._dice.random() < 0.15:
            done = super().write_at(fd, data[: self._dice.randrange(1, len(data))], offset)
            time.sleep(self._dice.random() * 0.001)  # half a line, in everybody's sight
            return done
        return super().write_at(fd, data, offset)

    def append(self, fd: int, data: bytes) -> int:
        if self._dies_at("append"):
            super().append(fd, data[: self._dice.randrange(len(data) + 1)])
            die()
        return super().append(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        self._pass("truncate")
        super().truncate(fd, size)

    def sync(self, fd: int) -> None:
        self._pass("sync")
        super().sync(fd)

    def sync_dir(self, path: str) -> None:
        self._pass("sync_dir")
        super().sync_dir(path)

    def mkdir(self, path: str, mode: int) -> None:
        self._pass("mkdir")
        super().mkdir(path, mode)

    def rename(self, old: str, new: str) -> None:
        self._pass("rename")
        self.hesitate(0.2)
        super().rename(old, new)
        self.folds += new.endswith("journal.jsonl")

    def unlink(self, path: str) -> None:
        self._pass("unlink")
        super().unlink(path)

    def remove_tree(self, path: str) -> None:
        if self._dies_at("remove_tree"):
            with suppress(FileNotFoundError):  # somebody who opened the store may be sweeping at the same time
                for entry in list(os.scandir(path))[:1]:
                    if entry.is_file():
                        os.unlink(entry)
            die()
        super().remove_tree(path)


def die() -> Never:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("outlived a SIGKILL")


def words(name: str, version: int) -> str:
    """What a message of this name says in this version: its length varies, and every byte of it can be checked."""
    dice = random.Random(f"{name} {version}")
    length = dice.choice((20, 20, 200, 200, 900, 3000))
    return f"{name} v{version} " + dice.choice("abcdefgh") * length
