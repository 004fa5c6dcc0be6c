"""Somebody's own engine, with settings that nobody here chose; and a file of SQLite that somebody else made."""

from __future__ import annotations

import os
import sqlite3

import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.pool import AssertionPool, NullPool, QueuePool, SingletonThreadPool, StaticPool

from bamboo_sessions import InvalidValue, Message, Session, SessionNotFound
from bamboo_sessions.storages.sql.patience import PatientConnection
from bamboo_sessions.storages.sql.storage import SqlStorage
from bamboo_sessions.storages.sql.urls import read_url
from tests import servers


@pytest.fixture
def made():
    """`made(url, **options)`: an engine, disposed of after the test."""
    engines = []

    def one(url, **options):
        engines.append(create_engine(url, **options))
        return engines[-1]

    yield one
    for engine in engines:
        engine.dispose()


def bare(url):
    return read_url(url).difference_update_query(["namespace"])


def test_one_storage_of_an_engine_does_not_take_the_durability_of_another(url, made):
    """P1: a storage opened with durability="process" beside it leaves the commits of a "full" one flushed."""
    engine = made(bare(url))
    full = SqlStorage(engine, namespace="full")
    relaxed = SqlStorage(engine, namespace="relaxed", durability="process")
    ask, wanted = ("PRAGMA synchronous", 2) if full.name == "sqlite" else ("SHOW synchronous_commit", "on")
    with full._open.cursor("test") as cursor:
        assert cursor.execute(ask).fetchone()[0] == wanted
    full.close()
    relaxed.close()


def settings_of(engine):
    """What its owner finds on a connection of his."""
    asked = (["PRAGMA synchronous"] if engine.dialect.name == "sqlite" else
             [f"SHOW {name}" for name in ("synchronous_commit", "client_encoding", "default_transaction_isolation")])
    with engine.connect() as connection:
        found = [connection.exec_driver_sql(each).scalar() for each in asked]
        driver = connection.connection.dbapi_connection
        return found, type(driver), getattr(driver, "autocommit", None), driver.isolation_level


@pytest.mark.parametrize("durability", ["full", "process"])
def test_the_owner_of_an_engine_finds_it_as_he_made_it(url, made, durability):
    """P1: what a storage needs is set while it uses a connection; its owner's own commits are flushed, isolated and told apart
    as before, and his own questions may take as long as they like."""
    odd = {"options": "-c default_transaction_isolation=serializable", "client_encoding": "latin1"}
    engine = made(bare(url), pool_size=1, max_overflow=0, connect_args={} if url.startswith("sqlite") else odd)
    before = settings_of(engine)
    storage = SqlStorage(engine, namespace="beside", durability=durability)
    storage.save_session(Session.new("s"))
    with storage.alone("s"):
        storage.exists("s")
    with pytest.raises(SessionNotFound):
        storage.append_usage("no such session", b"1")
    assert settings_of(engine) == before
    storage.close()
    assert settings_of(engine) == before


def test_what_a_storage_needs_is_there_while_it_is_in_use(url, made):
    """The durability that was asked for, read committed, UTF8, and patience with an end."""
    odd = {"options": "-c default_transaction_isolation=serializable", "client_encoding": "latin1"}
    engine = made(bare(url), connect_args={} if url.startswith("sqlite") else odd)
    storage = SqlStorage(engine, durability="process")
    with storage._open.cursor("test") as cursor:
        if storage.name == "sqlite":
            assert cursor.execute("PRAGMA synchronous").fetchone()[0] == 1
            return
        found = [cursor.execute(f"SHOW {name}").fetchone()[0] for name in (
            "synchronous_commit", "client_encoding", "default_transaction_isolation")]
        assert found == ["off", "UTF8", "read committed"]
        assert type(cursor.connection) is PatientConnection
    storage.close()


def test_connections_that_were_open_before_are_used(url, made):
    """Nothing in the pool is closed for it: somebody may have temporary tables there."""
    engine = made(bare(url), pool_size=1, max_overflow=0)
    with engine.connect() as mine:
        before = mine.connection.dbapi_connection
    SqlStorage(engine).close()
    with engine.connect() as mine:
        assert mine.connection.dbapi_connection is before


@pytest.mark.parametrize("pool", [NullPool, QueuePool])
def test_pools_that_give_each_use_a_connection_of_its_own(made, tmp_path, pool):
    """They are taken."""
    storage = SqlStorage(made(f"sqlite:///{tmp_path}/x.db", poolclass=pool))
    storage.save_session(Session.new("s"))
    assert storage.exists("s")
    storage.close()


@pytest.mark.parametrize("pool", [StaticPool, SingletonThreadPool, AssertionPool])
def test_a_pool_that_gives_one_connection_to_two_is_refused(made, tmp_path, pool):
    """P7: InvalidValue. A thread that only reads would commit the half of a commit that another thread has made so far; and a look
    what the owner of the engine has open, whose rollback would be none any more. What he has begun stays as it is."""
    engine = made(f"sqlite:///{tmp_path}/x.db", poolclass=pool, connect_args={"check_same_thread": False})
    with engine.connect() as mine:
        mine.exec_driver_sql("CREATE TABLE mine (x)")
        mine.commit()
        mine.exec_driver_sql("INSERT INTO mine VALUES (1)")
        with pytest.raises(InvalidValue, match="engine"):
            SqlStorage(engine)
        mine.rollback()
        assert mine.exec_driver_sql("SELECT count(*) FROM mine").scalar() == 0


