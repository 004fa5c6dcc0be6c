"""Names: which strings may name a session, and where fresh random names come from.

Random names are drawn from the operating system at each call. A buffered pool would be faster and would hand the same
names to both sides of a fork.
"""

from __future__ import annotations

import os
from binascii import b2a_base64
from typing import Final

from bamboo_sessions.errors import InvalidSessionId

MAX_ID_LENGTH = 512
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


def new_token() -> str:
    """Twelve URL-safe characters (72 random bits): message ids, operation ids, question tokens."""
    return _drawn(9)


def new_birth() -> str:
    """Sixteen URL-safe characters (96 random bits): what tells a re-created session from its deleted predecessor."""
    return _drawn(12)


def _drawn(size: int) -> str:
    return b2a_base64(os.urandom(size), newline=False).translate(_URL_SAFE).decode("ascii")


def check_session_id(session_id: object) -> str:
    """`session_id` itself where it can name a session; raises `InvalidSessionId` where it cannot."""
    if not isinstance(session_id, str):
        raise InvalidSessionId(session_id, f"a string is needed, not {type(session_id).__name__}")
    if not session_id:
        raise InvalidSessionId(session_id, "it is empty")
    if len(session_id) > MAX_ID_LENGTH:
        raise InvalidSessionId(session_id, f"it has {len(session_id)} characters, at most {MAX_ID_LENGTH} are allowed")
    if "\0" in session_id:
        raise InvalidSessionId(session_id, "it contains NUL")
    try:
        session_id.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidSessionId(session_id, f"it contains a lone surrogate at {error.start}") from error
    return session_id
