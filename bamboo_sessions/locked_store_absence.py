"""Why a session is not there: it was deleted, its time had run out, its storage made room, or it was never saved.

What a copy of it may still do hangs on that. A copy of a deleted session is refused; one of an evicted session is saved
anew; work that was not saved when the time ran out goes on as a session of its own. The tombstones that tell are the
storage's; which life of the id a copy descends from is in its origin.
"""

from __future__ import annotations

from bamboo_sessions.models import Origin, State
from bamboo_sessions.models.state import changed
from bamboo_sessions.reconcile import Stored, was_committed
from bamboo_sessions.storages.adapted import as_records
from bamboo_sessions.storages.protocol import RecordStorage, Storage, has_expiry


class Absence:
    """What a storage remembers of sessions that it no longer has."""

    def __init__(self, storage: Storage | RecordStorage) -> None:
        self.storage = storage
        self.records = as_records(storage)
        self._evicts = bool(getattr(self.records, "evicts", False))  # then what is not there need not have been deleted

    def has_expired(self, session_id: str, origin: Origin | None = None) -> bool:
        """Whether the session that such a copy descends from expired and was purged; no copy: the last one of this id."""
        store, records = self.records.store_id, self.records
        if not has_expiry(records):
            return False
        if origin is None:
            return records.was_expired(session_id)
        last = origin.base if was_committed(origin, store) else origin.attempt
        return last is not None and records.was_expired(session_id, last.state.head.birth)

    def was_let_go(self, session_id: str, origin: Origin) -> bool:
        """Whether the session that such a copy descends from, and that is not there, went without anybody deleting it."""
        return self.has_expired(session_id, origin) or self._was_evicted(session_id, origin)

    def is_buried(self, session_id: str, origin: Origin) -> bool:
        """Whether a first save of unknown outcome was applied after all, and deleted since."""
        attempt, store = origin.attempt, self.records.store_id
        if attempt is None or attempt.store != store or was_committed(origin, store):
            return False
        return self.records.was_deleted(session_id, attempt.state.head.birth)

    def _was_evicted(self, session_id: str, origin: Origin) -> bool:
        """A storage that evicts makes room, and has no opinion on whether the session should live."""
        return (self._evicts and was_committed(origin, self.records.store_id) and origin.base is not None
                and not self.records.was_deleted(session_id, origin.base.state.head.birth))

    def _with_a_life_of_its_own(self, state: State, origin: Origin, stored: Stored | None) -> State:
        """A copy that was never saved is kept, but not under a birth that ended: its sibling (a copy of the same new
        session) was saved and deleted, and copies of that one must go on being refused."""
        if stored is not None or was_committed(origin, self.records.store_id):
            return state
        if not self.records.was_deleted(state.head.id, state.head.birth):
            return state
        return State(changed(state.head, birth=""), state.messages)
