"""The pages as programs: what is fenced in them runs, in order, and what they show is what comes out.

One page is one program. Its ```python blocks share a namespace and an empty folder of their own; a ```text block right
behind one is what that one prints (`...` stands for anything, as in doctest). A block that begins with `# name.py` is a
file of that name, and ```sh blocks run it. There is no mark for "do not run this": what cannot be run is not shown.

A collector of our own, because a page must stay in one process: sybil makes a test of every block, and pytest-xdist
hands those to different workers.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import attrs

import bamboo_sessions

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

LANGUAGES = {"python", "sh", "text", "json", "sql", ""}
"""What a fence may be. Only these are known to run, to be compared, or to be no code of ours."""

_FENCE = re.compile(r"^( *)```(\{?[\w-]*\}?)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w-]+\.py)\n")


@attrs.frozen
class Block:
    """One fenced block; `line` is that of its first line of text in the page, counted from 1."""

    language: str
    text: str
    line: int
    output: str | None = None
    """What the page says it prints; None where it says nothing, which then has to be nothing."""


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(text: str) -> list[Block]:
    """Every fenced block of a page, with the output that stands behind it."""
    fences = list(_FENCE.finditer(text))
    found = []
    for at, fence in enumerate(fences):
        after = fences[at + 1] if at + 1 < len(fences) else None
        follows = after is not None and after[2] == "text" and not text[fence.end() : after.start()].strip()
        found.append(Block(fence[2], textwrap.dedent(fence[3]), text.count("\n", 0, fence.start(3)) + 1,
                           textwrap.dedent(after[3]) if after is not None and follows else None))
    return found


def run(page: Path, text: str, folder: Path) -> None:
    """Run a page's program in `folder`, which is the current one."""
    namespace = {"__name__": "__main__"}
    with importable(folder):
        for block in blocks(text):
            if block.language == "python":
                compare(page, block, run_python(page, block, namespace, folder))
            elif block.language == "sh":
                compare(page, block, "".join(run_command(command, folder) for command in commands(block)))


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """The files of a page can be imported by it, as from the current folder, and by nobody after it."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(folder):
                del sys.modules[name]


def run_python(page: Path, block: Block, namespace: dict[str, object], folder: Path) -> str:
    """A file is written, all else is executed: tracebacks and warnings name the page's own lines."""
    if (file := _FILE.match(block.text)) is not None:
        (folder / file[1]).write_text(block.text)
        importlib.invalidate_caches()
        return ""
    code = compile("\n" * (block.line - 1) + block.text, page, "exec", dont_inherit=True)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(code, namespace)
    return said.getvalue()


def commands(block: Block) -> Iterator[list[str]]:
    """The commands of a shell block, a line each; comments are dropped."""
    lines = (shlex.split(line, comments=True) for line in block.text.splitlines())
    return (line for line in lines if line)


def run_command(command: list[str], folder: Path) -> str:
    """`python …` runs; `make` and `pip` are compared with what the project offers (see `test_snippets.py`)."""
    if command[0] != "python":
        return ""
    there = {**os.environ, "PYTHONPATH": str(Path(bamboo_sessions.__file__).parent.parent)}
    ran = subprocess.run([sys.executable, *command[1:]], cwd=folder, env=there, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{shlex.join(command)}: exit code {ran.returncode}\n{ran.stdout}{ran.stderr}"
    return ran.stdout


def compare(page: Path, block: Block, said: str) -> None:
    """What came out is what the page shows."""
    shown = block.output or ""
    if not doctest.OutputChecker().check_output(shown, said, doctest.ELLIPSIS):
        raise AssertionError(f"{name(page)}, line {block.line}: the page shows\n{shown}\nand this was printed\n{said}")
