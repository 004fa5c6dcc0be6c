"""Prints the lines of docs/reference/merge-table.md that follow from the code; with --write, puts them into the page.

Every field names its rule where it is defined, in bamboo_sessions/models/state.py, and nothing but those definitions is
read here. A test compares the page with them.
"""
# ruff: noqa: INP001 - a script beside the page

from __future__ import annotations

import sys
from pathlib import Path

import attrs

from bamboo_sessions.models.state import Head, MergeRule, State

PAGE = Path(__file__).parent / "reference" / "merge-table.md"


def lines() -> list[str]:
    """One line a field, in order of definition, messages last."""
    fields = [field for field in (*attrs.fields(Head), *attrs.fields(State)) if "merge" in field.metadata]
    return [f"| `{field.name}` | {rule.name.lower().replace('_', ' ')} | {rule.value} |"
            for field in fields for rule in [MergeRule(field.metadata["merge"])]]


def renewed(page: str) -> str:
    """The page with these lines in the place of the present ones."""
    top, head, rest = page.partition("| field | rule | what a merge does |\n| --- | --- | --- |\n")
    after = rest[rest.index("\n\n"):]
    return top + head + "\n".join(lines()) + after


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(renewed(PAGE.read_text()))
    else:
        sys.stdout.write("\n".join(lines()) + "\n")
