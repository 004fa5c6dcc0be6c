"""The one canonical way to load and to save: a cache in front of a merging store in front of a storage.

A load that the cache can answer takes no lock and copies nothing. Whatever the cache takes up is compared with what it
holds in the same step, so that it never moves backwards, whoever comes late with an older copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from os import PathLike
from types import TracebackType
from typing import Any, Self

import attrs
import structlog

from bamboo_sessions._lifetimes import Lifetimes
from bamboo_sessions.cache import DROP, KEEP, Cached, CacheStats, Put, SessionCache, Verdict
from bamboo_sessions.cache_cleanup import Cleaner
from bamboo_sessions.clock import SYSTEM_CLOCK, Clock
from bamboo_sessions.errors import SessionDeleted, SessionExpired, SessionNotFound, StorageError, StorageUnavailable
from bamboo_sessions.ids import check_session_id, new_token
from bamboo_sessions.listing import Filter, page
from bamboo_sessions.locked_store import LockedSessionStore
from bamboo_sessions.models import Base, Origin, SaveResult, Session, SessionPage, State
from bamboo_sessions.models.findings import Finding, Repair
from bamboo_sessions.reconcile import Copy, Stored, after_commit, after_look, with_unsaved
from bamboo_sessions.storages.opening import open_storage
from bamboo_sessions.storages.protocol import Checks, RecordStorage, Storage, has_checks

Answer = str | list[Any]
"""Text or content parts; named here because `SessionRepository.list` hides the builtin inside the class."""

_log = structlog.get_logger("bamboo_sessions")


class SessionRepository:
    """Cache, storage and merging store, bundled; cheap to share between threads.

    `cache`, `storage` and `persistence` are the three tiers; `persistence` stands on `storage`. What loads give is the
    caller's own. Errors: everything that touches storage may raise `StorageError` unless it says otherwise; a bad id raises
    `InvalidSessionId`; what changes a session by its id raises `SessionNotFound` where there is none.
    """

    def __init__(self, cache: SessionCache[Session], storage: Storage | RecordStorage, persistence: LockedSessionStore, *,
                 clock: Clock = SYSTEM_CLOCK) -> None:
        self.cache, self.storage, self.persistence = cache, storage, persistence
        self._clock = clock
        self._store = persistence.records.store_id
        self._is_current = persistence.is_current
        self._mind_time()
        self._purger = _Purger(persistence)
        self._cleaner: Cleaner | None = None
        persistence.register(self)

    @classmethod
    def open(cls, where: str | PathLike[str], *, cache: SessionCache[Session] | None = None,
             clock: Clock = SYSTEM_CLOCK, lock_timeout: float = 30.0, ttl: timedelta | None = None, **options: Any) -> Self:
        """A repository at a path (JSON files) or URL (`file://…`, `memory://`).

        `cache`: one of your own, else 10,000 sessions without a time to live. `lock_timeout`: seconds that a writer waits for
        another one of the same session. `ttl`: how long a session is kept after its last activity; None: for ever.
        `options` go to the storage, such as `durability` (see `JsonFileStorage`). Raises
        `InvalidValue` for another scheme, `StorageUnavailable` and `UnsupportedFormat` for a folder that cannot be opened.
        """
        if ttl is not None:
            options["ttl"] = ttl
        storage = open_storage(where, clock=clock, **options)
        persistence = LockedSessionStore(storage, clock=clock, lock_timeout=lock_timeout)
        return cls(SessionCache(clock=clock) if cache is None else cache, storage, persistence, clock=clock)

    def _mind_time(self) -> None:
        self._lifetimes = self.persistence.lifetimes
        self._cached = self.cache.get if self._lifetimes is None else _certain(self.cache, self._lifetimes)
        """The cached copy, where it takes no look at the storage to know that it may be shown."""

    # -- loading -------------------------------------------------------------------------------------------------

    def load(self, session_id: str) -> Session | None:
        """The cached copy, else the stored one, as the caller's own; None where there is none.

        A storage error is logged and gives None; use `try_load` where a failure must not look like absence.
        """
        cached = self._cached(session_id)
        return cached if cached is not None else self._miss_or_none(session_id)

    def try_load(self, session_id: str) -> Session | None:
        """Like `load`, but raises `StorageError`."""
        cached = self._cached(session_id)
        return cached if cached is not None else self._miss(session_id)

    def _miss_or_none(self, session_id: str) -> Session | None:
        try:
            return self._miss(session_id)
        except StorageError as error:
            _log.warning("storage failed, giving no session", session_id=session_id, error=str(error))
            return None

    def _miss(self, session_id: str) -> Session | None:
        held = None if self._lifetimes is None else self._held_and_shown(session_id)
        if held is not None:
            return held
        ticket = self.cache.ticket(check_session_id(session_id))
        try:
            stored = self.persistence.glance(session_id)
            if stored is None or self._is_hidden(session_id):
                return None
            session = self._copy(stored.base)
            if self.cache.fill(ticket, session):
                return session
            # Another load was first, and may have read something older: no next load may go back behind this one.
            return self._take_up(session_id, _is_overtaken, stored)[1]
        finally:
            self.cache.release(ticket)

    def _held_and_shown(self, session_id: str) -> Session | None:
        """The cached copy. A hidden one stays in the cache, for it may be what a save renews; loads do not give it."""
        cached = self.cache.peek(session_id)
        return None if cached is None or self._is_hidden(session_id) else cached

    def _is_hidden(self, session_id: str) -> bool:
        """Whether its time has run out; never of an unsaved copy, which somebody's work is in."""
        if self._lifetimes is None or self._origin(session_id).unsaved is not None:
            return False
        return self.persistence.is_hidden(session_id)

    def load_merged(self, session_id: str) -> Session | None:
        """Cache and storage reconciled: storage where it is newer, or of the same age with a question memory lost.

        A storage error is logged and gives the cached copy.
        """
        current = self._current(session_id)
        if current is not None:
            return current
        try:
            return self._compared(session_id)
        except StorageError as error:
            _log.warning("storage failed, giving the cached copy", session_id=session_id, error=str(error))
            return self.cache.get(session_id) if self._lifetimes is None else self._held_and_shown(session_id)

    def try_load_merged(self, session_id: str) -> Session | None:
        """Like `load_merged`, but raises `StorageError`."""
        current = self._current(session_id)
        return current if current is not None else self._compared(session_id)

    def _current(self, session_id: str) -> Session | None:
        """The cached copy, where a glance shows that storage holds nothing else; None: it takes a look."""
        cached = self._cached(session_id)
        if cached is None:
            return None
        base = _as_committed(cached)
        return cached if base is not None and base.store == self._store and self._is_current(base.stamp) else None

    def _compared(self, session_id: str) -> Session | None:
        """The short way, for a cached copy that is a committed state: only what came after that is read."""
        if self._is_hidden(session_id):
            return None
        held = self.cache.held(session_id)
        base = None if held is None else _as_committed(held)
        if held is None or base is None or base.store != self._store:
            return self._reconciled(session_id)
        stored = self.persistence.look(session_id, base)
        settled, session = self._take_up(session_id, lambda entry: entry is not None and entry.value is held, stored)
        return session if settled else self._reconciled(session_id)

    def _reconciled(self, session_id: str) -> Session | None:
        """The long way, for what is not cached or has changes of its own: a ticket says if somebody was faster."""
        check_session_id(session_id)
        for _ in range(3):
            ticket = self.cache.ticket(session_id)
            try:
                origin = self._origin(session_id)
                stored = self.persistence.look(session_id, origin.base)
                if stored is None and origin.unsaved is not None and self.persistence.was_let_go(session_id, origin):
                    return self.cache.peek(session_id)  # nobody deleted it, so nobody meant this work to go with it
                buried = self.persistence.is_buried(session_id, origin)
                settled, session = self._take_up(session_id, lambda _: not ticket.void, stored, buried=buried)  # noqa: B023
            finally:
                self.cache.release(ticket)
            if settled:
                return session
        return session

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
            cached = _copy_of(entry)
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

    def load_or_create(self, session_id: str, *, model: str | None = None, **fields: Any) -> Session:
        """The session, or a fresh one that is neither saved nor cached until `save`; `fields` as in `Session.new`.

        Raises `StorageError`: a failure is not absence, and an empty session must not be taken for a lost one.
        """
        found = self.try_load(session_id)
        return found if found is not None else Session.new(session_id, model=model, clock=self._clock, **fields)

    def exists(self, session_id: str) -> bool:
        """Whether storage has the session."""
        return self.persistence.records.exists(check_session_id(session_id))

    def touch(self, session_id: str) -> None:
        """Note activity: its time to live starts anew, in the storage and in the cache; nothing else is written.

        Raises `SessionNotFound`, `SessionExpired`. Where nothing expires, it is the cached copy's time to live alone.
        """
        if self._lifetimes is None:
            if self.try_load(session_id) is None:
                raise SessionNotFound(session_id)
            return
        cached = self.cache.get(session_id)
        try:
            self.persistence.touch(session_id)
        except (SessionNotFound, SessionExpired):
            if cached is None or cached._origin.unsaved is None:
                raise

    def expire_after(self, ttl: timedelta) -> None:
        """Let sessions expire, for a repository that was opened without a `ttl`: before anybody uses it.

        Raises `InvalidValue` where they expire after another time already, `StorageUnavailable` where the storage cannot.
        """
        self.persistence.expire_after(ttl)
        self._mind_time()

    def purge_expired(self) -> int:
        """Remove the sessions whose time has run out, for good; how many. See `LockedSessionStore.purge_expired`."""
        return self.persistence.purge_expired()

    def start_cleanup(self, interval: timedelta = timedelta(minutes=1)) -> None:
        """Call `purge_expired` every `interval` on a thread of its own, until `close`; again: at another interval.

        The thread keeps neither the process nor the repository alive. What fails is logged, and tried again the next time. A
        forked child has none until it calls this itself.
        """
        self.stop_cleanup()
        self._cleaner = Cleaner(self._purger, interval, self._clock)

    def stop_cleanup(self) -> None:
        """No purge of `start_cleanup` runs after this; harmless where none was started."""
        cleaner, self._cleaner = self._cleaner, None
        if cleaner is not None:
            cleaner.stop()

    def list(self, limit: int = 50, cursor: str | None = None, *, model: str | None = None,
             provider: str | None = None, context_id: str | None = None, parent_id: str | None = None,
             pinned: bool | None = None, archived: bool | None = None, tag: str | None = None,
             has_open_question: bool | None = None) -> SessionPage:
        """At most `limit` summaries, newest first; a filter that is None does not matter.

        Go on with `cursor=page.next_cursor` and the same filters until that is None. While others write: a session that is
        not changed comes exactly once, a changed one at least once. Raises `InvalidValue` for a cursor that no list gave, and
        for a limit below 1; `StorageUnavailable` where the storage cannot list.
        """
        wanted = Filter(model, provider, context_id, parent_id, pinned, archived, tag, has_open_question)
        return page(self.persistence.records.heads(), limit, cursor, wanted, _leave_out)

    # -- saving --------------------------------------------------------------------------------------------------

    def save(self, session: Session) -> SaveResult:
        """Merge into what storage holds; on return `session` is the merged, committed state.

        Raises `SessionDeleted` where the session was deleted since this copy was loaded, `SessionExpired` where it was purged
        after its time ran out; its cached copy is dropped, unless that has unsaved work of somebody's. Raises `InvalidValue` for metadata that JSON cannot carry, and `StorageError`; then the object keeps its changes and can be
        saved again.
        """
        self._save_overdue()
        try:
            return self.persistence.save(session)
        except SessionDeleted:
            self._drop_deleted(session)
            raise
        except SessionExpired:
            self.purged(session.id)
            raise

    save_runtime_session = save

    def create(self, session: Session) -> SaveResult:
        """Save a new session under an id that nobody has, where `save` would merge with whatever is there.

        Raises `SessionExists` where the id is taken, also by somebody else at this moment, and what `save` raises. After a
        `StorageUnavailable` whose outcome is unknown, the same object can be created again.
        """
        return self.persistence.create(session)

    def save_and_cache(self, session: Session) -> None:
        """Save, or keep: a `StorageError` is logged and the copy stays in the cache as unsaved.

        Later loads give it, later saves and `flush` store it; a process that dies before loses it.
        """
        try:
            self.save(session)
        except StorageError as error:
            _log.warning("save failed, keeping the copy in memory", session_id=session.id, error=str(error))
            self._keep_unsaved(session)

    def _keep_unsaved(self, session: Session) -> None:
        seen, token = session._origin.unsaved, new_token()
        session._origin = attrs.evolve(session._origin, unsaved=token)
        mine = Copy(session._state(), session._origin, token)
        self.cache.change(session.id, lambda entry: self._put(with_unsaved(_copy_of(entry), mine, seen)))

    def _drop_deleted(self, session: Session) -> None:
        """Drop the cached copy of the life that ended, and no other."""
        ended = session.birth

        def decide(entry: Cached[Session] | None) -> Verdict[Session]:
            return DROP if entry is not None and entry.value.birth == ended else KEEP

        self.cache.change(session.id, decide)

    def _save_overdue(self) -> None:
        """Save one copy that eviction had to spare; here, because this caller holds no lock yet."""
        session_id = self.cache.overdue()
        if session_id is not None:
            self._try_flush(session_id, timeout=0)  # a session that somebody is busy with must not hold up this one

    def flush(self) -> None:
        """Save every unsaved copy; raises the first `StorageError` after trying them all."""
        errors = [error for session_id in self.cache.unsaved_ids() if (error := self._try_flush(session_id)) is not None]
        if errors:
            raise errors[0]

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
            return self._flush_expired(entry.value)
        except StorageError as error:
            _log.warning("unsaved copy still not saved", session_id=session_id, error=str(error))
            self._note_attempt(entry.value, before)
            return error
        return None

    def _flush_expired(self, unsaved: Session) -> StorageError | None:
        """Nobody deleted it: what was not saved when its time ran out goes on as a session of its own, under its id where
        that is free, else under one beside it."""
        made = unsaved.as_new()
        if self.persistence.look(made.id) is not None:
            made = unsaved.as_new(f"{made.id[:480]} (expired {new_token()[:8]})")
        try:
            self.persistence.save(made)
        except StorageError as error:
            return error
        _log.warning("unsaved changes of an expired session saved as a new one", session_id=unsaved.id, saved_as=made.id)
        self._drop_deleted(unsaved)
        return None

    def _note_attempt(self, tried: Session, before: Origin) -> None:
        """The entry must know what was tried in its name: where that was applied after all, it is nobody's new change."""

        def decide(entry: Cached[Session] | None) -> Verdict[Session]:
            cached = _copy_of(entry)
            if cached is None or cached.origin is not before:
                return KEEP
            return self._put(Copy(tried._state(), tried._origin, cached.unsaved))

        self.cache.change(tried.id, decide)

    # -- editing -------------------------------------------------------------------------------------------------

    @contextmanager
    def edit(self, session_id: str) -> Iterator[Session]:
        """`with repo.edit(id) as session:` newest, change, save, as one atomic step; see `LockedSessionStore.edit`."""
        with self.persistence.edit(session_id) as session:
            yield session

    def update(self, session_id: str, change: Callable[[Session], object]) -> SaveResult:
        """`change(session)` on the newest state, saved; run again where somebody was faster."""
        return self.persistence.update(session_id, change)

    def set_title(self, session_id: str, title: str | None, *, source: str = "user") -> SaveResult:
        """Give a title; `source` "generated" never replaces one that a user gave (then nothing changes)."""
        return self.update(session_id, lambda session: session.set_title(title, source=source))

    def set_pinned(self, session_id: str, pinned: bool) -> SaveResult:
        """Pin or unpin."""
        return self.update(session_id, lambda session: setattr(session, "pinned", pinned))

    def set_archived(self, session_id: str, archived: bool) -> SaveResult:
        """Put away or take out again."""
        return self.update(session_id, lambda session: setattr(session, "archived", archived))

    def set_tags(self, session_id: str, tags: Iterable[str]) -> SaveResult:
        """Make these the tags."""
        made = frozenset([tags]) if isinstance(tags, str) else frozenset(tags)
        return self.update(session_id, lambda session: setattr(session, "tags", made))

    def add_tags(self, session_id: str, *tags: str) -> SaveResult:
        """Add tags."""
        return self.update(session_id, lambda session: setattr(session, "tags", session.tags | set(tags)))

    def remove_tags(self, session_id: str, *tags: str) -> SaveResult:
        """Take tags away."""
        return self.update(session_id, lambda session: setattr(session, "tags", session.tags - set(tags)))

    def answer(self, session_id: str, tool_call_id: str, answer: Answer, *,
               append_result: bool = True) -> SaveResult:
        """Close the question and append its tool result in one commit; `QuestionNotOpen` if somebody was first.

        `answer` is text or a list of content parts. Without `append_result` only the question is closed.
        """
        return self.update(session_id, lambda s: s.answer(tool_call_id, answer, append_result=append_result))

    def delete(self, session_id: str) -> bool:
        """Remove the session for good; True where there was one. Later saves of its copies raise `SessionDeleted`."""
        return self.persistence.delete(session_id)

    def append_token_usage_record(self, session_id: str, json_line: str | bytes) -> None:
        """Append one line of JSON to the session's usage log; see `LockedSessionStore`."""
        self.persistence.append_token_usage_record(session_id, json_line)

    # -- check and repair ----------------------------------------------------------------------------------------

    def check(self, session_id: str | None = None, *, progress: Callable[[int, int], object] | None = None
              ) -> Iterator[Finding]:
        """What is not as it should be on disk, of one session or of all; nothing is changed, and others may write meanwhile.

        Raises `StorageUnavailable` over a storage that cannot be checked: no findings would read as "all is well".
        """
        return self._checks().check(session_id, progress=progress)

    def repair(self, session_id: str) -> Repair:
        """Write a damaged session anew from all that can be read of it; what was there is kept in quarantine.

        What this repository's cached copy still has of what was lost is merged back. See `Checks`.
        """
        made = self._checks().repair(check_session_id(session_id))
        entry = self.cache.peek_entry(session_id)
        if not made.changed or entry is None:
            return made
        try:
            saved = self.persistence.save(entry.value.snapshot())
        except (StorageError, SessionDeleted) as error:
            return attrs.evolve(made, not_usable=(*made.not_usable, f"the copy in this process's cache: {error}"))
        if not saved.changed:
            return made
        kept = f"what the copy in this process's cache still had: revision {saved.revision}"
        return attrs.evolve(made, revision=saved.revision, kept=(*made.kept, kept))

    def _checks(self) -> Checks:
        records = self.persistence.records
        if has_checks(records):
            return records
        raise StorageUnavailable("check", reason=f"{records.name} keeps nothing on disk that it could check or repair")

    # -- the publisher's side: called under the session's lock, no I/O ---------------------------------------------

    def committed(self, base: Base, saver: str | None) -> None:
        """Take up a commit; see `locked_store.Publisher`."""

        def decide(entry: Cached[Session] | None) -> Verdict[Session]:
            cached = _copy_of(entry)
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

    def _origin(self, session_id: str) -> Origin:
        entry = self.cache.peek_entry(session_id)
        return Origin() if entry is None else entry.value._origin

    # -- the rest ------------------------------------------------------------------------------------------------

    def stats(self) -> CacheStats:
        """Counters of the cache."""
        return self.cache.stats()

    def close(self) -> None:
        """Save what is unsaved and release the storage; raises the `StorageError` where something could not be saved."""
        self.stop_cleanup()
        try:
            self.flush()
        finally:
            self.persistence.records.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def _copy(self, base: Base) -> Session:
        return Session._of(base.state, Origin(base), self._clock)

    def _put(self, copy: Copy) -> Put[Session]:
        return Put(Session._of(copy.state, copy.origin, self._clock), copy.unsaved, given=True)


