"""The order of what was committed and seen: lives of a session, their revisions, and which of them may still be seen.

Fed with records in the order of the log. What a look showed was true at some moment between its two offsets, and what was
acknowledged was true before its own. So a look that *began* after something was known can show nothing older than that,
whoever knew it; all rules here are that sentence, for revisions, for births and for deletes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from math import inf
from typing import Any

import attrs

Wrong = Callable[[str, str], None]
"""(rule, what)"""


@attrs.define(eq=False)
class Op:
    """One attempted change. `state`: "open" while its process lives, "acked", "refused", or "unknown" after a death."""

    name: str
    session_id: str
    start: float
    facts: dict[str, Any]
    end: float = inf
    state: str = "open"
    birth: str | None = None
    revision: int = 0
    changed: bool = True

    @property
    def may_be_there(self) -> bool:
        return self.state != "refused"

    def is_acked_by(self, at: float) -> bool:
        return self.state == "acked" and self.end <= at


@attrs.define(eq=False)
class Birth:
    """One life of a session, from its creation to its end."""

    name: str
    first_end: float
    """Known since."""
    last_start: float = -1
    """Somebody who began then still saw it."""
    dead_from: float = inf
    """Whoever begins later must not see it."""
    marks: list[tuple[float, int]] = attrs.Factory(list)
    """(offset, the newest revision known then)"""
    revisions: list[int] = attrs.Factory(list)
    seen: dict[int, dict[str, Any]] = attrs.Factory(dict)
    committed: dict[int, str] = attrs.Factory(dict)

    def floor(self, at: float) -> int:
        index = bisect_right(self.marks, (at, 1 << 60))
        return self.marks[index - 1][1] if index else 0

    @property
    def newest(self) -> int:
        return self.marks[-1][1] if self.marks else 0


class Order:
    """The births of one session."""

    def __init__(self, wrong: Wrong) -> None:
        self.births: dict[str, Birth] = {}
        self.deletes: list[Op] = []
        self.offered: set[str] = set()
        """Births that somebody wanted to give it."""
        self._wrong = wrong

    def committed(self, op: Op) -> None:
        """An acknowledged save: no two changes may have become one revision."""
        assert op.birth is not None
        birth = self.births[op.birth]
        if op.changed and birth.committed.setdefault(op.revision, op.name) != op.name:
            other = birth.committed[op.revision]
            self._wrong("one revision, two changes", f"{other} and {op.name}, both {op.revision} of birth {op.birth}")

    def shown(self, name: str, revision: int, start: float, end: float, seen: dict[str, Any], who: str) -> None:
        """Somebody saw this revision of this birth between these offsets."""
        birth = self.births.get(name)
        if birth is None:
            birth = self.births[name] = Birth(name, end)
            if name not in self.offered:
                self._wrong("born of nobody", f"{who} shows birth {name}, which nobody made")
        if start >= birth.dead_from:
            self._wrong("deleted came back", f"{who} shows birth {name} at revision {revision}, which was gone before")
        floor = birth.floor(start)
        if revision < floor:
            self._wrong("went back", f"{who} shows revision {revision} of birth {name}; {floor} was known before")
        self._compare(birth, revision, seen, who)
        birth.last_start = max(birth.last_start, start)
        if revision > birth.newest:
            birth.marks.append((end, revision))
        for other in self.births.values():
            if other is not birth and other.first_end <= start:
                self._over(other, end, who)

    def _compare(self, birth: Birth, revision: int, seen: dict[str, Any], who: str) -> None:
        known = birth.seen.get(revision)
        if known is None:
            birth.seen[revision] = {**seen, "by": who}
            self._in_time(birth, revision, who)
            return
        for key in seen.keys() & known.keys():
            if seen[key] != known[key]:
                self._wrong("two states of one revision", f"birth {birth.name}, revision {revision}: {who} shows {key} "
                                                          f"{seen[key]}, {known['by']} {known[key]}")
        birth.seen[revision] = {**seen, **known}

    def _in_time(self, birth: Birth, revision: int, who: str) -> None:
        """`updated_at` grows with the revision."""
        at = bisect_left(birth.revisions, revision)
        insort(birth.revisions, revision)
        when = birth.seen[revision].get("u")
        for index, is_before in ((at - 1, True), (at + 1, False)):
            if when is None or not 0 <= index < len(birth.revisions):
                continue
            other = birth.seen[birth.revisions[index]].get("u")
            if other is not None and (other >= when if is_before else other <= when):
                self._wrong("time went back", f"{who}: revision {revision} is of {when}, "
                                              f"revision {birth.revisions[index]} of {other}")

    def absent(self, start: float, end: float, who: str) -> None:
        """Somebody found no session between these offsets."""
        for birth in self.births.values():
            if birth.first_end <= start:
                self._over(birth, end, who)

    def over(self, name: str, end: float, who: str) -> None:
        """Somebody was told that this life is over."""
        if name in self.births:
            self._over(self.births[name], end, who)

    def _over(self, birth: Birth, end: float, who: str) -> None:
        """It is; but nobody vanishes unless somebody who may have deleted it was at work while it was still there."""
        if birth.dead_from == inf and not any(
                op.start < end and op.end > birth.last_start and op.facts.get("there", True) for op in self.deletes):
            self._wrong("vanished", f"{who} finds birth {birth.name} gone, and nobody deleted it")
        birth.dead_from = min(birth.dead_from, end)
