"""Whole histories of many writers, with kills and failing storages, judged by somebody who does not know the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

OPERATIONS = int(os.environ.get("BAMBOO_SESSIONS_OPERATIONS", "400000"))
STEPS_FOR_FIVE = 4  # a step may be more than one operation: five come of four, at the least


@pytest.mark.timeout(1200)
def test_a_history_of_hundreds_of_thousands_of_operations_shows_no_anomaly(machine, tried, seed):
    """P2 to P10 over whatever processes, threads and repositories do to each other, on every storage that there is.

    In a process of its own: workers are forked, and what runs tests has threads.
    """
    machine.needs("fork")
    asked = [sys.executable, "-m", "tests.histories", "--seed", str(1000 * int(seed)), "--operations", str(OPERATIONS * STEPS_FOR_FIVE // 5)]
    done = subprocess.run(asked, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    counted = re.search(r"([\d,]+) operations in .* ([\d,]+) kills", done.stdout)
    assert counted is not None, done.stdout
    operations = int(counted[1].replace(",", ""))
    assert operations >= OPERATIONS
    tried("operations in histories", operations)
