"""Starts the process that writers are forked from, and attaches `strace` to it; see `worker`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.torture.worker import IDLE

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0
TRACED = ",".join(f"?{call}" for call in (*IDLE, "writev"))


class Zygote:
    """Forks writers, one at a time, and may have a tracer that kills them."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        self._ours.settimeout(PATIENCE)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process lives; see `close`
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
        self._process = subprocess.Popen([sys.executable, "-m", "tests.torture.worker", str(theirs.fileno())], cwd=ROOT,
                                         env=env, pass_fds=[theirs.fileno()], stderr=self._errors)
        theirs.close()
        self._heard()

    def _heard(self) -> bytes:
        answer = self._ours.recv(100)
        if not answer:
            raise RuntimeError(f"the process that forks writers is gone\n{self.errors()}")
        return answer

    def live(self, order: dict[str, Any]) -> int:
        """One writer's life; its exit code, negative for a signal."""
        self._ours.send(json.dumps(order).encode())
        return int(self._heard())

    def errors(self) -> str:
        """What writers wrote to stderr."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-3000:]

    @contextmanager
    def traced(self, *options: str, out: str | Path = os.devnull) -> Iterator[None]:
        """With `strace` attached to it, and to every writer from its first moment."""
        command = ["strace", "-f", "-q", "-p", str(self._process.pid), "-o", str(out), "-e", f"trace={TRACED}", *options]
        tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            self._wait_for(tracer)
            yield
        finally:
            tracer.send_signal(signal.SIGINT)  # it detaches
            tracer.communicate(timeout=PATIENCE)

    def _wait_for(self, tracer: subprocess.Popen[str]) -> None:
        status, deadline = Path(f"/proc/{self._process.pid}/status"), time.monotonic() + PATIENCE
        while f"TracerPid:\t{tracer.pid}\n" not in status.read_text():
            if tracer.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"strace does not attach: {tracer.communicate(timeout=1)[1]}")
            time.sleep(0.0005)

    def close(self) -> None:
        self._ours.close()
        self._process.wait(PATIENCE)
        self._errors.close()
