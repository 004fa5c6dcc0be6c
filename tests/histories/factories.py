"""What a history can be made on: how to open a repository on a place, whether processes can share it, how to break it.

A storage of another kind joins in with a class of its own here: `open` gives a repository over `Breakable(storage)`,
and everything else (traffic, kills, judgement) is the same. A fault is planned by the thread that is about to do
something, and befalls that thread only, so that the record of an operation can say what was done to it.
"""

from __future__ import annotations

import errno
import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from bamboo_sessions import (
    JsonFileStorage,
    LayeredStorage,
    LockedSessionStore,
    MemoryStorage,
    SaveResult,
    Session,
    SessionCache,
    SessionRepository,
    SqlStorage,
    Storage,
    StorageError,
    StorageUnavailable,
)
from bamboo_sessions._files import Files
from tests import servers

WAYS = ("refused", "lost", "late", "unreadable")
"""How any storage can be broken: the next commit is refused; it is not stored and nobody knows; it is stored and nobody
knows; nothing can be read."""


class Faults:
    """What each thread has planned for its own next steps."""

    def __init__(self) -> None:
        self._mine = threading.local()

    @contextmanager
    def planned(self, way: str | None) -> Iterator[None]:
        self._mine.way, self._mine.met, self._mine.surprise = way, False, ""
        try:
            yield
        finally:
            self._mine.way = None

    def is_planned(self, *ways: str | None) -> bool:
        return getattr(self._mine, "way", None) in ways

    @contextmanager
    def noted(self) -> Iterator[None]:
        """What fails in here and nobody planned is noted: a load that logs it and shows what is cached tells nobody else."""
        try:
            yield
        except StorageError as error:
            if self.is_planned(None):
                self._mine.surprise = f"{type(error).__name__}: {error}"
            raise

    def surprise(self) -> str:
        """What failed since the last fault was planned, if anything did."""
        return self._mine.surprise

    def was_met(self) -> bool:
        """Whether this was asked before since the fault was planned."""
        before, self._mine.met = self._mine.met, True
        return before


class Breakable:
    """A record storage that fails when its caller planned it; its optional powers shine through."""

    def __init__(self, inner: Any, faults: Faults) -> None:
        self._inner, self._faults = inner, faults

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":
            raise AttributeError(name)
        return getattr(self._inner, name)

    def read(self, session_id: str, known: Any = None) -> Any:
        self._refuse_to_read(session_id)
        with self._faults.noted():
            return self._inner.read(session_id, known)

    def commit(self, commit: Any) -> Any:
        if self._faults.is_planned("refused"):
            raise StorageUnavailable("commit", session_id=commit.session_id, reason="refused on purpose")
        stamp = None if self._faults.is_planned("lost") else self._inner.commit(commit)
        if self._faults.is_planned("lost", "late"):
            raise StorageUnavailable("commit", session_id=commit.session_id, outcome="unknown", reason="on purpose")
        return stamp

    def _refuse_to_read(self, session_id: str) -> None:
        if self._faults.is_planned("unreadable"):
            raise StorageUnavailable("read", session_id=session_id, reason="unreadable on purpose")


class BreakableWithPowers(Breakable):
    """The same over a storage that reads more cheaply under its lock, or can tell by a stamp."""

    def read_held(self, session_id: str, known: Any = None) -> Any:
        self._refuse_to_read(session_id)
        return self._inner.read_held(session_id, known)

    def is_current(self, stamp: Any) -> bool:
        return not self._faults.is_planned("unreadable") and self._inner.is_current(stamp)


class Noting(SessionRepository):
    """`save_and_cache` tells nobody what became of the save in it; this one notes it for the thread that asked."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._noted = threading.local()

    def save(self, session: Session) -> SaveResult:
        self._noted.result = None
        self._noted.result = super().save(session)
        return self._noted.result

    def noted(self) -> SaveResult | None:
        """What this thread's last save gave; None: it failed."""
        return self._noted.result


class Factory:
    """How to come by repositories that share one place."""

    name: ClassVar[str]
    spans_processes: ClassVar[bool] = False
    ways: ClassVar[tuple[str, ...]] = WAYS
    ttl: ClassVar[timedelta | None] = None

    @classmethod
    def make_ready(cls, place: Path) -> None:
        """Called once for a place, before the processes that work there are forked."""

    def __init__(self, place: Path) -> None:
        self.place, self.faults = place, Faults()

    def open(self, cached: int = 10_000) -> Noting:
        raise NotImplementedError

    def bundle(self, storage: Any, cached: int) -> Noting:
        return Noting(SessionCache(cached), storage, LockedSessionStore(storage))


