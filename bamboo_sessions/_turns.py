"""Threads for the tasks of an event loop: one key after the other, and never more threads than agreed.

A task waits for its *turn* on the event loop, where waiting costs no thread; only whoever's turn it is takes one. So any
number of tasks that wait for one key leave the threads to the others.

A thread cannot be stopped. When the task that waits for it is cancelled, the task goes at once, the thread goes on, and
the turn is over when both are done. What the thread is doing therefore cannot be overtaken by the next one in the queue.
(Under asyncio `anyio.to_thread` frees the place of a thread as soon as its task is cancelled, and drops a call whose
task was cancelled before a thread came to it: nobody can tell then whether it will run. A future of the executor can:
cancelling it succeeds or fails.)
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from types import TracebackType
from typing import Any, Self, TypeVar

from anyio import Event, move_on_after
from anyio.lowlevel import checkpoint_if_cancelled

T = TypeVar("T")


class Turns:
    """The queues and the threads of one event loop; everything but `soon` runs on that loop. `len()`: keys in use.

    Two pools of at most `threads` each, started as they are needed: what may have to wait for somebody else's lock runs
    in `patient`, what waits for nobody in `prompt`, which therefore never is full of waiters.
    """

    def __init__(self, loop: object, threads: int) -> None:
        self._loop = weakref.ref(loop)  # who keeps this by its loop must not keep the loop by this
        self.patient = ThreadPoolExecutor(threads, "bamboo-sessions-patient")
        self.prompt = ThreadPoolExecutor(threads, "bamboo-sessions-prompt")
        self._queues: dict[Hashable, deque[Event]] = {}  # a key is here while it is somebody's turn, with who waits
        self.running: set[Event] = set()  # one for each thread at work, set when it is done

    def __len__(self) -> int:
        return len(self._queues)

    async def take(self, key: Hashable, patience: float | None = None) -> Turn | None:
        """First come, first served; None where `patience` seconds were not enough."""
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = deque()
            return Turn(self, key)
        mine = Event()
        queue.append(mine)
        try:
            with move_on_after(patience):
                await mine.wait()
        except BaseException:
            if not _gave_up(queue, mine):
                self.hand_on(key)
            raise
        return None if _gave_up(queue, mine) else Turn(self, key)

    def free(self) -> Turn:
        """For work that concerns no key."""
        return Turn(self, None)

    def hand_on(self, key: Hashable) -> None:
        """The turn is over: to the longest waiter, or nobody."""
        queue = self._queues.get(key)
        if queue:
            queue.popleft().set()
        else:
            self._queues.pop(key, None)

    async def threads_done(self) -> None:
        """Wait for the threads that are at work now, also for those that nobody waits for any more."""
        for over in list(self.running):
            await over.wait()

    def soon(self, function: Callable[..., object], *args: object) -> None:
        """Have the loop call it; from any thread. A loop that has ended has nobody left to tell."""
        loop: Any = self._loop()
        post = getattr(loop, "call_soon_threadsafe", None) or getattr(loop, "run_sync_soon", None)
        if post is not None:
            with suppress(RuntimeError):
                post(function, *args)


def _gave_up(queue: deque[Event], mine: Event) -> bool:
    """False where the turn was given at the moment of the deadline or of the cancellation."""
    if mine in queue:
        queue.remove(mine)
        return True
    return False


class Turn:
    """`with turn:` the right of a task to work for one key, over when the body and every thread that it started is."""

    __slots__ = ("_key", "_left", "_running", "_turns")

    def __init__(self, turns: Turns, key: Hashable) -> None:
        self._turns, self._key = turns, key
        self._left, self._running = False, 0

    async def prompt(self, function: Callable[..., T], *args: object, surely: bool = False) -> T:
        """`function(*args)`, which waits for nobody, in a thread and in a copy of the caller's context.

        Cancelled before a thread has begun with it, it never runs (unless `surely`); after that it runs to its end.
        """
        return await self._run(self._turns.prompt, function, args, surely)

    async def patient(self, function: Callable[..., T], *args: object) -> T:
        """The same for what may wait for somebody else's lock."""
        return await self._run(self._turns.patient, function, args, surely=False)

    async def _run(self, pool: ThreadPoolExecutor, function: Callable[..., T], args: tuple[object, ...],
                   surely: bool) -> T:
        if not surely:
            await checkpoint_if_cancelled()  # whoever is cancelled already begins nothing
        future, over = self._start(pool, function, args)
        try:
            await over.wait()
        except BaseException:
            if not surely:
                future.cancel()
            raise
        try:
            return future.result()
        finally:
            del future  # or its exception, this frame and it would keep one another

    def start(self, function: Callable[..., object], *args: object) -> None:
        """Like `prompt`, for a caller that cannot wait for it."""
        self._start(self._turns.prompt, function, args)

    def _start(self, pool: ThreadPoolExecutor, function: Callable[..., T],
               args: tuple[object, ...]) -> tuple[Future[T], Event]:
        future, over = pool.submit(copy_context().run, function, *args), Event()
        self._running += 1
        self._turns.running.add(over)
        future.add_done_callback(lambda _: self._turns.soon(self._thread_done, over))
        return future, over

    def _thread_done(self, over: Event) -> None:
        self._running -= 1
        self._turns.running.discard(over)
        over.set()
        self._settle()

    def end(self) -> None:
        self._left = True
        self._settle()

    def _settle(self) -> None:
        if self._left and not self._running:
            self._turns.hand_on(self._key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.end()
