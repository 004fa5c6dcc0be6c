"""Searches of a database against a naive model; and what no search may show, cost or be led astray by."""

from __future__ import annotations

import random
import sqlite3
import sys
from datetime import timedelta
from uuid import uuid4

import pytest

from bamboo_sessions import (
    InvalidValue,
    LayeredStorage,
    MemoryStorage,
    Message,
    RevisionConflict,
    Session,
    StorageUnavailable,
)
from bamboo_sessions.filters import Filter
from bamboo_sessions.search import Query
from bamboo_sessions.storages.sql import SqlStorage, queries, searching, texts
from bamboo_sessions.testing.scribe import first, later
from bamboo_sessions.testing.search import walked
from tests.search_model import Asked, Chats
from tests.sql.test_sql_storage import counted
from tests.support import ManualClock


def places(hits):
    return [(one.session.id, one.index) for one in hits]


@pytest.mark.parametrize("few", [0, 3, 5000])
@pytest.mark.parametrize("seed", range(3))
def test_a_search_finds_what_a_look_at_every_word_finds(opened, bundle, monkeypatch, seed, few):
    """The same places in the same order, whatever was said, edited and removed before, by either way through the index; with a
    tag and without."""
    monkeypatch.setattr(searching, "FEW", few)
    monkeypatch.setattr(queries, "RARE", few)
    monkeypatch.setattr(searching, "_ROOMS", (1, 3))
    monkeypatch.setattr(searching, "_SESSIONS", 2)
    repo, dice, found = bundle(opened()), random.Random(seed), 0
    chats = Chats(repo, dice)
    for _ in range(4):
        for _ in range(12):
            chats.step()
        for _ in range(12):
            asked = Asked(dice)
            tag = dice.choice([None, None, None, "wörk"])
            fields = {} if tag is None else {"tags": [tag]}
            hits = walked(repo, asked.text, dice.choice([1, 2, 50]), prefix=asked.prefix, **fields)
            assert places(hits) == chats.expected(asked, tag), f"asked for {asked.text!r}"
            found += len(hits)
        for tag in ("red", "wörk", "a b", "none"):
            listed = [item.id for item in repo.list(tags=[tag]).items]
            assert listed == [chat.id for chat in reversed(chats.there.values()) if tag in chat.tags]
    assert found > 20


def test_no_search_crosses_a_namespace(opened, url):
    """Neither does one whose words are those of the index itself, nor where two namespaces look the same to the index."""
    if url.startswith("sqlite"):
        one, other = opened(namespace="one"), opened(namespace="other")
    else:
        base = url.partition("namespace=")[0]
        one, other = opened(f"{base}namespace={uuid4().hex}"), opened(f"{base}namespace={uuid4().hex}")
    for storage, word in ((one, "mine"), (other, "theirs")):
        storage.commit(first("same", f"{word} fox", title=f"{word} title"))
    assert [places(one.search(Query.read(words), Filter(), 9).items) for words in ("fox", "theirs", "mine", "title")] == [
        [("same", 0)], [], [("same", None), ("same", 0)], [("same", None)]]
    assert places(one.search(Query.read(texts.namespace_term(other.namespace)), Filter(), 9).items) == []


def test_namespaces_that_look_the_same_to_the_index_are_kept_apart(opened, url, monkeypatch):
    """The columns decide."""
    monkeypatch.setattr(texts, "_digest", lambda name: "0")
    base = url if url.startswith("sqlite") else url.partition("&namespace=")[0].partition("?namespace=")[0]
    one, other = opened(base, namespace=uuid4().hex), opened(base, namespace=uuid4().hex)
    other.commit(first("theirs", "fox", tags=["red"]))
    one.commit(first("mine", "fox", tags=["blue"]))
    assert places(one.search(Query.read("fox"), Filter(), 9).items) == [("mine", 0)]
    assert [item.id for item in one.page(Filter(tags=["red"]), 9).items] == []
    assert [item.id for item in one.page(Filter(tags=["blue"]), 9).items] == ["mine"]


