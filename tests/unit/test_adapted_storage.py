"""Somebody's own storage with three methods gets cache, merge and every promise that does not depend on its disk."""

from __future__ import annotations

import gc
import pickle
import weakref
from contextlib import contextmanager
from datetime import timedelta

import attrs
import pytest

from bamboo_sessions import (
    CorruptSession,
    JsonFileStorage,
    LockedSessionStore,
    LockTimeout,
    MemoryStorage,
    Message,
    RevisionConflict,
    Session,
    SessionDeleted,
    Storage,
    StorageError,
    StorageUnavailable,
)
from bamboo_sessions.storages.adapted import as_records
from bamboo_sessions.storages.protocol import RecordStorage, SessionLocks, has_locks, has_usage_log
from bamboo_sessions.storages.records import commit_of
from tests.support import ChatsOnly, WholeSessions, Worker, bundle, open_calls, stored, texts


def first(repo, *words):
    session = Session.new("s", clock=repo._clock)
    session.messages = [Message.user(word) for word in words]
    repo.save(session)
    return session


@pytest.fixture(params=[WholeSessions, ChatsOnly])
def own(request):
    return request.param()


def test_record_storages_are_left_as_they_are(tmp_path):
    """Only a storage that cannot keep records is adapted; the adapter can, and has a lock."""
    for storage in (MemoryStorage(), JsonFileStorage(tmp_path)):
        assert as_records(storage) is storage
    adapter = as_records(WholeSessions())
    assert isinstance(adapter, RecordStorage)
    assert isinstance(adapter, SessionLocks)


def test_one_storage_has_one_adapter(own):
    """Two repositories on one storage share its locks, also when they are made at the same time."""
    made = [worker.result() for worker in [Worker(as_records, own) for _ in range(8)]]
    assert all(adapter is made[0] for adapter in made)


def test_a_storage_is_let_go():
    """P12: neither the adapter nor the table of store ids holds it."""
    storage = WholeSessions()
    repo, gone = bundle(storage), weakref.ref(storage)
    first(repo, "one")
    del storage, repo
    gc.collect()
    assert gone() is None


def test_a_storage_is_known_again_by_its_copies(own, clock):
    """A repository made later on the same storage takes a copy of the earlier one for its own: P9 holds between them."""
    session = first(bundle(own, clock), "one")
    gc.collect()
    bundle(own, clock).delete("s")
    gc.collect()
    session.add_message(Message.user("two"))
    with pytest.raises(SessionDeleted):
        bundle(own, clock).save(session)


def test_a_storage_need_not_be_hashable(clock):
    """attrs and dataclasses make classes with equality and without a hash."""

    @attrs.define
    class Mine(Storage):
        kept: dict = attrs.field(factory=dict)

        def load_session(self, session_id):
            return self.kept.get(session_id)

        def save_session(self, session):
            self.kept[session.id] = session

        def delete_session(self, session_id):
            return self.kept.pop(session_id, None) is not None

    one, two = Mine(), Mine()
    assert one == two
    first(bundle(one, clock), "one")
    assert stored(two, "s") is None
    assert texts(stored(one, "s")) == ["one"]


def test_merging_works_over_it(own, clock):
    """P2: two repositories with held copies, each of which has more to say: nothing is lost and nothing doubled."""
    a_repo, b_repo = bundle(own, clock), bundle(own, clock)
    a = first(a_repo, "one")
    b = b_repo.load("s")
    for number in range(3):
        a.add_message(Message.user(f"a{number}"))
        b.add_message(Message.user(f"b{number}"))
        a_repo.save(a)
        b_repo.save(b)
    assert sorted(texts(stored(own, "s"))) == ["a0", "a1", "a2", "b0", "b1", "b2", "one"]
    assert texts(b) == texts(stored(own, "s"))


def test_edits_and_removals_merge_over_it(own, clock):
    """P2: a message removed by one and one replaced by the other, though ids are not kept."""
    a_repo, b_repo = bundle(own, clock), bundle(own, clock)
    a = first(a_repo, "one", "two", "three")
    b = b_repo.load("s")
    a.remove_message(a.messages[0].id)
    a_repo.save(a)
    b.replace_message(b.messages[1].id, Message.user("TWO"))
    b_repo.save(b)
    assert texts(stored(own, "s")) == ["TWO", "three"]


class Counting(Storage):
    """Somebody's storage around one of ours, whose plain save counts revisions by itself."""

    def __init__(self):
        self.inner = MemoryStorage()
        self.load_session, self.save_session = self.inner.load_session, self.inner.save_session

    def load_session(self, session_id):
        raise NotImplementedError

    save_session = delete_session = load_session


