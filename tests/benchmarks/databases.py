"""Rows about databases: a turn against the statements that it sends, sent again by the bare driver.

Three stores that hold the same: one that is measured; one whose statements are noted, with their values; and one on which
the driver alone repeats them on a cursor at hand, with nothing to make up, encode or decide. So the baseline has the
statements, the round trips and the flushes of a save, whatever those are at present, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bamboo_sessions import LockedSessionStore, Message, Session, SessionCache, SessionRepository
from tests.benchmarks.rows import NotHere, row
from tests.benchmarks.subjects import Chats, Lab
from tests.benchmarks.timing import Figure, Once, Rounds, interleave, single

Sent = tuple[str, str, Any]
"""(method of the cursor, text, values)."""


class Noting:
    """A cursor that notes what it is asked."""

    def __init__(self, inner: Any, notes: list[Sent]) -> None:
        self._inner, self._notes = inner, notes

    def execute(self, text: str, *values: Any) -> Any:
        self._notes.append(("execute", text, values))
        return self._inner.execute(text, *values)

    def executemany(self, text: str, rows: Any) -> Any:
        rows = list(rows)
        self._notes.append(("executemany", text, (rows,)))
        return self._inner.executemany(text, rows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Turns:
    """A session of n messages in a store of its own, one message longer at every turn."""

    def __init__(self, url: str, n: int, chats: Chats) -> None:
        from bamboo_sessions import SqlStorage  # noqa: PLC0415 - an extra

        self.storage, self.chats = SqlStorage(url, create=True), chats
        self.repo = SessionRepository(SessionCache(), self.storage, LockedSessionStore(self.storage))
        self._session: Session = chats.session("chat", n)

    def begin(self) -> None:
        self.repo.save(self._session)
        loaded = self.repo.load("chat")
        assert loaded is not None
        self._session = loaded
        for _ in range(3):  # from here on a turn is like any other: it is known that nobody else is about
            self.take(self.chats.message())

    def take(self, message: Message) -> None:
        self._session.add_message(message)
        self.repo.save(self._session)


class Noted(Turns):
    """What its turns send."""

    def __init__(self, url: str, n: int, chats: Chats) -> None:
        super().__init__(url, n, chats)
        self.sent: list[Sent] = []
        line = self.storage._database._line

        def noting() -> Any:
            taken = line()
            cursor = taken.cursor if isinstance(taken.cursor, Noting) else Noting(taken.cursor, self.sent)
            return type(taken)(taken.connection, cursor)

        self.storage._database._line = noting  # type: ignore[method-assign, union-attr]

    def noted(self, do: Callable[[], object]) -> list[Sent]:
        self.sent.clear()
        do()
        return self.sent[:]


class Bare:
    """The driver, with a connection as the library sets it up, and one cursor."""

    def __init__(self, url: str) -> None:
        from bamboo_sessions import SqlStorage  # noqa: PLC0415 - an extra

        self.storage = SqlStorage(url, create=True)
        with self.storage._open.cursor("set up") as cursor:
            self._cursor: Any = cursor
        self._kept = self.storage._open._line()  # nobody else's from now on

    def repeat(self, sent: list[Sent]) -> None:
        cursor = self._cursor
        for method, text, values in sent:
            getattr(cursor, method)(text, *values)
            if text.startswith("SELECT"):
                cursor.fetchone()


def _turns(urls: tuple[str, str, str], n: int, rounds: int) -> Rounds:
    """Alternating: a turn; the statements of another such turn."""
    ours, noted, bare = Turns(urls[0], n, Chats()), Noted(urls[1], n, Chats()), Bare(urls[2])
    try:
        ours.begin()
        bare.repeat(noted.noted(noted.begin))

        def statements() -> list[Sent]:
            message = noted.chats.message()
            return noted.noted(lambda: noted.take(message))

        cases: dict[str, Once] = {"save": single(ours.take, ours.chats.message), "bare": single(bare.repeat, statements)}
        return interleave(cases, rounds, passes=20)
    finally:
        for one in (ours, noted, bare):
            one.storage.close()


def _sqlite(lab: Lab, n: int) -> Rounds:
    urls = [f"sqlite:///{lab.new_path()}.db" for _ in range(3)]
    return _turns((urls[0], urls[1], urls[2]), n, lab.rounds(15))


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """A PostgreSQL that flushes."""
    import pytest  # noqa: PLC0415 - what is not here skips

    from tests.clusters import Server, binaries  # noqa: PLC0415 - it needs pytest

    try:
        binaries()
    except pytest.skip.Exception as error:
        raise NotHere(str(error)) from error
    server = Server(folder)
    try:
        server.make(fsync=True)
        server.start()
        yield server.url
    finally:
        server.kill()


def _postgres(lab: Lab, n: int) -> Rounds:
    with _server(lab.new_path()) as url:
        import psycopg  # noqa: PLC0415 - an extra

        urls = []
        with psycopg.connect(url, autocommit=True) as connection:
            for name in ("ours", "noted", "bare"):
                connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
                urls.append(url.removesuffix("postgres") + name)
        return _turns((urls[0], urls[1], urls[2]), n, lab.rounds(11))


_BARE = "the same statements, the bare driver"


@row("append-save in SQLite", _BARE, 1.5)
def append_save_in_sqlite(lab: Lab, n: int) -> Figure:
    """Write-ahead, synchronous=FULL; the look for words to be found included."""
    return _sqlite(lab, n).ratio("save", "bare")


@row("append-save in PostgreSQL", _BARE, 1.5)
def append_save_in_postgres(lab: Lab, n: int) -> Figure:
    """A server on the same machine that flushes."""
    return _postgres(lab, n).ratio("save", "bare")
