"""The points of `errors`, `disks` and `memory`, and proof that planted defects do not pass them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from itertools import islice

import pytest

from bamboo_sessions import Message, Session, SessionRepository, StorageUnavailable
from bamboo_sessions._files import Files
from tests.torture import disks, errors, memory, needs
from tests.torture.errors_mutants import MUTANTS
from tests.torture.faults import STRIKES

pytestmark = [pytest.mark.usefixtures("damage_on_purpose")]
POINTS = 310
"""A scenario; eighteen of them."""


@pytest.fixture
def stage(seed):
    made = errors.Stage(seed)
    with errors.quickly():
        yield made
    made.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("half", [0, 1])  # the longest takes three minutes as a whole, and twice as long beside others
@pytest.mark.parametrize("name", sorted(errors.scenarios()))
def test_an_error_is_told_and_nothing_is_lost(stage, seed, tried, name, half):
    """Each kind of error at the calls of each scenario, once and from then on; retried and given up: 5,000 and more in all."""
    report = errors.Report()
    for point in islice(errors.points(stage, seed, POINTS, [name]), half, None, 2):
        report.add(point, *stage.failure(point))
    tried("errors", report.tried.total())
    assert not report.failures, "\n".join(report.lines())


def test_every_error_strikes(stage):
    """Each kind of error is met by at least one scenario's calls."""
    assert all(stage.calls("recreate", error) > 0 for error in STRIKES)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["forgetful", *disks.KINDS])
def test_a_bad_disk_is_told_and_survived(seed, tried, kind):
    """Syncs that fail and then "succeed" without the bytes; a full disk, one without names, one that is read-only."""
    if kind != "forgetful":
        needs.needs("mount")
    report, failures = disks.run_all(seed, 16, [kind])
    tried(f"{kind} disk", report.total())
    assert report.total() > 10
    assert not failures, "\n".join(f"{why}\n    python -m tests.torture.disks --seed {seed} --point {point}" for point, why in failures)


@pytest.mark.timeout(300)
@pytest.mark.skipif(memory._testcapi is None, reason=memory.WHY_NOT)
@pytest.mark.parametrize("name", memory.OPERATIONS)
def test_a_shortage_of_memory_is_never_damage(tried, name):
    """Every third allocation of each operation fails, one at a time: over 1,000 in all."""
    report = memory.sweep([name])
    tried("allocations", report.tried.total())
    assert not report.failures, "\n".join(report.lines())
    assert report.felt.total() > 10


# -- the tests themselves --------------------------------------------------------------------------------------------------


def _found(stage, method, given):
    if method == "errors":
        name, error = given
        count = stage.calls(name, error)
        points = (errors.Point(name, error, at, lasting, retry) for at in range(1, count + 1)
                  for lasting in (False, True) for retry in (True, False))
        return next((point for point in points if stage.failure(point)[0]), None)
    points = (f"forgetful/{given[0]}/{at}/{times}/{how}" for at in range(1, 12) for times in (1, 2) for how in disks.HOWS)
    return next((point for point in points if disks.failure(stage, point)[0]), None)


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_planted_defect_is_found(stage, name):
    """Switched off, the same points pass; switched on, one of them fails."""
    switch, method, given = MUTANTS[name]
    with switch():
        assert _found(stage, method, given) is not None


# -- another process behind a half line ----------------------------------------------------------------------------------------


class Breaking(Files):
    """Once broken: half a line goes out, and nothing can be undone."""

    broken = False

    def write_at(self, fd, data, offset):
        if not self.broken:
            return super().write_at(fd, data, offset)
        super().write_at(fd, data[: len(data) // 2], offset)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def truncate(self, fd, size):
        if self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().truncate(fd, size)


OTHER = """
import sys
from bamboo_sessions import Message, SessionRepository
with SessionRepository.open(sys.argv[1]) as repo, repo.edit("chat") as session:
    session.add_message(Message.user("theirs"))
"""


def test_another_process_appends_behind_half_a_line(tmp_path):
    """What was left is moved aside by the other one; our retry is applied once, behind its line."""
    files = Breaking()
    with SessionRepository.open(tmp_path, files=files) as repo:
        session = Session.new("chat")
        session.add_message(Message.user("first"))
        repo.save(session)
        session.add_message(Message.user("mine"))
        files.broken = True
        with pytest.raises(StorageUnavailable) as caught:
            repo.save(session)
        assert caught.value.outcome == "unknown"
        subprocess.run([sys.executable, "-c", OTHER, str(tmp_path)], check=True, cwd=os.getcwd())
        files.broken = False
        repo.save(session)
        repo.save(session)
    with SessionRepository.open(tmp_path) as fresh:
        assert [message.content for message in fresh.load("chat").messages] == ["first", "theirs", "mine"]
        assert [found for found in fresh.check() if found.severity == "damage"] == []
