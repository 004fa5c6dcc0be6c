"""Whole histories of many writers, with kills and failing storages, judged by somebody who does not know the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import servers

OPERATIONS = int(os.environ.get("BAMBOO_SESSIONS_OPERATIONS", "400000"))
ON_SERVERS = OPERATIONS // 4
STEPS_FOR_FIVE = 4  # a step may be more than one operation: five come of four, at the least


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("factory", "operations"), [("all", OPERATIONS), ("sqlite", ON_SERVERS), ("postgres-faults", ON_SERVERS)])
def test_a_history_of_hundreds_of_thousands_of_operations_shows_no_anomaly(factory, operations, machine, tried, seed):
    """P2 to P10 over whatever processes, threads and repositories do to each other: on every storage that needs no server,
    SQLite, and PostgreSQL with a line to it that breaks.

    In a process of its own: workers are forked, and what runs tests has threads.
    """
    machine.needs("fork")
    if factory == "postgres-faults":
        servers.postgres()  # skips where there is none
    asked = [sys.executable, "-m", "tests.histories", "--factory", factory, "--seed", str(1000 * int(seed)),
             "--operations", str(operations * STEPS_FOR_FIVE // 5)]
    done = subprocess.run(asked, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    counted = re.search(r"([\d,]+) operations in .* ([\d,]+) kills", done.stdout)
    assert counted is not None, done.stdout
    made = int(counted[1].replace(",", ""))
    assert made >= operations
    tried(f"operations in histories, {factory}", made)
