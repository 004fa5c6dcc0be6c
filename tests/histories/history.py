"""A history as the judge reads it: the operations of each session, with times, states and outcomes.

Nothing of the package is imported here, nor by whoever judges. Facts are taken from the logs alone.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

FOREVER = math.inf
Element = tuple[str, Any]
"""One thing that a state says something about: ("message", id), ("title", None), ("metadata", key), …"""


class State:
    """One state of a session, as somebody saw it. `says` holds everything but birth, revision and time."""

    __slots__ = ("_facts", "_order", "birth", "rev", "says", "updated")

    def __init__(self, plain: list[Any]) -> None:
        self.birth, self.rev, self.updated = plain[0], plain[1], plain[2]
        self.says = plain[3:]
        self._facts: dict[Element, Any] | None = None
        self._order: list[str] | None = None

    @property
    def version(self) -> int:
        """How often people edited."""
        return int(self.says[2])

    @property
    def order(self) -> list[str]:
        """The ids of the messages."""
        if self._order is None:
            self._order = [word.rpartition(":")[0] for word in self.says[8].split("\x1f") if word]
        return self._order

    @property
    def facts(self) -> dict[Element, Any]:
        if self._facts is None:
            title, source, _, pinned, tags, metadata, asked, model, words = self.says
            made: dict[Element, Any] = {("title", None): (title, source), ("pinned", None): pinned, ("model", None): model}
            made.update((("tag", tag), True) for tag in tags)
            made.update((("metadata", key), value) for key, value in metadata.items())
            made.update((("question", token), (call, text)) for token, call, text in asked)
            for word in words.split("\x1f"):
                name, _, checksum = word.rpartition(":")
                if word:
                    made["message", name] = checksum
            self._facts = made
        return self._facts

    def open_calls(self) -> set[str]:
        return {call for _, call, _ in self.says[6]}

    def but(self, **changes: Any) -> State:
        """Another state, that says this and has these changes."""
        names = ("title", "source", "version", "pinned", "tags", "metadata", "asked", "model", "words")
        said = dict(zip(names, self.says, strict=True)) | changes
        return State([self.birth, self.rev, None, *said.values()])


NOTHING = State(["", 0, None, None, None, 0, False, [], {}, [], None, ""])


class Op:
    """One operation: what its caller held and what came of it. `t1` is FOREVER where nobody knows if it ended."""

    __slots__ = ("base", "birth", "changed", "kind", "mine", "name", "out", "outcome", "repo", "rev", "session", "t0", "t1",
                 "tried", "value", "what")

    def __init__(self, name: str, kind: str, session: str, repo: str, t0: int) -> None:
        self.name, self.kind, self.session, self.repo, self.t0 = name, kind, session, repo, t0
        self.t1: float = FOREVER
        self.outcome = "unknown"
        self.base: State | None = None
        """What the copy descended from, as its holder saw it."""
        self.mine: State | None = None
        """What the holder wanted to be stored."""
        self.out: State | None = None
        """What the holder was given."""
        self.tried: list[Op] = []
        """Earlier saves of the same copy that had no clear end."""
        self.rev: int | None = None
        self.changed: bool | None = None
        self.value: Any = None
        self.what = ""

    def is_maybe(self) -> bool:
        """Whether nobody can say if it was stored: killed, without a clear answer, or kept in some cache for later."""
        return self.outcome in ("unknown", "kept") and self.kind not in LOOKS

    def __repr__(self) -> str:
        return f"{self.name} {self.kind}"


LOOKS = ("load", "load_merged", "exists")
INTENDED = ("title", "pin", "tag", "untag", "answer")
"""Kinds that say what they want and are given no state."""


def read_history(folder: Path) -> dict[str, list[Op]]:
    """The operations of each session, by their beginning; those without a session under ""."""
    lines: list[bytes] = []
    for path in sorted(folder.glob("*.log")):
        lines += path.read_bytes().split(b"\n")[:-1]  # half a line was never acted upon
    return history_of(map(orjson.loads, lines))


def history_of(records: Iterable[dict[str, Any]]) -> dict[str, list[Op]]:
    """The same from records that are at hand."""
    ops: dict[str, Op] = {}
    made: dict[str, list[Op]] = defaultdict(list)
    for record in records:
        if "i" in record:
            op = ops[record["i"]] = Op(record["i"], record["k"], record["s"], record["r"], record["t0"])
            op.value = record.get("v")
            op.tried = [ops[name] for name in record.get("a", ())]
            if record.get("b") is not None:
                op.base = ops[record["b"]].out
            if "m" in record:
                op.mine = State(record["m"])
            made[op.session].append(op)
        elif "w" in record:
            op = ops[record["w"]]
            op.base, op.mine = (State(plain) for plain in record["x"])
        if "o" in record:
            _end(ops[record.get("e") or record["i"]], record, ops)
    for of_one in made.values():
        of_one.sort(key=lambda op: op.t0)
    return dict(made)


def _end(op: Op, record: dict[str, Any], ops: dict[str, Op]) -> None:
    op.t1, op.outcome, op.what = record["t1"], record["o"], record.get("what", "")
    op.rev, op.changed = record.get("rev"), record.get("ch")
    given = record.get("x")
    op.out = ops[given].out if isinstance(given, str) else None if given is None else State(given)
    if op.kind == "edit" and op.out is not None and op.base is not None:
        op.rev, op.changed = op.out.rev, op.out.rev > op.base.rev  # nobody else wrote in between: that is judged as well
    if op.outcome == "unknown":
        op.t1 = FOREVER  # it may still be stored, by whoever was asked
