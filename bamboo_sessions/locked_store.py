"""Every write goes through here: lock, read what is new, merge, commit, publish; then let go.

The store decides nothing (that is `reconcile`) and stores nothing (that is the storage). What it owns is the order of
steps. Commit and publish happen under one lock, so two saves can never publish in another order than they committed
in. The lock is taken per session, in this process first and then across processes; see the page on locks for what each
of them guards. Who is told is in `locked_store_publishers`, what the time to live hides and purges in
`locked_store_expiry`, and why a session is not there in `locked_store_absence`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime
from typing import Final, Protocol, runtime_checkable

import structlog

from bamboo_sessions._holds import Hold
from bamboo_sessions.clock import SYSTEM_CLOCK, Clock
from bamboo_sessions.errors import (
    InvalidValue,
    RevisionConflict,
    SessionDeleted,
    SessionExists,
    SessionExpired,
    StorageUnavailable,
)
from bamboo_sessions.ids import check_session_id, new_birth, new_token
from bamboo_sessions.locked_store_expiry import Expiring
from bamboo_sessions.merge import merge
from bamboo_sessions.models import Attempt, Base, Origin, SaveResult, Session, State
from bamboo_sessions.models.state import Head
from bamboo_sessions.reconcile import AHEAD, Plan, Stored, plan_next, plan_save, settled, was_applied
from bamboo_sessions.reconcile_kept import Way, at_home, rebased
from bamboo_sessions.storages.protocol import (
    RecordStorage,
    Storage,
    has_plain_reads,
    has_usage_log,
)
from bamboo_sessions.storages.records import Answer, as_committed, commit_of, follow, split
from bamboo_sessions.storages.shortcuts import has_current_stamps, has_held_reads, has_likely_stamps, makes_room

_log = structlog.get_logger("bamboo_sessions")

_TRIES: Final = 20
"""How often a save starts again where a storage without a lock let somebody else be first."""
_STAND_BACK: Final = 0.25
"""Seconds that it waits before that, at most."""
_OVERTAKEN: Final = 3
"""How often it was overtaken when it asks such a storage for a moment in which nobody else commits. One busy writer would
overtake a slower one for ever: the longer that one waits, the more there is to read and to merge."""

Read = Callable[[str, object], Answer]


@runtime_checkable
class RuntimeSessionPersistence(Protocol):
    """The small interface that a runtime persists through; `SessionRepository` and `LockedSessionStore` satisfy it."""

    def save_runtime_session(self, session: Session) -> SaveResult:
        """Merge and save; on return `session` is the committed state."""

    def append_token_usage_record(self, session_id: str, json_line: str | bytes) -> None:
        """Append one line of JSON to the session's usage log."""