def test_a_storage_that_counts_by_itself_is_followed(clock):
    """Its revisions run ahead of those that were handed in: the copy still descends from what it was saved as."""
    own = Counting()
    a_repo, b_repo = bundle(own, clock), bundle(own, clock)
    a = first(a_repo, "one", "two")
    for number in range(4):
        a.metadata["n"] = number
        assert a_repo.save(a).conflicts == ()
    b = b_repo.load("s")
    b.remove_message(b.messages[0].id)
    assert b_repo.save(b).conflicts == ()
    a.add_message(Message.user("three"))
    assert a_repo.save(a).conflicts == ()
    assert texts(stored(own, "s")) == ["two", "three"]


@pytest.mark.parametrize("saves", [0, 1, 2])
def test_removals_after_several_saves_of_one_copy(own, clock, saves):
    """P2: what a copy calls its messages stays what they are called, save after save, though ids are not kept."""
    repo = bundle(own, clock)
    session = first(repo, "one", "two", "three")
    for number in range(saves):
        session.metadata["n"] = number
        repo.save(session)
    bundle(own, clock).update("s", lambda s: s.add_message(Message.user("theirs")))
    session.remove_message(session.messages[1].id)
    repo.save(session)
    assert texts(session) == texts(stored(own, "s")) == ["one", "three", "theirs"]


def test_questions_and_people_over_it(own, clock):
    """P4, P5: an answer is applied once, a person's title stays."""
    repo, ui = bundle(own, clock), bundle(own, clock)
    runtime = first(repo, "one")
    runtime.set_pending_question(tool_call_id="call-1", question="?")
    repo.save(runtime)
    ui.set_title("s", "by a person")
    ui.answer("s", "call-1", "yes")
    runtime.set_title("generated", source="generated")
    repo.save(runtime)
    after = stored(own, "s")
    assert (after.title, open_calls(after), texts(after)) == ("by a person", [], ["one", "yes"])


def test_what_it_is_handed_is_a_copy(clock):
    """It may keep it: nothing done to the caller's session later reaches it."""
    own = WholeSessions()
    repo = bundle(own, clock)
    session = first(repo, "one")
    session.metadata["k"] = {"list": [1]}
    repo.save(session)
    session.metadata["k"]["list"].append(2)
    session.add_message(Message.user("two"))
    assert own.kept["s"].metadata == {"k": {"list": [1]}}
    assert texts(own.kept["s"]) == ["one"]


def test_what_it_returns_is_copied(clock):
    """It may give its own object away: what a caller does to a loaded session does not reach it."""
    own = WholeSessions()
    own.load_session = own.kept.get
    repo = bundle(own, clock)
    first(repo, "one")
    repo.cache.clear()
    session = repo.load("s")
    session.add_message(Message.user("two"))
    session.metadata["k"] = 1
    session.title = "mine"
    inside = own.kept["s"]
    assert (texts(inside), inside.metadata, inside.title) == (["one"], {}, None)


@pytest.mark.parametrize("call", [
    lambda repo: repo.try_load("s"), lambda repo: repo.try_load_merged("s"), lambda repo: repo.exists("s"),
    lambda repo: repo.delete("s"), lambda repo: repo.set_pinned("s", True), lambda repo: repo.save(Session.new("s")),
])
def test_whatever_it_raises_reaches_callers_as_a_storage_error(clock, call):
    """With the cause kept."""
    own = WholeSessions()
    own.fails = KeyError("no such table")
    with pytest.raises(StorageUnavailable) as caught:
        call(bundle(own, clock))
    assert caught.value.__cause__ is own.fails
    assert "no such table" in str(caught.value)


def test_its_own_storage_errors_pass_as_they_are(clock):
    """A storage that knows the error tree is not wrapped."""
    own = WholeSessions()
    own.fails = CorruptSession("s", path="/x", offset=3, reason="r")
    with pytest.raises(CorruptSession) as caught:
        bundle(own, clock).try_load("s")
    assert caught.value is own.fails


def test_outcomes(clock):
    """A failed load was surely not applied, a failed save may have been."""
    own = WholeSessions()
    repo = bundle(own, clock)
    session = first(repo, "one")
    own.fails = OSError()
    with pytest.raises(StorageUnavailable) as caught:
        repo.try_load_merged("s")
    assert caught.value.outcome == "not applied"
    own.fails = None
    own.save_session = lambda session: 1 / 0
    session.add_message(Message.user("two"))
    with pytest.raises(StorageUnavailable) as caught:
        repo.save(session)
    assert caught.value.outcome == "unknown"
    del own.save_session
    repo.save(session)
    assert texts(stored(own, "s")) == ["one", "two"]


