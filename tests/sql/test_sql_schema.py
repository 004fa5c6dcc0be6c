"""The tables: made once, by one of many, brought up to date from every earlier version, and never taken for older ones."""

from __future__ import annotations

import json
import multiprocessing
import threading
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, create_engine
from sqlalchemy.exc import DBAPIError

from bamboo_sessions import StorageUnavailable, UnsupportedFormat
from bamboo_sessions.filters import Filter
from bamboo_sessions.search import Query
from bamboo_sessions.storages.sql import texts, upgrading
from bamboo_sessions.storages.sql.database import read_url
from bamboo_sessions.storages.sql.schema import VERSION, VERSION_TABLE, metadata
from bamboo_sessions.storages.sql.storage import SqlStorage
from bamboo_sessions.storages.sql.texts import namespace_term
from bamboo_sessions.storages.sql.upgrading import upgrade
from bamboo_sessions.testing.scribe import Page, first, later, line, written

HERE = Path(__file__).parent
STORES = HERE / "stores"
"""What each version wrote, row by row: `v1.json` and so on. Made once, by that version, and never again."""


def engine_of(url):
    return create_engine(read_url(url), isolation_level="AUTOCOMMIT")


def test_opening_without_tables_names_the_remedy(empty_url):
    """StorageUnavailable with the function to call; PostgreSQL's default, for there a start of a program makes no tables."""
    options = {"create": False} if empty_url.startswith("sqlite") else {}
    with pytest.raises(StorageUnavailable, match=r"bamboo_sessions\.storages\.sql\.upgrade\(url\)"):
        SqlStorage(empty_url, **options)


def test_a_newer_schema_is_refused(empty_url):
    """UnsupportedFormat by every way in, and nothing is changed."""
    assert upgrade(empty_url) == VERSION
    engine = engine_of(empty_url)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '{VERSION + 1}'")
    for way in (upgrade, SqlStorage, lambda url: SqlStorage(url, create=True)):
        with pytest.raises(UnsupportedFormat) as caught:
            way(empty_url)
        assert (caught.value.found, caught.value.supported) == (str(VERSION + 1), VERSION)
    engine.dispose()


def _open(url, go, results):
    go.wait()
    try:
        storage = SqlStorage(url, create=True)
        results.put(storage.store_id)
        storage.close()
    except Exception as error:
        results.put(repr(error))


def test_processes_that_start_at_once_make_one_store(empty_url):
    """Four of them on an empty database: no error, and one store id."""
    context = multiprocessing.get_context("spawn")
    go, results = context.Event(), context.Queue()
    processes = [context.Process(target=_open, args=(empty_url, go, results)) for _ in range(4)]
    [process.start() for process in processes]
    go.set()
    found = {results.get(timeout=50) for _ in processes}
    [process.join() for process in processes]
    assert len(found) == 1
    assert len(found.pop()) == 16