class LockedSessionStore(Expiring):
    """Merge-on-write over a storage.

    `lock_timeout` is how many seconds a save waits for another writer of the same session before `LockTimeout`.
    """

    def __init__(self, storage: Storage | RecordStorage, *, clock: Clock = SYSTEM_CLOCK,
                 lock_timeout: float = 30.0) -> None:
        super().__init__(storage, clock, lock_timeout)
        self.is_current: Callable[[object], bool] = (
            self.records.is_current if has_current_stamps(self.records) else _never_known)
        """Whether a stamp is still its session's, at a glance; False: it takes a `look`."""
        self._read_held = self.records.read_held if has_held_reads(self.records) else self.records.read
        self._read_plain: Callable[[str], Answer] = (
            self.records.read_plain if has_plain_reads(self.records) else self.records.read)
        self._is_likely: Callable[[str, object], bool] | None = (
            self.records.is_likely if has_likely_stamps(self.records) else None)
        self._alone: Callable[[str], AbstractContextManager[object]] | None = (
            self.records.alone if makes_room(self.records) else None)

    # -- reading -------------------------------------------------------------------------------------------------

    def look(self, session_id: str, known: Base | None = None) -> Stored | None:
        """What storage holds now; takes no lock. `known`: a state at hand, so that only the difference is read."""
        return self._look(self.records.read, session_id, known)

    def glance(self, session_id: str) -> Stored | None:
        """A committed state for a plain load: what storage holds now, or a nearer copy where the storage keeps such."""
        return follow(None, self._read_plain(session_id), self.records.store_id)

    def _look(self, read: Read, session_id: str, known: Base | None) -> Stored | None:
        store = self.records.store_id
        if known is None or known.store != store:
            return follow(None, read(session_id, None), store)
        return follow(known, read(session_id, known.stamp), store)

    def load(self, session_id: str) -> Session | None:
        """The newest committed state as the caller's own copy, or None; always from the storage."""
        hidden = self.is_hidden(check_session_id(session_id))  # first: what is purged after the look does not look hidden
        stored = None if hidden else self.look(session_id, self._known(session_id))
        return None if stored is None else self._copy(stored.base)

    def _copy(self, base: Base) -> Session:
        return Session._of(base.state, Origin(base), self._clock)

    # -- writing -------------------------------------------------------------------------------------------------

    def save(self, session: Session, *, timeout: float | None = None) -> SaveResult:
        """Merge `session` into what storage holds and commit; on return it *is* the merged, committed state.

        What is saved is the session as it was on entry; what is added to the object meanwhile stays on it, unsaved.
        Raises `SessionDeleted`, `SessionExpired`, `InvalidValue` (nothing written), or a `StorageError`, after which the object
        keeps its changes and can be saved again. `timeout`: seconds to wait for other writers, where not the store's own.
        """
        entry = session.snapshot()
        with self._holds.hold(entry._head.id, timeout) as hold:
            if session._origin is not entry._origin:
                entry = session.snapshot()  # another save of this object was ahead in the queue and moved its base
            likely = self._likely(entry)
            if likely is not None:
                with suppress(RevisionConflict):  # it was not, or there was nothing to commit
                    return self._save_onto(likely, session, entry, hold, guessed=True)
            return self._until_first(entry._head.id, hold, lambda: self._save_held(session, entry, hold))

    save_runtime_session = save

    def create(self, session: Session) -> SaveResult:
        """Save a new session under an id that nobody has; raises `SessionExists` where somebody does, and what `save` raises."""
        entry = session.snapshot()
        with self._holds.hold(entry._head.id) as hold:
            for tries in range(_TRIES - 1):
                try:
                    return self._create_held(session, entry, hold)
                except RevisionConflict:
                    self._stand_back(tries)  # somebody was there, and may be gone again
            return self._create_held(session, entry, hold)

    def _create_held(self, session: Session, entry: Session, hold: Hold) -> SaveResult:
        session_id, origin = entry._head.id, entry._origin
        stored = self._look(self._read_held, session_id, None)
        mine = origin.attempt is not None and stored is not None and was_applied(origin.attempt, stored.base)
        if stored is not None and not mine and not self.is_hidden(session_id):
            raise SessionExists(session_id)
        return self._save_onto(stored, session, entry, hold)  # this very look: another one could find somebody to merge with

    def delete(self, session_id: str) -> bool:
        """Remove the session for good; True where there was one to be seen. Saves of older copies raise `SessionDeleted`."""
        with self._holds.hold(check_session_id(session_id)):
            shown = not self.is_hidden(session_id)
            was_there = self.records.delete_record(session_id)
            if self.lifetimes is not None:
                self.lifetimes.forget(session_id)
            for publisher in self._listeners():
                publisher.deleted(session_id)
            return was_there and shown

    # -- the order of a save -----------------------------------------------------------------------------------------

    def _until_first(self, session_id: str, hold: Hold, attempt: Callable[[], SaveResult]) -> SaveResult:
        """What an attempt gives, made again where a storage without a lock let somebody else be first. Not within an edit: that
        was overtaken, and to read again here would hide it."""
        joined, tries = hold.at is not None, 0
        while True:
            try:
                with self._room(session_id, tries, hold):
                    return attempt()
            except RevisionConflict:
                tries += 1
                if joined or tries == _TRIES:
                    raise
                hold.at = None
                self._stand_back(tries - 1)

    def _stand_back(self, tries: int) -> None:
        """A moment before trying again; jittered, or two that met once would go on meeting, and longer each time: many
        writers of one session need more room than few."""
        self._clock.sleep(random.uniform(0, min(0.005 * 2**tries, _STAND_BACK)))  # noqa: S311 - jitter, not a secret

    def _room(self, session_id: str, tries: int, hold: Hold) -> AbstractContextManager[object]:
        """For a try; from the fourth on nobody else commits meanwhile, where the storage can see to that."""
        if self._alone is None or tries < _OVERTAKEN or hold.at is not None:
            return nullcontext()
        return self._alone(session_id)

    def _likely(self, entry: Session) -> Stored | None:
        """What the copy descends from, where storage most likely holds that and a commit will tell; else it takes a look."""
        origin, base = entry._origin, entry._origin.base
        if self._is_likely is None or base is None or base.store != self.records.store_id:
            return None
        if origin.attempt is not None or origin.unsaved or not self._is_likely(entry._head.id, base.stamp):
            return None
        return Stored(base, follows=True)

    def _save_held(self, session: Session, entry: Session, hold: Hold) -> SaveResult:
        return self._save_onto(self._look(self._read_held, entry._head.id, entry._origin.base), session, entry, hold)

    def _save_onto(self, stored: Stored | None, session: Session, entry: Session, hold: Hold, *,
                   guessed: bool = False) -> SaveResult:
        state, origin, now = entry._state(), entry._origin, self._clock.now()
        _refuse_moved(hold, stored)
        if stored is not None and self.lifetimes is not None:
            stored = self._unless_over(state.head.birth, origin, stored)
        if origin.unsaved:
            named, (state, origin) = origin.base, bring_home(session, entry, None if stored is None else stored.base)
            stored = None if stored is None else stored.for_base(named, origin.base)
        if origin.attempt is not None and stored is not None and was_applied(origin.attempt, stored.base):
            _settle(session, origin.attempt)
            state, origin = _settle(entry, origin.attempt)
        if stored is not None and stored.base is origin.base and origin.attempt is None:
            plan = plan_next(state, stored.base.state, now)
        else:
            plan = self._plan(state, origin, stored, now)
        if guessed and plan.state is None:  # without a commit nothing tells whether the guess was right
            raise RevisionConflict(state.head.id, (state.head.birth, state.head.revision), None)
        _warn_of_future(state.head, now)
        base = self._committed(session, state, origin, stored, plan)
        if hold.at is not None:
            hold.at = base
        if self.lifetimes is not None:  # last: it speaks of what was published, and not of the copies before
            self.lifetimes.renewed(state.head.id, now.timestamp())
        _rebase(session, state, base)
        return SaveResult(base.state.head.revision, plan.state is not None, plan.adopted, plan.conflicts)

    def _plan(self, state: State, origin: Origin, stored: Stored | None, now: datetime) -> Plan:
        if stored is None and self._was_evicted(state.head.id, origin):
            origin = Origin(None, None, origin.unsaved)
        try:
            return plan_save(self._with_a_life_of_its_own(state, origin, stored), origin, stored,
                             store=self.records.store_id, buried=self.is_buried(state.head.id, origin), now=now,
                             birth=new_birth() if stored is None else "")
        except SessionDeleted as error:
            if self.has_expired(state.head.id, origin):
                raise SessionExpired(state.head.id) from error
            raise

    def _committed(self, session: Session, mine: State, origin: Origin, stored: Stored | None, plan: Plan) -> Base:
        """Durable, and told to all caches. Over a storage with a lock nobody else can commit in between."""
        expected = None if self._excludes else self._expected(mine.head.id)
        try:
            base = self._commit(session, mine, origin, stored, plan)
            for part in origin.unsaved:
                part.kept.landed = base
            self._publish(base, origin.mark, expected)
            return base
        finally:
            for publisher, ticket in expected or ():
                publisher.release(ticket)

    def _commit(self, session: Session, mine: State, origin: Origin, stored: Stored | None, plan: Plan) -> Base:
        if plan.state is None:
            assert stored is not None
            self._renew(stored.base.state.head)
            return stored.base
        before, op = None if stored is None else stored.base, new_token()
        keep, added = split(before, plan.state)
        base = origin.base
        # Noted before the first byte: whoever never comes back from the commit (an error, a cancelled task, a signal)
        # leaves an object that knows what it tried.
        attempt = Attempt(op, plan.state, self.records.store_id, mine)
        session._origin = Origin(base, attempt, origin.unsaved)
        for part in origin.unsaved:
            part.kept.note_try(attempt)
        try:
            stamp = self.records.commit(commit_of(before, plan.state, op, keep, added, anew=not self._excludes))
        except (RevisionConflict, StorageUnavailable) as error:
            if getattr(error, "outcome", "not applied") == "not applied":
                session._origin = Origin(base, None, origin.unsaved)
                for part in origin.unsaved:
                    part.kept.forget_try(attempt)
            raise
        return as_committed(before, plan.state, op, self.records.store_id, stamp, keep, added)

    # -- editing -------------------------------------------------------------------------------------------------

    @contextmanager
    def edit(self, session_id: str) -> Iterator[Session]:
        """`with store.edit(id) as session:` newest, change, save, as one atomic step.

        Other writers of this session wait; calls on the same id from within join. An exception in the body saves
        nothing. Raises `SessionNotFound`, `SessionExpired`; `SessionDeleted` where it was deleted from within; over a storage
        without a lock also where somebody else deleted it meanwhile, and `RevisionConflict` where somebody was first.
        """
        with self._holds.hold(check_session_id(session_id)) as hold:
            session = self._newest(session_id, hold)
            yield session
            with hold.body:  # work that the body started may be saving as well
                self._save_held(session, session.snapshot(), hold)

    def update(self, session_id: str, change: Callable[[Session], object]) -> SaveResult:
        """Run `change(session)` on the newest state and save, again on a newer one where somebody was faster.

        Raises `SessionNotFound`, `SessionExpired`; over a storage without a lock `SessionDeleted` where it was deleted while
        `change` ran. An exception in `change` saves nothing.
        """
        with self._holds.hold(check_session_id(session_id)) as hold:
            return self._until_first(session_id, hold, lambda: self._update_held(session_id, change, hold))

    def _update_held(self, session_id: str, change: Callable[[Session], object], hold: Hold) -> SaveResult:
        session = self._newest(session_id, hold)
        change(session)
        return self._save_held(session, session.snapshot(), hold)

    def _newest(self, session_id: str, hold: Hold) -> Session:
        hidden = self.is_hidden(session_id)
        stored = None if hidden else self._look(self._read_held, session_id, self._known(session_id))
        if stored is None:
            raise self.absence(session_id)
        _refuse_moved(hold, stored)
        if not self._excludes:
            hold.at = stored.base  # what was decided on this state may be committed on this state only
        return self._copy(stored.base)

    # -- beside the session --------------------------------------------------------------------------------------

    def append_token_usage_record(self, session_id: str, json_line: str | bytes) -> None:
        """Append one line of JSON to the session's usage log, durably.

        Raises `SessionNotFound`, `InvalidValue` for anything but one line of JSON, `StorageUnavailable` where the
        storage keeps no such log.
        """
        line = _as_line(json_line)
        if self.is_hidden(check_session_id(session_id)):
            raise SessionExpired(session_id)
        if not has_usage_log(self.records):
            raise StorageUnavailable("append usage", session_id=session_id, reason=f"{self.records.name} keeps no such log")
        self.records.append_usage(check_session_id(session_id), line)


