"""What a writer notes while it works: each append before it begins, when it is acknowledged, and when it is refused.

The notes lie outside of the store, in a file of each writer's own that no power cut touches, one write a line, with the time
of the clock that all processes of a machine share. Whoever judges later has nothing but these and what the store gives back.
Standard library only, like everything that runs beside a peer: nothing of ours is installed there.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

FIRST = "the first word"
"""What stands in each session before anybody races for it, or the power goes."""


def text_of(writer: int, number: int) -> str:
    """Each append has a text of its own, as long as a short message, so that damage to it cannot pass for another one."""
    return f"{writer}-{number} " + f"word {number} of writer {writer}, ".ljust(40, ".") * 5


class Notebook:
    """Written by one process."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, what: str, number: int, why: str = "") -> None:
        os.write(self._fd, f"{what} {number} {time.monotonic()} {why}\n".encode())


@dataclass
class Asked:
    """One append, and what its writer heard of it. `done_at`: when it was acknowledged, None where it was not."""

    text: str
    done_at: float | None = None
    refusals: tuple[str, ...] = ()
    """The type of each error that was raised; with `--again` there may be several, and an acknowledgement after them."""


def read_notes(path: Path, writer: int) -> list[Asked]:
    """In the order in which it asked; a line that is being written at this moment does not count yet."""
    asked: dict[int, Asked] = {}
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
    for line in whole.splitlines():
        what, number, at, why = line.split(" ", 3)
        one = asked.setdefault(int(number), Asked(text_of(writer, int(number))))
        if what == "done":
            one.done_at = float(at)
        elif what == "refused":
            one.refusals += (why,)
    return list(asked.values())
