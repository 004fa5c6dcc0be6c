"""Real databases: a file of SQLite, a namespace in PostgreSQL, opened as often as a test likes."""

from __future__ import annotations

from uuid import uuid4

import pytest

from bamboo_sessions import LockedSessionStore, SessionCache, SessionRepository
from bamboo_sessions.storages.sql import SqlStorage
from tests import servers


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """Of an empty namespace in a database that has the tables."""
    if request.param == "sqlite":
        return servers.sqlite(tmp_path / "sessions.db")
    return f"{servers.database()}{'&' if '?' in servers.database() else '?'}namespace={uuid4().hex}"


@pytest.fixture
def empty_url(request, url, tmp_path):
    """Of a database without tables, of the same kind."""
    return f"sqlite:///{tmp_path}/empty.db" if url.startswith("sqlite") else servers.new_database()


@pytest.fixture
def opened(url):
    """`opened(**options)`: a storage at the URL, closed after the test."""
    storages = []

    def one(where=url, **options):
        storages.append(SqlStorage(where, **{"durability": "process", **options}))
        return storages[-1]

    yield one
    for storage in storages:
        storage.close()


@pytest.fixture
def storage(opened):
    return opened()


@pytest.fixture
def bundle():
    """A repository with a cache of its own."""
    return lambda storage: SessionRepository(SessionCache(), storage, LockedSessionStore(storage))
