"""Loads that come late: what a reader brings back must never replace what is newer, evicted, or deleted."""

from __future__ import annotations

import pytest

from bamboo_sessions import MemoryStorage, Message, Session, SessionCache, StorageError
from tests.support import WholeSessions, Worker, begin, bundle, failing, held, open_calls, over, steered, stored, texts


@pytest.fixture
def steered_repo(storage, clock):
    """A repository whose reads and commits the test can stop, over each kind of storage."""
    return over(storage, clock)


def say(repo, word, clock):
    session = repo.load("s")
    session.add_message(Message.user(word))
    clock.forward(seconds=1)
    repo.save(session)


LOADS = ["try_load", "try_load_merged"]


@pytest.mark.parametrize("way", LOADS)
def test_a_loader_does_not_back_fill_over_a_newer_copy(steered_repo, clock, way):
    """It read revision 1, then revision 2 was saved and cached: the cache stays at 2."""
    repo = steered_repo
    begin(repo, "one")
    repo.cache.invalidate("s")
    with held(repo.storage, "was read", getattr(repo, way), "s") as loader:
        say(repo, "two", clock)
    loader.result()
    assert texts(repo.cache.peek("s")) == ["one", "two"]


@pytest.mark.parametrize("way", LOADS)
def test_a_loader_does_not_back_fill_an_old_copy_after_an_eviction(steered_repo, clock, way):
    """Revision 2 was saved, cached and evicted meanwhile: whatever is cached afterwards, it is not revision 1."""
    repo = steered_repo
    begin(repo, "one")
    repo.cache.invalidate("s")
    with held(repo.storage, "was read", getattr(repo, way), "s") as loader:
        say(repo, "two", clock)
        repo.cache.invalidate("s")
    loader.result()
    assert repo.cache.peek("s") is None or texts(repo.cache.peek("s")) == ["one", "two"]
    assert texts(repo.load("s")) == ["one", "two"]


@pytest.mark.parametrize("way", LOADS)
def test_of_two_loaders_that_overlap_the_newer_copy_is_cached(steered_repo, clock, way):
    """P3: the one that read revision 1 fills the cache before the one that read revision 2: nobody is then shown 1 again."""
    repo = steered_repo
    begin(repo, "one")
    repo.cache.invalidate("s")
    with held(repo.storage, "was read", getattr(repo, way), "s") as older:
        say(bundle(repo.storage.inner, clock), "two", clock)

        def let_the_older_one_be_first():
            older.gate.open()
            older.result()

        repo.storage.at("was read", let_the_older_one_be_first)
        assert texts(getattr(repo, way)("s")) == ["one", "two"]
    assert texts(repo.load("s")) == ["one", "two"]


def test_a_loader_that_was_overtaken_is_given_the_newer_copy(steered_repo, clock):
    """P3: it read revision 1, revision 2 was filled meanwhile: whoever asks this repository again has seen 2 by then."""
    repo = steered_repo
    begin(repo, "one")
    repo.cache.invalidate("s")
    with held(repo.storage, "was read", repo.try_load, "s") as older:
        say(bundle(repo.storage.inner, clock), "two", clock)
        repo.try_load("s")
    assert texts(older.result()) == ["one", "two"]


@pytest.mark.parametrize("way", LOADS)
def test_a_loader_does_not_bring_back_a_deleted_session(steered_repo, way):
    """P9: it read the session, then the session was deleted: it is not cached again."""
    repo = steered_repo
    begin(repo, "one")
    repo.cache.invalidate("s")
    with held(repo.storage, "was read", getattr(repo, way), "s") as loader:
        repo.delete("s")
    loader.result()
    assert repo.cache.peek("s") is None
    assert repo.load("s") is None


@pytest.mark.parametrize("way", LOADS)
def test_a_loader_of_the_predecessor_does_not_replace_the_successor(steered_repo, clock, way):
    """Deleted and made anew while it read: the cache holds the new session."""
    repo = steered_repo
    begin(repo, "old", "old")
    repo.cache.invalidate("s")
    clock.jump(hours=-1)
    with held(repo.storage, "was read", getattr(repo, way), "s") as loader:
        repo.delete("s")
        begin(repo, "new")
    loader.result()
    assert texts(repo.load("s")) == ["new"]


def test_of_two_loaders_the_slower_and_older_one_does_not_win(steered_repo, storage, clock):
    """The first fill settles the gap: an older reader that comes later finds its ticket void, also after an eviction."""
    repo = steered_repo
    begin(repo, "one")
    repo.cache.invalidate("s")
    with held(repo.storage, "was read", repo.try_load, "s") as loader:
        say(bundle(storage, clock), "two", clock)
        assert texts(repo.load("s")) == ["one", "two"]
        repo.cache.invalidate("s")
    loader.result()
    assert texts(repo.load("s")) == ["one", "two"]


