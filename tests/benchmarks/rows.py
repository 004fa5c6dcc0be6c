"""The rows of the table: each has a goal, and a function that measures it through the public API.

A row says what is compared with what and how much it may be. Its function gets the `Lab` and one size, and gives the
`Figure`. `@row` puts it into `ROWS`, in the order of the table.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

import attrs

from tests.benchmarks.subjects import SIZES, Lab
from tests.benchmarks.timing import Figure

Measure = Callable[[Lab, int], Figure]


class NotHere(Exception):
    """The row cannot be measured here; the text says why."""


@attrs.frozen
class Row:
    """One line of the table. A row without a goal is there to be known, not to be judged."""

    name: str
    what: str
    against: str
    goal: float | None
    stretch: float | None
    sizes: tuple[int, ...]
    at_least: bool
    measure: Measure

    def worst(self, figures: Iterable[Figure]) -> float:
        values = [figure.value for figure in figures]
        return min(values) if self.at_least else max(values)

    def verdict(self, figures: Iterable[Figure]) -> str:
        """"stretch", "ok" or "MISSED", by the worst size; "" where there is no goal."""
        if self.goal is None:
            return ""
        worst = self.worst(figures)
        if not self._meets(worst, self.goal):
            return "MISSED"
        return "stretch" if self.stretch is not None and self._meets(worst, self.stretch) else "ok"

    def _meets(self, value: float, bound: float) -> bool:
        """As the table shows it: 1.304 is printed as 1.30, and a figure that reads like the bound meets it."""
        shown = float(f"{value:.3g}")
        return shown >= bound if self.at_least else shown <= bound


@attrs.frozen
class Result:
    """A row and what came out at each size; `missing` says why nothing did."""

    row: Row
    figures: dict[int, Figure]
    missing: str = ""

    @property
    def verdict(self) -> str:
        return "not here" if self.missing else self.row.verdict(self.figures.values())


ROWS: list[Row] = []


def row(what: str, against: str, goal: float | None = None, stretch: float | None = None, *,
        sizes: tuple[int, ...] = SIZES, at_least: bool = False) -> Callable[[Measure], Measure]:
    """Enter a measuring function into the table, under its own name."""

    def enter(measure: Measure) -> Measure:
        ROWS.append(Row(measure.__name__, what, against, goal, stretch, sizes, at_least, measure))
        return measure

    return enter


def run(chosen: Row, lab: Lab) -> Result:
    """Measure one row. What misses its goal is measured twice more and the middle one counts: a burst of load on the
    machine lasts longer than a round, and is no fault of the code's."""
    try:
        figures = _at_each_size(chosen, lab)
        if chosen.verdict(figures.values()) == "MISSED" and not lab.quick:
            tries = [figures, _at_each_size(chosen, lab), _at_each_size(chosen, lab)]
            figures = {n: _middle([one[n] for one in tries]) for n in figures}
    except NotHere as error:
        return Result(chosen, {}, str(error))
    return Result(chosen, figures)


def _at_each_size(chosen: Row, lab: Lab) -> dict[int, Figure]:
    return {n: chosen.measure(lab, n) for n in lab.sizes_of(chosen.sizes)}


def _middle(figures: list[Figure]) -> Figure:
    value = statistics.median_low(figure.value for figure in figures)
    return next(figure for figure in figures if figure.value == value)
