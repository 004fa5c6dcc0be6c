"""Torture: processes write and read shared sessions of JSON files and are killed, thousands of times, in mid-work.

    python -m tests.torture.kills --seed 7 --kills 4200 --seconds 100

This process imports everything once and then only forks and kills: four writers and two readers at a time, each life
some tens of milliseconds long, each death followed by a birth in the same place. A judge in a process of its own follows.

A seed repeats the plan: who lives after whom, the dice that each throws, and at which call to the file system it dies.
Who runs when beside whom, and so what each finds in the store, is the machine's choice: a finding may need several runs
to come again.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any

import orjson

from tests.torture import kills_defects
from tests.torture.kills_judge import sit
from tests.torture.kills_lives import READERS, WRITERS, Life, plan
from tests.torture.kills_log import Log
from tests.torture.kills_writers import Writer
from tests.torture.readers import Reader

PACE = 55
"""Deaths a second, at least, whatever the machine: 4,200 in 76 seconds."""
LAST_WORDS = 60.0
"""Seconds that the judge may take for its last look."""


class Run:
    """One run: a store, a log, lives, and a judge."""

    def __init__(self, folder: str, seed: int, kills: int, seconds: float, defect: str | None) -> None:
        self.root, self.log_path = os.path.join(folder, "store"), os.path.join(folder, "log")
        self.seed, self.kills, self.seconds, self.defect = seed, kills, seconds, defect
        self.log = Log(self.log_path)
        self.alive: dict[int, tuple[Life, float]] = {}
        self.started = self.killed = self.mid_call = 0
        self.verdict: dict[str, Any] = {"counts": {}, "wrong": {}}
        self.took = 0.0

    def go(self, show: Callable[[Run], None]) -> None:
        self.begun = shown = time.monotonic()
        judge, answers, stop = self._seat_the_judge()
        try:
            for slot in WRITERS + READERS:
                self._start(slot)
            while self.killed < self.kills and self.took < self.seconds and not self._is_condemned():
                self._step(judge, answers)
                self.took = time.monotonic() - self.begun
                if time.monotonic() - shown > 1:
                    shown = time.monotonic()
                    show(self)
        finally:
            for pid in list(self.alive):
                self._end(pid)
            os.close(stop)
        self._hear(answers, until=time.monotonic() + LAST_WORDS)
        os.kill(judge, signal.SIGKILL)
        os.waitpid(judge, 0)
        show(self)

    def _is_condemned(self) -> bool:
        """Anything wrong will do; of a planted defect we want to see what it is known by, not its first side effect."""
        wrong: dict[str, list[str]] = self.verdict["wrong"]
        return bool(wrong.keys() & kills_defects.DEFECTS[self.defect].rules if self.defect else wrong)

    def _step(self, judge: int, answers: int) -> None:
        now = time.monotonic()
        by_end = sorted(self.alive.items(), key=lambda item: item[1][1])
        # On a busy machine lives last longer than planned; so that a run is one all the same, the next to die goes now.
        late = PACE * (now - self.begun) > self.killed + len(self.alive)
        for index, (pid, (_, until)) in enumerate(by_end):
            if until <= now or (late and index == 0):
                self._start(self._end(pid))
        self._reap(judge)
        self._hear(answers)
        time.sleep(0.001)

    def _reap(self, judge: int) -> None:
        """Those who died by themselves, as planned or not."""
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if pid == judge:
                raise SystemExit("the judge died; see above")
            self._start(self._buried(pid, os.waitstatus_to_exitcode(status)))

    def _end(self, pid: int) -> str:
        os.kill(pid, signal.SIGKILL)
        return self._buried(pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), planned=False)

    def _buried(self, pid: int, status: int, *, planned: bool = True) -> str:
        life, _ = self.alive.pop(pid)
        if status == -signal.SIGKILL:
            self.killed += 1
            self.mid_call += planned
        elif status != 1:  # whoever raised something wrote down what
            self.log.write("wrong", rule="crash", life=life.name, what=f"ended by itself with status {status}")
        self.log.write("dead", life=life.name)
        return life.slot

    def _start(self, slot: str) -> None:
        life = plan(self.seed, self.started, slot)
        self.started += 1
        parent, pid = os.getpid(), os.fork()
        if not pid:
            live(self.root, self.log, life, parent, self.defect)
        self.alive[pid] = (life, time.monotonic() + life.seconds)

    # -- the judge ---------------------------------------------------------------------------------------------------

    def _seat_the_judge(self) -> tuple[int, int, int]:
        """(process, where its verdicts come from, what to close when the run is over)"""
        (answers, told), (watched, stop) = os.pipe(), os.pipe()
        pid = os.fork()
        if not pid:
            os.close(stop)
            judge(self.root, self.log_path, self.seed, told, watched)
        os.close(told)
        os.close(watched)
        os.set_blocking(answers, False)
        self._heard = b""
        return pid, answers, stop

    def _hear(self, answers: int, until: float = 0) -> None:
        while True:
            try:
                data = os.read(answers, 1 << 20)
            except BlockingIOError:
                data = None
            if data:
                self._heard += data
                *whole, self._heard = self._heard.split(b"\n")
                self.verdict = orjson.loads(whole[-1]) if whole else self.verdict
            elif self.verdict.get("final") or time.monotonic() >= until:
                break
            elif data == b"":
                self.verdict["wrong"].setdefault("judge", []).append("it died without a verdict; see above")
                break
            else:
                time.sleep(0.005)
        if until and not self.verdict.get("final"):
            self.verdict["wrong"].setdefault("judge", []).append("no last verdict")

    def line(self) -> str:
        count = self.verdict["counts"]
        shown = ("acks", "looks", "in doubt", "deletes", "folds", "tails")
        return (f"{self.took:5.1f} s  kills {self.killed} ({self.mid_call} in mid-call)  "
                + "  ".join(f"{name} {count.get(name, 0)}" for name in shown))


def live(root: str, log: Log, life: Life, parent: int, defect: str | None) -> None:
    """A life, in its own process, until it is killed; anything else that ends it is a finding."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the library's log may say that a torn tail was cut: as it should
        if defect is not None:
            kills_defects.plant(defect, life)
        (Reader(root, log, life) if life.is_reader else Writer(root, log, life)).run(parent)
    except BaseException as error:
        rule, whose = f"raised {type(error).__name__}", getattr(error, "session_id", None) or "?"
        last = "".join(traceback.format_exception(error)[-3:])
        log.write("wrong", rule=rule, life=life.name, s=whose, what=last[-1500:])
    finally:
        os._exit(1)


