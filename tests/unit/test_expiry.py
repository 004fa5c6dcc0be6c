"""Time to live above the storages: what a cache may show, whose work is kept, what it costs; see also the conformance kit."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bamboo_sessions import (
    AsyncSessionRepository,
    JsonFileStorage,
    LockedSessionStore,
    MemoryStorage,
    Message,
    Session,
    SessionDeleted,
    SessionExpired,
    SessionRepository,
    StorageUnavailable,
)
from bamboo_sessions._files import Files
from bamboo_sessions.storages.expiry import is_spared, left_of
from bamboo_sessions.testing import FailingStorage, ManualClock
from tests.support import WholeSessions, bundle, texts

HOUR = timedelta(hours=1)


@pytest.fixture
def clock():
    return ManualClock(datetime.now(UTC))


@pytest.fixture
def failing(clock):
    return FailingStorage(MemoryStorage(ttl=HOUR, clock=clock))


def started(storage, clock, *words):
    """A repository, and a session that it just saved."""
    repo, session = bundle(storage, clock), Session.new("s", clock=clock)
    for word in words or ("first",):
        session.add_message(Message.user(word))
    repo.save(session)
    return repo, session


# -- the rule ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("idle", "head", "left"), [
    (timedelta(0), None, HOUR), (timedelta(minutes=59), None, timedelta(minutes=1)), (HOUR, None, timedelta(0)),
    (timedelta(days=9), None, timedelta(0)), (-timedelta(days=9), None, HOUR), (HOUR, {"pinned": True}, HOUR),
    (HOUR, {"questions": {"t": {}}}, HOUR), (HOUR, {"pinned": False, "questions": {}}, timedelta(0)), (HOUR, {}, timedelta(0))])
def test_what_is_left(idle, head, left):
    """Never more than the whole; nothing from the moment on at which it is used up, except for what is spared."""
    assert left_of(HOUR, idle, head) == left
    assert head is None or is_spared(head) is (left == HOUR)


# -- loads -------------------------------------------------------------------------------------------------------


def test_a_warm_load_asks_storage_once_the_time_may_have_run_out(failing, clock):
    """Before that it asks nobody, also where storage is gone; then it does, and hears what others did."""
    repo, _ = started(failing, clock)
    failing.fail("time_left", times=100)
    clock.forward(minutes=59)
    assert repo.load("s") is not None
    assert failing.failed == 0
    failing.recover()
    bundle(failing, clock).touch("s")
    clock.forward(minutes=2)
    assert repo.load("s") is not None
    failing.fail("time_left", times=100)
    clock.forward(minutes=57)
    assert repo.load("s") is not None
    failing.recover()
    clock.forward(minutes=2)
    assert (repo.load("s"), repo.load_merged("s")) == (None, None)
    assert "s" in repo.cache


def test_where_storage_does_not_answer_the_cached_copy_is_shown(failing, clock):
    """Nobody knows whether its time ran out, and in doubt it is kept."""
    repo, _ = started(failing, clock)
    clock.forward(hours=2)
    failing.fail("time_left")
    assert repo.load("s") is not None
    assert repo.load("s") is None


def test_an_unsaved_copy_is_never_hidden(failing, clock):
    """Somebody's work is in it: loads give it, and flush renews the session by it."""
    repo, mine = started(failing, clock)
    mine.add_message(Message.user("kept"))
    failing.fail("commit")
    repo.save_and_cache(mine)
    clock.forward(hours=2)
    assert texts(repo.load("s")) == texts(repo.load_merged("s")) == ["first", "kept"]
    repo.touch("s")
    repo.flush()
    assert texts(bundle(failing, clock).load("s")) == ["first", "kept"]


