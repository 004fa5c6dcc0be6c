"""Decoding JSON, so that a shortage of memory is never taken for damage.

orjson tells both in one class of errors. Whoever reads files catches that class as "these bytes are wrong", and what
is wrong is moved aside or refused: that must not happen to good bytes for want of a buffer.
"""

from __future__ import annotations

from typing import Any

import orjson


def loads(data: bytes | bytearray | memoryview | str) -> Any:
    """`orjson.loads`, but MemoryError where there was no memory to read it."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if "memory" in error.msg:
            raise MemoryError(error.msg) from error
        raise