def test_all_who_saw_no_tables_make_them_once(empty_url, monkeypatch):
    """Four threads that looked before any of them began: each comes through, one after another."""
    look, seen, failed = upgrading._found, threading.Barrier(4), []

    def looked(database):
        found = look(database)
        seen.wait()
        return found

    def make():
        try:
            upgrade(empty_url)
        except Exception as error:
            failed.append(error)

    monkeypatch.setattr(upgrading, "_found", looked)
    threads = [threading.Thread(target=make) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert failed == []


def test_threads_make_several_databases_at_once(tmp_path, monkeypatch):
    """Alembic keeps its context in a module; who makes a store of another database does not get into it."""
    run, ready, failed = upgrading._run, threading.Barrier(4), []

    def together(connection):
        ready.wait()
        run(connection)

    def make(number):
        try:
            upgrade(f"sqlite:///{tmp_path}/{number}.db")
        except Exception as error:
            failed.append(error)

    monkeypatch.setattr(upgrading, "_run", together)
    threads = [threading.Thread(target=make, args=(number,)) for number in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert failed == []


def test_the_migrations_make_the_tables_that_the_statements_use(empty_url):
    """Column by column, index by index."""
    upgrade(empty_url)
    engine = engine_of(empty_url)
    with engine.connect() as connection:
        opts = {"version_table": VERSION_TABLE, "compare_type": True, "include_object": _of_statements}
        context = MigrationContext.configure(connection, opts=opts)
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def _of_statements(_thing, name, *_others):
    """Not the index of words, which each database has in a form of its own (`test_sql_search` uses it)."""
    return not name.startswith(("bamboo_words", "bamboo_text_words"))


def test_a_migration_that_fails_leaves_nothing(empty_url, monkeypatch):
    """The next one that opens finds the database as it was."""
    run = upgrading._run

    def halfway(connection):
        run(connection)
        raise RuntimeError("on purpose")

    monkeypatch.setattr(upgrading, "_run", halfway)
    with pytest.raises(RuntimeError):
        upgrade(empty_url)
    monkeypatch.undo()
    with pytest.raises(StorageUnavailable):
        SqlStorage(empty_url, create=False)
    assert upgrade(empty_url) == VERSION


# -- every version that ever was ------------------------------------------------------------------------------------------

COMMITS = [first("a/é", "one", "two", title="T\0", metadata={"k": {"deep": [1, None]}}, from_tomorrow=1),
           later("a/é", 2, 2, "three", head={"set": {"pinned": True}}), later("a/é", 3, 1, "TWO")]
"""What each of them was given to keep."""


def test_every_version_has_a_store_to_upgrade():
    """Raising `VERSION` takes a store that the version before wrote: `python -m tests.sql.test_sql_schema` in its checkout."""
    assert sorted(path.stem for path in STORES.glob("*.json")) == sorted(f"v{number}" for number in range(1, VERSION + 1))


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_a_store_of_an_earlier_version_is_read(empty_url, version):
    """Its tables as they were, its rows; upgraded, everything that was committed is read, and can be built upon."""
    put_back(empty_url, json.loads((STORES / f"v{version}.json").read_text()))
    upgrade(empty_url)
    storage = SqlStorage(empty_url, namespace="ns")
    assert storage.store_id == "the store's id!!"
    assert Page().as_seen(storage.read("a/é")) == written(*COMMITS)
    assert storage.was_deleted("gone", COMMITS[0].change.head["set"]["birth"])
    storage.commit(later("a/é", 4, 2, "four"))
    assert storage.read("a/é").messages[-1] == line("four")
    found = [[(one.session.id, one.index) for one in storage.search(Query.read(words), Filter(), 9).items]
             for words in ("two", "T", "four", "one", "three", "w")]
    assert found == [[("a/é", 1)], [("a/é", None)], [("a/é", 2)], [("a/é", 0)], [], []]
    storage.close()


@pytest.mark.parametrize("count", [199, 200, 401])
def test_the_words_of_an_older_store_are_indexed(empty_url, count):
    """Every title and every message of every namespace once, however many fill a batch; what is damaged hinders nothing."""
    kept = json.loads((STORES / "v1.json").read_text())
    message, session = kept["tables"]["bamboo_message"][0], kept["tables"]["bamboo_session"][0]
    whose = [("", 1), ("ns", count - 3), ("o", 2)]
    kept["tables"]["bamboo_message"] = [
        {**message, "namespace": name, "id": f"s{n // 7}", "seq": n % 7, "line": f'{{"id":"{n}","m":{{"role":"user","content":"w{n} common"}}}}'}
        for name, many in whose for n in range(many)] + [{**message, "namespace": "ns", "id": "z", "line": "no json"}]
    kept["tables"]["bamboo_session"] = [
        {**session, "namespace": name, "id": f"s{n}", "messages": 7, "head": session["head"].replace("a/é", f"s{n}").replace("T\\u0000", "T")}
        for name, many in whose for n in range(-(-many // 7))] + [{**session, "namespace": "ns", "id": "z", "head": "no json"}]
    put_back(empty_url, kept)
    upgrade(empty_url)
    for name, many in whose:
        storage = SqlStorage(empty_url, namespace=name, create=False)
        found = [(one.session.id, one.index) for one in storage.search(Query.read("common"), Filter(), 1000).items]
        assert sorted(found) == sorted((f"s{n // 7}", n % 7) for n in range(many))
        titled = [(one.session.id, one.index) for one in storage.search(Query.read("t"), Filter(), 1000).items]
        assert sorted(titled) == sorted((f"s{n}", None) for n in range(-(-many // 7)))
        assert [one.index for one in storage.search(Query.read(f"w{many - 1}"), Filter(), 9).items] == [(many - 1) % 7]
        storage.close()


@pytest.mark.parametrize("count", [199, 200, 401])
def test_the_metadata_of_an_older_store_is_indexed(empty_url, count):
    """Every value of every session of every namespace, however many fill a batch; titles are found as before, and what is damaged
    hinders nothing."""
    kept = json.loads((STORES / "v2.json").read_text())
    session, title = kept["tables"]["bamboo_session"][0], kept["tables"]["bamboo_text"][0]
    whose = [("", 1), ("ns", count - 3), ("o", 2)]
    kept["tables"]["bamboo_session"] = [
        {**session, "namespace": name, "id": f"s{n}", "head": headed(f"s{n}", n)} for name, many in whose for n in range(many)] + [
        {**session, "namespace": "ns", "id": name, "head": head} for name, head in (("y", '{"metadata":[1]}'), ("z", '"metadata" no json'))]
    kept["tables"]["bamboo_text"] = [
        {**title, "namespace": name, "id": f"s{n}", "words": f"t {namespace_term(name)}"} for name, many in whose for n in range(0, many, 2)]
    put_back(empty_url, kept)
    upgrade(empty_url)
    for name, many in whose:
        storage = SqlStorage(empty_url, namespace=name, create=False)
        for wanted, expected in ({"k.id": f"c-{many - 1}"}, [f"s{many - 1}"]), ({"k.id": "c-0", "text": "\ud800"}, ["s0"]), ({"n": 10**6}, []):
            assert [item.id for item in storage.page(Filter(metadata=wanted), 5).items] == expected
        assert len(storage.page(Filter(metadata={"text": "\ud800"}), 1000).items) == many
        assert len(storage.search(Query.read("t"), Filter(), 1000).items) == -(-many // 2)
        storage.commit(later("s0", 4, 2, head={"in": {"metadata": {"set": {"k": 1.0}}}}))
        assert [item.id for item in storage.page(Filter(metadata={"k": 1}), 5).items] == ["s0"]
        if storage.name == "sqlite":
            with storage._open.cursor("look") as cursor:
                cursor.execute("INSERT INTO bamboo_words (bamboo_words) VALUES ('integrity-check')")
        storage.close()


def test_nobody_writes_while_the_words_are_made(empty_url, monkeypatch):
    """A title that a writer of the version before changed after it was read would get its old words back."""
    kept = json.loads((STORES / "v2.json").read_text())
    session = kept["tables"]["bamboo_session"][0]
    session["head"] = session["head"].replace('"deep"', '"one":1,"deep"')
    put_back(empty_url, kept)
    engine, real, refused = engine_of(empty_url), texts.head_terms, []

    def write_meanwhile(*args):
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout = 1" if empty_url.startswith("sqlite") else "SET lock_timeout = 50")
            try:
                connection.exec_driver_sql("UPDATE bamboo_session SET revision = revision")
            except DBAPIError as error:
                refused.append(error)
        return real(*args)

    monkeypatch.setattr(texts, "head_terms", write_meanwhile)
    upgrade(empty_url)
    assert len(refused) == 1
    engine.dispose()


def test_long_columns_of_an_older_store_are_compared_as_new_ones(empty_url):
    """What version 2 wrote in full is found by what is compared now."""
    kept = json.loads((STORES / "v2.json").read_text())
    session, long = kept["tables"]["bamboo_session"][0], "é" * 150
    for name in ("model", "provider", "context_id", "parent_id"):
        session[name] = f"{name} {long}"
        session["head"] = f'{session["head"][:-1]},"{name}":"{name} {long}"}}'
    put_back(empty_url, kept)
    upgrade(empty_url)
    storage = SqlStorage(empty_url, namespace="ns")
    for name in ("model", "provider", "context_id", "parent_id"):
        assert [item.id for item in storage.page(Filter(**{name: f"{name} {long}"}), 5).items] == ["a/é"]
    storage.close()


def headed(name, number):
    """The head of a session, every second one with a title."""
    head = json.loads(json.loads((STORES / "v2.json").read_text())["tables"]["bamboo_session"][0]["head"])
    head |= {"id": name, "title": "T", "metadata": {"k": {"id": f"c-{number}"}, "text": {"$json": '"\\ud800"'}}}
    if number % 2:
        del head["title"]
    return json.dumps(head)


def test_an_older_sqlite_without_fts5_is_brought_up_to_date(empty_url, monkeypatch):
    """Where there is no index nothing is looked up in it, then and afterwards."""
    if not empty_url.startswith("sqlite"):
        pytest.skip("PostgreSQL has an index always")
    monkeypatch.setattr(texts, "_FTS5", ())
    put_back(empty_url, json.loads((STORES / "v2.json").read_text()))
    upgrade(empty_url)
    storage = SqlStorage(empty_url, namespace="ns")
    assert [item.id for item in storage.page(Filter(metadata={"k": {"deep": [1, None]}}, pinned=True), 5).items] == ["a/é"]
    storage.commit(later("a/é", 4, 2, head={"in": {"metadata": {"set": {"k": 1}}}}))
    assert [item.id for item in storage.page(Filter(metadata={"k": 1}), 5).items] == ["a/é"]
    storage.close()


def put_back(url, kept):
    """The tables of that version, by its migrations alone, and its rows."""
    engine = engine_of(url)
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(upgrading._FOLDER))
        command.upgrade(config, str(kept["version"]))
        tables = MetaData()
        tables.reflect(connection)
        for name, rows in kept["tables"].items():
            if rows:
                connection.execute(tables.tables[name].insert(), rows)
        connection.exec_driver_sql("COMMIT")
    engine.dispose()


def keep(path):
    """Write a store of the version that runs this: what `put_back` takes."""
    url = f"sqlite:///{path}.db"
    storage = SqlStorage(url, namespace="ns")
    for commit in (*COMMITS, first("gone", "w")):
        storage.commit(commit)
    storage.append_usage("a/é", b'{"tokens":1}')
    storage.delete_record("gone")
    with storage._open.engine.connect() as connection:
        connection.exec_driver_sql("UPDATE bamboo_store SET store_id = 'the store''s id!!'")
        rows = {table.name: [dict(row._mapping) for row in connection.execute(table.select())] for table in metadata.sorted_tables}
    for table in rows.values():
        [row.pop("n", None) for row in table]  # numbers of a serial column: the next one would be given again
    storage.close()
    Path(f"{path}.db").unlink()
    Path(path).write_text(json.dumps({"version": VERSION, "tables": rows}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    STORES.mkdir(exist_ok=True)
    keep(str(STORES / f"v{VERSION}.json"))
