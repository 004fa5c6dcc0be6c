"""What people ask of a store: the plain methods of every storage, and a memory storage that is full."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bamboo_sessions import (
    CapacityExceeded,
    JsonFileStorage,
    MemoryStorage,
    Message,
    Session,
    SessionDeleted,
    SessionExpired,
    SessionNotFound,
)
from bamboo_sessions.models.message import Message as Decoded
from bamboo_sessions.storages.adapted import as_records
from bamboo_sessions.testing import ManualClock
from tests.support import WholeSessions, bundle, texts

HOUR = timedelta(hours=1)


class Listed(WholeSessions):
    """Three methods and a fourth one."""

    def __init__(self, clock):
        super().__init__()
        self.ttl, self.clock = HOUR, clock

    def heads(self):
        for session in list(self.kept.values()):
            form = session.to_dict()
            yield {**form, "birth": session.birth}, len(session.messages)


@pytest.fixture
def clock():
    return ManualClock(datetime.now(UTC))


@pytest.fixture(params=["memory", "json_files", "Listed"])
def store(request, clock, tmp_path):
    """A store whose sessions expire after an hour."""
    if request.param == "memory":
        return MemoryStorage(ttl=HOUR, clock=clock)
    if request.param == "json_files":
        return JsonFileStorage(tmp_path, durability="process", ttl=HOUR, clock=clock)
    return as_records(request.getfixturevalue("listed"))


@pytest.fixture
def listed(clock):
    return Listed(clock)


def talk(clock, session_id, *words):
    session = Session.new(session_id, clock=clock, title=f"title of {session_id}")
    for word in words:
        session.add_message(Message.user(word))
    return session


def test_two_styles_of_absence(store, clock):
    """None, or an error that carries the id: not there, or there and expired, before the purge and after it."""
    assert store.load_session("s") is None
    with pytest.raises(SessionNotFound) as absent:
        store.get_session("s")
    assert absent.value.session_id == "s"
    store.save_session(talk(clock, "s", "word"))
    assert texts(store.get_session("s")) == texts(store.load_session("s")) == ["word"]
    clock.forward(hours=2)
    for purge in (lambda: None, lambda: store.purge_record("s")):
        purge()
        assert store.load_session("s") is None
        for get in (store.get_session, store.get_metadata):
            with pytest.raises(SessionExpired) as expired:
                get("s")
            assert expired.value.session_id == "s"
    store.save_session(talk(clock, "s"))
    assert (store.delete_session("s"), store.delete_session("s")) == (True, False)
    with pytest.raises(SessionNotFound):
        store.get_session("s")


def test_what_a_store_tells_of_a_session(store, clock, monkeypatch):
    """A summary, of which no message was decoded; the same one as in a page of the list."""
    for number in range(3):
        store.save_session(talk(clock, f"s{number}", *["word"] * number))
        clock.forward(minutes=1)
    page = store.list_sessions(limit=2)
    rest = store.list_sessions(limit=2, cursor=page.next_cursor)
    assert [item.id for item in (*page.items, *rest.items)] == ["s2", "s1", "s0"]
    if store.name != "Listed":  # that one hands over whole sessions
        monkeypatch.setattr(Decoded, "from_line", None)
    found = store.get_metadata("s2")
    assert (found.id, found.title, found.message_count, found.revision) == ("s2", "title of s2", 2, 1)
    assert store.name in ("memory", "json_files", "Listed")


def test_clearing(store, clock):
    """Everything goes, what nobody sees any more as well, which is not counted; what is saved later stays."""
    for name in ("old", "a", "b"):
        store.save_session(talk(clock, name))
        clock.forward(minutes=40 if name == "old" else 0)
    clock.forward(minutes=40)
    assert (store.clear(), store.list_sessions().items, store.read("old")) == (2, (), None)
    store.save_session(talk(clock, "a"))
    assert [store.exists(name) for name in ("a", "b")] == [True, False]
    assert store.clear() == 1
    assert store.clear() == 0


# -- a full one --------------------------------------------------------------------------------------------------


def test_a_full_store_takes_no_other_session(clock):
    """CapacityExceeded, and nothing was changed: those that are there can be saved, and one that goes makes room."""
    storage = MemoryStorage(2, clock=clock)
    repo, extra = bundle(storage, clock), talk(clock, "c", "word")
    for name in "ab":
        repo.save(talk(clock, name))
    with pytest.raises(CapacityExceeded) as full:
        repo.save(extra)
    assert (full.value.session_id, full.value.capacity) == ("c", 2)
    repo.set_title("a", "title")
    repo.delete("b")
    repo.save(extra)
    assert sorted(item.id for item in repo.list().items) == ["a", "c"]


def test_what_is_expired_makes_room_first(clock):
    """And whoever holds a copy is told so."""
    storage = MemoryStorage(1, HOUR, "lru", clock=clock)
    repo, mine = bundle(storage, clock), talk(clock, "a")
    repo.save(mine)
    clock.forward(hours=2)
    repo.save(talk(clock, "b"))
    with pytest.raises(SessionExpired):
        repo.save(mine)


@pytest.mark.parametrize("use", [
    lambda storage, repo, clock: storage.read("a"),
    lambda storage, repo, clock: repo.set_title("a", "title"),
    lambda storage, repo, clock: storage.touch("a")])
def test_the_least_recently_used_goes(clock, use):
    """Reads, commits and touches are uses."""
    storage = MemoryStorage(2, evict="lru", clock=clock)
    repo = bundle(storage, clock)
    for name in "ab":
        repo.save(talk(clock, name))
    use(storage, repo, clock)
    repo.save(talk(clock, "c"))
    assert [storage.exists(name) for name in "abc"] == [True, False, True]


def test_an_evicted_session_is_not_a_deleted_one(clock):
    """A save of a copy stores all of it, as a first save; two copies of one meet again, and neither loses anything."""
    storage = MemoryStorage(1, evict="lru", clock=clock)
    one, other = bundle(storage, clock), bundle(storage, clock)
    mine = talk(clock, "a", "first")
    one.save(mine)
    yours = other.load("a")
    one.save(talk(clock, "b"))
    assert storage.load_session("a") is None
    mine.add_message(Message.user("mine"))
    one.save(mine)
    yours.add_message(Message.user("yours"))
    other.save(yours)
    assert sorted(texts(storage.load_session("a"))) == ["first", "mine", "yours"]
    assert yours.birth == mine.birth


def test_what_was_deleted_is_not_taken_for_evicted(clock):
    """A storage that evicts remembers its deletions all the same."""
    storage = MemoryStorage(2, evict="lru", clock=clock)
    repo, mine = bundle(storage, clock), talk(clock, "a")
    repo.save(mine)
    repo.delete("a")
    mine.add_message(Message.user("late"))
    with pytest.raises(SessionDeleted):
        repo.save(mine)


@pytest.mark.parametrize("options", [{"capacity": 0}, {"evict": "lru"}, {"capacity": 1, "evict": "fifo"}, {"ttl": -HOUR}])
def test_what_makes_no_sense_is_refused(options):
    """When the store is made, not at the first save."""
    with pytest.raises(ValueError, match=r"must be positive|evict is"):
        MemoryStorage(**options)