class TornFiles(Files):
    """A disk that runs full in the middle of what is written, where the thread planned it."""

    faults: Faults

    def write_at(self, fd: int, data: bytes, offset: int) -> int:
        return super().write_at(fd, self._as_fits(data), offset)

    def append(self, fd: int, data: bytes) -> int:
        return super().append(fd, self._as_fits(data))

    def _as_fits(self, data: bytes) -> bytes:
        """The first write comes out short and without an error; the next one tells why, as a full disk does."""
        if not self.faults.is_planned("full"):
            return data
        if len(data) < 2 or self.faults.was_met():
            raise OSError(errno.ENOSPC, "on purpose")
        return data[: len(data) // 2]


class JsonFiles(Factory):
    """A folder, as many processes as one likes."""

    name = "json"
    spans_processes = True
    ways = (*WAYS, "full")
    portable = False

    def open(self, cached: int = 10_000) -> Noting:
        files = TornFiles()
        files.faults = self.faults
        storage = JsonFileStorage(self.place / "store", durability="process", files=files, portable_locks=self.portable,
                                  ttl=self.ttl)
        return self.bundle(BreakableWithPowers(storage, self.faults), cached)


class PortableJsonFiles(JsonFiles):
    """The same with one lock file a session held."""

    name = "json-portable"
    portable = True


class ExpiringJsonFiles(JsonFiles):
    """A folder whose sessions expire about as soon as the talk goes on to others, and that anybody may purge."""

    name = "json-expiring"
    ttl = timedelta(milliseconds=100)


class Memory(Factory):
    """One storage object; repositories of one process share it."""

    name = "memory"

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._storage = MemoryStorage()

    def open(self, cached: int = 10_000) -> Noting:
        return self.bundle(Breakable(self._storage, self.faults), cached)


class JsonTexts(Storage):
    """Somebody's own storage with three methods: a text a session."""

    def __init__(self, faults: Faults) -> None:
        self._texts: dict[str, str] = {}
        self._faults = faults

    def load_session(self, session_id: str) -> Session | None:
        if self._faults.is_planned("unreadable"):
            raise ConnectionError("unreadable on purpose")
        text = self._texts.get(session_id)
        return None if text is None else Session.from_dict(json.loads(text))

    def save_session(self, session: Session) -> None:
        if self._faults.is_planned("refused"):
            raise StorageUnavailable("save", session_id=session.id, reason="refused on purpose")
        if not self._faults.is_planned("lost"):
            self._texts[session.id] = json.dumps(session.to_dict())
        if self._faults.is_planned("lost", "late"):
            raise ConnectionError("no answer, on purpose")

    def delete_session(self, session_id: str) -> bool:
        return self._texts.pop(session_id, None) is not None


class ThreeMethods(Factory):
    """All repositories share the one object: its adapter's lock is what makes their threads take turns."""

    name = "three-methods"

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._storage = JsonTexts(self.faults)

    def open(self, cached: int = 10_000) -> Noting:
        return self.bundle(self._storage, cached)


class Moody:
    """A layer above: any call of it may fail, before or after it was done, whatever its caller planned."""

    often = 0.04

    def __init__(self, inner: Any, dice: random.Random) -> None:
        self._inner, self._dice = inner, dice

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":
            raise AttributeError(name)
        found = getattr(self._inner, name)
        return partial(self._call, name, found) if name in ("read", "commit", "delete_record", "lock") else found

    def _call(self, name: str, call: Any, *args: Any) -> Any:
        lot = self._dice.random()
        if lot < self.often:
            raise StorageUnavailable(name, reason="in a mood")
        made = call(*args)
        if lot > 1 - self.often:
            raise StorageUnavailable(name, outcome="unknown", reason="in a mood")
        return made


class Layered(Factory):
    """Memory over a folder of copies that outlives its processes over what holds the truth. Every other repository writes
    there without knowing of any layers, as another program would."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._dice, self._opened = random.Random(place.name), 0

    def open(self, cached: int = 10_000) -> Noting:
        self._opened += 1
        below = super().open(cached)
        if self._opened % 2 == 0:
            return below
        copies = JsonFileStorage(self.place / "copies", durability="process")
        above = [Moody(MemoryStorage(), self._dice), Moody(copies, self._dice)]
        return self.bundle(LayeredStorage([*above, below.storage], remembered=20), cached)


class Layers(Layered, JsonFiles):
    """Over a folder."""

    name = "layers"


class Sqlite(Factory):
    """A file of SQLite, as many processes as one likes."""

    name = "sqlite"
    spans_processes = True

    @classmethod
    def make_ready(cls, place: Path) -> None:
        (place / "url").write_text(f"sqlite:///{place}/sessions.db")

    def open(self, cached: int = 10_000) -> Noting:
        storage = SqlStorage(self._url(), namespace=self.place.name, durability="process")
        return self.bundle(Breakable(storage, self.faults), cached)

    def _url(self) -> str:
        if not (self.place / "url").exists():
            self.make_ready(self.place)  # nothing is forked then
        return (self.place / "url").read_text()


class LayersOverSqlite(Layered, Sqlite):
    """Over a file of SQLite, where saves are tried without a look and slow ones make room."""

    name = "layers-sqlite"


class Postgres(Sqlite):
    """A real server; what is at a place is in a namespace of its own."""

    name = "postgres"

    @classmethod
    def make_ready(cls, place: Path) -> None:
        (place / "url").write_text(servers.database())


class PostgresFaults(Postgres):
    """The same through a proxy, whose connections break, hang and come too late."""

    name = "postgres-faults"
    ways = (*WAYS, "reset", "lose reply", "torn reply", "refuse", "black hole", "slow")
    _lines: tuple[Any, Any] | None = None

    def open(self, cached: int = 10_000) -> Noting:
        from tests.histories.wires import BadLine, Wired  # noqa: PLC0415 - it stands on this module
        from tests.sql.proxy import FaultProxy  # noqa: PLC0415 - an extra

        if self._lines is None:  # in the process that works here: a proxy has threads
            self._lines = FaultProxy(self._url()), BadLine(self._url(), self.place.name)
        proxy, bad = self._lines
        storage = SqlStorage(proxy.url, namespace=self.place.name, durability="process")
        return self.bundle(Wired(storage, self.faults, bad), cached)


FACTORIES: dict[str, type[Factory]] = {kind.name: kind for kind in (
    JsonFiles, PortableJsonFiles, ExpiringJsonFiles, Memory, ThreeMethods, Layers, Sqlite, LayersOverSqlite, Postgres, PostgresFaults)}
