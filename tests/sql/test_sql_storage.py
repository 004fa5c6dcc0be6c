"""Sessions in a database: what it is asked, how often, and what it keeps apart."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import create_engine

from bamboo_sessions import (
    CorruptSession,
    InvalidValue,
    Message,
    RevisionConflict,
    Session,
    SessionExpired,
    SessionRepository,
    StorageUnavailable,
)
from bamboo_sessions.storages.protocol import UNCHANGED, Delta, Record, has_expiry, has_locks
from bamboo_sessions.storages.sql import settings
from bamboo_sessions.storages.sql.database import Line, read_url
from bamboo_sessions.storages.sql.storage import SqlStorage
from bamboo_sessions.testing.scribe import BIRTH, Page, first, later, line, written
from tests import servers
from tests.support import ManualClock


@contextmanager
def counted(storage):
    """The statements that the storage sends meanwhile, by their first word."""
    sent = []
    inner = storage._database._line

    class Counting:
        def __init__(self, cursor):
            self.real = cursor

        def execute(self, text, *values):
            sent.append(text.split()[0])
            return self.real.execute(text, *values)

        def executemany(self, text, *values):
            sent.append(text.split()[0])
            return self.real.executemany(text, *values)

        def __getattr__(self, name):
            return getattr(self.real, name)

    def line():
        taken = inner()
        return Line(taken.connection, Counting(getattr(taken.cursor, "real", taken.cursor)))

    storage._database._line = line
    try:
        yield sent
    finally:
        del storage._database._line


def raw(storage, statement, *values):
    """Behind its back."""
    with storage._open.engine.connect() as connection:
        text = statement.replace("?", "%s") if storage.name == "postgresql" else statement
        result = connection.exec_driver_sql(text, values)
        return result.fetchall() if result.returns_rows else []


def grown(storage, name, revisions, birth=BIRTH):
    commits = [first(name, "w1", birth=birth), *(later(name, n, n - 1, f"w{n}", birth=birth) for n in range(2, revisions + 1))]
    return commits, [storage.commit(commit) for commit in commits]


# -- what is asked --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 60])
def test_an_append_takes_the_same_few_statements_at_any_length(storage, length):
    """PostgreSQL: one, which is one round trip. SQLite: a transaction of two changes. A conversation's length is no part."""
    grown(storage, "s", length)
    with counted(storage) as sent:
        storage.commit(later("s", length + 1, length, "more"))
    assert sent == (["WITH"] if storage.name == "postgresql" else ["BEGIN", "UPDATE", "INSERT", "INSERT", "COMMIT"])


def test_a_commit_by_somebody_who_met_nothing_asks_once_for_the_head(opened):
    """And for no message."""
    grown(opened(), "s", 5)
    other = opened()
    with counted(other) as sent:
        other.commit(later("s", 6, 5, "more"))
    assert sent == ["SELECT", *(["WITH"] if other.name == "postgresql" else ["BEGIN", "UPDATE", "INSERT", "INSERT", "COMMIT"])]


def test_an_edit_rewrites_from_there_on_only(storage):
    """Rows before it are not touched: their physical place in the table is the same as before."""
    grown(storage, "s", 4)
    place = "ctid::text" if storage.name == "postgresql" else "rowid"
    ask = f"SELECT {place} FROM bamboo_message WHERE namespace = ? AND id = ? ORDER BY seq"
    before = raw(storage, ask, storage.namespace, "s")
    storage.commit(later("s", 5, 2, "W3", "W4"))
    after = raw(storage, ask, storage.namespace, "s")
    assert len(after) == 4
    assert before[:2] == after[:2]


def test_an_unchanged_session_costs_one_look_that_brings_no_body(storage):
    """One statement, and neither head nor messages nor operation ids in its row."""
    _, stamps = grown(storage, "s", 3)
    rows, inner = [], storage._asked
    storage._asked = lambda *args: rows.append(inner(*args)) or rows[-1]
    with counted(storage) as sent:
        assert storage.read("s", stamps[-1]) is UNCHANGED
    assert sent == ["SELECT"]
    assert rows[0][6:] == (None, None, None)