def _as_line(given: str | bytes) -> bytes:
    try:
        line = given.encode("utf-8") if isinstance(given, str) else bytes(given)
    except UnicodeEncodeError as error:
        raise InvalidValue("usage record", f"it contains a lone surrogate at {error.start}") from error
    return line.removesuffix(b"\n")


def _never_known(_stamp: object) -> bool:
    return False


def _warn_of_future(head: Head, now: datetime) -> None:
    if head.updated_at > now and head.updated_at - now > AHEAD:
        _log.warning("updated_at is far ahead of the clock and not carried forward", session_id=head.id,
                     updated_at=head.updated_at.isoformat())


def _refuse_moved(hold: Hold, stored: Stored | None) -> None:
    """Over a storage without a lock, an edit commits against exactly what it read: nobody else was there in between."""
    if isinstance(hold.at, Base) and stored is not None:
        read, there = hold.at, stored.base
        expected, found = ((base.state.head.birth, base.state.head.revision) for base in (read, there))
        if expected != found or read.op != there.op:
            raise RevisionConflict(there.state.head.id, expected, found)


def _settle(session: Session, attempt: Attempt) -> tuple[State, Origin]:
    """The save whose outcome was unknown had been applied: go on as if it had returned then."""
    was, origin = session._state(), session._origin
    state = settled(was, attempt)
    past = None if origin.base is None else origin.base.state
    parts = rebased(origin.unsaved, past, attempt.state, Way(was, attempt.state, state))
    session._adopt(state, Origin(Base(attempt.state, attempt.op, attempt.store, None), None, parts))
    return session._state(), session._origin


def bring_home(session: Session, entry: Session, seen: Base | None = None) -> tuple[State, Origin]:
    """Somebody may have stored what a cache keeps of it: go on from there. `entry` is the session as it is to be saved."""
    was = entry._state()
    state, origin = at_home(was, entry._origin, seen)
    if origin is not entry._origin:
        _move(session, was, state, origin)
        if entry is not session:
            entry._adopt(state, origin)
    return state, origin


def _rebase(session: Session, saved: State, base: Base) -> None:
    """Put the caller's object on the new base; what was done to it since the save began stays, unsaved."""
    _move(session, saved, base.state, Origin(base))


def _move(session: Session, was: State, state: State, origin: Origin) -> None:
    """What `was` became `state`; so does the session, with what was done to it since."""
    now = session._state()
    session._adopt(state if now.is_just(was) else merge(was, now, state).state, origin)
