"""Layers over a database: what a save costs there, and what a guess or a room means to the copies above."""

from __future__ import annotations

import time

import pytest

from bamboo_sessions import LayeredStorage, MemoryStorage, SessionDeleted, SqlStorage
from bamboo_sessions.storages.sql.database import Line
from bamboo_sessions.testing.scribe import Page, first, later, written
from tests.sql.test_sql_room import begun, got_through, said, texts


class CountingCursor:
    """A driver's, that notes what it is told."""

    def __init__(self, cursor, told):
        self._cursor, self._told = cursor, told

    def execute(self, text, *values):
        self._told.append(text)
        return self._cursor.execute(text, *values)

    def executemany(self, text, values):
        self._told.append(text)
        return self._cursor.executemany(text, values)

    def __getattr__(self, name):
        return getattr(self._cursor, name)


@pytest.fixture
def told(storage, monkeypatch):
    """Every statement that the database is sent, by whomever."""
    told, take = [], storage._open.take

    def counted(action, session_id):
        line = take(action, session_id)
        return line if isinstance(line.cursor, CountingCursor) else Line(line.connection, CountingCursor(line.cursor, told))

    monkeypatch.setattr(storage._open, "take", counted)
    return told


@pytest.fixture
def layered(opened):
    """`layered()`: a memory of its own over a storage of its own."""
    return lambda: LayeredStorage([MemoryStorage(), opened()])


def during(told, do):
    told.clear()
    do()
    return list(told)


def test_a_save_over_layers_costs_the_database_what_one_without_costs(opened, layered, bundle, told):
    """An ordinary turn, statement by statement: it looks at nothing. So do a first save and one of a copy that was loaded."""
    costs = []
    for name, storage in (("plain", opened()), ("layered", layered())):
        repo = bundle(storage)
        session = begun(repo, name)
        turn = during(told, lambda: said(repo, session, "more"))  # noqa: B023 - called at once
        again = during(told, lambda: said(repo, repo.load(name), "more"))  # noqa: B023 - called at once
        made = during(told, lambda: begun(repo, f"{name} 2", turns=1))  # noqa: B023 - called at once
        repo.cache.invalidate(name)
        repo.load(name)
        loaded = during(told, lambda: said(repo, repo.load(name), "more"))  # noqa: B023 - called at once
        costs.append([turn, again, made])
        if name == "layered":
            assert loaded == turn  # the load was answered above; without layers it is a look, which tells of nobody's commits
    assert costs[0] == costs[1]
    assert [text for text in costs[1][0] if text.startswith("SELECT")] == []


def test_a_guess_over_layers_that_was_wrong_shows_nothing(opened, layered, bundle):
    """Somebody else saved, deleted, made it anew: what is committed, merged or refused is what it would have been without."""
    repo, other = bundle(layered()), bundle(opened())
    session = begun(repo)
    said(other, other.load("s"), "theirs")
    said(repo, session, "mine")
    assert texts(session) == ["turn 0", "turn 1", "turn 2", "theirs", "mine"]
    repo.cache.invalidate("s")
    assert texts(repo.load("s")) == texts(other.load_merged("s")) == texts(session)
    for number in range(2):
        said(repo, session, f"and on {number}")
    other.delete("s")
    for _ in range(2):
        with pytest.raises(SessionDeleted):
            said(repo, session, "late")
        repo.cache.invalidate("s")
    assert repo.try_load("s") is None
    begun(other, turns=6)
    with pytest.raises(SessionDeleted):
        said(repo, session, "later")
    repo.cache.invalidate("s")
    assert texts(repo.load("s")) == [f"turn {number}" for number in range(6)]


@pytest.mark.parametrize(("change", "looks", "overtook"), [("save", 4, 3), ("update", 8, 6)])
def test_whoever_is_overtaken_over_layers_gets_through(opened, layered, bundle, change, looks, overtook):
    """As without layers: the fourth try holds the row, and the busy writer, who has layers of its own, waits."""
    slow, busy = bundle(layered()), bundle(layered())
    everything = got_through(slow, busy, change, looks, overtook)
    for repo in (slow, busy, bundle(opened())):
        repo.cache.invalidate("s")
        found = texts(repo.load_merged("s"))
        assert sorted(found) == everything
        assert len(found[: found.index("at last")]) == 3 + overtook
        repo.cache.invalidate("s")
        assert texts(repo.load("s")) == found


def test_copies_beside_the_truth_keep_no_room_waiting(tmp_path):
    """In the same file of SQLite, over connections of their own: who is alone holds the whole file, and must not ask for it again."""
    url = f"sqlite:///{tmp_path}/sessions.db"
    copies, truth = SqlStorage(url, namespace="copies", pool_size=2, durability="process"), SqlStorage(url, durability="process")
    layers = LayeredStorage([copies, truth])
    truth.commit(first("s", "1"))
    began = time.monotonic()
    with layers.alone("s"):
        layers.read("s")
        layers.commit(later("s", 2, 1, "2"))
    assert time.monotonic() - began < 10  # it would wait for thirty seconds, and then do without the copy
    assert layers.load_session("s") is not None
    assert Page().as_seen(copies.read("s")).messages == written(first("s", "1"), later("s", 2, 1, "2")).messages
    layers.close()
