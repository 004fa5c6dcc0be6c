"""Which provider and model a conversation is bound to, for as long as somebody is active in it.

A server adapter asks for little: is this id taken, what is it bound to, bind it, and forget what nobody has come back to.
This is that small face over a `SessionRepository`; the sessions are the same ones, merged and stored in the same way.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Final

from bamboo_sessions.errors import InvalidValue, SessionExists
from bamboo_sessions.models import SaveResult, Session
from bamboo_sessions.repository import SessionRepository

TTL: Final = timedelta(hours=24)
TTL_VARIABLE: Final = "SESSION_TTL_SECONDS"


class SessionManager:
    """Conversations and the provider and model that each is bound to.

    `ttl`: how long after its last activity (a save, a `touch`) a conversation is forgotten. None: as the environment's
    `SESSION_TTL_SECONDS` says, or what the repository was opened with, or 24 hours. It holds for the whole repository: raises
    `InvalidValue` where that has another one already, `StorageUnavailable` where its storage cannot expire sessions. Pinned
    conversations, and those with an open question, stay.
    """

    def __init__(self, repository: SessionRepository, ttl: timedelta | None = None) -> None:
        self.repository = repository
        self.ttl = _chosen(ttl, repository)
        repository.expire_after(self.ttl)

    def create(self, session_id: str, *, provider: str, model: str, external_id: str | None = None) -> Session:
        """A new conversation, saved. Raises `SessionExists` where the id is taken, also by somebody else at this moment."""
        session = self._new(session_id, provider, model, external_id)
        self.repository.create(session)
        return session

    def get(self, session_id: str) -> Session | None:
        """The conversation, as its storage has it or newer; None where there is none, or its time ran out.

        Looking is no activity: `touch` is. Raises `StorageError`: a failure is not absence.
        """
        return self.repository.try_load_merged(session_id)

    def get_or_create(self, session_id: str, *, provider: str, model: str, external_id: str | None = None) -> Session:
        """The conversation as it is, whatever it is bound to, or a new one with this binding. See `bind`."""
        found = self.get(session_id)
        if found is not None:
            return found
        try:
            return self.create(session_id, provider=provider, model=model, external_id=external_id)
        except SessionExists:  # somebody was faster
            found = self.get(session_id)
            if found is None:
                raise  # and deleted it again: whoever asks once more may create it
            return found

    def touch(self, session_id: str) -> None:
        """Note that somebody is active in it; writes nothing else. Raises `SessionNotFound`, `SessionExpired`."""
        self.repository.touch(session_id)

    def bind(self, session_id: str, *, provider: str, model: str) -> SaveResult:
        """Bind it to another provider and model, from its next turn on. Raises `SessionNotFound`, `SessionExpired`."""

        def rebind(session: Session) -> None:
            session.provider, session.model = provider, model

        return self.repository.update(session_id, rebind)

    def _new(self, session_id: str, provider: str, model: str, external_id: str | None) -> Session:
        return Session.new(session_id, provider=provider, model=model, external_id=external_id, clock=self.repository._clock)


def _chosen(given: timedelta | None, repository: SessionRepository) -> timedelta:
    if given is not None:
        return given
    text = os.environ.get(TTL_VARIABLE)
    if text is not None:
        return _read(text)
    return TTL if repository.persistence.ttl is None else repository.persistence.ttl


def _read(text: str) -> timedelta:
    try:
        ttl = timedelta(seconds=float(text))
    except (ValueError, OverflowError) as error:
        raise InvalidValue(TTL_VARIABLE, f"a number of seconds is needed, not {text!r}") from error
    if ttl <= timedelta(0):
        raise InvalidValue(TTL_VARIABLE, f"a time above 0 is needed, not {text!r}")
    return ttl
