"""The snapshot's text: one valid JSON document in lines that can be read one by one. Pure; no I/O.

    {"crc":"…","format":1,"generation":3,"count":2,"head":{…},
    "messages":[
    {…},
    {…}
    ],
    "ops":["…"],"lines":"0f1e2d3c9a8b7c6d","sum":"…"}

The first line carries its own checksum and is enough for a listing. Messages stand as they were given: they never
contain a line break, so reading an intact file costs one checksum over all and one cut at line breaks. `lines` holds
what that checksum is at the end of each message; it is looked at only when the sum is wrong, to tell where.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import BytesIO
from itertools import islice
from typing import Any, Final
from zlib import crc32

import attrs
import orjson

from bamboo_sessions._json import loads
from bamboo_sessions.errors import InvalidValue, UnsupportedFormat
from bamboo_sessions.storages.json_files import lines
from bamboo_sessions.storages.protocol import Head

FORMAT: Final = 1
_OPEN: Final = b'"messages":[\n'
_NEXT: Final = b",\n"
_SHUT: Final = b"],\n"
_SUM: Final = len(b'"sum":"01234567"}\n')


@attrs.frozen(slots=True)
class Snapshot:
    """One whole state as a snapshot holds it."""

    head: Head
    messages: list[bytes]
    ops: tuple[str, ...]
    generation: int
    size: int


@attrs.frozen(slots=True)
class Top:
    """A snapshot's first line."""

    head: Head
    count: int
    generation: int
    end: int


class Damage(Exception):
    """Bytes are wrong at `offset`; `good` is what could be read in front of them, if that is a state at all."""

    def __init__(self, offset: int, reason: str, good: Snapshot | None = None) -> None:
        self.offset, self.reason, self.good = offset, reason, good
        super().__init__(reason)


# -- writing -----------------------------------------------------------------------------------------------------


def encode(head: Head, messages: Sequence[bytes], ops: Sequence[str], generation: int) -> bytes:
    parts = [_top_line(head, len(messages), generation), _OPEN]
    total = crc32(_OPEN, crc32(parts[0]))
    sums = []
    between = b""
    for message in messages:
        if b"\n" in message:
            raise ValueError("an encoded message contains a line break")
        total = crc32(message, crc32(between, total))
        sums.append(total)
        parts += (between, message)
        between = _NEXT
    end = (b"\n" if messages else b"") + _SHUT + _last_line(sums, ops)
    return b"".join([*parts, end, b'"sum":"%08x"}\n' % crc32(end, total)])


def _top_line(head: Head, count: int, generation: int) -> bytes:
    try:
        fields = orjson.dumps({"format": FORMAT, "generation": generation, "count": count, "head": head})
    except TypeError as error:  # orjson.JSONEncodeError is one
        raise InvalidValue("head", str(error)) from error
    return lines.sealed(fields[1:-1] + b",")[0]


def _last_line(sums: list[int], ops: Sequence[str]) -> bytes:
    told = (b"%08x" * len(sums)) % tuple(sums)
    return b'"ops":%b,"lines":"%b",' % (orjson.dumps(list(ops)), told)


# -- reading -----------------------------------------------------------------------------------------------------


def decode(data: bytes, path: str) -> Snapshot:
    """Raises `Damage`, or `UnsupportedFormat` where a newer version wrote the file."""
    top = decode_top(data, path)
    if data[-_SUM:] != b'"sum":"%08x"}\n' % crc32(memoryview(data)[:-_SUM]):
        raise _located(data, top)
    try:
        messages, last = _parts(data, top)
    except (ValueError, KeyError, TypeError) as error:
        raise Damage(0, f"valid checksums around something else: {error}") from error
    return Snapshot(top.head, messages, tuple(last["ops"]), top.generation, len(data))


def decode_top(data: bytes, path: str) -> Top:
    """The first line of `data`, which may end anywhere behind it."""
    end = data.find(b"\n")
    line = data[: max(end, 0)]
    if lines.checksum(line) < 0:
        lines.refuse_newer(data, path, FORMAT)
        raise Damage(0, "the first line does not agree with its checksum")
    fields: dict[str, Any] = loads(line[:-1] + b"}")
    if fields["format"] != FORMAT:
        raise UnsupportedFormat(path, fields["format"], FORMAT)
    return Top(fields["head"], fields["count"], fields["generation"], end + 1)


def _parts(data: bytes, top: Top) -> tuple[list[bytes], dict[str, Any]]:
    """(messages, last line) of a file whose sum is right."""
    rows = BytesIO(data)  # iterating looks for line breaks in C; `bytes.split` compares byte by byte, six times slower
    rows.seek(top.end)
    opening = rows.readline()
    messages = [row[:-2] for row in islice(rows, max(top.count - 1, 0))]
    if top.count:
        messages.append(rows.readline()[:-1])  # no comma behind the last one
    if opening != _OPEN or rows.readline() != _SHUT:
        raise ValueError("the number of messages is not the one that the first line tells")
    return messages, loads(b"{" + rows.read())


# -- damage ------------------------------------------------------------------------------------------------------


def _located(data: bytes, top: Top) -> Damage:
    """Where the first wrong byte may be, and the messages in front of it. The first line was found good."""
    begin = top.end + len(_OPEN)
    if data[top.end : begin] != _OPEN:
        return Damage(top.end, "the opening of the messages is damaged", Snapshot(top.head, [], (), top.generation, 0))
    sums, total = _sums(data), crc32(data[:begin])
    good: list[bytes] = []
    for index in range(top.count):
        end = data.find(b"\n", begin)
        message = data[begin:end].removesuffix(b",") if end >= 0 else b""
        total = crc32(message, total)
        if not _is_good(message, total, sums[8 * index : 8 * index + 8]):
            break
        good.append(message)
        total, begin = crc32(_NEXT, total), end + 1
    where = "a message is damaged" if len(good) < top.count else "the end of the file is damaged"
    return Damage(begin, where, Snapshot(top.head, good, (), top.generation, 0))


def _sums(data: bytes) -> bytes:
    found = re.search(rb'"lines":"([0-9a-f]*)",', data[data.rfind(b"\n", 0, max(0, len(data) - 1)) + 1 :])
    return found[1] if found else b""


def _is_good(message: bytes, total: int, told: bytes) -> bool:
    """By the checksum up to here where the last line still tells it; else by being JSON, which is less."""
    if told:
        return told == b"%08x" % total
    try:
        loads(message)
    except ValueError:
        return False
    return bool(message)
