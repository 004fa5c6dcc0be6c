"""The reference storage: commits against an expected state, deltas since a stamp, a memory for the dead."""

from __future__ import annotations

import attrs
import pytest

from bamboo_sessions import MemoryStorage, Message, RevisionConflict, Session, SessionDeleted, SessionNotFound
from bamboo_sessions.codec import patch_json
from bamboo_sessions.storages.protocol import (
    OPS_KEPT,
    UNCHANGED,
    Change,
    Commit,
    Delta,
    Record,
    RecordStorage,
    SessionLocks,
)
from tests.support import START, bundle, texts

TIME = "2026-01-01T12:00:00.000000Z"


def first(op="op1", birth="b", lines=(b"1",)):
    head = {"id": "s", "birth": birth, "created_at": TIME, "updated_at": TIME}
    return Commit("s", None, Change(1, op, 0, list(lines), {"set": head}))


def later(revision, keep, *lines, op=None, birth="b", head=None):
    return Commit("s", (birth, revision - 1), Change(revision, op or f"op{revision}", keep, list(lines), head or {}))


@pytest.fixture
def kept():
    storage = MemoryStorage()
    storage.commit(first())
    return storage


def test_what_it_is():
    """A record storage without a lock; each object is a store of its own."""
    storage = MemoryStorage()
    assert isinstance(storage, RecordStorage)
    assert not isinstance(storage, SessionLocks)
    assert storage.store_id == storage.store_id != MemoryStorage().store_id


def test_reading_back_what_was_committed(kept):
    """Keep the first k, append these, change the head."""
    kept.commit(later(2, 1, b"2", b"3"))
    kept.commit(later(3, 2, b"4", head={"set": {"title": "t"}}))
    record = kept.read("s")
    assert isinstance(record, Record)
    assert list(record.messages) == [b"1", b"2", b"4"]
    assert (record.head["revision"], record.head["title"], record.ops) == (3, "t", ("op1", "op2", "op3"))
    assert kept.read("another") is None


def test_a_session_begins_anew_under_a_birth_of_its_own(kept):
    """P9: where a save asks for that; what is put back, as a move and a plain save do, may be the one that was deleted."""
    kept.delete_record("s")
    with pytest.raises(RevisionConflict):
        kept.commit(attrs.evolve(first("x"), anew=True))
    assert not kept.exists("s")
    kept.commit(attrs.evolve(first("x", birth="another"), anew=True))
    kept.delete_record("s")
    kept.commit(first("y"))
    assert not kept.was_deleted("s", "b")


@pytest.mark.parametrize("commit", [first("x"), later(3, 1), later(2, 1, birth="another")])
def test_a_commit_against_another_state_is_refused(kept, commit):
    """RevisionConflict with what was expected and found; nothing changes."""
    with pytest.raises(RevisionConflict) as caught:
        kept.commit(commit)
    assert (caught.value.expected, caught.value.found) == (commit.expected, ("b", 1))
    assert kept.read("s").head["revision"] == 1


def test_a_commit_to_nothing_must_expect_nothing():
    """A change of a session that is not there is refused."""
    with pytest.raises(RevisionConflict):
        MemoryStorage().commit(later(2, 0))


def test_a_commit_that_is_the_newest_already_is_not_applied_twice(kept):
    """The same operation id gives the same stamp."""
    stamp = kept.commit(later(2, 1, b"2"))
    assert kept.commit(later(2, 1, b"2")) == stamp
    assert list(kept.read("s").messages) == [b"1", b"2"]


def test_a_stamp_brings_what_came_since(kept):
    """UNCHANGED, then the changes without a gap; the whole record where they are no longer remembered."""
    stamp = kept.read("s").stamp
    assert kept.read("s", stamp) is UNCHANGED
    kept.commit(later(2, 1, b"2"))
    newer = kept.commit(later(3, 2, b"3"))
    delta = kept.read("s", stamp)
    assert isinstance(delta, Delta)
    assert [change.revision for change in delta.changes] == [2, 3]
    assert delta.stamp == newer
    assert kept.read("s", newer) is UNCHANGED
    for revision in range(4, 4 + OPS_KEPT):
        kept.commit(later(revision, 0))
    record = kept.read("s", stamp)
    assert isinstance(record, Record)
    assert len(record.ops) == OPS_KEPT
    assert isinstance(kept.read("s", "no stamp of this storage"), Record)


def test_a_stamp_of_the_predecessor_means_nothing(kept):
    """Deleted and made anew at the same revision: the whole record."""
    stamp = kept.read("s").stamp
    kept.delete_record("s")
    kept.commit(first("op9", birth="c"))
    assert isinstance(kept.read("s", stamp), Record)


