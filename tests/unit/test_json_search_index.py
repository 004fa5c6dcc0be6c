"""The index of words beside JSON files: others that search, damage, rights, backups."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta

import pytest

from bamboo_sessions import JsonFileStorage, Message, Session, SessionRepository, StorageUnavailable
from bamboo_sessions.storages.json_files import words_file
from bamboo_sessions.testing.clock import ManualClock
from tests.support import bundle


def found(repo, text, **options):
    return [hit.session.id for hit in repo.search(text, **options).items]


def index_of(repo):
    return os.path.join(repo.storage.root, "index", "search.sqlite")


def rows(repo, statement):
    with sqlite3.connect(index_of(repo)) as mine:
        return mine.execute(statement).fetchall()


# -- others that search --------------------------------------------------------------------------------------------


def test_a_search_that_set_out_earlier_takes_nothing_from_the_index_of_a_later_one(tmp_path):
    """It listed the sessions before one of them was made: whoever saved that one, and searches, finds it."""
    early, late = JsonFileStorage(tmp_path / "s"), JsonFileStorage(tmp_path / "s")
    repo = bundle(late)
    bundle(early).save(Session.new("old", title="fox"))
    assert found(repo, "fox") == ["old"]
    listed = {head["id"]: (head["birth"], head["revision"]) for head, _ in early.heads()}
    repo.save(Session.new("new", title="fox"))
    index, bring_up = late._index(), late._index()._bring_up

    def with_the_early_one_in_between(*args):
        bring_up(*args)
        early._index().places(listed, early._for_the_index, [("fox", False)])

    index._bring_up = with_the_early_one_in_between
    assert sorted(found(repo, "fox")) == ["new", "old"]


def test_a_session_that_is_saved_all_the_time_is_found(tmp_path):
    """Its title had the word before the search, has it now, and had it in between."""
    storage = JsonFileStorage(tmp_path / "s")
    repo, busy = bundle(storage), bundle(JsonFileStorage(tmp_path / "s"))
    repo.save(Session.new("busy", title="fox"))
    real = storage._index().places

    def with_a_turn_in_between(*args):
        places = real(*args)
        busy.update("busy", lambda session: session.add_message(Message.user("tick")))
        return places

    storage._index().places = with_a_turn_in_between
    assert found(repo, "fox") == ["busy"]


def between(storage, turn):
    """`turn` is called when the index has answered, before the sessions that it named are read."""
    real = storage._index().places

    def answered(*args):
        places = real(*args)
        turn()
        return places

    storage._index().places = answered


def test_a_session_that_is_changed_meanwhile_is_shown_only_if_it_is_still_wanted(tmp_path):
    """Nobody is shown an archived one who asked for others."""
    storage = JsonFileStorage(tmp_path / "s")
    repo, other = bundle(storage), bundle(JsonFileStorage(tmp_path / "s"))
    for name in ("a", "b"):
        repo.save(Session.new(name, title="fox"))
    between(storage, lambda: other.set_archived("a", True))
    assert found(repo, "fox", archived=False) == ["b"]


def test_pages_go_on_behind_a_session_that_is_changed_meanwhile(tmp_path):
    """Each that is not changed comes once, as does the rest of one that is."""
    storage = JsonFileStorage(tmp_path / "s")
    repo, busy = bundle(storage), bundle(JsonFileStorage(tmp_path / "s"))
    for name in ("a", "b", "c"):
        session = Session.new(name, title="fox")
        session.add_message(Message.user("fox"))
        repo.save(session)
    between(storage, lambda: busy.update("b", lambda session: session.add_message(Message.user("tick"))))
    first = repo.search("fox", limit=3)
    del storage._index().places
    rest = repo.search("fox", limit=3, cursor=first.next_cursor)
    shown = [(hit.session.id, hit.index) for hit in (*first.items, *rest.items)]
    assert shown == [("c", None), ("c", 0), ("b", None), ("a", None), ("a", 0)]  # the rest of b is at the top by now


def test_what_cannot_be_read_just_now_keeps_its_place(tmp_path, monkeypatch):
    """Somebody else, who could read it, is about to ask the index for it."""
    early, late = JsonFileStorage(tmp_path / "s"), JsonFileStorage(tmp_path / "s")
    repo = bundle(late)
    repo.save(Session.new("a", title="fox"))
    index, bring_up = late._index(), late._index()._bring_up

    def unreadable(*_args):
        raise StorageUnavailable("read", reason="too many open files")

    def with_the_early_one_in_between(*args):
        bring_up(*args)
        monkeypatch.setattr(early, "read", unreadable)
        early._index().places({"a": "another state"}, early._for_the_index, [("fox", False)])

    index._bring_up = with_the_early_one_in_between
    assert found(repo, "fox") == ["a"]


def test_what_somebody_else_has_indexed_meanwhile_is_not_written_again(tmp_path):
    """Two that search in turn while a third one saves would have nothing else to do."""
    storage = JsonFileStorage(tmp_path / "s")
    repo = bundle(storage)
    repo.save(Session.new("a", title="fox"))
    assert found(repo, "fox") == ["a"]
    before = rows(repo, "SELECT n FROM place")
    storage._index().places({"a": "as it was listed before"}, storage._for_the_index, [("fox", False)])
    assert rows(repo, "SELECT n FROM place") == before


def test_a_session_that_was_made_again_meanwhile_keeps_its_place(tmp_path):
    """Its folder was away when somebody looked; when he has the index to himself, it is there."""
    early, late = JsonFileStorage(tmp_path / "s"), JsonFileStorage(tmp_path / "s")
    repo, looks = bundle(late), []
    repo.save(Session.new("a", title="fox"))
    assert found(repo, "fox") == ["a"]
    early._index()._is_gone = lambda name: looks.append(name) or len(looks) == 1
    assert early._index().places({}, early._for_the_index, [("fox", False)]) == {"a": [-1]}
    assert looks == ["a", "a"]


def test_an_expired_session_costs_later_searches_no_reading(tmp_path):
    """It is not found, and stays in the index until it is purged."""
    clock = ManualClock(datetime.now(UTC))  # files tell when they were changed
    with SessionRepository.open(tmp_path / "s", durability="process", ttl=timedelta(hours=1), clock=clock) as repo:
        repo.save(Session.new("a", title="fox", clock=clock))
        assert found(repo, "fox") == ["a"]
        clock.forward(hours=2)
        repo.storage._for_the_index = None
        assert found(repo, "fox") == []
        assert rows(repo, "SELECT id FROM session") == [("a",)]
        assert repo.purge_expired() == 1
        assert found(repo, "fox") == []
        assert rows(repo, "SELECT id FROM session") == rows(repo, "SELECT n FROM place") == []


# -- backups -------------------------------------------------------------------------------------------------------


def test_a_backup_that_was_put_back_is_indexed_again(tmp_path):
    """Birth and revision come a second time, with other words: what is committed is found."""
    root, backup = tmp_path / "s", tmp_path / "backup"
    with SessionRepository.open(root, durability="process") as repo:
        repo.save(Session.new("a"))
    shutil.copytree(root, backup)
    with SessionRepository.open(root, durability="process") as repo:
        repo.update("a", lambda session: session.add_message(Message.user("lost")))
        assert found(repo, "lost") == ["a"]
    shutil.rmtree(root / "sessions")
    shutil.copytree(backup, root, dirs_exist_ok=True)
    with SessionRepository.open(root, durability="process") as repo:
        repo.update("a", lambda session: session.add_message(Message.user("omega")))
        assert found(repo, "omega") == ["a"]


# -- damage and rights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["DROP TABLE words", "DROP TABLE words_config", "DROP TABLE place", "DROP TABLE session",
                                  "DROP TABLE store", "ALTER TABLE place RENAME COLUMN at TO was"])
def test_an_index_whose_tables_are_not_right_is_made_anew(tmp_path, harm):
    """SQLite calls that an operational error and not damage; it stays for ever all the same."""
    with SessionRepository.open(tmp_path / "s", durability="process") as repo:
        repo.save(Session.new("a", title="fox"))
        assert found(repo, "fox") == ["a"]
    with sqlite3.connect(tmp_path / "s" / "index" / "search.sqlite") as mine:
        mine.execute(harm)
    with SessionRepository.open(tmp_path / "s", durability="process") as repo:
        assert found(repo, "fox") == ["a"]


def test_an_index_that_may_only_be_read_is_kept_in_memory(tmp_path, monkeypatch):
    """It is there, and belongs to somebody else: searches go on all the same."""
    with SessionRepository.open(tmp_path / "s", durability="process") as repo:
        repo.save(Session.new("a", title="fox"))
        assert found(repo, "fox") == ["a"]
        repo.save(Session.new("b", title="fox"))
    connected, whose = words_file._connected, os.stat(index_of(repo)).st_ino

    def without_rights(path):
        if path == ":memory:":
            return connected(path)
        return sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)

    monkeypatch.setattr(words_file, "_connected", without_rights)
    with SessionRepository.open(tmp_path / "s", durability="process") as repo:
        assert found(repo, "fox") == ["b", "a"]
        assert os.stat(index_of(repo)).st_ino == whose


def test_no_damage_to_the_index_is_for_ever(tmp_path):
    """Each byte of it spoilt in turn: searches find what is there, if not at once then once it was made anew; and the driver's own
    errors, which may be no errors of SQLite's at all, reach nobody."""
    root = tmp_path / "s"
    with SessionRepository.open(root, durability="process") as repo:
        repo.save(Session.new("a", title="fox"))
        assert found(repo, "fox") == ["a"]
    index = root / "index" / "search.sqlite"
    whole, wrong = index.read_bytes(), []
    for at in range(0, len(whole), 61):
        if whole[at : at + 61].strip(b"\0"):
            index.write_bytes(whole[:at] + bytes(byte ^ 0x80 for byte in whole[at : at + 61]) + whole[at + 61 :])
            for left in ("-wal", "-shm"):
                index.with_name(index.name + left).unlink(missing_ok=True)
            with SessionRepository.open(root, durability="process") as repo:
                try:
                    answer = found(repo, "fox")
                except Exception as error:
                    answer = type(error).__name__
            if answer != ["a"]:
                wrong.append((at, answer))
    assert wrong == []


