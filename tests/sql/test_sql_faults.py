"""Connections that break, at every point of a commit: nothing twice, nothing lost, nobody told what is not known."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import ExitStack

import psycopg
import pytest
from sqlalchemy import create_engine

from bamboo_sessions import (
    LockedSessionStore,
    Message,
    RevisionConflict,
    SessionCache,
    SessionRepository,
    StorageUnavailable,
)
from bamboo_sessions.storages.sql.database import ConnectionLost, read_url
from bamboo_sessions.storages.sql.patience import PatientConnection
from bamboo_sessions.storages.sql.storage import SqlStorage
from bamboo_sessions.testing.scribe import BIRTH, Page, first, later, written
from tests import servers
from tests.sql.proxy import FaultProxy


@pytest.fixture
def proxy():
    with FaultProxy(servers.database()) as proxy:
        yield proxy


@pytest.fixture
def through(proxy, request):
    """A storage whose connections go through the proxy, in a namespace of the test's own."""
    storage = SqlStorage(proxy.url, namespace=request.node.name[:120], pool_size=2)
    yield storage
    proxy.fault = None
    storage.close()


@pytest.fixture
def direct(request, through):
    """What the server holds, seen without the proxy."""
    storage = SqlStorage(servers.database(), namespace=request.node.name[:120])
    yield storage
    storage.close()


@pytest.mark.parametrize("fault", ["reset", "lose reply", "torn reply"])
@pytest.mark.parametrize("kind", ["first", "append", "rewrite"])
def test_a_commit_whose_connection_breaks_is_applied_once(through, direct, proxy, fault, kind):
    """Before it arrived, after it was carried out, in the middle of the answer: it returns, and is there once."""
    commits = [first("s", "a", "b")] if kind == "first" else [first("s", "a", "b"), later("s", 2, 2 if kind == "append" else 1, "c")]
    for commit in commits[:-1]:
        through.commit(commit)
    proxy.fault = fault
    stamp = through.commit(commits[-1])
    assert proxy.met == 1
    assert Page().as_seen(direct.read("s")) == written(*commits)
    assert written(*commits).as_seen(through.read("s", stamp)) == written(*commits)


@pytest.mark.parametrize("replies", range(5))
def test_a_rewrite_that_breaks_after_any_of_its_statements(through, direct, proxy, replies):
    """BEGIN, UPDATE, DELETE, INSERT, COMMIT: whichever of their answers gets lost, the commit is applied once."""
    commits = [first("s", "a", "b"), later("s", 2, 1, "B", "C")]
    through.commit(commits[0])
    proxy.skip, proxy.fault = replies, "lose reply"
    through.commit(commits[1])
    assert proxy.met == 1
    assert Page().as_seen(direct.read("s")) == written(*commits)


def test_a_commit_that_was_applied_and_deleted_before_its_answer_was_missed(through, direct, proxy):
    """Found by its operation id in what is remembered of the deleted session: not applied again, so it stays deleted."""
    through.commit(first("s", "a"))
    inner = through._commit

    def delete_then_lose(commit):
        through._commit = inner
        inner(commit)
        direct.delete_record("s")
        raise ConnectionLost("commit", session_id="s", reason="on purpose")

    through.delete_record("s")
    through._commit = delete_then_lose
    through.commit(first("s", "again", birth="second birth", op="only once"))
    assert direct.read("s") is None
    assert direct.was_deleted("s", "second birth")


def test_an_outcome_that_cannot_be_learnt_is_said_to_be_unknown(through, direct, proxy):
    """The answer lost, then nobody there: StorageUnavailable, unknown; a later save finds its operation id."""
    through.commit(first("s", "a"))
    commit = later("s", 2, 1, "b")
    inner = through._commit

    def lose(commit):
        proxy.fault = "refuse"
        return inner(commit)

    through._commit = lose
    with pytest.raises(StorageUnavailable) as caught:
        through.commit(commit)
    assert caught.value.outcome == "unknown"


