"""Many histories, one after the other, each judged while the next one is made."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from tests.histories.factories import FACTORIES
from tests.histories.making import Plan, make

ROOT = Path(__file__).parents[2]
MIX = ("json", "json-expiring", "memory", "json", "json-portable", "layers", "json", "json-expiring", "json", "three-methods")
"""Which storages a run over all of them uses: most of it where processes can be killed."""
RARELY = 1500
"""Operations between two kills where sessions expire: their holders must live longer than they."""
MOST_LOOSE, MOST_UNKNOWN = 0.25, 0.03
"""Above these shares a run has not looked sharply enough to say that all is well."""


@dataclass
class Report:
    """What a run found."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def show(self) -> str:
        c = self.counts
        made = (f"{c['operations']:,} operations in {c['histories']} histories of {c['sessions']:,} sessions, {c['kills']:,} kills, "
                f"{self.seconds:.0f} s: {c['anomalies']} anomalies")
        judged = (f"{c['steps']:,} revisions judged, {c['loose']:,} of them loosely ({_share(c['loose'], c['steps'])}); "
                  f"{c['unseen']:,} never seen; {c['unknown']:,} operations of unknown end ({_share(c['unknown'], c['operations'])})")
        return "\n".join((made, judged, *self.failures))


def _share(part: int, whole: int) -> str:
    return f"{part / max(1, whole):.1%}"


def plans(factory: str, seed: int, operations: int, histories: int) -> list[Plan]:
    """The histories of a run; each has a seed of its own, so that it can be made again alone."""
    kinds = MIX if factory == "all" else (factory,)
    return [Plan(seed + n, kinds[n % len(kinds)], operations // histories,
                 kill_every=350 if FACTORIES[kinds[n % len(kinds)]].ttl is None else RARELY) for n in range(histories)]


def run(wanted: list[Plan], say: Callable[[str], object] = lambda text: None) -> Report:
    report, began = Report(), time.monotonic()
    waiting: list[tuple[Plan, Path, subprocess.Popen[bytes]]] = []
    total = sum(plan.operations for plan in wanted)
    for number, plan in enumerate(wanted):
        place = Path(tempfile.mkdtemp(prefix="bamboo-history-"))

        def progress(now: int, kills: int, plan: Plan = plan, number: int = number) -> None:
            done = number * plan.operations + min(now, plan.operations)
            say(f"{done:,} of {total:,}: history {number + 1} of {len(wanted)}, {plan.factory}, seed {plan.seed}")

        report.counts["kills"] += make(plan, place, progress)
        waiting.append((plan, place, _judging(place)))
        while len(waiting) > 1:
            _judged(*waiting.pop(0), report)
    for entry in waiting:
        _judged(*entry, report)
    report.seconds = time.monotonic() - began
    _judge_the_judging(report)
    return report


def _judging(place: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "tests.histories.judging", str(place)], cwd=ROOT, stdout=subprocess.PIPE)


def _judged(plan: Plan, place: Path, judging: subprocess.Popen[bytes], report: Report) -> None:
    out, _ = judging.communicate()
    if judging.returncode:
        raise RuntimeError(f"the judge of {place} failed; {plan.command()}")
    verdict = orjson.loads(out)
    told = verdict.pop("told")
    report.counts.update(verdict)
    report.counts["histories"] += 1
    if not told:
        shutil.rmtree(place)
        return
    report.failures += [plan.command(), f"  (what was recorded: {place})", *told]


def _judge_the_judging(report: Report) -> None:
    counts = report.counts
    if counts["loose"] > MOST_LOOSE * counts["steps"] or counts["unknown"] > MOST_UNKNOWN * counts["operations"]:
        report.failures.append("too much of unknown end: the judge could not look closely")


def known() -> list[str]:
    return ["all", *FACTORIES]
