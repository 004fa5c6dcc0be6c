"""`python -m tests.soak`: run a soak, print its report; the exit status says whether everything held."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import orjson
import structlog

from tests.benchmarks.subjects import bench_folder
from tests.soak.soak import Plan, beside, soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="repeat a run; threads still race")
    parser.add_argument("--operations", type=int, default=1_000_000)
    parser.add_argument("--ids", type=int, default=100_000)
    parser.add_argument("--durability", choices=("process", "full"), default="process")
    parser.add_argument("--beside", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    quiet = structlog.make_filtering_bound_logger(50)  # failures on purpose are logged thousands of times
    structlog.configure(wrapper_class=quiet, logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    plan = Plan(given.seed, given.operations, given.ids, durability=given.durability)
    if given.beside is not None:
        print(orjson.dumps(beside(plan, given.beside)).decode())
        return 0
    print(f"seed {plan.seed}", flush=True)
    with bench_folder() as folder:
        report = soak(plan, Path(folder) / "store", _say)
        _say("")
    print(report.show())
    return 1 if report.broken else 0


def _say(text: str) -> None:
    end = "" if sys.stderr.isatty() else "\n"
    if text or not end:
        print(f"\r\033[K{text}" if not end else text, end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
