"""What becomes of work that a cache keeps, where its holder, a thread, a task or another store comes in between."""

from __future__ import annotations

from copy import deepcopy
from pickle import dumps, loads

import anyio
import pytest

from bamboo_sessions import AsyncSessionRepository, MemoryStorage, Message, Session, StorageUnavailable
from bamboo_sessions import locked_store as module
from bamboo_sessions.testing import FailingStorage
from tests.support import WholeSessions, bundle, stored, texts


@pytest.fixture
def storage():
    return FailingStorage(MemoryStorage())


def session_of(*words):
    session = Session.new("c")
    for word in words:
        session.add_message(Message.user(word, id=word))
    return session


def kept_in(storage, repo):
    """A session with `k` in it that could only be kept."""
    session = session_of("a", "b")
    repo.save(session)
    session.add_message(Message.user("k", id="k"))
    storage.fail("commit")
    repo.save_and_cache(session)
    return session


def is_there(storage):
    return texts(stored(storage, "c"))


@pytest.mark.parametrize("landed", [False, True])
def test_a_holder_takes_back_what_a_save_of_unknown_outcome_stored(storage, landed):
    """What is undone after a save of unknown outcome stays undone, also in a copy that has kept work."""
    repo = bundle(storage)
    mine = kept_in(storage, repo)
    other = repo.load("c")
    mine.add_message(Message.user("x", id="x"))
    mine.replace_message("a", Message.user("A", id="a"))
    storage.fail("commit", when="after")
    with pytest.raises(StorageUnavailable):
        repo.save(mine)
    mine.remove_message("x")
    mine.replace_message("a", Message.user("a", id="a"))
    if landed:
        repo.save(other)
    repo.save(mine)
    assert is_there(storage) == ["a", "b", "k"]


def test_what_is_added_while_a_copy_comes_home_stays_on_it(storage, monkeypatch):
    """A message that another thread adds to an object while it is being kept is not taken off it."""
    repo = bundle(storage)
    mine = kept_in(storage, repo)
    other = repo.load("c")
    repo.save(other)
    mine.add_message(Message.user("y", id="y"))
    real = module.at_home

    def meanwhile(*given):
        made = real(*given)
        mine.add_message(Message.user("z", id="z"))
        return made

    monkeypatch.setattr(module, "at_home", meanwhile)
    module.bring_home(mine, mine)
    assert [message.id for message in mine.messages] == ["a", "b", "k", "y", "z"]


def test_a_task_knows_what_was_tried_although_its_copy_came_home_on_the_way(storage):
    """A save of unknown outcome that found its kept work stored is told to the object: nobody's later edit is reverted."""

    async def scenario():
        sync = bundle(storage)
        repo = AsyncSessionRepository(sync)
        mine = kept_in(storage, sync)
        other = await repo.load("c")
        storage.fail("commit", when="after", times=2)
        with pytest.raises(StorageUnavailable):
            await repo.save(other)
        mine.replace_message("a", Message.user("A1", id="a"))
        mine.add_message(Message.user("x", id="x"))
        with pytest.raises(StorageUnavailable):
            await repo.save(mine)

        def edit(session):
            session.replace_message("a", Message.user("A2", id="a"))
            session.remove_message("x")

        bundle(storage).update("c", edit)
        await repo.save(mine)

    anyio.run(scenario)
    assert is_there(storage) == ["A2", "b", "k"]


def test_kept_work_survives_a_plain_storage_that_came_back_from_a_backup():
    """A storage without a memory of commits that lost the commit of kept work gets that work from who still has it."""
    plain = WholeSessions()
    storage = FailingStorage(plain)
    repo = bundle(storage)
    mine = session_of("a")
    repo.save(mine)
    backup = deepcopy(plain.kept["c"])
    mine.add_message(Message.user("k", id="k"))
    storage.fail("save_session")
    repo.save_and_cache(mine)
    repo.save(repo.load("c"))
    plain.kept["c"] = backup
    mine.add_message(Message.user("y", id="y"))
    repo.save(mine)
    assert is_there(storage) == ["a", "k", "y"]


def lost_again(storage):
    """A copy of kept work that another repository stored; a backup took that away again, and others have gone on since."""
    inner, repo = storage.inner, bundle(storage)
    mine = kept_in(storage, repo)
    backup = deepcopy(inner._kept["c"])
    bundle(inner).save(repo.load("c"))
    inner._kept["c"] = backup
    for word in ("t1", "t2"):
        bundle(inner).update("c", lambda session, word=word: session.add_message(Message.user(word, id=word)))
    return repo, mine


@pytest.mark.parametrize("how", ["flush", "save", "load_merged", "load_merged and flush"])
def test_kept_work_that_a_backup_took_away_again_is_an_addition(storage, how):
    """P1: the storage proves that it goes on from the state which the copy names, and that is not the one which has the work."""
    repo, mine = lost_again(storage)
    if how == "save":
        mine.add_message(Message.user("x", id="x"))
        repo.save(mine)
    if how.startswith("load_merged"):
        with repo.cache.with_mut("c") as cached:
            cached.title = "changed in the cache itself, so that a part of it is not stored in any case"
        assert texts(repo.load_merged("c")) == ["a", "b", "t1", "t2", "k"]
    if how.endswith("flush"):
        repo.flush()
    expected = {"load_merged": [], "save": ["k", "x"]}.get(how, ["k"])
    assert is_there(storage) == ["a", "b", "t1", "t2", *expected]


def test_work_that_another_store_has_is_still_unsaved_here(storage):
    """A first save that was kept for one store and stored in another is not given up for a stranger's session in the first."""
    repo = bundle(storage)
    mine = session_of("k")
    storage.fail("commit")
    repo.save_and_cache(mine)
    bundle(MemoryStorage()).save(mine)
    bundle(storage).save(session_of("o"))
    repo.load_merged("c")
    repo.flush()
    assert sorted(is_there(storage)) == ["k", "o"]


def test_what_is_changed_in_the_cache_itself_is_not_taken_for_what_was_kept(storage):
    """Its holder saves what was kept of him; what somebody put into the cached copy since stays unsaved, and is saved with it."""
    repo = bundle(storage)
    mine = kept_in(storage, repo)
    with repo.cache.with_mut("c") as cached:
        cached.add_message(Message.user("x", id="x"))
    repo.save(mine)
    assert repo.cache.unsaved_ids() == ["c"]
    repo.flush()
    assert is_there(storage) == ["a", "b", "k", "x"]


def test_a_pickled_copy_of_kept_work_brings_it_home_as_well(storage):
    """It shares nothing with the others, but its mark; what it took out does not come back with them."""
    repo = bundle(storage)
    kept_in(storage, repo)
    other, travelled = repo.load("c"), loads(dumps(repo.load("c")))
    travelled.remove_message("k")
    repo.save(travelled)
    other.add_message(Message.user("y", id="y"))
    repo.save(other)
    assert is_there(storage) == ["a", "b", "y"]
    assert repo.cache.unsaved_ids() == []