def test_what_nobody_sees_any_more_is_not_found(url, opened):
    """A session whose time has run out, and one that was purged."""
    clock = ManualClock()
    storage = opened(ttl=timedelta(hours=1), clock=clock)
    storage.commit(first("old", "fox", title="fox"))
    clock.forward(hours=2)
    storage.commit(first("new", "fox"))
    assert places(storage.search(Query.read("fox"), Filter(), 9).items) == [("new", 0)]
    storage.purge_record("old")
    storage.commit(first("old", "cat"))
    assert places(storage.search(Query.read("fox"), Filter(), 9).items) == [("new", 0)]


def test_a_commit_that_was_refused_leaves_nothing_to_find(opened):
    """The index is of what was committed."""
    storage = opened()
    storage.commit(first("s", "one"))
    with pytest.raises(RevisionConflict):
        storage.commit(later("s", 7, 1, "fox", head={"set": {"title": "fox"}}))
    assert storage.search(Query.read("fox"), Filter(), 9).items == ()
    assert rows_of(storage) == 1


def test_a_turn_indexes_what_it_adds_and_nothing_else(opened, monkeypatch):
    """One row a message, whatever is there already; none for a title that stays; one for what an edit rewrites."""
    storage, made = opened(), []
    real = texts.packed
    monkeypatch.setattr(texts, "packed", lambda *args: made.append(args) or real(*args))
    storage.commit(first("s", *(f"word{n}" for n in range(50)), title="T"))
    assert len(made) == 51
    made.clear()
    storage.commit(later("s", 2, 50, "fox"))
    assert len(made) == 1
    storage.commit(later("s", 3, 51, head={"set": {"pinned": True}}))
    assert len(made) == 1
    storage.commit(later("s", 4, 49, "cat", head={"set": {"title": "U"}}))
    assert (len(made), rows_of(storage)) == (3, 51)


def rows_of(storage):
    with storage._open.cursor("count") as cursor:
        cursor.execute("SELECT count(*) FROM bamboo_text WHERE namespace = " + ("?" if storage.name == "sqlite" else "%s"),
                       (storage.namespace,))
        return cursor.fetchone()[0]


def test_a_deleted_session_leaves_no_rows(opened):
    """Neither in the table nor in the index behind it."""
    storage = opened()
    storage.commit(first("s", "fox", "dog", title="T", tags=["red"]))
    storage.delete_record("s")
    assert rows_of(storage) == 0
    if storage.name == "sqlite":
        with storage._open.cursor("look") as cursor:
            cursor.execute("SELECT count(*) FROM bamboo_words WHERE bamboo_words MATCH 'fox'")
            assert cursor.fetchone()[0] == 0
            cursor.execute("INSERT INTO bamboo_words (bamboo_words) VALUES ('integrity-check')")


@pytest.mark.parametrize("text", ["a" * 300_000, "\u4e00\u4e8c" * 100_000, " ".join(f"w{n}" for n in range(200_000)),
                                  " ".join(chr(0x4e00 + n % 20_000) * 2 + chr(0x20000 + n % 40_000) for n in range(150_000)),
                                  "\ufdfa" * 100_000, "'a' & | ! :* <-> \\ \0 \ud800 ' \"", ": : 'x':1A,2B"])
def test_whatever_is_said_can_be_committed(opened, bundle, text):
    """Words without end, without spaces, without number, and what databases take for quotes: a save never fails because of what
    is searched, and others are found."""
    storage = opened()
    repo, session = bundle(storage), Session.new("s")
    session.add_message(Message.user(text + " fox"))
    session.add_message(Message.user("fox"))
    repo.save(session)
    assert ("s", 1) in places(repo.search("fox").items)


def test_lines_and_heads_of_no_version_hide_no_other(opened):
    """They can be committed, deleted, and searched around."""
    storage = opened()
    storage.commit(first("whole", "fox"))
    storage.commit(first("odd", title=["fox"], tags="fox"))
    for number, line in enumerate((b'"fox"', b"{}", b'{"id":"i","m":"fox"}', b'{"id":"i","m":{"content":{"text":"fox"}}}', b'{"id":"i","text":"fox"}')):
        commit = first(f"s{number}")
        storage.commit(type(commit)(commit.session_id, None, type(commit.change)(1, "op", 0, [line], commit.change.head)))
    assert places(storage.search(Query.read("fox"), Filter(), 9).items) == [("whole", 0)]


