"""Who may write: locks for threads and processes alike, and what a commit does whose caller took none.

Three tables, and their order. `_outer` queues the threads of this process for a session, before the lock for processes is
asked for: that one knows no threads. `_held` says which sessions this object holds. `_busy` is for whoever writes files, be
it under its own hold or under one that another thread took and may let go of; nothing is waited for within it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import TIMEOUT_MAX
from types import TracebackType
from typing import Final

from bamboo_sessions._locks import HAS_RANGE_LOCKS, FileLocks, KeyedLocks, ProcessLocks, RangeLocks
from bamboo_sessions.clock import real_monotonic
from bamboo_sessions.errors import LockTimeout, StorageUnavailable
from bamboo_sessions.storages.json_files.base import Folder
from bamboo_sessions.storages.json_files.layout import Layout, Place, number_of
from bamboo_sessions.storages.json_files.writer import folder_mode

OWN_WAIT: Final = 30.0
"""Seconds that a commit waits where its caller did not take the lock before."""


class Locking(Folder):
    """A folder whose sessions can be locked."""

    def _make_locks(self, portable: bool) -> None:
        self._outer: KeyedLocks[str] = KeyedLocks()  # held by `lock`: the order of threads before that of processes
        self._busy: KeyedLocks[str] = KeyedLocks()  # held while files are written, by whoever does it; see _writing
        self._held: set[str] = set()  # ids whose process lock this object holds; each changed by its holder alone
        self._locks = _process_locks(self._layout, self._mode, portable or not HAS_RANGE_LOCKS)

    def _forked(self) -> None:
        self._held = set()

    def lock(self, session_id: str, timeout: float) -> AbstractContextManager[None]:
        return _Lock(self, self._place(session_id), timeout)

    def _take(self, place: Place, timeout: float) -> object:
        begun = real_monotonic()
        token = self._outer.acquire(place.session_id, timeout)
        if token is None:
            raise LockTimeout(place.session_id, timeout)
        try:
            self._lock_process(place.session_id, place.number, timeout - (real_monotonic() - begun), timeout)
            self._held.add(place.session_id)
        except BaseException:  # an interrupt may come when the lock is already ours; releasing what is not does no harm
            self._held.discard(place.session_id)
            with suppress(OSError):
                self._locks.release(place.number)
            self._outer.release(place.session_id, token)
            raise
        return token

    def _let_go(self, place: Place, token: object | None) -> None:
        """Not before a commit that relied on this hold without owning it (another thread's) is through. It looks at
        `_held` after it entered `_busy`; we look at `_busy` after we left `_held`: one of us sees the other."""
        session_id = place.session_id
        try:  # each step is taken whatever becomes of the one before: an interrupt, or no memory for a wait
            if session_id in self._held:
                self._held.discard(session_id)
                try:
                    if session_id in self._busy:
                        self._busy.release(session_id, self._busy.acquire(session_id, TIMEOUT_MAX))
                finally:
                    self._locks.release(place.number)
        finally:
            self._outer.release(session_id, token)

    def _writing(self, place: Place) -> _Writing:
        return _Writing(self, place)

    def _lock_process(self, session_id: str, number: int, left: float, timeout: float) -> None:
        try:
            taken = self._locks.acquire(number, left)
        except OSError as error:
            raise StorageUnavailable("lock", session_id=session_id, path=self._layout.locks,
                                     reason=error.strerror or str(error)) from error
        if not taken:
            raise LockTimeout(session_id, timeout)

    # -- beside the sessions -----------------------------------------------------------------------------------------

    @contextmanager
    def _other_lock(self, name: str, session_id: str) -> Iterator[None]:
        """A lock beside the sessions', for files that have writers of their own. Nothing is locked within it."""
        key, number = "\0" + name, number_of(name)
        token = self._outer.acquire(key, OWN_WAIT)
        if token is None:
            raise LockTimeout(session_id, OWN_WAIT)
        try:
            self._lock_process(session_id, number, OWN_WAIT, OWN_WAIT)
            try:
                yield
            finally:
                self._locks.release(number)
        finally:
            self._outer.release(key, token)

    def _shard_lock(self, place: Place) -> AbstractContextManager[None]:
        return self._other_lock(f"deleted/{os.path.basename(place.shard)}", place.session_id)


class _Lock:
    """One hold of one session's lock, for threads and processes alike."""

    __slots__ = ("_place", "_storage", "_timeout", "_token")

    def __init__(self, storage: Locking, place: Place, timeout: float) -> None:
        self._storage, self._place, self._timeout = storage, place, timeout
        self._token: object | None = None

    def __enter__(self) -> None:
        self._token = self._storage._take(self._place, self._timeout)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._storage._let_go(self._place, self._token)


class _Writing:
    """Alone with the session's files, whether or not the caller took `lock`; for whom it is taken otherwise."""

    __slots__ = ("_busy", "_lock", "_place", "_storage")

    def __init__(self, storage: Locking, place: Place) -> None:
        self._storage, self._place = storage, place
        self._lock: _Lock | None = None
        self._busy: object | None = None

    def __enter__(self) -> None:
        storage, session_id = self._storage, self._place.session_id
        self._busy = storage._busy.acquire(session_id, OWN_WAIT)
        if self._busy is None:
            raise LockTimeout(session_id, OWN_WAIT)
        if session_id in storage._held:
            return
        storage._busy.release(session_id, self._busy)  # never wait for a lock while holding this
        lock = _Lock(storage, self._place, OWN_WAIT)
        lock.__enter__()
        self._lock = lock
        try:
            self._busy = storage._busy.acquire(session_id, TIMEOUT_MAX)
        except BaseException:
            lock.__exit__(None, None, None)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            self._storage._busy.release(self._place.session_id, self._busy)
        finally:
            if self._lock is not None:
                self._lock.__exit__(kind, error, trace)


def _process_locks(layout: Layout, mode: int, portable: bool) -> ProcessLocks:
    if not portable:
        return RangeLocks(layout.locks, mode)
    folder = layout.locks + ".d"
    if os.access(layout.root, os.W_OK):
        os.makedirs(folder, folder_mode(mode), exist_ok=True)
    return FileLocks(folder, mode)
