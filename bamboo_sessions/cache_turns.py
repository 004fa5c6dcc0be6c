"""Turns on one key: who changes, saves or removes it waits for others that do, and never for those of another key.

Two locks a key, because an insert must wait for a half-done change and must not wait for a disk. *Turns* exclude changes
and calls of the hook from each other. Within its turn a change holds the *body* too, and an insert waits for that one
only.

A thread holds one key at a time: who has one and would have to wait for any gets a `RuntimeError`. So there can be no
circle of threads that wait for each other, and a change within a change of the same key is told at once and not after a
time-out.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from bamboo_sessions._locks import KeyedLocks
from bamboo_sessions.errors import LockTimeout

WAIT: Final = 30.0
"""Seconds that one caller waits for another of the same key."""


class KeyTurns:
    """The turns of one cache; tables that hold a key only while somebody has it or waits for it."""

    def __init__(self) -> None:
        self._turns: KeyedLocks[str] = KeyedLocks()
        self._bodies: KeyedLocks[str] = KeyedLocks()
        self._here = threading.local()
        self.changing: set[str] = set()
        """The keys whose bodies are held. A body is entered here before it reads its entry under the cache's lock: who holds
        that lock, and does not find the key here, is before the body and need not wait for it."""

    @property
    def within(self) -> str | None:
        """The key that this thread holds."""
        key: str | None = getattr(self._here, "key", None)
        return key

    def __len__(self) -> int:
        return len(self._turns) + len(self._bodies)

    @contextmanager
    def turn(self, key: str) -> Iterator[None]:
        """A save or a removal. Raises `LockTimeout`."""
        with self.noted(key), _held(self._turns, key):
            yield

    @contextmanager
    def body(self, key: str) -> Iterator[None]:
        """A change. Raises `LockTimeout`."""
        with self.noted(key), _held(self._turns, key), _held(self._bodies, key):
            self.changing.add(key)
            try:
                yield
            finally:
                self.changing.discard(key)

    @contextmanager
    def between_bodies(self, key: str) -> Iterator[None]:
        """An insert: it does I/O in no case, and waits for none. Raises `LockTimeout`."""
        with self.noted(key), _held(self._bodies, key):
            yield

    @contextmanager
    def free_turn(self, key: str) -> Iterator[bool]:
        """The turn where nobody has it; False: somebody has."""
        token = self._turns.acquire(key, 0)
        if token is None:
            yield False
            return
        try:
            with self.noted(key):
                yield True
        finally:
            self._turns.release(key, token)

    @contextmanager
    def turn_within(self, key: str) -> Iterator[None]:
        """For a load, which has noted its key and holds nothing else of it. Raises `LockTimeout`."""
        with _held(self._turns, key):
            yield

    @contextmanager
    def noted(self, key: str) -> Iterator[None]:
        """This thread is busy with the key, and must not wait for one."""
        if self.within is not None:
            raise RuntimeError(f"this thread is busy with {self.within!r}, and must not wait for {key!r} meanwhile")
        self._here.key = key
        try:
            yield
        finally:
            self._here.key = None


@contextmanager
def _held(locks: KeyedLocks[str], key: str) -> Iterator[None]:
    token = locks.acquire(key, WAIT)
    if token is None:
        raise LockTimeout(key, WAIT)
    try:
        yield
    finally:
        locks.release(key, token)
