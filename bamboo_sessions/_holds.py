"""Holding one session against all other writers, and letting calls from within join.

A hold is two locks: this process's lock of the session, then the storage's lock across processes. It belongs to the
`with` that took it, not to a thread: calls made from within its body (the same thread or task, or work started there)
see it in their context and join instead of waiting for themselves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from contextvars import ContextVar, Token
from types import MappingProxyType, TracebackType
from typing import Final, Self

from bamboo_sessions._locks import KeyedLocks
from bamboo_sessions.clock import real_monotonic
from bamboo_sessions.errors import LockTimeout

Across = Callable[[str, float], AbstractContextManager[None]]


class Hold:
    """One session, held from `__enter__` to `__exit__`. Raises `LockTimeout`.

    `at` belongs to the holder: the state that nobody outside this hold may have moved on from; None: that is no matter.
    """

    __slots__ = ("_id", "_stack", "_timeout", "_token", "at", "body", "holds", "live")

    def __init__(self, holds: Holds, session_id: str, timeout: float) -> None:
        self.holds, self._id, self._timeout, self._stack = holds, session_id, timeout, ExitStack()
        self.live = False
        self.at: object | None = None
        self.body = threading.RLock()  # guards the body against itself: calls that join from other threads take turns

    def __enter__(self) -> Self:
        with ExitStack() as taken:
            self._take(taken)
            self._stack = taken.pop_all()
        self.live = True
        self._token: Token[Mapping[str, Hold]] = self.holds.within.set({**self.holds.within.get(), self._id: self})
        return self

    def _take(self, taken: ExitStack) -> None:
        holds, session_id, timeout = self.holds, self._id, self._timeout
        began = real_monotonic()
        entry = holds.locks.acquire(session_id, timeout)
        if entry is None:
            raise LockTimeout(session_id, timeout)
        taken.callback(holds.locks.release, session_id, entry)
        if holds.across is not None:
            taken.enter_context(holds.across(session_id, max(0.0, timeout - (real_monotonic() - began))))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        with self.body:  # whoever joined finishes first
            self.live = False  # what was started within and outlives the hold must queue like anybody else
        with suppress(ValueError):  # left on another thread than entered: its context never had this token
            self.holds.within.reset(self._token)
        self._stack.close()


class Joined:
    """A call from within a hold: one at a time; a hold of its own where the outer one has just ended."""

    __slots__ = ("_id", "_outer", "_stack", "_timeout")

    def __init__(self, outer: Hold, session_id: str, timeout: float) -> None:
        self._outer, self._id, self._timeout, self._stack = outer, session_id, timeout, ExitStack()

    def __enter__(self) -> Hold:
        self._outer.body.acquire()
        if self._outer.live:
            self._stack.callback(self._outer.body.release)
            return self._outer
        self._outer.body.release()
        return self._stack.enter_context(Hold(self._outer.holds, self._id, self._timeout))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stack.close()


_NOTHING: Final[Mapping[str, Hold]] = MappingProxyType({})


class Holds:
    """The holds of one store. `across` is the storage's lock across processes, where it has one."""

    def __init__(self, across: Across | None, timeout: float) -> None:
        self.across, self.timeout = across, timeout
        self.locks: KeyedLocks[str] = KeyedLocks()  # one writer of a session at a time among this process's threads
        self.within: ContextVar[Mapping[str, Hold]] = ContextVar("bamboo_sessions_holds", default=_NOTHING)

    def hold(self, session_id: str, timeout: float | None = None) -> AbstractContextManager[Hold]:
        """`with holds.hold(id):` the session is held; within the body of such a `with`, the call joins it."""
        outer, seconds = self.within.get().get(session_id), self.timeout if timeout is None else timeout
        joins = outer is not None and outer.live
        return Joined(outer, session_id, seconds) if outer is not None and joins else Hold(self, session_id, seconds)

    def __len__(self) -> int:
        return len(self.locks)
