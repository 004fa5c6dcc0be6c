"""Whether the two files of a session keep every invariant there is. Pure: bytes in, problems out.

Reading trusts checksums and looks no further, because each look costs and a writer wrote only what was right. An audit
trusts nobody: it decodes the head after the last change and the envelope of every message, and follows ids, operations,
questions and time through each change. It is quick where all is well; only where something is not does it look for the
place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs

from bamboo_sessions._json import loads
from bamboo_sessions.codec import decode_head, patch_in_place
from bamboo_sessions.errors import InvalidValue, UnsupportedFormat
from bamboo_sessions.models.findings import Severity
from bamboo_sessions.models.times import from_text
from bamboo_sessions.models.values import decode_text
from bamboo_sessions.storages.json_files import journal, snapshot
from bamboo_sessions.storages.json_files.layout import Place, encode_id, shard_of
from bamboo_sessions.storages.protocol import OPS_KEPT, Head

_BAD: Final = (AttributeError, KeyError, TypeError, ValueError)  # what decoding raises for what no version writes
_UNLIMITED: Final = 2**62


@attrs.frozen(slots=True)
class Problem:
    """A finding before it knows whose it is."""

    path: str
    offset: int
    kind: str
    what: str
    since: int | None = None
    severity: Severity = "damage"


@attrs.define(slots=True)
class _At:
    """The state that the audit has come to; changes are applied to it in place."""

    head: Head
    ids: list[str]
    known: set[str]
    """The same ids: a long journal must not cost its length times the session's."""
    ops: set[str]
    revision: int
    updated_at: str


def audit(place: Place, snap_data: bytes | None, journal_data: bytes | None) -> list[Problem]:
    """Every problem of the pair, the snapshot's first; of each file the first damaged place alone: what stands behind it
    cannot be judged. None: the file is missing."""
    problems: list[Problem] = []
    snap = _audit_snapshot(place, snap_data, problems)
    _audit_journal(place, snap, journal_data, problems, snap_data or b"")
    return problems


# -- the snapshot ------------------------------------------------------------------------------------------------


def _audit_snapshot(place: Place, data: bytes | None, problems: list[Problem]) -> snapshot.Snapshot | None:
    path = place.snapshot
    if data is None:
        problems.append(Problem(path, 0, "missing-file", "the snapshot is missing"))
        return None
    try:
        snap = snapshot.decode(data, path)
    except UnsupportedFormat as error:
        problems.append(Problem(path, 0, "newer-format", str(error)))
        return None
    except snapshot.Damage as damage:
        problems.append(Problem(path, damage.offset, "snapshot-damaged", damage.reason))
        return None
    fault = head_fault(snap.head)
    if fault:
        problems.append(Problem(path, 0, "head-invalid", fault))
        return None
    problems += _misplaced(place, snap.head)
    problems += _audit_ops(path, snap)
    in_messages = list(_audit_messages(path, data, snap))
    problems += in_messages
    return None if any(one.kind == "message-invalid" for one in in_messages) else snap


def _misplaced(place: Place, head: Head) -> Iterator[Problem]:
    found = head["id"]
    shard, name = place.shard.rpartition("/")[2], place.folder.replace("\\", "/").rpartition("/")[2]
    if not is_home(found, shard, name):
        yield Problem(place.snapshot, 0, "wrong-place", f"the folder holds the session {found!r}, whose place is another one")


def is_home(session_id: str, shard: str, name: str) -> bool:
    """Whether a session of this id belongs into the folder of this name."""
    return encode_id(session_id) == name and shard_of(session_id) == shard


def _audit_ops(path: str, snap: snapshot.Snapshot) -> Iterator[Problem]:
    ops = snap.ops
    if not 0 < len(ops) <= OPS_KEPT or len(set(ops)) != len(ops) or not all(type(op) is str and op for op in ops):
        yield Problem(path, snap.size, "operations-invalid", f"its {len(ops)} operation ids are not 1 to {OPS_KEPT} different "
                      "names")


def _audit_messages(path: str, data: bytes, snap: snapshot.Snapshot) -> Iterator[Problem]:
    index, reason = message_fault(snap.messages)
    if index >= 0:
        yield Problem(path, _offset_of(data, snap, index), "message-invalid", reason)
        return
    index = _twice(message_ids(snap.messages))
    if index >= 0:
        yield Problem(path, _offset_of(data, snap, index), "message-twice", "a message of this id stands there before")


