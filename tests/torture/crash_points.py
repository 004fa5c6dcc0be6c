"""A writer killed before each of its system calls on the files of a store, one writer for each call.

First a scenario runs to its end under `strace`, which tells every call that can leave a trace in the store or its locks.
Then, for each of these, the same scenario is run from the same prepared store, and the tracer kills the writer just before
that call is carried out. What is left is judged (`judge`); and where the way back from it is a new one, the newcomer that
finds it is killed at each of *its* calls as well, and what that leaves is judged again.

A point that was planned and did not strike, or struck elsewhere (another number of changes was acknowledged by then), is a
failure of its own.

    python -m tests.torture.crash_points --scenario fold --call rename --nth 3
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import structlog

from tests.torture.crash_points_shapes import shape
from tests.torture.judge import Survivor, Wrong, judge, spoken
from tests.torture.scenarios import Scenario, scenarios
from tests.torture.scenarios_expiry import is_hidden
from tests.torture.scenarios_model import Change, Model
from tests.torture.worker import IDLE
from tests.torture.worker_faults import FAULTS
from tests.torture.worker_zygote import ROOT, Zygote

_LINE = re.compile(r"(\d+) +(\w+)\((.*)")


@attrs.frozen
class Point:
    """The n-th call of this kind that the writer makes; so many changes are acknowledged by then."""

    call: str
    nth: int
    acknowledged: int
    text: str = attrs.field(default="", eq=False)

    def __str__(self) -> str:
        return f"{self.call} {self.nth}"


@attrs.frozen
class Plan:
    """One run to the end: where to strike, and how often each call is made at all."""

    points: tuple[Point, ...]
    counts: Counter[str]


class NotFired(AssertionError):
    """The writer did not die where it was to die."""


# -- one scenario ------------------------------------------------------------------------------------------------------


@attrs.define
class Course:
    """A scenario and what its writers start from: `template`, a folder that holds the store, and what it holds."""

    zygote: Zygote
    scenario: Scenario
    seed: str
    template: Path
    before: Model
    fault: str | None = None
    recovering: str = ""
    """The point at which somebody died before, where this is about whoever comes next."""

    def command(self, point: Point) -> str:
        """What runs this one point alone."""
        parts = [os.path.relpath(sys.executable, ROOT), "-m tests.torture.crash_points", f"--seed {self.seed} --scenario {self.scenario.name}"]
        if self.fault:
            parts.append(f"--fault {self.fault}")
        at = self.recovering or str(point)
        parts.append("--call {} --nth {}".format(*at.split()))
        if self.recovering:
            parts.append(f"--then-call {point.call} --then-nth {point.nth}")
        return " ".join(parts)

    def _order(self, folder: Path, **more: Any) -> dict[str, Any]:
        changes = [attrs.asdict(change) for change in self.scenario.changes] if self.recovering else None
        return {"folder": str(folder / "store"), "acks": str(folder / "acks"), "scenario": self.scenario.name, "seed": self.seed,
                "changes": changes, "fault": self.fault, "idle": 0, "call": "", **more}

    @contextmanager
    def copy(self) -> Iterator[Path]:
        """A folder of its own for one writer."""
        folder = Path(tempfile.mkdtemp(dir=self.template.parent))
        try:
            if (self.template / "store").exists():
                shutil.copytree(self.template / "store", folder / "store", symlinks=True)
            yield folder
        finally:
            shutil.rmtree(folder)

    # -- to the end ------------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """Run to the end, and see what there is to strike at."""
        with self.copy() as folder, self.survivor(folder):
            with self.zygote.traced("-y", "-s", "0", out=folder / "trace"):
                code = self.zygote.live(self._order(folder))
            if code:
                raise AssertionError(f"{self.scenario.name} ends with {code} when nobody kills it\n{self.zygote.errors()}")
            return _read_trace(folder / "trace", str(folder / "store"))

    # -- to its death ----------------------------------------------------------------------------------------------

    @contextmanager
    def deadly(self, plan: Plan) -> Iterator[None]:
        """A tracer that kills a writer that makes one call more of any kind than it would have made; see `idle`."""
        options = [text for call, count in plan.counts.items() if call in IDLE
                   for text in ("-e", f"inject=?{call}:signal=KILL:when={count + 1}")]
        with self.zygote.traced(*options):
            yield

    def strike(self, plan: Plan, point: Point, folder: Path) -> list[int]:
        """Let a writer live until `point`; the changes that were acknowledged."""
        idle = plan.counts[point.call] + 1 - point.nth
        code = self.zygote.live(self._order(folder, idle=idle, call=point.call))
        acks = folder / "acks"
        done = [int(line) for line in acks.read_text().split()] if acks.exists() else []
        if code != -signal.SIGKILL or len(done) != point.acknowledged:
            raise NotFired(f"ended with {code}, {len(done)} changes acknowledged where {point.acknowledged} were expected\n"
                           f"{self.zygote.errors()}")
        return done

    @contextmanager
    def survivor(self, folder: Path) -> Iterator[Survivor | None]:
        """Not where dead writers left something: it would be the first to find it."""
        if self.scenario.wound is not None or self.recovering or not self.scenario.prepared:
            yield None
            return
        made = Survivor.of(folder / "store", {**self.scenario.options, "files": self.scenario.files()})
        try:
            if self.scenario.after_another:
                made.speak()
            yield made
        finally:
            made.repo.close()

    def after(self, folder: Path, done: Sequence[int], survivor: Survivor | None) -> Model:
        """The judge's word."""
        perhaps = [number for number in [max(done, default=-1) + 1] if number < len(self.scenario.changes)]
        return judge(folder / "store", self.before, self.scenario.changes, done, perhaps, survivor=survivor,
                     options=self.scenario.options, ttl=self.scenario.ttl)

    def try_point(self, plan: Plan, point: Point, left: Left | None = None) -> None:
        """Kill and judge; raises `Wrong` or `NotFired`. `left`: keeps the store as the writer left it."""
        with self.copy() as folder, self.survivor(folder) as survivor:
            done = self.strike(plan, point, folder)
            kept = None if left is None else left.keep(folder / "store")
            state = self.after(folder, done, survivor)
            if left is not None and kept is not None:
                left.examples.append((kept, state, point))