def test_a_longer_session_brings_only_what_is_new(storage):
    """After appends a Delta whose only message rows are the new ones; after a rewrite all of it."""
    commits, stamps = grown(storage, "s", 3)
    rows, inner = [], storage._asked
    storage._asked = lambda *args: rows.append(inner(*args)) or rows[-1]
    answer = storage.read("s", stamps[0])
    assert isinstance(answer, Delta)
    assert [change.op for change in answer.changes] == ["op-2", "op-3"]
    assert bytes(rows[0][8] if isinstance(rows[0][8], bytes) else rows[0][8].encode()).split(b"\n") == [line("w2"), line("w3")]
    commits.append(later("s", 4, 1, "W2"))
    storage.commit(commits[-1])
    answer = storage.read("s", stamps[0])
    assert isinstance(answer, Record)
    assert Page().as_seen(answer) == written(*commits)


def test_a_difference_names_fields_that_went_away(storage):
    """Also those that no version here knows, and those that somebody else's commits took away."""
    commits = [first("s", "a", title="t", from_tomorrow={"x": 1}, metadata={"k": 1})]
    known, stamp = written(*commits), storage.commit(commits[0])
    commits += [later("s", 2, 1, "b", head={"unset": ["title", "from_tomorrow"]}),
                later("s", 3, 2, "c", head={"in": {"metadata": {"unset": ["k"]}}})]
    for commit in commits[1:]:
        storage.commit(commit)
    answer = storage.read("s", stamp)
    assert isinstance(answer, Delta)
    assert known.as_seen(answer) == written(*commits)
    assert "from_tomorrow" not in written(*commits).head


# -- what is recognised ------------------------------------------------------------------------------------------------


def test_a_commit_that_others_built_upon_is_recognised(opened):
    """Its operation id is among the last 64: no conflict, no second time, and the next read by its stamp brings all."""
    one, two = opened(), opened()
    commits, _ = grown(one, "s", 2)
    late = later("s", 3, 2, "late", op="late")
    commits.append(late)
    one.commit(late)
    commits += [later("s", n, n - 1, f"w{n}") for n in range(4, 40)]
    for commit in commits[3:]:
        two.commit(commit)
    stamp = one.commit(late)
    assert Page().as_seen(one.read("s", stamp)) == written(*commits)


def test_one_that_fell_out_of_memory_is_refused(storage):
    """RevisionConflict: it says no more than that another state is there."""
    grown(storage, "s", 1)
    late = later("s", 2, 1, "late", op="late")
    storage.commit(late)
    for number in range(3, 70):
        storage.commit(later("s", number, number - 1, "w"))
    with pytest.raises(RevisionConflict):
        storage.commit(late)


def test_a_state_put_back_behind_the_stores_back_is_not_committed_upon(opened):
    """A restored backup may have the birth and the revision that somebody met, and other messages: RevisionConflict."""
    one, two = opened(), opened()
    grown(one, "s", 2)
    two.delete_record("s")
    two.commit(first("s", "other", op="another-1"))
    two.commit(later("s", 2, 1, "past", op="another-2"))
    with pytest.raises(RevisionConflict):
        one.commit(later("s", 3, 2, "w3"))
    assert Page().as_seen(one.read("s")).messages == [line("other"), line("past")]


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_messages_come_back_to_the_byte(storage):
    """Escapes of NUL and of lone surrogates, characters beyond the plane, and JSON that nobody would write so."""
    lines = [b'{"id":"1","m":{"content":"\\u0000\\ud83d \xf0\x9f\x99\x82 \xe2\x80\xa8"}}', b'{ "m" :{"x":1.50,"x":2},"id":"2"}',
             b'{"id":"3","m":{"content":"%s ? :name \\\\ $1"}}', b'{"id":"4","m":{"content":"' + b"x" * 300_000 + b'"}}']
    commit = first("s")
    storage.commit(type(commit)("s", None, type(commit.change)(1, "op", 0, lines, commit.change.head)))
    assert list(storage.read("s").messages) == lines


def test_a_title_with_nul_is_kept(opened, bundle):
    """PostgreSQL has no NUL in its texts; the column that lists look at has a stand-in, the session has its own."""
    storage = opened()
    session = Session.new("s", model="m\0del", context_id="c\0")
    session.title = "t\0"
    bundle(storage).save(session)
    found = bundle(opened()).load("s")
    assert (found.title, found.model, found.context_id) == ("t\0", "m\0del", "c\0")


