"""The journal's text: one change a line, each chained to the line before it. Pure; no I/O.

    {"crc":"…","format":1,"birth":"…","generation":3,"revision":41}
    {"crc":"…","prev":"…","rev":42,"op":"…","keep":10,"size":[1402],"head":{…},"add":[{…}]}

The first line says which snapshot the journal follows: the generation goes up by one at each fold. `prev` is the
checksum of the line before, so that a line which was valid somewhere else, or follows lines that were undone, is
recognised. `add` stands last and `size` tells the lengths of its elements: messages are cut out as bytes, never
decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs
import orjson

from bamboo_sessions.errors import InvalidValue, UnsupportedFormat
from bamboo_sessions.storages.json_files import lines
from bamboo_sessions.storages.protocol import Change

FORMAT: Final = 1
HEADER_AT_MOST: Final = 1024
"""A header is some 110 bytes; one read of this many holds it."""


@attrs.frozen(slots=True)
class Header:
    """The first line: which snapshot this journal follows."""

    birth: str
    generation: int
    revision: int
    crc: int
    end: int
    """Where the next line begins."""


@attrs.define(slots=True)
class Scan:
    """What a stretch of a journal says, up to its end or to the first line that is not whole."""

    changes: list[Change]
    crc: int
    """Checksum of the last good line."""
    start: int
    """Where the last good line begins in the file."""
    end: int
    """Where the last good line ends in the file."""
    count: int
    """Messages after the last change."""
    damage: str = ""
    """What is wrong at `end`, where anything stands there."""
    fatal: bool = False
    """Something valid stands behind the damage: it is no torn tail."""


# -- writing -----------------------------------------------------------------------------------------------------


def header_line(birth: str, generation: int, revision: int) -> bytes:
    fields = {"format": FORMAT, "birth": birth, "generation": generation, "revision": revision}
    return lines.sealed(orjson.dumps(fields)[1:])[0]


def change_line(change: Change, prev: int) -> tuple[bytes, int]:
    """(line, its checksum). A line break inside a message would end the line, so it is refused."""
    sizes = [len(message) for message in change.add]
    try:
        fields = orjson.dumps({"rev": change.revision, "op": change.op, "keep": change.keep, "size": sizes,
                               "head": change.head})
    except TypeError as error:  # orjson.JSONEncodeError is one
        raise InvalidValue("head", str(error)) from error
    added = b",".join(change.add)
    if b"\n" in added:
        raise ValueError("an encoded message contains a line break")
    return lines.sealed(b'"prev":"%08x",%b,"add":[%b]}' % (prev, fields[1:-1], added))


# -- reading -----------------------------------------------------------------------------------------------------


def read_header(data: bytes, path: str) -> Header:
    """Raises ValueError where the first line is damaged, `UnsupportedFormat` where a newer version wrote it."""
    end = data.find(b"\n")
    line = data[: max(end, 0)]
    crc = lines.checksum(line)
    if crc < 0:
        lines.refuse_newer(data, path, FORMAT)
        raise ValueError("the first line is damaged")
    fields = orjson.loads(line)
    if fields["format"] != FORMAT:
        raise UnsupportedFormat(path, fields["format"], FORMAT)
    return Header(fields["birth"], fields["generation"], fields["revision"], crc, end + 1)


def scan(data: bytes, offset: int, crc: int, start: int, revision: int, count: int) -> Scan:
    """The changes in `data`, which stands at `offset` in the file, behind a last line with this checksum and start."""
    found = Scan([], crc, start, offset, count)
    position = 0
    while position < len(data):
        end = data.find(b"\n", position)
        found.damage = "the line is not finished" if end < 0 else _read_line(data[position:end], found, revision)
        if found.damage:
            found.fatal = lines.has_valid_line(data, position)
            break
        revision = found.changes[-1].revision
        found.start, found.end = offset + position, offset + end + 1
        position = end + 1
    return found


def _read_line(line: bytes, found: Scan, revision: int) -> str:
    """Append the line's change to `found`; or say what is wrong with it."""
    crc = lines.checksum(line)
    if crc < 0:
        return "the line does not agree with its checksum"
    if line[lines.BODY : lines.BODY + _PREV] != b'"prev":"%08x",' % found.crc:
        return "the line does not follow the one before it"
    try:
        change = parse_change(line)
    except (ValueError, KeyError, TypeError):
        return "the line is no change"
    if change.revision <= revision or not 0 <= change.keep <= found.count:
        return "the line does not fit the state before it"
    found.changes.append(change)
    found.crc, found.count = crc, change.keep + len(change.add)
    return ""


_PREV: Final = len(b'"prev":"01234567",')
_SIZE: Final = b',"size":['
_ADD: Final = b',"add":['


def parse_change(line: bytes) -> Change:
    """The change of a line whose checksum was found good; its messages are slices."""
    # Before the head there is only the operation id that somebody else chose, and a string cannot contain this text
    # unescaped; inside the head it may well come again.
    sizes = _sizes(line)
    added = len(line) - len(b"]}") - sum(sizes) - max(0, len(sizes) - 1)
    body_end = added - len(_ADD)
    if line[body_end:added] != _ADD:
        raise ValueError("the sizes do not fit")
    fields: dict[str, Any] = orjson.loads(b"{%b}" % line[lines.BODY : body_end])
    return Change(fields["rev"], fields["op"], fields["keep"], _cut(line, added, sizes), fields["head"])


def _sizes(line: bytes) -> list[int]:
    begin = line.index(_SIZE) + len(_SIZE) - 1
    sizes: list[int] = orjson.loads(line[begin : line.index(b"]", begin) + 1])
    return sizes


def _cut(line: bytes, position: int, sizes: Sequence[int]) -> tuple[bytes, ...]:
    cut = []
    for size in sizes:
        cut.append(line[position : position + size])
        position += size + 1
    return tuple(cut)
