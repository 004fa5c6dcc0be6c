"""Every prefix of the blocks that ext4 writes, mounted and judged: what the real journal makes of a power cut anywhere.

Stories are played, with every sync, on an ext4 whose disk remembers what is written to it (`blocklog_serve`). Then, for a cut
behind each block written, the disk is made as it may be then, in three variants - **all** that was written is there; what was
written since the last flush is **dropped**; of that, **every other** block is there - and is mounted, which plays ext4's own
journal back, and judged as a state of the model is (`states.judge_store`).

    python -m tests.torture.blocklog                                       all stories
    python -m tests.torture.blocklog --story fold --entry 812 --variant odd    one prefix
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

from tests.torture.blocklog_serve import Entry, read_log
from tests.torture.cuts_disk import make, mount, unmount
from tests.torture.judge import Wrong
from tests.torture.scenarios import scenarios
from tests.torture.states import ROOT, Played, Told, judge_store, play, quiet
from tests.torture.states_faults import FAULTS
from tests.torture.states_work import stories

MEGABYTES = 16
VARIANTS = ("all", "dropped", "odd")
STORIES = tuple(scenarios())
PATIENCE = 20.0


@attrs.define
class Recorded:
    """A story, the disk before it, and what was written to that since; `first`: the entry behind its preparation."""

    name: str
    played: Played
    image: bytes
    entries: list[Entry]
    first: int

    def prefixes(self) -> Iterator[int]:
        """After each block written, and after each word told."""
        for number in range(self.first, len(self.entries) + 1):
            if number == self.first or self.entries[number - 1] is not None:
                yield number

    def told(self, prefix: int) -> list[int]:
        return [int(entry) for entry in self.entries[self.first : prefix] if isinstance(entry, bytes)]

    def writes(self, prefix: int, variant: str) -> tuple[int, ...]:
        """The numbers of the writes that are on the disk."""
        flushed = max((number for number in range(prefix) if self.entries[number] is None), default=-1)
        written = [number for number in range(prefix) if isinstance(self.entries[number], tuple)]
        since = [number for number in written if number > flushed]
        return tuple(number for number in written if number <= flushed or variant == "all" or (variant == "odd" and number in since[::2]))

    def disk(self, writes: Sequence[int]) -> bytearray:
        made = bytearray(self.image)
        for number in writes:
            entry = self.entries[number]
            assert isinstance(entry, tuple)
            made[entry[0] : entry[0] + len(entry[1])] = entry[1]
        return made


@contextmanager
def workshop() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="block-log-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    for name in ("fuse", "mounted"):
        (base / name).mkdir()
    try:
        yield base
    finally:
        for name in ("mounted", "fuse"):
            with suppress(subprocess.CalledProcessError):
                if os.path.ismount(base / name):
                    unmount(base / name)
        shutil.rmtree(base, ignore_errors=True)


@contextmanager
def remembering(base: Path) -> Iterator[Path]:
    """The file that is a disk, while what is written to it goes into `base/log`."""
    command = [sys.executable, "-m", "tests.torture.blocklog_serve", str(base / "fuse"), str(base / "image"), str(base / "log")]
    server = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (base / "fuse" / "disk").exists():
            if server.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the disk does not come up: {server.communicate(timeout=1)[1].decode()[-500:]}")
            time.sleep(0.01)
        yield base / "fuse" / "disk"
    finally:
        with suppress(subprocess.CalledProcessError):
            unmount(base / "fuse")
        server.communicate(timeout=PATIENCE)


def record(name: str, seed: str, base: Path, fault: str | None = None) -> Recorded:
    """Play the story on ext4, once."""
    image = base / "image"
    make(image, "ext4", "-J", "size=4", megabytes=MEGABYTES)
    before = image.read_bytes()
    with remembering(base) as disk:
        if not mount(disk, base / "mounted"):
            raise AssertionError("ext4 on the remembering disk cannot be mounted")
        try:
            told = os.open(base / "fuse" / "told", os.O_WRONLY)
            try:
                played = play(stories(seed)[name], seed, base / "mounted", FAULTS[fault] if fault else None, _Told(told, base / "mounted"))
            finally:
                os.close(told)
        finally:
            unmount(base / "mounted")
    entries = list(read_log(base / "log"))
    return Recorded(name, played, before, entries, entries.index(b"ready") + 1)


class _Told(Told):
    """Puts into the disk's log when the story begins, on a disk that has everything until then, and what was acknowledged."""

    def __init__(self, fd: int, mounted: Path) -> None:
        self.fd, self.mounted = fd, mounted

    def ready(self) -> None:
        subprocess.run(["sync", "-f", str(self.mounted)], check=True)
        os.write(self.fd, b"ready")

    def acknowledged(self, number: int) -> None:
        os.write(self.fd, b"%d" % number)


