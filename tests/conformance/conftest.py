"""Contracts about damage do it on purpose; the kit cannot ask for a fixture of ours, so it is asked for here."""

from __future__ import annotations


def pytest_collection_modifyitems(items):
    for item in items:
        if "damaged" in item.name and "conformance" in item.nodeid:
            item.fixturenames = [*item.fixturenames, "damage_on_purpose"]  # a list of its own: siblings share theirs