class _Purger:
    """What a clean-up thread works on. It lives with its repository, which nothing here keeps alive."""

    def __init__(self, persistence: LockedSessionStore) -> None:
        self._persistence = persistence

    def cleanup_expired(self) -> int:
        """See `Cleaner`."""
        return self._persistence.purge_expired()


def _certain(cache: SessionCache[Session], lifetimes: Lifetimes) -> Callable[[str], Session | None]:
    """`cache.get` for sessions that expire. Not a method: kept on the repository, that would be a cycle."""
    get, is_shown = cache.get, lifetimes.is_shown

    def cached(session_id: str) -> Session | None:
        session = get(session_id)
        if session is None or is_shown(session_id) or session._origin.unsaved is not None:
            return session
        return None

    return cached


def _is_overtaken(_entry: Cached[Session] | None) -> bool:
    return False


def _leave_out(session_id: str, error: Exception) -> None:
    _log.warning("session left out of a list", session_id=session_id, error=str(error))


def _copy_of(entry: Cached[Session] | None) -> Copy | None:
    if entry is None:
        return None
    session = entry.value
    base = _as_committed(session)
    state = State(session._head, session._messages) if base is None else base.state
    return Copy(state, session._origin, entry.unsaved)


def _as_committed(cached: Session) -> Base | None:
    """The committed state that a cached session *is*; None where it has changes of its own."""
    origin = cached._origin
    base = origin.base
    if base is None or origin.unsaved is not None:
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
