"""The table as people read it: what, against what, what was measured at each size, what was hoped for."""

from __future__ import annotations

from collections.abc import Iterable

from tests.benchmarks.rows import Result
from tests.benchmarks.timing import Figure

_COLUMNS = ("row", "what", "against", "N=10", "N=1,000", "N=10,000", "goal", "stretch", "verdict", "takes")
_SIZES = (10, 1_000, 10_000)


def cells(result: Result) -> tuple[str, ...]:
    """One line, as text."""
    row, sign = result.row, ">=" if result.row.at_least else "<="
    measured = ("" if n not in result.figures else number(result.figures[n].value) for n in _SIZES)
    bounds = ("" if bound is None else f"{sign} {number(bound)}" for bound in (row.goal, row.stretch))
    last = list(result.figures.values())[-1:]
    return (row.name, row.what, row.against, *measured, *bounds, result.verdict, *map(taken, last), *[""] * (1 - len(last)))


def taken(figure: Figure) -> str:
    """How long one of what was measured takes here, at the largest size; "" for what is no time."""
    ns = figure.ns
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3), ("ns", 1)):
        if ns >= size:
            return f"{number(ns / size)} {unit}"
    return ""


def number(value: float) -> str:
    """Three digits, no exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def aligned(lines: Iterable[tuple[str, ...]]) -> str:
    """Columns of equal width; text to the left, figures to the right."""
    table = list(lines)
    widths = [max(len(line[at]) for line in table) for at in range(len(table[0]))]
    texts = [at for at, name in enumerate(table[0]) if name in ("row", "what", "against", "verdict", "")]
    return "\n".join("  ".join(cell.ljust(width) if at in texts else cell.rjust(width)
                               for at, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
                     for line in table)


def plain(results: Iterable[Result]) -> str:
    """For a terminal."""
    return aligned([_COLUMNS, *map(cells, results)])


def markdown(results: Iterable[Result]) -> str:
    """For a page of the docs."""
    rows = [_COLUMNS[1:], ("---", "---", *["---:"] * 5, "---", "---:"), *(cells(result)[1:] for result in results)]
    return "\n".join("| " + " | ".join(line) + " |" for line in rows)