def spoil_a_word(mine):
    for number, block in mine.execute("SELECT id, block FROM words_data").fetchall():
        mine.execute("UPDATE words_data SET block = ? WHERE id = ?", (block.replace(b"fox", b"fax"), number))


@pytest.mark.parametrize("harm", ["UPDATE place SET at = 5", "UPDATE place SET n = n + 1", "UPDATE place SET id = 'b'",
                                  "UPDATE session SET sum = sum + 1", "INSERT INTO place (id, at) VALUES ('a', 7)", spoil_a_word])
def test_what_sqlite_does_not_notice_is_noticed(tmp_path, harm):
    """It has no checksums: a word that is spoilt would not be found any more, and nobody would be told."""
    with SessionRepository.open(tmp_path / "s", durability="process") as repo:
        repo.save(Session.new("a", title="fox"))
        assert found(repo, "fox") == ["a"]
    with sqlite3.connect(index_of(repo)) as mine:
        harm(mine) if callable(harm) else mine.execute(harm)
    made = os.stat(index_of(repo)).st_ino
    with SessionRepository.open(tmp_path / "s", durability="process") as repo, open(index_of(repo)):  # so that its number stays taken
        assert found(repo, "fox") == ["a"]
        assert os.stat(index_of(repo)).st_ino != made


