"""Holding one session against all other writers, and letting calls from within join.

A hold is two locks: this process's lock of the session, then the storage's lock across processes. It belongs to the
`with` that took it, not to a thread: it may be left on another thread than it was entered on. Calls made from within
its body (the same thread or task, or work started there) see it in their context and join it instead of waiting for
themselves. A call that joined is a hold in its turn, inside the outer one: the one lock that it takes is the outer
hold's `body`, so that joined calls go one at a time, and what is called from within it joins *it*.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from types import MappingProxyType, TracebackType
from typing import Final, Self

from bamboo_sessions._locks import KeyedLocks
from bamboo_sessions.clock import real_monotonic
from bamboo_sessions.errors import LockTimeout

Across = Callable[[str, float], AbstractContextManager[None]]


class Hold:
    """One session, held from `__enter__` to `__exit__`. Raises `LockTimeout`.

    Every save passes here: plain attributes and one `try` do what two `ExitStack`s did at the price of a third lock.
    What is noted as taken is given back, each exactly once, wherever an interrupt comes.
    """

    __slots__ = ("_across", "_at", "_began", "_id", "_joined", "_outer", "_seconds", "_taken", "_token", "body", "holds",
                 "live")

    def __init__(self, holds: Holds, session_id: str, seconds: float, outer: Hold | None, began: float | None) -> None:
        self.holds, self._id, self._seconds, self._outer, self._began = holds, session_id, seconds, outer, began
        self.body = threading.Lock()  # guards the body against itself: calls that join from within take turns
        self.live = False
        self._at: object | None = None
        self._token: Token[Mapping[str, Hold]] | None = None
        self._joined: Hold | None = None  # whose `body` is ours, or the two locks:
        self._taken: object | None = None
        self._across: AbstractContextManager[None] | None = None

    @property
    def at(self) -> object | None:
        """For the holder's use: the state that nobody outside may have moved on from; None: that is no matter."""
        return self._at if self._joined is None else self._joined.at

    @at.setter
    def at(self, state: object | None) -> None:
        if self._joined is None:
            self._at = state
        else:
            self._joined.at = state

    def __enter__(self) -> Self:
        if self._began is None:
            self._began = real_monotonic()
        try:
            outer = self._outer
            while outer is not None and not (outer.live and self._join(outer)):
                outer = outer._outer
            if outer is None:
                self._take()
            within = self.holds.within
            self._token = within.set({**within.get(), self._id: self})
            self.live = True
        except BaseException:
            self._let_go()
            raise
        return self

    def _join(self, outer: Hold) -> bool:
        """False where the outer hold has ended: what was started in it and outlived it queues like anybody else."""
        if not outer.body.acquire(timeout=self._left()):
            raise LockTimeout(self._id, self._seconds)
        if not outer.live:
            outer.body.release()
            return False
        self._joined = outer
        return True

    def _take(self) -> None:
        holds, session_id = self.holds, self._id
        self._taken = holds.locks.acquire(session_id, self._left())
        if self._taken is None:
            raise LockTimeout(session_id, self._seconds)
        if holds.across is not None:
            across = holds.across(session_id, self._left())
            across.__enter__()
            self._across = across

    def _left(self) -> float:
        assert self._began is not None
        return max(0.0, self._seconds - (real_monotonic() - self._began))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            with self.body:  # whoever joined finishes first
                self.live = False
        finally:
            self.live = False
            self._let_go()

    def _let_go(self) -> None:
        try:
            token, self._token = self._token, None
            if token is not None:
                try:  # noqa: SIM105 - suppress() costs as much as the reset
                    self.holds.within.reset(token)
                except ValueError:  # left on another thread than entered: its context never had this token
                    pass
            # Where memory ran out for that (it makes a new mapping), what is left there is not live, and joined by nobody.
        finally:
            self._give_back()

    def _give_back(self) -> None:
        try:
            across, self._across = self._across, None
            if across is not None:
                across.__exit__(None, None, None)
        finally:
            taken, self._taken = self._taken, None
            if taken is not None:
                self.holds.locks.release(self._id, taken)
            joined, self._joined = self._joined, None
            if joined is not None:
                joined.body.release()


_NOTHING: Final[Mapping[str, Hold]] = MappingProxyType({})


class Holds:
    """The holds of one store. `across` is the storage's lock across processes, where it has one."""

    def __init__(self, across: Across | None, timeout: float) -> None:
        self.across, self.timeout = across, timeout
        self.locks: KeyedLocks[str] = KeyedLocks()  # one writer of a session at a time among this process's threads
        self.within: ContextVar[Mapping[str, Hold]] = ContextVar("bamboo_sessions_holds", default=_NOTHING)
        self.since: ContextVar[float | None] = ContextVar("bamboo_sessions_waits_since", default=None)
        """When the wait for the next hold began, where that was before `hold` was called: in a queue, say."""

    def hold(self, session_id: str, timeout: float | None = None) -> Hold:
        """`with holds.hold(id):` the session is held; within the body of such a `with`, the call joins it."""
        since = self.since.get()
        if since is not None:
            self.since.set(None)  # for this hold; what is called from within it has not waited yet
        return Hold(self, session_id, self.timeout if timeout is None else timeout,
                    self.within.get().get(session_id), since)

    def live(self, session_id: str) -> Hold | None:
        """The innermost hold that a call made here would join."""
        hold = self.within.get().get(session_id)
        while hold is not None and not hold.live:
            hold = hold._outer
        return hold

    def __len__(self) -> int:
        return len(self.locks)
