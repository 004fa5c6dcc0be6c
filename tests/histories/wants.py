"""What an operation wanted of each thing that a state speaks of, read from what its holder had and made of it."""

from __future__ import annotations

from typing import Any

from tests.histories.history import INTENDED, Element, Op, State


def wanted(element: Element, was: Any, ops: list[Op]) -> list[Any]:
    """What the operations would have made of it: each on its own; and what is done to the newest, also of what another made."""
    made: list[Any] = []
    for op in ops:
        if op.kind not in INTENDED and op.mine is not None:
            ours = op.mine.facts.get(element)
            has_all_tags = op.base is None and element[0] == "tag"  # without a common past they are one thing, not one each
            if has_all_tags or op.tried or ours != (None if op.base is None else op.base.facts.get(element)):
                made.append(ours)
    for op in ops:
        if op.kind in INTENDED:
            made += [value for one in (was, *made) for value in intended(op, element, one) if value not in made]
    return made


def intended(op: Op, element: Element, was: Any) -> list[Any]:
    kind, value = op.kind, op.value
    if kind == "title" and element[0] == "title":
        return [was if value[1] == "generated" and was and was[1] == "user" else tuple(value)]
    if kind == "pin" and element[0] == "pinned":
        return [value]
    if kind in ("tag", "untag") and element == ("tag", value):
        return [True if kind == "tag" else None]
    if kind == "answer" and element[0] == "question" and was is not None and was[0] == value[0]:
        return [None]
    if kind == "answer" and element == ("message", f"={value[1]}"):
        return ["0"]
    return [was]


def carried_out(op: Op, before: State) -> State:
    """The state in which that was done."""
    kind, value = op.kind, op.value
    _, source, version, _, tags, _, asked, _, words = before.says
    if kind == "title":
        if value[1] == "generated" and source == "user":
            return before
        return before.but(title=value[0], source=value[1], version=version + (value[1] == "user"))
    if kind == "pin":
        return before.but(pinned=value, version=version + (value != before.says[3]))
    if kind in ("tag", "untag"):
        made = {*tags, value} if kind == "tag" else {*tags} - {value}
        return before.but(tags=sorted(made), version=version + (made != {*tags}))
    result = f"={value[1]}:0"
    return before.but(asked=[q for q in asked if q[1] != value[0]], words=f"{words}\x1f{result}" if words else result)


def says(op: Op, state: State) -> bool:
    """Whether the state says what no other operation can have said."""
    if op.kind == "title":
        return bool(state.says[0] == op.value[0])
    return op.kind == "answer" and ("message", f"={op.value[1]}") in state.facts


def additions(op: Op) -> list[str]:
    assert op.mine is not None
    known = {} if op.base is None else op.base.facts
    return [name for name in op.mine.order if ("message", name) not in known]


def block(op: Op) -> list[str]:
    """What stands behind the last message that the copy was made with, or that an earlier try of it may have stored."""
    assert op.mine is not None
    before = [op.base, *(tried.mine for tried in op.tried)]
    known = {element for state in before if state is not None for element in state.facts}
    last = max((at for at, name in enumerate(op.mine.order) if ("message", name) in known), default=-1)
    return op.mine.order[last + 1 :]


def edited(op: Op) -> list[str]:
    if op.mine is None or op.base is None:
        return []
    now = op.mine.facts
    return [name for (kind, name), value in op.base.facts.items()
            if kind == "message" and now.get((kind, name), value) != value]


def has_no_past(op: Op) -> bool:
    """Whether the copy was never saved: neither by its holder nor, with an answer that was lost, perhaps."""
    is_new = op.base is None or op.base.rev == 0
    return is_new and not (op.tried and all(tried.outcome == "unknown" and tried.kind == "save" for tried in op.tried))


def stands_on_more(op: Op) -> bool:
    """Whether its copy had learned since it was taken: a save of it that failed found that what the cache had tried with
    it was stored, and went on from there."""
    return op.mine is not None and op.base is not None and op.mine.birth == op.base.birth and op.mine.rev > op.base.rev > 0


def process(op: Op) -> str:
    return op.name.partition(".")[0]


def was_edited(op: Op, element: Element) -> bool:
    """Whether the copy had something else there when it was taken, or when an earlier save of it was tried."""
    assert op.mine is not None
    before = [op.base, *(tried.mine for tried in op.tried)]
    return any(state is not None and state.facts.get(element) not in (None, op.mine.facts.get(element)) for state in before)


def removers(ops: list[Op]) -> set[str]:
    """The messages that somebody took out of a copy, saved or not."""
    gone: set[str] = set()
    for op in ops:
        if op.mine is not None:
            kept = op.mine.facts
            for before in (op.base, *(other.mine for other in op.tried)):
                if before is not None:
                    gone |= {name for kind, name in before.facts if kind == "message" and (kind, name) not in kept}
    return gone


def found_nothing(op: Op) -> bool:
    """Whether it says that there is no session; one whose storage failed on purpose says nothing."""
    if op.kind in ("load", "load_merged"):
        return op.outcome == "ok" and op.out is None
    return op.outcome == "absent" and op.kind != "delete"


def excused(element: Element, now: Any, was: Any, ops: list[Op]) -> bool:
    return any(now in wanted(element, was, [op]) or (op.mine is not None and op.mine.facts.get(element) == now) for op in ops)


def differing(a: State, b: State) -> list[Element]:
    return [element for element in {**a.facts, **b.facts} if a.facts.get(element) != b.facts.get(element)]


def differences(a: State, b: State) -> str:
    parts = [f"{told(e)} {a.facts.get(e)!r} / {b.facts.get(e)!r}" for e in differing(a, b)]
    return "; ".join(parts[:3]) or ("the order of messages or the count of edits" if a.says != b.says else f"updated_at {a.updated} / {b.updated}")


def told(element: Element) -> str:
    return element[0] if element[1] is None else f"{element[0]} {element[1]}"


def is_result(name: str) -> bool:
    return name.startswith("=") or name.endswith("r")


def call_of(name: str) -> str:
    return f"{name.partition('~')[2][:-1]}c" if "~" in name else ""
