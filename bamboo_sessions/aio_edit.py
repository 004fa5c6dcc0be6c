"""`async with repo.edit(id)`: one hold, entered in one thread and left in another, that belongs to a task in between.

A thread that is entering cannot be stopped. Where its task is cancelled meanwhile, both reach for `_wanted`: whoever comes
second knows that the other one was there, and is the one to leave. A body that was entered is left in any case, whatever
cancels the task: a hold that nobody lets go of shuts out all other writers.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from types import TracebackType

from anyio import CancelScope
from anyio.lowlevel import checkpoint_if_cancelled

from bamboo_sessions._holds import Hold
from bamboo_sessions._turns import Turn
from bamboo_sessions._twins import Twin
from bamboo_sessions.aio_queues import WRITES, Queued
from bamboo_sessions.ids import check_session_id
from bamboo_sessions.models import Session


class Edit:
    """`async with`: entered in one thread and left in another; in between the hold belongs to the task."""

    def __init__(self, repo: Queued, session_id: str) -> None:
        self._repo, self._id = repo, check_session_id(session_id)
        self._edit = repo.sync.edit(session_id)
        self._wanted = threading.Lock()  # taken by the thread that entered, or by the task that was cancelled before that
        self._hold: Hold | None = None
        self._leaving = False

    async def __aenter__(self) -> Session:
        began, self._turn = await self._repo._writer(self._id)
        try:
            self._session, hold = await self._enter(began)
        except BaseException:
            self._turn.end()
            raise
        self._hold, self._within = hold, self._repo.persistence._holds.within
        self._token = self._within.set({**self._within.get(), self._id: hold})
        self._mine = self._session.snapshot()
        return self._mine

    async def _enter(self, began: float) -> tuple[Session, Hold]:
        try:
            return await self._repo._patiently(self._turn, began, self._enter_here)
        except BaseException as error:
            if not self._wanted.acquire(blocking=False):  # cancelled when the thread was through
                await self._give_up(error)
            raise

    def _enter_here(self) -> tuple[Session, Hold]:
        """In a thread. Where the task was cancelled meanwhile, nobody else would ever leave."""
        session = self._edit.__enter__()
        hold = self._repo.persistence._holds.live(self._id)
        assert hold is not None
        if not self._wanted.acquire(blocking=False):
            self._leave_failed(GeneratorExit())
        return session, hold

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        with suppress(ValueError):  # ended in another task than begun, as by an exit stack
            self._within.reset(self._token)
        with self._turn:
            if error is not None:
                await self._give_up(error)
                return
            try:
                await self._save()
            except BaseException as late:
                if not self._leaving:  # cancelled, or refused, at the end of the body and before anything was saved
                    await self._give_up(late)
                raise

    async def _save(self) -> None:
        with await self._joined() as turn:
            twin = Twin(self._mine)
            await self._repo._settle(twin, turn)
            twin.begin(self._session)
            await checkpoint_if_cancelled()  # the body was cancelled, if without noticing
            self._leaving = True
            await self._turn.prompt(twin.saved_by, self._leave_saved, surely=True)
            twin.followed()

    async def _give_up(self, error: BaseException) -> None:
        """Leave, saving nothing; a cancelled task too stays until it has."""
        if isinstance(error, GeneratorExit):  # the loop has ended, and nothing can be awaited any more
            self._leave_failed(error)
            return
        with CancelScope(shield=True):
            try:
                with await self._joined():
                    self._leaving = True
                    await self._turn.prompt(self._leave_failed, error, surely=True)
            except BaseException:
                if not self._leaving:  # asyncio can cancel a second time, and through any shield
                    self._turn.start(self._leave_failed, error)
                raise

    async def _joined(self) -> Turn:
        """The turn behind the calls from within that are under way: no thread is to wait for them."""
        turns = self._repo._here()
        turn = turns.free() if self._hold is None else await turns.take((WRITES, self._hold))
        assert turn is not None
        return turn

    def _leave_saved(self, session: Session) -> None:
        """In a thread; the sync edit saves the very object that it gave."""
        self._edit.__exit__(None, None, None)

    def _leave_failed(self, error: BaseException) -> None:
        self._edit.__exit__(type(error), error, error.__traceback__)
