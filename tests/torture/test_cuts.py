"""Real file systems that lose their power under several writers."""

from __future__ import annotations

import sys

import pytest

from tests.torture import needs
from tests.torture.cuts import try_cuts
from tests.torture.judge import Wrong
from tests.torture.states import quiet
from tests.torture.states_faults import FAULTS

CUTS = {"ext4": 50, "xfs": 10}


@pytest.fixture(autouse=True)
def stores_stay_whole():
    """The stores here are gone by the time a test ends."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", CUTS)
def test_a_power_cut_under_load_loses_nothing_that_was_acknowledged(kind, seed, tried):
    """Three processes write to a real file system, and it is shut down in the middle, again and again: all that was
    acknowledged is there, all else is whole or absent, and a check finds no damage."""
    needs.needs("fork", "mount", kind)
    quiet()

    def progress(number, run):
        if number % 10 == 0:
            print(f"{number} cuts of {kind}, {run.acknowledged} changes acknowledged", file=sys.__stderr__, flush=True)

    run = try_cuts(kind, CUTS[kind], seed, told=progress)
    assert run.acknowledged >= 2 * CUTS[kind]
    tried(f"power cuts of {kind}", CUTS[kind])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fault", ["no_sync_of_lines", "no_sync_of_new_files"])
def test_a_planted_fault_shows_under_a_real_power_cut(fault, seed):
    """Writers that do not sync what they acknowledge lose it."""
    needs.needs("fork", "mount", "ext4")
    quiet()
    with pytest.raises(Wrong, match="reproduce: "):
        try_cuts("ext4", 10, seed, FAULTS[fault].files)
