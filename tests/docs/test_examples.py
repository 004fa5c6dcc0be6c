"""The programs in docs/examples run as a reader runs them, and the storage that they show passes the kit."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys

import pytest

from bamboo_sessions.testing import Power, StorageContract, StorageHarness
from tests.docs.pages import ROOT

EXAMPLES = ROOT / "docs" / "examples"
TextFiles = runpy.run_path(str(EXAMPLES / "basic_storage.py"))["TextFiles"]

SAYS = {
    "basic_storage.py": ["revision 3, taken over from storage: title, title_source", "'A question': Do three methods suffice? They do."],
    "layers.py": [
        "saved to all three: True",
        "saved without Flaky: stale True, failures 1",
        "the server came back with 1 message, a load gives 2 and the server has 2",
        "without the disk, a plain load gives 2 messages",
        "and a save says so: not applied; degraded True",
        "in the end: 'Layers', 2 messages, degraded False"],
}


def test_every_example_is_run_here():
    """A new one needs a line in the table."""
    assert sorted(SAYS) == sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", SAYS)
def test_an_example_does_what_it_says(name, tmp_path):
    """Without the extras of the tests, and with nothing left behind."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for extra in ("pytest", "hypothesis", "freezegun"):
        (blocked / f"{extra}.py").write_text("raise ImportError('an example needs no extra')")
    there = {**os.environ, "PYTHONPATH": os.pathsep.join([str(blocked), str(ROOT)])}
    ran = subprocess.run([sys.executable, str(EXAMPLES / name), str(tmp_path / "store")], env=there, cwd=tmp_path,
                         capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert [said for said in ran.stdout.splitlines() if "[warning" not in said] == SAYS[name]


class Texts(StorageHarness):
    """The example's storage, with what it claims."""

    powers = frozenset({Power.IDENTITY, Power.REOPEN})

    def open(self, place):
        return TextFiles(place / "texts")

    def peek(self, storage, place, session_id):
        path = storage._path(session_id)
        return path.read_bytes() if path.exists() else None

    def damage(self, storage, place, session_id):
        path = storage._path(session_id)
        path.write_bytes(path.read_bytes()[:-1])


class TestTextFilesOfTheExample(StorageContract):
    harness = Texts()
