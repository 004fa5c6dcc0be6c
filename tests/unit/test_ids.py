"""Which strings may name a session, and names drawn at random."""

from __future__ import annotations

import re

import pytest

from bamboo_sessions import InvalidSessionId
from bamboo_sessions.ids import MAX_ID_LENGTH, check_session_id, new_birth, new_token


@pytest.mark.parametrize("good", ["a", "chat-1", "x" * 512, "ü/..\\:*?", "..", " ", "\n", "日本", "😀" * 512, "CON", "a.b"])
def test_ids_that_are_taken(good):
    """Every non-empty string of up to 512 characters without NUL and lone surrogates, and it comes back as it is."""
    assert check_session_id(good) is good


@pytest.mark.parametrize(("bad", "why"), [
    ("", "empty"), ("x" * 513, "513"), ("a\0", "NUL"), ("a\ud800b", "surrogate at 1"), (None, "NoneType"), (7, "int"),
    (b"a", "bytes"), (["a"], "list"),
])
def test_ids_that_are_refused(bad, why):
    """With the reason in the message."""
    with pytest.raises(InvalidSessionId, match=why):
        check_session_id(bad)
    assert MAX_ID_LENGTH == 512


def test_random_names():
    """URL-safe, of one length, and never twice in ten thousand."""
    for draw, length in ((new_token, 12), (new_birth, 16)):
        names = {draw() for _ in range(10_000)}
        assert len(names) == 10_000
        assert all(re.fullmatch(rf"[A-Za-z0-9_-]{{{length}}}", name) for name in names)
