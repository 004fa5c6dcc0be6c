"""PostgreSQL behind a bad line: real connections that break, hang and come too late.

A process has two lines to the server. All that is done goes over the one, which is quiet; what a thread planned a fault for
goes over the other, one operation at a time, so that a fault befalls that operation and nobody else's. To the database it
is just another client.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import event, make_url

from bamboo_sessions import SqlStorage
from tests.histories.factories import Breakable, Faults
from tests.sql.proxy import FaultProxy

LINE = ("reset", "lose reply", "torn reply", "refuse", "black hole", "slow")
"""What a line can do; see the proxy. A slow one is slower than its client's patience, so that what was given up arrives."""
PATIENCE = 0.3
"""Seconds that a client waits for an answer on the bad line."""

Made = TypeVar("Made")


class BadLine:
    """The other line of a process."""

    def __init__(self, url: str, namespace: str) -> None:
        self.proxy = FaultProxy(url)
        there = make_url(self.proxy.url).update_query_dict({"connect_timeout": "2"}).render_as_string(hide_password=False)
        self.storage = SqlStorage(there, namespace=namespace, durability="process", pool_size=2)
        event.listen(self.storage._open.engine, "connect", _hurry)
        self.storage._open.start_anew()
        self._turn = threading.Lock()  # guards the line: one operation at a time
        self._dice = random.Random()  # the moment of a fault is up to the machine anyway

    def do(self, fault: str, call: Callable[[SqlStorage], Made]) -> Made:
        with self._turn:
            proxy = self.proxy
            proxy.skip, proxy.delay = self._dice.choice((0, 0, 1, 2, 3)), PATIENCE * self._dice.choice((0.4, 1.3))
            proxy.fault = fault
            if fault == "refuse":
                proxy.cut()
            healing = threading.Timer(self._dice.choice((0.02, 0.1, PATIENCE, 3 * PATIENCE)), self._heal)
            healing.start()
            try:
                return call(self.storage)
            finally:
                healing.cancel()
                self._heal()

    def _heal(self) -> None:
        self.proxy.fault = None

    def close(self) -> None:
        self.storage.close()
        self.proxy.__exit__()


def _hurry(connection: Any, _record: Any) -> None:
    connection.longest = PATIENCE


class Wired(Breakable):
    """Takes the bad line where its caller planned it."""

    def __init__(self, inner: Any, faults: Faults, line: BadLine) -> None:
        super().__init__(inner, faults)
        self._line = line

    def read(self, session_id: str, known: Any = None) -> Any:
        fault = self._planned()
        return super().read(session_id, known) if fault is None else self._line.do(fault, lambda s: s.read(session_id, known))

    def commit(self, commit: Any) -> Any:
        fault = self._planned()
        return super().commit(commit) if fault is None else self._line.do(fault, lambda s: s.commit(commit))

    def close(self) -> None:
        self._inner.close()
        self._line.close()

    def _planned(self) -> str | None:
        return next((way for way in LINE if self._faults.is_planned(way)), None)