def test_a_server_that_is_not_there_has_applied_nothing(through, direct, proxy):
    """Not applied, where not even a connection could be made; reads say so too, and never that there is no session."""
    through.commit(first("s", "a"))
    proxy.fault = "refuse"
    proxy.cut()
    through._database.start_anew()
    for call in (lambda: through.commit(later("s", 2, 1, "b")), lambda: through.read("s"), lambda: through.exists("s")):
        with pytest.raises(StorageUnavailable) as caught:
            call()
        assert caught.value.outcome == "not applied"
    proxy.fault = None
    assert Page().as_seen(through.read("s")) == written(first("s", "a"))


@pytest.mark.parametrize("fault", ["reset", "lose reply", "torn reply"])
def test_a_read_whose_connection_breaks_is_asked_again(through, proxy, fault):
    """Nobody notices; also where every connection of the pool is broken."""
    through.commit(first("s", "a"))
    proxy.cut()
    assert Page().as_seen(through.read("s")) == written(first("s", "a"))
    proxy.fault = fault
    assert Page().as_seen(through.read("s")) == written(first("s", "a"))


def test_the_other_connections_are_not_trusted_either(through, proxy):
    """A neighbour takes the place of the one that broke; what is left in the pool broke as well, and is not used again."""
    through.commit(first("s", "a"))
    database, taken = through._database, []
    with database.cursor("test"), database.cursor("test"):
        pass  # both connections of the pool are open
    give_back = database.give_back

    def and_take(line, *, fit):
        give_back(line, fit=fit)
        if not taken:
            taken.append(database.engine.raw_connection())

    database.give_back = and_take
    proxy.cut()
    assert Page().as_seen(through.read("s")) == written(first("s", "a"))
    taken[0].close()
    del database.give_back


def test_a_black_hole_is_waited_for_no_longer_than_told(through, proxy, monkeypatch):
    """Whatever takes everything and says nothing: unknown, after `longest`, not after the kernel's minutes."""
    through.commit(first("s", "a"))
    monkeypatch.setattr(PatientConnection, "longest", 0.3)
    proxy.fault = "black hole"
    inner = through._commit_again
    through._commit_again = lambda commit, error: (setattr(proxy, "fault", "refuse"), inner(commit, error))[1]
    with pytest.raises(StorageUnavailable) as caught:
        through.commit(later("s", 2, 1, "b"))
    assert caught.value.outcome == "unknown"


@pytest.mark.parametrize("fault", ["reset", "lose reply", "torn reply"])
def test_a_deletion_whose_connection_breaks(through, direct, proxy, fault):
    """Unknown, once more than BEGIN was sent; asked again it says what is so. It is never repeated here: a new session may
    stand there by then."""
    through.commit(first("s", "a"))
    proxy.skip, proxy.fault = 1, fault
    with pytest.raises(StorageUnavailable) as caught:
        through.delete_record("s")
    assert caught.value.outcome == "unknown"
    through.delete_record("s")
    assert direct.read("s") is None
    assert direct.was_deleted("s", BIRTH)


# -- through a repository, each fault of a line ---------------------------------------------------------------------------

PATIENCE = 0.3
OUTCOMES = {"refuse": "unknown", "reset": None, "black hole": "unknown", "lose reply": None, "torn reply": None, "slow": None}
"""What a save says: None, it returns. A line that is refused or silent breaks again when the storage asks what became of it."""


