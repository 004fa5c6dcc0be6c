"""Copies that could not be saved: kept in the cache, given by loads, and saved when the storage is back.

Such a copy has a mark of its own (`unsaved`), by which a commit knows whose work it brought home. Eviction spares it; the
next save of anybody takes one that is overdue along, and `flush` takes all.
"""

from __future__ import annotations

import attrs
import structlog

from bamboo_sessions.cache import DROP, KEEP, Cached, Verdict
from bamboo_sessions.errors import SessionDeleted, SessionExpired, StorageError
from bamboo_sessions.ids import new_token
from bamboo_sessions.locked_store import bring_home
from bamboo_sessions.models import Attempt, Kept, Origin, Part, Session, State
from bamboo_sessions.reconcile_copies import Copy, with_unsaved
from bamboo_sessions.reconcile_kept import with_part
from bamboo_sessions.repository_copies import Copies, copy_of

_log = structlog.get_logger("bamboo_sessions")


class Unsaved(Copies):
    """Keeping what could not be saved, and trying again."""

    def _keep_unsaved(self, session: Session) -> None:
        state, origin = bring_home(session, session)
        own, beside = Kept(new_token(), tried=_just_tried(state, origin.attempt)), Kept(new_token())
        session._origin = attrs.evolve(origin, unsaved=with_part(origin.unsaved, Part(own, state)))
        mine = Copy(state, session._origin, own.mark)

        def decide(entry: Cached[Session] | None) -> Verdict[Session]:
            cached = copy_of(entry)
            made = with_unsaved(cached, mine, beside)
            _note_where_it_went(cached, mine, made)
            return self._put(made)

        self.cache.change(session.id, decide)

    def _save_overdue(self) -> None:
        """Save one copy that eviction had to spare; here, because this caller holds no lock yet."""
        session_id = self.cache.overdue()
        if session_id is not None:
            self._try_flush(session_id, timeout=0)  # a session that somebody is busy with must not hold up this one

    def _try_flush(self, session_id: str, *, timeout: float | None = None) -> StorageError | None:
        entry = self.cache.peek_entry(session_id)
        if entry is None or entry.unsaved is None:
            return None
        before = entry.value._origin
        try:
            self.persistence.save(entry.value, timeout=timeout)
        except SessionDeleted:
            _log.warning("unsaved changes of a deleted session dropped", session_id=session_id)
            self._drop_deleted(entry.value)
        except SessionExpired:
            return self._flush_expired(entry.value, before)
        except StorageError as error:
            _log.warning("unsaved copy still not saved", session_id=session_id, error=str(error))
            self._note_attempt(entry.value, before)
            return error
        return None

    def _flush_expired(self, unsaved: Session, before: Origin) -> StorageError | None:
        """Nobody deleted it: what was not saved when its time ran out goes on as a session of its own, under its id where
        that is free, else under one beside it. In the cache first: there an attempt to save it can be repeated."""
        try:
            beside = self.persistence.look(unsaved.id) is not None
        except StorageError as error:
            return error
        made = self._anew(unsaved, beside=beside)
        if beside:
            self.cache.change(made.state.head.id, lambda _: self._put(made))

        def decide(entry: Cached[Session] | None) -> Verdict[Session]:
            cached = copy_of(entry)
            if cached is None or cached.origin is not before:
                return KEEP  # more was added to it meanwhile: the next flush sees to that
            return DROP if beside else self._put(made)

        self.cache.change(unsaved.id, decide)
        return self._try_flush(made.state.head.id)

    def _note_attempt(self, tried: Session, before: Origin) -> None:
        """The entry must know what was tried in its name: where that was applied after all, it is nobody's new change."""

        def decide(entry: Cached[Session] | None) -> Verdict[Session]:
            cached = copy_of(entry)
            if cached is None or cached.origin is not before:
                return KEEP
            return self._put(Copy(tried._state(), tried._origin, cached.unsaved))

        self.cache.change(tried.id, decide)


def _just_tried(state: State, attempt: Attempt | None) -> tuple[Attempt, ...]:
    """The save of this very state, where nobody knows what became of it."""
    return (attempt,) if attempt is not None and attempt.mine is not None and attempt.mine.is_just(state) else ()


def _note_where_it_went(cached: Copy | None, mine: Copy, made: Copy) -> None:
    """For everybody who has a copy of what was kept until now: it goes on as part of what is kept from now on."""
    own, now = mine.origin.unsaved[-1].kept, made.origin.unsaved[-1].kept
    if cached is not None and cached.origin.unsaved and made is not mine:
        before = cached.origin.unsaved[-1].kept
        if now is not own:
            now.note_works([*(before.made_of or [before]), own], has=[part.kept for part in mine.origin.unsaved[:-1]])
        before.goes_on_in(now)
    for part in mine.origin.unsaved[-2:]:
        part.kept.goes_on_in(now)
