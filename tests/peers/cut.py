"""The cut: one process appends to one session on ext4, nobody beside it, and the power goes.

The disk is a real file system on a loop device, shut down by `ioctl` so that nothing more reaches it; it is the one that our own
power cuts use (`tests/torture/cuts_disk.py`). Everybody gets a new disk, mounted with ext4's defaults, whose session was there
long before (everything is synced once), and an append each few milliseconds for some seconds, drawn by the seed: the same
moments for every peer. That is as long as ext4 takes to write by itself what nobody asked it to (5 s for names), so that some
cuts come before that and some after it. Only what was acknowledged before the shutdown began is owed.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from tests.peers.children import Child, ask
from tests.peers.judge import Verdict, judged
from tests.peers.notes import read_notes
from tests.torture.cuts_disk import PoweredDisk
from tests.torture.needs import NEEDS

PACE = 0.005
"""Seconds between an acknowledgement and the next append."""
LONGEST = 8.0
LAST = "a word after the power came back"


@attrs.frozen
class Cut:
    verdict: Verdict
    unreadable: str
    goes_on: bool


def missing() -> str:
    """What this machine lacks for cuts, or nothing."""
    lacks = [need for need in (NEEDS["mount"], NEEDS["ext4"]) if not need.is_there()]
    return "; ".join(f"needs {need.what}: {need.otherwise}" for need in lacks)


def cut(peer: str, seed: str, number: int) -> Cut:
    patience = random.Random(f"{seed}/{number}").uniform(0.1, LONGEST)
    disk = PoweredDisk("ext4")
    try:
        folder = disk.path / "store"
        folder.mkdir()
        ask(peer, "begin", folder)
        subprocess.run(["sync", "-f", str(disk.path)], check=True)
        notes = disk.outside / "notes"
        end = _write_until_cut(peer, disk, folder, notes, patience)
        disk.off()
        disk.on()
        seen = ask(peer, "read", folder, then=LAST)
        verdict = judged([read_notes(notes, 0)], seen["texts"] or [], end)
        return Cut(verdict, seen["error"] if seen["texts"] is None else "", bool(seen["goes_on"]))
    finally:
        disk.close()


def _write_until_cut(peer: str, disk: PoweredDisk, folder: Path, notes: Path, patience: float) -> float:
    """When the power went."""
    writer = Child.start(peer, "append", folder, notes=notes, writer=0, count=10**9, pace=PACE, again=0)
    try:
        writer.answer()
        writer.go()
        _wait(lambda: any(one.done_at is not None for one in read_notes(notes, 0)))
        time.sleep(patience)
        end = time.monotonic()
        disk.cut()
        return end
    finally:
        writer.kill()


def _wait(come: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not come():
        if time.monotonic() > deadline:
            raise AssertionError("no append was acknowledged within a minute")
        time.sleep(0.01)
