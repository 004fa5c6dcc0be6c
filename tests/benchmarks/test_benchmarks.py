"""The benchmarks run, and judge as they should: their figures are another matter, for which `make bench` is there.

Nothing here depends on how fast anything is.
"""

from __future__ import annotations

import itertools

import pytest

from tests.benchmarks import __main__ as command
from tests.benchmarks import results, rows, table, timing
from tests.benchmarks.timing import Figure, interleave, loop, single


def figure(value):
    return Figure(value, value * 0.99, value * 1.01)


def judged(value, goal, stretch=None, *, at_least=False):
    row = rows.Row("r", "what", "against", goal, stretch, (10,), at_least, lambda lab, n: figure(value))
    return row.verdict([figure(value)])


def test_a_verdict_is_about_the_printed_figure():
    """The bound itself is met, a hair more is not, in whichever direction the row looks."""
    assert [judged(value, 1.3, 1.1) for value in (1.0, 1.1, 1.2, 1.3, 1.304, 1.31)] == [
        "stretch", "stretch", "ok", "ok", "ok", "MISSED"]
    assert [judged(value, 50, 100, at_least=True) for value in (49, 50, 99, 100)] == ["MISSED", "ok", "ok", "stretch"]
    assert judged(10**6, None) == ""


def test_the_worst_size_counts():
    """One size beyond the goal misses it, however good the others are."""
    row = rows.Row("r", "what", "against", 2.0, None, (10, 1000), at_least=False, measure=lambda lab, n: figure(n))
    assert row.verdict([figure(1), figure(3)]) == "MISSED"


def test_what_misses_is_measured_three_times_and_the_middle_counts():
    """One burst of load does not fail a row, a real miss does, and nothing is measured again that met its goal."""
    for values, shown, calls in (([9, 1, 2], 2, 3), ([9, 1, 8], 8, 3), ([3, 1, 1], 3, 1)):
        left = iter(values)
        row = rows.Row("r", "what", "against", 3.0, None, (10,), False, lambda lab, n, left=left: figure(next(left)))
        assert rows.run(row, FakeLab()).figures[10].value == shown
        assert len(list(left)) == 3 - calls


class FakeLab:
    quick = False

    def sizes_of(self, sizes):
        return sizes


def test_ratios_are_taken_within_a_round():
    """A machine that becomes ten times slower halfway changes no ratio: both cases were hit."""
    speed = itertools.chain([1.0] * 12, itertools.repeat(10.0))
    times = {"case": 30.0, "base": 10.0}
    made = interleave({name: lambda name=name: times[name] * next(speed) for name in times}, rounds=12)
    assert made.ratio("case", "base").value == pytest.approx(3.0)
    assert sorted(made.every["base"]) == [10.0] * 6 + [100.0] * 6


def test_only_what_is_timed_is_timed(monkeypatch):
    """By a clock that only work moves: `prepare` runs before it is read, once for each `do`, and hands over its work."""
    now, done = [0], []

    def work(ns, made=None):
        now[0] += ns
        done.append(made)
        return ns

    monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: now[0])
    assert single(lambda made: work(7, made), lambda: work(1000), times=3)() == 7
    assert done == [None, 1000] * 3
    assert loop("f()", f=lambda: None)() > 0


def test_rows_have_names_of_their_own():
    """`-k` chooses by name, and falls back to the text."""
    names = [row.name for row in command.chosen([])]
    assert len(names) == len(set(names)) > 20
    assert [row.name for row in command.chosen(["load_merged_un"])] == ["load_merged_unchanged"]
    assert "append_save_sqlite" in [row.name for row in command.chosen(["SQLite"])]


@pytest.mark.parametrize("name", ["warm_load", "load_merged_one_more", "append_save", "append_bytes", "first_save",
                                  "full_save", "cold_load_short", "memory"])
def test_a_row_runs(name, monkeypatch, tmp_path):
    """Two rounds through the public API, and a line of the table comes out."""
    monkeypatch.setenv("BAMBOO_SESSIONS_BENCH_DIR", str(tmp_path))
    chosen = [row for row in command.chosen([name]) if row.name == name]
    made = command.measured(chosen, quick=True)
    assert all(found.value > 0 for found in made[0].figures.values())
    assert chosen[0].what in table.plain(made)
    assert chosen[0].what in table.markdown(made)
    assert list(tmp_path.iterdir()) == []


def test_runs_are_kept_and_compared(tmp_path):
    """What became slower is named where the middle halves are apart, and only there; "at least" rows look the other way."""
    names = ("same", "noisy", "slower", "faster", "cheaper")
    after = {"same": figure(10), "noisy": Figure(11, 9, 13), "slower": figure(12), "faster": figure(8),
             "cheaper": figure(8)}
    made = [[rows.Result(rows.Row(name, "", "", 20.0, None, (10,), name == "cheaper", lambda lab, n: figure(1)),
                         {10: values.get(name, figure(10))}) for name in names] for values in ({}, after)]
    for name, run in zip(("old", "new"), made, strict=True):
        results.save(name, run, tmp_path)
    assert results.names(tmp_path) == ["old", "new"]
    text, worse = results.compared(results.load("old", tmp_path), results.load("new", tmp_path))
    verdicts = {line.split()[0]: line.split()[5:] for line in text.splitlines()[1:]}
    assert verdicts == {"same": [], "noisy": [], "slower": ["SLOWER"], "faster": ["faster"], "cheaper": ["SLOWER"]}
    assert worse


def test_the_command_tells_a_miss_by_its_status(monkeypatch, capsys):
    """All rows are printed first, then the names of those that missed."""
    for goal, status in ((2.0, 0), (0.5, 1)):
        row = rows.Row("the_row", "what", "against", goal, None, (10,), at_least=False, measure=lambda lab, n: figure(1))
        monkeypatch.setattr(command.rows, "ROWS", [row])
        monkeypatch.setattr(command, "chosen", lambda words, row=row: [row])
        monkeypatch.setattr("sys.argv", ["bench", "run"])
        assert command.main() == status
        assert ("missed: the_row" in capsys.readouterr().out) == bool(status)