def test_a_missing_row_is_damage(storage):
    """CorruptSession names the store without its password; it is no absent session."""
    grown(storage, "s", 3)
    raw(storage, "DELETE FROM bamboo_message WHERE namespace = ? AND id = ? AND seq = 1", storage.namespace, "s")
    with pytest.raises(CorruptSession, match="2 messages are there, 3 were committed"):
        storage.read("s")
    assert storage.exists("s")


def test_a_head_that_disagrees_with_its_columns_is_damage(storage):
    """Somebody's own UPDATE, say."""
    grown(storage, "s", 1)
    raw(storage, "UPDATE bamboo_session SET birth = 'x' WHERE namespace = ? AND id = ?", storage.namespace, "s")
    with pytest.raises(CorruptSession, match="does not agree"):
        storage.read("s")


def test_columns_say_what_the_head_says(storage, bundle):
    """Those that lists will filter and sort by."""
    session = Session.new("s", model="m", provider="p", context_id="c", parent_id="up")
    session.pinned = True
    session.set_pending_question(tool_call_id="q", question="?")
    bundle(storage).save(session)
    names = "model, provider, context_id, parent_id, pinned, archived, questions, messages, revision, updated_at"
    row = tuple(raw(storage, f"SELECT {names} FROM bamboo_session WHERE namespace = ? AND id = ?", storage.namespace, "s")[0])
    assert row[:9] == ("m", "p", "c", "up", True, False, 1, 0, 1)
    assert row[9] == storage.read("s").head["updated_at"]


# -- whose sessions -----------------------------------------------------------------------------------------------------


def test_no_call_crosses_a_namespace(opened, url):
    """The same ids beside each other: nothing of one is read, listed, deleted or remembered in the other, and a copy that
    was carried over is a first save there."""
    bare = url.split("namespace=", maxsplit=1)[0].rstrip("?&")
    mine, theirs = opened(bare, namespace="mine é"), opened(bare, namespace="theirs")
    grown(mine, "s", 3)
    assert (theirs.read("s"), theirs.exists("s"), list(theirs.heads()), theirs.delete_record("s")) == (None, False, [], False)
    grown(theirs, "s", 1, birth="another birth")
    theirs.append_usage("s", b"1")
    assert theirs.delete_record("s")
    assert [(head["id"], count) for head, count in mine.heads()] == [("s", 3)]
    assert (mine.was_deleted("s", "another birth"), theirs.was_deleted("s", "another birth")) == (False, True)
    assert mine.store_id != theirs.store_id
    assert opened(bare, namespace="theirs").store_id == theirs.store_id


@pytest.mark.parametrize("namespace", ["x" * 129, "é" * 65, "nul\0", "\ud800"])
def test_namespaces_that_cannot_be(tmp_path, namespace):
    """InvalidValue, before anything is made."""
    with pytest.raises(InvalidValue):
        SqlStorage(f"sqlite:///{tmp_path}/x.db", namespace=namespace)
    assert list(tmp_path.iterdir()) == []


def test_a_namespace_in_the_url_and_beside_it(tmp_path):
    """InvalidValue: it is not said which one was meant."""
    with pytest.raises(InvalidValue):
        SqlStorage(f"sqlite:///{tmp_path}/x.db?namespace=a", namespace="b")


# -- connections ----------------------------------------------------------------------------------------------------------


def test_many_repositories_share_a_small_pool(opened, bundle):
    """Two hundred of one URL, at work from many threads, hold no more connections than one is allowed to."""
    storages = [opened(pool_size=3) for _ in range(200)]
    engines = {id(storage._database.engine) for storage in storages}
    failed = []

    def work(number):
        try:
            for at in range(number, 200, 12):
                session = Session.new(f"s{at}")
                session.add_message(Message.user("word"))
                bundle(storages[at]).save(session)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert failed == []
    assert len(engines) == 1
    pool = storages[0]._database.engine.pool
    assert pool.checkedin() + pool.checkedout() <= 3
    assert len(list(storages[0].heads())) == 200


