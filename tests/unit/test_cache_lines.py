"""Turns as JSON Lines: what is written, what a dead writer leaves, and what is refused."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from bamboo_sessions._files import Files
from bamboo_sessions.cache import SessionCache
from bamboo_sessions.cache_lines import JsonLinesPersistence
from bamboo_sessions.errors import CorruptSession, InvalidSessionId, InvalidValue, StorageUnavailable

TURNS = [{"role": "user", "content": "Zoë"}, ["a", 1, None], "text", 2**80, "\ud800"]


class Noted(Files):
    """Counts what is written and synced; fails the call that is named in `fails`, once."""

    def __init__(self):
        self.written, self.synced, self.fails = [], 0, None

    def _maybe(self, name):
        if self.fails == name:
            self.fails = None
            raise OSError(errno.EIO, "on purpose")

    def write_at(self, fd, data, offset):
        if self.fails == "write":
            super().write_at(fd, data[:5], offset)
        self._maybe("write")
        self.written.append(bytes(data))
        return super().write_at(fd, data, offset)

    def sync(self, fd):
        self._maybe("sync")
        self.synced += 1
        super().sync(fd)


@pytest.fixture
def files():
    return Noted()


@pytest.fixture
def hook(tmp_path, files):
    return JsonLinesPersistence(tmp_path / "turns", files=files)


def lines(hook, key="chat", context="ctx"):
    return Path(hook.path(key, context)).read_text().splitlines()


def test_turns_come_back_as_they_were(hook, tmp_path):
    """A line a turn; another object, in another process say, reads the same."""
    hook.save("chat", "ctx", TURNS)
    assert [json.loads(line) for line in lines(hook)] == TURNS
    assert JsonLinesPersistence(tmp_path / "turns").load("chat", "ctx") == TURNS
    assert hook.load("other", "ctx") is None
    assert hook.load("chat", "another context") is None


def test_only_what_is_new_is_written(hook, files):
    """The third turn's line and nothing else, with one sync; nothing new is synced all the same."""
    hook.save("chat", "ctx", TURNS[:2])
    files.written.clear()
    files.synced = 0
    hook.save("chat", "ctx", TURNS[:3])
    assert (files.written, files.synced) == ([b'"text"\n'], 1)
    hook.save("chat", "ctx", TURNS[:3])
    assert (len(files.written), files.synced) == (1, 2)


def test_a_value_that_was_edited_replaces_the_file(hook):
    """Where the file is as this object left it, whoever edits has seen all of it."""
    hook.save("chat", "ctx", [1, 2, 3])
    hook.save("chat", "ctx", [1, "two"])
    assert hook.load("chat", "ctx") == [1, "two"]
    hook.save("chat", "ctx", [])
    assert hook.load("chat", "ctx") == []


def test_what_somebody_else_added_is_not_written_over(hook, tmp_path):
    """The older value is refused; loaded again, the newer one can be gone on from."""
    hook.save("chat", "ctx", [1])
    other = JsonLinesPersistence(tmp_path / "turns")
    other.save("chat", "ctx", [1, "theirs"])
    with pytest.raises(StorageUnavailable, match="somebody else"):
        hook.save("chat", "ctx", [1, "mine"])
    with pytest.raises(StorageUnavailable, match="somebody else"):
        JsonLinesPersistence(tmp_path / "turns").save("chat", "ctx", [])
    hook.save("chat", "ctx", [*hook.load("chat", "ctx"), "mine"])
    assert other.load("chat", "ctx") == [1, "theirs", "mine"]


@pytest.mark.parametrize("torn", [b'{"half', b"7", b'{"half\n', b"\0\0\0\n\0", b"\xff\n"])
def test_a_torn_end_is_not_loaded_and_is_kept_aside(hook, torn):
    """A reader leaves it (its writer may live); the next save moves it away and goes on from the whole lines."""
    hook.save("chat", "ctx", [1, 2])
    path = Path(hook.path("chat", "ctx"))
    path.write_bytes(path.read_bytes() + torn)
    assert hook.load("chat", "ctx") == [1, 2]
    assert not os.path.exists(f"{path}.torn")
    hook.save("chat", "ctx", [1, 2, 3])
    assert path.read_bytes() == b"1\n2\n3\n"
    assert Path(f"{path}.torn").read_bytes() == torn + b"\n"


