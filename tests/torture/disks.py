"""Disks that fail the way disks do: full, out of names, read-only, and forgetful after an error.

`Forgetful` is a model: beside the real files it keeps what a power cut would leave. A sync that fails marks the bytes as
clean although they never got there, so the next one "succeeds" without them; in its worst form the page cache loses them at
once as well. `tiny` is a real file system in memory, a few pages large, which writes short and then refuses, as a full disk
does. Each runs the scenarios of the torture with the judge of `errors`.

    python -m tests.torture.disks                             everything
    python -m tests.torture.disks --point forgetful/append/7/2/at-once
"""

from __future__ import annotations

import argparse
import copy
import errno
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import contextmanager, nullcontext

from tests.torture.errors import Broken, Ledger, Run, Stage, Stubborn, look, quickly, same
from tests.torture.scenarios import scenarios
from tests.unit.json_kit import PowerCut

# -- a disk that forgets ---------------------------------------------------------------------------------------------------


class Forgetful(PowerCut):
    """Fails `times` syncs from the `at`-th on; what such a sync was to save is clean from then on, and nowhere.

    "at-once": the page cache drops it as well, so that a read gives what the disk has: older bytes, or zeros. "stuck": no
    file can be cut off either until the last of these syncs has failed.
    """

    def __init__(self, root, at=0, times=1, how="at-cut"):
        super().__init__(str(root))
        self.at, self.times, self.at_once, self.stuck = at, times, how == "at-once", how == "stuck"
        self.count, self.struck, self.armed = 0, [], False
        self.dirty = {}

    def wall_ns(self):
        return super().wall_ns() + 60 * 10**9  # every stamp is old

    def write_at(self, fd, data, offset):
        self._note(fd, offset, len(data))
        return super().write_at(fd, data, offset)

    def append(self, fd, data):
        self._note(fd, len(self.open_nodes[fd].now), len(data))
        return super().append(fd, data)

    def _note(self, fd, start, size):
        self.dirty.setdefault(id(self.open_nodes[fd]), []).append((start, start + size))

    def sync(self, fd):
        node = self.open_nodes[fd]
        dirty = self.dirty.pop(id(node), [])
        if not self._fails("sync"):
            node.durable = self._saved(node, dirty)
            return
        if self.at_once:
            old = self._saved(node, [])
            for start, end in dirty:
                os.pwrite(fd, old[start:end], start)
            node.now = old
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _saved(self, node, dirty):
        """The size is the file's; only bytes that were dirty were written."""
        saved = bytearray(node.durable[: len(node.now)].ljust(len(node.now), b"\0"))
        for start, stop in dirty:
            end = min(stop, len(node.now))
            saved[start:end] = node.now[start:end]
        return bytes(saved)

    def truncate(self, fd, size):
        if self.stuck and self.at <= self.count < self.at + self.times - 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().truncate(fd, size)

    def sync_dir(self, path):
        if self._fails("sync_dir"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync_dir(path)

    def _fails(self, name):
        if not self.armed:
            return False
        self.count += 1
        fails = self.at > 0 and self.at <= self.count < self.at + self.times
        if fails:
            self.struck.append(name)
        return fails


HOWS = ("at-cut", "at-once", "stuck")
FORGETFUL = ("append", "create", "fold", "edit", "merge", "delete", "recreate", "usage", "two_writers", "questions", "first_open")


class CutRun:
    """A scenario on a forgetful disk, made with retries; whatever was acknowledged is there after a power cut."""

    def __init__(self, scenario, folder, at, times, how):
        self.scenario, self.folder = scenario, folder
        self.root = os.path.join(folder, "store")
        os.mkdir(self.root)
        self.disk = Forgetful(self.root, at, times, how)
        self.ledger = Ledger({})
        self.writers = Stubborn(self.root, {"files": self.disk, "lock_timeout": 0.5})

    def all(self):
        for change in self.scenario.prepared:
            self._made(change)
        self.disk.armed = True
        for change in self.scenario.changes:
            self._made(change)
        self.writers.close()
        return self.disk.count

    def _made(self, change):
        """Acknowledged, at the third attempt at the latest."""
        self.ledger.begin()
        run = Run(self.scenario, self.root, _Mended(), retry=True)
        run.writers, run.ledger = self.writers, self.ledger
        make = self.writers.make
        for attempt in range(4):
            before = len(self.disk.struck)
            if attempt and self.writers.tried is None and self.ledger.shows(look(self.root), change) and change.kind != "delete":
                return
            outcome = run._tried(make, change)
            if self.disk.struck:
                self._cut(f"{change.kind}: {outcome}")
                self._is_possible(look(self.root), f"after {change.kind} ({outcome})")
            if outcome == "done":
                return
            if len(self.disk.struck) == before and attempt:
                break
            make = self.writers.again
        raise Broken(f"{change.kind} is never acknowledged")

    def _cut(self, when):
        left = os.path.join(self.folder, "left")
        shutil.rmtree(left, ignore_errors=True)
        self.disk.after_cut(left)
        self._is_possible(look(left), f"after a power cut ({when})")

    def _is_possible(self, seen, when):
        """That it was seen settles nothing here: what is "unknown" may be in the page cache alone."""
        if not any(same(seen, state) for state in self.ledger.states):
            copy.deepcopy(self.ledger).confirm(seen, when)


class _Mended:
    lasting = False
    struck = ()

    def arming(self):
        return nullcontext()

    def mend(self):
        pass


# -- real file systems, a few pages large ------------------------------------------------------------------------------------


def mountable():
    """Why there can be no file system of our own; "" where there can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "only root may mount"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False)
        if done.returncode:
            return f"mounting is refused here: {done.stderr.decode().strip()}"
        subprocess.run(["umount", folder], check=True)
    return ""


@contextmanager
def tiny(options):
    """A file system in memory with these mount options."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


class _Real:
    """A cause that lasts until it is mended, and that is there from the `at`-th change on."""

    lasting = True
    struck = ()

    def __init__(self, folder, at, amount):
        self.folder, self.at, self.amount = folder, at, amount
        self.seen, self.on = 0, False
        self.writers = None

    @contextmanager
    def arming(self):
        self.seen += 1
        if self.seen == self.at:
            self.begin()
            self.on = True
        yield

    def mend(self):
        if self.on:
            self.end()
            self.on = False


class Full(_Real):
    """`amount` pages are left."""

    def begin(self):
        stat = os.statvfs(self.folder)
        with open(os.path.join(self.folder, "filler"), "wb", buffering=0) as file:
            file.write(bytes(max(0, stat.f_bavail - self.amount) * stat.f_frsize))

    def end(self):
        os.unlink(os.path.join(self.folder, "filler"))


class NoNames(_Real):
    """`amount` inodes are left."""

    def begin(self):
        os.mkdir(os.path.join(self.folder, "filler"))
        for number in range(os.statvfs(self.folder).f_favail - self.amount):
            os.mknod(os.path.join(self.folder, "filler", str(number)))

    def end(self):
        shutil.rmtree(os.path.join(self.folder, "filler"))


class ReadOnly(_Real):
    """Mounted anew, for reading; nobody may have a file open for writing then, so the writers begin anew as well."""

    def begin(self):
        self.writers.close()
        subprocess.run(["mount", "-o", "remount,ro", self.folder], check=True)

    def end(self):
        subprocess.run(["mount", "-o", "remount,rw", self.folder], check=True)


KINDS = {"full": (Full, "size=2m", range(9)), "no-names": (NoNames, "size=2m,nr_inodes=300", range(6)),
         "read-only": (ReadOnly, "size=2m", range(1))}


def on_real(stage, kind, name, at, amount):
    """One scenario on a real disk that is full (and so on) from its `at`-th change on, until that has failed twice."""
    made, options, _ = KINDS[kind]
    with tiny(options) as folder:
        store = os.path.join(folder, "store")
        shutil.copytree(stage.ready(name), store)
        cause = made(folder, at, amount)
        run = Run(stage.scenarios[name], store, cause, retry=True)
        cause.writers = run.writers
        try:
            run.all()
        finally:
            cause.mend()
        return run.told


# -- all of them -----------------------------------------------------------------------------------------------------------------


def points(seed, most):
    dice, chosen = random.Random(f"{seed}/disks"), []
    for name in FORGETFUL:
        with tempfile.TemporaryDirectory() as folder:
            syncs = CutRun(scenarios(seed)[name], folder, 0, 1, "at-cut").all()
        mine = [f"forgetful/{name}/{at}/{times}/{how}" for at in range(1, syncs + 1) for times in (1, 2, 3)
                for how in HOWS]
        chosen += dice.sample(mine, min(most, len(mine)))
    if not mountable():
        for kind, (_, _, amounts) in KINDS.items():
            for name, scenario in scenarios(seed).items():
                mine = [f"{kind}/{name}/{at}/{amount}/-" for at in range(1, len(scenario.changes) + 1) for amount in amounts]
                chosen += dice.sample(mine, min(most // 3 if kind == "full" else most // 8, len(mine)))
    return chosen


def failure(stage, point):
    """(why it fails or "", what callers were told)"""
    kind, name, at, amount, how = point.split("/")
    try:
        if kind != "forgetful":
            return "", on_real(stage, kind, name, int(at), int(amount))
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
            CutRun(stage.scenarios[name], folder, int(at), int(amount), how).all()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({os.path.basename(where.filename)}:{where.lineno})", Counter()
    return "", Counter()


def run_all(seed, most, kinds=None):
    report, stage, failures = Counter(), Stage(seed), []
    with quickly():
        for point in points(seed, most):
            kind = point.split("/")[0]
            if kinds and kind not in kinds:
                continue
            why, _ = failure(stage, point)
            report[kind] += 1
            if why:
                failures.append((point, why))
    stage.close()
    return report, failures


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.torture.disks")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--most", type=int, default=24, help="points a scenario")
    parser.add_argument("--kind", action="append")
    parser.add_argument("--point")
    given = parser.parse_args()
    if given.point:
        stage = Stage(given.seed)
        with quickly():
            why, told = failure(stage, given.point)
        stage.close()
        print(why or f"right; told {dict(told)}")
        return 1 if why else 0
    began = time.perf_counter()
    if mountable():
        print(f"skipped: full, no-names, read-only ({mountable()})")
    report, failures = run_all(given.seed, given.most, given.kind)
    for point, why in failures[:40]:
        print(f"FAILED {why}\n    python -m tests.torture.disks --seed {given.seed} --point {point}")
    print(f"{report.total()} points: {dict(report)}; {len(failures)} failures; {time.perf_counter() - began:.1f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
