"""What the pages show works: every snippet runs, every command exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import structlog

from tests.docs.pages import LANGUAGES, PAGES, ROOT, blocks, commands, name, run

PROGRAMS = [page for page in PAGES if any(block.language == "python" for block in blocks(page.read_text()))]
TARGETS = set(re.findall(r"^([\w-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


@pytest.fixture
def logs_as_they_were():
    """A page may say where logs go; the tests after it have their own idea."""
    config = structlog.get_config()
    yield
    structlog.configure(**config)


@pytest.mark.usefixtures("logs_as_they_were")
@pytest.mark.parametrize("page", PROGRAMS, ids=name)
def test_the_snippets_of_a_page_run_and_print_what_it_shows(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whoever copies a page from top to bottom sees what it says, in an empty folder of their own."""
    monkeypatch.chdir(tmp_path)
    run(page, page.read_text(), tmp_path)


def test_pages_that_teach_have_programs():
    """Were the blocks no longer found, the test above would have nothing to say."""
    teaching = {"README.md", "docs/tutorial.md", *(name(page) for page in PAGES if page.parent.name == "how-to")}
    assert teaching - {name(page) for page in PROGRAMS} == set()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_fence_is_of_a_kind_that_is_looked_after(page: Path):
    """A block in a language that nobody runs would be the one that is wrong."""
    assert {block.language for block in blocks(page.read_text())} - LANGUAGES - {"{eval-rst}"} == set()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_is_one_that_the_project_has(page: Path):
    """A target that was renamed takes its mentions along; and a shell block holds nothing that nobody checks."""
    text = page.read_text()
    shown = [command for block in blocks(text) if block.language == "sh" for command in commands(block)]
    assert [command for command in shown if command[0] not in ("make", "python", "pip")] == []
    named = {command[1] for command in shown if command[0] == "make"}
    named |= set(re.findall(r"`make ([\w-]+)", text)) | set(re.findall(r"^ {4}make ([\w-]+)", text, re.MULTILINE))
    assert named - TARGETS == set()
    extras = {extra for command in shown if command[0] == "pip" for part in re.findall(r"\[([\w,]+)\]", " ".join(command))
              for extra in part.split(",")}
    assert extras - EXTRAS == set()


@pytest.mark.parametrize(("text", "complaint"), [
    ("```python\nprint(1)\n```\n\n```text\n2\n```\n", "page shows"),
    ("```python\nprint(1)\n```\n", "page shows"),
    ("```python\nprint(1)\n```\n\nWords.\n\n```text\n1\n```\n", "page shows"),
    ("```python\npass\n```\n\n```text\n1\n```\n", "page shows"),
    ("```python\nassert False, 'broken'\n```\n", "broken"),
    ("```python\n# file.py\nraise SystemExit(3)\n```\n\n```sh\npython file.py\n```\n", "exit code 3"),
])
def test_a_wrong_snippet_is_noticed(text: str, complaint: str, tmp_path: Path):
    """Another output, none, an unexpected one, a claim that fails, a program that fails: each is found."""
    with pytest.raises(AssertionError, match=complaint):
        run(ROOT / "README.md", text, tmp_path)


def test_a_right_page_is_one_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Blocks share their names, files their folder, and `...` stands for what differs from run to run."""
    monkeypatch.chdir(tmp_path)
    text = ("```python\nx = 1\n```\n\n- in a list:\n\n  ```python\n  print(x, object())\n  ```\n\n  ```text\n  1 <object ...>\n  ```\n\n"
            "```python\n# file.py\nprint('ran')\n```\n\n```sh\npython file.py  # words\n```\n\n```text\nran\n```\n")
    assert [block.line for block in blocks(text)] == [2, 8, 12, 16, 21, 25]
    run(ROOT / "README.md", text, tmp_path)
