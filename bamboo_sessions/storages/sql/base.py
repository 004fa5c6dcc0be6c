"""What every question to the tables stands on: whose sessions, which connections, and what a lost one costs.

A question that changes nothing is asked again on a fresh connection. Nothing else is repeated here: what a broken
connection has done to a change is for whoever made the change to find out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Engine

from bamboo_sessions.clock import Clock
from bamboo_sessions.errors import InvalidValue, StorageUnavailable
from bamboo_sessions.ids import new_birth
from bamboo_sessions.storages.records import RecordBacked
from bamboo_sessions.storages.sql.database import Database, acquire, release
from bamboo_sessions.storages.sql.failures import ConnectionLost
from bamboo_sessions.storages.sql.settings import Durability
from bamboo_sessions.storages.sql.statements import Cursor
from bamboo_sessions.storages.sql.upgrading import prepare
from bamboo_sessions.storages.sql.urls import read_url

_NAMESPACE: Final = 128
_TICK: Final = timedelta(microseconds=1)
_FIRST: Final = -(2**62)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
Result = TypeVar("Result")


class Tables(RecordBacked):
    """One namespace of one database, opened."""

    def __init__(self, url_or_engine: str | URL | Engine, namespace: str, create: bool | None, durability: Durability,
                 clock: Clock, pool_size: int) -> None:
        where, self.namespace = _whose(url_or_engine, namespace)
        self.clock = clock
        self._database: Database | None = acquire(where, pool_size, durability)
        try:
            prepare(self._database, create=self._database.settings.makes_tables if create is None else create)
            self.name = self._database.settings.name
            self._store_id = self._named()
        except BaseException:
            self.close()
            raise

    @property
    def store_id(self) -> str:
        """A random name, given to each namespace of a database when it was first opened."""
        return self._store_id

    def _named(self) -> str:
        ask, key = self._open.statements, {"k_namespace": self.namespace}
        with self._open.cursor("open") as cursor:
            row = ask.store_id.row(cursor, key)
            if row is None:
                ask.name_store.run(cursor, {**key, "v_store_id": new_birth()})
                row = ask.store_id.row(cursor, key)  # somebody else may have been first
        return str(row[0])

    @property
    def _open(self) -> Database:
        if self._database is None:
            raise StorageUnavailable("use the storage", reason="it was closed")
        return self._database

    def close(self) -> None:
        """Let go of the connections; the last storage of this process with the same URL closes them."""
        database, self._database = self._database, None
        if database is not None:
            release(database)

    def _key(self, session_id: str) -> dict[str, Any]:
        return {"k_namespace": self.namespace, "k_id": session_id}

    def _asked(self, action: str, session_id: str | None, ask: Callable[[Cursor], Result]) -> Result:
        """What a question that changes nothing gives; asked once more where the connection broke."""
        try:
            with self._open.cursor(action, session_id) as cursor:
                return ask(cursor)
        except ConnectionLost:
            self._open.start_anew()
            with self._open.cursor(action, session_id) as cursor:
                return ask(cursor)

    @contextmanager
    def _changing(self, action: str, session_id: str) -> Iterator[Cursor]:
        """A transaction; where the connection breaks, nobody knows what became of it."""
        try:
            with self._open.writing(action, session_id) as cursor:
                yield cursor
        except ConnectionLost as error:
            raise StorageUnavailable(action, session_id=session_id, path=self._open.where, outcome="unknown",
                                     reason=error.reason) from error

    def _now(self, ago: timedelta = timedelta(0)) -> int:
        """As a column keeps a moment; one before all calendars where `ago` is as good as for ever."""
        return max((self.clock.now() - _EPOCH) // _TICK - ago // _TICK, _FIRST)


def _whose(where: str | URL | Engine, namespace: str) -> tuple[str | URL | Engine, str]:
    """(the place, the namespace): one of the two ways to give it."""
    if not isinstance(where, Engine):
        url = read_url(where)
        in_url = url.query.get("namespace")
        where = url.difference_update_query(["namespace"])
        if in_url is not None and namespace:
            raise InvalidValue("namespace", "given in the URL and beside it")
        if not isinstance(in_url, str | None):
            raise InvalidValue("namespace", "given twice in the URL")
        namespace = namespace or in_url or ""
    if len(namespace.encode("utf-8", "surrogatepass")) > _NAMESPACE or "\0" in namespace or not _is_text(namespace):
        raise InvalidValue("namespace", f"at most {_NAMESPACE} bytes of UTF-8 without NUL, not {ascii(namespace)[:40]}")
    return where, namespace


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
