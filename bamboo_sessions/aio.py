"""The repository for asyncio and trio: the same methods, awaited, and no behaviour of their own.

A load that the cache can answer is answered on the event loop, without a switch to another task. Everything else runs
in a thread, one at a time for each session, queued for on the loop (`_turns`): a queue for those who write, one for
those who read, since nobody who reads waits for a writer.

A task may be cancelled at any moment; a thread cannot. So no thread works on an object in the caller's hands: it saves a
twin of it (`_twins`), and the object follows on the event loop, unless the task was cancelled.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import timedelta
from functools import partial
from os import PathLike
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar
from weakref import WeakKeyDictionary

from anyio import CancelScope
from anyio.lowlevel import checkpoint_if_cancelled, current_token

from bamboo_sessions._holds import Hold
from bamboo_sessions._turns import Turn, Turns
from bamboo_sessions._twins import Twin
from bamboo_sessions.cache import CacheStats, SessionCache
from bamboo_sessions.clock import SYSTEM_CLOCK, Clock, real_monotonic
from bamboo_sessions.errors import LockTimeout
from bamboo_sessions.ids import check_session_id
from bamboo_sessions.models import SaveResult, Session, SessionPage
from bamboo_sessions.models.findings import Finding, Repair
from bamboo_sessions.repository import Answer, SessionRepository

T = TypeVar("T")
P = ParamSpec("P")

_READS: Final = "reads"
_WRITES: Final = "writes"
_LOGS: Final = "logs"  # the usage log has a lock of its own, and waits for no edit of the session


class AsyncSessionRepository:
    """A `SessionRepository` for tasks: each method does what its namesake there does, and says so there.

    Wraps a repository (`sync`), which threads may go on using beside it; `open` makes one. It may serve several event
    loops. On each it uses at most `threads` threads for what may have to wait for other writers, and as many for what
    waits for nobody; the default is what asyncio and trio users know from `to_thread`. More sessions than that, each of
    them locked by other processes, delay the writers of further ones.

    Cancelling: a call that waits in a queue leaves it, and nothing was done. A call that is at work in a thread is left
    to it: the change is made or is not made. After a cancelled `save` the object is as it was; saving it again stores
    each of its changes once.
    """

    def __init__(self, sync: SessionRepository, *, threads: int = 40) -> None:
        if threads < 1:
            raise ValueError(f"threads must be positive, not {threads}")
        self.sync = sync
        self.cache, self.storage, self.persistence = sync.cache, sync.storage, sync.persistence
        self._cached = sync._cached
        self._threads = threads
        self._loops: WeakKeyDictionary[object, Turns] = WeakKeyDictionary()
        self._making = threading.Lock()  # guards the making of an entry in it

    @classmethod
    def open(cls, where: str | PathLike[str], *, cache: SessionCache[Session] | None = None,
             clock: Clock = SYSTEM_CLOCK, lock_timeout: float = 30.0, ttl: timedelta | None = None, **options: Any) -> Self:
        """See `SessionRepository.open`. Not awaited: it touches little, and once."""
        return cls(SessionRepository.open(where, cache=cache, clock=clock, lock_timeout=lock_timeout, ttl=ttl, **options))

    # -- loading -------------------------------------------------------------------------------------------------

    async def load(self, session_id: str) -> Session | None:
        """The cached copy, else the stored one, as the caller's own; None where there is none or storage fails."""
        cached = self._cached(session_id)
        return cached if cached is not None else await self._missed(session_id, self.sync._miss_or_none)

    async def try_load(self, session_id: str) -> Session | None:
        """Like `load`, but raises `StorageError`."""
        cached = self._cached(session_id)
        return cached if cached is not None else await self._missed(session_id, self.sync._miss)

    async def _missed(self, session_id: str, load: Callable[[str], Session | None]) -> Session | None:
        with await self._reader(session_id) as turn:
            cached = self._cached(session_id) if session_id in self.cache else None  # whoever was ahead may have brought it
            return cached if cached is not None else await turn.prompt(load, session_id)

    async def load_merged(self, session_id: str) -> Session | None:
        """Cache and storage reconciled; always in a thread, for it asks storage what is new."""
        return await self._read(session_id, self.sync.load_merged, session_id)

    async def try_load_merged(self, session_id: str) -> Session | None:
        """Like `load_merged`, but raises `StorageError`."""
        return await self._read(session_id, self.sync.try_load_merged, session_id)

    async def load_or_create(self, session_id: str, *, model: str | None = None, **fields: Any) -> Session:
        """The session, or a fresh one that is neither saved nor cached until `save`. Raises `StorageError`."""
        cached = self._cached(session_id)
        if cached is not None:
            return cached
        return await self._read(session_id, self.sync.load_or_create, session_id, model=model, **fields)

    async def exists(self, session_id: str) -> bool:
        """Whether storage has the session."""
        return await self._read(session_id, self.sync.exists, session_id)

    async def touch(self, session_id: str) -> None:
        """Note activity: its time to live starts anew. Raises `SessionNotFound`, `SessionExpired`."""
        if self.persistence.lifetimes is not None:
            await self._write(session_id, self.sync.touch, session_id)
        elif self._cached(session_id) is None:
            await self._read(session_id, self.sync.touch, session_id)

    async def expire_after(self, ttl: timedelta) -> None:
        """Let sessions expire, for a repository that was opened without a `ttl`: before anybody uses it."""
        with self._here().free() as turn:
            await turn.patient(self.sync.expire_after, ttl)
        self._cached = self.sync._cached

    async def purge_expired(self) -> int:
        """Remove the sessions whose time has run out, for good; how many."""
        with self._here().free() as turn:
            return await turn.patient(self.sync.purge_expired)

    async def start_cleanup(self, interval: timedelta = timedelta(minutes=1)) -> None:
        """Call `purge_expired` every `interval` on a thread of its own, until `close`; at once."""
        self.sync.start_cleanup(interval)

    async def stop_cleanup(self) -> None:
        """No purge of `start_cleanup` runs after this; waits for one that does."""
        with self._here().free() as turn:
            await turn.patient(self.sync.stop_cleanup)

    async def list(self, limit: int = 50, cursor: str | None = None, *, model: str | None = None,
                   provider: str | None = None, context_id: str | None = None, parent_id: str | None = None,
                   pinned: bool | None = None, archived: bool | None = None, tag: str | None = None,
                   has_open_question: bool | None = None) -> SessionPage:
        """At most `limit` summaries, newest first; a filter that is None does not matter."""
        wanted = partial(self.sync.list, limit, cursor, model=model, provider=provider, context_id=context_id,
                         parent_id=parent_id, pinned=pinned, archived=archived, tag=tag,
                         has_open_question=has_open_question)
        return await self._freely(wanted)

    # -- saving --------------------------------------------------------------------------------------------------

    async def save(self, session: Session) -> SaveResult:
        """Merge into what storage holds; on return `session` is the merged, committed state.

        What is saved is the session as it was on entry; what is added to the object meanwhile stays on it, unsaved.
        """
        return await self._save(session, self.sync.save)

    save_runtime_session = save

    async def create(self, session: Session) -> SaveResult:
        """Save a new session under an id that nobody has; raises `SessionExists` where somebody does."""
        return await self._save(session, self.sync.create, settles=False)  # `create` has to know an attempt of its own

    async def save_and_cache(self, session: Session) -> None:
        """Save, or keep: a `StorageError` is logged and the copy stays in the cache as unsaved."""
        await self._save(session, self.sync.save_and_cache)

    async def _save(self, session: Session, save: Callable[[Session], T], *, settles: bool = True) -> T:
        twin = Twin(session)
        began, turn = await self._writer(session.id)
        with turn:
            if settles:
                await self._settle(twin, turn)
            twin.begin()
            result = await self._patiently(turn, began, lambda: twin.saved_by(save))
            twin.followed()
            return result

    async def _settle(self, twin: Twin, turn: Turn) -> None:
        attempt = twin.open_attempt()
        if attempt is not None and await turn.prompt(twin.was_applied, self.persistence, attempt):
            twin.settle(attempt)

    async def flush(self) -> None:
        """Save every unsaved copy; raises the first `StorageError` after trying them all."""
        with self._here().free() as turn:
            await turn.patient(self.sync.flush)

    # -- editing -------------------------------------------------------------------------------------------------

    def edit(self, session_id: str) -> AbstractAsyncContextManager[Session]:
        """`async with repo.edit(id) as session:` newest, change, save, as one atomic step.

        The hold belongs to the task: awaited calls on this session within the body, and those of tasks started there,
        join it. A body that fails or is cancelled saves nothing, and the session is let go of in any case.
        """
        return _Edit(self, session_id)

    async def update(self, session_id: str, change: Callable[[Session], object]) -> SaveResult:
        """`change(session)` on the newest state, saved. `change` is a plain function, called in the worker thread, once
        for each state that it is tried on. Raises `SessionNotFound`."""
        return await self._write(session_id, self.sync.update, session_id, change)

    async def set_title(self, session_id: str, title: str | None, *, source: str = "user") -> SaveResult:
        """Give a title; `source` "generated" never replaces one that a user gave (then nothing changes)."""
        return await self._write(session_id, self.sync.set_title, session_id, title, source=source)

    async def set_pinned(self, session_id: str, pinned: bool) -> SaveResult:
        """Pin or unpin."""
        return await self._write(session_id, self.sync.set_pinned, session_id, pinned)

    async def set_archived(self, session_id: str, archived: bool) -> SaveResult:
        """Put away or take out again."""
        return await self._write(session_id, self.sync.set_archived, session_id, archived)

    async def set_tags(self, session_id: str, tags: Iterable[str]) -> SaveResult:
        """Make these the tags."""
        return await self._write(session_id, self.sync.set_tags, session_id, tags)

    async def add_tags(self, session_id: str, *tags: str) -> SaveResult:
        """Add tags."""
        return await self._write(session_id, self.sync.add_tags, session_id, *tags)

    async def remove_tags(self, session_id: str, *tags: str) -> SaveResult:
        """Take tags away."""
        return await self._write(session_id, self.sync.remove_tags, session_id, *tags)

    async def answer(self, session_id: str, tool_call_id: str, answer: Answer, *,
                     append_result: bool = True) -> SaveResult:
        """Close the question and append its tool result in one commit; `QuestionNotOpen` if somebody was first."""
        return await self._write(session_id, self.sync.answer, session_id, tool_call_id, answer,
                                 append_result=append_result)

    async def delete(self, session_id: str) -> bool:
        """Remove the session for good; True where there was one. Later saves of its copies raise `SessionDeleted`."""
        return await self._write(session_id, self.sync.delete, session_id)

    async def append_token_usage_record(self, session_id: str, json_line: str | bytes) -> None:
        """Append one line of JSON to the session's usage log. Waits for no other writer of the session."""
        turn = await self._here().take((_LOGS, session_id))
        assert turn is not None
        with turn:
            await turn.patient(self.sync.append_token_usage_record, session_id, json_line)

    # -- checking ------------------------------------------------------------------------------------------------

    async def check(self, session_id: str | None = None, *, progress: Callable[[int, int], object] | None = None
                    ) -> AsyncIterator[Finding]:
        """`async for finding in repo.check():` what is not as it should be on disk; nothing is changed.

        `progress` is called in the worker thread.
        """
        findings = await self._freely(partial(self.sync.check, session_id, progress=progress))
        while (finding := await self._freely(partial(next, findings, None))) is not None:
            yield finding

    async def _freely(self, function: Callable[[], T]) -> T:
        with self._here().free() as turn:
            return await turn.prompt(function)

    async def repair(self, session_id: str) -> Repair:
        """Write a damaged session anew from all that can be read of it; what was there is kept in quarantine."""
        return await self._write(session_id, self.sync.repair, session_id)

    # -- the rest ------------------------------------------------------------------------------------------------

    async def stats(self) -> CacheStats:
        """Counters of the cache; at once."""
        return self.sync.stats()

    async def close(self) -> None:
        """Save what is unsaved and release the storage; raises the `StorageError` where something could not be saved.

        Threads that cancelled calls have left behind finish first: what they write is written under a lock.
        """
        turns = self._here()
        await turns.threads_done()
        with turns.free() as turn:
            await turn.patient(self.sync.close)
        self._loops.pop(self._loop(), None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        if isinstance(error, GeneratorExit):  # the loop has ended, and nothing can be awaited any more
            self.sync.close()
            return
        with CancelScope(shield=True):
            await self.close()

    # -- queues and threads --------------------------------------------------------------------------------------

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

    async def _reader(self, session_id: str) -> Turn:
        turn = await self._here().take((_READS, check_session_id(session_id)))
        assert turn is not None
        return turn

    async def _read(self, session_id: str, function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        with await self._reader(session_id) as turn:
            return await turn.prompt(partial(function, *args, **named))

    async def _writer(self, session_id: str) -> tuple[float, Turn]:
        """When the wait for the session began, and the turn: among those who are within the same edit, else among all."""
        began, turns, holds = real_monotonic(), self._here(), self.persistence._holds
        while True:
            key = holds.live(check_session_id(session_id)) or session_id
            turn = await turns.take((_WRITES, key), max(0.0, holds.timeout - (real_monotonic() - began)))
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


class _Edit:
    """`async with`: entered in one thread and left in another; in between the hold belongs to the task."""

    def __init__(self, repo: AsyncSessionRepository, session_id: str) -> None:
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
        turn = turns.free() if self._hold is None else await turns.take((_WRITES, self._hold))
        assert turn is not None
        return turn

    def _leave_saved(self, session: Session) -> None:
        """In a thread; the sync edit saves the very object that it gave."""
        self._edit.__exit__(None, None, None)

    def _leave_failed(self, error: BaseException) -> None:
        self._edit.__exit__(type(error), error, error.__traceback__)
