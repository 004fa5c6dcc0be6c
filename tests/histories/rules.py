"""The documented merge, told once more for a judge: what one thing may be after a save, given three states.

Each rule speaks of one element: a message, a key, a tag, a question, a title. `before` is what the copy was made from,
`mine` what its holder made of it, `theirs` what was stored when it was saved; None: not there. The tables in the docs
are the source of these lines, not the code. Where several answers are in keeping with what is known, all are given.
"""

from __future__ import annotations

from typing import Any

from tests.histories.history import Element, State

Values = list[Any]


def allowed(element: Element, base: State | None, mine: State, theirs: Any, stored: State | None) -> Values:
    """What the element may be after `mine`, made from `base`, was saved where `theirs` was stored.

    `base` None: a copy that was never saved. `stored` is the whole stored state, None where it is not known for sure.
    """
    before, ours = (None if base is None else base.facts.get(element)), mine.facts.get(element)
    if element[0] in ("title", "pinned", "tag") and (base is None or element[0] != "tag"):
        return _of_people(element, base, mine, theirs, stored)
    if element[0] == "message":
        return [_message(base, before, ours, theirs)]
    if element[0] == "question":
        return _question(before, ours, theirs, _still_asked(base, mine, stored))
    return [theirs if ours in (before, theirs) else ours]  # who changed it wins; both: the later commit


def _message(base: State | None, before: Any, ours: Any, theirs: Any) -> Any:
    if base is None:
        return ours if theirs is None else theirs  # no common past: a union, the stored version stands
    if ours == theirs or ours == before:
        return theirs
    if ours is None:
        return None if theirs == before else theirs  # an edit against a deletion: the edit
    return ours


def _question(before: Any, ours: Any, theirs: Any, asked: set[str] | None) -> Values:
    if before is not None and (ours is None or theirs is None):
        return [None]  # closed by either side
    if ours is None:
        return [theirs]
    if theirs is None:  # mine is new; of two that were opened at once under one call the stored one stays
        if asked is None:
            return [ours, None]
        return [None] if ours[0] in asked else [ours]
    return [theirs if ours == before else ours]


def _still_asked(base: State | None, mine: State, stored: State | None) -> set[str] | None:
    """The calls that are open in what is stored, less what the copy closed; None: nobody knows. A copy without a past may
    have closed any of them, when it was somebody's `as_new`."""
    if stored is None or base is None:
        return None
    closed = {token for token, _, _ in base.says[6]} - {token for token, _, _ in mine.says[6]}
    return {call for token, call, _ in stored.says[6] if token not in closed}


def _of_people(element: Element, base: State | None, mine: State, theirs: Any, stored: State | None) -> Values:
    ours = mine.facts.get(element)
    if base is not None:
        before = base.facts.get(element)
        if ours in (before, theirs):
            return [theirs]
        if theirs == before:
            return [ours]
    if element[0] == "title":
        theirs = theirs or (None, None)
        sources = {ours[1], theirs[1]}
        if sources == {"user", "generated"}:
            return [ours if ours[1] == "user" else theirs]
        if base is None and sources == {"user", None}:  # the group as a whole, but no person's title is given up for it
            return [ours if ours[1] == "user" else theirs]
    return _by_version(ours, theirs, mine, stored)


def _by_version(ours: Any, theirs: Any, mine: State, stored: State | None) -> Values:
    """Two people changed one thing: who edited more often, the stored one on a tie."""
    if stored is None:
        return [ours, theirs]
    return [ours if mine.version > stored.version else theirs]
