"""What a store knows of how long its sessions are still shown, so that a cached load asks nobody.

What storage once said of a session's time holds whatever happens elsewhere: activity of others can only prolong it. So it
is noted as a moment until which the session is shown for certain; after that storage is asked again, which knows of the
activity of other processes. The table is bounded: what has fallen out of it costs one more question.

Storage is asked by id, and by then another session may have the id. So the answer is noted only by whoever looked at
the session itself after asking: else a copy of one that expired would be shown in the name of one that was made since.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from datetime import timedelta
from typing import Final

import structlog

from bamboo_sessions._locks import _after_fork
from bamboo_sessions.clock import Clock, seconds_of
from bamboo_sessions.errors import StorageError
from bamboo_sessions.storages.expiry import NONE_LEFT
from bamboo_sessions.storages.protocol import Expiry, RecordStorage, has_expiry

KNOWN: Final = 10_000
NOT_KNOWN: Final = 0.0
_ROUNDING: Final = 1e-6
"""Seconds: what is noted may be less than the truth, never more."""
_log = structlog.get_logger("bamboo_sessions")


def lifetimes_of(records: RecordStorage, clock: Clock) -> Lifetimes | None:
    """None where nothing expires: then nothing of this is done, or costs anything."""
    return Lifetimes(records, clock, records.ttl) if has_expiry(records) and records.ttl is not None else None


class Lifetimes:
    """The sessions of one store, and until when each of them is shown at the least."""

    def __init__(self, expiry: Expiry, clock: Clock, ttl: timedelta) -> None:
        self.expiry, self.now, self._ttl = expiry, seconds_of(clock), ttl.total_seconds()
        self._until: OrderedDict[str, float] = OrderedDict()
        self._forked()
        _after_fork(self)

    def _forked(self) -> None:
        self._noting = threading.Lock()  # guards changes of the table; who only looks takes no lock

    def is_shown(self, session_id: str) -> bool:
        """Whether that is certain without asking storage. A clock that was set back makes nothing certain for longer."""
        until = self._until.get(session_id)
        return until is not None and 0 < until - self.now() <= self._ttl

    def is_over(self, session_id: str) -> bool:
        """Whether the session is there and its time has run out. Where storage does not answer, it has not."""
        return not self.is_shown(session_id) and self.until(session_id) is None

    def until(self, session_id: str) -> float | None:
        """Asks storage until when the session that now has this id is shown; None: its time has run out.

        `NOT_KNOWN` where there is none, or storage does not answer.
        """
        began = self.now()
        try:
            left = self.expiry.time_left(session_id)
        except StorageError as error:
            _log.warning("time to live not known, keeping the session", session_id=session_id, error=str(error))
            return NOT_KNOWN
        if left is None:
            return NOT_KNOWN
        return None if left <= NONE_LEFT else began + min(left.total_seconds(), self._ttl) - _ROUNDING

    def renewed(self, session_id: str, began: float) -> None:
        """Storage has noted activity after this moment (`now` as it was before the call)."""
        self.note(session_id, began + self._ttl - _ROUNDING)

    def note(self, session_id: str, until: float) -> None:
        """The session, which was read after `until` was asked for, is shown as long. The later one stands: what was looked
        up before a save must not be noted after it."""
        if until == NOT_KNOWN:
            return
        with self._noting:
            before = self._until.pop(session_id, None)
            self._until[session_id] = until if before is None or before - until > self._ttl else max(before, until)
            if len(self._until) > KNOWN:
                self._until.popitem(last=False)

    def forget(self, session_id: str) -> None:
        """The session is gone; one that takes its id has a time of its own."""
        with self._noting:
            self._until.pop(session_id, None)

    def __len__(self) -> int:
        return len(self._until)
