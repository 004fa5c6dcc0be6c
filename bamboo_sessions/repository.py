"""The one canonical way to load and to save: a cache in front of a merging store in front of a storage.

A load that the cache can answer takes no lock and copies nothing. Whatever the cache takes up is compared with what it
holds in the same step, so that it never moves backwards, whoever comes late with an older copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from types import TracebackType
from typing import Any, Self

import attrs
import structlog

from bamboo_sessions.cache import DROP, KEEP, CacheEntry, CacheStats, Put, SessionCache, Ticket, Verdict
from bamboo_sessions.clock import SYSTEM_CLOCK, Clock
from bamboo_sessions.errors import SessionDeleted, SessionNotFound, StorageError
from bamboo_sessions.ids import check_session_id, new_token
from bamboo_sessions.listing import Filter, page
from bamboo_sessions.locked_store import LockedSessionStore
from bamboo_sessions.models import Base, Origin, SaveResult, Session, SessionPage, State
from bamboo_sessions.reconcile import Copy, Stored, after_commit, after_look, with_unsaved
from bamboo_sessions.storages.opening import open_storage
from bamboo_sessions.storages.protocol import RecordStorage, Storage

Answer = str | list[Any]
"""Text or content parts; named here because `SessionRepository.list` hides the builtin inside the class."""

_log = structlog.get_logger("bamboo_sessions")


class SessionRepository:
    """Cache, storage and merging store, bundled; cheap to share between threads.

    Errors: everything that touches storage may raise `StorageError` unless it says otherwise; a bad id raises
    `InvalidSessionId`.
    """

    def __init__(self, cache: SessionCache[Session], storage: Storage | RecordStorage, persistence: LockedSessionStore, *,
                 clock: Clock = SYSTEM_CLOCK) -> None:
        self.cache, self.storage, self.persistence = cache, storage, persistence
        self._clock = clock
        self._store = persistence.records.store_id
        persistence.register(self)

    @classmethod
    def open(cls, where: str | PathLike[str], *, cache: SessionCache[Session] | None = None,
             clock: Clock = SYSTEM_CLOCK, lock_timeout: float = 30.0, **options: Any) -> Self:
        """A repository at a path (JSON files) or URL (`file://…`, `memory://`); `options` go to the storage."""
        storage = open_storage(where, clock=clock, **options)
        persistence = LockedSessionStore(storage, clock=clock, lock_timeout=lock_timeout)
        return cls(SessionCache(clock=clock) if cache is None else cache, storage, persistence, clock=clock)

    # -- loading -------------------------------------------------------------------------------------------------

    def load(self, session_id: str) -> Session | None:
        """The cached copy, else the stored one, as the caller's own; None where there is none.

        A storage error is logged and gives None; use `try_load` where a failure must not look like absence.
        """
        cached = self.cache.get(session_id)
        if cached is not None:
            return cached
        try:
            return self._miss(session_id)
        except StorageError as error:
            _log.warning("storage failed, giving no session", session_id=session_id, error=str(error))
            return None

    def try_load(self, session_id: str) -> Session | None:
        """Like `load`, but raises `StorageError`."""
        cached = self.cache.get(session_id)
        return cached if cached is not None else self._miss(session_id)

    def _miss(self, session_id: str) -> Session | None:
        ticket = self.cache.ticket(check_session_id(session_id))
        try:
            stored = self.persistence.look(session_id)
            if stored is None:
                return None
            session = self._copy(stored.base)
            self.cache.fill(ticket, session)
            return session
        finally:
            self.cache.release(ticket)

    def load_merged(self, session_id: str) -> Session | None:
        """Cache and storage reconciled: storage where it is newer, or of the same age with a question memory lost.

        A storage error is logged and gives the cached copy.
        """
        try:
            return self.try_load_merged(session_id)
        except StorageError as error:
            _log.warning("storage failed, giving the cached copy", session_id=session_id, error=str(error))
            return self.cache.get(session_id)

    def try_load_merged(self, session_id: str) -> Session | None:
        """Like `load_merged`, but raises `StorageError`."""
        known = self._as_committed(session_id)
        if known is not None and self.persistence.is_unchanged(known):
            cached = self.cache.get(session_id)
            if cached is not None:
                return cached
        check_session_id(session_id)
        for _ in range(3):
            ticket = self.cache.ticket(session_id)
            try:
                origin = self._origin(session_id)
                stored = self.persistence.look(session_id, origin.base)
                buried = self.persistence.is_buried(session_id, origin)
                settled, session = self._take_up(session_id, ticket, stored, buried=buried)
            finally:
                self.cache.release(ticket)
            if settled:
                return session
        return session

    def _as_committed(self, session_id: str) -> Base | None:
        """The committed state that the cached copy *is*; None where it has changes of its own."""
        entry = self.cache.peek_entry(session_id)
        copy = _copy_of(entry)
        return None if copy is None else copy.as_committed(self._store)

    def _take_up(self, session_id: str, ticket: Ticket, stored: Stored | None, *,
                 buried: bool) -> tuple[bool, Session | None]:
        """Reconcile in one step with what the cache holds *now*, which may be newer than what was there before the look.

        Somebody who published, removed or deleted since the look began has voided the ticket. Then storage's word on
        whether the session exists at all is older than theirs, and only copies of the same life may be compared; nor can
        unsaved changes be put onto a state that may be older than the one they stand on.
        """
        settled = True

        def decide(entry: CacheEntry[Session] | None) -> Verdict[Session]:
            nonlocal settled
            cached = _copy_of(entry)
            made = after_look(cached, stored, self._store, buried=buried)
            if ticket.void and not (_one_life(cached, stored) and _is_saved(cached)):
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
        """The session, or a fresh one that is neither saved nor cached until `save`.

        Raises `StorageError`: a failure is not absence, and an empty session must not be taken for a lost one.
        """
        found = self.try_load(session_id)
        return found if found is not None else Session.new(session_id, model=model, clock=self._clock, **fields)

    def exists(self, session_id: str) -> bool:
        """Whether storage has the session."""
        return self.persistence.records.exists(check_session_id(session_id))

    def touch(self, session_id: str) -> None:
        """Note activity: the cached copy's time to live starts anew. Raises `SessionNotFound`."""
        if self.try_load(session_id) is None:
            raise SessionNotFound(session_id)

    def list(self, limit: int = 50, cursor: str | None = None, *, model: str | None = None,
             provider: str | None = None, context_id: str | None = None, parent_id: str | None = None,
             pinned: bool | None = None, archived: bool | None = None, tag: str | None = None,
             has_open_question: bool | None = None) -> SessionPage:
        """At most `limit` summaries, newest first; a filter that is None does not matter.

        Go on with `cursor=page.next_cursor` and the same filters until that is None. While others write: a session that is
        not changed comes exactly once, a changed one at least once. Raises `InvalidValue` for a cursor that no list gave.
        """
        wanted = Filter(model, provider, context_id, parent_id, pinned, archived, tag, has_open_question)
        return page(self.persistence.records.heads(), limit, cursor, wanted)

    # -- saving --------------------------------------------------------------------------------------------------

    def save(self, session: Session) -> SaveResult:
        """Merge into what storage holds; on return `session` is the merged, committed state.

        Raises `SessionDeleted` where the session was deleted since this copy was loaded; its cached copy is dropped.
        """
        self._save_overdue()
        try:
            return self.persistence.save(session)
        except SessionDeleted:
            self._drop_deleted(session)
            raise

    save_runtime_session = save

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

        def decide(entry: CacheEntry[Session] | None) -> Verdict[Session]:
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
        except StorageError as error:
            _log.warning("unsaved copy still not saved", session_id=session_id, error=str(error))
            self._note_attempt(entry.value, before)
            return error
        return None

    def _note_attempt(self, tried: Session, before: Origin) -> None:
        """The entry must know what was tried in its name: where that was applied after all, it is nobody's new change."""

        def decide(entry: CacheEntry[Session] | None) -> Verdict[Session]:
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
        """`change(session)` on the newest state, saved; run again where somebody was faster. `SessionNotFound`."""
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
        """Close the question and append its tool result in one commit; `QuestionNotOpen` if somebody was first."""
        return self.update(session_id, lambda s: s.answer(tool_call_id, answer, append_result=append_result))

    def delete(self, session_id: str) -> bool:
        """Remove the session for good; True where there was one. Later saves of its copies raise `SessionDeleted`."""
        return self.persistence.delete(session_id)

    def append_token_usage_record(self, session_id: str, json_line: str | bytes) -> None:
        """Append one line of JSON to the session's usage log; see `LockedSessionStore`."""
        self.persistence.append_token_usage_record(session_id, json_line)

    # -- the publisher's side: called under the session's lock, no I/O ---------------------------------------------

    def committed(self, base: Base, saver: str | None) -> None:
        """Take up a commit; see `locked_store.Publisher`."""

        def decide(entry: CacheEntry[Session] | None) -> Verdict[Session]:
            cached = _copy_of(entry)
            made = after_commit(cached, base, saver)
            return KEEP if made is cached else self._put(made)

        self.cache.change(base.state.head.id, decide)

    def deleted(self, session_id: str) -> None:
        """Forget the session; a load that is under way cannot bring it back."""
        self.cache.remove(session_id)

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
        return Put(Session._of(copy.state, copy.origin, self._clock), copy.unsaved)


def _copy_of(entry: CacheEntry[Session] | None) -> Copy | None:
    if entry is None:
        return None
    session = entry.value
    return Copy(State(session._head, session._messages), session._origin, entry.unsaved)


def _is_saved(cached: Copy | None) -> bool:
    return cached is None or cached.unsaved is None


def _one_life(cached: Copy | None, stored: Stored | None) -> bool:
    """Whether both speak of one life of the session, so that their ages may be compared."""
    if cached is None or stored is None:
        return cached is None and stored is None
    return cached.state.head.birth == stored.base.state.head.birth
