"""What lists and saves give back: small immutable answers."""

from __future__ import annotations

from datetime import datetime

import attrs


@attrs.frozen(slots=True)
class SessionSummary:
    """A session as a list shows it: everything cheap, no messages decoded."""

    id: str
    birth: str
    """See `Session.birth`."""
    revision: int
    """How many changes were committed; at least 1."""
    created_at: datetime
    """UTC."""
    updated_at: datetime
    """UTC; lists are sorted by it, newest first."""
    message_count: int
    title: str | None = None
    title_source: str | None = None
    """"user", "generated", or None."""
    pinned: bool = False
    archived: bool = False
    tags: frozenset[str] = frozenset()
    model: str | None = None
    provider: str | None = None
    external_id: str | None = None
    context_id: str | None = None
    parent_id: str | None = None
    open_questions: int = 0
    """How many questions wait for an answer."""


@attrs.frozen(slots=True)
class SessionPage:
    """One page of a list, newest first."""

    items: tuple[SessionSummary, ...]
    next_cursor: str | None = None
    """Give it to the next call of `SessionRepository.list`; None: this was the last page."""


@attrs.frozen(slots=True)
class Conflict:
    """Both sides had changed the same thing; `rule` names what decided and `kept` whose version stands."""

    field: str
    """A field of the session, or `messages`, `metadata.<key>`, `questions`."""
    what: str
    """Which message, key or question; "" where the field is the whole of it."""
    rule: str
    """What decided, in words."""
    kept: str
    """"mine" (the copy being saved) or "theirs" (the newest committed one)."""


@attrs.frozen(slots=True)
class SaveResult:
    """What a save did."""

    revision: int
    """Of the state that the session object holds now."""
    changed: bool
    """False: there was nothing to write, and nothing was written."""
    adopted: tuple[str, ...] = ()
    """Fields that were taken over from other writers, by name, in order of definition; `messages` comes last."""
    conflicts: tuple[Conflict, ...] = ()
    """Where both sides had changed one thing, and what decided."""