def test_a_storage_with_a_lock_of_its_own_has_it_taken(clock):
    """For the time of a read, merge and commit; its LockTimeout comes through and leaves nothing locked."""
    taken = []

    class Locking(WholeSessions):
        @contextmanager
        def lock(self, session_id, timeout):
            if taken == ["never"]:
                raise LockTimeout(session_id, timeout)
            taken.append("in")
            yield
            taken.append("out")

        def save_session(self, session):
            taken.append("save")
            super().save_session(session)

    own = Locking()
    repo = bundle(own, clock)
    session = first(repo, "one")
    assert taken == ["in", "save", "out"]
    taken[:] = ["never"]
    with pytest.raises(LockTimeout):
        repo.save(session)
    assert len(as_records(own)._locks) == 0


def test_another_process_that_was_faster_is_noticed_where_revisions_are_kept(clock):
    """What came between read and write is compared with what is there, and the save starts again."""
    own = WholeSessions()
    repo = bundle(own, clock)
    session = first(repo, "one")
    records = repo.persistence.records
    commit, behind = records.commit, []

    def overtaken(change):
        if not behind:
            behind.append(own.load_session("s"))
            other = WholeSessions()
            other.kept = own.kept
            bundle(other, clock).update("s", lambda s: s.add_message(Message.user("theirs")))
        return commit(change)

    records.commit = overtaken
    session.add_message(Message.user("mine"))
    repo.save(session)
    assert texts(stored(own, "s")) == ["one", "theirs", "mine"]


def test_a_commit_against_another_state_is_refused(clock):
    """As in every record storage."""
    own = WholeSessions()
    records = LockedSessionStore(own, clock=clock).records
    other = WholeSessions()
    first(bundle(other, clock), "one")
    state = other.kept["s"]._state()
    records.commit(commit_of(None, state, "op", 0, list(state.messages)))
    with pytest.raises(RevisionConflict):
        records.commit(commit_of(None, state, "op-2", 0, list(state.messages)))


def test_listing_is_there_where_the_storage_has_it(clock):
    """A fourth method, `heads`, is enough; without it StorageUnavailable says what is missing."""
    with pytest.raises(StorageUnavailable, match="heads"):
        bundle(WholeSessions(), clock).list()

    class Listing(WholeSessions):
        def heads(self):
            return iter([({"id": "s", "birth": "b", "revision": 1, "created_at": "2026-01-01T00:00:00.000000Z",
                           "updated_at": "2026-01-01T00:00:00.000000Z"}, 3)])

    (item,) = bundle(Listing(), clock).list().items
    assert (item.id, item.message_count) == ("s", 3)


def test_close_reaches_it():
    """Closing the repository closes the storage below."""
    closed = []

    class Closing(WholeSessions):
        def close(self):
            closed.append(True)

    bundle(Closing()).close()
    assert closed == [True]


def test_a_storage_can_still_be_pickled(clock):
    """Nothing is put onto somebody's object: what could be pickled before can be afterwards."""
    own = WholeSessions()
    first(bundle(own, clock), "one")
    assert texts(pickle.loads(pickle.dumps(own)).load_session("s")) == ["one"]


def test_errors_are_storage_errors():
    """StorageUnavailable is one."""
    assert issubclass(StorageUnavailable, StorageError)


class HandsOn:
    """A wrapper with no methods of its own."""

    def __init__(self, inner):
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)


def test_a_wrapper_that_hands_everything_on_keeps_the_powers_of_what_it_wraps(tmp_path):
    """Powers are found by asking the object, on every Python: `isinstance` with a Protocol asks the class from 3.12 on."""
    for inner in (MemoryStorage(), JsonFileStorage(tmp_path)):
        wrapper = HandsOn(inner)
        assert as_records(wrapper) is wrapper
        assert has_locks(wrapper) is has_locks(inner)
        assert has_usage_log(wrapper) is has_usage_log(inner) is True


def test_a_touch_counts_however_many_come_after_it(clock, monkeypatch):
    """The memory of touches is bounded; whom it forgets it takes for active as late as anybody whom it forgot."""
    monkeypatch.setattr("bamboo_sessions.storages.adapted._PASTS_KEPT", 3)
    own = WholeSessions()
    own.ttl, own.clock = timedelta(hours=1), clock
    repo, names = bundle(own, clock), [str(number) for number in range(7)]
    for name in names:
        repo.save(Session.new(name, clock=clock))
    clock.forward(minutes=59)
    for name in names:
        repo.touch(name)
    clock.forward(minutes=59)
    assert [name for name in names if repo.exists(name)] == names
    assert not any(as_records(own).purge_record(name) for name in names)
    clock.forward(minutes=2)
    assert not any(repo.exists(name) for name in names)
