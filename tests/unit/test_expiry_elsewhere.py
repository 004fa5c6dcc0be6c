"""Time to live when others are at work: purged by another one, made anew under the id, with work that was not saved yet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bamboo_sessions import (
    JsonFileStorage,
    LayeredStorage,
    MemoryStorage,
    Message,
    Session,
    SessionExpired,
    StorageUnavailable,
)
from bamboo_sessions.testing import FailingStorage, ManualClock, Wrapping
from tests.support import ChatsOnly, WholeSessions, bundle, texts

HOUR = timedelta(hours=1)


@pytest.fixture
def clock():
    return ManualClock(datetime.now(UTC))


@pytest.fixture(params=["memory", "json_files", "layers", "three_methods"])
def ours_and_theirs(request, clock, tmp_path):
    """The storage objects of two processes, or one that two repositories share."""
    if request.param == "json_files":
        return [JsonFileStorage(tmp_path, durability="process", ttl=HOUR, clock=clock) for _ in range(2)]
    one = WholeSessions() if request.param == "three_methods" else MemoryStorage(clock=clock)
    if request.param == "three_methods":
        one.ttl, one.clock = HOUR, clock
    else:
        one.expire_after(HOUR)
    if request.param == "layers":
        return [LayeredStorage([MemoryStorage(clock=clock), one], clock=clock) for _ in range(2)]
    return [one, one]


@pytest.fixture
def failing(clock):
    return FailingStorage(MemoryStorage(ttl=HOUR, clock=clock))


def started(storage, clock, *words):
    """A repository, and a session that it just saved."""
    repo, session = bundle(storage, clock), Session.new("s", clock=clock)
    for word in words or ("old",):
        session.add_message(Message.user(word))
    repo.save(session)
    return repo, session


def replaced(storage, clock):
    """Expired, purged by another one, and made anew by it."""
    clock.forward(hours=2)
    assert bundle(storage, clock).purge_expired() == 1
    started(storage, clock, "new")


# -- what a cache still holds ------------------------------------------------------------------------------------


def test_what_another_one_purged_is_not_shown_from_a_cache(ours_and_theirs, clock):
    """Its time ran out, and that it is not even there any more does not bring it back."""
    ours, theirs = ours_and_theirs
    repo, _ = started(ours, clock)
    clock.forward(hours=2)
    assert bundle(theirs, clock).purge_expired() == 1
    assert (repo.load("s"), repo.try_load("s"), ours.read("s") if hasattr(ours, "read") else None) == (None, None, None)
    assert "s" not in repo.cache


@pytest.mark.parametrize("first", ["load", "touch", "edit"])
def test_what_took_the_id_of_an_expired_session_is_shown_in_its_place(ours_and_theirs, clock, first):
    """Nor does its liveliness count for the old one's cached copy, whoever asks for it first."""
    ours, theirs = ours_and_theirs
    repo, _ = started(ours, clock)
    replaced(theirs, clock)
    if first == "touch":
        repo.touch("s")
    elif first == "edit":
        with pytest.raises(ZeroDivisionError), repo.edit("s"):
            raise ZeroDivisionError
    assert texts(repo.load("s")) == ["new"]


def test_what_took_the_id_of_an_expired_session_is_shown_by_layers(clock):
    """Their copies are asked for as long as the last layer said that the session lives, and no longer."""
    last = MemoryStorage(ttl=HOUR, clock=clock)
    layered = LayeredStorage([MemoryStorage(clock=clock), last], clock=clock)
    started(layered, clock)
    replaced(last, clock)
    assert texts(layered.load_session("s")) == texts(bundle(layered, clock).load("s")) == ["new"]


def test_a_copy_in_a_layer_costs_no_word_of_the_last_one_while_the_session_lives(clock):
    """Also where its sessions expire; after that the last layer is asked once, and a copy is good for as long again."""
    last = FailingStorage(MemoryStorage(ttl=HOUR, clock=clock))
    layered = LayeredStorage([MemoryStorage(clock=clock), last], clock=clock)
    started(layered, clock)
    for _ in range(2):
        last.fail("read", times=9)
        last.fail("time_left", times=9)
        before, failed = layered.read_plain("s"), last.failed
        clock.forward(minutes=59)
        assert layered.read_plain("s") == before
        assert last.failed == failed
        last.recover()
        clock.forward(minutes=2)
        last.inner.touch("s")
        layered.read_plain("s")


# -- a purge between two steps of a reader -----------------------------------------------------------------------


class Purging(Wrapping):
    """An expired session is purged when it is asked about, behind one call of that name."""

    after = None

    def _call(self, name, call, *args):
        answer = call(*args)
        if name == self.after:
            self.after = None
            self.inner.purge_record("s")
        return answer


@pytest.mark.parametrize("after", ["read", "time_left"])
@pytest.mark.parametrize("ask", ["load", "try_load", "load_merged", "store"])
def test_a_purge_in_the_middle_of_a_load_shows_nothing(clock, ask, after):
    """The session had expired before the load began, and nothing of it is cached."""
    storage = Purging(MemoryStorage(ttl=HOUR, clock=clock))
    started(storage, clock)
    clock.forward(hours=2)
    storage.after, repo = after, bundle(storage, clock)
    assert (repo.persistence.load if ask == "store" else getattr(repo, ask))("s") is None
    assert "s" not in repo.cache


