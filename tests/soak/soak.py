"""A soak: a great many operations, and in the end everything is where it began.

The beginning is measured after a first round of work on an empty store that was emptied again, so that tables which
fill up to a bound (paths, tips) are full, and memory that Python keeps is kept. Then come the operations, by several
threads here and by a second process beside. Then the store is emptied once more, and what is left is compared.
"""

from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import attrs
import orjson

from bamboo_sessions.storages.json_files.tips import KEPT as TIPS_KEPT
from tests.soak.work import Worker, at_work
from tests.soak.world import Bounds, World

ROOT = Path(__file__).parents[2]


@attrs.frozen
class Plan:
    """How much of everything."""

    seed: int
    operations: int = 1_000_000
    ids: int = 100_000
    threads: int = 3
    cached: int = 2_000
    faults: float = 0.0005
    durability: str = "process"
    more_traced: int = 256 * 1024
    """Bytes that may be left in the end: what an interpreter goes on remembering, whatever the number of operations."""

    def beside(self) -> int:
        """Operations of the second process: half of them, so that two cores are used."""
        return self.operations // 2

    def here(self) -> int:
        """The rest, the same for each thread."""
        return (self.operations - self.beside()) // self.threads * self.threads

    def warm_up(self) -> int:
        return min(self.ids, 6_000)


@attrs.define
class Report:
    """What came out. `broken` names every bound that did not hold."""

    plan: Plan
    before: Bounds
    during: Bounds
    after: Bounds
    done: Counter[str]
    met: Counter[str]
    written: float
    """Bytes written per byte said."""
    beside: dict
    seconds: float
    broken: list[str]

    def show(self) -> str:
        title = f"seed {self.plan.seed}: {sum(self.done.values()):,} operations here, {self.plan.beside():,} beside"
        lines = [f"{title}, over {self.plan.ids:,} ids in {self.seconds:,.0f} s",
                 "did     " + "  ".join(f"{name} {count:,}" for name, count in self.done.most_common()),
                 "met     " + ("  ".join(f"{name} {count:,}" for name, count in self.met.most_common()) or "nothing"),
                 f"began   {self.before.show()}", f"at work {self.during.show()}", f"ended   {self.after.show()}",
                 f"beside  {self.beside}", f"written per byte said: {self.written:.2f}"]
        return "\n".join([*lines, *(f"BROKEN: {line}" for line in self.broken)])


def soak(plan: Plan, folder: Path, say=lambda _: None) -> Report:
    """Run the plan below `folder`."""
    world, began = World(folder, seed=plan.seed, cached=plan.cached, faults=plan.faults,
                         durability=plan.durability), time.monotonic()
    tracemalloc.start()
    try:
        say("warming up")
        _warm_up(world, plan)
        before = world.bounds()
        workers = [Worker(world, plan.ids, plan.seed * 1000 + number) for number in range(plan.threads)]
        beside = _process_beside(plan, folder) if plan.beside() else None
        broken = _work(world, plan, workers, say)
        told = _told(beside, broken)
        world.repo.flush()
        during, written = world.bounds(), world.amplification()
        broken += [f"journal not folded: {line}" for line in world.overgrown()]
        say("emptying")
        done, met = Counter(), Counter()
        for worker in workers:
            done += worker.done
            met += worker.met
            broken += worker.surprises[:5]
        workers.clear()
        world.empty()
        after = world.bounds()
    finally:
        world.close()
        tracemalloc.stop()
    broken += out_of_bounds(plan, before, after, written)
    return Report(plan, before, during, after, done, met, written, told, time.monotonic() - began, broken)


def _warm_up(world: World, plan: Plan) -> None:
    worker = Worker(world, plan.warm_up(), plan.seed)
    for number in range(plan.warm_up()):
        worker.turn(f"chat-{number}")
    for _ in range(plan.warm_up()):
        worker.step()
    world.empty()


def _work(world: World, plan: Plan, workers: list[Worker], say) -> list[str]:
    """Let them work, looking on: the bounds of a running repository hold at every moment, not only at the end."""
    broken, last = [], time.monotonic()
    with at_work(world, workers, plan.here()) as stop:
        while (done := sum(sum(worker.done.values()) for worker in workers)) < plan.here():
            time.sleep(0.1)
            if time.monotonic() - last > 2:
                last = time.monotonic()
                say(f"{done:,} of {plan.here():,}  written/said {world.amplification():.2f}")
                broken += running_over(plan, world)
            if broken or any(worker.surprises for worker in workers):
                stop.set()
                break
    return broken


def running_over(plan: Plan, world: World) -> list[str]:
    """What exceeds its bound while everybody is at work."""
    locks = len(world.repo.persistence._holds)
    found = {"locks held or waited for": (locks, plan.threads), "tips": (len(world.storage._tips), TIPS_KEPT + plan.threads),
             "cached": (len(world.cache), plan.cached + len(world.cache._unsaved) + 1)}
    return [f"{name} at work: {size} > {most}" for name, (size, most) in found.items() if size > most]


def out_of_bounds(plan: Plan, before: Bounds, after: Bounds, written: float) -> list[str]:
    """What is not where it began."""
    broken = [f"{name}: {getattr(after, name)} left" for name in ("locks", "held", "tickets", "unsaved", "refused",
                                                                  "cached", "listed") if getattr(after, name)]
    broken += [f"{name}: {getattr(before, name)} became {getattr(after, name)}" for name in ("descriptors", "threads")
               if getattr(before, name) != getattr(after, name)]
    if after.traced > before.traced + plan.more_traced:
        broken.append(f"memory: {before.traced:,} bytes became {after.traced:,}")
    if after.tips > TIPS_KEPT:
        broken.append(f"tips: {after.tips}")
    if written > 3:
        broken.append(f"{written:.2f} bytes were written per byte said")
    return broken


# -- the second process --------------------------------------------------------------------------------------------


def _process_beside(plan: Plan, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "tests.soak", "--beside", str(folder), "--seed", str(plan.seed + 1),
                             "--operations", str(plan.beside()), "--ids", str(plan.ids)], cwd=ROOT, stdout=subprocess.PIPE)


def beside(plan: Plan, folder: Path) -> dict:
    """The second process's whole life: work alone, then say how it stands."""
    world = World(folder, seed=plan.seed, cached=plan.cached, faults=plan.faults, durability=plan.durability)
    worker = Worker(world, plan.ids, plan.seed)
    world.files.failing.set()
    for _ in range(plan.operations):
        worker.step()
    world.files.failing.clear()
    world.repo.flush()
    bounds = world.bounds()
    left = {name: getattr(bounds, name) for name in ("locks", "held", "tickets", "unsaved")}
    over = {"cached": bounds.cached > plan.cached, "tips": bounds.tips > TIPS_KEPT}
    world.close()
    return {"done": sum(worker.done.values()), "left": {name: size for name, size in left.items() if size},
            "over": [name for name, is_over in over.items() if is_over], "surprises": worker.surprises[:5],
            "written": round(world.amplification(), 2), "rss": f"{bounds.resident / 2**20:.0f} MiB"}


def _told(process: subprocess.Popen[bytes] | None, broken: list[str]) -> dict:
    if process is None:
        return {}
    if broken:
        process.terminate()
    out, _ = process.communicate()
    if process.returncode != 0:
        broken.append(f"the process beside ended with {process.returncode}")
        return {}
    told: dict = orjson.loads(out.splitlines()[-1])
    broken += [f"beside: {name} {told[name]}" for name in ("left", "over", "surprises") if told[name]]
    return told
