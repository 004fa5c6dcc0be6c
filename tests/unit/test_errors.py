"""The error tree: who is whose child, what they say, and that they survive pickling."""

from __future__ import annotations

import pickle

import pytest

import bamboo_sessions
from bamboo_sessions import errors
from bamboo_sessions.errors import (
    CapacityExceeded,
    CorruptSession,
    InvalidMessage,
    InvalidSessionId,
    InvalidValue,
    LockTimeout,
    QuestionNotOpen,
    RevisionConflict,
    SessionDeleted,
    SessionError,
    SessionExists,
    SessionExpired,
    SessionNotFound,
    StorageError,
    StorageUnavailable,
    UnsupportedFormat,
)

EVERY = [
    SessionNotFound("s"), SessionExpired("s"), SessionExists("s"), SessionDeleted("s"), SessionDeleted("s", recreated=True),
    QuestionNotOpen("s", "call-1"), InvalidSessionId("", "it is empty"), InvalidValue("metadata['k']", "no"),
    InvalidMessage("message", "no"), StorageError("broken"), StorageUnavailable("save", session_id="s", outcome="unknown",
    path="/x", reason="full"), UnsupportedFormat("/x", 9, 1), CorruptSession("s", path="/x", offset=7, reason="torn"),
    LockTimeout("s", 1.5), RevisionConflict("s", None, ("b", 3)), CapacityExceeded("s", 10),
]


def test_the_root_catches_all():
    """Every class of the module is a SessionError and is exported."""
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert {type(error) for error in EVERY} | {SessionError} == set(classes)
    for kind in classes:
        assert issubclass(kind, SessionError)
        assert getattr(bamboo_sessions, kind.__name__) is kind


def test_which_are_storage_errors():
    """Those that save_and_cache swallows; what a caller did wrong, or what became of a session, is none."""
    of_storage = {StorageError, CapacityExceeded, StorageUnavailable, UnsupportedFormat, CorruptSession, LockTimeout, RevisionConflict}
    for error in EVERY:
        assert isinstance(error, StorageError) is (type(error) in of_storage)


def test_bad_input_is_a_value_error():
    """As Python people expect."""
    for kind in (InvalidSessionId, InvalidValue, InvalidMessage):
        assert issubclass(kind, ValueError)
    assert issubclass(InvalidMessage, InvalidValue)


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_errors_survive_pickling(error):
    """Facts and text, as between processes."""
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize(("error", "parts"), [
    (SessionNotFound("s"), ["'s'"]),
    (SessionDeleted("s"), ["'s'", "deleted", "as_new"]),
    (SessionDeleted("s", recreated=True), ["created anew"]),
    (QuestionNotOpen("s", "call-1"), ["'s'", "'call-1'"]),
    (StorageUnavailable("save", session_id="s", outcome="unknown", path="/x", reason="full"),
     ["save", "'s'", "unknown", "/x", "full"]),
    (UnsupportedFormat("/x", 9, 1), ["/x", "9", "1"]),
    (CorruptSession("s", path="/x", offset=7, reason="torn"), ["'s'", "/x", "7", "torn"]),
    (LockTimeout("s", 1.5), ["'s'", "1.5"]),
    (RevisionConflict("s", None, ("b", 3)), ["no session", "3"]),
])
def test_errors_name_their_facts(error, parts):
    """Whoever reads the log finds which session, which file, which byte."""
    assert all(part in str(error) for part in parts)


def test_a_long_bad_id_is_shown_in_part():
    """Nobody's log is filled with it, nor broken by a surrogate."""
    assert len(str(InvalidSessionId("x" * 100_000, "too long"))) < 200
    assert str(InvalidSessionId("\ud800", "lone")).isascii()
