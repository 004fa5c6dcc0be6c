"""Exclusion by key: between the threads of a process, and between processes.

Three kinds, one habit: a lock belongs to the hold (the `with`), not to a thread, because an edit may begin on one
worker thread and end on another; a wait ends at a deadline read from the kernel's clock, so that a test which freezes
`time` cannot hang it; and nothing stays behind for a key that nobody holds.

Between processes a Linux kernel gives *open file description* locks: any number of byte ranges in one file, dropped by
the kernel when their owner dies, not lost when some other descriptor of the file is closed (the trap of `lockf`), about
1.5 us each. Elsewhere one lock file per key stands in, by way of `filelock`.
"""

from __future__ import annotations

import errno
import os
import random
import struct
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import lru_cache
from time import sleep
from types import TracebackType
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

import filelock

from bamboo_sessions._files import SHARED
from bamboo_sessions.clock import real_monotonic

try:
    import fcntl
except ImportError:  # Windows
    HAS_RANGE_LOCKS = False
else:
    HAS_RANGE_LOCKS = sys.platform == "linux" and hasattr(fcntl, "F_OFD_SETLK")

Key = TypeVar("Key", bound=Hashable)

FIRST_POLL: Final = 50e-6
LAST_POLL: Final = 5e-3
_GATES: Final = 2**62
_jitter = random.Random()  # noqa: S311 - spreads waiters, keeps no secret


def poll(attempt: Callable[[], bool], timeout: float, longest: float = LAST_POLL) -> bool:
    """Repeat `attempt` until it succeeds (True) or `timeout` seconds passed (False); tried at least once.

    Pauses grow from 50 us to `longest` and are jittered: equal pauses keep the same loser losing.
    """
    if attempt():
        return True
    deadline, pause = real_monotonic() + timeout, FIRST_POLL
    while (left := deadline - real_monotonic()) > 0:
        sleep(min(left, pause * _jitter.uniform(0.5, 1.0)))
        if attempt():
            return True
        pause = min(longest, pause * 1.5)
    return False


# -- threads -----------------------------------------------------------------------------------------------------


class Hold(Generic[Key]):
    """One hold of one key; leaving it releases the key, from whatever thread."""

    __slots__ = ("_key", "_locks", "_timeout", "_token")

    def __init__(self, locks: KeyedLocks[Key], key: Key, timeout: float) -> None:
        self._locks, self._key, self._timeout = locks, key, timeout
        self._token: object | None = None

    def __enter__(self) -> None:
        self._token = self._locks.acquire(self._key, self._timeout)
        if self._token is None:
            raise TimeoutError(f"{self._key!r} is still locked after {self._timeout:g} s")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._locks.release(self._key, self._token)


class KeyedLocks(Generic[Key]):
    """A lock per key, whose entry is there only while somebody holds it or waits for it; `len()` counts the keys.

    First come, first served: a release hands the key to the longest waiter, so that a thread which releases and takes
    again at once cannot starve the others. `with locks.hold(key, timeout):` raises the builtin `TimeoutError` at the
    deadline (an `OSError`: catch it first). `acquire` gives a token, or None then, and `release` takes it. Not re-entrant.
    After a fork the child's table is empty (locks of threads that do not exist there would stay locked for ever) and
    tokens from before the fork open nothing.
    """

    def __init__(self) -> None:
        self._start()
        _after_fork(self)

    def _start(self) -> None:
        self._guard = threading.Lock()  # guards _waiting and the queues in it; held for a few dict operations
        self._waiting: dict[Key, deque[threading.Lock] | None] = {}
        self._token = object()  # of this table; another one after a fork

    def hold(self, key: Key, timeout: float) -> Hold[Key]:
        return Hold(self, key, timeout)

    def acquire(self, key: Key, timeout: float) -> object | None:
        self._guard.acquire()
        try:  # not `with`: leaving one takes memory, and where there is none the guard would stay locked for ever
            if key not in self._waiting:
                self._waiting[key] = None
                return self._token
            turn = threading.Lock()
            turn.acquire()
            queue = self._waiting[key]
            if queue is None:
                queue = self._waiting[key] = deque()
            queue.append(turn)
        finally:
            self._guard.release()
        return self._token if self._wait(key, queue, turn, timeout) else None

    def _wait(self, key: Key, queue: deque[threading.Lock], turn: threading.Lock, timeout: float) -> bool:
        """A lock's own timeout is kept by the kernel, on a clock that no test can freeze."""
        try:
            if turn.acquire(timeout=min(max(0.0, timeout), threading.TIMEOUT_MAX)):
                return True
        except BaseException:  # an interrupt: what was handed over meanwhile must be handed on
            if not self._gave_up(queue, turn):
                self.release(key, self._token)
            raise
        return not self._gave_up(queue, turn)

    def _gave_up(self, queue: deque[threading.Lock], turn: threading.Lock) -> bool:
        """False where the key was handed over between the deadline and now: then it is ours after all."""
        self._guard.acquire()
        try:
            if turn in queue:
                queue.remove(turn)
                return True
            return False
        finally:
            self._guard.release()

    def release(self, key: Key, token: object | None) -> None:
        """Hand it on; nothing for a token from before a fork, where the child ends a hold that is its parent's."""
        if token is not self._token:
            return
        self._guard.acquire()
        try:
            queue = self._waiting.get(key)
            if queue:
                queue.popleft().release()
            else:
                self._waiting.pop(key, None)
        finally:
            self._guard.release()

    def __contains__(self, key: Key) -> bool:
        return key in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)

    def _forked(self) -> None:
        self._start()


