"""What power cuts may leave, worked out and looked at: in every such state all that was acknowledged is there."""

from __future__ import annotations

import sys

import pytest

from tests.torture import states
from tests.torture.states_disk import MODELS, Disk, tears
from tests.torture.states_faults import FAULTS
from tests.torture.states_trace import Acknowledged, Names, Sync, SyncFolder, Trace, Write
from tests.torture.states_work import stories


@pytest.fixture(autouse=True)
def _quiet():
    states.quiet()


@pytest.fixture(autouse=True)
def stores_stay_whole():
    """The stores here are gone by the time a test ends."""


@pytest.mark.timeout(1800)
def test_every_state_after_a_power_cut_holds_what_was_acknowledged(seed, tried):
    """100,000 distinct states of the disk, no story giving over a fifth: each opens, has all that was acknowledged and nothing
    that nobody wrote, is not damaged, takes a save, and is the same when it is opened again."""
    total = states.Sum()
    for tally in states.try_everything(seed):
        total.add(tally)
        assert not tally.wrong, f"\n{tally}"
        if total.stories % 50 == 0:
            print(total, file=sys.__stderr__, flush=True)
    assert not total.shortfall(), total
    tried("states after a power cut", len(total.states))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_shows_in_what_a_power_cut_leaves(seed, fault, model):
    """A step left out, or made too early, is found as what it is; and by the worst file system alone where names must come
    late one by one for it to show."""
    planted = FAULTS[fault]
    tally = states.try_all(planted.story, seed, fault=fault, models=[model], stop_after=1)
    found = {kind for kind, _, _ in tally.wrong}
    assert bool(found) == (model in planted.seen_by), tally
    assert found <= set(planted.kinds), tally


def test_a_failure_prints_the_command_that_repeats_it(seed):
    """The story, the model and the point that it names give the same failure again, alone."""
    tally = states.try_all("append", seed, fault="no_sync_of_lines", stop_after=1)
    (kind, command, _), = tally.wrong
    told = command.split()
    point = tuple(int(part) for part in told[told.index("--point") + 1].split("."))
    again = states.try_all("append", seed, fault=told[told.index("--fault") + 1], models=[told[told.index("--model") + 1]], point=point)
    assert (again.judged, [one[0] for one in again.wrong]) == (1, [kind])


def test_a_seed_gives_the_same_states_every_time():
    """Two plays of one story ask the same of the disk, byte for byte."""
    traces = []
    for _ in range(2):
        with states._folder() as base:
            (base / "played").mkdir()
            traces.append(states.play(stories("5")["recreate"], "5", base / "played").disk.operations)
    assert traces[0] == traces[1]


def _left(operations, cut, model, objects=None):
    disk = Disk(Trace(objects or {0: {}}, list(operations), {0}))
    return [state.tree() for state in disk.states(cut, [model])]


def test_what_was_synced_is_there_and_the_rest_may_be():
    """A file whose bytes were synced and whose name was not: there whole, or not at all."""
    operations = [Names(((0, "a", 1),)), Write(1, 0, b"x"), Sync(1)]
    for model in MODELS:
        assert sorted(map(str, _left(operations, 2, model))) == ["{'a': b'x'}", "{}"]
        assert _left([*operations, SyncFolder(0)], 3, model) == [{"a": b"x"}]


def test_names_come_in_order_on_a_journalled_disk_and_in_any_on_the_worst():
    """The second of two names without the first is a state of the worst file system only."""
    operations = [Names(((0, "a", 1),)), Sync(1), Names(((0, "b", 2),)), Acknowledged(0)]
    assert {"b": b""} not in _left(operations, 3, "journalled")
    assert {"b": b""} in _left(operations, 3, "posix")


def test_a_rename_is_there_or_not():
    """Never both names, never none."""
    operations = [Names(((0, "new", None), (0, "old", 1)))]
    for model in MODELS:
        left = _left(operations, 0, model, {0: {"new": 1, "old": 2}, 1: b"new", 2: b"old"})
        assert left == [{"old": b"new"}, {"new": b"new", "old": b"old"}]


def test_a_torn_write_takes_nothing_back_that_was_durable():
    """An in-place write may be cut anywhere, or leave zeros behind the old end, and what was before it stays."""
    left = _left([Write(1, 4, b"5678" * 300)], 0, "posix", {0: {"a": 1}, 1: b"1234----"})
    assert len(left) > len(tears(4, 1200, 0)) / 2
    assert all(tree["a"].startswith(b"1234") and len(tree["a"]) >= 8 for tree in left)
    assert {"a": b"1234----" + bytes(1196)} in left
