"""`SqlStorage`: which statements make a read, a commit, a deletion.

A commit stands on a state that this object met before, most often a moment ago, so it need not read anything: it writes
the next state where the birth, the revision and the operation id are still those, and the number of rows that this changed
says whether they were. Where they were not, it looks who was faster; and so does a commit whose answer got lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from datetime import timedelta
from typing import Any, Final

import structlog
from sqlalchemy import URL, Engine

from bamboo_sessions._json import loads
from bamboo_sessions.clock import SYSTEM_CLOCK, Clock
from bamboo_sessions.codec import check_usage, patch_json
from bamboo_sessions.errors import CorruptSession, RevisionConflict, SessionNotFound, StorageUnavailable
from bamboo_sessions.storages.expiry import checked_ttl
from bamboo_sessions.storages.protocol import UNCHANGED, Commit, Delta, Head, Record, Stamp, Unchanged
from bamboo_sessions.storages.sql.database import POOL_SIZE
from bamboo_sessions.storages.sql.failures import ConnectionLost, ReadOnlyServer
from bamboo_sessions.storages.sql.searching import Searching
from bamboo_sessions.storages.sql.settings import Durability
from bamboo_sessions.storages.sql.states import (
    UNTRACKED,
    Known,
    SqlStamp,
    after,
    as_column,
    columns,
    difference,
    needle,
    packed_head,
    packed_ops,
    touches_columns,
    unpacked_ops,
)
from bamboo_sessions.storages.sql.texts import rows_of

_MEETINGS: Final = 512
_LONG_HEAD: Final = 64 * 1024  # longer ones are asked for again rather than kept
_NO_STAMP: Final = SqlStamp("", 0, "", 0, UNTRACKED, ())
_log = structlog.get_logger("bamboo_sessions")


class _Ended(RevisionConflict):
    """Somebody deleted a session of this birth: the transaction is undone by it."""


class SqlStorage(Searching):
    """Sessions in a database: SQLite for one machine, PostgreSQL for many.

    `url_or_engine`: `sqlite:///sessions.db`, `postgresql://user@host/database`, or an engine of SQLAlchemy's, whose pool is
    then used and left open. `namespace`: whose sessions; nothing that is asked of this object reaches those of another one.
    It may stand in the URL, `?namespace=…`. `create`: make the tables, or bring them up to date, where they are not; the
    default is to do so in SQLite. `durability`: "full" is every commit flushed; with "process" it survives a crash of the
    process, not of the machine. `ttl`: how long a session is kept after its last activity. `pool_size`: connections at most,
    shared by all that this process opens with one URL.

    Raises `StorageUnavailable` where there is no database, or none of these tables in it; `UnsupportedFormat` where a newer
    version made them; `InvalidValue` for a URL, an engine or a namespace that cannot be.
    """

    def __init__(self, url_or_engine: str | URL | Engine, *, namespace: str = "", create: bool | None = None,
                 durability: Durability = "full", ttl: timedelta | None = None, clock: Clock = SYSTEM_CLOCK,
                 pool_size: int = POOL_SIZE) -> None:
        if durability not in ("full", "process"):
            raise ValueError(f"durability is 'full' or 'process', not {durability!r}")
        self._ttl = checked_ttl(ttl)
        self._frequent = {}
        self._met: dict[str, Known] = {}  # dict operations are atomic, and losing an entry costs one question
        super().__init__(url_or_engine, namespace, create, durability, clock, pool_size)

    # -- reading -------------------------------------------------------------------------------------------------

    def read(self, session_id: str, known: Stamp | None = None) -> Record | Delta | Unchanged | None:
        """See `RecordStorage`: one statement, by the key. Unchanged, no body comes back; else only the new messages."""
        try:
            return self._read(session_id, known)
        except StorageUnavailable as error:
            if error.__cause__ is None or not self._open.settings.is_too_long(error.__cause__):
                raise
            return self._read_in_rows(session_id)

    def _read(self, session_id: str, known: Stamp | None) -> Record | Delta | Unchanged | None:
        ask = self._open.statements
        if not isinstance(known, SqlStamp) or known.rewrites == UNTRACKED:
            row = self._asked("read", session_id, lambda cursor: ask.whole.row(cursor, self._key(session_id)))
            return None if row is None else self._record(session_id, row)
        values = {**self._key(session_id), "k_birth": known.birth, "k_revision": known.revision, "k_op": known.op,
                  "k_needle": needle(known.op), "k_rewrites": known.rewrites, "k_messages": known.messages}
        row = self._asked("read", session_id, lambda cursor: ask.since.row(cursor, values))
        if row is None:
            return None
        if row[6] is None:
            return UNCHANGED
        if not row[5]:
            return self._record(session_id, row)
        head, ops, stamp, added = self._parts(session_id, row)
        delta = difference(known, ops, head, stamp, added)
        return self.read(session_id) if delta is None else delta

    def _read_in_rows(self, session_id: str) -> Record | None:
        """All messages together are more than one value may have, a gigabyte; each is not."""
        ask = self._open.statements.in_rows
        rows = self._asked("read", session_id, lambda cursor: ask.rows(cursor, self._key(session_id)))
        if not rows or rows[0][0] >= 0:
            return None
        _, _, *state, ops, text = rows[0]
        return self._record(session_id, (*state, 0, ops, text, [line.encode() for _, line, *_ in rows[1:]]))

    def _record(self, session_id: str, row: Any) -> Record:
        head, ops, stamp, messages = self._parts(session_id, row)
        return Record(head, messages, ops, stamp)

    def _parts(self, session_id: str, row: Any) -> tuple[Head, tuple[str, ...], SqlStamp, list[bytes]]:
        birth, revision, op, messages, rewrites, start, ops_text, text, joined = row
        head, ops = self._head(session_id, text, birth, revision), self._ops(session_id, ops_text)
        lines = _lines(joined)
        if start + len(lines) != messages:
            raise self._damaged(session_id, f"{start + len(lines)} messages are there, {messages} were committed")
        stamp = SqlStamp(birth, revision, op, messages, rewrites, tuple(head))
        self._meet(session_id, Known(stamp, ops, text, len(text)))
        return head, ops, stamp, lines

    def _head(self, session_id: str, text: str, birth: str, revision: int) -> Head:
        try:
            head = loads(text)
        except ValueError as error:
            raise self._damaged(session_id, f"the head is no JSON: {error}") from error
        if not isinstance(head, dict) or (head.get("id"), head.get("birth"), head.get("revision")) != (session_id, birth, revision):
            raise self._damaged(session_id, "the head does not agree with the columns beside it")
        return head

    def _ops(self, session_id: str, text: str) -> tuple[str, ...]:
        try:
            return unpacked_ops(text)
        except (ValueError, TypeError) as error:
            raise self._damaged(session_id, f"the operation ids are no JSON list: {error}") from error

    def _damaged(self, session_id: str, reason: str) -> CorruptSession:
        self._met.pop(session_id, None)
        return CorruptSession(session_id, path=f"{self._open.where}#bamboo_session", offset=0, reason=reason)

    # -- committing ----------------------------------------------------------------------------------------------

    def is_likely(self, session_id: str, stamp: Stamp) -> bool:
        """See `LikelyStamps`. Two commits in a row, and nobody in between."""
        met = self._met.get(session_id)
        return met is not None and met.own > 1 and isinstance(stamp, SqlStamp) and met.stamp.op == stamp.op

    def alone(self, session_id: str) -> AbstractContextManager[object]:
        """See `Alone`: the session's row is locked in a transaction; in SQLite the whole database is."""
        hold, key = self._open.statements.hold, self._key(session_id)
        return self._open.alone(session_id, lambda cursor: hold.row(cursor, key))

    def commit(self, commit: Commit) -> Stamp:
        """See `RecordStorage`. A commit whose operation id is among those remembered is recognised, not applied again."""
        try:
            return self._commit_to_primary(commit)
        except ConnectionLost as error:
            return self._commit_again(commit, error)

    def _commit_to_primary(self, commit: Commit) -> Stamp:
        """A connection from before a failover may lead to what is a replica now; a new one leads to the primary."""
        try:
            return self._commit(commit)
        except ReadOnlyServer:
            return self._commit(commit)

    def _commit_again(self, commit: Commit, lost: ConnectionLost) -> Stamp:
        """Its answer got lost. It may still be under way on the server, and that does no harm: it names the state that it
        stands on, as this one does, so only one of them is applied, and the other finds its operation id."""
        _log.warning("connection lost in a commit, asking what became of it", session_id=commit.session_id, error=str(lost))
        try:
            self._open.start_anew()
            if self._was_buried(commit):
                return _NO_STAMP
            return self._commit(commit)
        except StorageUnavailable as error:
            raise StorageUnavailable("commit", session_id=commit.session_id, path=self._open.where, outcome="unknown",
                                     reason=error.reason) from error

    def _commit(self, commit: Commit) -> Stamp:
        known = self._state_before(commit)
        if known is None and commit.expected is not None:
            return self._overtaken(commit)
        made, head, text = _next(known, commit)
        if not self._written(commit, known, head, self._stored(commit, known, made, head, text)):
            return self._overtaken(commit)
        self._meet(commit.session_id, made)
        return made.stamp

    def _state_before(self, commit: Commit) -> Known | None:
        """What the commit stands on, as far as it is there; None where there is nothing or something else."""
        if commit.expected is None:
            return None
        met = self._met.get(commit.session_id)
        if met is None or (met.stamp.birth, met.stamp.revision) != commit.expected:
            met = self._look(commit.session_id)
        return met if met is not None and (met.stamp.birth, met.stamp.revision) == commit.expected else None

    def _look(self, session_id: str) -> Known | None:
        """The state that is there, without its messages."""
        with self._open.cursor("commit", session_id) as cursor:
            row = self._open.statements.state.row(cursor, self._key(session_id))
        if row is None:
            return None
        birth, revision, op, messages, rewrites, ops, text = row
        head = self._head(session_id, text, birth, revision)
        stamp = SqlStamp(birth, revision, op, messages, rewrites, tuple(head))
        known = Known(stamp, self._ops(session_id, ops), text, len(text))
        self._meet(session_id, known)
        return known

    def _stored(self, commit: Commit, known: Known | None, made: Known, head: Head, text: str) -> dict[str, Any]:
        """What the session's row says then, and what it says now; a turn that only goes on names only what it changes."""
        stamp = made.stamp
        values = {"k_namespace": self.namespace, "k_id": commit.session_id, "v_revision": stamp.revision, "v_op": stamp.op,
                  "v_ops": packed_ops(made.ops), "v_messages": stamp.messages, "v_rewrites": stamp.rewrites,
                  "v_activity": self._now(), "v_head": text, "v_updated_at": as_column(head.get("updated_at")) or ""}
        if known is None or touches_columns(commit.change.head):
            values |= {"v_birth": stamp.birth, **{f"v_{name}": value for name, value in columns(head).items()}}
        if known is not None:
            values |= {"k_birth": known.stamp.birth, "k_revision": known.stamp.revision, "k_op": known.stamp.op}
        return values

    def _written(self, commit: Commit, known: Known | None, head: Head, values: dict[str, Any]) -> bool:
        """Whether the database held what the commit stands on, and now holds what it made."""
        change, run = commit.change, self._open.statements
        there = 0 if known is None else known.stamp.messages
        keep, lines = min(change.keep, there), [line.decode() for line in change.add]
        rows = rows_of(self.namespace, change, head, keep)
        step = "create" if known is None else "advance" if "v_birth" in values else "go_on"
        values["k_keep"], at_once = keep, keep == there and run.goes_at_once
        if at_once and known is not None and self._open.own.alone is None:
            with self._open.cursor("commit", commit.session_id) as cursor:  # a transaction of its own: one round trip
                return run.at_once(cursor, values, lines, rows, step=step)
        # A first commit stands on nothing, which may be so again after a deletion. In a transaction it does nothing that COMMIT
        # does not follow, whenever it arrives; and a look behind the insert sees the deletion that the insert waited for.
        with suppress(_Ended), self._open.writing("commit", commit.session_id) as cursor:
            made = (run.at_once(cursor, values, lines, rows, step=step) if at_once
                    else run.one_by_one(cursor, values, lines, rows, step=step, cut=keep < there))
            if made and commit.anew and run.ended.row(cursor, {**values, "k_birth": head["birth"]}) is not None:
                raise _Ended(commit.session_id, None, None)
            return made
        return False

    def _overtaken(self, commit: Commit) -> Stamp:
        """Somebody was faster, unless it was this commit itself."""
        self._met.pop(commit.session_id, None)
        there = self._look(commit.session_id)
        if there is None:
            if self._was_buried(commit):
                return _NO_STAMP  # applied, and the session was deleted since
            raise RevisionConflict(commit.session_id, commit.expected, None)
        if there.stamp.op == commit.change.op:
            return there.stamp
        if commit.change.op in there.ops:
            return _NO_STAMP  # what the messages were at that revision is not known any more: the next read brings all
        raise RevisionConflict(commit.session_id, commit.expected, (there.stamp.birth, there.stamp.revision))

    def _was_buried(self, commit: Commit) -> bool:
        """Whether it was applied to a session that was deleted since."""
        values = {**self._key(commit.session_id), "k_needle": needle(commit.change.op)}
        with self._open.cursor("commit", commit.session_id) as cursor:
            return self._open.statements.buried_op.row(cursor, values) is not None

    def _meet(self, session_id: str, known: Known) -> None:
        """The newest comes last, the oldest goes first."""
        self._met.pop(session_id, None)
        if known.size <= _LONG_HEAD:
            self._met[session_id] = known
        if len(self._met) > _MEETINGS:
            with suppress(StopIteration, RuntimeError):  # another thread was at it
                self._met.pop(next(iter(self._met)), None)

    # -- deleting ------------------------------------------------------------------------------------------------

    def delete_record(self, session_id: str) -> bool:
        """See `RecordStorage`; its operation ids are remembered with its birth."""
        self._met.pop(session_id, None)
        return self._removed(session_id, self._open.statements.hold, {}, expired=False)

    def was_deleted(self, session_id: str, birth: str) -> bool:
        """See `RecordStorage`; the last hundred thousand of a database are remembered."""
        ask, values = self._open.statements.buried, {**self._key(session_id), "k_birth": birth}
        return self._asked("look for", session_id, lambda cursor: ask.row(cursor, values)) is not None

    # -- beside the session --------------------------------------------------------------------------------------

    def append_usage(self, session_id: str, line: bytes) -> None:
        """See `UsageLog`: a row a line."""
        check_usage(line)
        run, values = self._open.statements, {**self._key(session_id), "v_line": line.decode()}
        with self._changing("append usage", session_id) as cursor:
            added = run.append_usage.run(cursor, values)
        if added != 1:
            raise SessionNotFound(session_id)

    def read_usage(self, session_id: str, birth: str) -> Sequence[bytes]:
        """See `UsageReads`. PostgreSQL numbers lines before they are committed, so that an earlier one may show up later."""
        ask, values = self._open.statements.usage, {**self._key(session_id), "k_birth": birth}
        return [row[0].encode() for row in self._asked("read usage", session_id, lambda cursor: ask.rows(cursor, values))]

    def add_usage(self, session_id: str, birth: str, lines: Sequence[bytes], after: int) -> bool:
        """See `UsageReads`: the session's row is held, for which a deletion and every other line waits."""
        for line in lines:
            check_usage(line)
        run, values = self._open.statements, {**self._key(session_id), "k_birth": birth}
        with self._changing("add usage", session_id) as cursor:
            there = run.hold.row(cursor, values)
            if there is None or there[0] != birth or run.count_usage.row(cursor, values)[0] != after:
                return False
            run.add_usage.many(cursor, ({**values, "v_line": line.decode()} for line in lines))
            return True


def _lines(joined: bytes | str | list[bytes] | None) -> list[bytes]:
    """Messages as they came in; a line break cannot be within one."""
    if isinstance(joined, list) or not joined:
        return joined or []
    return (joined.encode() if isinstance(joined, str) else joined).split(b"\n")


def _next(known: Known | None, commit: Commit) -> tuple[Known, Head, str]:
    """The state that the commit makes, and its head, also as text."""
    change = commit.change
    before = {} if known is None else loads(known.head) if isinstance(known.head, str) else known.head
    head = patch_json(before, change.head)
    head["revision"] = change.revision
    there = 0 if known is None else known.stamp.messages
    rewrites = 0 if known is None else known.stamp.rewrites + (change.keep < there)
    stamp = SqlStamp(head["birth"], change.revision, change.op, min(change.keep, there) + len(change.add), rewrites, tuple(head))
    text = packed_head(head)
    ops, own = ((), 0) if known is None else (known.ops, known.own)
    return Known(stamp, after(ops, change.op), head, len(text), own + 1), head, text
