"""Timing by comparison: what is measured and its baseline take turns, so that a busy machine hits both.

Absolute times of one machine move by half within minutes, and a disk's by ten; the ratio of two things done side by
side moves by a few per cent. So a *round* runs every case some times in random order, a ratio is taken within the
round, and what counts is the median over the rounds.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
import timeit
from collections.abc import Callable
from typing import Any

import attrs

LOOP_NS = 4e6
"""How long one run of a loop should take: long against the timer's own cost, short against a burst of load."""

Once = Callable[[], float]
"""Runs a case once, or in a loop of its own, and gives the nanoseconds of one operation."""


@attrs.frozen
class Figure:
    """What came out: the median over the rounds, between the quartiles `low` and `high`."""

    value: float
    low: float
    high: float
    ns: float = 0.0
    """The median time of one operation of what was measured, for orientation."""

    @classmethod
    def of(cls, values: list[float], ns: float = 0.0) -> Figure:
        if len(values) < 4:
            return cls(statistics.median(values), min(values), max(values), ns)
        low, median, high = statistics.quantiles(values, n=4)
        return cls(median, low, high, ns)


@attrs.frozen
class Rounds:
    """The times of each case: `medians`, one per round, and `every` single one."""

    medians: dict[str, list[float]]
    every: dict[str, list[float]]

    def ratio(self, case: str, baseline: str) -> Figure:
        """The median of the per-round ratios."""
        pairs = zip(self.medians[case], self.medians[baseline], strict=True)
        return Figure.of([a / b for a, b in pairs], statistics.median(self.medians[case]))

    def ratio_of_ratios(self, one: tuple[str, str], other: tuple[str, str]) -> Figure:
        """How one case over its baseline compares with another over its own, round by round."""
        a, b, c, d = (self.medians[case] for case in (*one, *other))
        return Figure.of([(w / x) / (y / z) for w, x, y, z in zip(a, b, c, d, strict=True)])

    def tail_ratio(self, case: str, baseline: str, share: float) -> Figure:
        """The ratio of a high percentile, over all rounds: a tail has no meaning within one."""
        a, b = (_percentile(self.every[name], share) for name in (case, baseline))
        return Figure(a / b, a / b, a / b, a)


def interleave(cases: dict[str, Once], rounds: int, passes: int = 1) -> Rounds:
    """Run all cases `passes` times a round, each pass in a new random order."""
    medians: dict[str, list[float]] = {name: [] for name in cases}
    every: dict[str, list[float]] = {name: [] for name in cases}
    order, was_on = list(cases), gc.isenabled()
    try:
        for _ in range(rounds):
            gc.collect()
            gc.disable()  # as timeit does: a collection would hit whichever case comes next
            here: dict[str, list[float]] = {name: [] for name in cases}
            for _ in range(passes):
                random.shuffle(order)
                for name in order:
                    here[name].append(cases[name]())
            for name, times in here.items():
                medians[name].append(statistics.median(times))
                every[name] += times
    finally:
        if was_on:
            gc.enable()
    return Rounds(medians, every)


def loop(statement: str, **names: Any) -> Once:
    """A statement that is too short to be timed once: repeated so often that it takes a few milliseconds."""
    timer = timeit.Timer(statement, globals=names)
    number = 1
    while (took := timer.timeit(number) * 1e9) < LOOP_NS and number < 10**7:
        number = max(number + 1, int(number * min(10.0, 1.2 * LOOP_NS / max(took, 1.0))))
    return lambda: timer.timeit(number) / number * 1e9


def single(do: Callable[[Any], object], prepare: Callable[[], Any] = lambda: None, times: int = 1) -> Once:
    """`do(prepare())`, of which only `do` is timed; the mean of `times`, where not all of them do the same work."""

    def once() -> float:
        spent = 0
        for _ in range(times):
            made = prepare()
            began = time.perf_counter_ns()
            do(made)
            spent += time.perf_counter_ns() - began
        return spent / times

    return once


def _percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
