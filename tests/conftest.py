"""Fixtures for everybody: a clock moved by hand, each kind of storage under its name, and a repository over it."""

from __future__ import annotations

import os
from unittest.mock import patch

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


@pytest.fixture
def damage_on_purpose():
    """Ask for this where a test damages files, or stores bytes that no session has: its stores are not checked."""


@pytest.fixture(autouse=True)
def stores_stay_whole(request):
    """Whatever a test did to its stores of JSON files, a check finds no damage in them afterwards."""
    roots, opened = {}, JsonFileStorage._open

    def noting(storage):
        roots[storage.root] = None
        opened(storage)

    with patch.object(JsonFileStorage, "_open", noting):
        yield
    if "damage_on_purpose" not in request.fixturenames:
        for root in roots:
            if os.path.isfile(os.path.join(root, "store.json")):
                assert_whole(root)


def assert_whole(root):
    storage = JsonFileStorage(root)
    try:
        damage = [str(found) for found in storage.check() if found.severity == "damage"]
    finally:
        storage.close()
    assert not damage, "\n".join(damage)


@pytest.fixture(params=KINDS)
def storage(request, clock):
    """Each kind of storage in turn, empty."""
    if request.param == "json_files":
        return request.getfixturevalue("json_storage")
    return MemoryStorage(clock=clock) if request.param == "memory" else WholeSessions()


@pytest.fixture
def repo(storage, clock):
    return bundle(storage, clock)