def _read_trace(path: Path, store: str) -> Plan:
    """Every call on the store, or on what is beside it in its name (`store.json.lock` of a store that is not there yet)."""
    counts: Counter[str] = Counter()
    points, acknowledged = [], 0
    for line in path.read_text(errors="replace").splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        call, rest = match[2], match[3]
        counts[call] += 1
        if call == "writev":
            acknowledged += 1
        elif store in rest and not (call == "openat" and "O_CREAT" not in rest):
            points.append(Point(call, counts[call], acknowledged, line.replace(store, "…")))
    return Plan(tuple(points), counts)


# -- a whole scenario ----------------------------------------------------------------------------------------------------


@attrs.define
class Tally:
    """What was tried, and what was wrong: (command, why)."""

    points: int = 0
    calls: Counter[str] = attrs.field(factory=Counter)
    wrong: list[tuple[str, str, str]] = attrs.field(factory=list)

    def failed(self, course: Course, point: Point, error: Exception) -> None:
        kind = error.kind if isinstance(error, Wrong) else "not fired"
        self.wrong.append((kind, course.command(point), f"{error}\n  before {point.text}"))

    def __str__(self) -> str:
        told = [f"{self.points} points, {len(self.wrong)} wrong: {dict(Counter(kind for kind, _, _ in self.wrong))}"]
        for kind, command, why in self.wrong[:3]:
            told.append(f"{kind}: {why}\n  reproduce: {command}")
        return "\n".join(told)


class Left:
    """One example of each shape in which a crash left a store, what it holds, and where that crash was."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._shapes = folder, set[str]()
        self.examples: list[tuple[Path, Model, Point]] = []

    def keep(self, store: Path) -> Path | None:
        """A folder with a copy of it; None where there is one of its shape."""
        found = shape(store)
        if found in self._shapes:
            return None
        kept = self._folder / f"left-{len(self._shapes)}"
        self._shapes.add(found)
        if store.exists():
            shutil.copytree(store, kept / "store")
        else:
            kept.mkdir()
        return kept


@contextmanager
def course(zygote: Zygote, name: str, seed: str, *, fault: str | None = None) -> Iterator[Course]:
    """The scenario of this name, its store prepared in a folder that is removed afterwards."""
    scenario = scenarios(seed)[name]
    base = Path(tempfile.mkdtemp(prefix="crash-points-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    try:
        (base / "template").mkdir()
        with _quiet():
            scenario.prepare(base / "template" / "store")
            before = spoken(scenario.before()) if scenario.after_another else scenario.before()
            yield Course(zygote, scenario, seed, base / "template", before, fault)
    finally:
        shutil.rmtree(base)


@contextmanager
def _quiet() -> Iterator[None]:
    """A judge mends torn tails by the thousand; each is logged, as it should be."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def try_all(run: Course, plan: Plan, points: Sequence[Point], left: Left | None = None) -> Tally:
    """Each of these points."""
    tally = Tally()
    with run.deadly(plan):
        for point in points:
            tally.points += 1
            tally.calls[point.call] += 1
            try:
                run.try_point(plan, point, left)
            except (Wrong, NotFired) as error:
                tally.failed(run, point, error)
    return tally


