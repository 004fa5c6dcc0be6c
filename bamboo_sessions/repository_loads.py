"""Loading, behind the answers that the cache gives at once: a miss, a hidden session, a comparison with the storage.

A miss takes a ticket before it reads: whoever publishes or deletes meanwhile makes it void, and then what was read is
given to its caller but not to the cache. A comparison goes the short way where the cached copy is a committed state, and
so needs only what came after it; where it has changes of its own, the long way, with a ticket too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from bamboo_sessions._lifetimes import NOT_KNOWN, Lifetimes
from bamboo_sessions.cache import Cached, SessionCache, Ticket
from bamboo_sessions.clock import Clock
from bamboo_sessions.errors import StorageError
from bamboo_sessions.ids import check_session_id
from bamboo_sessions.locked_store import LockedSessionStore
from bamboo_sessions.models import Origin, Session
from bamboo_sessions.reconcile import Stored, same_birth
from bamboo_sessions.repository_copies import Copies, committed_state
from bamboo_sessions.storages.protocol import has_plain_reads

_log = structlog.get_logger("bamboo_sessions")
_LOOKS: Final = 10
"""How often a `load_merged` looks again while others of this process move what it is to be compared with."""


class Loads(Copies):
    """What the cache cannot answer by itself."""

    def __init__(self, cache: SessionCache[Session], persistence: LockedSessionStore, clock: Clock) -> None:
        super().__init__(cache, persistence, clock)
        self._is_current = persistence.is_current
        self._mind_time()

    def _mind_time(self) -> None:
        self._lifetimes = self.persistence.lifetimes
        self._cached = self.cache.get if self._lifetimes is None else _certain(self.cache, self._lifetimes)
        """The cached copy, where it takes no look at the storage to know that it may be shown."""
        self._glance_is_a_look = not has_plain_reads(self.persistence.records)

    # -- a miss ------------------------------------------------------------------------------------------------------

    def _miss_or_none(self, session_id: str) -> Session | None:
        try:
            return self._miss(session_id)
        except StorageError as error:
            _log.warning("storage failed, giving no session", session_id=session_id, error=str(error))
            return None

    def _miss(self, session_id: str) -> Session | None:
        held = None if self._lifetimes is None else self._held_and_compared(session_id)
        if held is not None:
            return held
        ticket = self.cache.ticket(check_session_id(session_id))
        try:
            until = self._until(session_id)  # asked first: what is purged after the reading does not look hidden
            stored = None if until is None else self.persistence.glance(session_id)
            if stored is None:
                return None
            session = self._copy(stored.base)
            if self.cache.fill(ticket, session):
                if self._glance_is_a_look:
                    self._note(session_id, until)
                return session
            # Another load was first, and may have read something older: no next load may go back behind this one.
            return self._take_up(session_id, _is_overtaken, stored)[1]
        finally:
            self.cache.release(ticket)

    # -- a session whose time may have run out -----------------------------------------------------------------------

    def _held_and_compared(self, session_id: str) -> Session | None:
        """What is cached, once storage was looked at: it may have purged the session, and have another one of this id by now."""
        cached = self.cache.peek(session_id)
        if cached is None:
            return None
        try:
            return self._compared(session_id)
        except StorageError as error:
            _log.warning("storage failed, giving the cached copy", session_id=session_id, error=str(error))
            return cached

    def _held_and_shown(self, session_id: str) -> Session | None:
        """The cached copy. A hidden one stays in the cache, for it may be what a save renews; loads do not give it."""
        cached = self.cache.peek(session_id)
        return None if cached is None or self._until(session_id) is None else cached

    def _until(self, session_id: str) -> float | None:
        """Until when the session that is read next is shown, to be noted then; None: its time has run out. Never of an
        unsaved copy, which somebody's work is in."""
        times = self._lifetimes
        if times is None or times.is_shown(session_id) or self._origin(session_id).unsaved:
            return NOT_KNOWN
        return times.until(session_id)

    def _note(self, session_id: str, until: float | None) -> None:
        if self._lifetimes is not None and until is not None:
            self._lifetimes.note(session_id, until)

    # -- a comparison ------------------------------------------------------------------------------------------------

    def _current(self, session_id: str) -> Session | None:
        """The cached copy, where a glance shows that storage holds nothing else; None: it takes a look."""
        cached = self._cached(session_id)
        if cached is None:
            return None
        base = committed_state(cached)
        return cached if base is not None and base.store == self._store and self._is_current(base.stamp) else None

    def _compared(self, session_id: str) -> Session | None:
        """The short way, for a cached copy that is a committed state: only what came after that is read."""
        until = self._until(session_id)
        if until is None:
            return None
        held = self.cache.held(session_id)
        base = None if held is None else committed_state(held)
        settled, session = False, None
        if base is not None and base.store == self._store:
            stored = self.persistence.look(session_id, base)
            settled, session = self._take_up(session_id, lambda entry: entry is not None and entry.value is held, stored)
        if not settled:
            session = self._reconciled(session_id)
        if session is not None:
            self._note(session_id, until)
        return session

    def _reconciled(self, session_id: str) -> Session | None:
        """The long way, for what is not cached or has changes of its own: a ticket says if somebody was faster."""
        check_session_id(session_id)
        for _ in range(_LOOKS):
            ticket = self.cache.ticket(session_id)
            try:
                origin = self._origin(session_id)
                stored = self.persistence.look(session_id, origin.base)
                if origin.unsaved and self._is_another(origin, stored) and self.persistence.was_let_go(session_id, origin):
                    if stored is None:
                        return self.cache.peek(session_id)  # nobody deleted it, so nobody meant this work to go with it
                    self._set_aside(session_id)
                buried = self.persistence.is_buried(session_id, origin)
                is_fresh = partial(self._is_fresh, ticket, origin, stored)
                settled, session = self._take_up(session_id, is_fresh, stored, buried=buried)
            finally:
                self.cache.release(ticket)
            if settled:
                return session
        return session

    def _is_fresh(self, ticket: Ticket, origin: Origin, stored: Stored | None, entry: Cached[Session] | None) -> bool:
        """Whether the look says what it would say if it were made now.

        Whoever keeps work or looks makes the ticket void, and says nothing of the storage by that. What stands on the very
        state that the look began from might as well have been kept before it.
        """
        if not ticket.void:
            return True
        if ticket.gone or entry is None or self._is_another(origin, stored):
            return False
        here = entry.value._origin
        return here.base is origin.base and here.attempt is origin.attempt

    def _is_another(self, origin: Origin, stored: Stored | None) -> bool:
        """Whether what is stored, if anything, is not what such a copy descends from."""
        base = origin.base
        return stored is None or (base is not None and base.store == self._store and not same_birth(base, stored.base))


def _certain(cache: SessionCache[Session], lifetimes: Lifetimes) -> Callable[[str], Session | None]:
    """`cache.get` for sessions that expire. Not a method: kept on the repository, that would be a cycle."""
    get, is_shown = cache.get, lifetimes.is_shown

    def cached(session_id: str) -> Session | None:
        session = get(session_id)
        if session is None or is_shown(session_id) or session._origin.unsaved:
            return session
        return None

    return cached


def _is_overtaken(_entry: Cached[Session] | None) -> bool:
    return False