def test_deletions_are_remembered(kept):
    """By id and birth, while no session of that birth is there."""
    assert kept.was_deleted("s", "b") is False
    assert kept.delete_record("s") is True
    assert kept.delete_record("s") is False
    assert kept.was_deleted("s", "b") is True
    assert kept.was_deleted("s", "another") is False
    assert kept.was_deleted("t", "b") is False
    assert kept.exists("s") is False
    kept.commit(first("again"))
    assert kept.was_deleted("s", "b") is False


def test_the_memory_for_deletions_is_bounded(monkeypatch):
    """P12: the oldest is forgotten."""
    monkeypatch.setattr("bamboo_sessions.storages.memory._BURIED_KEPT", 2)
    storage = MemoryStorage()
    for birth in "abc":
        storage.commit(first(birth=birth))
        storage.delete_record("s")
    assert [storage.was_deleted("s", birth) for birth in "abc"] == [False, True, True]


def test_heads_are_the_callers_own(kept):
    """With the number of messages; changing one changes nothing inside."""
    ((head, count),) = kept.heads()
    head["title"] = "mine"
    kept.read("s").head["title"] = "mine"
    assert count == 1
    assert "title" not in kept.read("s").head


def test_the_three_plain_methods(clock):
    """save_session stores over whatever is there, keeps updated_at, counts on, and never changes its argument."""
    storage = MemoryStorage(clock=clock)
    session = Session.new("s", clock=clock)
    session.add_message(Message.user("one"))
    session.updated_at = START
    storage.save_session(session)
    assert session.revision == 0
    storage.save_session(session)
    again = storage.load_session("s")
    assert (again.revision, again.updated_at, texts(again), again.birth) == (2, START, ["one"], session.birth)
    other = Session.new("s", clock=clock)
    storage.save_session(other)
    assert (texts(storage.load_session("s")), storage.load_session("s").birth) == ([], other.birth)
    assert storage.delete_session("s") is True
    assert storage.delete_session("s") is False
    assert storage.load_session("s") is None


def test_usage_needs_a_session(kept):
    """It is kept in order; SessionNotFound where there is none."""
    kept.append_usage("s", b"1")
    kept.commit(later(2, 1))
    kept.append_usage("s", b"2")
    assert kept._kept["s"].usage == [b"1", b"2"]
    with pytest.raises(SessionNotFound):
        kept.append_usage("t", b"1")


def test_patch_json_is_what_a_commit_does(kept):
    """The head that is stored is the one that the codec's function gives."""
    before = kept.read("s").head
    change = {"set": {"title": "t"}, "in": {"metadata": {"set": {"k": 1}}}}
    kept.commit(later(2, 1, head=change))
    assert kept.read("s").head == {**patch_json(before, change), "revision": 2}


# -- making room -------------------------------------------------------------------------------------------------


def evicted(clock):
    """A repository with a session of five revisions that its storage has let go, and a copy of it."""
    storage = MemoryStorage(1, evict="lru", clock=clock)
    repo, mine = bundle(storage, clock), Session.new("s", clock=clock)
    for number in range(5):
        mine.add_message(Message.user(str(number)))
        repo.save(mine)
    bundle(storage, clock).save(Session.new("other", clock=clock))
    assert storage.read("s") is None
    return repo, mine


def test_a_save_of_what_was_evicted_is_what_loads_give(clock):
    """P3: it is the newest state, though its revisions count from one again, and the cache had a higher one."""
    repo, mine = evicted(clock)
    mine.add_message(Message.user("late"))
    assert repo.save(mine).revision == 1
    assert texts(repo.load("s")) == texts(repo.load_merged("s")) == ["0", "1", "2", "3", "4", "late"]


def test_what_was_evicted_can_be_deleted(clock):
    """P9: whoever deletes it means its copies, wherever the storage has put it."""
    repo, mine = evicted(clock)
    assert repo.delete("s") is False
    mine.add_message(Message.user("late"))
    with pytest.raises(SessionDeleted):
        repo.save(mine)


def test_the_memory_of_what_was_evicted_is_bounded(monkeypatch, clock):
    """P12: who falls out of it can be saved after a deletion that did not find it."""
    monkeypatch.setattr("bamboo_sessions.storages.memory._BURIED_KEPT", 3)
    repo, _ = evicted(clock)
    for number in range(10):
        repo.save(Session.new(str(number), clock=clock))
    assert len(repo.storage._evicted) == 3
