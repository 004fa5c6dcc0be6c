"""What can still be read of damaged files: each message and each change that its own checksum vouches for. Pure.

Reading stops at the first wrong byte, as it must. This goes on behind it. Both formats allow that: a snapshot tells what
its checksum is behind each message, so that a message can be tested from the end of the one before it; a journal's lines
carry a checksum each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final
from zlib import crc32

import attrs

from bamboo_sessions._json import loads
from bamboo_sessions.storages.json_files import journal, lines, snapshot
from bamboo_sessions.storages.json_files.audit import head_fault, message_fault
from bamboo_sessions.storages.protocol import Change

_OPEN: Final = b'"messages":[\n'
_NEXT: Final = b",\n"
_LAST_LINE: Final = re.compile(rb'"ops":(\[[^\n\]]*\]),"lines":"([0-9a-f]*)","sum":"[0-9a-f]{8}"}\n?\Z')
_BIRTH: Final = re.compile(rb'"birth":"([A-Za-z0-9_-]{1,64})"')
_SKIPPED: Final = 64
"""How many messages a single wrong byte may have swallowed by joining or cutting lines; more are looked for in vain."""


@attrs.define(slots=True)
class SnapshotRemains:
    """What is left of a snapshot."""

    head: dict[str, Any] | None = None
    vouched: bool = False
    """By its checksum; else the head could merely be read."""
    generation: int = 0
    messages: list[bytes | None] = attrs.field(factory=list)
    """A place each; None: that message is lost."""
    places_known: bool = False
    """How many messages there were is certain: positions mean something."""
    by_form: int = 0
    """Messages that nothing vouches for but their form."""
    ops: tuple[str, ...] = ()
    whole: bool = False
    """Nothing is missing and nothing doubtful."""


@attrs.frozen(slots=True)
class Piece:
    """A stretch of a journal: one change, or bytes that are none."""

    start: int
    end: int
    change: Change | None
    prev: str = ""
    """What the line says of the line before."""
    crc: str = ""
    reason: str = ""


@attrs.define(slots=True)
class JournalRemains:
    """What is left of a journal."""

    header: journal.Header | None
    pieces: list[Piece]


# -- the snapshot ------------------------------------------------------------------------------------------------


def of_snapshot(data: bytes, path: str) -> SnapshotRemains:
    """Raises `UnsupportedFormat` where a newer version wrote the file."""
    try:
        snap = snapshot.decode(data, path)
    except snapshot.Damage:
        return _of_damaged(data, path)
    if head_fault(snap.head) or message_fault(snap.messages)[0] >= 0:
        return _of_damaged(data, path)
    return SnapshotRemains(snap.head, True, snap.generation, list(snap.messages), True, 0, snap.ops, whole=True)


def _of_damaged(data: bytes, path: str) -> SnapshotRemains:
    made = SnapshotRemains()
    count, begin = _read_top(made, data, path), data.find(b"\n") + 1
    ops, sums = _last_line(data)
    made.ops = ops
    if count is None and sums:
        count = len(sums)
    rows, total = _rows(data, begin)
    made.messages = _matched(rows, sums, total) if sums else _by_form(made, rows)
    _first_by_form(made, rows)
    made.places_known = count is not None and len(made.messages) == count
    return made


def _read_top(made: SnapshotRemains, data: bytes, path: str) -> int | None:
    """Fill in the first line; the number of messages where that is certain."""
    try:
        top = snapshot.decode_top(data, path)
    except snapshot.Damage:
        made.head, made.generation = _head_by_form(data)
        return None
    made.generation = top.generation
    if not head_fault(top.head):
        made.head, made.vouched = top.head, True
    return top.count


def _head_by_form(data: bytes) -> tuple[dict[str, Any] | None, int]:
    """A flipped bit in a title leaves a head that can be read and is wrong in one word: better than none."""
    try:
        fields = loads(data[: max(data.find(b"\n"), 0)][:-1] + b"}")
        head, generation = fields["head"], fields["generation"]
    except (ValueError, KeyError, TypeError):
        return None, 0
    return (None if head_fault(head) else head), generation if type(generation) is int else 0


def _last_line(data: bytes) -> tuple[tuple[str, ...], list[bytes]]:
    """(operation ids, checksums at the end of each message) as far as they can be read."""
    found = _LAST_LINE.search(data, data.rfind(b"\n", 0, max(0, len(data) - 1)) + 1)
    if found is None:
        return (), []
    try:
        ops = loads(found[1])
    except ValueError:
        ops = []
    return tuple(ops), [found[2][at : at + 8] for at in range(0, len(found[2]), 8)]


def _rows(data: bytes, begin: int) -> tuple[list[bytes], int]:
    """(candidates for messages, the checksum up to the first of them)."""
    if data.startswith(_OPEN, begin):
        begin += len(_OPEN)
    total = crc32(data[:begin])
    end = data.rfind(b'\n],\n"ops":')
    rows = data[begin : end if end >= 0 else len(data)].split(b"\n")
    return [row.removesuffix(b",") for row in rows], total


def _matched(rows: list[bytes], sums: list[bytes], total: int) -> list[bytes | None]:
    """Each row in the place where the checksums have it; a row that has none there is not what was written."""
    found: list[bytes | None] = [None] * len(sums)
    place = 0
    for row in rows:
        for at in range(place, min(len(sums), place + _SKIPPED)):
            before = total if at == 0 else crc32(_NEXT, int(sums[at - 1], 16))
            if b"%08x" % crc32(row, before) == sums[at] and message_fault([row])[0] < 0:
                found[at], place = row, at + 1
                break
    return found


def _first_by_form(made: SnapshotRemains, rows: list[bytes]) -> None:
    """The first message is vouched for together with the head: where that is damaged, its form must do."""
    if made.vouched or made.messages[:1] != [None] or not rows[0] or rows[0] in made.messages:
        return
    if message_fault(rows[:1])[0] < 0:
        made.messages[0] = rows[0]
        made.by_form += 1


def _by_form(made: SnapshotRemains, rows: list[bytes]) -> list[bytes | None]:
    """Where the checksums themselves are gone."""
    found = [row if row and message_fault([row])[0] < 0 else None for row in rows]
    while found and found[-1] is None:  # the end of the file, or what is left of it
        found.pop()
    made.by_form = len(found) - found.count(None)
    return found


# -- the journal -------------------------------------------------------------------------------------------------


def of_journal(data: bytes, path: str) -> JournalRemains:
    """Raises `UnsupportedFormat` where a newer version wrote the file."""
    try:
        header = journal.read_header(data, path)
    except (ValueError, KeyError, TypeError):
        header = None
    return JournalRemains(header, list(_pieces(data, 0 if header is None else header.end)))


def _pieces(data: bytes, begin: int) -> Iterator[Piece]:
    while begin < len(data):
        end = data.find(b"\n", begin)
        stop = len(data) if end < 0 else end
        if end >= 0 and lines.checksum(data[begin:end]) >= 0:
            yield _piece(data, begin, end)
        else:
            yield from _torn(data, begin, stop)
        begin = stop + 1


def _torn(data: bytes, begin: int, stop: int) -> Iterator[Piece]:
    """Between two line breaks, one of which may be missing because it is the damaged byte: two lines have become one."""
    starts = [found.start() for found in re.finditer(re.escape(lines.START), data[begin:stop])]
    edges, at = [*(begin + start for start in starts), stop], begin
    for left, right in pairwise(edges):
        end = next((e for e in (right, right - 1, stop) if lines.checksum(data[left:e]) >= 0), None)
        if end is None or left < at:
            continue
        if left > at + 1:
            yield Piece(at, left, None, reason="the bytes do not agree with their checksum")
        yield _piece(data, left, end)
        at = end
    if at < stop and (stop > at + 1 or at == begin):
        yield Piece(at, stop, None, reason="the bytes do not agree with their checksum")


def _piece(data: bytes, begin: int, end: int) -> Piece:
    """A line whose checksum is good."""
    line = data[begin:end]
    crc = line[len(lines.START) : len(lines.START) + 8].decode()
    try:
        change, prev = _change(line)
    except (ValueError, KeyError, TypeError, IndexError):
        return Piece(begin, end, None, reason="the line is no change")
    if message_fault(change.add)[0] >= 0:
        return Piece(begin, end, None, prev, crc, "a message of the line has no id, or nothing that it says")
    return Piece(begin, end, change, prev, crc)


def _change(line: bytes) -> tuple[Change, str]:
    fields = loads(line)
    sizes = fields["size"]
    at = len(line) - len(b"]}") - sum(sizes) - max(0, len(sizes) - 1)
    if not line.endswith(b',"add":[', 0, at):
        raise ValueError("the sizes do not fit")
    added = []
    for size in sizes:
        added.append(line[at : at + size])
        at += size + 1
    if type(fields["rev"]) is not int or type(fields["keep"]) is not int or fields["keep"] < 0:
        raise TypeError("no whole numbers")
    return Change(fields["rev"], fields["op"], fields["keep"], tuple(added), fields["head"]), fields["prev"]


# -- whose it is -------------------------------------------------------------------------------------------------


def births_in(*first_lines: bytes) -> set[str]:
    """The births that can be read there, vouched for or not."""
    return {found.decode() for line in first_lines for found in _BIRTH.findall(line)}
