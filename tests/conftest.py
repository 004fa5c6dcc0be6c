"""Fixtures for everybody: a clock moved by hand, each kind of storage under its name, and a repository over it."""

from __future__ import annotations

import pytest

from bamboo_sessions import JsonFileStorage, MemoryStorage
from tests.support import ManualClock, WholeSessions, bundle

KINDS = ("memory", "json_files", "three_methods")


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def json_storage(tmp_path, clock):
    """A store of JSON files. Whatever the test did, another storage must be able to read all of it afterwards."""
    storage = JsonFileStorage(tmp_path / "store", clock=clock)
    yield storage
    storage.close()
    read_everything(tmp_path / "store")


def read_everything(root):
    """Every head leads to a session with as many messages as it says; a damaged one would raise."""
    storage = JsonFileStorage(root)
    for head, count in storage.heads():
        session = storage.load_session(head["id"])
        assert (session.id, session.revision, len(session.messages)) == (head["id"], head["revision"], count)
    storage.close()


@pytest.fixture(params=KINDS)
def storage(request, clock):
    """Each kind of storage in turn, empty."""
    if request.param == "json_files":
        return request.getfixturevalue("json_storage")
    return MemoryStorage(clock=clock) if request.param == "memory" else WholeSessions()


@pytest.fixture
def repo(storage, clock):
    return bundle(storage, clock)
