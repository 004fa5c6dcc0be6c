"""One line of a file: JSON that begins with the checksum of all that follows it.

    {"crc":"0f1e2d3c",...}

The checksum comes first, so that it is found without decoding, and covers every byte between itself and the line
break. Only `\\n` breaks lines: a message may well contain U+2028 or a form feed, at which `str.splitlines` would cut.
"""

from __future__ import annotations

import re
from typing import Final
from zlib import crc32

from bamboo_sessions.errors import UnsupportedFormat

START: Final = b'{"crc":"'
BODY: Final = len(b'{"crc":"01234567",')
"""Where that begins which the checksum covers."""
_NAMED: Final = re.compile(rb'\{"crc":"[^"]*","format":(\d+),')


def sealed(body: bytes) -> tuple[bytes, int]:
    """(line with its line break, checksum) of a JSON object given without its opening brace."""
    crc = crc32(body)
    return b'{"crc":"%08x",%b\n' % (crc, body), crc


def checksum(line: bytes) -> int:
    """The checksum of a line given without its line break; -1 where the line does not agree with it."""
    crc = crc32(line[BODY:])  # copying a few kilobytes takes less than a view of them
    return crc if line.startswith(b'{"crc":"%08x",' % crc) and len(line) > BODY else -1


def refuse_newer(data: bytes, path: str, supported: int) -> None:
    """Raises `UnsupportedFormat` where a file whose first line is not valid calls itself one of a later format.

    That format may count its checksum otherwise; what it calls itself must still be found.
    """
    named = _NAMED.match(data)
    if named and int(named[1]) > supported:
        raise UnsupportedFormat(path, int(named[1]), supported)


def has_valid_line(data: bytes, start: int) -> bool:
    """Whether a whole valid line begins at `start` or anywhere behind it.

    Looked for at every place that may begin a line, not at line breaks alone: the damaged byte may have been the break.
    """
    while (start := data.find(START, start)) >= 0:
        end = data.find(b"\n", start)
        if end < 0:
            return False
        if checksum(data[start:end]) >= 0:
            return True
        start += 1
    return False


def torn_from(data: bytes) -> int:
    """How much of data that no line break ends is kept: up to the end of the last line that begins as one, whole or not."""
    end = len(data)
    for part in reversed(data.split(b"\n")):
        if part.startswith(START):
            return min(end + 1, len(data))  # with its line break, where it has one
        end -= len(part) + 1
    return 0
