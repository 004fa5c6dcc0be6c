"""What a judge has to say: anomalies, and how sharply could be looked."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from tests.histories.history import Op, State


@dataclass(frozen=True)
class Anomaly:
    """One broken promise: which, what is wrong, and the operations that show it."""

    what: str
    session: str
    story: str
    ops: tuple[Op, ...] = ()
    states: tuple[tuple[str, State | None], ...] = ()


@dataclass
class Verdict:
    """What was found, and how sharply could be looked."""

    anomalies: list[Anomaly] = field(default_factory=list)
    steps: int = 0
    """Changes from one revision to the next that were judged."""
    loose: int = 0
    """Those among them in which something of unknown end may have had a part."""
    unseen: int = 0
    """Revisions that nobody ever saw."""
    operations: int = 0
    unknown: int = 0
    sessions: int = 0

    def add(self, other: Verdict) -> None:
        self.anomalies += other.anomalies
        for name in ("steps", "loose", "unseen", "operations", "unknown", "sessions"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def group(anomalies: list[Anomaly]) -> dict[str, list[Anomaly]]:
    """By what is wrong."""
    made: dict[str, list[Anomaly]] = defaultdict(list)
    for anomaly in anomalies:
        made[anomaly.what].append(anomaly)
    return made
