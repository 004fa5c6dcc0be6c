"""Between records and sessions: what a storage keeps, seen as a committed state, and the plain methods.

`committed` and `follow` are where stored bytes become something that a session can descend from. `RecordBacked` gives a
storage that speaks records the three methods that anybody's storage has, and the rest of what people ask of a store.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import structlog

from bamboo_sessions.clock import SYSTEM_CLOCK, Clock
from bamboo_sessions.codec import decode_state, diff_head, patch_state, split_messages
from bamboo_sessions.errors import CorruptSession, SessionError, SessionExpired, SessionNotFound, StorageUnavailable
from bamboo_sessions.filters import Filter
from bamboo_sessions.ids import check_session_id, new_birth, new_token
from bamboo_sessions.listing import page, summary_of
from bamboo_sessions.models import Base, Origin, Session, SessionPage, SessionSummary, State
from bamboo_sessions.models.hits import SearchPage
from bamboo_sessions.models.message import Message
from bamboo_sessions.models.messages import Messages
from bamboo_sessions.models.state import changed
from bamboo_sessions.reconcile import Stored
from bamboo_sessions.search import Query
from bamboo_sessions.storages.expiry import NONE_LEFT
from bamboo_sessions.storages.protocol import (
    OPS_KEPT,
    Change,
    Commit,
    Delta,
    Head,
    Record,
    RecordStorage,
    Stamp,
    Storage,
    Unchanged,
    has_expiry,
    has_queries,
    has_search,
)

Answer = Record | Delta | Unchanged | None

_log = structlog.get_logger("bamboo_sessions")


def found(answer: Record, store: str) -> Stored:
    """A whole record as a committed state; raises `CorruptSession` for a head that no version writes."""
    try:
        state = decode_state(answer.head, answer.messages)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        where, session_id = getattr(answer.stamp, "path", store), str(answer.head.get("id"))
        raise CorruptSession(session_id, path=where, offset=0, reason=f"the head is no session: {error!r}") from error
    base = Base(state, answer.ops[-1] if answer.ops else "", store, answer.stamp, answer.ops)
    return Stored(base, answer.ops, follows=False)


def follow(known: Base | None, answer: Answer, store: str) -> Stored | None:
    """What the storage answered to a reader that named `known`; what is shared with it stays shared."""
    if answer is None:
        return None
    if isinstance(answer, Record):
        return found(answer, store)
    assert known is not None, "a storage answers with a difference only to somebody who named a state"
    if isinstance(answer, Unchanged):
        return Stored(known, (), follows=True)
    state, since = known.state, tuple(change.op for change in answer.changes)
    for change in answer.changes:
        state = patch_state(state, change.keep, change.add, change.head, change.revision)
    ops = _and_then(known.ops, *since)
    return Stored(Base(state, since[-1] if since else known.op, store, answer.stamp, ops), since, follows=True)


def _and_then(ops: tuple[str, ...], *more: str) -> tuple[str, ...]:
    return (*ops, *more)[-OPS_KEPT:]


def split(before: Base | None, after: State) -> tuple[int, list[Message]]:
    """`after`'s messages as the first so many of `before`'s and what comes behind."""
    return (0, list(after.messages)) if before is None else split_messages(before.state.messages, after.messages)


def commit_of(before: Base | None, after: State, op: str, keep: int, added: Sequence[Message], *, anew: bool = False) -> Commit:
    """The commit that makes `after`, split like that, of `before`; `after.head.revision` is the revision it gives."""
    old = None if before is None else before.state.head
    change = Change(after.head.revision, op, keep, [message.line for message in added], diff_head(old, after.head))
    return Commit(after.head.id, None if old is None else (old.birth, old.revision), change, anew and old is None)


def as_committed(before: Base | None, after: State, op: str, store: str, stamp: Stamp, keep: int,
                 added: Sequence[Message]) -> Base:
    """What `after` is once it is durable: its messages join the shared backing."""
    messages = Messages.of(added) if before is None else before.state.messages.committed(keep, added)
    ops = (op,) if before is None else _and_then(before.ops, op)
    return Base(State(after.head, messages), op, store, stamp, ops)


class RecordBacked(Storage):
    """The plain methods of a store, for a storage that reads and commits records.

    `save_session` is a plain, unmerged save for tests and first writes: it stores the session over whatever is there,
    keeps its `updated_at`, gives it revision max(stored, given) + 1 and never changes its argument. A session whose time ran
    out is shown by none of them.
    """

    clock: Clock = SYSTEM_CLOCK

    @property
    @abstractmethod
    def store_id(self) -> str:
        """See `RecordStorage`."""

    @abstractmethod
    def read(self, session_id: str, known: Stamp | None = None) -> Answer:
        """See `RecordStorage`."""

    @abstractmethod
    def commit(self, commit: Commit) -> Stamp:
        """See `RecordStorage`."""

    @abstractmethod
    def delete_record(self, session_id: str) -> bool:
        """See `RecordStorage`."""

    @abstractmethod
    def heads(self) -> Iterator[tuple[Head, int]]:
        """See `RecordStorage`."""

    def load_session(self, session_id: str) -> Session | None:
        """The newest committed state as a session of the caller's own, or None."""
        record = self._shown(session_id)
        return None if record is None else self._session_of(record)

    def get_session(self, session_id: str) -> Session:
        """Like `load_session`, but absence is an error: `SessionExpired` where its time ran out, else `SessionNotFound`."""
        session = self.load_session(session_id)
        if session is None:
            raise self._absent(session_id)
        return session

    def get_metadata(self, session_id: str) -> SessionSummary:
        """All but the messages, of which none is decoded. Raises `SessionNotFound`, `SessionExpired`."""
        record = self._shown(session_id)
        if record is None:
            raise self._absent(session_id)
        return summary_of(record.head, len(record.messages))

    def list_sessions(self, limit: int = 50, cursor: str | None = None) -> SessionPage:
        """At most `limit` summaries, newest first; see `SessionRepository.list`, which can also choose among them."""
        return listed(self, Filter(), limit, cursor)

    def clear(self) -> int:
        """Delete every session, as `delete_session` does; how many there were to be seen.

        One that is made meanwhile may stay, and one that cannot be read does.
        """
        expired = list(self.expired()) if has_expiry(self) and self.ttl is not None else []
        count = sum(self.delete_session(head["id"]) for head, _ in list(self.heads()))
        for session_id in expired:
            self.delete_session(session_id)
        return count

    def _shown(self, session_id: str) -> Record | None:
        """The record, unless its session is one that nobody sees any more. That is looked at first: a purge after the
        reading would make an expired session look like one that has not expired."""
        answer = None if self._is_over(check_session_id(session_id)) else self.read(session_id)
        return answer if isinstance(answer, Record) else None

    def _is_over(self, session_id: str) -> bool:
        """Whether the session is there and its time has run out."""
        if not has_expiry(self) or self.ttl is None:
            return False
        left = self.time_left(session_id)
        return left is not None and left <= NONE_LEFT

    def _absent(self, session_id: str) -> SessionError:
        """Why nothing is shown under this id."""
        expired = self._is_over(session_id) or (has_expiry(self) and self.was_expired(session_id))
        return SessionExpired(session_id) if expired else SessionNotFound(session_id)

    def save_session(self, session: Session) -> None:
        """Store `session` over whatever is there; see the class."""
        state = session.snapshot()._state()
        answer = self.read(state.head.id)
        before = found(answer, self.store_id).base if isinstance(answer, Record) else None
        revision = max(before.state.head.revision if before is not None else 0, state.head.revision) + 1
        head = changed(state.head, revision=revision, birth=state.head.birth or new_birth())
        after = State(head, state.messages)
        self.commit(commit_of(before, after, new_token(), *split(before, after)))

    def delete_session(self, session_id: str) -> bool:
        """Remove it; True where there was one to be seen."""
        shown = not self._is_over(check_session_id(session_id))
        return self.delete_record(session_id) and shown

    def _session_of(self, record: Record) -> Session:
        base = found(record, self.store_id).base
        return Session._of(base.state, Origin(base), self.clock)


def listed(storage: RecordStorage | RecordBacked, wanted: Filter, limit: int, cursor: str | None) -> SessionPage:
    """A page of a list: the storage's own where it can seek, else by a look at every head."""
    if has_queries(storage):
        return storage.page(wanted, limit, cursor)
    return page(storage.heads(), limit, cursor, wanted, leave_out)


def searched(storage: RecordStorage | RecordBacked, query: Query, wanted: Filter, limit: int, cursor: str | None) -> SearchPage:
    """A page of what a search finds; raises `StorageUnavailable` where the storage has no index of words."""
    if has_search(storage):
        return storage.search(query, wanted, limit, cursor)
    raise StorageUnavailable("search", reason=f"{getattr(storage, 'name', 'this storage')} keeps no index of words; JSON files, "
                             "SQLite and PostgreSQL do, and so does memory")


def passed_over(_session_id: str, _why: str) -> None:
    """What a list does about a session that it leaves out, once that is logged: one that is damaged hides no other."""


def leave_out(session_id: str, error: Exception) -> None:
    """Of a list: what no version writes must not hide the others."""
    _log.warning("session left out of a list", session_id=session_id, error=str(error))