# -- processes ---------------------------------------------------------------------------------------------------


class ProcessLocks(Protocol):
    """Exclusion between processes (and between two storage objects in one). Within one object the caller's own
    in-process lock comes first: the kernel grants a range twice to the same descriptor."""

    def acquire(self, number: int, timeout: float) -> bool: ...

    def release(self, number: int) -> None: ...

    def close(self) -> None: ...


class RangeLocks:
    """One byte of one file per key, at the key's number (below 2**62), locked through one descriptor.

    Two keys of one number would merely wait for each other. The file is opened at the first use: a store that is only
    read needs no right to write. Every taker passes a gate (the byte at 2**62 + number) and whoever waits for the lock
    waits in the gate: a process that releases and takes again at once has to queue up behind it.
    """

    def __init__(self, path: str, mode: int = 0o600) -> None:
        self._path, self._mode = path, mode
        self._fd: int | None = None
        self._used: dict[int, int] = {}  # number -> descriptor, from before its first call until after its last
        self._retired: set[int] = set()  # closed when the last number on them is released
        self._opening = threading.Lock()  # guards the changes of _fd and _retired
        _after_fork(self)

    def acquire(self, number: int, timeout: float) -> bool:
        fd, taken = self._enter(number), False
        try:
            taken = self._take(fd, _spelled(number), timeout)
        finally:
            if not taken:
                self.release(number)
        return taken

    def _take(self, fd: int, spell: _Spelled, timeout: float) -> bool:
        if not _set_range(fd, spell.enter):
            began = real_monotonic()
            if not poll(lambda: _set_range(fd, spell.enter), timeout):
                return False
            timeout -= real_monotonic() - began
        try:
            # One process at most waits here, so it may look often.
            return _set_range(fd, spell.lock) or poll(lambda: _set_range(fd, spell.lock), timeout, longest=LAST_POLL / 10)
        finally:
            self._unset(fd, spell.leave)

    def release(self, number: int) -> None:
        """Never fails: the caller's work is done. Nothing for a number that is not held."""
        fd = self._used.get(number)
        if fd is None:
            return
        try:
            self._unset(fd, _spelled(number).unlock)
        finally:
            self._used.pop(number, None)
            if self._retired:
                self._close_unused()

    def _unset(self, fd: int, what: bytes) -> None:
        """Even an unlock takes memory in the kernel (ENOLCK where it has none), and its answer some in here. The lock must
        not stay for that: the descriptor is closed as soon as it holds no other one, and its locks end with it."""
        try:
            _set_range(fd, what)
        except BaseException as error:
            self._retire(fd)
            if not isinstance(error, OSError | MemoryError):
                raise

    def _retire(self, fd: int) -> None:
        with self._opening:
            self._retired.add(fd)
            if self._fd == fd:
                self._fd = None

    def _close_unused(self) -> None:
        with self._opening:
            for fd in self._retired.difference(self._used.values()):
                self._retired.discard(fd)
                with suppress(OSError):
                    os.close(fd)

    def close(self) -> None:
        with self._opening:
            if self._fd is not None:
                self._retired.add(self._fd)
            self._fd = None
            while self._retired:
                os.close(self._retired.pop())

    def _enter(self, number: int) -> int:
        """The descriptor, noted as used before it is looked at again: whoever retires it sees the note, or we see that."""
        while True:
            fd = self._used[number] = self._opened()
            if fd == self._fd:
                return fd
            del self._used[number]

    def _opened(self) -> int:
        fd = self._fd
        # A file whose name is gone excludes nobody who comes after us: the folder was removed and made anew.
        if fd is not None and os.fstat(fd).st_nlink:
            return fd
        with self._opening:
            if self._fd == fd:
                self._fd = os.open(self._path, SHARED, self._mode)
                if self._mode & 0o077:
                    with suppress(PermissionError):  # made, and shared, by another user
                        os.fchmod(self._fd, self._mode)
                if fd is not None:
                    self._retired.add(fd)
            assert self._fd is not None
            return self._fd

    def _forked(self) -> None:
        """The inherited descriptors share the parent's locks: closing them drops none of those, unlocking would."""
        fds = self._retired if self._fd is None else {*self._retired, self._fd}
        self._fd, self._used, self._retired, self._opening = None, {}, set(), threading.Lock()
        for fd in fds:
            os.close(fd)