def judge(root: str, log: str, seed: int, told: int, watched: int) -> None:
    os.set_blocking(watched, False)

    def tell(verdict: dict[str, Any]) -> None:
        os.write(told, orjson.dumps(verdict) + b"\n")

    def is_over() -> bool:
        try:
            return not os.read(watched, 1)
        except BlockingIOError:
            return False

    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sit(root, log, seed, tell, is_over)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture.kills", description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=None, help="the plan; drawn at random and printed where not given")
    parser.add_argument("--kills", type=int, default=4200, help="stop after so many")
    parser.add_argument("--seconds", type=float, default=100, help="stop after so long, at the latest")
    parser.add_argument("--defect", choices=sorted(kills_defects.DEFECTS), help="plant one and see it caught")
    parser.add_argument("--folder", help="work here, and keep everything")
    parser.add_argument("--json", action="store_true", help="the verdict as one line of JSON, for a test")
    asked = parser.parse_args(arguments)
    if not hasattr(os, "fork"):
        print("this system cannot fork")
        return 2
    seed = random.SystemRandom().getrandbits(32) if asked.seed is None else asked.seed
    folder = asked.folder or tempfile.mkdtemp(prefix="torture-", dir=_in_memory())
    os.makedirs(folder, exist_ok=True)
    gc.freeze()  # what was imported is shared by all lives, also after their first collection
    run = Run(folder, seed, asked.kills, asked.seconds, asked.defect)
    run.go(lambda run: print(run.line(), file=sys.stderr, flush=True))
    return report(run, asked, folder)


def _in_memory() -> str | None:
    """kill -9 leaves the page cache as it is, so that a disk would add nothing but its slowness."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def report(run: Run, asked: argparse.Namespace, folder: str) -> int:
    wrong, count = run.verdict["wrong"], run.verdict["counts"]
    command = (f"python -m tests.torture.kills --seed {run.seed} --kills {run.kills} --seconds {run.seconds:g}"
               + (f" --defect {run.defect}" if run.defect else ""))
    if asked.json:
        print(orjson.dumps({"kills": run.killed, "mid_call": run.mid_call, "counts": count, "wrong": wrong,
                            "command": command, "folder": folder, "seconds": run.took}).decode())
    else:
        print("  ".join(f"{name} {number}" for name, number in sorted(count.items())))
        for rule, found in wrong.items():
            print(f"\n{rule}:", *found, sep="\n  ")
    if wrong and not run.defect:
        print(f"\nstore and log are kept in {folder}\nthe same plan again, though who runs when is the machine's choice:\n"
              f"  {command}", file=sys.stderr)
    elif not asked.folder:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
