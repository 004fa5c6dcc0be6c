"""From a path or a URL to a storage."""

from __future__ import annotations

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


@pytest.mark.parametrize("url", ["sqlite:///x.db", "postgresql://h/db", "redis://h", "s3://bucket", "FTP://x"])
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
