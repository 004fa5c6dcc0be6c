"""Searches of files: the index beside them follows what is there, can be thrown away, and is nobody's data."""

from __future__ import annotations

import multiprocessing
import os
import random
import sqlite3
import threading
from pathlib import Path

import pytest

from bamboo_sessions import JsonFileStorage, Message, Session, SessionRepository, StorageUnavailable
from bamboo_sessions.storages.json_files import words_file
from bamboo_sessions.testing.search import walked
from tests.search_model import Asked, Chats


@pytest.fixture
def repo(tmp_path):
    with SessionRepository.open(tmp_path / "store", durability="process") as made:
        yield made


def said(session_id, *texts):
    session = Session.new(session_id)
    for text in texts:
        session.add_message(Message.user(text))
    return session


def index_of(repo):
    return Path(repo.storage.root) / "index" / "search.sqlite"


def places(repo, asked, **options):
    return [(one.session.id, one.index) for one in walked(repo, asked, 50, **options)]


def read_by(repo, asked):
    """Which sessions a search reads for the index."""
    read, real = [], repo.storage._for_the_index
    repo.storage._for_the_index = lambda name: read.append(name) or real(name)
    repo.search(asked)
    repo.storage._for_the_index = real
    return read


@pytest.mark.parametrize("seed", range(3))
def test_files_are_searched_as_a_naive_look_finds(repo, seed):
    """The same places in the same order, page by page, whatever was said, edited and removed before."""
    dice, found = random.Random(seed), 0
    chats = Chats(repo, dice)
    for _ in range(4):
        for _ in range(12):
            chats.step()
        for _ in range(15):
            asked = Asked(dice)
            tag = dice.choice([None, None, None, "wörk"])
            fields = {} if tag is None else {"tags": [tag]}
            hits = walked(repo, asked.text, dice.choice([1, 2, 50]), prefix=asked.prefix, **fields)
            assert [(one.session.id, one.index) for one in hits] == chats.expected(asked, tag), f"asked for {asked.text!r}"
            found += len(hits)
    assert found > 20


def test_only_what_was_changed_is_read_again(repo):
    """By this object and by the next one; saving alone touches no index."""
    for number in range(5):
        repo.save(said(f"s{number}", "fox"))
    assert not index_of(repo).exists()
    assert sorted(read_by(repo, "fox")) == [f"s{number}" for number in range(5)]
    assert read_by(repo, "fox") == []
    repo.update("s3", lambda session: session.add_message(Message.user("dog")))
    repo.delete("s1")
    with SessionRepository.open(repo.storage.root, durability="process") as other:
        assert read_by(other, "fox") == ["s3"]
        assert places(other, "fox") == [("s3", 0), ("s4", 0), ("s2", 0), ("s0", 0)]
        assert places(other, "dog") == [("s3", 1)]


def broken(path):
    path.write_bytes(b"no database" * 1000)


