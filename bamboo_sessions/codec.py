"""Models to stored JSON and back: the one place that knows how a session looks on disk.

A head is a JSON object that leaves defaults out; a change of it is a JSON object of what is set, what is unset, and the
same inside its sections (`metadata`, `questions`, `closed_questions`), so that a turn of a long-lived session writes a
few dozen bytes. `patch_json` applies a change to stored JSON, `patch_head` to a decoded head; both must agree, and a
test holds them to it. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import attrs
import orjson

from bamboo_sessions._json import loads
from bamboo_sessions.errors import InvalidValue
from bamboo_sessions.models.message import Message
from bamboo_sessions.models.messages import Messages
from bamboo_sessions.models.question import PendingQuestion
from bamboo_sessions.models.state import Head, State, changed
from bamboo_sessions.models.times import from_text, to_text
from bamboo_sessions.models.values import trimmed

Json = dict[str, Any]

# Without `extra`, which is no field of a stored head: a newer version may well have one of that name.
_FIELDS: Final = {field.name: field.default for field in attrs.fields(Head) if field.name != "extra"}
_SECTIONS: Final = ("metadata", "questions", "closed_questions")
_TIMES: Final = ("created_at", "updated_at")
_BY_KEY: Final = frozenset([*_SECTIONS, "extra"])
_APART: Final = _BY_KEY | {"revision"}
_IN_A_LINE: Final = tuple(name for name in _FIELDS if name not in _SECTIONS)


# -- stored JSON -------------------------------------------------------------------------------------------------


def patch_json(head: Json, change: Json) -> Json:
    """The stored head that `change` makes of `head`; neither argument is modified."""
    made = {**head, **change.get("set", {})}
    for name in change.get("unset", ()):
        made.pop(name, None)
    for section, inner in change.get("in", {}).items():
        patched = patch_json(made.get(section, {}), inner)
        if patched:
            made[section] = patched
        else:
            made.pop(section, None)
    return made


def patch_in_place(head: Json, change: Json) -> None:
    """The same on a head that nobody else holds, sections included: for a long row of changes, whose parts it may keep."""
    if "set" in change:
        head.update(change["set"])
        if len(change) == 1:
            return
    for name in change.get("unset", ()):
        head.pop(name, None)
    for section, inner in change.get("in", {}).items():
        patch_in_place(head.setdefault(section, {}), inner)
        if not head[section]:
            del head[section]


def encode_head(head: Head) -> Json:
    """A head as stored: fields at their default are left out, fields of newer versions stand where they came from."""
    made: Json = {key: loads(packed) for key, packed in head.extra.items()}
    made |= {name: _written(name, value) for name in _IN_A_LINE if (value := getattr(head, name)) != _FIELDS[name]}
    made |= {section: values for section in _SECTIONS if (values := _section(head, section))}
    return made


def decode_head(stored: Json) -> Head:
    """The reverse; fields that this version does not know go to `extra` and come back on encoding."""
    fields, extra = _split_fields(stored)
    return Head(**fields, extra=extra)


def decode_times(stored: Json) -> dict[str, datetime]:
    """`created_at` and `updated_at` of a stored head."""
    return {name: from_text(stored[name]) for name in _TIMES}


def _written(name: str, value: Any) -> Any:
    if name in _TIMES:
        return to_text(value)
    return sorted(value) if name == "tags" else value


def _split_fields(stored: Json) -> tuple[dict[str, Any], dict[str, bytes]]:
    """(fields of a head, packed fields that this version does not know): by what is there, which is little."""
    fields, extra = {}, {}
    for name, value in stored.items():
        if name in _READ:
            fields[name] = _READ[name](value)
        elif name in _FIELDS:
            fields[name] = value
        else:
            extra[name] = trimmed(orjson.dumps(value))
    return fields, extra


def _section(head: Head, section: str) -> Json:
    """A section as {key: JSON value}: questions by token, closed tokens in order, the rest by key."""
    return {key: loads(packed) for key, packed in _packed_section(head, section).items()}


def _packed_section(head: Head, section: str) -> Mapping[str, bytes]:
    if section == "questions":
        return {question.token: question.packed() for question in head.questions}
    if section == "closed_questions":
        return dict.fromkeys(head.closed_questions, b"1")
    packed: Mapping[str, bytes] = getattr(head, section)
    return packed


def _packed(stored: Json) -> dict[str, bytes]:
    return {key: trimmed(orjson.dumps(value)) for key, value in stored.items()}


def _questions(stored: Json) -> tuple[PendingQuestion, ...]:
    return tuple(map(PendingQuestion.unpacked, _packed(stored).values()))


_READ: Final[dict[str, Callable[[Any], Any]]] = {
    "created_at": from_text, "updated_at": from_text, "tags": frozenset,
    "lost_revisions": lambda ranges: tuple(map(tuple, ranges)), "metadata": _packed, "questions": _questions, "closed_questions": tuple}
"""How a stored value becomes a field, where they differ."""


# -- changes -----------------------------------------------------------------------------------------------------


def diff_head(old: Head | None, new: Head) -> Json:
    """What makes `new` of `old`, revision aside (the storage keeps that itself); of nothing where `old` is None."""
    if old is None:
        return {"set": encode_head(new)}
    before = old.__dict__
    moved = {name: value for name, value in new.__dict__.items() if value is not before[name]}
    change: Json = {}
    for name, after in moved.items():
        if name in _APART or before[name] == after:
            continue
        if after == _FIELDS[name]:
            change.setdefault("unset", []).append(name)
        else:
            change.setdefault("set", {})[name] = _written(name, after)
    return _diff_sections(old, new, change) if not _BY_KEY.isdisjoint(moved) else change


def _diff_sections(old: Head, new: Head, change: Json) -> Json:
    if old.extra is not new.extra:
        change = _diff_extra(change, _diff_packed(old.extra, new.extra))
    inner: Json = {}
    for section in _SECTIONS:
        before, after = _packed_section(old, section), _packed_section(new, section)
        if section != "metadata" and _out_of_order(before, after):
            change = {**change, "set": {**change.get("set", {}), section: _section(new, section)}}
        elif diff := _diff_packed(before, after):
            inner[section] = diff
    return {**change, "in": inner} if inner else change


def _out_of_order(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> bool:
    """Whether setting and unsetting keys would leave them in another order: the oldest question comes first."""
    kept = [key for key in before if key in after]
    return [*kept, *(key for key in after if key not in before)] != list(after)


def _diff_packed(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> Json:
    change: Json = {}
    written = {key: loads(value) for key, value in after.items() if before.get(key) != value}
    if written:
        change["set"] = written
    gone = [key for key in before if key not in after]
    if gone:
        change["unset"] = gone
    return change


def _diff_extra(change: Json, extra: Json) -> Json:
    """Unknown fields stand beside the known ones, so their changes do as well."""
    made = dict(change)
    if "set" in extra:
        made["set"] = {**change.get("set", {}), **extra["set"]}
    if "unset" in extra:
        made["unset"] = [*change.get("unset", ()), *extra["unset"]]
    return made


def patch_head(head: Head, change: Json, revision: int) -> Head:
    """The decoded head that `change` makes of `head`, at `revision`."""
    fields, extra = _split_fields(change["set"]) if "set" in change else ({}, {})
    gone = change.get("unset", ())
    if gone:
        fields |= {name: _FIELDS[name] for name in gone if name in _FIELDS}
    if extra or not all(name in _FIELDS for name in gone):
        fields["extra"] = {key: value for key, value in head.extra.items() if key not in gone} | extra
    if "in" in change:
        fields |= {section: _patch_section(head, section, inner) for section, inner in change["in"].items()}
    fields["revision"] = revision
    return changed(head, **fields)


def _patch_section(head: Head, section: str, change: Json) -> Any:
    stored = {key: orjson.Fragment(value) for key, value in _packed_section(head, section).items()}
    return _READ[section](patch_json(stored, change))


# -- records -----------------------------------------------------------------------------------------------------


def decode_state(head: Json, lines: Iterable[bytes]) -> State:
    """A whole stored record as a state; no message is decoded."""
    return State(decode_head(head), Messages.of_lines(lines))


def patch_state(state: State, keep: int, lines: Sequence[bytes], change: Json, revision: int) -> State:
    """A committed change applied to the state before it; what is shared stays shared."""
    added = [Message.from_line(line) for line in lines]
    return State(patch_head(state.head, change, revision), state.messages.committed(keep, added))


def split_messages(old: Messages, new: Messages) -> tuple[int, list[Message]]:
    """(keep, added): `new` as the first `keep` of `old` and what comes behind; looks only behind what they share."""
    keep = old.shared_with(new)
    longest = min(len(old), len(new))
    while keep < longest and old[keep].same_as(new[keep]):
        keep += 1
    return keep, new[keep:]


# -- beside the session ------------------------------------------------------------------------------------------


def check_usage(line: bytes) -> None:
    """Raises `InvalidValue` for a usage record that is not exactly one line of JSON."""
    if b"\n" in line or b"\r" in line:
        raise InvalidValue("usage record", "it contains a line break")
    try:
        loads(line)
    except ValueError as error:
        raise InvalidValue("usage record", f"not one JSON value: {error}") from error
