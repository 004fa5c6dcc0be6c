"""When a session was last active: the newer of what two files' times say.

The journal's time says it by itself, for every commit changes the journal, also one of a writer that knows of no time to
live. Beside it lies `active`, an empty file whose time a storage with a `ttl` sets by its own clock, after each commit and
at each touch: one system call, and no byte written. Where there is no `ttl` nothing of this is done.

Nothing here is synced. A power cut may take back the last touches, never a commit: then what was active before counts.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from bamboo_sessions._files import SHARED, Files
from bamboo_sessions.clock import Clock
from bamboo_sessions.storages.expiry import NONE_LEFT, is_spared, left_of
from bamboo_sessions.storages.json_files.layout import Place, active_in
from bamboo_sessions.storages.json_files.reader import Damaged, Reader
from bamboo_sessions.storages.protocol import Head

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_log = structlog.get_logger(__name__)


class Activity:
    """The activity of a store's sessions, for one time to live. File system errors come out as they are."""

    def __init__(self, files: Files, reader: Reader, clock: Clock, mode: int, ttl: timedelta) -> None:
        self._files, self._reader, self._clock, self._mode, self.ttl = files, reader, clock, mode, ttl

    def renew(self, place: Place) -> None:
        """Active now. The caller is alone with the session; never makes its folder."""
        path, now = active_in(place.folder), self._now_ns()
        try:
            if self._files.stat(path).st_mtime_ns < now:  # a clock that jumped back makes no session older than it was
                self._files.set_mtime(path, now)
        except FileNotFoundError:
            self._files.close(self._files.open(path, SHARED, self._mode))
            self._files.set_mtime(path, now)

    def renew_after_commit(self, place: Place) -> None:
        """The commit is durable and stands, whatever becomes of this; its own time in the journal counts as well."""
        try:
            self.renew(place)
        except OSError as error:
            _log.warning("activity not noted", session_id=place.session_id, path=place.folder, error=str(error))

    def left(self, place: Place) -> timedelta | None:
        """What is left of the session's time; None where it is not there. Reads its head only where nothing is left."""
        try:
            idle = self._idle(place)
        except FileNotFoundError:
            return None if self._reader.is_absent(place) else self.ttl  # damaged: kept
        if idle < self.ttl:
            return left_of(self.ttl, idle)
        try:
            listed = self._reader.listed(place)
        except Damaged:
            return self.ttl
        return None if listed is None else left_of(self.ttl, idle, listed.head)

    def has_expired(self, place: Place, head: Head) -> bool:
        """The same of a session whose head is at hand; one that is gone has not."""
        if is_spared(head):
            return False
        try:
            return left_of(self.ttl, self._idle(place)) <= NONE_LEFT
        except FileNotFoundError:
            return False

    def _idle(self, place: Place) -> timedelta:
        last = self._files.stat(place.journal).st_mtime_ns
        with suppress(FileNotFoundError):
            last = max(last, self._files.stat(active_in(place.folder)).st_mtime_ns)
        return self._clock.now() - (_EPOCH + timedelta(microseconds=last // 1000))

    def _now_ns(self) -> int:
        return (self._clock.now() - _EPOCH) // _MICROSECOND * 1000
