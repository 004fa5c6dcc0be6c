"""A thread that cleans up behind a cache, as long as both are wanted.

It refers to its cache weakly, so that it keeps none alive, and looks at its own end inside the same lock as each pass:
once `stop` has returned no pass is running and none will.
"""

from __future__ import annotations

import os
import threading
import weakref
from datetime import timedelta
from typing import Final, Protocol

import structlog

from bamboo_sessions.clock import Clock, SystemClock

_SHORTEST_PAUSE: Final = 0.001  # of real time: a clock whose waits take none must not make this a busy loop
_log = structlog.get_logger("bamboo_sessions")


class Cleaned(Protocol):
    def cleanup_expired(self) -> int: ...


class Cleaner:
    """One thread's task: wait, clean up, again. It ends with `stop`, with its cache, and with a fork."""

    def __init__(self, cache: Cleaned, interval: timedelta, clock: Clock) -> None:
        if interval <= timedelta(0):
            raise ValueError(f"interval must be positive, not {interval}")
        self._cache, self._seconds, self._clock = weakref.ref(cache), interval.total_seconds(), clock
        self._stopped = threading.Event()
        self._passing = threading.Lock()  # held during a pass, and by whoever ends it all
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="bamboo_sessions cache clean-up", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No pass begins after this, and one that is under way has ended; harmless when repeated."""
        if os.getpid() != self._process:
            return  # the thread is not here, and a pass that was under way holds its lock for ever
        if threading.current_thread() is self._thread:  # from within a pass: a finalizer, or a hook
            self._stopped.set()
            return
        with self._passing:
            self._stopped.set()
        if type(self._clock) is SystemClock:  # the wait was cut short; another clock's may take as long as it likes
            self._thread.join()

    def is_alive(self) -> bool:
        """False after `stop`, and in a child process: threads do not survive a fork."""
        return self._thread.is_alive() and not self._stopped.is_set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wait()
            with self._passing:
                if self._stopped.is_set() or not self._pass():
                    return

    def _wait(self) -> None:
        """The machine's clock is waited for in a way that `stop` can cut short; a clock of somebody's own, in its own."""
        if type(self._clock) is SystemClock:
            self._stopped.wait(self._seconds)
        else:
            self._clock.sleep(self._seconds)
            self._stopped.wait(_SHORTEST_PAUSE)

    def _pass(self) -> bool:
        """False where there is no cache any more."""
        cache = self._cache()
        if cache is None:
            return False
        try:
            cache.cleanup_expired()
        except Exception as error:  # noqa: BLE001 - the next pass may do better, and nobody else would hear of it
            _log.warning("clean-up of a cache failed", error=repr(error))
        return True