def _offset_of(data: bytes, snap: snapshot.Snapshot, index: int) -> int:
    begin = data.index(b"\n", data.index(b"\n") + 1) + 1  # behind the head and the opening of the list
    return begin + sum(len(message) + 2 for message in snap.messages[:index])


def _twice(ids: Sequence[str]) -> int:
    """Where an id comes for the second time; -1."""
    if len(set(ids)) == len(ids):
        return -1
    seen: set[str] = set()
    for index, one in enumerate(ids):
        if one in seen:
            return index
        seen.add(one)
    return -1


# -- the journal -------------------------------------------------------------------------------------------------


def _audit_journal(place: Place, snap: snapshot.Snapshot | None, data: bytes | None, problems: list[Problem],
                   snap_data: bytes) -> None:
    path, since = place.journal, None if snap is None else snap.head["revision"]
    if data is None:
        problems.append(Problem(path, 0, "missing-file", "the journal is missing", since))
        return
    try:
        header = journal.read_header(data, path)
    except UnsupportedFormat as error:
        problems.append(Problem(path, 0, "newer-format", str(error), since))
        return
    except (ValueError, KeyError, TypeError) as error:
        problems.append(Problem(path, 0, "journal-damaged", f"its first line: {error}", since))
        return
    if snap is None:
        problems += _chain_alone(path, header, data)
    elif (foreign := _foreign(header, snap)):
        problems.append(Problem(path, 0, "journal-foreign", foreign, since))
    elif header.generation != snap.generation:
        problems.append(Problem(path, 0, "unfinished-fold", "the snapshot already contains this journal: a fold was cut short",
                                since, "leftover"))
    else:
        problems += _audit_changes(path, header, snap, data, snap_data)


def _foreign(header: journal.Header, snap: snapshot.Snapshot) -> str:
    """Why this journal does not follow this snapshot; "" where it does."""
    birth, revision = snap.head["birth"], snap.head["revision"]
    if header.birth != birth or snap.generation not in (header.generation, header.generation + 1):
        return (f"birth and generation {header.birth}/{header.generation} do not belong to {birth}/{snap.generation} of the "
                "snapshot")
    if header.generation == snap.generation and header.revision != revision:
        return f"it follows revision {header.revision}, the snapshot has {revision}"
    return ""


def _chain_alone(path: str, header: journal.Header, data: bytes) -> Iterator[Problem]:
    """All that can be said of a journal whose snapshot says nothing: whether its lines follow one another."""
    found = journal.scan(data, header.end, header.crc, 0, header.revision, _UNLIMITED, header.end)
    if found.damage and found.fatal:
        yield Problem(path, found.end, "journal-damaged", found.damage)


def _audit_changes(path: str, header: journal.Header, snap: snapshot.Snapshot, data: bytes, snap_data: bytes
                   ) -> Iterator[Problem]:
    found = journal.scan(data, header.end, header.crc, 0, header.revision, len(snap.messages), header.end)
    ids = message_ids(snap.messages)
    at = _At(snap.head, ids, set(ids), set(snap.ops), header.revision, snap.head["updated_at"])
    for index, step in enumerate(found.steps):
        before = at.revision
        fault = _apply(at, step)
        if fault is not None:
            kind, what, severity = fault
            yield Problem(path, _line_at(data, header.end, index), kind, what, before, severity)
            if severity == "damage":
                return
    if found.steps and head_fault(at.head):
        yield _bad_head(path, header, snapshot.decode_top(snap_data, path).head, data, found.steps)
    if found.damage:
        yield _at_the_end(path, found, at.revision)


def _bad_head(path: str, header: journal.Header, head: Head, data: bytes, steps: Sequence[journal.Step]) -> Problem:
    """The first change behind which the head is none. Decoding it behind each is dear, so only where the last one is bad."""
    before, at, fault = header.revision, header.end, ""
    for step in steps:
        patch_in_place(head, step[4])
        head["revision"] = step[0]
        fault = head_fault(head)
        if fault:
            break
        before, at = step[0], data.index(b"\n", at) + 1
    return Problem(path, at, "head-invalid", fault, before)


