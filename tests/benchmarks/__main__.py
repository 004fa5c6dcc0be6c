"""`python -m tests.benchmarks`: measure, print the table, say with the exit status whether every goal was met.

    run [-k WORD]… [--save NAME] [--markdown]   rows whose name or text contains one of the words; all without
    compare [A B]                               two saved runs, the last two without names
    stores                                      files, SQLite and PostgreSQL side by side, as a table for a page
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.benchmarks import databases, loads, others, results, rows, saves, table
from tests.benchmarks.subjects import Lab, bench_folder

_HOW_TO_RUN = """\
Each figure is the median of the ratios of many rounds, in which what is measured and its baseline took turns."""


def chosen(words: list[str]) -> list[rows.Row]:
    """The rows in the order of the table; `-k` looks at names first, at the text where no name fits."""
    order = [loads, saves, databases, others]
    every = sorted(rows.ROWS, key=lambda row: [module.__name__ for module in order].index(row.measure.__module__))
    if not words:
        return every
    named = [row for row in every if any(word in row.name for word in words)]
    return named or [row for row in every if any(word in f"{row.what} {row.against}" for word in words)]


def measured(wanted: list[rows.Row], *, quick: bool = False) -> list[rows.Result]:
    """Every row, with a line of progress where somebody watches."""
    made = []
    with bench_folder() as folder:
        lab = Lab(Path(folder), quick=quick)
        try:
            for number, row in enumerate(wanted, 1):
                _progress(f"{number}/{len(wanted)} {row.name}")
                made.append(rows.run(row, lab))
        finally:
            lab.close()
            _progress("")
    return made


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def run(arguments: argparse.Namespace) -> int:
    wanted, began = chosen(arguments.k), time.monotonic()
    if not wanted:
        print(f"no row matches {' or '.join(arguments.k)}; there are: {', '.join(row.name for row in chosen([]))}")
        return 2
    made = measured(wanted, quick=arguments.quick)
    print(table.markdown(made) if arguments.markdown else table.plain(made))
    for result in made:
        if result.missing:
            print(f"{result.row.name}: {result.missing}")
    if arguments.save:
        print(f"saved as {results.save(arguments.save, made).relative_to(results.ROOT)}")
    missed = [result.row.name for result in made if result.verdict == "MISSED"]
    print(f"\n{_HOW_TO_RUN}\n{time.monotonic() - began:.0f} s; "
          + (f"missed: {', '.join(missed)}" if missed else "no goal missed"))
    return 1 if missed else 0


def compare(arguments: argparse.Namespace) -> int:
    given = [name for name in (arguments.a, arguments.b) if name]
    two = given if len(given) == 2 else [*results.names()[-2:]]
    if len(two) < 2 or len(given) == 1:
        print("name two saved runs, or save two: make bench-save NAME=before, … NAME=after, make bench-compare")
        return 2
    old, new = map(results.load, two)
    for run_ in (old, new):
        print(f"{run_['name']}: {run_['revision']} at {run_['at']}, Python {run_['python']}, {run_['system']}")
    text, worse = results.compared(old, new)
    print(text)
    return 1 if worse else 0


def side_by_side(arguments: argparse.Namespace) -> int:
    from tests.benchmarks import stores  # noqa: PLC0415 - needs the extras of databases

    return stores.run(quick=arguments.quick)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run", help="measure and print the table")
    one.add_argument("-k", action="append", default=[], metavar="WORD", help="only rows that contain it; may be repeated")
    one.add_argument("--save", default="", metavar="NAME", help="keep the figures for `compare`")
    one.add_argument("--markdown", action="store_true", help="print the table for a page")
    one.add_argument("--quick", action="store_true", help="two rounds at one size: does it run at all?")
    one.set_defaults(do=run)
    two = commands.add_parser("compare", help="compare two saved runs")
    two.add_argument("a", nargs="?", default="")
    two.add_argument("b", nargs="?", default="")
    two.set_defaults(do=compare)
    three = commands.add_parser("stores", help="compare files, SQLite and PostgreSQL")
    three.add_argument("--quick", action="store_true", help="two rounds of little: does it run at all?")
    three.set_defaults(do=side_by_side)
    arguments = parser.parse_args()
    status: int = arguments.do(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