@pytest.mark.parametrize("fault", OUTCOMES)
def test_a_save_over_a_bad_line_is_told_the_truth_and_heals(proxy, direct, monkeypatch, request, fault):
    """Each fault: no longer than told, no outcome but the true one, and the same object saved again says each word once."""
    monkeypatch.setattr(PatientConnection, "longest", PATIENCE)
    storage = SqlStorage(f"{proxy.url}&connect_timeout=2", namespace=request.node.name[:120], pool_size=2)
    repo = SessionRepository(SessionCache(), storage, LockedSessionStore(storage))
    session, before = repo.load_or_create("s"), ["a", "b", "c"]
    for word in before:
        session.add_message(Message.user(word))
        repo.save(session)  # often enough that the next one does not look first: what breaks is the commit
    session.add_message(Message.user("during"))
    proxy.fault, began, outcome = fault, time.monotonic(), None
    if fault == "refuse":
        proxy.cut()
    try:
        repo.save(session)
    except StorageUnavailable as error:
        outcome = error.outcome
    took = time.monotonic() - began
    assert outcome == OUTCOMES[fault]
    assert took < 2 * PATIENCE + 4  # an answer that does not come, twice; and two seconds each for a new connection
    proxy.fault = None
    session.add_message(Message.user("after"))
    repo.save(session)
    assert [message.content for message in direct.load_session("s").messages] == [*before, "during", "after"]
    repo.close()


@pytest.mark.parametrize("fault", ["refuse", "black hole"])
def test_loads_over_a_dead_line_end_in_time_and_heal(through, proxy, monkeypatch, fault):
    """"Not applied", for there was nothing to apply; not "no such session"; and the next one reads."""
    through.commit(first("s", "a"))
    monkeypatch.setattr(PatientConnection, "longest", PATIENCE)
    proxy.fault = fault
    proxy.cut()
    if fault == "black hole":  # in the middle of an answer: the second connection then finds nobody
        proxy.fault = None
        assert through.exists("s")
        proxy.fault = fault
        monkeypatch.setattr(through._database, "start_anew", _refusing(proxy, through._database.start_anew))
    with pytest.raises(StorageUnavailable) as caught:
        through.read("s")
    assert caught.value.outcome == "not applied"
    proxy.fault = None
    assert Page().as_seen(through.read("s")) == written(first("s", "a"))


def _refusing(proxy, start_anew):
    def start():
        proxy.fault = "refuse"
        start_anew()

    return start


def test_a_commit_that_arrives_after_it_was_given_up_is_not_applied_twice(through, direct, proxy, monkeypatch):
    """The line is slower than the client's patience: the commit is sent again over another one, and both arrive."""
    commits = [first("s", "a"), later("s", 2, 1, "b"), later("s", 3, 2, "c")]
    through.commit(commits[0])
    monkeypatch.setattr(PatientConnection, "longest", PATIENCE)
    proxy.fault, proxy.delay = "slow", 3 * PATIENCE
    inner, late = through._commit_again, []

    def over_a_good_line(commit, error):
        proxy.fault = None
        late.append(error)
        return inner(commit, error)

    through._commit_again = over_a_good_line
    through.commit(commits[1])
    assert len(late) == 1
    through.commit(commits[2])
    with psycopg.connect(servers.database(), autocommit=True) as admin:  # until the late one was dealt with: its connection ends
        while proxy.forwarded_late < 1 or admin.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() "
                "AND datname = current_database()").fetchone()[0]:
            time.sleep(0.01)
    assert Page().as_seen(direct.read("s")) == written(*commits)


# -- connections that broke while nobody used them ------------------------------------------------------------------------


@pytest.fixture
def stale(request):
    """A storage with three connections in its pool, each of which the server has ended."""
    storage = SqlStorage(servers.database(), namespace=request.node.name[:120], pool_size=4)
    storage.commit(first("s", "a"))
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(storage._open.cursor("test"))
    end_connections()
    yield storage
    storage.close()


def end_connections(those="application_name = 'bamboo_sessions'"):
    """An administrator's, as at a restart of the server; returns when they have ended."""
    with psycopg.connect(servers.database(), autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                      f"WHERE datname = current_database() AND pid <> pg_backend_pid() AND {those}")


@pytest.mark.parametrize("change", ["append_usage", "touch", "delete_record", "alone"])
def test_a_change_that_did_not_get_beyond_its_beginning_is_begun_anew(stale, change):
    """After a restart of the server: nothing but BEGIN was sent, so to repeat it is safe, and to say "unknown" is not so."""
    if change == "alone":
        with stale.alone("s"):
            pass
        return
    getattr(stale, change)("s", *([b"1"] if change == "append_usage" else []))