@pytest.mark.parametrize("harm", ["UPDATE place SET n = n + 1", "UPDATE place SET id = x'61'", "UPDATE place SET at = 'x'",
                                  "UPDATE place SET at = -7"])
def test_an_index_that_names_no_place_is_made_anew(tmp_path, harm):
    """One that is open already, or too large to be looked through."""
    with SessionRepository.open(tmp_path / "s", durability="process") as repo:
        repo.save(Session.new("a", title="fox"))
        assert found(repo, "fox") == ["a"]
        with sqlite3.connect(index_of(repo)) as mine:
            mine.execute(harm)
        assert found(repo, "fox") == ["a"]


def test_a_large_index_is_looked_through_once_a_day(tmp_path, monkeypatch):
    """That takes longer there, and others wait meanwhile."""
    monkeypatch.setattr(words_file, "_SMALL", 0)
    now, looked, check = [10**18], [], words_file._check
    monkeypatch.setattr(words_file, "_check", lambda connection: looked.append(now[0]) or check(connection))

    def opened(hours):
        now[0] += hours * 3600 * 10**9
        words_file.WordsFile(str(tmp_path / "search.sqlite"), "store", 0o600, nullcontext, lambda: now[0]).opened().close()

    (tmp_path / "search.sqlite").touch()
    for hours in (0, 23, 2, 23, 2, -100):
        opened(hours)
    assert [at - 10**18 for at in looked] == [hours * 3600 * 10**9 for hours in (25, 50, -50)]