@pytest.mark.parametrize("layers", [False, True])
@pytest.mark.parametrize("files", [False, True])
@pytest.mark.parametrize("ask", ["load_session", "get_session", "get_metadata", "exists"])
def test_a_purge_in_the_middle_of_a_plain_call_shows_nothing(clock, tmp_path, files, layers, ask):
    """As above, by the methods that every store has."""
    base = JsonFileStorage if files else MemoryStorage

    class Bad(base):
        purging = False

        def time_left(self, session_id):
            if self.purging:
                self.purging = False
                self.purge_record(session_id)
            return super().time_left(session_id)

    last = Bad(tmp_path, durability="process", ttl=HOUR, clock=clock) if files else Bad(ttl=HOUR, clock=clock)
    storage = LayeredStorage([MemoryStorage(clock=clock), last], clock=clock) if layers else last
    started(last, clock)
    clock.forward(hours=2)
    last.purging = True
    try:
        assert not getattr(storage, ask)("s")
    except SessionExpired:
        assert ask.startswith("get_")


@pytest.mark.parametrize("files", [False, True])
def test_a_purge_from_within_an_edit_leaves_its_session_alone(clock, tmp_path, files):
    """It would join the edit's hold; somebody is at work on it, and that is whoever calls."""
    storage = (JsonFileStorage(tmp_path, durability="process", ttl=HOUR, clock=clock) if files
               else MemoryStorage(ttl=HOUR, clock=clock))
    repo, _ = started(storage, clock)
    with repo.edit("s") as session:
        clock.forward(hours=2)
        assert repo.purge_expired() == 0
        session.add_message(Message.user("slow"))
    assert texts(repo.load("s")) == ["old", "slow"]


@pytest.mark.parametrize("create", [False, True])
def test_a_storage_without_births_gives_no_expired_session_to_a_new_one(clock, create):
    """Nobody can tell one life of it from another but by this: who was never saved has nothing there to be merged with."""
    own = ChatsOnly()
    own.ttl, own.clock = HOUR, clock
    repo, mine = started(own, clock)
    clock.forward(hours=2)
    mine.add_message(Message.user("renewed"))
    repo.save(mine)
    assert texts(repo.load("s")) == ["old", "renewed"]
    clock.forward(hours=2)
    fresh = Session.new("s", clock=clock) if create else repo.load_or_create("s")
    (repo.create if create else repo.save)(fresh)
    assert texts(repo.load("s")) == texts(bundle(own, clock).load("s")) == []


# -- work that was not saved yet ---------------------------------------------------------------------------------


def kept(failing, clock):
    """A repository with unsaved work on a session whose time has run out, and the copy that it is in."""
    repo, mine = started(failing, clock)
    mine.add_message(Message.user("kept"))
    failing.fail("commit")
    repo.save_and_cache(mine)
    clock.forward(hours=2)
    return repo, mine


def by_id(repo):
    return {item.id: item.message_count for item in repo.list().items}


def assert_both_are_there(repo, counts):
    """The new one under the id, and the unsaved work of the old one beside it."""
    found = by_id(repo)
    assert found.pop("s") == counts[0]
    assert list(found.values()) == [counts[1]]
    assert repo.cache.stats().unsaved == 0


@pytest.mark.parametrize("look", ["load", "load_merged", "try_load_merged"])
def test_a_look_at_what_took_its_id_does_not_lose_unsaved_work(failing, clock, look):
    """It goes on beside it: nobody deleted the session, so nobody meant the work to go with it."""
    repo, _ = kept(failing, clock)
    replaced(failing, clock)
    getattr(repo, look)("s")
    repo.flush()
    assert_both_are_there(repo, (1, 2))


@pytest.mark.parametrize("purged", [False, True])
@pytest.mark.parametrize("how", ["create", "save", "store"])
def test_taking_the_id_here_does_not_lose_unsaved_work(failing, clock, how, purged):
    """Also where it takes the place of the expired one by itself, and where the commit came past the repository."""
    repo, _ = kept(failing, clock)
    if purged:
        assert repo.purge_expired() == 1
    fresh = Session.new("s", clock=clock)
    {"create": repo.create, "save": repo.save, "store": repo.persistence.save}[how](fresh)
    assert texts(repo.load("s")) == []
    repo.flush()
    assert_both_are_there(repo, (0, 2))


def test_unsaved_work_of_a_deleted_session_goes_with_it(failing, clock):
    """P9 stands where sessions expire, too: whoever deletes means all of it."""
    repo, _ = kept(failing, clock)
    other = bundle(failing, clock)
    other.delete("s")
    started(failing, clock, "new")
    repo.load_merged("s")
    repo.flush()
    assert by_id(repo) == {"s": 1}


def test_a_flush_whose_answer_was_lost_makes_no_second_session(failing, clock):
    """What goes on as a new session is saved once, however often that is tried; copies of the old one stay refused."""
    repo, mine = kept(failing, clock)
    bundle(failing, clock).purge_expired()
    failing.fail("commit", when="after")
    with pytest.raises(StorageUnavailable):
        repo.flush()
    repo.flush()
    assert by_id(repo) == {"s": 2}
    mine.add_message(Message.user("more"))
    with pytest.raises(SessionExpired):
        repo.save(mine)


def test_a_flush_that_cannot_look_goes_on_with_the_others(failing, clock):
    """The error is given at the end; the work stays for the next time."""
    repo, _ = kept(failing, clock)
    bundle(failing, clock).purge_expired()
    other = Session.new("t", clock=clock)
    failing.fail("commit")
    repo.save_and_cache(other)
    failing.fail("read", skip=1)
    with pytest.raises(StorageUnavailable):
        repo.flush()
    assert by_id(repo) == {"t": 0}
    repo.flush()
    assert by_id(repo) == {"s": 2, "t": 0}