def _at_the_end(path: str, found: journal.Scan, revision: int) -> Problem:
    if found.fatal:
        return Problem(path, found.end, "journal-damaged", found.damage, revision)
    return Problem(path, found.end, "torn-tail", f"an unfinished end that was never acknowledged: {found.damage}", revision,
                   "leftover")


def _apply(at: _At, step: journal.Step) -> tuple[str, str, Severity] | None:
    """Take one change in; (kind, what, severity) of the first thing that is wrong with it."""
    at.revision, op, keep, added, change = step
    index, reason = message_fault(added)
    if index >= 0:
        return "message-invalid", reason, "damage"
    new = message_ids(added)
    at.known.difference_update(at.ids[keep:])
    at.ids[keep:] = new
    if len(set(new)) != len(new) or not at.known.isdisjoint(new):
        return "message-twice", "after this change two messages have one id", "damage"
    at.known.update(new)
    if type(op) is not str or op in at.ops:
        return "operations-invalid", f"the operation {op!r} was applied before", "damage"
    at.ops.add(op)
    try:
        patch_in_place(at.head, change)
        at.head["revision"] = at.revision
        return _apply_head(at, change)
    except _BAD as error:
        return "head-invalid", f"the change of the head cannot be applied: {error}", "damage"


def _apply_head(at: _At, change: dict[str, Any]) -> tuple[str, str, Severity] | None:
    fault = _questions_fault(at.head)
    if fault:
        return "head-invalid", fault, "damage"
    before, at.updated_at = at.updated_at, at.head["updated_at"]
    # A plain `save_session` keeps the time it is given, so this is not always somebody's fault; the next merged save moves
    # on from the later time.
    if from_text(at.updated_at) <= from_text(before) and "birth" not in change.get("set", {}):
        return "time-not-forward", f"updated_at does not go forward: {at.updated_at} behind {before}", "leftover"
    return None


def _line_at(data: bytes, begin: int, index: int) -> int:
    """Where the journal's line of this index begins."""
    for _ in range(index):
        begin = data.index(b"\n", begin) + 1
    return begin


# -- parts -------------------------------------------------------------------------------------------------------


def head_fault(head: object) -> str:
    """What is wrong with a stored head; "" where it is one."""
    if type(head) is not dict:
        return "the head is no object"
    try:
        decoded = decode_head(head)
    except _BAD as error:
        return f"the head is no session: {error!r}"
    if not (type(decoded.id) is str and decoded.id and type(decoded.birth) is str and decoded.birth):
        return "the head has no id or no birth"
    if type(decoded.revision) is not int or decoded.revision < 1:
        return f"the revision is {decoded.revision!r}"
    return _questions_fault(head)


def _questions_fault(head: Head) -> str:
    both = head.get("questions", {}).keys() & head.get("closed_questions", {}).keys()
    return f"the question {min(both)!r} is open and closed" if both else ""


def message_ids(lines: Sequence[bytes]) -> list[str]:
    """The ids of messages whose envelopes are good."""
    return [one["id"] for one in loads(b"[%b]" % b",".join(lines))]


def message_fault(lines: Sequence[bytes]) -> tuple[int, str]:
    """(index, reason) of the first message whose envelope is none; (-1, "")."""
    try:
        parsed = loads(b"[%b]" % b",".join(lines))
        if len(parsed) == len(lines) and all(map(_is_envelope, parsed, lines)):
            return -1, ""
    except ValueError:
        pass
    for index, line in enumerate(lines):
        try:
            if not _is_envelope(loads(line), line):
                return index, "the message has no id, or nothing that it says"
        except ValueError as error:
            return index, f"the message is not JSON: {error}"
    return -1, ""


def _is_envelope(parsed: Any, line: bytes) -> bool:
    """`{"id":"…","m":{…}}`, or with `text` for what JSON proper cannot carry; the id comes first, for it is cut out."""
    if type(parsed) is not dict or not line.startswith(b'{"id":"') or not parsed["id"]:
        return False
    if "m" in parsed:
        return type(parsed["m"]) is dict
    text = parsed.get("text")
    try:
        return type(text) is str and type(decode_text(text)) is dict
    except (ValueError, InvalidValue):
        return False