@attrs.define
class Tally:
    name: str
    states: int = 0
    judged: int = 0
    wrong: list[tuple[str, str, str]] = attrs.field(factory=list)

    def __str__(self) -> str:
        kinds = dict(Counter(kind for kind, _, _ in self.wrong))
        told = [f"{self.name}: {self.states} distinct disks of ext4, {self.judged} judged, {len(self.wrong)} wrong {kinds or ''}"]
        told += [f"{kind}: {why}\n  reproduce: {command}" for kind, command, why in self.wrong[:2]]
        return "\n".join(told)


def try_all(name: str, seed: str = "1", *, fault: str | None = None, entry: int | None = None, variants: Sequence[str] = VARIANTS,
            stop_after: int = 5) -> Tally:
    """Record the story and judge every prefix, or the one behind `entry`."""
    tally = Tally(name)
    with workshop() as base:
        recorded = record(name, seed, base, fault)
        disks, seen = set[tuple[int, ...]](), set[tuple[tuple[int, ...], int]]()
        for prefix in recorded.prefixes() if entry is None else [entry]:
            done = recorded.told(prefix)
            for variant in variants:
                writes = recorded.writes(prefix, variant)
                if (writes, len(done)) in seen:
                    continue
                seen.add((writes, len(done)))
                disks.add(writes)
                tally.states, tally.judged = len(disks), len(seen)
                try:
                    _look(base, recorded, writes, done)
                except Wrong as error:
                    command = f"{sys.executable} -m tests.torture.blocklog --seed {seed} --story {name}" + (
                        f" --fault {fault}" if fault else "") + f" --entry {prefix} --variant {variant}"
                    tally.wrong.append((error.kind, command, f"{error}\n  behind entry {prefix}, {variant}"))
                    if len(tally.wrong) >= stop_after:
                        return tally
    return tally


def _look(base: Path, recorded: Recorded, writes: Sequence[int], done: Sequence[int]) -> None:
    image, mounted = base / "cut", base / "mounted"
    image.write_bytes(recorded.disk(writes))
    if not mount(image, mounted):
        raise Wrong("broken", "ext4 cannot be mounted")
    try:
        lost = recorded.played.may_be_lost(done)
        perhaps = [*lost, *recorded.played.under_way(done)]
        judge_store(str(mounted / "store"), recorded.played, [number for number in done if number not in lost], perhaps)
    except Wrong:
        raise
    except Exception as error:
        raise Wrong("broken", f"{type(error).__name__}: {error}") from error
    finally:
        unmount(mounted)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.torture.blocklog", description="Judge every prefix of ext4's blocks.")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--story", help="one alone; any of tests.torture.states")
    parser.add_argument("--fault", choices=FAULTS, help="with this defect")
    parser.add_argument("--entry", type=int, help="the prefix up to here")
    parser.add_argument("--variant", choices=VARIANTS)
    told = parser.parse_args()
    quiet()
    wrong, states, began = 0, 0, time.monotonic()
    for name in [told.story] if told.story else STORIES:
        tally = try_all(name, told.seed, fault=told.fault, entry=told.entry, variants=[told.variant] if told.variant else VARIANTS)
        wrong, states = wrong + len(tally.wrong), states + tally.states
        print(tally, f"({states:,} in {time.monotonic() - began:.0f} s)", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
