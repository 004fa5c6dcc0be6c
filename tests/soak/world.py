"""The world of a soak: one store, a repository over it, its bounds, and what was written and said.

`Bounds` is everything that could grow with the ids ever seen. Time is moved by hand, so that entries expire; the disk
fails now and then, so that there is something to clean up after.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import random
import threading
import tracemalloc
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import orjson

from bamboo_sessions import JsonFileStorage, LockedSessionStore, SessionCache, SessionRepository
from bamboo_sessions._files import Files
from bamboo_sessions.storages.json_files import writer
from bamboo_sessions.storages.protocol import Commit

TTL = timedelta(minutes=10)


class SoakClock:
    """Moved by whoever works, seen by all threads."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._begin = datetime.now(UTC)
        self._moving = threading.Lock()  # guards _seconds

    def forward(self, seconds: float) -> None:
        with self._moving:
            self._seconds += seconds

    def now(self) -> datetime:
        return self._begin + timedelta(seconds=self._seconds)

    def monotonic(self) -> float:
        return self._seconds

    def sleep(self, seconds: float) -> None:
        self.forward(seconds)


class Tally:
    """Bytes written and bytes said; threads add to it without a lock, each to its own."""

    def __init__(self) -> None:
        self._mine = threading.local()
        self._all: list[Counter[str]] = []

    def add(self, name: str, size: int) -> None:
        counter = getattr(self._mine, "counter", None)
        if counter is None:
            counter = self._mine.counter = Counter()
            self._all.append(counter)
        counter[name] += size

    def of(self, name: str) -> int:
        return sum(counter[name] for counter in self._all)


class SoakFiles(Files):
    """Counts what is written, and lets one sync of many fail while `faults` is set."""

    def __init__(self, tally: Tally, faults: float, seed: int) -> None:
        self.tally, self.faults, self._rng = tally, faults, random.Random(seed)
        self.failing = threading.Event()  # shared by the copy that `without_syncs` makes

    def write_at(self, fd: int, data: bytes, offset: int) -> int:
        done = super().write_at(fd, data, offset)
        self.tally.add("written", done)
        return done

    def append(self, fd: int, data: bytes) -> int:
        done = super().append(fd, data)
        self.tally.add("written", done)
        return done

    def sync(self, fd: int) -> None:
        if self.failing.is_set() and self._rng.random() < self.faults:
            self.tally.add("faults", 1)
            raise OSError(errno.EIO, "on purpose")
        super().sync(fd)


class SoakStorage(JsonFileStorage):
    """Adds up what its callers say: the messages of each commit that went through, and its change of the head."""

    tally: Tally

    def commit(self, commit: Commit):
        stamp = super().commit(commit)
        change = commit.change
        self.tally.add("said", sum(map(len, change.add)) + len(orjson.dumps(change.head)))
        self.tally.add("commits", 1)
        return stamp


@attrs.frozen
class Bounds:
    """The sizes of everything that must not grow. The first five must be nought when nobody is at work."""

    locks: int
    held: int
    tickets: int
    unsaved: int
    refused: int
    descriptors: int
    threads: int
    cached: int
    tips: int
    listed: int
    traced: int
    """Bytes that Python has allocated, to the byte: what leaks shows here."""
    resident: int
    """Bytes of the process in memory. Shown and not judged: the allocator keeps a page for one object in it, and what
    traces Python's memory takes some as well."""

    def show(self) -> str:
        return (f"cached {self.cached:,}  tips {self.tips:,}  listed {self.listed:,}  locks {self.locks}  "
                f"unsaved {self.unsaved}  fds {self.descriptors}  threads {self.threads}  "
                f"python {self.traced / 2**20:,.2f} MiB  resident {self.resident / 2**20:,.0f} MiB")


class World:
    """One process's view of the store."""

    def __init__(self, root: Path, *, seed: int, cached: int, faults: float, durability: str = "process") -> None:
        self.root, self.clock, self.tally = root, SoakClock(), Tally()
        self.files = SoakFiles(self.tally, faults, seed)
        self.storage = SoakStorage(root, durability=durability, clock=self.clock, files=self.files)
        self.storage.tally = self.tally
        self.cache = SessionCache(cached, TTL, clock=self.clock)
        store = LockedSessionStore(self.storage, clock=self.clock)
        self.repo = SessionRepository(self.cache, self.storage, store, clock=self.clock)

    def bounds(self) -> Bounds:
        gc.collect()
        cache, storage, wr = self.cache, self.storage, self.storage._writer
        return Bounds(
            locks=len(self.repo.persistence._holds) + len(storage._outer) + len(storage._busy), held=len(storage._held),
            tickets=len(cache._tickets), unsaved=len(cache._unsaved), refused=len(wr._refused) + len(wr._fold_from),
            descriptors=len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0,
            threads=threading.active_count(), cached=len(cache), tips=len(storage._tips),
            listed=sum(map(len, storage._listing._kept.values())), traced=tracemalloc.get_traced_memory()[0], resident=resident_bytes())

    def amplification(self) -> float:
        return self.tally.of("written") / max(1, self.tally.of("said"))

    def ids_on_disk(self) -> list[str]:
        return [head["id"] for head, _ in self.storage.heads()]

    def overgrown(self) -> list[str]:
        """The journals that a fold should have shortened, with their sizes; a last line may stand beyond the bound."""
        found = []
        for session_id in self.ids_on_disk():
            place = self.storage._place(session_id)
            size = os.stat(place.journal).st_size
            limit = max(writer.FOLD_AT, writer.FOLD_RATIO * os.stat(place.snapshot).st_size)
            if size > limit + 16 * 1024:
                found.append(f"{session_id}: {size:,} > {limit:,}")
        return found

    def empty(self) -> None:
        """Delete every session, and let a listing see that."""
        self.files.failing.clear()
        self.repo.flush()
        for session_id in self.ids_on_disk():
            self.repo.delete(session_id)
        self.cache.clear()
        assert self.ids_on_disk() == []

    def close(self) -> None:
        self.repo.close()


def resident_bytes() -> int:
    """Of this process, after the C library gave back what it holds in reserve for threads that are gone."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
