"""Every public method of `LockedSessionStore`, used alone: without a repository and without a cache."""

from __future__ import annotations

import gc
import time

import pytest

from bamboo_sessions import (
    InvalidSessionId,
    InvalidValue,
    JsonFileStorage,
    LockedSessionStore,
    LockTimeout,
    MemoryStorage,
    Message,
    Session,
    SessionDeleted,
    SessionNotFound,
    StorageUnavailable,
)
from bamboo_sessions.cache import Ticket
from tests.support import WholeSessions, Worker, texts


@pytest.fixture
def store(storage, clock):
    return LockedSessionStore(storage, clock=clock)


class Listener:
    """Writes down what it is told."""

    def __init__(self):
        self.heard = []

    def expect(self, session_id):
        return Ticket(session_id)

    def release(self, ticket):
        ticket.void = True

    def committed(self, base, saver, ticket=None):
        self.heard.append(("committed", base.state.head.revision, saver))

    def deleted(self, session_id):
        self.heard.append(("deleted", session_id))

    def known(self, session_id):
        return None


def first(store, *words):
    session = Session.new("s", clock=store._clock)
    session.messages = [Message.user(word) for word in words]
    store.save(session)
    return session


def test_load_gives_the_newest_committed_copy(store):
    """Always from the storage, the caller's own; None where there is none."""
    assert store.load("s") is None
    first(store, "one")
    mine = store.load("s")
    mine.add_message(Message.user("not saved"))
    assert texts(store.load("s")) == ["one"]
    with pytest.raises(InvalidSessionId):
        store.load("")


def test_save_merges(store):
    """Two copies of one revision, saved one after the other: both changes stand, and both objects end equal."""
    a = first(store, "one")
    b = store.load("s")
    a.add_message(Message.user("a"))
    b.add_message(Message.user("b"))
    assert store.save(a).revision == 2
    assert store.save_runtime_session(b).revision == 3
    assert texts(b) == texts(store.load("s")) == ["one", "a", "b"]


def test_an_unchanged_save_writes_nothing(store):
    """Its result says so and the revision stays."""
    session = first(store, "one")
    result = store.save(session)
    assert (result.changed, result.revision, store.load("s").revision) == (False, 1, 1)


def test_publishers_hear_of_every_commit_and_deletion(store):
    """In order, each once; one that is gone is forgotten."""
    one, two = Listener(), Listener()
    store.register(one)
    store.register(two)
    session = first(store, "one")
    store.update("s", lambda s: s.add_message(Message.user("two")))
    with store.edit("s") as edited:
        edited.pinned = True
    store.delete("s")
    expected = [("committed", 1, None), ("committed", 2, None), ("committed", 3, None), ("deleted", "s")]
    assert one.heard == two.heard == expected
    del two
    gc.collect()
    store.save(session.as_new())
    assert len(list(store._listeners())) == 1


def test_registering_while_others_save(store):
    """A repository that is made while another thread saves disturbs nobody."""
    session, listeners = first(store), []

    def save():
        for number in range(200):
            session.metadata["n"] = number
            store.save(session)

    saver = Worker(save)
    while saver.is_waiting() and len(listeners) < 500:
        listeners.append(Listener())
        store.register(listeners[-1])
    saver.result()


def test_a_look_at_an_unchanged_state_gives_that_state_itself(clock):
    """The very base that was named, while it is what storage holds; another one after the next commit."""
    store = LockedSessionStore(MemoryStorage(clock=clock), clock=clock)
    session = first(store, "one")
    base = session._origin.base
    assert store.look("s", base).base is base
    store.update("s", lambda s: s.add_message(Message.user("two")))
    assert store.look("s", base).base is not base


def test_is_current_knows_by_the_stamp_alone(tmp_path):
    """True while the journal stands as it did, False from the next commit on, and False for a storage that cannot tell."""
    store, other = (LockedSessionStore(JsonFileStorage(tmp_path)) for _ in range(2))
    first(store, "one")
    deadline = time.monotonic() + 10
    while not store.is_current(stamp := store.look("s").base.stamp):  # young times are not trusted yet
        assert time.monotonic() < deadline
    other.update("s", lambda s: s.add_message(Message.user("two")))
    assert not store.is_current(stamp)
    assert not LockedSessionStore(MemoryStorage()).is_current(stamp)


def test_delete_and_after(store):
    """True once; copies of the deleted session are refused, nothing comes back."""
    session = first(store, "one")
    assert store.delete("s") is True
    assert store.delete("s") is False
    session.add_message(Message.user("two"))
    with pytest.raises(SessionDeleted):
        store.save(session)
    assert store.load("s") is None
    with pytest.raises(InvalidSessionId):
        store.delete("")


def test_edit_and_update_need_a_session(store):
    """SessionNotFound; bad ids are refused before anything is locked."""
    with pytest.raises(SessionNotFound):
        store.update("s", lambda s: None)
    with pytest.raises(SessionNotFound), store.edit("s"):
        pass
    with pytest.raises(InvalidSessionId):
        store.update("", lambda s: None)


def test_update_says_what_it_did(store):
    """A change that changes nothing is no commit."""
    first(store)
    assert store.update("s", lambda s: setattr(s, "pinned", True)).changed
    assert not store.update("s", lambda s: setattr(s, "pinned", True)).changed


def test_a_save_can_be_told_how_long_to_wait(store):
    """timeout=0 asks once."""
    session = first(store)
    with store.edit("s"):
        impatient = Worker(lambda: store.save(session, timeout=0))
        with pytest.raises(LockTimeout):
            impatient.result()


def test_usage_records(clock):
    """Kept by a storage that keeps them; one line of JSON, of an existing session."""
    store = LockedSessionStore(MemoryStorage(clock=clock), clock=clock)
    with pytest.raises(SessionNotFound):
        store.append_token_usage_record("s", "{}")
    first(store)
    store.append_token_usage_record("s", '{"a":1}')
    store.append_token_usage_record("s", b'{"a":2}\n')
    assert store.storage._kept["s"].usage == [b'{"a":1}', b'{"a":2}']
    for bad in ("", "{", '{"a":1}\n{"a":2}', "{}\r{}", '"\ud800"', '"\\ud800"', b'"\xed\xa0\x80"', b'"\xff"'):
        with pytest.raises(InvalidValue):
            store.append_token_usage_record("s", bad)
    with pytest.raises(StorageUnavailable):
        LockedSessionStore(WholeSessions()).append_token_usage_record("s", "{}")
