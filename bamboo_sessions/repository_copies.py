"""What a repository's cache holds of a session: a committed state, or one with work in it that could not be saved.

Whatever comes along (a commit, a look at the storage, a removal) is compared with what the cache holds in the same step,
and takes its place only where it is newer. So the cache never moves backwards, whoever comes late with an older copy.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from bamboo_sessions.cache import DROP, KEEP, Cached, Put, SessionCache, Ticket, Verdict
from bamboo_sessions.clock import Clock
from bamboo_sessions.errors import StorageError
from bamboo_sessions.ids import new_token
from bamboo_sessions.locked_store import LockedSessionStore
from bamboo_sessions.models import Base, Kept, Origin, Part, Session, State
from bamboo_sessions.reconcile import Stored, same_birth
from bamboo_sessions.reconcile_copies import Copy, after_commit, after_look

_log = structlog.get_logger("bamboo_sessions")


class Copies:
    """The cache of a repository, as what commits and looks are taken up by."""

    def __init__(self, cache: SessionCache[Session], persistence: LockedSessionStore, clock: Clock) -> None:
        self.cache, self.persistence = cache, persistence
        self._clock = clock
        self._store = persistence.records.store_id

    # -- the publisher's side: called under the session's lock, no I/O ---------------------------------------------

    def expect(self, session_id: str) -> Ticket:
        """A commit is about to be made over a storage without a lock; see `Publisher`."""
        return self.cache.ticket(session_id)

    def release(self, ticket: Ticket) -> None:
        """It was taken up, or it failed."""
        self.cache.release(ticket)

    def committed(self, base: Base, saver: str | None, ticket: Ticket | None = None) -> None:
        """Take up a commit; see `Publisher`. Where others may have been faster, what was seen of theirs since and was evicted
        again cannot be compared with; so nothing is cached then, and the next load reads what is stored."""
        if self.persistence.lifetimes is not None:
            self._set_aside_for(base)

        def decide(entry: Cached[Session] | None) -> Verdict[Session]:
            cached = copy_of(entry)
            if cached is None and ticket is not None and ticket.void:
                return KEEP
            if cached is not None and saver is not None and cached.unsaved == saver:
                for part in cached.origin.unsaved:  # the saver may have been a pickled copy, which shares nothing with these
                    part.kept.landed = base
            made = after_commit(cached, base, saver)
            return KEEP if made is cached else self._put(made)

        self.cache.change(base.state.head.id, decide)

    def deleted(self, session_id: str) -> None:
        """Forget the session; a load that is under way cannot bring it back."""
        self.cache.remove(session_id)

    def purged(self, session_id: str) -> None:
        """Forget the session, but not what somebody could not save of it."""
        self.cache.change(session_id, lambda entry: KEEP if entry is None or entry.unsaved is not None else DROP)

    def known(self, session_id: str) -> Base | None:
        """The committed state that the cached copy descends from."""
        base = self._origin(session_id).base
        return base if base is not None and base.store == self._store else None

    # -- work that was not saved when its session's time ran out ---------------------------------------------------

    def _set_aside_for(self, base: Base) -> None:
        """Before another life of the id takes the place of one with unsaved work. The one case in which a publish asks
        storage something: to drop work because its session expired would lose it, to keep that of a deleted one is P9."""
        session_id, origin = base.state.head.id, self._origin(base.state.head.id)
        if not origin.unsaved or origin.base is None or origin.base.store != base.store or same_birth(origin.base, base):
            return
        try:
            if not self.persistence.was_let_go(session_id, origin):
                return
        except StorageError as error:
            _log.warning("whether it was deleted is not known, keeping what is unsaved", session_id=session_id, error=str(error))
        self._set_aside(session_id)

    def _set_aside(self, session_id: str) -> None:
        """What is not saved of it goes on as a session of its own beside it, still unsaved."""
        entry = self.cache.peek_entry(session_id)
        if entry is not None and entry.unsaved is not None:
            made = self._anew(entry.value, beside=True)
            self.cache.change(made.state.head.id, lambda _: self._put(made))

    def _anew(self, unsaved: Session, *, beside: bool) -> Copy:
        """Its work as that of a new session: under its id, or under one beside it."""
        token = new_token()
        made = unsaved.as_new(f"{unsaved.id[:480]} (expired {token[:8]})" if beside else None)
        _log.warning("unsaved changes of an expired session go on as a new one", session_id=unsaved.id, new_id=made.id)
        state = made._state()
        return Copy(state, Origin(None, None, (Part(Kept(token), state),)), token)

    # -- what was seen in the storage ------------------------------------------------------------------------------

    def _take_up(self, session_id: str, is_fresh: Callable[[Cached[Session] | None], bool], stored: Stored | None, *,
                 buried: bool = False) -> tuple[bool, Session | None]:
        """Reconcile in one step with what the cache holds *now*, which may be newer than what was there before the look.

        Not fresh: somebody published, removed or deleted since the look began. Then storage's word on whether the session
        exists at all is older than theirs, and only copies of the same life may be compared; nor can unsaved changes be
        put onto a state that may be older than the one they stand on.
        """
        settled = True

        def decide(entry: Cached[Session] | None) -> Verdict[Session]:
            nonlocal settled
            cached = copy_of(entry)
            made = after_look(cached, stored, self._store, buried=buried)
            if not is_fresh(entry) and not (_one_life(cached, stored) and _is_saved(cached)):
                settled = False
                return KEEP
            if made is None:
                return DROP
            return KEEP if made is cached else self._put(made)

        held = self.cache.change(session_id, decide)
        if held is None and not settled and stored is not None:
            return False, self._copy(stored.base)
        return settled, held

    def _drop_deleted(self, session: Session) -> None:
        """Drop the cached copy of the life that ended, and no other."""
        ended = session.birth

        def decide(entry: Cached[Session] | None) -> Verdict[Session]:
            return DROP if entry is not None and entry.value.birth == ended else KEEP

        self.cache.change(session.id, decide)

    # -- sessions and copies -----------------------------------------------------------------------------------------

    def _origin(self, session_id: str) -> Origin:
        entry = self.cache.peek_entry(session_id)
        return Origin() if entry is None else entry.value._origin

    def _copy(self, base: Base) -> Session:
        return Session._of(base.state, Origin(base), self._clock)

    def _put(self, copy: Copy) -> Put[Session]:
        return Put(Session._of(copy.state, copy.origin, self._clock), copy.unsaved, given=True)


def copy_of(entry: Cached[Session] | None) -> Copy | None:
    """What `reconcile` compares of it: a committed state stands for itself, whatever object holds it."""
    if entry is None:
        return None
    session = entry.value
    base = committed_state(session)
    state = State(session._head, session._messages) if base is None else base.state
    return Copy(state, session._origin, entry.unsaved)


def committed_state(cached: Session) -> Base | None:
    """The committed state that a cached session *is*; None where it has changes of its own."""
    origin = cached._origin
    base = origin.base
    if base is None or origin.unsaved:
        return None
    state = base.state
    return base if cached._head is state.head and cached._messages is state.messages else None


def _is_saved(cached: Copy | None) -> bool:
    return cached is None or cached.unsaved is None


def _one_life(cached: Copy | None, stored: Stored | None) -> bool:
    """Whether both speak of one life of the session, so that their ages may be compared."""
    if cached is None or stored is None:
        return cached is None and stored is None
    return cached.state.head.birth == stored.base.state.head.birth
