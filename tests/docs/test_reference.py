"""The reference says what the code says: the merge table, the errors, every public name."""

from __future__ import annotations

import inspect
import re
import runpy

import attrs
import pytest

import bamboo_sessions
from bamboo_sessions import testing
from bamboo_sessions.models.state import Head, MergeRule
from bamboo_sessions.storages import protocol, shortcuts
from tests.docs.pages import ROOT

REFERENCE = ROOT / "docs" / "reference"
MERGE, ERRORS, DETAILS = ((REFERENCE / page).read_text() for page in ("merge-table.md", "errors.md", "details.md"))
table = runpy.run_path(str(ROOT / "docs" / "merge_table.py"))


def test_the_merge_table_is_in_step_with_the_code():
    """A field that gets another rule, or a new one, changes the page (`python docs/merge_table.py --write` does it)."""
    assert table["renewed"](MERGE) == MERGE


def test_the_merge_table_has_a_line_for_every_field():
    """Read from the page, not from what wrote it: the fields of a head in order, and the messages."""
    named = re.findall(r"^\| `(\w+)` \|", MERGE, re.MULTILINE)
    assert named == [*attrs.fields_dict(Head), "messages"]


def test_a_page_with_another_rule_is_noticed():
    """The comparison can fail."""
    wrong = MERGE.replace("| `model` | three way |", "| `model` | forward |")
    assert wrong != MERGE
    assert table["renewed"](wrong) == MERGE


def test_every_merge_rule_is_explained():
    """A rule in the table has its paragraph below it, in the same order, and no paragraph explains what is no rule."""
    rules = {rule.name.lower().replace("_", " ") for rule in MergeRule}
    explained = re.findall(r"^\*\*([\w ]+)\.\*\*", MERGE, re.MULTILINE)
    assert sorted(explained) == sorted(rules)


def public_errors() -> list[type[bamboo_sessions.SessionError]]:
    public = [getattr(bamboo_sessions, name) for name in bamboo_sessions.__all__]
    return [thing for thing in public if isinstance(thing, type) and issubclass(thing, bamboo_sessions.SessionError)]


LINES = {name: (parent, what, fields.replace("`", "").split()) for name, parent, what, fields in
         re.findall(r"^\| `(\w+)` \| `(\w+)` \| [^|]+\| ([^|]*)\|([^|]*)\|$", ERRORS, re.MULTILINE)}


def test_the_errors_page_has_a_line_for_every_error():
    """Nobody meets an error that the page does not know."""
    assert sorted(LINES) == sorted(error.__name__ for error in public_errors())


@pytest.mark.parametrize("error", public_errors(), ids=lambda error: error.__name__)
def test_an_error_has_the_parent_and_the_fields_that_the_page_names(error: type[bamboo_sessions.SessionError]):
    """Whoever writes a handler by the page catches what it says and finds the facts that it names."""
    parent, what, fields = LINES[error.__name__]
    assert error.__bases__[0].__name__ == parent
    taken = [name for name in inspect.signature(error.__init__).parameters if name not in ("self", "args", "kwargs")]
    assert fields == taken
    assert what.strip() or not fields
    in_section = ERRORS.index(f"| `{error.__name__}` |") > ERRORS.index("These are `ValueError`s too")
    before_next = ERRORS.index(f"| `{error.__name__}` |") < ERRORS.index("## What the storage met")
    assert issubclass(error, ValueError) == (in_section and before_next)


def detailed() -> dict[str, set[str]]:
    """The documented names, by the module under which they are."""
    found: dict[str, set[str]] = {}
    for module, block in re.findall(r"^\.\. currentmodule:: ([\w.]+)\n(.*?)^```$", DETAILS, re.MULTILINE | re.DOTALL):
        found.setdefault(module, set()).update(re.findall(r"^\.\. auto\w+:: (\w+)", block, re.MULTILINE))
    return found


def test_every_public_name_has_its_details():
    """What is public is built from its docstring, and nothing else is."""
    assert detailed()["bamboo_sessions"] == set(bamboo_sessions.__all__)
    assert detailed()["bamboo_sessions.testing"] == set(testing.__all__)


def test_the_contract_of_records_has_its_details():
    """Every class that a storage's author meets is there."""
    for module in (protocol, shortcuts):
        classes = {name for name, thing in vars(module).items()
                   if isinstance(thing, type) and thing.__module__ == module.__name__ and not name.startswith("_")}
        assert classes - {"Storage"} - detailed()[module.__name__] == set()


CONTRACTS = [bamboo_sessions.Clock, *(thing for module in (protocol, shortcuts) for thing in vars(module).values() if isinstance(thing, type))]
"""What fills one of these need not repeat its words."""


@pytest.mark.parametrize("name", bamboo_sessions.__all__)
def test_every_public_name_and_method_has_a_docstring_of_its_own(name: str):
    """A line that is missing here is an empty place in the reference."""
    thing = getattr(bamboo_sessions, name)
    assert thing.__doc__
    bare = [key for key, value in vars(thing).items()
            if not key.startswith("_") and inspect.isfunction(getattr(value, "__func__", value)) and not value.__doc__]
    assert [key for key in bare if not any(getattr(getattr(twin, key, None), "__doc__", None) for twin in CONTRACTS)] == []
