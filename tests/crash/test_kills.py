"""A short run of the torture in tests/torture, where it is told what is tried, how it is judged, and that it can fail."""

from __future__ import annotations

import os

import pytest

from tests.torture.kills_runs import killed

KILLS = int(os.environ.get("BAMBOO_SESSIONS_KILLS", "120"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_hundreds_of_kills_lose_nothing_and_show_no_reader_a_mixture():
    """Writers and readers of shared sessions are killed at random: what was acknowledged is there once and in its
    writer's order, and readers without a lock see whole revisions that never go back."""
    run = killed(KILLS, seconds=30)
    assert not run.wrong, run.story
    assert run.kills > KILLS / 2, run.story  # fewer only where the machine is very busy
    assert run.counts["acks"] > KILLS, run.story
    assert run.counts["looks"] > KILLS, run.story
