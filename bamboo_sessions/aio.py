"""The repository for asyncio and trio: the same methods, awaited, and no behaviour of their own.

A load that the cache can answer is answered on the event loop, without a switch to another task. Everything else runs
in a thread, one at a time for each session, queued for on the loop (`aio_queues`).

A task may be cancelled at any moment; a thread cannot. So no thread works on an object in the caller's hands: it saves a
twin of it (`_twins`), and the object follows on the event loop, unless the task was cancelled.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from functools import partial
from os import PathLike
from types import TracebackType
from typing import Any, Self, TypeVar

from anyio import CancelScope

from bamboo_sessions._twins import Twin
from bamboo_sessions.aio_edit import Edit
from bamboo_sessions.aio_queues import LOGS, Queued
from bamboo_sessions.cache import CacheStats, SessionCache
from bamboo_sessions.clock import SYSTEM_CLOCK, Clock
from bamboo_sessions.filters import Order, Path
from bamboo_sessions.models import SaveResult, Session, SessionPage
from bamboo_sessions.models.findings import Finding, Repair
from bamboo_sessions.models.hits import SearchPage
from bamboo_sessions.repository import Answer, SessionRepository

T = TypeVar("T")


class AsyncSessionRepository(Queued):
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
        super().__init__(sync, threads)

    @classmethod
    def open(cls, where: str | PathLike[str], *, cache: SessionCache[Session] | None = None,
             clock: Clock = SYSTEM_CLOCK, lock_timeout: float = 30.0, ttl: timedelta | None = None, **options: Any) -> Self:
        """See `SessionRepository.open`. Not awaited: it touches little, and once."""
        return cls(SessionRepository.open(where, cache=cache, clock=clock, lock_timeout=lock_timeout, ttl=ttl, **options))

    # -- loading -------------------------------------------------------------------------------------------------

    async def load(self, session_id: str) -> Session | None:
        """The cached copy, else the stored one, as the caller's own; None where there is none or storage fails."""
        cached = self.sync._cached(session_id)
        return cached if cached is not None else await self._missed(session_id, self.sync._miss_or_none)

    async def try_load(self, session_id: str) -> Session | None:
        """Like `load`, but raises `StorageError`."""
        cached = self.sync._cached(session_id)
        return cached if cached is not None else await self._missed(session_id, self.sync._miss)

    async def _missed(self, session_id: str, load: Callable[[str], Session | None]) -> Session | None:
        with await self._reader(session_id) as turn:
            cached = self.sync._cached(session_id) if session_id in self.cache else None  # whoever was ahead may have brought it
            return cached if cached is not None else await turn.prompt(load, session_id)

    async def load_merged(self, session_id: str) -> Session | None:
        """Cache and storage reconciled; always in a thread, for it asks storage what is new."""
        return await self._read(session_id, self.sync.load_merged, session_id)

    async def try_load_merged(self, session_id: str) -> Session | None:
        """Like `load_merged`, but raises `StorageError`."""
        return await self._read(session_id, self.sync.try_load_merged, session_id)

    async def load_or_create(self, session_id: str, *, model: str | None = None, **fields: Any) -> Session:
        """The session, or a fresh one that is neither saved nor cached until `save`. Raises `StorageError`."""
        cached = self.sync._cached(session_id)
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
        elif self.sync._cached(session_id) is None:
            await self._read(session_id, self.sync.touch, session_id)

    async def expire_after(self, ttl: timedelta) -> None:
        """Let sessions expire, for a repository that was opened without a `ttl`: before anybody uses it."""
        with self._here().free() as turn:
            await turn.patient(self.sync.expire_after, ttl)

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
                   has_open_question: bool | None = None, tags: Iterable[str] = (), updated_after: datetime | None = None,
                   updated_before: datetime | None = None, metadata: Mapping[str | Path, Any] | None = None,
                   order: Order = "newest") -> SessionPage:
        """At most `limit` summaries, newest first; a filter that is None, or empty, does not matter."""
        wanted = partial(self.sync.list, limit, cursor, model=model, provider=provider, context_id=context_id,
                         parent_id=parent_id, pinned=pinned, archived=archived, tag=tag,
                         has_open_question=has_open_question, tags=tags, updated_after=updated_after,
                         updated_before=updated_before, metadata=metadata, order=order)
        return await self._freely(wanted)

    async def search(self, words: str, limit: int = 20, cursor: str | None = None, *, prefix: bool = False,
                     model: str | None = None, provider: str | None = None, context_id: str | None = None,
                     parent_id: str | None = None, pinned: bool | None = None, archived: bool | None = None,
                     tag: str | None = None, has_open_question: bool | None = None, tags: Iterable[str] = (),
                     updated_after: datetime | None = None, updated_before: datetime | None = None,
                     metadata: Mapping[str | Path, Any] | None = None) -> SearchPage:
        """Titles and messages in which all of these words are, at most `limit` of them, the newest sessions first."""
        wanted = partial(self.sync.search, words, limit, cursor, prefix=prefix, model=model, provider=provider,
                         context_id=context_id, parent_id=parent_id, pinned=pinned, archived=archived, tag=tag,
                         has_open_question=has_open_question, tags=tags, updated_after=updated_after,
                         updated_before=updated_before, metadata=metadata)
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
        return Edit(self, session_id)

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
        turn = await self._here().take((LOGS, session_id))
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
