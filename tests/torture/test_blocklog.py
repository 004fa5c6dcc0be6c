"""What ext4 makes of a power cut behind every single block that it writes."""

from __future__ import annotations

import pytest

from tests.torture import blocklog, needs
from tests.torture.states import quiet

LEAST = 2_000


@pytest.fixture(autouse=True)
def stores_stay_whole():
    """The stores here are gone by the time a test ends."""


@pytest.fixture(autouse=True)
def _machine():
    needs.needs("mount", "ext4", "fuse")
    quiet()


@pytest.mark.timeout(60)
def test_there_are_thousands_of_prefixes(seed):
    """At least 2,000 prefixes in their variants that differ in what is on the disk."""
    total = 0
    for name in blocklog.STORIES:
        with blocklog.workshop() as base:
            recorded = blocklog.record(name, seed, base)
            total += len({recorded.writes(prefix, variant) for prefix in recorded.prefixes() for variant in blocklog.VARIANTS})
    assert total >= LEAST


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", blocklog.STORIES)
def test_every_prefix_of_the_blocks_of_ext4_holds_what_was_acknowledged(name, seed, tried):
    """Wherever its blocks break off, ext4 comes up with a store that has all that was acknowledged, whole, and goes on."""
    tally = blocklog.try_all(name, seed)
    assert not tally.wrong, f"\n{tally}"
    tried("disks of ext4 after a cut", tally.states)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("fault", "story"), [("no_sync_of_lines", "append"), ("no_sync_of_new_files", "create"),
                                              ("no_sync_of_folders", "create"), ("fills_in_place", "create")])
def test_a_planted_fault_shows_in_the_blocks_of_ext4(fault, story, seed):
    """A sync that is left out is found on the real file system as well, unless a later one of another file hides it."""
    tally = blocklog.try_all(story, seed, fault=fault, stop_after=1)
    assert tally.wrong
