"""The few lines of a history that show one anomaly: the states side by side, and who did what, in the order of time."""

from __future__ import annotations

from tests.histories.history import FOREVER, Op, State
from tests.histories.verdict import Anomaly


def show(anomaly: Anomaly) -> str:
    lines = [f"  {anomaly.session}: {anomaly.what}: {anomaly.story}"]
    ops = sorted({op.name: op for op in anomaly.ops}.values(), key=lambda op: op.t0)
    begin = ops[0].t0 if ops else 0
    lines += [f"    {_line(op, begin)}" for op in ops]
    lines += [f"    {name:>14}: {_state(state)}" for name, state in anomaly.states]
    return "\n".join(lines)


def _line(op: Op, begin: int) -> str:
    end = "……" if op.t1 == FOREVER else f"{(op.t1 - begin) / 1e6:.3f}"
    parts = [f"{(op.t0 - begin) / 1e6:9.3f} to {end} ms", f"{op.repo:8} {op.name} {op.kind}"]
    if op.base is not None:
        parts.append(f"from {_place(op.base)}")
    if op.value is not None:
        parts.append(repr(op.value))
    if op.tried:
        parts.append("after " + ", ".join(f"{tried.name} ({tried.outcome})" for tried in op.tried))
    parts.append(f"=> {op.outcome} {op.what}".rstrip())
    if op.out is not None or op.rev:
        parts.append(_place(op.out) if op.out is not None else f"@{op.rev}")
    if op.changed is False:
        parts.append("(nothing to store)")
    return "  ".join(parts)


def _place(state: State) -> str:
    return f"{state.birth[:6]}@{state.rev}"


def _state(state: State | None) -> str:
    if state is None:
        return "never saved"
    title, source, version, pinned, tags, metadata, asked, model, _ = state.says
    questions = ", ".join(f"{token[:6]} {call} {text!r}" for token, call, text in asked)
    return (f"{title!r} by {source}, {version} edits, pinned {pinned}, tags {' '.join(tags) or '-'}, {metadata}, "
            f"asks [{questions}], {model}, messages {' '.join(state.order) or '-'}")