def test_load_merged_does_not_call_a_session_gone_that_was_just_saved(steered_repo):
    """It found nothing, then the session was saved for the first time: it answers with the session and keeps it cached."""
    repo = steered_repo
    with held(repo.storage, "was read", repo.try_load_merged, "s") as loader:
        begin(repo, "one")
    assert texts(loader.result()) == ["one"]
    assert texts(repo.cache.peek("s")) == ["one"]


def test_load_merged_does_not_move_an_unsaved_copy_onto_an_older_state(steered_repo, clock):
    """A look that began before a commit must not make the cached copy, unsaved on that commit, lose what it says."""
    repo = steered_repo
    begin(repo, "one")
    unsaved = repo.load("s")
    unsaved.add_message(Message.user("unsaved"))
    repo.storage.at("commit", failing())
    repo.save_and_cache(unsaved)
    with held(repo.storage, "was read", repo.try_load_merged, "s") as loader:
        other = repo.persistence.load("s")
        other.add_message(Message.user("two"))
        repo.persistence.save(other)
        assert texts(repo.load("s")) == ["one", "two", "unsaved"]
        seen = [texts(repo.load("s"))]
        change = repo.cache.change
        repo.cache.change = lambda *args: (change(*args), seen.append(texts(repo.load("s"))))[0]
    loader.result()
    assert set(map(tuple, seen)) == {("one", "two", "unsaved")}
    assert repo.cache.unsaved_ids() == ["s"]


def test_a_failure_is_not_absence(steered_repo, clock):
    """A storage that fails does not lead to an empty session over a full one, nor to a cached "nothing"."""
    repo = steered_repo
    begin(repo, "one")
    repo.cache.invalidate("s")
    repo.storage.always("read", failing())
    assert repo.load("s") is None
    with pytest.raises(StorageError):
        repo.load_or_create("s")
    stranger = Session.new("s", clock=clock)
    with pytest.raises(StorageError):
        repo.save(stranger)
    repo.storage.never_mind()
    repo.save(stranger)
    assert texts(stranger) == texts(repo.load("s")) == ["one"]


def test_a_failing_three_method_storage_is_not_an_empty_one(clock):
    """What it raises reaches callers as StorageError with the cause kept; load gives None and caches nothing."""
    storage = WholeSessions()
    repo = bundle(storage, clock)
    begin(repo, "one")
    repo.cache.invalidate("s")
    storage.fails = ConnectionResetError("gone")
    with pytest.raises(StorageError) as caught:
        repo.try_load("s")
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    assert repo.load("s") is None
    storage.fails = None
    assert texts(repo.load("s")) == ["one"]


# -- publishing --------------------------------------------------------------------------------------------------


def test_saves_publish_in_the_order_in_which_they_commit(steered_repo, clock):
    """A save held between its commit and its publish holds back the next one, so that the cache ends at the newest."""
    repo = steered_repo
    begin(repo, "one")
    a, b = repo.load("s"), repo.load("s")
    a.add_message(Message.user("a"))
    b.add_message(Message.user("b"))
    with held(repo.storage, "was committed", repo.save, a) as first:
        second = Worker(repo.save, b)
        assert second.is_waiting()
        assert texts(repo.load("s")) == ["one"]
    first.result()
    second.result()
    assert texts(repo.cache.peek("s")) == texts(stored(repo.storage, "s")) == ["one", "a", "b"]


def test_a_late_publish_does_not_replace_a_newer_copy(steered_repo, storage, clock):
    """Somebody else committed and this cache has seen it before our own publish comes: it stays at the newer state.

    Over a storage with a lock that cannot happen: there the other one waits.
    """
    if hasattr(steered_repo.storage, "lock"):
        pytest.skip("the storage's own lock keeps the other one out")
    repo = steered_repo
    begin(repo, "one")
    mine = repo.load("s")
    mine.add_message(Message.user("mine"))
    with held(repo.storage, "was committed", repo.save, mine) as saver:
        theirs = bundle(storage, clock)
        session = theirs.load_merged("s")
        session.add_message(Message.user("theirs"))
        clock.forward(seconds=1)
        theirs.save(session)
        assert texts(repo.load_merged("s")) == ["one", "mine", "theirs"]
    saver.result()
    assert texts(repo.cache.peek("s")) == ["one", "mine", "theirs"]


@pytest.mark.parametrize("fresh", [False, True], ids=["saved before", "first save"])
def test_a_late_publish_does_not_fill_the_gap_that_a_newer_copy_left(steered_repo, storage, clock, fresh):
    """The newer state was shown and evicted again before our own publish comes: no load goes back behind it."""
    if hasattr(steered_repo.storage, "lock"):
        pytest.skip("the storage's own lock keeps the other one out")
    repo = steered_repo
    mine = Session.new("s", clock=clock) if fresh else begin(repo, "one")
    mine.add_message(Message.user("mine"))
    with held(repo.storage, "was committed", repo.save, mine) as saver:
        theirs = bundle(storage, clock)
        session = theirs.load_merged("s")
        session.add_message(Message.user("theirs"))
        theirs.save(session)
        seen = texts(repo.load_merged("s"))
        assert seen[-1] == "theirs"
        repo.cache.invalidate("s")
    saver.result()
    assert texts(repo.load("s")) == seen
    assert repo.cache._tickets == {}


