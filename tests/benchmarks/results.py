"""Results on disk, so that two revisions can be compared: one JSON file a run, below `.benchmarks/`.

A figure is kept with the quartiles of its rounds. Of two runs, one is called slower where the middle halves of their
rounds do not overlap and the medians are more than a twentieth apart: two runs of one revision hardly ever are.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from tests.benchmarks.rows import Result
from tests.benchmarks.table import aligned, number

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".benchmarks"
APART = 1.05


def save(name: str, results: Iterable[Result], folder: Path = FOLDER) -> Path:
    """Write `NAME.json`; a run of that name is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_bytes(orjson.dumps({"name": name, **facts(), "rows": list(map(_kept, results))},
                                  option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return path


def facts() -> dict[str, Any]:
    """What the figures hang on, and nothing that tells whose machine it is."""
    return {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "revision": _git("describe", "--always", "--dirty"),
            "python": platform.python_version(), "implementation": sys.implementation.name, "system": platform.system(),
            "kernel": platform.release(), "machine": platform.machine(), "processors": os.cpu_count()}


def _git(*command: str) -> str:
    done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _kept(result: Result) -> dict[str, Any]:
    row = result.row
    return {"row": row.name, "goal": row.goal, "at_least": row.at_least, "verdict": result.verdict, "figures": {
        str(n): {"value": f.value, "low": f.low, "high": f.high, "ns": f.ns} for n, f in result.figures.items()}}


def load(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    path = folder / f"{name}.json"
    if not path.exists():
        raise SystemExit(f"no saved run {name!r}; there are: {', '.join(names(folder)) or 'none'}")
    run: dict[str, Any] = orjson.loads(path.read_bytes())
    return run


def names(folder: Path = FOLDER) -> list[str]:
    """The saved runs, oldest first."""
    return [path.stem for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)]


def compared(old: dict[str, Any], new: dict[str, Any]) -> tuple[str, bool]:
    """The table of ratios new / old, and whether anything got worse beyond noise."""
    before = {row["row"]: row for row in old["rows"]}
    lines, worse = [("row", "N", old["name"], new["name"], "ratio", "verdict")], False
    for row in new["rows"]:
        for n, now in row["figures"].items():
            then = before.get(row["row"], {}).get("figures", {}).get(n)
            if then is None:
                continue
            verdict = judged(then, now, at_least=row["at_least"])
            worse |= verdict == "SLOWER"
            lines.append((row["row"], f"{int(n):,}", number(then["value"]), number(now["value"]),
                          f"{now['value'] / then['value']:.2f}", verdict))
    return aligned(lines), worse


def judged(then: dict[str, float], now: dict[str, float], *, at_least: bool) -> str:
    """"SLOWER", "faster", or "" where the difference may be noise."""
    if at_least:  # the figure is "how many times cheaper": more is better
        then, now = now, then
    if now["low"] > then["high"] and now["value"] > then["value"] * APART:
        return "SLOWER"
    return "faster" if now["high"] < then["low"] and then["value"] > now["value"] * APART else ""
