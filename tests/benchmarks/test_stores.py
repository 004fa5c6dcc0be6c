"""The comparison of storages runs, and is honest about flushes: its figures are another matter."""

from __future__ import annotations

import pytest

pytest.importorskip("sqlalchemy", reason="the extra sql is not installed")
pytest.importorskip("psycopg", reason="the extra postgres is not installed")

from bamboo_sessions import Message, Session
from tests import servers
from tests.benchmarks import houses, stores


def test_times_are_told_with_three_digits():
    """In the unit in which they are one or more."""
    assert [stores.taken(ns) for ns in (214.4, 1_000, 93_400, 1_234_567, 2.5e9)] == [
        "214 ns", "1 µs", "93.4 µs", "1.23 ms", "2.5 s"]


def test_a_percentile_is_of_sorted_times():
    """The middle, and the last but one of a hundred."""
    times = {"a": [float(n * 1000) for n in range(101)]}
    assert (stores.at(times), stores.at(times, 0.99)) == ({"a": "50 µs"}, {"a": "99 µs"})


def test_what_was_not_tried_is_said():
    """A cell without a figure is not an empty one."""
    text = stores.table([stores.Line("save", {"A": "1 ms"})], ["A", "B"])
    assert text.splitlines() == ["|  | A | B |", "| --- | ---: | ---: |", "| save | 1 ms | not tried |"]


def test_a_server_that_does_not_flush_is_not_measured():
    """The tests' own server is one: its figures would flatter."""
    with pytest.raises(RuntimeError, match="fsync, full_page_writes is off"):
        houses._new_database(servers.postgres())


def test_without_a_server_the_others_are_compared(tmp_path, monkeypatch, capsys):
    """A row for everything that was done, with a figure for each that was there, and the reason for who was not."""
    def none(folder):
        raise RuntimeError("no server here")

    monkeypatch.delenv(houses.OWN, raising=False)
    monkeypatch.setattr(houses, "_started", none)
    monkeypatch.setattr(stores, "writing", lambda lab: iter(()))  # starts processes, which takes its time
    monkeypatch.setattr(stores, "FEW", 300)
    monkeypatch.setattr(stores, "MANY", 600)
    monkeypatch.setenv("BAMBOO_SESSIONS_BENCH_DIR", str(tmp_path))
    assert stores.run(quick=True) == 0
    told = capsys.readouterr().out
    assert "|  | JSON files | SQLite |\n" in told
    assert "PostgreSQL left out: RuntimeError: no server here" in told
    rows = [line.split(" | ") for line in told.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 14
    assert [row[0] for row in rows if "not tried" in row[1:]] == ["| another page of 50, of 6 sessions"]
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_bytes_are_those_of_what_was_stored(tmp_path):
    """A house that holds twice as much is larger: by about as much again."""
    session = Session.new("s")
    session.messages = [Message.user("x" * 10_000) for _ in range(20)]
    for house in (houses.files(tmp_path / "files"), houses.sqlite(tmp_path / "sqlite")):
        storage, sizes = house.open("n"), [house.size()]
        for name in ("a", "b"):
            storage.save_session(Session.from_dict({**session.to_dict(), "id": name}))
            sizes.append(house.size())
        storage.close()
        first, second = sizes[1] - sizes[0], sizes[2] - sizes[1]
        assert first > 200_000, house.name
        assert 0.8 < second / first < 1.2, house.name