class _Spelled(NamedTuple):
    """What is said to the kernel about one number, spelled once: four such calls are made with every save."""

    enter: bytes
    leave: bytes
    lock: bytes
    unlock: bytes


@lru_cache(maxsize=1024)
def _spelled(number: int) -> _Spelled:
    """struct flock: type, whence, start, length, and a process id that must be 0 for this kind of lock."""
    def spell(kind: int, at: int) -> bytes:
        return struct.pack("hhqqi", kind, os.SEEK_SET, at, 1, 0)

    gate = _GATES + number
    return _Spelled(spell(fcntl.F_WRLCK, gate), spell(fcntl.F_UNLCK, gate),
                    spell(fcntl.F_WRLCK, number), spell(fcntl.F_UNLCK, number))


def _set_range(fd: int, what: bytes) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, what)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


class FileLocks:
    """One lock file per key that is held or waited for: the portable way.

    The file is unlinked by its holder just before it lets go. Whoever had opened it meanwhile then locks a file without
    a name, which excludes nobody: so each taker compares its descriptor with the name and tries again on a difference.
    """

    def __init__(self, folder: str, mode: int = 0o600) -> None:
        self._folder, self._mode = folder, mode
        self._held: dict[int, filelock.BaseFileLock] = {}
        _after_fork(self)

    def acquire(self, number: int, timeout: float) -> bool:
        path = os.path.join(self._folder, f"{number:016x}.lock")
        return poll(lambda: self._attempt(number, path), timeout)

    def release(self, number: int) -> None:
        lock = self._held.pop(number, None)
        if lock is not None:
            with suppress(OSError):  # Windows refuses to unlink an open file; there filelock removes it itself
                os.unlink(lock.lock_file)
            lock.release(force=True)

    def close(self) -> None:
        for number in list(self._held):
            self.release(number)

    def _attempt(self, number: int, path: str) -> bool:
        lock = _native_lock(path, self._mode)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            return False
        try:
            mine = _names_its_file(lock, path)
        except OSError:
            lock.release(force=True)
            raise
        if not mine:
            lock.release(force=True)
            return False
        self._held[number] = lock
        return True

    def _forked(self) -> None:
        """filelock closes what the child inherited by a fork hook of its own; here only the table is emptied."""
        self._held = {}


def _native_lock(path: str, mode: int) -> filelock.BaseFileLock:
    """`fallback_to_soft`: where the file system has no lock, an existence lock left by a dead process blocks for ever;
    an error is better. `thread_local`: the owner is the hold, which may end on another thread."""
    more: dict[str, Any] = {} if os.name == "nt" else {"fallback_to_soft": False}
    return filelock.FileLock(path, mode=mode, thread_local=False, **more)


def _names_its_file(lock: filelock.BaseFileLock, path: str) -> bool:
    fd = lock._context.lock_file_fd
    try:
        here, there = os.fstat(-1 if fd is None else fd), os.stat(path)
    except FileNotFoundError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


# -- fork --------------------------------------------------------------------------------------------------------


class _Forkable(Protocol):
    def _forked(self) -> None: ...


_forkable: weakref.WeakSet[Any] = weakref.WeakSet()


def _after_fork(thing: _Forkable) -> None:
    _forkable.add(thing)


def _all_forked() -> None:
    for thing in list(_forkable):
        thing._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_all_forked)
