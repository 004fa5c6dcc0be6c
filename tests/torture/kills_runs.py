"""A torture run as a test starts it: in an interpreter of its own, because a process with threads is not one to fork."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import orjson


@attrs.frozen
class Told:
    """What a run tells when it is over."""

    kills: int
    mid_call: int
    counts: dict[str, int]
    wrong: dict[str, list[str]]
    command: str
    folder: str
    seconds: float

    @property
    def story(self) -> str:
        """For whoever has to find out: what was wrong, and how to have the same plan again."""
        found = "\n".join(f"{rule}:\n  " + "\n  ".join(what) for rule, what in self.wrong.items())
        return (f"{found or 'nothing was wrong'}\n{self.kills} kills in {self.seconds:.0f} s, {self.counts}\n"
                f"the same plan again, though who runs when is the machine's choice:\n  {self.command}")


def killed(kills: int, *, seconds: float, seed: int | None = None, defect: str | None = None) -> Told:
    """A run; BAMBOO_SESSIONS_SEED gives the seed where the test does not."""
    if seed is None:
        seed = int(os.environ.get("BAMBOO_SESSIONS_SEED") or random.SystemRandom().getrandbits(32))
    command = [sys.executable, "-m", "tests.torture.kills", "--json", f"--seed={seed}", f"--kills={kills}",
               f"--seconds={seconds}", *([f"--defect={defect}"] if defect else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False,
                          cwd=Path(__file__).parents[2])
    try:
        told: dict[str, Any] = orjson.loads(done.stdout)
    except ValueError:
        told = {}
    assert told, f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return Told(**told)