def torn(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3 :] = os.urandom(len(data) - len(data) // 3)
    path.write_bytes(data)


def somebody_elses(path):
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")


def of_another_store(path):
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE store SET id = 'another'")


def of_another_version(path):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")


def gone(path):
    path.unlink()


@pytest.mark.parametrize("harm", [broken, torn, somebody_elses, of_another_store, of_another_version, gone])
def test_an_index_that_is_not_right_is_made_anew(repo, harm):
    """Whatever became of it, the answer is right."""
    for number in range(30):
        repo.save(said(f"s{number}", "fox", f"number {number}"))
    assert len(places(repo, "fox")) == 30
    repo.storage.close()
    harm(index_of(repo))
    with SessionRepository.open(repo.storage.root, durability="process") as other:
        assert len(places(other, "fox")) == 30
        assert places(other, "number 7") == [("s7", 1)]
        assert places(other, "number 7") == [("s7", 1)]


def test_an_index_is_no_part_of_the_store(repo):
    """A check does not report it, nor does a copy of the store without it miss it; only the owner may read it."""
    repo.save(said("s", "fox"))
    assert places(repo, "fox") == [("s", 0)]
    assert list(repo.check()) == []
    assert (index_of(repo).stat().st_mode & 0o777, index_of(repo).parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_where_nothing_can_be_written_the_index_is_in_memory(repo, monkeypatch):
    """The same answers, and nothing is left behind."""
    repo.save(said("s", "fox"))

    def refused(*_args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(words_file.os, "mkdir", refused)
    assert places(repo, "fox") == [("s", 0)]
    repo.update("s", lambda session: session.add_message(Message.user("fox")))
    assert places(repo, "fox") == [("s", 0), ("s", 1)]
    assert not index_of(repo).exists()


def test_without_fts5_a_search_is_refused(repo, monkeypatch):
    """StorageUnavailable that says what is missing; the store is as it was."""
    monkeypatch.setattr(words_file, "_SCHEMA", "CREATE VIRTUAL TABLE words USING fts7(terms)")
    repo.save(said("s", "fox"))
    with pytest.raises(StorageUnavailable, match="fts7"):
        repo.search("fox")
    assert repo.load("s") is not None


def test_a_damaged_session_hides_no_other(repo, damage_on_purpose):
    """It is left out."""
    for name in ("a", "broken", "z"):
        repo.save(said(name, "fox"))
    snapshot = Path(repo.storage._place("broken").folder) / "session.json"
    snapshot.write_bytes(snapshot.read_bytes().replace(b"fox", b"fax"))
    with SessionRepository.open(repo.storage.root, durability="process") as other:
        assert places(other, "fox") == [("z", 0), ("a", 0)]


def test_a_session_that_changes_while_it_is_searched_is_shown_as_it_is(repo):
    """Or not at all: never a place that says something else."""
    repo.save(said("s", "fox", "dog"))
    real = repo.storage._index().places

    def late(*args):
        found = real(*args)
        with SessionRepository.open(repo.storage.root, durability="process") as other:
            other.update("s", lambda session: session.remove_message(session.messages[0].id))
        return found

    repo.storage._index().places = late
    assert places(repo, "fox") == []
    del repo.storage._index().places
    assert places(repo, "dog") == [("s", 0)]


def _search(root, go, results):
    go.wait()
    try:
        with SessionRepository.open(root, durability="process") as repo:
            results.put(len(places(repo, "fox")))
    except Exception as error:
        results.put(repr(error))


def test_processes_that_search_at_once_find_the_same(repo):
    """Four of them, with no index there yet."""
    for number in range(120):
        repo.save(said(f"s{number}", "fox"))
    context = multiprocessing.get_context("spawn")
    go, results = context.Event(), context.Queue()
    processes = [context.Process(target=_search, args=(repo.storage.root, go, results)) for _ in range(4)]
    [process.start() for process in processes]
    go.set()
    assert [results.get(timeout=50) for _ in processes] == [120] * 4
    [process.join() for process in processes]


def test_threads_share_an_index(repo):
    """While one of them writes."""
    repo.save(said("s0", "fox"))
    failed = []

    def search():
        try:
            for _ in range(20):
                assert places(repo, "fox")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    [thread.start() for thread in threads]
    for number in range(1, 20):
        repo.save(said(f"s{number}", "fox"))
    [thread.join() for thread in threads]
    assert failed == []
    assert len(places(repo, "fox")) == 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_of_a_fork_opens_the_index_itself(repo):
    """A connection that both use would mix them up."""
    repo.save(said("s", "fox"))
    assert places(repo, "fox") == [("s", 0)]
    before = repo.storage._index()._connection
    child = os.fork()
    if child == 0:
        ok = places(repo, "fox") == [("s", 0)] and repo.storage._index()._connection is not before
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_storage_that_was_closed_lets_go_of_its_index(tmp_path):
    """And can be searched through another object."""
    storage = JsonFileStorage(tmp_path, durability="process")
    storage.save_session(said("s", "fox"))
    repo = SessionRepository.open(tmp_path, durability="process")
    assert places(repo, "fox") == [("s", 0)]
    repo.storage.close()
    assert repo.storage._words._connection is None
