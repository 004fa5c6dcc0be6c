"""The primary is killed while writers are at work, and the replica takes its place."""

from __future__ import annotations

import threading
import time

import pytest

from bamboo_sessions import (
    LockedSessionStore,
    Message,
    RevisionConflict,
    Session,
    SessionCache,
    SessionRepository,
    StorageUnavailable,
)
from tests.clusters import Cluster
from tests.sql.proxy import FaultProxy

WRITERS, SHARED, BEFORE, AFTER = 4, "shared", 40, 20


@pytest.fixture
def cluster():
    with Cluster() as cluster:
        yield cluster


class Writer(threading.Thread):
    """Saves one copy of a session of its own and one of a session that all share, again where that failed, and notes what
    was acknowledged and when."""

    def __init__(self, url, number):
        super().__init__(daemon=True)
        from bamboo_sessions import SqlStorage  # noqa: PLC0415 - an extra

        storage = SqlStorage(url, pool_size=3)
        self.repo = SessionRepository(SessionCache(), storage, LockedSessionStore(storage))
        self.number, self.acknowledged, self.outcomes, self.broke = number, [], [], None
        self.enough, self.progress = threading.Event(), threading.Semaphore(0)

    def run(self):
        try:
            own, shared = self.repo.load_or_create(f"own {self.number}"), self.repo.load_or_create(SHARED)
            while not self.enough.is_set():
                for session in (own, shared):
                    word = f"{self.number}.{len(self.acknowledged)}"
                    session.add_message(Message.user(word))
                    self._saved(session)
                    self.acknowledged.append((session.id, word))
                self.progress.release()
        except BaseException as error:
            self.broke = error
            raise
        finally:
            self.progress.release(1_000_000)

    def _saved(self, session):
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            try:
                return self.repo.save(session)
            except RevisionConflict:
                continue
            except StorageUnavailable as error:
                self.outcomes.append(error.outcome)
                time.sleep(0.02)  # nobody there yet
        raise AssertionError("not once in forty seconds")

    def wait_for(self, turns):
        for _ in range(turns):
            assert self.progress.acquire(timeout=50)


def found(url):
    """{session: its words}, as a newcomer sees them."""
    repo = SessionRepository.open(url)
    try:
        return {item.id: [message.content for message in repo.try_load(item.id).messages] for item in repo.list(limit=100).items}
    finally:
        repo.close()


def begin(url):
    """The tables and the shared session."""
    from bamboo_sessions.storages.sql import upgrade  # noqa: PLC0415 - an extra

    upgrade(url)
    with SessionRepository.open(url) as repo:
        repo.save(Session.new(SHARED))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("way", ["several hosts", "a proxy that is pointed elsewhere"])
def test_a_promoted_replica_has_all_that_was_acknowledged(cluster, tried, way):
    """Nothing acknowledged is lost, and nothing that was tried again is there twice; writers go on by themselves."""
    with FaultProxy(cluster.primary.url) as proxy:
        url = cluster.url if way == "several hosts" else f"{proxy.url}&connect_timeout=2"
        begin(cluster.primary.url)
        writers = [Writer(url, number) for number in range(WRITERS)]
        [writer.start() for writer in writers]
        [writer.wait_for(BEFORE) for writer in writers]
        cluster.primary.kill()
        acknowledged = sum(len(writer.acknowledged) for writer in writers)
        time.sleep(0.3)  # writers meet a server that is not there, and one that only reads
        proxy.point_at(cluster.replica.url)
        time.sleep(0.3)
        cluster.replica.promote()
        [writer.wait_for(writer.progress._value + AFTER) for writer in writers]
        [writer.enough.set() for writer in writers]
        [writer.join(60) for writer in writers]
        assert [writer.broke for writer in writers] == [None] * WRITERS
        there = found(cluster.replica.url)
    assert any(writer.outcomes for writer in writers), "nobody noticed"
    said = [entry for writer in writers for entry in writer.acknowledged]
    for session_id, words in there.items():
        assert sorted(words) == sorted(word for of, word in said if of == session_id)
        for number in range(WRITERS):  # in the order in which they were said
            own = [word for word in words if word.startswith(f"{number}.")]
            assert own == [word for of, word in said if of == session_id and word in set(own)]
    tried("saves acknowledged before a primary was killed", acknowledged)


@pytest.mark.timeout(120)
def test_a_save_to_a_replica_is_not_applied(cluster):
    """Before it is promoted: reads answer, saves say why not; afterwards the same object is saved over the same storage."""
    begin(cluster.primary.url)
    cluster.replica.until("SELECT EXISTS (SELECT 1 FROM pg_tables WHERE tablename = 'bamboo_session')")
    repo = SessionRepository.open(cluster.replica.url)
    session = repo.try_load(SHARED)
    session.add_message(Message.user("late"))
    with pytest.raises(StorageUnavailable, match="takes no changes") as caught:
        repo.save(session)
    assert caught.value.outcome == "not applied"
    cluster.primary.kill()
    cluster.replica.promote()
    repo.save(session)
    repo.close()
    assert found(cluster.replica.url)[SHARED] == ["late"]