def test_a_save_that_nobody_overtook_is_cached(steered_repo, clock):
    """Also where others might have been faster: the load after it asks no storage."""
    begin(steered_repo, "one")
    steered_repo.storage.always("read", failing())
    assert texts(steered_repo.load("s")) == ["one"]


def test_hits_go_on_while_a_save_is_in_progress(steered_repo):
    """P7, P11: with a save held in the storage and the session's lock taken, loads of that session answer at once."""
    repo = steered_repo
    begin(repo, "one")
    mine = repo.load("s")
    mine.add_message(Message.user("two"))
    for point in ("read", "commit", "was committed"):
        mine.metadata["point"] = point
        with held(repo.storage, point, repo.save, mine) as saver:
            assert Worker(repo.load, "s").result() is not None
        saver.result()


def test_a_hit_takes_no_lock(clock):
    """P11: with the cache's own lock held by somebody who never lets go, a cached load still answers."""
    repo = bundle(MemoryStorage(clock=clock), clock)
    begin(repo, "one")
    with repo.cache._lock:
        assert texts(Worker(repo.load, "s").result()) == ["one"]


def test_work_on_one_session_does_not_wait_for_another(steered_repo, clock):
    """P11: while a save of "s" is stuck in the storage, another session is loaded, merged, saved, edited and deleted."""
    repo = steered_repo
    stuck = begin(repo, "one")
    other = Session.new("other", clock=clock)
    repo.save(other)
    stuck.add_message(Message.user("two"))

    def everything():
        other.add_message(Message.user("o"))
        repo.save(other)
        repo.set_title("other", "t")
        with repo.edit("other") as session:
            session.pinned = True
        repo.cache.invalidate("other")
        seen = repo.load("other"), repo.load_merged("other")
        repo.delete("other")
        return seen

    with held(repo.storage, "commit", repo.save, stuck) as saver:
        loaded, merged = Worker(everything).result()
        assert (loaded.title, merged.pinned, texts(loaded)) == ("t", True, ["o"])
        assert saver.is_waiting()
    saver.result()


def test_an_unsaved_copy_of_a_busy_session_does_not_hold_up_others(clock):
    """P11: a save takes an overdue unsaved copy along, but not one whose session somebody is working on."""
    storage = steered(MemoryStorage(clock=clock))
    repo = bundle(storage, clock, cache=SessionCache(1, clock=clock))
    begin(repo, "one")
    unsaved = repo.load("s")
    unsaved.add_message(Message.user("unsaved"))
    storage.at("commit", failing())
    repo.save_and_cache(unsaved)
    repo.save(Session.new("fills the cache", clock=clock))

    def busy():
        with repo.edit("s") as session:
            storage._pass("busy", "s")
            session.pinned = True

    with held(storage, "busy", busy) as editor:
        for number in range(3):
            Worker(repo.save, Session.new(f"other {number}", clock=clock)).result()
    editor.result()
    repo.flush()
    assert texts(stored(storage, "s")) == ["one", "unsaved"]


# -- what grows --------------------------------------------------------------------------------------------------


def test_lock_tables_do_not_grow(storage, clock):
    """P12: after a thousand sessions were saved, loaded, edited and missed, no lock, ticket or note of one is left."""
    repo = bundle(storage, clock)
    records, few = repo.persistence.records, 0
    before = tables(records, repo)
    for number in range(200 if records.name == "json_files" else 1000):
        session_id = f"s{number}"
        repo.save(Session.new(session_id, clock=clock))
        repo.cache.invalidate(session_id)
        repo.load(session_id)
        repo.load(f"nobody {number}")
        repo.set_pinned(session_id, True)
        repo.delete(session_id)
        few = max(few, *tables(records, repo).values())
    assert tables(records, repo) == before
    assert few <= 2


def tables(records, repo):
    """How many entries each table of locks, holds and tickets has, whatever it is called."""
    counted = {"holds": len(repo.persistence._holds), "tickets": len(repo.cache._tickets)}
    kinds = ("_locks", "_read", "_outer", "_busy", "_held")
    return counted | {name: len(vars(records)[name]) for name in kinds if hasattr(vars(records).get(name), "__len__")}


def test_the_question_of_a_newer_save_is_there_after_a_late_look(steered_repo, clock):
    """P4: a look from before a question was asked does not take it away from the cached copy."""
    repo = steered_repo
    begin(repo, "one")
    with held(repo.storage, "was read", repo.try_load_merged, "s") as loader:
        asking = repo.persistence.load("s")
        asking.set_pending_question(tool_call_id="call-1", question="?")
        repo.save(asking)
    loader.result()
    assert open_calls(repo.load("s")) == ["call-1"]
