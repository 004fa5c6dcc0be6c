"""One writer at a time, whatever interrupts him.

A lock that is taken by one line and released by another stays taken where Control-C comes between them, and that may be
between any two: `with` and `finally` begin a moment too late. So what is handed on here is a thing, and whoever has it
writes. Let go of on purpose or dropped with the frame that held it, it makes room for the next one.
"""

from __future__ import annotations

from contextlib import suppress
from queue import Empty, SimpleQueue
from weakref import ref


class Turn:
    """The right to write, for as long as somebody refers to it."""

    __slots__ = ("_free",)

    def __init__(self, free: SimpleQueue[Turn]) -> None:
        self._free = ref(free)  # a queue that nobody uses any more is to go, and its turn with it

    def __del__(self) -> None:
        free = self._free()
        if free is not None:
            free.put(Turn(free))  # may be done anywhere, also in the middle of a `get`: that is what this queue is for


class Turns:
    """Room for one."""

    def __init__(self) -> None:
        self._free: SimpleQueue[Turn] = SimpleQueue()
        self._free.put(Turn(self._free))

    def take(self, patience: float) -> Turn | None:
        """Wait so many seconds; None where nobody made room."""
        with suppress(Empty):
            return self._free.get(timeout=patience)
        return None
