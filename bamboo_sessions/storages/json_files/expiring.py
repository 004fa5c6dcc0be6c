"""What is seen of the sessions, and for how long: being there, being removed, running out of time.

A session is removed as a folder that leaves its name, and its tombstone says whether somebody deleted it or its time had
run out. Both happen under its lock, and so does a touch: no purge that looked before it removes after it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta

import structlog

from bamboo_sessions.errors import Outcome, SessionNotFound, StorageError, StorageUnavailable
from bamboo_sessions.storages.expiry import NONE_LEFT, later_ttl
from bamboo_sessions.storages.json_files import snapshot
from bamboo_sessions.storages.json_files.activity import Activity
from bamboo_sessions.storages.json_files.graves import Graves
from bamboo_sessions.storages.json_files.layout import Place
from bamboo_sessions.storages.json_files.listing import Listing
from bamboo_sessions.storages.json_files.locking import Locking
from bamboo_sessions.storages.json_files.reader import Damaged, Reader
from bamboo_sessions.storages.json_files.writer import Writer
from bamboo_sessions.storages.protocol import Head, LeftOut
from bamboo_sessions.storages.records import passed_over

_log = structlog.get_logger(__name__)


class Expiring(Locking):
    """The folders of sessions as a whole, whatever is in them."""

    _ttl: timedelta | None
    _activity: Activity | None
    _reader: Reader
    _writer: Writer
    _graves: Graves
    _listing: Listing

    def exists(self, session_id: str) -> bool:
        place = self._place(session_id)
        try:
            return not self._is_over(session_id) and not self._reader.is_absent(place)
        except OSError as error:
            self._fail("look up", place, error)

    def heads(self) -> Iterator[tuple[Head, int]]:
        return self._heads(expired=False)

    def heads_telling(self, left_out: LeftOut) -> Iterator[tuple[Head, int]]:
        """See `TellingHeads`."""
        return self._heads(left_out, expired=False)

    def _heads(self, left_out: LeftOut = passed_over, *, expired: bool) -> Iterator[tuple[Head, int]]:
        """Of the sessions whose time has run out, or of the others."""
        activity = self._activity
        try:
            for head, count in self._listing.heads(left_out):
                if (activity is not None and activity.has_expired(self._place(head["id"]), head)) is expired:
                    yield head, count
        except OSError as error:
            raise StorageUnavailable("list", path=self.root, reason=error.strerror or str(error)) from error

    # -- removing ----------------------------------------------------------------------------------------------------

    def delete_record(self, session_id: str) -> bool:
        place = self._place(session_id)
        with self._writing(place):
            return self._removed(place, expired=False)

    def _removed(self, place: Place, *, expired: bool) -> bool:
        """Remove the session's folder; who holds the lock has to say why it goes."""
        try:
            if self._reader.is_absent(place):
                self._graves.confirm(place)
                return False
            birth = self._birth(place)
            if birth is not None:
                with self._shard_lock(place):
                    self._graves.bury(place, birth, expired=expired)
            self._graves.clear_away(place)
        except OSError as error:
            outcome: Outcome = "not applied" if os.path.lexists(place.folder) else "unknown"
            raise StorageUnavailable("delete", session_id=place.session_id, outcome=outcome, path=place.folder,
                                     reason=error.strerror or str(error)) from error
        self._writer.forget(place.session_id)
        return True

    def was_deleted(self, session_id: str, birth: str) -> bool:
        place = self._place(session_id)
        try:
            return self._graves.remembers(place, birth) and self._birth(place) != birth
        except OSError as error:
            self._fail("look up", place, error)

    def _birth(self, place: Place) -> str | None:
        """Of the session that is there. One that cannot be read at all can still be deleted, but leaves no tombstone."""
        try:
            listed = self._reader.listed(place)
        except Damaged as damage:
            _log.warning("birth not readable", session_id=place.session_id, path=place.folder, error=str(damage))
            return self._birth_alone(place)
        if listed is None:
            return None
        birth: str = listed.head["birth"]
        return birth

    def _birth_alone(self, place: Place) -> str | None:
        try:
            top = snapshot.decode_top(self._files.read_whole(place.snapshot), place.snapshot)
        except (OSError, StorageError, snapshot.Damage):
            return None
        birth: str = top.head["birth"]
        return birth

    # -- time to live --------------------------------------------------------------------------------------------

    @property
    def ttl(self) -> timedelta | None:
        return self._ttl

    def expire_after(self, ttl: timedelta) -> None:
        self._ttl = later_ttl(self._ttl, ttl)
        self._activity = Activity(self._files, self._reader, self.clock, self._mode, self._ttl)

    def time_left(self, session_id: str) -> timedelta | None:
        place = self._place(session_id)
        try:
            return None if self._activity is None else self._activity.left(place)
        except OSError as error:
            self._fail("look up", place, error)

    def touch(self, session_id: str) -> None:
        place = self._place(session_id)
        with self._writing(place):  # a purge that looked before this may not remove after it
            try:
                if self._reader.is_absent(place):
                    raise SessionNotFound(session_id)
                if self._activity is not None:
                    self._activity.renew(place)
            except OSError as error:
                self._fail("touch", place, error)

    def expired(self) -> Iterator[str]:
        return iter(()) if self._activity is None else (head["id"] for head, _ in self._heads(expired=True))

    def purge_record(self, session_id: str) -> bool:
        place = self._place(session_id)
        with self._writing(place):
            left = self.time_left(session_id)
            return left is not None and left <= NONE_LEFT and self._removed(place, expired=True)

    def was_expired(self, session_id: str, birth: str | None = None) -> bool:
        place = self._place(session_id)
        try:
            if not self._graves.remembers_expired(place, birth):
                return False
            return self._reader.is_absent(place) if birth is None else self._birth(place) != birth
        except OSError as error:
            self._fail("look up", place, error)
