"""Using a connection: for one statement, for a transaction, or for a session that nobody else may commit to meanwhile.

All three are the same few steps (take a line, do something, give it back, say what a failure means), and they are in the
path of every save: plain objects with two methods, because a generator for each costs as much as a statement. What they
hold is given back by being dropped too, for an interrupt may come between any two of these steps.

The last one is for a writer who was overtaken again and again. The row of its session is locked in a transaction that is
open from the look to the commit: whoever else commits waits. It belongs to the thread, and so do the uses in between.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self
from weakref import ref

from bamboo_sessions.errors import StorageUnavailable
from bamboo_sessions.storages.sql.failures import ConnectionLost
from bamboo_sessions.storages.sql.statements import Cursor

if TYPE_CHECKING:
    from bamboo_sessions.storages.sql.database import Database, Line
    from bamboo_sessions.storages.sql.turns import Turn


class Own(threading.local):
    """What each thread has in hand."""

    alone: ref[Alone] | None = None
    """Only looked at: where an interrupt took the session that was held out of its caller's hands, it is to be let go of."""

    def held(self) -> Alone | None:
        """What this thread is alone with."""
        alone = None if self.alone is None else self.alone()
        if alone is None:
            self.alone = None
        return alone


class Use:
    """`with` a driver's cursor in autocommit; raises `StorageUnavailable`, or `ConnectionLost` once something was sent."""

    __slots__ = ("_action", "_database", "_line", "_session_id", "_within")

    def __init__(self, database: Database, action: str, session_id: str | None) -> None:
        self._database, self._action, self._session_id = database, action, session_id
        self._line: Line
        self._within: Alone | None = None

    def __enter__(self) -> Cursor:
        own = self._database.own
        self._within = within = None if own.alone is None else own.held()
        self._line = self._database.take(self._action, self._session_id) if within is None else within.line
        return self._line.cursor

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        database, within = self._database, self._within
        if error is None:
            if within is None:
                database.keep(self._line)
            return
        fit, lost = database.is_fit_after(error, self._line), database.is_lost(error, self._line)  # asked while it is in hand
        if within is None:
            database.give_back(self._line, fit=fit)
        elif not fit or database.is_foreign(error):  # PostgreSQL goes on with no transaction in which a statement failed
            within.end(fit=fit)
        database.translate(error, self._action, self._session_id, lost=lost)


class Change(Use):
    """`with` a cursor in a transaction. An error in the body undoes it; one of its commit leaves the outcome unknown."""

    __slots__ = ("_turn",)

    def __enter__(self) -> Cursor:
        database = self._database
        self._turn: Turn | None = None
        alone = None if database.own.alone is None else database.own.held()
        if alone is not None:
            if alone.session_id == self._session_id:
                return super().__enter__()
            alone.end(fit=True)  # nothing was changed in it yet, and two sessions are never held at once
        try:
            self._turn = database.queue(self._action, self._session_id)
            return self._begun_anew()
        except BaseException:
            self._turn = None  # a traceback that is kept keeps this object
            raise

    def _begun_anew(self) -> Cursor:
        """A transaction; begun once more where the connection turns out to be broken, for BEGIN is all that was sent."""
        try:
            return self._begun()
        except ConnectionLost:
            self._database.start_anew()
        try:
            return self._begun()
        except ConnectionLost as lost:
            raise StorageUnavailable(self._action, session_id=self._session_id, path=self._database.where,
                                     reason=lost.reason) from lost

    def _begun(self) -> Cursor:
        cursor = super().__enter__()
        try:
            cursor.execute(self._database.statements.begin_writing)
        except BaseException as error:
            super().__exit__(type(error), error, None)
            raise
        return cursor

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        within, failed = self._within, error
        try:
            if failed is None:
                failed = self._committed()
            super().__exit__(None if failed is None else type(failed), failed, trace)
        finally:
            self._turn = None
            if within is not None and self._database.own.held() is within:
                within.end(fit=True, keep=failed is None)
        if failed is not None and error is None:
            raise failed

    def _committed(self) -> BaseException | None:
        """What went wrong, if anything did."""
        try:
            self._line.cursor.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001 - raised again by the caller, who has a connection to give back first
            return self._database.of_commit(error, self._action, self._session_id)
        return None


class Alone:
    """`with` one session held against every other writer, until it ends or the transaction of this thread commits."""

    def __init__(self, database: Database, session_id: str, hold: Callable[[Cursor], object]) -> None:
        self._database, self.session_id, self._hold = database, session_id, hold
        self.line: Line
        self._turn: Turn | None = None

    def __enter__(self) -> Self:
        """A transaction, begun as any other and then kept open."""
        change = Change(self._database, "commit", self.session_id)
        cursor = change.__enter__()
        try:
            self._hold(cursor)
        except BaseException as error:
            change.__exit__(type(error), error, None)
            raise
        holder = change._within or change  # within the same session it is taken over, for this one ends first
        self.line, self._turn, holder._turn = change._line, holder._turn, None
        self._database.own.alone = ref(self)
        return self

    def end(self, *, fit: bool, keep: bool = False) -> None:
        """Let the others go on. `keep`: it was committed; else what is open is undone."""
        database = self._database
        database.own.alone = None
        try:
            if keep:
                database.keep(self.line)
            else:
                database.give_back(self.line, fit=fit)
        finally:
            self._turn = None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._database.own.held() is self:
            self.end(fit=True)
