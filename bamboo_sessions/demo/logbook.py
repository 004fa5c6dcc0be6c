"""A logbook: one process writes down each thing before it tries it and again when it was acknowledged.

One JSON object a line, on the disk before the process goes on. What a killed process had been told is therefore known
exactly: an attempt without an acknowledgement may or may not have been stored, and after a restart the process looks.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs

Fact = dict[str, Any]


def digest(message: Fact) -> str:
    """What a message says, in short; two chat forms that differ in nothing but the order of keys are one."""
    text = json.dumps(message, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@attrs.frozen
class Entry:
    """One thing that a process tried, and what became of it: acked (a dict), failed (a text), or neither: unknown."""

    number: int
    tried: Fact
    acked: Fact | None = None
    failed: str | None = None


class Logbook:
    """The writing side, one process a file. Opening one that is there goes on where it ended."""

    def __init__(self, path: Path) -> None:
        self.entries = read_logbook(path) if path.exists() else []
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        # A process killed in the middle of a line leaves half of one; the next line must not be glued to it.
        os.ftruncate(self._file, path.read_bytes().rfind(b"\n") + 1)

    def tried(self, number: int, **facts: Any) -> None:
        self._write({"try": number, **facts})

    def acked(self, number: int, **facts: Any) -> None:
        self._write({"ack": number, **facts})

    def failed(self, number: int, error: BaseException) -> None:
        self._write({"fail": number, "error": f"{type(error).__name__}: {error}"[:500]})

    def _write(self, line: Fact) -> None:
        left = memoryview(json.dumps(line).encode() + b"\n")
        while left:
            left = left[os.write(self._file, left) :]
        os.fdatasync(self._file) if hasattr(os, "fdatasync") else os.fsync(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        os.close(self._file)


def read_logbook(path: Path) -> list[Entry]:
    """What a logbook says, in the order of the attempts. Half a line at the end was never acted upon."""
    entries: dict[int, Entry] = {}
    for line in path.read_bytes().split(b"\n")[:-1]:
        facts: Fact = json.loads(line)
        if "try" in facts:
            number = facts.pop("try")
            entries[number] = Entry(number, facts)
        elif "ack" in facts:
            number = facts.pop("ack")
            entries[number] = attrs.evolve(entries[number], acked=facts)
        else:
            entries[facts["fail"]] = attrs.evolve(entries[facts["fail"]], failed=facts["error"])
    return list(entries.values())
