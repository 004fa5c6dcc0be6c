"""Imports point down: the package's imports against the table in docs/explanation/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "bamboo_sessions"
TABLE = ROOT / "docs" / "explanation" / "architecture.md"


@attrs.frozen
class Place:
    """One line of the table."""

    layer: int
    entry: str
    neighbours: frozenset[str]
    only: bool
    for_types: frozenset[str]


@attrs.frozen
class Import:
    """One import of a sibling; `target` is a path inside the package, such as models/session.py."""

    line: int
    target: str
    types_only: bool


def read_table(text: str) -> dict[str, Place]:
    """The table's lines, by the file or folder that they speak of."""
    places = {}
    for layer, entry, beside in re.findall(r"^\| (\d) \w+ \| `([^`]+)` \|[^|]*\|([^|]*)\|$", text, re.MULTILINE):
        plain, _, types = beside.partition("for types:")
        places[entry] = Place(
            int(layer), entry, frozenset(re.findall("`([^`]+)`", plain)), "only" in plain.split(),
            frozenset(re.findall("`([^`]+)`", types)))
    return places


def place_of(path: str, places: dict[str, Place]) -> Place | None:
    """The line for a path: its own, or that of the nearest folder."""
    names = [path, *(f"{folder}/" for folder in map(str, Path(path).parents) if folder != ".")]
    return next((places[name] for name in names if name in places), None)


def imports_of(source: str, package: Path) -> Iterator[Import]:
    """Every import of a sibling, wherever in the file it stands."""
    tree = ast.parse(source)
    for_types = {
        id(inside) for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body for inside in ast.walk(statement)}
    for node in ast.walk(tree):
        for module in modules_of(node, package):
            yield Import(node.lineno, path_of(module, package), id(node) in for_types)


def modules_of(node: ast.AST, package: Path) -> list[str]:
    """Dotted names below the package that this node imports; "" is the package itself."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        names = [f"{node.module}.{alias.name}" for alias in node.names]
        names = [name if is_module(name, package) else str(node.module) for name in names]
    else:
        return []
    top = package.name
    return sorted({name.removeprefix(top).lstrip(".") for name in names if name == top or name.startswith(f"{top}.")})


def is_module(name: str, package: Path) -> bool:
    path = package.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def path_of(module: str, package: Path) -> str:
    path = package.joinpath(*module.split(".")) if module else package
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file.relative_to(package).as_posix()


def complaint(path: str, made: Import, places: dict[str, Place]) -> str | None:
    """What is wrong with one import, or None."""
    here, there = place_of(path, places), place_of(made.target, places)
    assert here is not None
    assert there is not None
    if here == there or there.entry in here.neighbours or (made.types_only and there.entry in here.for_types):
        return None
    if there.layer < here.layer and not here.only:
        return None
    return f"{path}, line {made.line}: imports {made.target}"


def complaints(package: Path, places: dict[str, Place]) -> list[str]:
    """Everything in a package that the table does not allow."""
    files = {file.relative_to(package).as_posix(): file for file in sorted(package.rglob("*.py"))}
    unplaced = [f"{path}: not in the table" for path in files if place_of(path, places) is None]
    if unplaced:
        return unplaced
    found = (complaint(path, made, places) for path, file in files.items() for made in imports_of(file.read_text(), package))
    return [text for text in found if text is not None]


def test_every_import_is_one_that_the_table_allows():
    """The drawing in the docs is what the code does."""
    assert complaints(PACKAGE, read_table(TABLE.read_text())) == []


def test_every_line_of_the_table_speaks_of_something_that_is_there():
    """A file that was renamed takes its line along."""
    places = read_table(TABLE.read_text())
    named = {name for place in places.values() for name in (place.entry, *place.neighbours, *place.for_types)}
    assert len(places) > 15
    assert [name for name in sorted(named) if not (PACKAGE / name).exists()] == []
    assert [name for name in sorted(named) if name not in places] == []


def test_the_kit_stands_beside():
    """The package works without it: the kit is above everything that there is, and nothing may import upwards."""
    places = read_table(TABLE.read_text())
    assert places["testing/"].layer > max(place.layer for entry, place in places.items() if entry != "testing/")


EXAMPLE_TABLE = """
| 0 words | `words/` | | |
| 0 words | `errors.py` | | for types: `words/` |
| 1 tools | `tool.py` | | only `errors.py` |
| 2 faces | `face.py` | | |
| 2 faces | `other.py` | | `face.py` |
| 3 beside | `kit/` | | |
"""


@pytest.mark.parametrize(("path", "source", "expected"), [
    ("face.py", "from house.words import x", []),
    ("face.py", "from house.words.verb import x", []),
    ("other.py", "import house.face", []),
    ("tool.py", "from house import errors", []),
    ("words/verb.py", "from house.words import x", []),
    ("errors.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.words import x", []),
    ("errors.py", "from house.words import x", ["errors.py, line 1: imports words/__init__.py"]),
    ("tool.py", "from house.words import verb", ["tool.py, line 1: imports words/verb.py"]),
    ("tool.py", "def f():\n    from house.face import x", ["tool.py, line 2: imports face.py"]),
    ("face.py", "from house import other", ["face.py, line 1: imports other.py"]),
    ("kit/a.py", "from house import face, tool\nfrom house.words import verb\nfrom house.kit import b", []),
    ("other.py", "from house.kit import b", ["other.py, line 1: imports kit/b.py"]),
    ("new.py", "", ["new.py: not in the table"]),
])
def test_the_check_can_fail(tmp_path: Path, path: str, source: str, expected: list[str]):
    """Each kind of import that the table forbids is found, and each that it allows is not."""
    package = tmp_path / "house"
    for folder in ("words", "kit"):
        (package / folder).mkdir(parents=True)
    for name in ("words/__init__.py", "words/verb.py", "kit/__init__.py", "kit/b.py", "errors.py", "tool.py", "face.py", "other.py"):
        (package / name).write_text("")
    (package / path).write_text(source)
    assert complaints(package, read_table(EXAMPLE_TABLE)) == expected
