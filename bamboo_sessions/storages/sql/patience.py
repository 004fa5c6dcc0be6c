"""Connections to PostgreSQL that do not wait for ever.

The server's own limits end a statement that takes too long, and the kernel's keep-alives a line that is down. Neither
helps against a proxy that takes everything and says nothing. psycopg asks a generator what to wait for, and tells it now
and then that nothing came: there the clock is looked at.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import psycopg
from psycopg.abc import PQGen

from bamboo_sessions.clock import real_monotonic

Answer = TypeVar("Answer")

LONGEST: Final = 40.0
"""Seconds for any answer: longer than the server's own limit, whose error is the better one."""


class PatientConnection(psycopg.Connection[Any]):
    """Closes itself where an answer takes longer than `longest`: what it was asked may have been carried out."""

    longest: float = LONGEST

    def wait(self, gen: PQGen[Answer], *args: Any, **options: Any) -> Answer:
        """See psycopg: every exchange with the server goes through here."""
        return super().wait(self._limited(gen), *args, **options)

    def _limited(self, gen: PQGen[Answer]) -> PQGen[Answer]:
        deadline = real_monotonic() + self.longest
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and real_monotonic() > deadline:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"no answer within {self.longest:g} s")
                wanted = gen.send(ready)
        except StopIteration as ended:
            answer: Answer = ended.value
            return answer


def lend_patience(connection: psycopg.Connection[Any]) -> None:
    """To a connection of somebody else's, for as long as it is used here: its owner may ask what takes longer. It becomes
    one of these, because psycopg asks the class and an object in front of it would cost something at each statement."""
    if type(connection) is psycopg.Connection:
        connection.__class__ = PatientConnection


def take_patience_back(connection: psycopg.Connection[Any]) -> None:
    """The reverse."""
    if type(connection) is PatientConnection:
        connection.__class__ = psycopg.Connection  # type: ignore[assignment] # which it was, with nothing but what that has
