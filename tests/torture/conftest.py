"""What the torture tests share: what they need of the machine, what they tried, and how a failure is repeated."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.torture import needs


@pytest.fixture
def machine():
    """`machine.needs("strace", …)`: go on where they are there; else skip with the reason, or fail where that is asked for."""
    return needs


@pytest.fixture
def tried(record_property):
    """`tried("crash points", 173)`: counted in the summary at the end."""

    def tell(method: str, number: int) -> None:
        record_property(f"tried {method}", number)

    return tell


@pytest.fixture(scope="session")
def seed():
    """Of everything that is drawn: BAMBOO_SESSIONS_SEED, or 1, so that two runs try the same."""
    return os.environ.get("BAMBOO_SESSIONS_SEED", "1")


def pytest_terminal_summary(terminalreporter):
    """How often each method tried something; a number that falls is seen."""
    counts: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", ()):
        for name, value in getattr(report, "user_properties", ()):
            if name.startswith("tried "):
                counts[name.removeprefix("tried ")] += value
    if counts:
        terminalreporter.section("tried")
        for method, number in counts.items():
            terminalreporter.write_line(f"{number:>8,}  {method}")
