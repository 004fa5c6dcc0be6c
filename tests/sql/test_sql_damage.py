"""Damaged rows of a database: every look at all sessions goes on with the others, and a copy names what it cannot bring."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bamboo_sessions import CorruptSession, LayeredStorage, MemoryStorage, Message, Session, copy_sessions
from tests.sql.test_sql_storage import raw

DAMAGED = ["{", "{}", "[]", "null", '{"id":"t"}', '{"id":"s"}']


@pytest.fixture
def damage(bundle):
    """`damage(storage, head)`: three sessions, the one in the middle with this head."""
    def done(storage, head):
        repo = bundle(storage)
        for name in ("r", "s", "t"):
            repo.save(Session.new(name))
        raw(storage, "UPDATE bamboo_session SET head = ? WHERE namespace = ? AND id = ?", head, storage.namespace, "s")
        return storage

    return done


@pytest.mark.parametrize("head", DAMAGED)
def test_a_damaged_head_in_a_database_is_named_by_a_copy(storage, damage, head):
    """What a listing leaves out, or cannot take apart, is among the problems, and the others are copied: "settled, no problems"
    would have the source deleted."""
    damage(storage, head)
    target = MemoryStorage()
    report = copy_sessions(storage, target)
    assert sorted(found["id"] for found, _ in target.heads()) == ["r", "t"]
    assert [problem.session_id for problem in report.problems] == ["s"]


@pytest.mark.parametrize("head", ["{", "[]"])
def test_a_damaged_head_behind_layers_or_a_time_to_live_is_named(opened, damage, head):
    """The listing is the last layer's, and so is what it leaves out; with a time to live another statement lists."""
    storage = damage(opened(ttl=timedelta(hours=1)), head)
    report = copy_sessions(LayeredStorage([MemoryStorage(), storage]), MemoryStorage())
    assert (report.copied, [problem.session_id for problem in report.problems]) == (2, ["s"])


@pytest.mark.parametrize("head", DAMAGED)
def test_a_damaged_head_in_the_target_is_named_and_left_alone(storage, damage, head):
    """What can still be read of it is all there is."""
    source = MemoryStorage()
    copy_sessions(damage(storage, "{}"), source)
    source.save_session(Session.new("s"))
    raw(storage, "UPDATE bamboo_session SET head = ? WHERE namespace = ? AND id = ?", head, storage.namespace, "s")
    report = copy_sessions(source, storage)
    assert (report.same, [problem.session_id for problem in report.problems]) == (2, ["s"])
    assert raw(storage, "SELECT head FROM bamboo_session WHERE namespace = ? AND id = ?", storage.namespace, "s")[0][0] == head


@pytest.mark.parametrize("head", ["{", "{}", "[]", "null", '{"id":"t"}'])
def test_a_damaged_head_does_not_end_a_look_at_all_sessions(storage, damage, head):
    """`clear` and `heads` go on with the others, as lists and searches do; what cannot be read stays."""
    damage(storage, head)
    told = []
    for listing in (storage.heads(), storage.heads_telling(lambda session_id, _why: told.append(session_id))):
        assert [found["id"] for found, _ in listing] == ["r", "t"]
    assert told == ["s"]
    assert storage.clear() == 2
    with pytest.raises(CorruptSession):
        storage.read("s")


@pytest.mark.parametrize("line", ["{", "[]", '{"id":"m"}', '{"id":"m","m":[]}', '{"id":5,"m":{}}'])
def test_a_damaged_message_is_named_by_a_copy(storage, bundle, line):
    """The rows are as many as they should be, and one of them is no message: it does not become one by being copied."""
    repo = bundle(storage)
    for name in ("r", "s", "t"):
        session = Session.new(name)
        session.add_message(Message.user("hello"))
        repo.save(session)
    raw(storage, "UPDATE bamboo_message SET line = ? WHERE namespace = ? AND id = ?", line, storage.namespace, "s")
    target = MemoryStorage()
    report = copy_sessions(storage, target)
    assert sorted(found["id"] for found, _ in target.heads()) == ["r", "t"]
    assert [problem.session_id for problem in report.problems] == ["s"]
