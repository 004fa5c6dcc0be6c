"""Starting processes beside a peer, and hearing from them."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import attrs

from tests.peers.install import ROOT, python_of

PATIENCE = 300.0
"""Seconds after which a peer that does not come to an end is given up."""


class Broken(Exception):
    """A child died without an answer: the script or the installation is at fault, not what is compared."""


@attrs.define
class Child:
    process: subprocess.Popen[str]
    complaints: Any

    @classmethod
    def start(cls, peer: str, act: str, folder: Path, **told: Any) -> Child:
        complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read after the end, and gone with the object
        words = json.dumps({"peer": peer, "act": act, "folder": str(folder), **{key: _plain(value) for key, value in told.items()}})
        process = subprocess.Popen([python_of(peer), "-m", "tests.peers.child", words], cwd=ROOT, text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints)
        return cls(process, complaints)

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.process.wait()
        self.complaints.seek(0)
        raise Broken(self.complaints.read()[-2000:] or f"ended with {self.process.returncode} and no word")

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.wait(PATIENCE)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.complaints):
            if pipe is not None:
                pipe.close()


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def ask(peer: str, act: str, folder: Path, **told: Any) -> dict[str, Any]:
    """One question, one answer."""
    child = Child.start(peer, act, folder, **told)
    try:
        answer: dict[str, Any] = child.answer()
        return answer
    finally:
        child.kill()
