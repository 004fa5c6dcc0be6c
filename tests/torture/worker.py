"""The process that writers are forked from: everything is imported once, so that a writer's life costs milliseconds.

It is traced, and its children with it, so it makes no call that is counted: it is told what to do, and answers, by way of
a socket. A writer says "acknowledged" with `writev`, which no writer of files here uses.

A tracer strikes at the n-th call of a kind, and which n is fixed while it is attached. A writer that is to die at an
earlier call first makes calls of that kind that come to nothing, as many as are missing.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

import attrs

from bamboo_sessions._files import Files
from tests.torture import worker_faults
from tests.torture.scenarios import Scenario, scenarios
from tests.torture.scenarios_model import Change

_NO_FD = 9999
_NOWHERE = "/nonexistent/nowhere"

IDLE: dict[str, Callable[[], Any]] = {
    "openat": lambda: os.open(_NOWHERE, os.O_RDONLY),
    "write": lambda: os.write(_NO_FD, b""),
    "pwrite64": lambda: os.pwrite(_NO_FD, b"", 0),
    "fdatasync": lambda: os.fdatasync(_NO_FD),
    "fsync": lambda: os.fsync(_NO_FD),
    "ftruncate": lambda: os.ftruncate(_NO_FD, 0),
    "rename": lambda: os.rename(_NOWHERE, _NOWHERE),
    "unlink": lambda: os.unlink(_NOWHERE),
    "unlinkat": lambda: os.unlink("nowhere", dir_fd=_NO_FD),
    "mkdir": lambda: os.mkdir(_NOWHERE),
    "rmdir": lambda: os.rmdir(_NOWHERE),
    "fchmod": lambda: os.fchmod(_NO_FD, 0o600),
    "fcntl": lambda: fcntl.fcntl(_NO_FD, fcntl.F_GETFD),
    "flock": lambda: fcntl.flock(_NO_FD, fcntl.LOCK_SH),
    "utimensat": lambda: os.utime(_NOWHERE),
    "close": lambda: os.close(_NO_FD),
}
"""The calls that are counted, each as one that changes nothing."""


def main() -> None:
    sock = socket.socket(fileno=int(sys.argv[1]))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the log may say that a torn tail was cut, as it should
    _warm_up()
    gc.collect()
    gc.freeze()
    sock.send(b"ready")
    while told := sock.recv(1 << 20):
        pid = os.fork()
        if not pid:
            _live(json.loads(told))
        sock.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)


def _warm_up() -> None:
    """What is imported, or remembered, at the first use must not be counted in the first writer alone."""
    for scenario in known("warm").values():
        with tempfile.TemporaryDirectory() as folder:
            store = os.path.join(folder, "store")
            scenario.prepare(store)
            scenario.run(store, lambda _: None)


@lru_cache
def known(seed: str) -> dict[str, Scenario]:
    return scenarios(seed)


def _live(order: dict[str, Any]) -> None:
    """Run one scenario to its end, or to ours."""
    code = 1
    try:
        gc.disable()
        scenario = known(order["seed"])[order["scenario"]]
        if order.get("changes") is not None:
            scenario = attrs.evolve(scenario, changes=tuple(Change(**change) for change in order["changes"]))
        acks = os.open(order["acks"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        acknowledge = _acknowledge_to(acks)
        for _ in range(order["idle"]):
            with suppress(OSError):
                IDLE[order["call"]]()
        _run(scenario, order, acknowledge)
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def _acknowledge_to(fd: int) -> Callable[[int], None]:
    def acknowledge(number: int) -> None:
        os.writev(fd, [b"%d\n" % number])

    return acknowledge


def _run(scenario: Scenario, order: dict[str, Any], acknowledge: Callable[[int], None]) -> None:
    if not order.get("fault"):
        scenario.run(order["folder"], acknowledge)
        return
    fault = worker_faults.FAULTS[order["fault"]]
    with fault.at_work(scenario.files) as files:
        assert isinstance(files, Files)
        scenario.run(order["folder"], fault.acknowledging(acknowledge), files=files)


if __name__ == "__main__":
    main()