def test_a_damaged_index_is_thrown_away_once(tmp_path):
    """By the first who notices; the next one takes what that one made."""
    first, second = JsonFileStorage(tmp_path / "s"), JsonFileStorage(tmp_path / "s")
    for name, storage in (("a", first), ("b", second)):
        bundle(storage).save(Session.new(name, title="fox"))
        assert found(bundle(storage), "fox")
    with sqlite3.connect(index_of(bundle(first))) as mine:
        mine.execute("ALTER TABLE place RENAME COLUMN at TO was")
    assert len(found(bundle(first), "fox")) == 2
    made = os.stat(index_of(bundle(first))).st_ino
    second._index()._file.throw_away(sqlite3.DatabaseError("damaged"))
    assert os.stat(index_of(bundle(first))).st_ino == made
    assert len(found(bundle(second), "fox")) == 2
    assert rows(bundle(first), "SELECT count(*) FROM session") == [(2,)]


def test_what_is_left_beside_an_index_that_was_taken_away_belongs_to_no_other(tmp_path):
    """SQLite would share the memory of the older file with those who still have that open."""
    left = tmp_path / "search.sqlite-shm"
    left.touch()
    os.link(left, tmp_path / "still open")
    connection = words_file.WordsFile(str(tmp_path / "search.sqlite"), "store", 0o600, nullcontext, lambda: 0).opened()
    assert left.stat().st_ino != (tmp_path / "still open").stat().st_ino
    connection.close()


def test_an_index_that_somebody_deletes_is_made_again_by_who_has_it_open(tmp_path):
    """As it is told."""
    with SessionRepository.open(tmp_path / "s", durability="process") as repo:
        repo.save(Session.new("a", title="fox"))
        assert found(repo, "fox") == ["a"]
        os.unlink(index_of(repo))
        with SessionRepository.open(tmp_path / "s", durability="process") as other:
            other.save(Session.new("b", title="fox"))
            assert found(other, "fox") == ["b", "a"]
            assert found(repo, "fox") == ["b", "a"]
        assert rows(repo, "SELECT id FROM session ORDER BY id") == [("a",), ("b",)]


def test_where_nothing_can_be_locked_the_index_is_kept_in_memory(tmp_path, monkeypatch):
    """A store on a medium that is only read can be searched."""
    with SessionRepository.open(tmp_path / "s", durability="process") as repo:
        repo.save(Session.new("a", title="fox"))

        def refused(*_args):
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(repo.storage._locks, "acquire", refused)
        assert found(repo, "fox") == ["a"]
        assert not os.path.exists(index_of(repo))


def test_an_index_in_memory_is_left_when_the_storage_is_opened_again(tmp_path, monkeypatch):
    """By then the folder may be writable."""
    with SessionRepository.open(tmp_path / "s", durability="process") as repo, monkeypatch.context() as context:
        repo.save(Session.new("a", title="fox"))
        context.setattr(words_file.os, "mkdir", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
        assert found(repo, "fox") == ["a"]
        assert not os.path.exists(index_of(repo))
        context.undo()
        repo.storage.close()
        assert found(repo, "fox") == ["a"]
        assert rows(repo, "SELECT id FROM session") == [("a",)]
