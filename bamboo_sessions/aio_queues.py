"""Where the calls of tasks wait, and the threads that they run in: a queue on the event loop for each session.

There are two of them a session, one for those who write and one for those who read, since nobody who reads waits for a
writer. Within an edit there is one more, for those who may join it. The time in a queue counts as waiting for the other
writers, which it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Final, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from anyio.lowlevel import current_token

from bamboo_sessions._turns import Turn, Turns
from bamboo_sessions._twins import Twin
from bamboo_sessions.clock import real_monotonic
from bamboo_sessions.errors import LockTimeout
from bamboo_sessions.ids import check_session_id
from bamboo_sessions.repository import SessionRepository

T = TypeVar("T")
P = ParamSpec("P")

READS: Final = "reads"
WRITES: Final = "writes"
LOGS: Final = "logs"  # the usage log has a lock of its own, and waits for no edit of the session


class Queued:
    """A repository whose methods are called in threads, in their turn."""

    def __init__(self, sync: SessionRepository, threads: int) -> None:
        self.sync = sync
        self.cache, self.storage, self.persistence = sync.cache, sync.storage, sync.persistence
        self._threads = threads
        self._loops: WeakKeyDictionary[object, Turns] = WeakKeyDictionary()
        self._making = threading.Lock()  # guards the making of an entry in it

    @staticmethod
    def _loop() -> object:
        return current_token().native_token

    def _here(self) -> Turns:
        loop = self._loop()
        turns = self._loops.get(loop)
        if turns is None:
            with self._making:
                turns = self._loops.setdefault(loop, Turns(loop, self._threads))
        return turns

    # -- readers -----------------------------------------------------------------------------------------------------

    async def _reader(self, session_id: str) -> Turn:
        turn = await self._here().take((READS, check_session_id(session_id)))
        assert turn is not None
        return turn

    async def _read(self, session_id: str, function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        with await self._reader(session_id) as turn:
            return await turn.prompt(partial(function, *args, **named))

    async def _freely(self, function: Callable[[], T]) -> T:
        with self._here().free() as turn:
            return await turn.prompt(function)

    # -- writers -----------------------------------------------------------------------------------------------------

    async def _writer(self, session_id: str) -> tuple[float, Turn]:
        """When the wait for the session began, and the turn: among those who are within the same edit, else among all."""
        began, turns, holds = real_monotonic(), self._here(), self.persistence._holds
        while True:
            key = holds.live(check_session_id(session_id)) or session_id
            turn = await turns.take((WRITES, key), max(0.0, holds.timeout - (real_monotonic() - began)))
            if turn is None:
                raise LockTimeout(session_id, holds.timeout)
            if key == (holds.live(session_id) or session_id):
                return began, turn
            turn.end()  # the edit has ended, and with it the queue of those within

    async def _write(self, session_id: str, function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        began, turn = await self._writer(session_id)
        with turn:
            return await self._patiently(turn, began, partial(function, *args, **named))

    async def _patiently(self, turn: Turn, began: float, work: Callable[[], T]) -> T:
        """In a thread. The time in the queue counts as waiting for the other writers, which it was."""
        def waited() -> T:
            self.persistence._holds.since.set(began)
            return work()

        return await turn.patient(waited)

    async def _settle(self, twin: Twin, turn: Turn) -> None:
        attempt = twin.open_attempt()
        if attempt is not None and await turn.prompt(twin.was_applied, self.persistence, attempt):
            twin.settle(attempt)