def test_damage_before_whole_lines_is_told_and_left_alone(hook):
    """Where, and why; neither a load nor a save makes it worse."""
    hook.save("chat", "ctx", [1, 2, 3])
    path = Path(hook.path("chat", "ctx"))
    path.write_bytes(b"1\n{2\n3\n")
    for use in (lambda: hook.load("chat", "ctx"), lambda: hook.save("chat", "ctx", [1, 2, 3, 4])):
        with pytest.raises(CorruptSession) as raised:
            use()
        assert (raised.value.session_id, raised.value.path, raised.value.offset) == ("chat", str(path), 2)
    assert path.read_bytes() == b"1\n{2\n3\n"


@pytest.mark.parametrize("call", ["write", "sync"])
def test_a_save_that_failed_is_repeated_without_a_turn_twice(hook, files, call):
    """The outcome is unknown; the file is written anew, since a failed sync tells nothing when it is called again."""
    hook.save("chat", "ctx", [1])
    files.fails = call
    with pytest.raises(StorageUnavailable) as raised:
        hook.save("chat", "ctx", [1, "second turn"])
    assert raised.value.outcome == "unknown"
    files.written.clear()
    hook.save("chat", "ctx", [1, "second turn"])
    assert hook.load("chat", "ctx") == [1, "second turn"]
    assert b'1\n"second turn"\n' in files.written


@pytest.mark.parametrize("name", ["../../etc", "..", ".", "a/b", "con", "UPPER", "upper", "ö", "=", "=locks", "locks", "x" * 512])
def test_names_stay_below_the_root_and_apart(hook, name, tmp_path):
    """Whatever a session or a context is called; the empty context is one of its own."""
    for key, context, turn in ((name, "ctx", 1), ("chat", name, 2), (name, name, 3), (name, "", 4), ("chat", "", 5)):
        hook.save(key, context, [turn])
    assert [hook.load(*names) for names in ((name, "ctx"), ("chat", name), (name, name), (name, ""), ("chat", ""))] == [
        [1], [2], [3], [4], [5]]
    assert {path.name for path in tmp_path.iterdir()} == {"turns"}
    files = [path for path in (tmp_path / "turns").rglob("*") if path.is_file() and path.name != "=locks"]
    assert {path.parent.parent for path in files} == {tmp_path / "turns"}
    assert len(files) == 5


def test_what_is_no_name_or_no_turn_is_refused(hook):
    """Before anything is written."""
    for key, context in (("", "ctx"), ("a\0b", "ctx"), ("a", "\ud800")):
        with pytest.raises(InvalidSessionId):
            hook.save(key, context, [])
    for turns in ([float("nan")], [{1, 2}], [object()], "text", {"a": 1}, 5):
        with pytest.raises(InvalidValue):
            hook.save("chat", "ctx", turns)
    assert not os.path.exists(hook.root)


def test_delete_leaves_nothing(hook):
    """Not what was set aside either; what is not there is deleted too."""
    hook.save("chat", "ctx", [1])
    path = Path(hook.path("chat", "ctx"))
    path.write_bytes(b"1\ntorn")
    hook.save("chat", "ctx", [1])
    assert sorted(os.listdir(path.parent)) == ["chat.jsonl", "chat.jsonl.torn"]
    hook.delete("chat", "ctx")
    hook.delete("chat", "ctx")
    hook.delete("chat", "never seen")
    assert os.listdir(path.parent) == []
    assert hook.load("chat", "ctx") is None


def test_files_are_their_owners(hook):
    """0600 in folders of 0700."""
    hook.save("chat", "ctx", [1])
    path = Path(hook.path("chat", "ctx"))
    assert [oct(place.stat().st_mode & 0o777) for place in (path, path.parent, Path(hook.root))] == ["0o600", "0o700", "0o700"]


def test_process_durability_syncs_nothing(tmp_path, files):
    """And another word is refused."""
    JsonLinesPersistence(tmp_path / "a", durability="process", files=files).save("chat", "", [1])
    assert JsonLinesPersistence(tmp_path / "a").load("chat", "") == [1]
    with pytest.raises(ValueError, match="durability"):
        JsonLinesPersistence(tmp_path, durability="some")


def test_a_conversation_survives_eviction_and_restart(tmp_path):
    """The cache alone, as the how-to has it: turns are appended, evicted, loaded again, by another cache as well."""
    def cache():
        return SessionCache(2, hook=JsonLinesPersistence(tmp_path))

    with cache() as first:
        for number in range(5):
            key = f"chat-{number}"
            first.insert(key, [], "ctx")
            with first.with_mut(key) as turns:
                turns.append(number)
        turns = first.get_or_load("chat-0", "ctx")
        assert turns == [0]
        first.update("chat-0", lambda turns: [*turns, "more"])
    with cache() as second:
        assert [second.get_or_load(f"chat-{number}", "ctx") for number in range(5)] == [[0, "more"], [1], [2], [3], [4]]