def newcomer(run: Course, store: Path, state: Model, died_at: Point) -> Course:
    """Whoever opens what a crash left, and says a word where the other died (after a repair, if need be), in another session
    and in a new one."""
    met = run.scenario.changes[min(died_at.acknowledged, len(run.scenario.changes) - 1)].chat
    others = [chat for chat, session in state.items() if chat != met and not session.get("damaged")]
    expired = next((chat for chat, session in state.items() if is_hidden(session)), None)
    changes = [Change("purge", expired)] if expired else []
    others = [chat for chat in others if chat != expired]
    for chat in [met, *others[:1]] if met in state and met != expired else others[:2]:
        changes += [Change("repair", chat)] if state[chat].get("damaged") else []
        changes.append(Change("say", chat, "the next one's word"))
    changes.append(Change("create", "the-next-one", "a new session"))
    scenario = attrs.evolve(run.scenario, changes=tuple(changes))
    return attrs.evolve(run, scenario=scenario, template=store, before=state, recovering=str(died_at))


_ALIKE = re.compile(r"^\d+ +|(?<=/)(new|trash)/[\w-]+|quarantine/[^\">]*|sessions/../[\w-]+|\d{3,}")


def try_recoveries(run: Course, left: Left) -> Tally:
    """The newcomer killed at each call that changes the store, once for each way back that it may have to go."""
    tally, ways = Tally(), set[str]()
    for store, state, point in left.examples:
        then = newcomer(run, store, state, point)
        plan = then.plan()
        points = [point for point in plan.points if point.call not in ("close", "fcntl", "flock")]
        way = "\n".join(_ALIKE.sub("", point.text) for point in points)
        if way in ways:
            continue
        ways.add(way)
        one = try_all(then, plan, points)
        tally.points += one.points
        tally.calls += one.calls
        tally.wrong += one.wrong
    return tally


# -- one point, by hand --------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.torture.crash_points", description="Kill one writer at one call.")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--scenario", required=True, choices=scenarios())
    parser.add_argument("--fault", choices=FAULTS, help="a writer with this defect")
    parser.add_argument("--call", choices=IDLE, help="without it: all of them")
    parser.add_argument("--nth", type=int, default=1)
    parser.add_argument("--then-call", choices=IDLE, help="kill the newcomer as well")
    parser.add_argument("--then-nth", type=int, default=1)
    told = parser.parse_args()
    zygote = Zygote()
    try:
        with course(zygote, told.scenario, told.seed, fault=told.fault) as run:
            tally = _asked_for(run, told)
    finally:
        zygote.close()
    print(tally)
    sys.exit(bool(tally.wrong))


def _asked_for(run: Course, told: argparse.Namespace) -> Tally:
    plan = run.plan()
    if told.call is None:
        return try_all(run, plan, plan.points)
    left = Left(run.template.parent) if told.then_call else None
    tally = try_all(run, plan, _named(plan, told.call, told.nth), left)
    if left is None or tally.wrong:
        return tally
    (store, state, died_at), = left.examples
    then = newcomer(run, store, state, died_at)
    plan = then.plan()
    return try_all(then, plan, _named(plan, told.then_call, told.then_nth))


def _named(plan: Plan, call: str, nth: int) -> list[Point]:
    named = [point for point in plan.points if (point.call, point.nth) == (call, nth)]
    if not named:
        sys.exit(f"there is no {call} {nth} on the store; there are: {', '.join(map(str, plan.points))}")
    print(f"before {named[0].text}")
    return named


if __name__ == "__main__":
    main()