@pytest.mark.parametrize("taken", [False, True])
def test_unsaved_work_outlives_a_purge(failing, clock, taken):
    """It stays in the cache, and flush stores it as a session of its own: beside the one that took the id, if any."""
    repo, mine = started(failing, clock)
    mine.add_message(Message.user("kept"))
    failing.fail("commit")
    repo.save_and_cache(mine)
    clock.forward(hours=2)
    other = bundle(failing, clock)
    assert other.purge_expired() == 1
    if taken:
        other.save(Session.new("s", clock=clock))
    else:
        assert texts(repo.load_merged("s")) == ["first", "kept"]
    repo.flush()
    found = {item.id: item.message_count for item in other.list().items}
    assert sorted(found.values()) == ([0, 2] if taken else [2])
    assert (min(found), found[min(found)]) == ("s", 0 if taken else 2)


def test_a_purge_leaves_nothing_saved_in_the_cache(failing, clock):
    """P9: as a deletion does; neither the id nor a copy reaches it any more."""
    repo, mine = started(failing, clock)
    clock.forward(hours=2)
    assert repo.purge_expired() == 1
    assert "s" not in repo.cache
    mine.title = "late"
    with pytest.raises(SessionExpired):
        repo.save(mine)
    with pytest.raises(SessionExpired):
        repo.touch("s")
    with pytest.raises(SessionExpired):
        repo.set_title("s", "title")


def test_a_deletion_of_what_is_expired_finds_nothing(failing, clock):
    """It is gone to everybody; what is kept of it goes, too."""
    repo, _ = started(failing, clock)
    clock.forward(hours=2)
    assert (repo.delete("s"), failing.read("s")) == (False, None)


def test_usage_of_an_expired_session_is_refused(failing, clock):
    """Nobody sees it, so nobody is billed for it."""
    repo, _ = started(failing, clock)
    repo.append_token_usage_record("s", "1")
    clock.forward(hours=2)
    with pytest.raises(SessionExpired):
        repo.append_token_usage_record("s", "2")


def test_a_first_save_of_unknown_outcome_renews_what_it_stored(failing, clock):
    """The attempt is of that birth: what it says is not taken for a stranger's."""
    repo, mine = bundle(failing, clock), Session.new("s", clock=clock)
    mine.add_message(Message.user("first"))
    failing.fail("commit", when="after")
    repo.save_and_cache(mine)
    clock.forward(hours=2)
    mine.add_message(Message.user("more"))
    repo.save(mine)
    assert texts(bundle(failing, clock).load("s")) == ["first", "more"]


def test_the_table_of_lifetimes_is_bounded(monkeypatch, clock):
    """What falls out of it is asked for again."""
    monkeypatch.setattr("bamboo_sessions._lifetimes.KNOWN", 3)
    repo = bundle(MemoryStorage(ttl=HOUR, clock=clock), clock)
    for number in range(10):
        repo.save(Session.new(str(number), clock=clock))
    assert len(repo.persistence.lifetimes) == 3
    assert all(repo.load(str(number)) is not None for number in range(10))


def test_where_nothing_expires_nothing_is_asked(clock, tmp_path):
    """Neither by a load nor by a save nor by touch: a storage without a time to live writes no file and looks at none."""
    for storage in (MemoryStorage(clock=clock), JsonFileStorage(tmp_path, durability="process")):
        wrapped = FailingStorage(storage)
        for call in ("time_left", "touch", "expired", "purge_record", "was_expired"):
            wrapped.fail(call, times=100)
        repo, mine = started(wrapped, clock)
        mine.add_message(Message.user("more"))
        repo.save(mine)
        repo.save(mine)
        repo.touch("s")
        assert (repo.load("s") is not None, repo.purge_expired(), wrapped.failed) == (True, 0, 0)
        assert repo.persistence.lifetimes is None
    assert [files for _, _, files in os.walk(tmp_path / "sessions") if "active" in files] == []


# -- cleaning up -------------------------------------------------------------------------------------------------


def test_one_that_cannot_be_purged_hinders_no_other(failing, clock):
    """It is left to the next time."""
    repo, _ = started(failing, clock)
    repo.save(Session.new("t", clock=clock))
    clock.forward(hours=2)
    failing.fail("purge_record")
    assert (repo.purge_expired(), repo.purge_expired()) == (1, 1)


