"""What is seen of the sessions, and for how long: being there, being listed, being removed, running out of time.

Activity is a column of the session's row. A touch writes nothing else, and neither moves a revision nor an index.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final

import structlog

from bamboo_sessions._json import loads
from bamboo_sessions.errors import SessionNotFound
from bamboo_sessions.storages.expiry import later_ttl, left_of
from bamboo_sessions.storages.protocol import Head, LeftOut
from bamboo_sessions.storages.records import passed_over
from bamboo_sessions.storages.sql.base import Tables
from bamboo_sessions.storages.sql.statements import Statement

_PAGE: Final = 500
_log = structlog.get_logger("bamboo_sessions")


class Expiring(Tables):
    """The rows of sessions as a whole, whatever they say."""

    _ttl: timedelta | None

    def exists(self, session_id: str) -> bool:
        """See `RecordStorage`."""
        ask = self._open.statements.exists if self._ttl is None else self._open.statements.exists_since
        values = {**self._key(session_id), **self._active()}
        return self._asked("look for", session_id, lambda cursor: ask.row(cursor, values)) is not None

    def heads(self) -> Iterator[tuple[Head, int]]:
        """See `RecordStorage`; read in pages, so that no long reading holds anything up."""
        return self.heads_telling(passed_over)

    def heads_telling(self, left_out: LeftOut) -> Iterator[tuple[Head, int]]:
        """See `TellingHeads`."""
        ask = self._open.statements.heads if self._ttl is None else self._open.statements.heads_since
        for session_id, text, count in self._pages(ask):
            head, why = _head_of(session_id, text)
            if head is not None:
                yield head, count
            else:
                _log.warning("session left out of a list", session_id=session_id, error=why)
                left_out(session_id, f"{self._open.where}#bamboo_session: {why}")

    def _pages(self, ask: Statement) -> Iterator[Any]:
        """The rows of a statement that goes by the id, each at most once."""
        last = ""
        while True:
            values = {"k_namespace": self.namespace, "k_id": last, "k_limit": _PAGE, **self._active()}
            rows = self._asked("list", None, lambda cursor: ask.rows(cursor, values))  # noqa: B023 - called at once
            yield from rows
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]

    def _removed(self, session_id: str, hold: Statement, condition: dict[str, Any], *, expired: bool) -> bool:
        run, key = self._open.statements, self._key(session_id)
        with self._changing("delete", session_id) as cursor:
            row = hold.row(cursor, {**key, **condition})  # held to the end: no commit comes in between
            if row is None:
                return False
            run.bury.run(cursor, {**key, "v_birth": row[0], "v_ops": row[1], "v_expired": int(expired)})
            for drop in run.drops:
                drop.run(cursor, key)
            run.forget.run(cursor, {})
        return True

    # -- time to live --------------------------------------------------------------------------------------------

    @property
    def ttl(self) -> timedelta | None:
        """See `Expiry`."""
        return self._ttl

    def expire_after(self, ttl: timedelta) -> None:
        """See `LateExpiry`. The column of activity is there in any case."""
        self._ttl = later_ttl(self._ttl, ttl)

    def _active(self) -> dict[str, int]:
        """Who was active after this moment has time left."""
        return {} if self._ttl is None else {"k_active": self._now(self._ttl)}

    def time_left(self, session_id: str) -> timedelta | None:
        """See `Expiry`."""
        ttl = self._ttl
        if ttl is None:
            return None
        began, ask = self._now(), self._open.statements.activity
        row = self._asked("look for", session_id, lambda cursor: ask.row(cursor, self._key(session_id)))
        if row is None:
            return None
        activity, pinned, questions = row
        return left_of(ttl, timedelta(microseconds=began - activity), {"pinned": pinned, "questions": questions})

    def touch(self, session_id: str) -> None:
        """See `Expiry`."""
        run, values = self._open.statements.touch, {**self._key(session_id), "v_activity": self._now()}
        with self._changing("touch", session_id) as cursor:
            if run.run(cursor, values) == 0:
                raise SessionNotFound(session_id)

    def expired(self) -> Iterator[str]:
        """See `Expiry`."""
        if self._ttl is None:
            return iter(())
        return (row[0] for row in self._pages(self._open.statements.expired))

    def purge_record(self, session_id: str) -> bool:
        """See `Expiry`: the row is held from the look to the removal."""
        if self._ttl is None:
            return False
        return self._removed(session_id, self._open.statements.hold_expired, self._active(), expired=True)

    def was_expired(self, session_id: str, birth: str | None = None) -> bool:
        """See `Expiry`."""
        ask = self._open.statements.last_grave if birth is None else self._open.statements.grave_of
        values = {**self._key(session_id), **({} if birth is None else {"k_birth": birth})}
        row = self._asked("look for", session_id, lambda cursor: ask.row(cursor, values))
        return row is not None and bool(row[1])


def _head_of(session_id: str, text: str) -> tuple[Head | None, str]:
    """The head, or what is wrong with it: who goes through all of them asks each for its id."""
    try:
        head = loads(text)
    except ValueError as error:
        return None, f"the head is no JSON: {error}"
    if not isinstance(head, dict) or head.get("id") != session_id:
        return None, "the head is not one of this id"
    return head, ""
