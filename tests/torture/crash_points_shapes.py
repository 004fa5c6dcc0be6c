"""What a crash left to be recovered from, in words that are the same in every run: two stores of one shape are put right in
the same way."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path


def shape(store: Path) -> str:
    """What is there to be recovered from, without what differs from run to run: names by kind, ends, generations."""
    if not store.exists():
        return "nothing"
    return "\n".join(sorted({_told(path, path.relative_to(store).parts) for path in store.rglob("*")}))


def _told(path: Path, parts: tuple[str, ...]) -> str:
    if parts[0] in ("new", "trash") and len(parts) > 1:
        parts = (parts[0], "-", *parts[2:])
    elif parts[0] == "sessions":
        parts = tuple("-" if depth in (1, 2) and "." not in part else part for depth, part in enumerate(parts))
    if "quarantine" in parts:
        return "quarantine"
    if parts[0] == "locks.d":
        return "locks.d"
    told = "/".join(parts)
    if path.name == "journal.jsonl" and path.is_file():
        told += _ending(path)
    elif path.is_file() and not path.stat().st_size:
        told += " empty"
    return told


def _ending(journal: Path) -> str:
    """Whether it ends in a whole line, and whether its snapshot is ahead of it."""
    data, snapshot = journal.read_bytes(), journal.with_name("session.json")
    torn = " torn" if not data.endswith(b"\n") else ""
    spoiled = " spoiled" if data.endswith(b"\0") else ""
    with suppress(ValueError, KeyError, OSError):
        first, top = data.split(b"\n", 1)[0], snapshot.read_bytes().split(b"\n", 1)[0][:-1] + b"}"
        if json.loads(first)["generation"] != json.loads(top)["generation"]:
            return f"{torn}{spoiled} ahead"
    return torn + spoiled
