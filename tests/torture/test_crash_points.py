"""A writer killed before each of its system calls: what was acknowledged stays, nothing else comes, the store goes on."""

from __future__ import annotations

import pytest

from tests.torture import needs
from tests.torture.crash_points import Left, NotFired, Point, Tally, course, try_all, try_recoveries
from tests.torture.scenarios import scenarios
from tests.torture.worker_faults import FAULTS
from tests.torture.worker_zygote import Zygote

POINTS = 2_000


@pytest.fixture(scope="module")
def zygote():
    needs.needs("strace", "fork")
    made = Zygote()
    yield made
    made.close()


def _report(tally: Tally) -> str:
    return f"\n{tally}"


def test_the_plan_has_thousands_of_points_and_none_gives_a_fifth(zygote, seed):
    """At least 2,000 calls over the scenarios, of which no scenario makes more than a fifth."""
    counts = {}
    for name in scenarios(seed):
        with course(zygote, name, seed) as run:
            counts[name] = len(run.plan().points)
    total = sum(counts.values())
    assert len(counts) >= 12
    assert total >= POINTS, counts
    assert max(counts.values()) * 5 <= total, counts


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", scenarios())
def test_killed_before_each_call(zygote, seed, tried, name):
    """Whichever call a writer dies before, no acknowledged change is lost and the store opens, is whole and goes on; and the
    same holds for whoever is killed while finding that."""
    with course(zygote, name, seed) as run:
        plan = run.plan()
        left = Left(run.template.parent)
        tally = try_all(run, plan, plan.points, left)
        assert not tally.wrong, _report(tally)
        tried("crash points", tally.points)
        again = try_recoveries(run, left)
        assert not again.wrong, _report(again)
        assert again.points
        tried("crash points of the way back", again.points)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_writer_with_a_planted_fault_is_found(zygote, seed, tried, fault):
    """A writer that does one thing in the wrong order is found, and found as what it is."""
    with course(zygote, FAULTS[fault].scenario, seed, fault=fault) as run:
        plan = run.plan()
        tally = try_all(run, plan, plan.points)
    assert {kind for kind, _, _ in tally.wrong} & set(FAULTS[fault].kinds), _report(tally)
    tried("planted faults, all found", 1)


def test_a_point_that_does_not_strike_is_a_failure(zygote, seed):
    """A call that is never made kills nobody, and that is not taken for a success."""
    with course(zygote, "append", seed) as run:
        plan = run.plan()
        beyond = Point("fdatasync", plan.counts["fdatasync"] + 1, len(run.scenario.changes))
        with run.deadly(plan), run.copy() as folder, pytest.raises(NotFired, match="ended with 0"):
            run.strike(plan, beyond, folder)


def test_a_point_that_strikes_elsewhere_is_a_failure(zygote, seed):
    """A writer that had acknowledged another number of changes did not die where it was to die."""
    with course(zygote, "append", seed) as run:
        plan = run.plan()
        with run.deadly(plan), run.copy() as folder, pytest.raises(NotFired, match="2 changes acknowledged where 7"):
            run.strike(plan, Point("fdatasync", 3, 7), folder)


def test_every_point_names_the_command_that_repeats_it(zygote, seed):
    """The command has the seed, the scenario and the call."""
    with course(zygote, "fold", seed) as run:
        command = run.command(Point("rename", 3, 0))
    assert command.endswith(f"-m tests.torture.crash_points --seed {seed} --scenario fold --call rename --nth 3")
