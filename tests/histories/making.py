"""Making one history: threads of several processes at work on one place, some of them killed, and a last look at the end.

The workers are forked from one process that has everything imported and no thread of its own, so that a kill and the
new start cost some milliseconds. What session is talked about follows from how much was done in all, which the workers
keep in shared memory, each thread in a cell of its own. A storage that no second process can reach gets one process,
which nobody kills.
"""

from __future__ import annotations

import gc
import mmap
import os
import random
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from tests.histories.factories import FACTORIES, Factory
from tests.histories.recorder import Pen, Recorder
from tests.histories.traffic import Actor

CELL = struct.Struct("<q")


@dataclass(frozen=True)
class Plan:
    """One history: the same plan deals the same dice; who comes first is up to the machine."""

    seed: int
    factory: str = "json"
    operations: int = 20_000
    workers: int = 3
    threads: int = 2
    repos: int = 2
    span: int = 150
    """Operations after which the talk goes on to a new session."""
    kill_every: int = 350
    """Operations between two kills, on average; 0: nobody is killed."""

    def command(self) -> str:
        return (f"python -m tests.histories --factory {self.factory} --seed {self.seed} "
                f"--operations {self.operations} --histories 1")

    def processes(self) -> int:
        return self.workers if FACTORIES[self.factory].spans_processes else 1

    def threads_each(self) -> int:
        return self.threads if FACTORIES[self.factory].spans_processes else self.threads * 2


class Progress:
    """How much was done, by everybody: a cell a thread in memory that forked processes share."""

    def __init__(self, threads: int) -> None:
        self._cells = mmap.mmap(-1, CELL.size * threads)
        self._all = struct.Struct(f"<{threads}q")

    def add(self, cell: int, count: int) -> None:
        at = cell * CELL.size
        CELL.pack_into(self._cells, at, CELL.unpack_from(self._cells, at)[0] + count)

    def total(self) -> int:
        return sum(self._all.unpack_from(self._cells))


def make(plan: Plan, place: Path, say: Callable[[int, int], object] = lambda done, kills: None) -> int:
    """Fill `place` with a store and the logs of those who used it; gives the number of kills."""
    place.mkdir(parents=True, exist_ok=True)
    FACTORIES[plan.factory].make_ready(place)
    progress = Progress(plan.processes() * plan.threads_each())
    if not FACTORIES[plan.factory].spans_processes:
        _wait_for(_forked(lambda: _work_alone(plan, place, progress)), progress, say)
        return 0
    kills = _with_kills(plan, place, progress, say)
    _wait_for(_forked(lambda: _last_look(plan, place, FACTORIES[plan.factory](place), progress)), progress, say)
    return kills


def _with_kills(plan: Plan, place: Path, progress: Progress, say: Callable[[int, int], object]) -> int:
    """Keep all workers alive until enough is done, and kill one now and then: by what was done, not by the clock, so that
    a slow machine does not make for more that nobody knows."""
    dice, kills, due = random.Random(f"{plan.seed}/kills"), 0, 0
    alive: dict[int, int] = {}
    lives = [0] * plan.workers
    try:
        while (done := progress.total()) < plan.operations:
            for worker in set(range(plan.workers)) - set(alive.values()):
                lives[worker] += 1
                alive[_forked(lambda w=worker: _work(plan, place, progress, w, lives[w]))] = worker
            if not due:
                due = done + int(dice.expovariate(1 / plan.kill_every)) + 1 if plan.kill_every else plan.operations
            elif done >= due:
                _kill(dice.choice(sorted(alive)), alive)
                kills, due = kills + 1, 0
            else:
                _look_after(alive)
                time.sleep(0.001)
            say(done, kills)
        while alive:
            pid = next(iter(alive))
            _wait_for(pid, progress, say)
            del alive[pid]
    finally:
        for pid in list(alive):
            _kill(pid, alive)
    return kills


def _kill(pid: int, alive: dict[int, int]) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    del alive[pid]


def _look_after(alive: dict[int, int]) -> None:
    """A worker that ended before it was told to has found something that it could not record."""
    pid, status = os.waitpid(-1, os.WNOHANG)
    if pid in alive:
        del alive[pid]
        if status:
            raise RuntimeError(f"a worker ended by itself, with status {status}")


def _forked(work: Callable[[], None]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        gc.freeze()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # failures on purpose are many
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _wait_for(pid: int, progress: Progress, say: Callable[[int, int], object]) -> None:
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        say(progress.total(), -1)
        time.sleep(0.02)
    if status:
        raise RuntimeError(f"a worker ended with status {status}")


def _work(plan: Plan, place: Path, progress: Progress, worker: int, life: int) -> None:
    factory, name = FACTORIES[plan.factory](place), f"w{worker}-{life}"
    _at_work(plan, factory, Recorder(place / f"{name}.log", name), progress, worker, life)


def _work_alone(plan: Plan, place: Path, progress: Progress) -> None:
    factory = FACTORIES[plan.factory](place)
    _at_work(plan, factory, Recorder(place / "w0-1.log", "w0-1"), progress, 0, 1)
    _last_look(plan, place, factory, progress)


def _at_work(plan: Plan, factory: Factory, recorder: Recorder, progress: Progress, worker: int, life: int) -> None:
    """Small caches now and then: what was evicted has to be as good as what was kept."""
    dice = random.Random(f"{plan.seed}/{worker}/{life}")
    repos = [factory.open(dice.choice((2, 4, 10_000))) for _ in range(plan.repos)]
    broken: list[str] = []

    def run(thread: int) -> None:
        cell = worker * plan.threads_each() + thread
        actor = Actor(factory, repos, Pen(recorder, thread), f"{recorder.process}.{thread}", f"{plan.seed}/{worker}/{life}/{thread}",
                      lambda: progress.total() // plan.span)
        try:
            while progress.total() < plan.operations and not broken:
                actor.step()
                progress.add(cell, 1)
        except BaseException:
            broken.append(traceback.format_exc())

    threads = [threading.Thread(target=run, args=(number,)) for number in range(plan.threads_each())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if broken:
        raise RuntimeError(broken[0])
    for number, repo in enumerate(repos):
        pen = Pen(recorder, 100 + number)
        name = pen.begun("flush", "", number)
        repo.flush()
        pen.ended(name, "ok")


def _last_look(plan: Plan, place: Path, factory: Factory, progress: Progress, first: int = 0) -> None:
    """A newcomer's view of every session, after all the others are gone."""
    recorder = Recorder(place / "final.log", "final")
    pen, repo = Pen(recorder, 0), factory.open()
    for number in range(first, first + progress.total() // plan.span + 1):
        session_id, began = f"chat-{number}", time.monotonic_ns()
        pen.looked("load_merged", session_id, 0, began, "ok", repo.try_load_merged(session_id))
    repo.close()