def test_one_connection_in_memory_is_refused_and_keeps_what_is_in_it(made):
    """One connection is one database there; to close it, so that it is made anew and prepared, would lose all of it."""
    engine = made("sqlite:///:memory:", poolclass=StaticPool, connect_args={"check_same_thread": False})
    with engine.begin() as mine:
        mine.exec_driver_sql("CREATE TABLE mine (x)")
    with pytest.raises(InvalidValue, match="engine"):
        SqlStorage(engine)
    with engine.begin() as mine:
        assert mine.exec_driver_sql("SELECT count(*) FROM mine").scalar() == 0


@pytest.mark.parametrize("uri", ["file:x?mode=memory&cache=shared", "file:/x?vfs=memdb"])
def test_memory_by_another_name_is_refused(made, uri):
    """InvalidValue: found out by asking, where the URL says nothing; and what its owner has there stays."""
    engine = made("sqlite://", creator=lambda: sqlite3.connect(uri, uri=True, check_same_thread=False), poolclass=QueuePool)
    with engine.begin() as mine:
        mine.exec_driver_sql("CREATE TABLE mine (x)")
    with pytest.raises(InvalidValue):
        SqlStorage(engine)
    with engine.begin() as mine:
        assert mine.exec_driver_sql("SELECT count(*) FROM mine").scalar() == 0


def test_storages_that_were_closed_leave_nothing_on_the_engine(url, made):
    """P12: one storage a tenant and request over one engine; each connection is prepared once, not once for each there ever was."""
    engine = made(bare(url))
    for number in range(3):
        SqlStorage(engine, namespace=f"tenant {number}").close()
    before = len(list(engine.pool.dispatch.connect))
    for number in range(20):
        SqlStorage(engine, namespace=f"tenant {number}").close()
    assert len(list(engine.pool.dispatch.connect)) == before


@pytest.mark.filterwarnings("ignore:Selection of the SingletonThreadPool")
@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&cache=shared&uri=true"])
def test_an_engine_in_memory_is_refused_as_its_url_is(made, url, tmp_path, monkeypatch):
    """InvalidValue: each of its connections has another database; and no file called ":memory:" is left lying about."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidValue):
        SqlStorage(made(url))
    assert os.listdir() == []


def test_an_engine_that_connects_by_a_function_is_an_engine(made, tmp_path):
    """Its URL says nothing but the kind of database: `creator` knows the file."""
    path = tmp_path / "x.db"
    storage = SqlStorage(made("sqlite://", creator=lambda: sqlite3.connect(path, check_same_thread=False), poolclass=QueuePool))
    storage.save_session(Session.new("s"))
    assert storage.exists("s")
    storage.close()


@pytest.mark.parametrize("mode", [False, True])
def test_a_driver_that_minds_transactions_itself_is_refused(made, tmp_path, mode):
    """InvalidValue for sqlite3's `autocommit` of Python 3.12: with True, what failed half-way would not be rolled back."""
    class Modern(sqlite3.Connection):
        autocommit = mode  # as it would be there; older ones do not know it

    engine = made(f"sqlite:///{tmp_path}/x.db", connect_args={"check_same_thread": False}, poolclass=QueuePool, creator=lambda: (
        sqlite3.connect(tmp_path / "x.db", factory=Modern, check_same_thread=False)))
    with pytest.raises(InvalidValue, match="autocommit"):
        SqlStorage(engine)


def test_what_a_url_sets_does_not_take_words_or_answers_away():
    """A client's encoding and a stricter isolation in the URL: UTF8 and read committed all the same."""
    url = make_url(servers.database()).update_query_dict(
        {"client_encoding": "latin1", "options": "-c default_transaction_isolation=serializable"})
    storage = SqlStorage(url, namespace="strict")
    with storage._open.cursor("test") as cursor:
        found = [cursor.execute(f"SHOW {name}").fetchone()[0] for name in ("client_encoding", "default_transaction_isolation")]
    assert found == ["UTF8", "read committed"]
    storage.close()


def test_a_connection_of_another_encoding_keeps_every_word(made, bundle):
    """A database in UTF8 and a client that is set to something else (PGCLIENTENCODING, the role, the server): settled."""
    engine = made(servers.database(), connect_args={"client_encoding": "latin1"})
    storage = SqlStorage(engine, namespace="latin1")
    session = Session.new("s")
    session.add_message(Message.user("\U0001f642"))
    bundle(storage).save(session)
    assert bundle(storage).try_load("s").messages[0].content == "\U0001f642"
    storage.close()


def test_a_connection_that_speaks_bytes_is_refused(made):
    """InvalidValue for SQL_ASCII, over which SQLAlchemy itself cannot find out who the server is."""
    with pytest.raises(InvalidValue, match="engine"):
        SqlStorage(made(servers.database(), connect_args={"client_encoding": "sql_ascii"}))


def test_a_file_whose_texts_are_utf_16_is_refused(tmp_path):
    """InvalidValue: `PRAGMA encoding` cannot be changed any more, and messages are joined and taken apart as UTF-8."""
    with sqlite3.connect(tmp_path / "x.db") as mine:
        mine.execute("PRAGMA encoding = 'UTF-16le'")
        mine.execute("CREATE TABLE mine (x)")
    with pytest.raises(InvalidValue, match="UTF-16le"):
        SqlStorage(f"sqlite:///{tmp_path}/x.db")