def test_a_purge_that_cannot_list_them_all_removes_none(failing, clock):
    """The error says "not applied", and that is true also where the listing fails at its second session."""
    repo, _ = started(failing, clock)
    repo.save(Session.new("t", clock=clock))
    clock.forward(hours=2)

    def half_way():
        yield "s"
        raise StorageUnavailable("list", reason="a bad sector")

    failing.inner.expired = half_way
    with pytest.raises(StorageUnavailable):
        repo.purge_expired()
    del failing.inner.expired
    assert repo.purge_expired() == 2


def test_one_that_is_held_is_not_purged(clock, tmp_path):
    """Somebody is at work on it; nor does the purge wait."""
    storage = JsonFileStorage(tmp_path, durability="process", ttl=HOUR, clock=clock)
    repo, _ = started(storage, clock)
    purged = []
    with repo.edit("s") as session:
        clock.forward(hours=2)
        thread = threading.Thread(target=lambda: purged.append(repo.purge_expired()))
        thread.start()
        thread.join()
        session.add_message(Message.user("slow"))
    assert (purged, texts(repo.load("s"))) == ([0], ["first", "slow"])


def test_the_background_cleanup_purges_until_close(failing, clock):
    """A failure is logged and tried again; after `close` no pass runs; the repository is not kept alive by it."""
    repo, _ = started(failing, clock)
    clock.forward(hours=2)
    failing.fail("expired")
    gone = threading.Event()
    purged, repo.persistence.records.inner.purge_record = failing.inner.purge_record, lambda name: gone.set() or purged(name)
    repo.start_cleanup(timedelta(seconds=1))
    assert gone.wait(20)
    assert failing.failed == 1
    cleaner = repo._cleaner
    repo.close()
    assert not cleaner.is_alive()
    again = weakref.ref(bundle(failing, clock))
    gc.collect()
    assert again() is None


def test_the_cleanup_does_not_keep_its_repository_alive(failing, clock):
    """Whoever forgets to close it loses the thread as well."""
    repo = bundle(failing, clock)
    repo.start_cleanup(timedelta(seconds=1))
    cleaner, seen = repo._cleaner, weakref.ref(repo)
    del repo
    gc.collect()
    assert seen() is None
    cleaner._thread.join(20)
    assert not cleaner.is_alive()


def test_open_hands_the_ttl_on(tmp_path, clock):
    """To whichever storage it makes; the asynchronous face as well."""
    for where in (tmp_path, "memory://"):
        assert SessionRepository.open(where, ttl=HOUR).storage.ttl == HOUR
        assert AsyncSessionRepository.open(where, ttl=HOUR).sync.storage.ttl == HOUR
    with pytest.raises(ValueError, match="positive"):
        SessionRepository.open("memory://", ttl=timedelta(0))


def test_the_asynchronous_face(clock):
    """Touches, purges and hides as the other one does."""
    async def main():
        async with AsyncSessionRepository.open("memory://", ttl=HOUR, clock=clock) as repo:
            await repo.save(Session.new("s", clock=clock))
            clock.forward(minutes=40)
            await repo.touch("s")
            clock.forward(minutes=40)
            assert await repo.load("s") is not None
            clock.forward(minutes=40)
            assert await repo.load("s") is None
            assert (await repo.load_or_create("s")).revision == 0
            assert await repo.purge_expired() == 1
            with pytest.raises(SessionExpired):
                await repo.touch("s")
            await repo.start_cleanup(timedelta(hours=1))
            await repo.stop_cleanup()

    asyncio.run(main())


# -- files -------------------------------------------------------------------------------------------------------


def active_file(storage):
    return os.path.join(storage._place("s").folder, "active")


def test_a_writer_without_a_ttl_keeps_a_session_alive(tmp_path, clock):
    """Its commit changes the journal, whose time counts."""
    storage = JsonFileStorage(tmp_path, durability="process", ttl=HOUR, clock=clock)
    repo, _ = started(storage, clock)
    long_ago = (datetime.now(UTC) - timedelta(hours=3)).timestamp()
    for path in (active_file(storage), storage._place("s").journal):
        os.utime(path, (long_ago, long_ago))
    assert not storage.exists("s")
    other = SessionRepository.open(tmp_path, durability="process")
    other.set_title("s", "title")
    assert storage.exists("s")
    assert os.stat(active_file(storage)).st_mtime < long_ago + 1
    assert repo.load_merged("s").title == "title"


