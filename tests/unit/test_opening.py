"""From a path or a URL to a storage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bamboo_sessions import InvalidValue, JsonFileStorage, MemoryStorage, SessionRepository
from bamboo_sessions.storages.opening import open_storage
from tests.support import ManualClock


@pytest.mark.parametrize("how", [
    lambda path: path, str, lambda path: f"{path}/", lambda path: f"file://{path}", lambda path: f"file://localhost{path}",
], ids=["path", "text", "slash", "url", "localhost"])
def test_paths_and_file_urls(tmp_path, how):
    """All of these are JSON files in that folder, which is made."""
    path = tmp_path / "deep" / "sessions"
    path.parent.mkdir()
    storage = open_storage(how(path), clock=ManualClock())
    assert isinstance(storage, JsonFileStorage)
    assert Path(storage.root) == path
    storage.close()


def test_escapes_in_a_url(tmp_path):
    """%20 is a space in a URL and three characters in a path."""
    for where, name in ((f"file://{tmp_path}/a%20b", "a b"), (f"{tmp_path}/c%20d", "c%20d")):
        open_storage(where, clock=ManualClock()).close()
        assert (tmp_path / name).is_dir()


def test_memory():
    """Each one is a store of its own."""
    clock = ManualClock()
    one, two = (open_storage("memory://", clock=clock) for _ in range(2))
    assert isinstance(one, MemoryStorage)
    assert one.store_id != two.store_id
    assert one.clock is clock


@pytest.mark.parametrize("url", ["redis://h", "s3://bucket", "FTP://x", "mysql://h/db"])
def test_schemes_that_are_not_there_yet(url, tmp_path, monkeypatch):
    """InvalidValue names the scheme and what there is; no folder of that name is made."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidValue, match=url.split(":", maxsplit=1)[0].lower()):
        SessionRepository.open(url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["file://host/path", "file:///path?x=1", "file:///path#x"])
def test_file_urls_that_say_more_than_a_path(url):
    """InvalidValue: another host's files are not here."""
    with pytest.raises(InvalidValue):
        open_storage(url, clock=ManualClock())


def test_databases(tmp_path, monkeypatch):
    """A scheme with or without a driver; a relative path is relative; options go to the storage, the namespace may be in the URL."""
    monkeypatch.chdir(tmp_path)
    clock = ManualClock()
    one = open_storage("sqlite:///x.db?namespace=ann", clock=clock, durability="process")
    two = open_storage(f"sqlite+pysqlite:///{tmp_path}/x.db", clock=clock, namespace="ann", durability="process")
    assert (type(one).__name__, one.name, one.namespace) == ("SqlStorage", "sqlite", "ann")
    assert one.clock is clock
    assert one.store_id == two.store_id
    assert (tmp_path / "x.db").is_file()
    one.close()
    two.close()


@pytest.mark.parametrize(("hidden", "url", "command"), [
    ("sqlalchemy", "sqlite:///x.db", "bamboo-sessions[sql]"),
    ("alembic", "sqlite:///x.db", "bamboo-sessions[sql]"),
    ("psycopg", "postgresql://h/db", "bamboo-sessions[postgres]"),
])
def test_a_missing_extra_is_named(hidden, url, command):
    """ImportError with the command that installs it; and a star import works all the same."""
    program = f"""
import sys
sys.modules[{hidden!r}] = None
from bamboo_sessions import *
for use in (SessionRepository.open, SqlStorage):
    try:
        use({url!r})
    except ImportError as error:
        assert {command!r} in str(error) and "pip install" in str(error), str(error)
    else:
        raise AssertionError("it went on without")
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
