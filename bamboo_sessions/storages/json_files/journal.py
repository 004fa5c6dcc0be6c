"""The journal's text: one change a line, each chained to the line before it. Pure; no I/O.

    {"crc":"…","format":1,"birth":"…","generation":3,"revision":41}
    {"crc":"…","prev":"…","rev":42,"op":"…","keep":10,"size":[1402],"head":{…},"add":[{…}]}

The first line says which snapshot the journal follows: the generation goes up by one at each fold. `prev` is the
checksum of the line before, so that a line which was valid somewhere else, or follows lines that were undone, is
recognised. `add` stands last and `size` tells the lengths of its elements: messages are cut out as bytes, never
decoded.

Reading takes runs of lines: what stands in front of the messages is parsed for all of a run in one call. A run that is
not as usual in any respect is read line by line, which alone says what is wrong and where.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any, Final
from zlib import crc32

import attrs
import orjson

from bamboo_sessions._json import loads
from bamboo_sessions.errors import InvalidValue, UnsupportedFormat
from bamboo_sessions.storages.json_files import lines
from bamboo_sessions.storages.protocol import Change, HeadChange

FORMAT: Final = 1


@attrs.frozen(slots=True)
class Header:
    """The first line: which snapshot this journal follows."""

    birth: str
    generation: int
    revision: int
    crc: int
    end: int
    """Where the next line begins."""


Step = tuple[int, str, int, tuple[bytes, ...], HeadChange]
"""The fields of a `Change`, in order: an object of each line would cost a third of reading it."""


@attrs.define(slots=True)
class Scan:
    """What a stretch of a journal says, up to its end or to the first line that is not whole."""

    steps: list[Step]
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

    @property
    def changes(self) -> list[Change]:
        """The steps as objects."""
        return [Change(*step) for step in self.steps]


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
    fields = loads(line)
    if fields["format"] != FORMAT:
        raise UnsupportedFormat(path, fields["format"], FORMAT)
    return Header(fields["birth"], fields["generation"], fields["revision"], crc, end + 1)


def scan(data: bytes, offset: int, crc: int, start: int, revision: int, count: int, begin: int = 0) -> Scan:
    """The changes in `data` from `begin` on, a place that is `offset` in the file, behind a last line with this checksum
    and start."""
    found = Scan([], crc, start, offset, count)
    for run in _runs(data, begin):
        if not _read_run(run, found, revision):
            _read_lines(data, begin - offset, found, revision)
            break
        revision = found.steps[-1][0]
    return found


def _runs(data: bytes, begin: int) -> Iterable[list[bytes]]:
    """Lists of lines, with their line breaks; the last one may lack it."""
    if data.find(b"\n", begin) == len(data) - 1 > begin:
        return ([data[begin:]],)  # the single line of an ordinary turn
    source = BytesIO(data)
    source.seek(begin)
    return iter(lambda: source.readlines(_RUN), [])


_RUN: Final = 256 * 1024
"""Bytes of a run: its lines are looked at several times while they are in the processor's cache."""
_PREV: Final = len(b'"prev":"01234567",')
_SIZE: Final = b',"size":['
_ADD: Final = b',"add":['
_END: Final = b"]}"
_START: Final = b'{"crc":"%08x","prev":"%08x",'
_FRONT: Final = lines.BODY + _PREV
"""Where that begins in a line which no other line and no checksum determines."""


def _read_run(run: list[bytes], found: Scan, revision: int) -> bool:
    """Append the changes of whole lines that are all as usual; False, and nothing done, where any is not."""
    if not run[-1].endswith(b"\n"):
        return False
    crc, fronts = found.crc, []
    for line in run:
        prev, crc = crc, crc32(line[lines.BODY : -1])
        if not line.startswith(_START % (crc, prev)):
            return False
        fronts.append(line[_FRONT : line.find(_ADD)])  # a head may contain the text as well: then this is no JSON
    try:
        steps, count = _steps(run, fronts, loads(b"[{%b}]" % b"},{".join(fronts)), revision, found.count)
    except (ValueError, KeyError, TypeError):
        return False
    found.steps += steps
    found.crc, found.count = crc, count
    found.end += sum(map(len, run))
    found.start = found.end - len(run[-1])
    return True


def _steps(run: list[bytes], fronts: list[bytes], parsed: list[dict[str, Any]], revision: int, count: int
           ) -> tuple[list[Step], int]:
    """(steps, messages after them) of lines whose fronts are parsed; raises ValueError where one does not fit."""
    steps: list[Step] = []
    for line, front, fields in zip(run, fronts, parsed, strict=True):
        rev, keep, sizes = fields["rev"], fields["keep"], fields["size"]
        begin = _FRONT + len(front) + len(_ADD)
        if len(sizes) == 1:
            end = begin + sizes[0]
            added: tuple[bytes, ...] = (line[begin:end],)
        else:
            end = begin + sum(sizes) + max(0, len(sizes) - 1)
            added = _cut(line, begin, sizes)
        if end + len(_END) + 1 != len(line) or rev <= revision or not 0 <= keep <= count:
            raise ValueError("the line does not fit itself or the state before it")
        revision, count = rev, keep + len(added)
        steps.append((rev, fields["op"], keep, added, fields["head"]))
    return steps, count


def _read_lines(data: bytes, shift: int, found: Scan, revision: int) -> None:
    """The same for any lines, one by one: up to the first that is not good, and what is wrong with that."""
    while (position := found.end + shift) < len(data):
        end = data.find(b"\n", position)
        found.damage = "the line is not finished" if end < 0 else _read_line(data[position:end], found, revision)
        if found.damage:
            found.fatal = lines.has_valid_line(data, position)
            break
        revision = found.steps[-1][0]
        found.start, found.end = found.end, end + 1 - shift


def _read_line(line: bytes, found: Scan, revision: int) -> str:
    """Append the line's change to `found`; or say what is wrong with it."""
    crc = lines.checksum(line)
    if crc < 0:
        return "the line does not agree with its checksum"
    if line[lines.BODY : _FRONT] != b'"prev":"%08x",' % found.crc:
        return "the line does not follow the one before it"
    try:
        step = _parsed(line)
        fits = step[0] > revision and 0 <= step[2] <= found.count
    except (ValueError, KeyError, TypeError):
        return "the line is no change"
    if not fits:
        return "the line does not fit the state before it"
    found.steps.append(step)
    found.crc, found.count = crc, step[2] + len(step[3])
    return ""


def _parsed(line: bytes) -> Step:
    """The change of a line whose checksum was found good; its messages are slices."""
    # Before the head there is only the operation id that somebody else chose, and a string cannot contain this text
    # unescaped; inside the head it may well come again.
    begin = line.index(_SIZE) + len(_SIZE) - 1
    sizes: list[int] = loads(line[begin : line.index(b"]", begin) + 1])
    added = len(line) - len(_END) - sum(sizes) - max(0, len(sizes) - 1)
    end = added - len(_ADD)
    if line[end:added] != _ADD:
        raise ValueError("the sizes do not fit")
    fields: dict[str, Any] = loads(b"{%b}" % line[lines.BODY : end])
    return fields["rev"], fields["op"], fields["keep"], _cut(line, added, sizes), fields["head"]


def _cut(line: bytes, position: int, sizes: Sequence[int]) -> tuple[bytes, ...]:
    cut = []
    for size in sizes:
        cut.append(line[position : position + size])
        position += size + 1
    return tuple(cut)
