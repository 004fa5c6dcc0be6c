"""The README says only what works: its example runs, its commands exist, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
[EXAMPLE] = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a newcomer copies works, its assertions included."""
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLE, "README.md", "exec"), {})
    assert (tmp_path / "sessions").is_dir()


def test_the_example_is_short_and_asserts_something():
    """Twelve lines are read; forty are not. And an example without a claim cannot be wrong."""
    assert len([line for line in EXAMPLE.splitlines() if line.strip()]) <= 12
    assert EXAMPLE.count("assert ") >= 1


def test_every_make_command_exists():
    """The commands are targets of the Makefile, each with its line of help."""
    targets = set(re.findall(r"^(\w+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^ {4}make (\w+)|`make (\w+)", README, re.MULTILINE))
    assert {a or b for a, b in named} == {"demo", "test"}
    assert {"setup", "demo", "test", "lint", "types", "check"} <= targets


def test_every_link_leads_to_a_file():
    """A page that was moved takes its link along."""
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert len(links) >= 4
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_readme_fits_one_screen():
    """The rest has pages of its own."""
    assert len(README.splitlines()) <= 50