def test_a_page_of_a_search_takes_few_statements(opened):
    """However much is found."""
    storage = opened()
    for number in range(30):
        storage.commit(first(f"s{number}", "fox", "fox"))
    storage.search(Query.read("fox"), Filter(), 5)
    with counted(storage) as asked:
        page = storage.search(Query.read("fox"), Filter(), 5)
    assert (len(page.items), len(asked)) == (5, 2)  # which sessions, and what of them


@pytest.mark.parametrize("cursor", ["", "x", "bm90", "W10=", "WzEsMiwzXQ==", "WyIiLCIiLCIiXQ==", "WyIiLCIiLDFlOV0="])
def test_a_cursor_of_no_search_is_refused(opened, cursor):
    """InvalidValue, and a limit below one as well."""
    storage = opened()
    with pytest.raises(InvalidValue):
        storage.search(Query.read("fox"), Filter(), 5, cursor)
    with pytest.raises(InvalidValue):
        storage.search(Query.read("fox"), Filter(), 0)


def test_layers_ask_the_last_one(opened):
    """And have no search where it has none."""
    storage = opened()
    storage.commit(first("s", "fox"))
    assert places(LayeredStorage([MemoryStorage(), storage]).search(Query.read("fox"), Filter(), 5).items) == [("s", 0)]


def test_an_sqlite_without_fts5_keeps_sessions_and_refuses_to_search(tmp_path, monkeypatch):
    """StorageUnavailable that says why; opening, saving and lists of tags go on."""
    monkeypatch.setattr(texts, "_FTS5", ())
    storage = SqlStorage(f"sqlite:///{tmp_path}/a.db", durability="process")
    storage.commit(first("s", "fox", tags=["red"]))
    with pytest.raises(StorageUnavailable, match="FTS5"):
        storage.search(Query.read("fox"), Filter(), 5)
    assert [item.id for item in storage.page(Filter(tags=["red"]), 5).items] == ["s"]
    storage.close()


def test_a_rare_tag_is_looked_up(opened, monkeypatch):
    """In an index, not in every head: asked of SQLite, which tells."""
    storage = opened()
    if storage.name != "sqlite":
        pytest.skip("the plan of PostgreSQL depends on its statistics")
    for number in range(5):
        storage.commit(first(f"s{number}", "w", tags=["red"] if number == 2 else []))
    real, made = queries.compiled, []
    monkeypatch.setattr(queries, "compiled", lambda *args: made.append(real(*args)) or made[-1])
    storage.page(Filter(tags=["red"]), 5)
    asked = made[-1].text
    with sqlite3.connect(str(storage._open.engine.url.database)) as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {asked}", ["x"] * asked.count("?"))]
    assert any("bamboo_session" in line and "id=?" in line for line in plan), plan
    assert not any("newest" in line for line in plan), plan


def test_the_words_are_in_an_index(opened):
    """Which a search asks: as each database plans it, where going through everything is ruled out."""
    storage = opened()
    storage.commit(first("s", "fox"))
    asked = "count(*) FROM bamboo_text WHERE words @@ '''fox'''::tsquery" if storage.name == "postgresql" else (
        "count(*) FROM bamboo_words WHERE bamboo_words MATCH 'fox'")
    with storage._open.cursor("plan") as cursor:
        if storage.name == "postgresql":
            cursor.execute("SET enable_seqscan = off")
        cursor.execute(f"EXPLAIN {'QUERY PLAN ' if storage.name == 'sqlite' else ''}SELECT {asked}")
        plan = " ".join(str(row) for row in cursor.fetchall())
        if storage.name == "postgresql":
            cursor.execute("RESET enable_seqscan")
    assert ("bamboo_text_words" if storage.name == "postgresql" else "VIRTUAL TABLE INDEX") in plan


@pytest.mark.parametrize("limit", [2**31 - 1, sys.maxsize, 10**30])
def test_a_search_without_a_limit_to_speak_of(storage, bundle, limit):
    """As `list` does, and as files and memory do: whatever there is, and no error of the driver's."""
    repo = bundle(storage)
    repo.save(Session.new("s", title="word"))
    assert [item.id for item in repo.list(limit=limit).items] == ["s"]
    assert [hit.session.id for hit in repo.search("word", limit=limit).items] == ["s"]
