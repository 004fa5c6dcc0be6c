"""Thousands of kills, and the proof that the judge of them can condemn.

`make torture` runs this; a short run of the same stands in tests/crash. Each failure prints one command that repeats the
plan; see `kills`.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.torture.kills_defects import DEFECTS
from tests.torture.kills_runs import killed

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

KILLS = int(os.environ.get("BAMBOO_SESSIONS_KILLS", "4200"))


@pytest.mark.timeout(300)
def test_thousands_of_kills_lose_nothing_and_show_no_reader_a_mixture(tried):
    """Writers and readers of shared sessions are killed at random, 4,000 times and more: what was acknowledged is there
    once and in order, what was refused is not, and nobody ever sees anything but whole revisions, in order."""
    run = killed(KILLS, seconds=240)
    assert not run.wrong, run.story
    assert run.kills >= KILLS, run.story
    # A run in which nothing happened would prove nothing: each of these is what the deaths were aimed at.
    count = run.counts
    assert run.mid_call > KILLS / 20, run.story
    assert count["acks"] > 2 * KILLS, run.story
    assert count["looks"] > KILLS, run.story
    assert min(count["in doubt"], count["folds"], count["deletes"]) > KILLS / 100, run.story
    assert min(count["tails"], count["SessionDeleted"], count["usage lines"]) > KILLS / 400, run.story
    tried("kills of writers and readers", run.kills)
    tried("acknowledged changes under kills", count["acks"])


@pytest.mark.timeout(150)
@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_defect_is_caught(defect, tried):
    """A library with this one thing done wrong is condemned within a small budget, by a rule that fits it."""
    seed = random.SystemRandom().getrandbits(32)
    run = killed(3000, seconds=100, seed=seed, defect=defect)
    assert DEFECTS[defect].rules & run.wrong.keys(), run.story
    tried("planted defects caught under kills", 1)
