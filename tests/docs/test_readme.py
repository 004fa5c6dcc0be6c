"""The README says only what works, on one screen. Its example and its commands are run and checked with the other pages."""

from __future__ import annotations

import re

from tests.docs.pages import ROOT, blocks

README = (ROOT / "README.md").read_text()
[EXAMPLE] = [block.text for block in blocks(README) if block.language == "python"]


def test_the_example_is_short_and_asserts_something():
    """Twelve lines are read; forty are not. And an example without a claim cannot be wrong."""
    assert len([line for line in EXAMPLE.splitlines() if line.strip()]) <= 12
    assert EXAMPLE.count("assert ") >= 1


def test_the_two_commands_for_a_newcomer_are_named():
    """What to try first stands on the first page, and the Makefile explains the rest."""
    targets = set(re.findall(r"^([\w-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^ {4}make (\w+) +#", README, re.MULTILINE)) == {"demo", "test"}
    assert {"setup", "demo", "test", "lint", "types", "docs", "check"} <= targets


def test_the_readme_fits_one_screen():
    """The rest has pages of its own."""
    assert len(README.splitlines()) <= 50
