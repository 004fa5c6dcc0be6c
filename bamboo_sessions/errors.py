"""Every error that a user can meet: one root, and below it a class for each thing a caller can do about it.

Constructors take facts (which session, which file, which byte, which revision) and compose the text themselves, so
that two places never word one failure differently and a handler can read the facts instead of parsing a sentence.
"""

from __future__ import annotations

from os import PathLike, fspath
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bamboo_sessions.models import Session

Outcome = Literal["not applied", "unknown"]


def _pickled(cls: type[SessionError], facts: dict[str, object]) -> SessionError:
    error = cls.__new__(cls)
    Exception.__init__(error, facts.pop("__text__"))
    error.__dict__.update(facts)
    return error


class SessionError(Exception):
    """The root: `except SessionError` catches whatever this library raises on purpose."""

    def __reduce__(self) -> tuple[object, ...]:
        """Facts are keyword-only, so the default (call the class with `args`) could not rebuild a pickled error."""
        return _pickled, (type(self), {"__text__": str(self), **self.__dict__})


# -- the session itself ------------------------------------------------------------------------------------------


class SessionNotFound(SessionError):
    """There is no session with this id."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        super().__init__(f"there is no session {session_id!r}")


class SessionExists(SessionError):
    """There is a session with this id already; what was to be created was not saved."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        super().__init__(f"session {session_id!r} exists already")


class SessionExpired(SessionError):
    """The session was there and its time ran out; `session.as_new()` keeps the work under a new birth."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        super().__init__(f"session {session_id!r} has expired; session.as_new() keeps a copy as a session of its own")


class SessionDeleted(SessionError):
    """The session that this copy descends from was deleted (or deleted and made anew) since; the copy was not saved.

    `session.as_new()` gives a copy that can be saved as a session of its own.
    """

    def __init__(self, session_id: str, *, recreated: bool = False) -> None:
        self.session_id, self.recreated = session_id, recreated
        since = "deleted and created anew" if recreated else "deleted"
        super().__init__(f"session {session_id!r} was {since} since this copy was loaded; session.as_new() keeps the copy")


class QuestionNotOpen(SessionError):
    """No question is open under this tool call: never asked, withdrawn, or somebody answered first."""

    def __init__(self, session_id: str, tool_call_id: str | None) -> None:
        self.session_id, self.tool_call_id = session_id, tool_call_id
        super().__init__(f"session {session_id!r} has no open question {tool_call_id!r}")


# -- what a caller handed in -------------------------------------------------------------------------------------


class InvalidSessionId(SessionError, ValueError):
    """The id cannot name a session: empty, over 512 characters, with NUL, with a lone surrogate, or not a string."""

    def __init__(self, session_id: object, reason: str) -> None:
        self.session_id, self.reason = session_id, reason
        shown = ascii(session_id)
        super().__init__(f"invalid session id {shown if len(shown) < 80 else shown[:77] + '...'}: {reason}")


class InvalidValue(SessionError, ValueError):
    """A value that JSON cannot carry faithfully; refused where it enters, so that it never blocks a later save."""

    def __init__(self, where: str, reason: str) -> None:
        self.where, self.reason = where, reason
        super().__init__(f"{where}: {reason}")


class InvalidMessage(InvalidValue):
    """A message that cannot be kept, or one whose id the session already has."""


# -- the storage -------------------------------------------------------------------------------------------------


class StorageError(SessionError):
    """The storage could not do what was asked; the cause, where there is one, is `__cause__`."""


class StorageUnavailable(StorageError):
    """The storage did not answer, or refused for now.

    `outcome` is "not applied" where that is certain, "unknown" where the change may have been stored: save again,
    the operation id on the session lets the storage recognise what it already has.
    """

    def __init__(self, action: str, *, session_id: str | None = None, outcome: Outcome = "not applied",
                 path: str | PathLike[str] | None = None, reason: str = "") -> None:
        self.action, self.session_id, self.outcome, self.reason = action, session_id, outcome, reason
        self.path = None if path is None else fspath(path)
        whom = "" if session_id is None else f" of session {session_id!r}"
        where = "" if self.path is None else f" at {self.path}"
        why = f": {reason}" if reason else ""
        super().__init__(f"{action}{whom}{where} failed ({outcome}){why}")


class UnsupportedFormat(StorageError):
    """The file was written by a newer version of this library; this one refuses to touch it."""

    def __init__(self, path: str | PathLike[str], found: object, supported: int) -> None:
        self.path, self.found, self.supported = fspath(path), found, supported
        super().__init__(f"{self.path} has format {found!r}; this version reads up to {supported}: upgrade bamboo_sessions")


class CorruptSession(StorageError):
    """Stored bytes are damaged. Nothing was changed on disk; `last_good` is the session up to the damage, if any.

    `mendable`: the storage has a `repair`, which keeps what can be used and throws nothing away.
    """

    def __init__(self, session_id: str, *, path: str | PathLike[str], offset: int, reason: str,
                 last_good: Session | None = None, mendable: bool = False) -> None:
        self.session_id, self.path, self.offset, self.reason = session_id, fspath(path), offset, reason
        self.last_good, self.mendable = last_good, mendable
        advice = f"; repair({session_id!r}) saves what can be read" if mendable else ""
        super().__init__(f"session {session_id!r} is damaged: {self.path}, byte {offset}: {reason}{advice}")


class CapacityExceeded(StorageError):
    """No room: what is held is unsaved or kept, and may not be dropped for something new, which was not taken in.

    A storage error, as a full disk is one: what would make room has to be stored or removed first.
    """

    def __init__(self, session_id: str, capacity: int) -> None:
        self.session_id, self.capacity = session_id, capacity
        super().__init__(f"no room for session {session_id!r}: {capacity} are held, and none of them may be dropped")


class LockTimeout(StorageError):
    """Another writer held the session's lock for longer than `seconds`; nothing was changed."""

    def __init__(self, session_id: str, seconds: float) -> None:
        self.session_id, self.seconds = session_id, seconds
        super().__init__(f"session {session_id!r} is still locked after {seconds:g} s")


class RevisionConflict(StorageError):
    """Somebody else committed first: the commit expected one (birth, revision) and the storage holds another."""

    def __init__(self, session_id: str, expected: tuple[str, int] | None, found: tuple[str, int] | None) -> None:
        self.session_id, self.expected, self.found = session_id, expected, found
        super().__init__(f"session {session_id!r}: expected {_at(expected)}, found {_at(found)}")


def _at(place: tuple[str, int] | None) -> str:
    return "no session" if place is None else f"revision {place[1]} of birth {place[0]}"