def test_the_last_one_to_close_closes_the_pool(opened):
    """A neighbour that goes leaves the others their connections; whoever is closed says so."""
    one, two = opened(), opened()
    database = one._database
    one.close()
    one.close()
    assert two.exists("nobody") is False
    with pytest.raises(StorageUnavailable, match="closed"):
        one.exists("nobody")
    two.close()
    assert database.engine.pool.checkedin() + database.engine.pool.checkedout() == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_of_a_fork_uses_connections_of_its_own(storage):
    """Parent and child go on at the same time; were the connection shared, one would read the other's answers."""
    commits, _ = grown(storage, "parent", 1)
    inherited = storage._database._warm[0].connection
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            grown(storage, "child", 20)
            fresh = all(line.connection is not inherited for line in storage._database._warm)
            os.write(writes, json.dumps([fresh, len(storage.read("child").messages)]).encode())
        finally:
            os._exit(0)
    for number in range(2, 22):
        commits.append(later("parent", number, number - 1, f"w{number}"))
        storage.commit(commits[-1])
    assert os.waitpid(child, 0)[1] == 0
    assert json.loads(os.read(reads, 100)) == [True, 20]
    os.close(reads)
    os.close(writes)
    assert Page().as_seen(storage.read("parent")) == written(*commits)
    assert len(storage.read("child").messages) == 20


def test_somebodys_own_engine(url, opened):
    """Its pool is used and stays open; commits are those of any other."""
    engine = create_engine(read_url(url).difference_update_query(["namespace"]), pool_size=1, max_overflow=0)
    storage = SqlStorage(engine, namespace="of an engine", durability="process")
    commits, _ = grown(storage, "s", 3)
    assert Page().as_seen(storage.read("s")) == written(*commits)
    storage.close()
    with engine.connect() as connection:
        with connection.begin() as transaction:
            connection.exec_driver_sql("DELETE FROM bamboo_message")
            transaction.rollback()  # its connections are no more in autocommit than before
        assert connection.exec_driver_sql("SELECT count(*) FROM bamboo_message WHERE namespace = 'of an engine'").scalar() == 3
    engine.dispose()


# -- time to live ------------------------------------------------------------------------------------------------------


def test_sessions_expire_by_their_activity(opened, bundle):
    """Not shown after the time to live, still there for whoever reads records; touched, shown again; purged, remembered."""
    clock = ManualClock()
    storage = opened(ttl=timedelta(hours=1), clock=clock)
    assert has_expiry(storage)
    for name in ("a", "b", "kept"):
        grown(storage, name, 1)
    storage.commit(later("kept", 2, 1, head={"set": {"pinned": True}}))
    clock.forward(seconds=3599)
    assert storage.time_left("a") == timedelta(seconds=1)
    storage.touch("b")
    clock.forward(seconds=1)
    assert (storage.exists("a"), storage.exists("b"), storage.exists("kept")) == (False, True, True)
    assert {head["id"] for head, _ in storage.heads()} == {"b", "kept"}
    assert list(storage.expired()) == ["a"]
    assert isinstance(storage.read("a"), Record)
    assert storage.purge_record("a") is True
    assert (storage.purge_record("a"), storage.purge_record("b"), storage.purge_record("kept")) == (False, False, False)
    assert (storage.was_expired("a"), storage.was_expired("a", BIRTH), storage.was_deleted("a", BIRTH)) == (True, True, True)
    with pytest.raises(SessionExpired):
        storage.get_session("a")
    storage.delete_record("b")
    assert (storage.was_expired("b"), storage.was_deleted("b", BIRTH)) == (False, True)


def test_a_clock_that_jumps_back_ages_nothing(opened):
    """Activity never goes back, so a session lives at least as long as it did."""
    clock = ManualClock()
    storage = opened(ttl=timedelta(hours=1), clock=clock)
    grown(storage, "s", 1)
    clock.jump(hours=-2)
    storage.touch("s")
    clock.jump(hours=2)
    clock.forward(seconds=3599)
    assert storage.exists("s")
    clock.forward(seconds=1)
    assert not storage.exists("s")


# -- settings -----------------------------------------------------------------------------------------------------------


