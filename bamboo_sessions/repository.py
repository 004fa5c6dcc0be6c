"""The one canonical way to load and to save: a cache in front of a merging store in front of a storage.

A load that the cache can answer takes no lock and copies nothing. What lies behind that is in files of their own: what
the cache holds in `repository_copies`, loads that it cannot answer in `repository_loads`, copies that could not be saved in
`repository_unsaved`. What writes is `locked_store`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from os import PathLike
from types import TracebackType
from typing import Any, Self

import attrs
import structlog

from bamboo_sessions.cache import CacheStats, SessionCache
from bamboo_sessions.cache_cleanup import Cleaner
from bamboo_sessions.clock import SYSTEM_CLOCK, Clock
from bamboo_sessions.errors import SessionDeleted, SessionExpired, SessionNotFound, StorageError, StorageUnavailable
from bamboo_sessions.filters import Filter, Order, Path
from bamboo_sessions.ids import check_session_id
from bamboo_sessions.locked_store import LockedSessionStore
from bamboo_sessions.models import SaveResult, Session, SessionPage
from bamboo_sessions.models.findings import Finding, Repair
from bamboo_sessions.models.hits import SearchPage
from bamboo_sessions.repository_loads import Loads
from bamboo_sessions.repository_unsaved import Unsaved
from bamboo_sessions.search import Query
from bamboo_sessions.storages.opening import open_storage
from bamboo_sessions.storages.protocol import Checks, RecordStorage, Storage, has_checks
from bamboo_sessions.storages.records import listed, searched

Answer = str | list[Any]
"""Text or content parts; named here because `SessionRepository.list` hides the builtin inside the class."""

_log = structlog.get_logger("bamboo_sessions")


class SessionRepository(Loads, Unsaved):
    """Cache, storage and merging store, bundled; cheap to share between threads.

    `cache`, `storage` and `persistence` are the three tiers; `persistence` stands on `storage`. What loads give is the
    caller's own. Errors: everything that touches storage may raise `StorageError` unless it says otherwise; a bad id raises
    `InvalidSessionId`; what changes a session by its id raises `SessionNotFound` where there is none.
    """

    def __init__(self, cache: SessionCache[Session], storage: Storage | RecordStorage, persistence: LockedSessionStore, *,
                 clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(cache, persistence, clock)
        self.storage = storage
        self._purger = _Purger(persistence)
        self._cleaner: Cleaner | None = None
        persistence.register(self)

    @classmethod
    def open(cls, where: str | PathLike[str], *, cache: SessionCache[Session] | None = None,
             clock: Clock = SYSTEM_CLOCK, lock_timeout: float = 30.0, ttl: timedelta | None = None, **options: Any) -> Self:
        """A repository at a path (JSON files) or URL (`file://…`, `memory://`, `sqlite:///…`, `postgresql://…`).

        `cache`: one of your own, else 10,000 sessions without a time to live. `lock_timeout`: seconds that a writer waits for
        another one of the same session. `ttl`: how long a session is kept after its last activity; None: for ever.
        `options` go to the storage, such as `durability` (see `JsonFileStorage`, `SqlStorage`). Raises
        `InvalidValue` for another scheme, `StorageUnavailable` and `UnsupportedFormat` for a folder that cannot be opened.
        """
        if ttl is not None:
            options["ttl"] = ttl
        storage = open_storage(where, clock=clock, **options)
        persistence = LockedSessionStore(storage, clock=clock, lock_timeout=lock_timeout)
        return cls(SessionCache(clock=clock) if cache is None else cache, storage, persistence, clock=clock)

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
            if cached is None or not cached._origin.unsaved:
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
             has_open_question: bool | None = None, tags: Iterable[str] = (), updated_after: datetime | None = None,
             updated_before: datetime | None = None, metadata: Mapping[str | Path, Any] | None = None,
             order: Order = "newest") -> SessionPage:
        """At most `limit` summaries; a filter that is None, or empty, does not matter.

        `tags`: all of them. `updated_after`: changed then or later; `updated_before`: earlier than that. `metadata`: values by
        path, `{"customer.plan": "pro"}`; a tuple of keys is a path too, where one has a dot in it. Equal is what JSON calls
        equal: 1 is 1.0, and not true. `order`: "newest" or "oldest" change first, or "created", the newest session first.

        Go on with `cursor=page.next_cursor` and the same filters until that is None. While others write: a session that is
        not changed comes exactly once, a changed one at least once. Raises `InvalidValue` for a cursor that no list in this
        order gave, a limit below 1, a naive datetime, a path or an order that cannot be; `StorageUnavailable` where the storage
        cannot list.
        """
        wanted = Filter(model, provider, context_id, parent_id, pinned, archived, tag, has_open_question, tags, updated_after,
                        updated_before, metadata, order)
        return listed(self.persistence.records, wanted, limit, cursor)

    def search(self, words: str, limit: int = 20, cursor: str | None = None, *, prefix: bool = False, model: str | None = None,
               provider: str | None = None, context_id: str | None = None, parent_id: str | None = None,
               pinned: bool | None = None, archived: bool | None = None, tag: str | None = None,
               has_open_question: bool | None = None, tags: Iterable[str] = (), updated_after: datetime | None = None,
               updated_before: datetime | None = None, metadata: Mapping[str | Path, Any] | None = None) -> SearchPage:
        """Titles and messages in which all of these words are, at most `limit` of them, in the sessions that pass the filters,
        which are those of `list`. Sessions come by their last change, the newest first; of each the title, then its messages.

        `words` is what a user wrote: letters and digits count, without regard to case and accents, and nothing else means
        anything. `prefix`: the last one may be the beginning of a longer word. Not searched: system and developer messages, and
        whatever is no text (arguments of tools, metadata, ids). What is committed is found at once; what is not saved is not.

        Go on with `cursor=page.next_cursor` and the same question until that is None. Raises `InvalidValue` where there is no
        letter and no digit in `words` or more than 1,000 characters, and what `list` raises it for; `StorageUnavailable`
        where the storage cannot search.
        """
        wanted = Filter(model, provider, context_id, parent_id, pinned, archived, tag, has_open_question, tags, updated_after,
                        updated_before, metadata)
        return searched(self.persistence.records, Query.read(words, prefix=prefix), wanted, limit, cursor)

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

    def flush(self) -> None:
        """Save every unsaved copy; raises the first `StorageError` after trying them all."""
        errors = [error for session_id in self.cache.unsaved_ids() if (error := self._try_flush(session_id)) is not None]
        if errors:
            raise errors[0]

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
        except (StorageError, SessionDeleted, SessionExpired) as error:
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


class _Purger:
    """What a clean-up thread works on. It lives with its repository, which nothing here keeps alive."""

    def __init__(self, persistence: LockedSessionStore) -> None:
        self._persistence = persistence

    def cleanup_expired(self) -> int:
        """See `Cleaner`."""
        return self._persistence.purge_expired()
