"""The race: four processes append to one session at once, fifty times each, and where the peer has a title a fifth renames it.

All open the store first and wait for each other, so that nobody is done before another has begun. Nobody pauses: agents do,
but then the same meetings take place over days instead of seconds.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import attrs

from tests.peers.children import Child, ask
from tests.peers.judge import Verdict, judged
from tests.peers.notes import read_notes

WRITERS = 4
APPENDS = 50
RENAMES = 20


@attrs.frozen
class Raced:
    verdict: Verdict
    seconds: float
    """From the start to the end of the last writer."""
    unreadable: str
    title_kept: bool | None
    """Whether the title that was given last is there; None where there are no titles."""


def race(peer: str, again: int) -> Raced:
    with tempfile.TemporaryDirectory(prefix="peers-race-") as base:
        folder = Path(base) / "store"
        folder.mkdir()
        titled = ask(peer, "begin", folder)["titled"]
        notes = [Path(base) / f"notes-{writer}" for writer in range(WRITERS + 1)]
        told = {"count": APPENDS, "pace": 0.0, "again": again}
        runners = [Child.start(peer, "append", folder, notes=notes[writer], writer=writer, **told) for writer in range(WRITERS)]
        if titled:
            runners.append(Child.start(peer, "rename", folder, notes=notes[WRITERS], count=RENAMES, pace=0.005))
        seconds = _run(runners)
        seen = ask(peer, "read", folder, then="")
        verdict = judged([read_notes(notes[writer], writer) for writer in range(WRITERS)], seen["texts"] or [])
        return Raced(verdict, seconds, seen["error"], _kept(notes[WRITERS], seen["title"]) if titled else None)


def _run(runners: list[Child]) -> float:
    try:
        for runner in runners:
            runner.answer()
        began = time.monotonic()
        for runner in runners:
            runner.go()
        for runner in runners[:WRITERS]:
            runner.end()
        seconds = time.monotonic() - began
        for runner in runners[WRITERS:]:
            runner.end()
        return seconds
    finally:
        for runner in runners:
            runner.kill()


def _kept(notes: Path, title: str | None) -> bool:
    given = [number for number, one in enumerate(read_notes(notes, 0)) if one.done_at is not None]
    return bool(given) and title == f"title {given[-1]}"