def test_a_change_that_cannot_even_begin_is_not_applied(through, proxy, monkeypatch):
    """Broken at BEGIN, and again over a new connection: that much is known."""
    through.commit(first("s", "a"))
    monkeypatch.setattr(through._database.statements, "begin_writing", "SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(StorageUnavailable) as caught:
        through.delete_record("s")
    assert caught.value.outcome == "not applied"


@pytest.mark.parametrize("broken", [1, 3])
def test_an_engine_whose_connections_broke_before_it_was_given(request, broken):
    """Its owner used it before a restart of the server: the storage opens, and what broke is closed on the way."""
    engine = create_engine(read_url(servers.database()), connect_args={"application_name": "somebody"}, pool_size=4)
    with ExitStack() as stack:
        for _ in range(broken):
            stack.enter_context(engine.connect()).exec_driver_sql("SELECT 1")
    end_connections("application_name = 'somebody'")
    storage = SqlStorage(engine, namespace=request.node.name)
    storage.commit(first("s", "a"))
    assert Page().as_seen(storage.read("s")) == written(first("s", "a"))
    storage.close()
    engine.dispose()


# -- a server that only reads --------------------------------------------------------------------------------------------


def test_a_server_that_takes_no_changes_says_so(request):
    """A replica that nobody promoted: not applied, and it is named as the reason; reads go on."""
    writer = SqlStorage(servers.database(), namespace=request.node.name)
    writer.commit(first("s", "a"))
    query = "options=-c%20default_transaction_read_only%3Don"
    replica = SqlStorage(f"{servers.database()}{'&' if '?' in servers.database() else '?'}{query}", namespace=request.node.name)
    for call in (lambda: replica.commit(later("s", 2, 1, "b")), lambda: replica.delete_record("s"),
                 lambda: replica.append_usage("s", b"1"), lambda: replica.alone("s").__enter__()):
        with pytest.raises(StorageUnavailable, match="takes no changes") as caught:
            call()
        assert caught.value.outcome == "not applied"
    assert Page().as_seen(replica.read("s")) == written(first("s", "a"))
    replica.close()
    writer.close()


def test_a_refused_statement_is_no_broken_connection(opened_by_admin):
    """A lock that does not come in time: not applied, said at once, and the connection is kept."""
    storage, _ = opened_by_admin
    storage.commit(first("s", "a"))
    kept = storage._database._warm[0].connection.dbapi_connection
    with storage._open.cursor("test") as cursor:
        cursor.execute("SET lock_timeout = 50")
    with psycopg.connect(servers.database()) as other:
        other.execute("SELECT 1 FROM bamboo_session WHERE namespace = %s FOR UPDATE", (storage.namespace,))
        with pytest.raises(StorageUnavailable, match="LockNotAvailable") as caught:
            storage.commit(later("s", 2, 1, "b"))
    assert caught.value.outcome == "not applied"
    storage.commit(later("s", 2, 1, "b"))
    assert storage._database._warm[0].connection.dbapi_connection is kept


def test_a_connection_that_led_to_the_primary_once_is_given_up(request):
    """After a failover what it leads to only reads; the save goes on over a new connection, and its caller hears nothing."""
    url = servers.new_database()
    storage = SqlStorage(url, create=True, pool_size=2)
    storage.commit(first("s", "a"))
    with storage._open.cursor("test") as cursor:
        cursor.execute("SET default_transaction_read_only = on")
    storage.commit(later("s", 2, 1, "b"))
    assert Page().as_seen(storage.read("s")) == written(first("s", "a"), later("s", 2, 1, "b"))
    storage.close()


@pytest.mark.parametrize(("given", "hosts"), [
    ("postgresql://ann:x@h1:1,h2:2/db?target_session_attrs=read-write", ("h1:1", "h2:2")), ("postgres://h1,h2/db", ("h1", "h2"))])
def test_several_hosts_in_a_url(given, hosts):
    """As libpq writes them; whoever takes changes is found by the driver."""
    url = read_url(given)
    assert (url.query["host"], url.database, url.drivername) == (hosts, "db", "postgresql+psycopg")


# -- many at once ---------------------------------------------------------------------------------------------------------


def test_writers_lose_nothing_while_connections_break(through, proxy):
    """Four threads with repositories of their own, every few replies a broken connection: each word once."""
    repos = [SessionRepository(SessionCache(), through, LockedSessionStore(through)) for _ in range(4)]
    ended = threading.Event()

    def trouble():
        while not ended.wait(0.01):
            proxy.skip, proxy.fault = 7, "lose reply"

    def write(number):
        for turn in range(12):
            session = patiently(lambda: repos[number].load_or_create("s"))
            session.add_message(Message.user(f"{number}-{turn}"))
            patiently(lambda: repos[number].save(session))  # noqa: B023 - called at once

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    troubling = threading.Thread(target=trouble)
    troubling.start()
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    ended.set()
    troubling.join()
    proxy.fault = None
    said = [message.content for message in through.load_session("s").messages]
    assert sorted(said) == sorted(f"{number}-{turn}" for number in range(4) for turn in range(12))
    assert proxy.met > 3


def patiently(act):
    """As a careful caller does: again, where the outcome is not known; also where two connections broke in a row."""
    for _ in range(50):
        try:
            return act()
        except (StorageUnavailable, RevisionConflict):
            continue
    raise AssertionError("fifty times in a row")


def test_a_server_that_ends_all_sessions(opened_by_admin):
    """An administrator's pg_terminate_backend, as at a restart: the next call goes on with a new connection."""
    storage, end_all = opened_by_admin
    storage.commit(first("s", "a"))
    end_all()
    storage.commit(later("s", 2, 1, "b"))
    end_all()
    assert Page().as_seen(storage.read("s")) == written(first("s", "a"), later("s", 2, 1, "b"))


@pytest.fixture
def opened_by_admin(request):
    storage = SqlStorage(servers.database(), namespace=request.node.name)

    def end_all():
        with psycopg.connect(servers.database(), autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                          "WHERE datname = current_database() AND pid <> pg_backend_pid()")

    yield storage, end_all
    storage.close()


def test_a_file_that_somebody_else_writes_to_is_waited_for(tmp_path, monkeypatch):
    """SQLite has one writer: a commit waits its turn, and says "not applied" where that does not come."""
    monkeypatch.setattr("bamboo_sessions.storages.sql.database.WAIT", 0.2)
    storage = SqlStorage(f"sqlite:///{tmp_path}/x.db", durability="process")
    storage.commit(first("s", "a"))
    other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageUnavailable, match="locked") as caught:
        storage.commit(later("s", 2, 1, "b"))
    assert caught.value.outcome == "not applied"
    assert Page().as_seen(storage.read("s")) == written(first("s", "a"))
    other.execute("ROLLBACK")
    storage.commit(later("s", 2, 1, "b"))
    other.close()
    storage.close()


def test_a_full_disk_undoes_the_commit(tmp_path):
    """Not applied, and the next one that fits goes through."""
    storage = SqlStorage(f"sqlite:///{tmp_path}/x.db", durability="process", pool_size=1)
    storage.commit(first("s", "a"))
    with storage._open.cursor("test") as cursor:
        cursor.execute("PRAGMA max_page_count=1")
        pages = cursor.execute("PRAGMA page_count").fetchone()[0]
        cursor.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(StorageUnavailable, match="full") as caught:
        storage.commit(later("s", 2, 1, "x" * 100_000))
    assert caught.value.outcome == "not applied"
    storage.commit(later("s", 2, 1, "b"))
    assert Page().as_seen(storage.read("s")) == written(first("s", "a"), later("s", 2, 1, "b"))
    storage.close()
