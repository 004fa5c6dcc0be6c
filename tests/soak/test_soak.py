"""A soak of some seconds: the same as `make soak` with fewer of everything."""

from __future__ import annotations

import os

import attrs
import pytest
import structlog

from tests.soak.soak import Plan, out_of_bounds, running_over, soak
from tests.soak.work import Worker
from tests.soak.world import World

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors and memory in /proc")


@pytest.fixture(autouse=True)
def _quiet():
    """Disks that fail on purpose are logged thousands of times."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


def test_P12_a_soak_ends_where_it_began(tmp_path):
    """Threads, a second process, a failing disk and a moving clock: afterwards nothing is held, open, cached or kept."""
    plan = Plan(seed=11, operations=4_000, ids=400, cached=100, faults=0.02)
    report = soak(plan, tmp_path / "store")
    assert report.broken == [], report.show()
    assert sum(report.done.values()) == plan.here()
    assert report.beside["done"] == plan.beside()
    assert report.met["StorageUnavailable"] > 0
    assert 50 < report.during.cached <= 100
    assert report.during.unsaved == 0


def test_a_worker_does_everything(tmp_path):
    """No operation fails for a reason of its own: on one thread, without faults, all of them get through."""
    world = World(tmp_path / "store", seed=1, cached=20, faults=0)
    worker = Worker(world, 30, 1)
    for _ in range(4000):
        worker.step()
    for operation in worker._operations:
        worker.do(operation)
    assert worker.surprises == []
    assert len(worker.done) == len(worker._operations)
    assert set(worker.met) <= {"SessionNotFound", "SessionDeleted", "QuestionNotOpen"}
    world.empty()
    world.close()


def test_what_stays_behind_is_told(tmp_path):
    """Each bound that can be broken is, and is named: a soak that cannot fail would prove nothing."""
    world = World(tmp_path / "store", seed=1, cached=20, faults=0)
    plan, clean = Plan(seed=1), world.bounds()
    assert out_of_bounds(plan, clean, clean, 3.0) == []
    for name in ("locks", "held", "tickets", "unsaved", "refused", "cached", "listed", "descriptors", "threads"):
        worse = attrs.evolve(clean, **{name: getattr(clean, name) + 1})
        assert [line.split(":")[0] for line in out_of_bounds(plan, clean, worse, 3.0)] == [name]
    for worse in ({"traced": clean.traced + 2**20}, {"tips": 10_000}):
        assert len(out_of_bounds(plan, clean, attrs.evolve(clean, **worse), 3.0)) == 1
    assert len(out_of_bounds(plan, clean, clean, 3.01)) == 1
    assert running_over(plan, world) == []
    assert running_over(attrs.evolve(plan, cached=-2), world) == ["cached at work: 0 > -1"]
    world.close()


def test_the_measure_sees_what_is_there(tmp_path):
    """Descriptors, threads' locks, memory and the tables are counted where they are, not assumed."""
    world = World(tmp_path / "store", seed=1, cached=20, faults=0)
    Worker(world, 5, 1).turn("chat-1")
    before = world.bounds()
    file = (tmp_path / "store" / "store.json").open()
    with world.repo.edit("chat-1"), file:
        list(world.storage.heads())
        ticket = world.cache.ticket("x")
        seen = world.bounds()
    world.cache.release(ticket)
    assert (seen.descriptors, seen.held, seen.tickets, seen.listed) == (before.descriptors + 1, 1, 1, 1)
    assert seen.locks >= 2
    assert (before.cached, before.tips, before.held) == (1, 1, 0)
    world.close()
