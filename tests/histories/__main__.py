"""`python -m tests.histories`: make and judge histories, print the report; the exit status says whether all was well."""

from __future__ import annotations

import argparse
import random
import sys

from tests.histories.run import known, plans, run

EACH = 20_000
"""Operations a history, where not told otherwise."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.histories")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="deals the same dice again; who comes first is up to the machine")
    parser.add_argument("--operations", type=int, default=400_000, help="steps: one may be more than one operation")
    parser.add_argument("--histories", type=int, help=f"how many to spread them over; else one for {EACH:,}")
    parser.add_argument("--factory", choices=known(), default="all")
    given = parser.parse_args()
    histories = given.histories or max(1, given.operations // EACH)
    print(f"seed {given.seed}", flush=True)
    report = run(plans(given.factory, given.seed, given.operations, histories), _say)
    _say("")
    print(report.show())
    return 1 if report.failures else 0


def _say(text: str, said: list[str] = []) -> None:  # noqa: B006 - what was said last is kept from call to call
    """A line that is written over, or, where nobody sits before it, a line whenever another history begins."""
    history = text.partition(": ")[2]
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif history and history not in said:
        print(text, file=sys.stderr, flush=True)
        said[:] = [history]


if __name__ == "__main__":
    sys.exit(main())
