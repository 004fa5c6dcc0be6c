"""Time to live: sessions that nobody was active in for so long are hidden first, and purged some time later.

What is hidden is as good as gone for everybody who loads, and still there for a save of a copy that descends from it, which
renews it. To note activity and to purge both take the session's hold, so no purge removes what somebody was just active
in. Over a storage without a time to live nothing of this does anything.
"""

from __future__ import annotations

from datetime import timedelta

import structlog

from bamboo_sessions._holds import Holds
from bamboo_sessions._lifetimes import lifetimes_of
from bamboo_sessions.clock import Clock
from bamboo_sessions.errors import (
    LockTimeout,
    RevisionConflict,
    SessionError,
    SessionExpired,
    SessionNotFound,
    StorageError,
    StorageUnavailable,
)
from bamboo_sessions.ids import check_session_id
from bamboo_sessions.locked_store_absence import Absence
from bamboo_sessions.locked_store_publishers import Publishing
from bamboo_sessions.models import Origin
from bamboo_sessions.models.state import Head
from bamboo_sessions.reconcile import Stored, was_committed
from bamboo_sessions.storages.protocol import RecordStorage, Storage, has_late_expiry, has_locks

_log = structlog.get_logger("bamboo_sessions")


class Expiring(Absence, Publishing):
    """The sessions of one store, and whether they are shown."""

    def __init__(self, storage: Storage | RecordStorage, clock: Clock, lock_timeout: float) -> None:
        Absence.__init__(self, storage)
        Publishing.__init__(self)
        self._clock = clock
        self.lifetimes = lifetimes_of(self.records, clock)
        across = self.records.lock if has_locks(self.records) else None
        self._holds = Holds(across, lock_timeout)
        self._excludes = across is not None  # else somebody may commit between an edit's first and last step

    @property
    def ttl(self) -> timedelta | None:
        """How long a session is kept after its last activity; None: for ever."""
        return None if self.lifetimes is None else self.lifetimes.expiry.ttl

    def expire_after(self, ttl: timedelta) -> None:
        """Let sessions expire after that long without activity: before anybody loads or saves through this object.

        Raises `InvalidValue` where they have another time to live already, `StorageUnavailable` where the storage has none.
        """
        records = self.records
        if not has_late_expiry(records):
            raise StorageUnavailable("expire sessions", reason=f"{records.name} does not know how")
        records.expire_after(ttl)
        self.lifetimes = lifetimes_of(self.records, self._clock)

    # -- what is shown -----------------------------------------------------------------------------------------------

    def is_hidden(self, session_id: str) -> bool:
        """Whether the session is there and is not shown: its time has run out, and it was not purged yet."""
        return self.lifetimes is not None and self.lifetimes.is_over(session_id)

    def absence(self, session_id: str) -> SessionError:
        """Why nothing is shown under this id."""
        expired = self.is_hidden(session_id) or self.has_expired(session_id)
        return SessionExpired(session_id) if expired else SessionNotFound(session_id)

    def _unless_over(self, birth: str, origin: Origin, stored: Stored) -> Stored | None:
        """What nobody is shown is as good as gone for a session that has nothing to do with it; a copy of it renews it."""
        base, head = origin.base, stored.base.state.head
        mine = {birth, base.state.head.birth if base is not None else birth,
                origin.attempt.state.head.birth if origin.attempt is not None else birth}
        # What is stored without a birth may be a copy's own; a session that was never saved, nor tried to, has no own there.
        its_own = head.birth in mine if head.birth else origin.attempt is not None
        if its_own or was_committed(origin, self.records.store_id):
            return stored
        if not self.is_hidden(head.id):
            return stored
        if not self._purge_held(head.id):  # somebody was active in it since that look
            raise RevisionConflict(head.id, None, (head.birth, head.revision))
        return None

    # -- activity ----------------------------------------------------------------------------------------------------

    def touch(self, session_id: str) -> None:
        """Start the session's activity anew, without a revision. Raises `SessionNotFound`, `SessionExpired`.

        Waits for writers of the session: no purge that looked before a touch that returned can remove it after that.
        """
        with self._holds.hold(check_session_id(session_id)):
            if self.lifetimes is None:
                if not self.records.exists(session_id):
                    raise SessionNotFound(session_id)
                return
            if self.is_hidden(session_id):
                raise SessionExpired(session_id)
            try:
                self.lifetimes.expiry.touch(session_id)
            except SessionNotFound as error:
                raise self.absence(session_id) from error

    def _renew(self, head: Head) -> None:
        """A save that has nothing to write is activity all the same."""
        if self.lifetimes is not None:
            try:
                self.lifetimes.expiry.touch(head.id)
            except SessionNotFound:  # over a storage without a lock: gone since the look
                raise RevisionConflict(head.id, (head.birth, head.revision), None) from None

    # -- purging -----------------------------------------------------------------------------------------------------

    def purge_expired(self) -> int:
        """Remove the sessions whose time has run out, for good; how many. 0 over a storage where nothing expires.

        One that somebody is at work on is left alone; one that cannot be removed is logged, and left to the next time. Raises
        `StorageUnavailable` where the storage cannot tell which they are; nothing was removed then.
        """
        if self.lifetimes is None:
            return 0
        candidates = list(self.lifetimes.expiry.expired())  # all of them first: a listing that fails half-way has removed none
        return sum(map(self._try_purge, candidates))

    def _try_purge(self, session_id: str) -> bool:
        if self._holds.live(session_id) is not None:
            return False  # from within an edit of it, which a hold would join
        try:
            with self._holds.hold(session_id, 0):
                return self._purge_held(session_id)
        except LockTimeout:
            return False
        except StorageError as error:
            _log.warning("expired session not purged", session_id=session_id, error=str(error))
            return False

    def _purge_held(self, session_id: str) -> bool:
        """The storage looks again itself: over one without a lock, others may be active here at any moment."""
        if self.lifetimes is None or not self.lifetimes.expiry.purge_record(session_id):
            return False
        self.lifetimes.forget(session_id)
        for publisher in self._listeners():
            publisher.purged(session_id)
        return True
