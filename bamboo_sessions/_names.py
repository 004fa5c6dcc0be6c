"""How any text becomes a file name that every file system keeps apart from all others, and the way back.

The bytes a-z 0-9 _ - stand for themselves and every other byte of the text's UTF-8 is `=xx`: no upper case (file systems
that fold case), no dots (`..`, Windows), nothing beyond ASCII (file systems that normalise). A name longer than 200 bytes
is cut and ends in `==` and the text's sha256; `=` is otherwise always followed by a hex digit, so that no other text has
that name. Whoever needs to be sure compares the text that is kept inside.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

LONGEST_NAME: Final = 200
_CUT: Final = LONGEST_NAME - len("==") - 64
_ESCAPED: Final = re.compile(rb"[^a-z0-9_-]")
_BYTE: Final = re.compile(rb"=([0-9a-f]{2})")
_RESERVED: Final = re.compile(r"con|prn|aux|nul|com[0-9]|lpt[0-9]|-.*")
"""Names that Windows keeps for devices, and a leading dash, which every shell command would take for an option."""


def encode_name(text: str) -> str:
    """At most 200 bytes of [a-z0-9_=-], different for different texts; empty for the empty one."""
    plain = text.encode()
    name = _ESCAPED.sub(lambda byte: b"=%02x" % ord(byte[0]), plain).decode("ascii")
    if _RESERVED.fullmatch(name):
        name = f"={plain[0]:02x}{name[1:]}"
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:_CUT]}=={hashlib.sha256(plain).hexdigest()}"


def decode_name(name: str) -> str | None:
    """The text that has this name; None where the name was cut, or is no text's."""
    try:
        text = _BYTE.sub(lambda found: bytes([int(found[1], 16)]), name.encode("ascii")).decode()
    except ValueError:
        return None
    return text if text and encode_name(text) == name else None
