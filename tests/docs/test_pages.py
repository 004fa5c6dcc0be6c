"""Links lead somewhere, names in the text are names in the code, and the build that checks the rest can fail."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, name

LINK = re.compile(r"\]\(([^)#\s]*)(?:#([\w-]+))?\)")
FENCED = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
PLACED = re.compile(r"`([\w.]+)` in\s+\[`[^`]+`\]\(([^)]+\.py)\)")


def links(text: str) -> list[tuple[str, str]]:
    """(path, anchor) of every link inside the project."""
    return [(path, anchor) for path, anchor in LINK.findall(FENCED.sub("", text)) if "://" not in path]


def anchors(page: Path) -> set[str]:
    """What code hosts make of the headings."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path):
    """As a code host shows the pages, without a build."""
    wrong = []
    for path, anchor in links(page.read_text()):
        there = (page.parent / path).resolve() if path else page
        if not there.is_file() or (anchor and anchor not in anchors(there)):
            wrong.append(f"{path}#{anchor}")
    assert wrong == []


def test_links_are_found():
    """Were they not, the test above would have nothing to say."""
    assert sum(len(links(page.read_text())) for page in PAGES) > 50
    assert links("[a](b.md) [c](d/e.md#f-g) [h](#i) [j](https://k) ```") == [("b.md", ""), ("d/e.md", "f-g"), ("", "i")]


def defined(source: str) -> set[str]:
    """Classes, functions, and `Class.method`."""
    made = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            made.add(node.name)
            made |= {f"{node.name}.{inner.name}" for inner in getattr(node, "body", ()) if isinstance(inner, ast.FunctionDef)}
    return made


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_a_page_says_is_in_a_file_is_there(page: Path):
    """`name` in [`file.py`](…): a function that was renamed or moved takes its mention along."""
    said = PLACED.findall(page.read_text())
    assert [name for name, file in said if name not in defined((page.parent / file).read_text())] == []


def test_the_reading_order_has_six_functions():
    """Six is what somebody reads in one sitting."""
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    order = text[text.index("## To read the source"):]
    assert len([line for line in order.splitlines() if re.match(r"\d\. `", line)]) == 6
    assert len(PLACED.findall(order)) >= 9


def test_every_page_is_in_the_index():
    """A page that nothing leads to is not read."""
    index = {path for path, _ in links((ROOT / "docs" / "index.md").read_text())}
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert index == pages - {"index.md"}


@pytest.fixture
def build(tmp_path: Path):
    """Build one page with the settings of the real build; what it complains of."""

    def build(text: str) -> tuple[int, str]:
        shutil.copy(ROOT / "docs" / "conf.py", tmp_path)
        (tmp_path / "index.md").write_text(text)
        ran = subprocess.run(
            [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "dummy", tmp_path, tmp_path / "out"],
            capture_output=True, text=True, check=False, cwd=ROOT)
        return ran.returncode, ran.stderr

    return build


WRONG = """# Page

[no such page](nowhere.md) [no such heading](#nowhere)

```{eval-rst}
`SessionRepository.lod`

:py:class:`bamboo_sessions.Nothing`

.. autoclass:: bamboo_sessions.Nobody
```
"""


def test_the_build_fails_on_each_kind_of_broken_reference(build):
    """A page, a heading, a public name in a docstring, a role, a class to document: each is reported, and it fails."""
    code, complaints = build(WRONG)
    assert code != 0
    assert [word for word in ("nowhere.md", "#nowhere", "SessionRepository.lod", "bamboo_sessions.Nothing", "Nobody")
            if word not in complaints.replace("'nowhere'", "'#nowhere'")] == []


def test_the_build_passes_where_nothing_is_broken(build):
    """It is the broken references that fail, not the settings."""
    page = "# Page\n\n[here](#page)\n\n```{eval-rst}\n`SessionNotFound`\n\n.. autoexception:: bamboo_sessions.SessionNotFound\n```\n"
    assert build(page) == (0, "")