def test_sqlite_keeps_what_it_acknowledges(tmp_path):
    """Write-ahead, flushed at every commit, on every connection of the pool; a file that only its owner reads."""
    storage = SqlStorage(f"sqlite:///{tmp_path}/x.db", pool_size=3)
    ask = ("journal_mode", "synchronous", "busy_timeout")
    with ExitStack() as stack:
        held = [stack.enter_context(storage._open.cursor("test")) for _ in range(3)]
        assert [[one.execute(f"PRAGMA {name}").fetchone()[0] for name in ask] for one in held] == [["wal", 2, 30000]] * 3
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {"0o600"}
    storage.close()


def test_a_server_that_does_not_flush_is_told_of(monkeypatch):
    """synchronous_commit=off is overruled on the connections here; fsync=off cannot be, and a warning says so, once."""
    url = servers.new_database()
    SqlStorage(url, create=True).close()
    with_off = f"{url}{'&' if '?' in url else '?'}options=-c%20synchronous_commit%3Doff"
    told = []
    monkeypatch.setattr(settings._log, "warning", lambda text, **facts: told.append((text, facts)))
    storage = SqlStorage(with_off, pool_size=2)
    with ExitStack() as stack:
        held = [stack.enter_context(storage._open.cursor("test")) for _ in range(2)]
        assert [one.execute("SHOW synchronous_commit").fetchone()[0] for one in held] == ["on", "on"]
    storage.close()
    assert [text.split()[0] for text, _ in told] == ["synchronous_commit", "fsync", "full_page_writes"]


@pytest.mark.parametrize("level", ["repeatable%20read", "serializable"])
def test_a_strict_server_does_not_refuse_whom_somebody_overtook(level):
    """Whoever is overtaken merges, also where each transaction of the server is isolated from the others by default."""
    url = servers.new_database()
    SqlStorage(url, create=True).close()
    strict = f"{url}{'&' if '?' in url else '?'}options=-c%20default_transaction_isolation%3D{level.replace('%20', '%5C%20')}"
    repos = [SessionRepository.open(strict) for _ in range(3)]
    with repos[0].persistence.records._open.cursor("test") as cursor:
        assert cursor.execute("SHOW transaction_isolation").fetchone()[0] == "read committed"
    repos[0].save(Session.new("s"))

    def talk(repo):
        for _ in range(20):
            session = repo.load_merged("s")
            session.add_message(Message.user("x"))
            repo.save(session)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(talk, repos))
    assert len(repos[0].load_merged("s").messages) == 60
    for repo in repos:
        repo.close()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory", "mysql://h/db", "oracle://h",
                                 "postgresql+asyncpg://h/db", "sqlite:nonsense"])
def test_urls_that_cannot_be(url):
    """InvalidValue: a database in memory is another one for each connection, and what was not tried is not offered."""
    with pytest.raises(InvalidValue):
        SqlStorage(url)


def test_a_relative_path_is_that_of_the_opening(tmp_path, monkeypatch):
    """Whoever changes the folder goes on with the same file, also over connections that are made there; the same URL then names
    another one."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "a")
    one = SqlStorage("sqlite:///x.db", durability="process")
    monkeypatch.chdir(tmp_path / "b")
    two = SqlStorage("sqlite:///x.db", durability="process")
    grown(one, "s", 2)
    with one._open.cursor("test"), one._open.cursor("test") as another:
        assert another.execute("SELECT count(*) FROM bamboo_message").fetchone()[0] == 2
    assert (one.exists("s"), two.exists("s")) == (True, False)
    assert one.store_id != two.store_id
    one.close()
    two.close()


@pytest.mark.parametrize("driver", ["mysql", "mysql+pymysql", "mariadb", "mariadb+pymysql"])
def test_mariadb_is_refused_with_the_reason(driver):
    """What works is named, and no password is; through `SessionRepository.open` as well."""
    for open_it in (SqlStorage, SessionRepository.open):
        with pytest.raises(InvalidValue, match=r"max_allowed_packet.*postgresql://… or sqlite") as caught:
            open_it(f"{driver}://ann:secret@h/db")
        assert "secret" not in str(caught.value)


def test_it_has_no_locks(storage):
    """Exclusion is the commit's own: an advisory lock would hold a connection for as long as an edit lasts."""
    assert not has_locks(storage)
