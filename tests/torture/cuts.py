"""Real power cuts: several processes write to a real file system, it is shut down under them, mounted again, and judged.

Each writer has two chats of its own, in which it says, edits, asks, deletes, creates and so on, and all say words in one chat
that they share. What is begun and what is acknowledged is noted outside, in a file that keeps its power. After each cut the
store goes on with what was found, so that later cuts meet journals and snapshots that earlier ones have left.

    python -m tests.torture.cuts --kind ext4 --seed 7 --cuts 50

Only what was acknowledged *before* the shutdown began is owed. The kernel takes a while to shut a file system down, and lets a
sync that is under way meanwhile return without an error: of 75 plain files that were appended to and synced in a loop, 14 on
ext4 and 5 on xfs lost a line that was acknowledged in that while, and none lost an earlier one.

A seed repeats what each writer does, and how long it is left to work; the machine decides what it is doing at that moment.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs

from bamboo_sessions import SessionRepository, StorageError
from bamboo_sessions._files import Files
from tests.torture import judge
from tests.torture.cuts_disk import MAKE, PoweredDisk
from tests.torture.judge import Wrong
from tests.torture.scenarios import Change, Model, Settled, Writers, after
from tests.torture.states import quiet
from tests.torture.states_faults import FAULTS
from tests.torture.states_work import KINDS, Words, change_of

WRITERS = 3
LONGEST = 0.12
"""Seconds that writers are left to work."""
PATIENCE = 20.0
SHARED = "shared"


def changes_of(writer: int, turn: int, seed: str, model: Model) -> Iterator[Change]:
    """What a writer does after the power came back, without an end; `model`: its chats as they were found."""
    dice, words = random.Random(f"{seed}/{turn}/{writer}"), Words(f"{seed}/{turn}/{writer}", f"writer {writer} turn {turn} ")
    chats = [f"chat-{writer}-0", f"chat-{writer}-1"]
    while True:
        if dice.random() < 0.2:
            yield Change("say", SHARED, words())
            continue
        dice.shuffle(chats)
        change = change_of(dice.choice(KINDS), model, words, (chats[0], chats[1]))
        if change is not None:
            yield change
            model = after(model, [change])


# -- writers ---------------------------------------------------------------------------------------------------------------


def write(folder: Path, notes: Path, changes: Iterator[Change], files: Files) -> None:
    """One writer's life, until the power goes: then its calls fail, or it is killed."""
    fd = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    writers = Writers(folder, {"files": files})
    try:
        for change in changes:
            os.write(fd, b"begun\n")
            writers.make(change)
            os.write(fd, b"acknowledged\n")
    except StorageError as error:
        os.write(fd, f"failed: {error}\n".encode())


def start(*told: Any) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        write(*told)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


@attrs.frozen
class Noted:
    """What one writer began, and how many of these it heard to be done: the first ones."""

    begun: int
    acknowledged: int

    @classmethod
    def read(cls, path: Path) -> Noted:
        lines = path.read_text().splitlines() if path.exists() else []
        return cls(lines.count("begun"), lines.count("acknowledged"))


# -- a store under cuts --------------------------------------------------------------------------------------------------


