"""Births in databases: a first commit stands on there being no such session, which is true again after a deletion; and another
life over one that is there."""

from __future__ import annotations

import time

import psycopg
import pytest

from bamboo_sessions import Message, Session, SessionDeleted, StorageUnavailable
from bamboo_sessions.storages.sql.patience import PatientConnection
from bamboo_sessions.storages.sql.statements import Statements
from bamboo_sessions.storages.sql.storage import SqlStorage
from bamboo_sessions.storages.sql.using import Change
from bamboo_sessions.testing.scribe import BIRTH, first
from tests import servers
from tests.sql.proxy import FaultProxy

PATIENCE = 0.3


class Line:
    """Two storages, one of them over a line that is slow for one thing that is sent, which then arrives late."""

    def __init__(self, namespace, monkeypatch):
        monkeypatch.setattr(PatientConnection, "longest", PATIENCE)
        self._patch = monkeypatch
        self.proxy = FaultProxy(servers.database()).__enter__()
        self.through = SqlStorage(self.proxy.url, namespace=namespace[:120], pool_size=2)
        self.direct = SqlStorage(servers.database(), namespace=namespace[:120])

    def is_slow_for(self, owner, name):
        right, again = getattr(owner, name), self.through._commit_again

        def slow(*given, **more):
            self._patch.setattr(owner, name, right)
            self.proxy.fault, self.proxy.delay = "slow", 3 * PATIENCE
            return right(*given, **more)

        def over_a_good_line(commit, error):
            self.proxy.fault = None
            return again(commit, error)

        self._patch.setattr(owner, name, slow)
        self.through._commit_again = over_a_good_line

    def is_silent(self):
        """What was late has arrived, and nothing is under way."""
        with psycopg.connect(servers.database(), autocommit=True) as admin:
            busy = ("SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle' AND pid <> pg_backend_pid() "
                    "AND datname = current_database()")
            while self.proxy.forwarded_late < 1 or admin.execute(busy).fetchone()[0]:
                time.sleep(0.01)
        time.sleep(0.05)

    def close(self):
        self.through.close()
        self.direct.close()
        self.proxy.__exit__(None, None, None)


@pytest.fixture
def line(request, monkeypatch):
    made = Line(request.node.name, monkeypatch)
    yield made
    made.close()


@pytest.mark.timeout(60)
def test_a_first_commit_that_arrives_late_brings_no_deleted_session_back(line):
    """P9: given up, sent again over another line, applied, the session deleted; and then the first sending arrives."""
    line.is_slow_for(Statements, "at_once")
    line.through.commit(first("s", "a"))
    assert line.direct.delete_record("s")
    line.is_silent()
    assert line.direct.was_deleted("s", BIRTH)
    assert line.direct.read("s") is None


@pytest.mark.timeout(60)
def test_a_first_commit_whose_end_arrives_late_is_recognised(line):
    """P1, P9: what holds the row until then keeps a second sending out, so nobody knows; afterwards it is there, once."""
    line.is_slow_for(Change, "_committed")
    with pytest.raises(StorageUnavailable) as caught:
        line.through.commit(first("s", "a"))
    assert caught.value.outcome == "unknown"
    line.is_silent()
    line.through.commit(first("s", "a"))
    assert len(line.direct.read("s").messages) == 1


def test_a_first_commit_of_a_birth_that_ended_meanwhile_gives_it_no_second_life(opened, bundle):
    """P9: a sibling is saved and deleted between this save's look at the tombstones and its commit; copies of the sibling go on
    being refused."""
    slow, quick = bundle(opened()), bundle(opened())
    mine = Session.new("s")
    copies = [mine.snapshot()]
    commit = slow.storage.commit

    def after_a_whole_life(change):
        slow.storage.commit = commit
        quick.save(copies[0])
        quick.delete("s")
        return commit(change)

    slow.storage.commit = after_a_whole_life
    slow.persistence.records.commit = after_a_whole_life
    slow.save(mine)
    copies[0].add_message(Message.user("of the session that was deleted"))
    with pytest.raises(SessionDeleted):
        quick.save(copies[0])


ROW = {"id": "s", "created_at": "2026-01-01T00:00:00Z", "messages": [{"role": "user", "content": "a"}]}


def as_new():
    session = Session.new("s")
    session.add_message(Message.user("a"))
    return session, session.as_new()


@pytest.mark.parametrize("twice", [as_new, lambda: (Session.from_dict(ROW), Session.from_dict(ROW))])
def test_a_plain_save_of_another_birth_can_be_read_again(storage, twice):
    """`save_session` stores over whatever is there, also where nothing a list looks at but the birth is another; the birth is a column."""
    for session in twice():
        storage.save_session(session)
    assert [message.content for message in storage.load_session("s").messages] == ["a"]