def test_what_lies_in_a_session_that_expires(tmp_path, clock, damage_on_purpose):
    """One more file, empty, that a check knows and a repair leaves alone; a link in its place is a finding."""
    storage = JsonFileStorage(tmp_path, durability="process", ttl=HOUR, clock=clock)
    started(storage, clock)
    clock.forward(minutes=30)
    storage.touch("s")
    stat = os.stat(active_file(storage))
    assert (stat.st_size, stat.st_mode & 0o777) == (0, 0o600)
    assert abs(stat.st_mtime - clock.now().timestamp()) < 0.001
    assert list(storage.check()) == []
    os.unlink(active_file(storage))
    os.symlink("/dev/null", active_file(storage))
    assert [one.kind for one in storage.check()] == ["symlink"]


def test_activity_that_cannot_be_noted_fails_no_save(tmp_path, clock):
    """The commit is durable and stands; a touch that was not noted says so."""
    class NoTimes(Files):
        def set_mtime(self, path, ns):
            raise PermissionError(1, "not permitted", path)

    storage = JsonFileStorage(tmp_path, durability="process", ttl=HOUR, clock=clock, files=NoTimes())
    repo, mine = started(storage, clock)
    assert repo.load("s").revision == mine.revision == 1
    clock.forward(minutes=30)
    with pytest.raises(StorageUnavailable):
        repo.touch("s")


def test_a_damaged_session_does_not_expire(tmp_path, clock, damage_on_purpose):
    """It is not purged: what is left of it can still be saved."""
    storage = JsonFileStorage(tmp_path, durability="process", ttl=HOUR, clock=clock)
    repo, _ = started(storage, clock)
    path = Path(storage._place("s").snapshot)
    path.write_bytes(path.read_bytes().replace(b"birth", b"brith"))
    clock.forward(hours=2)
    assert repo.purge_expired() == 0
    assert storage.time_left("s") == HOUR


# -- three methods -----------------------------------------------------------------------------------------------


def test_somebodys_own_storage_may_have_a_ttl(clock):
    """Three methods and an attribute: touches are kept in the process, and begin with the stored `updated_at`."""
    storage = WholeSessions()
    storage.ttl, storage.clock = HOUR, clock
    repo, mine = started(storage, clock)
    for _ in range(2):
        clock.forward(minutes=40)
        repo.touch("s")
    assert repo.load("s") is not None
    clock.forward(minutes=61)
    assert (repo.load("s"), repo.load_merged("s"), repo.exists("s")) == (None, None, False)
    mine.add_message(Message.user("more"))
    repo.save(mine)
    clock.forward(hours=2)
    assert repo.purge_expired() == 1
    assert storage.kept == {}
    with pytest.raises(SessionExpired):
        repo.save(mine)
    known = Session.new("old", clock=clock, updated_at=clock.now() - 2 * HOUR)
    storage.kept["old"] = known
    assert repo.load("old") is None


# -- an edit that meets a deletion -------------------------------------------------------------------------------


@pytest.mark.parametrize("purged", [False, True])
def test_an_edit_of_what_vanishes_meanwhile_says_how(clock, purged):
    """Over a storage without a lock: SessionDeleted or SessionExpired, for there was a session; nothing is brought back."""
    storage = MemoryStorage(ttl=HOUR, clock=clock)
    repo, _ = started(storage, clock)

    def vanish(session):
        session.title = "late"
        if purged:
            clock.forward(hours=2)
            storage.purge_record("s")
        else:
            storage.delete_record("s")

    with pytest.raises(SessionExpired if purged else SessionDeleted):
        repo.update("s", vanish)
    started(storage, clock)
    with pytest.raises(SessionExpired if purged else SessionDeleted), repo.edit("s") as session:
        vanish(session)
    assert LockedSessionStore(storage).load("s") is None