@attrs.define
class Run:
    """The store on one disk, and what is known of it: each writer's chats, and the words in the shared one."""

    disk: PoweredDisk
    seed: str
    files: type[Files] = Files
    models: list[Model] = attrs.field(factory=lambda: [{} for _ in range(WRITERS)])
    shared: list[str] = attrs.field(factory=list)
    acknowledged: int = 0

    @property
    def store(self) -> Path:
        return self.disk.path / "store"

    def begin(self) -> None:
        """The shared chat, durably."""
        with closing(SessionRepository.open(self.store)) as repo:
            first = Change("create", SHARED, "the first word")
            Writers.create(None, repo, first)  # type: ignore[arg-type]
        self.shared.append("the first word")

    def turn(self, number: int) -> None:
        """Let them write, cut, and judge; raises `Wrong`."""
        dice, notes = random.Random(f"{self.seed}/{number}"), [self.disk.outside / f"{number}-{writer}" for writer in range(WRITERS)]
        work = [changes_of(writer, number, self.seed, model) for writer, model in enumerate(self.models)]
        pids = [start(self.store, *each, self.files()) for each in zip(notes, work, strict=True)]
        try:
            self._wait_for(notes)
            time.sleep(dice.uniform(0, LONGEST))
            heard = [Noted.read(path) for path in notes]
            self.disk.cut()
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self.disk.off()
        self.disk.on()
        begun = [Noted.read(path).begun for path in notes]
        self.judge(number, [attrs.evolve(one, begun=count) for one, count in zip(heard, begun, strict=True)])

    def _wait_for(self, notes: Sequence[Path]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not all(Noted.read(path).acknowledged for path in notes):
            if time.monotonic() > deadline:
                raise AssertionError(f"no writer comes to write: {[path.read_text()[-300:] for path in notes if path.exists()]}")
            time.sleep(0.002)

    def judge(self, number: int, noted: Sequence[Noted]) -> None:
        self.acknowledged += sum(one.acknowledged for one in noted)
        told = [self._told(writer, number, one.begun) for writer, one in enumerate(noted)]
        chats = {change.chat for changes in told for change in changes} | {chat for model in self.models for chat in model}
        options = {"durability": "process", "files": Settled()}
        try:
            with closing(SessionRepository.open(self.store, **options)) as repo:  # type: ignore[arg-type]
                seen = judge.observe(repo, self.store, chats | {SHARED})
                judge._undamaged(repo)
            with closing(SessionRepository.open(self.store, **options)) as repo:  # type: ignore[arg-type]
                again = judge.observe(repo, self.store, chats | {SHARED})
        except Wrong:
            raise
        except Exception as error:
            raise Wrong("broken", f"{type(error).__name__}: {error}") from error
        if not judge.same(again, seen):
            raise Wrong("moving", "a second opening gives another state")
        self._compare(seen, told, noted)

    def _told(self, writer: int, number: int, count: int) -> list[Change]:
        work = changes_of(writer, number, self.seed, self.models[writer])
        return [next(work) for _ in range(count)]

    def _compare(self, seen: Model, told: Sequence[Sequence[Change]], noted: Sequence[Noted]) -> None:
        found = seen.get(SHARED, {"messages": []})["messages"]
        words = list(self.shared)
        for writer, (changes, one) in enumerate(zip(told, noted, strict=True)):
            own = {chat: session for chat, session in seen.items() if chat.startswith(f"chat-{writer}-")}
            steps = [change for change in changes if change.chat != SHARED]
            done = [change for change in changes[: one.acknowledged] if change.chat != SHARED]
            self.models[writer] = judge.matching(own, self.models[writer], steps, range(len(done)), range(len(done), len(steps)))
            said = [change.text for change in changes if change.chat == SHARED]
            owed = [change.text for change in changes[: one.acknowledged] if change.chat == SHARED]
            there = [word for word in found if word in said]
            if there != said[: max(len(owed), len(there))]:
                raise Wrong("lost", f"of writer {writer}'s words in {SHARED!r}, {_short(owed)} acknowledged, there is {_short(there)}")
            words += said
        if found[: len(self.shared)] != self.shared or len(set(found)) != len(found) or not set(found) <= set(words):
            raise Wrong("lost", f"{SHARED!r} began with {_short(self.shared)} and now is {_short(found)}")
        self.shared = list(found)


def _short(words: Sequence[str]) -> list[str]:
    return [word.rstrip("x") for word in words]


def try_cuts(kind: str, cuts: int, seed: str, files: type[Files] = Files, told: Any = None) -> Run:
    """So many cuts of one store; raises `Wrong` with the command that repeats it. `told`: called after each."""
    disk = PoweredDisk(kind)
    try:
        run = Run(disk, seed, files)
        run.begin()
        for number in range(cuts):
            try:
                run.turn(number)
            except Wrong as error:
                why = str(error).removeprefix(f"{error.kind}: ")
                raise Wrong(error.kind, f"{why}\n  after cut {number + 1}\n  reproduce: {command(kind, number + 1, seed)}") from error
            if told is not None:
                told(number + 1, run)
        return run
    finally:
        disk.close()


def command(kind: str, cuts: int, seed: str) -> str:
    return f"{sys.executable} -m tests.torture.cuts --kind {kind} --cuts {cuts} --seed {seed}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.torture.cuts", description="Cut the power under several writers.")
    parser.add_argument("--kind", choices=MAKE, default="ext4")
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--fault", choices=FAULTS, help="writers with this defect of their file layer")
    told = parser.parse_args()
    quiet()
    files = FAULTS[told.fault].files if told.fault else Files
    began = time.monotonic()

    def progress(number: int, run: Run) -> None:
        if number % 10 == 0 or number == told.cuts:
            print(f"{number} cuts of {told.kind}, {run.acknowledged} changes acknowledged, none lost, {time.monotonic() - began:.0f} s", flush=True)

    try:
        try_cuts(told.kind, told.cuts, told.seed, files or Files, progress)
    except Wrong as error:
        sys.exit(f"{error}" + (f" --fault {told.fault}" if told.fault else ""))


if __name__ == "__main__":
    main()
