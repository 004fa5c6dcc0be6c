"""`python -m tests.histories.judging FOLDER`: the verdict on one history as JSON, by a process that never loads the package."""

from __future__ import annotations

import sys
from pathlib import Path

import orjson

from tests.histories.excerpt import show
from tests.histories.history import read_history
from tests.histories.judge import judge
from tests.histories.verdict import group


def main(folder: Path) -> None:
    verdict = judge(read_history(folder))
    told = [f"{len(found)} x {what}\n" + "\n".join(show(anomaly) for anomaly in found[:2])
            for what, found in group(verdict.anomalies).items()]
    sys.stdout.buffer.write(orjson.dumps({
        "operations": verdict.operations, "steps": verdict.steps, "loose": verdict.loose, "unseen": verdict.unseen,
        "unknown": verdict.unknown, "sessions": verdict.sessions, "anomalies": len(verdict.anomalies), "told": told}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
