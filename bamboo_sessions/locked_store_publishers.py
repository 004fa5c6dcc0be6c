"""Who is told of what a store committed, deleted or purged: repositories, whose caches follow it."""

from __future__ import annotations

import threading
from typing import Protocol
from weakref import ref

from bamboo_sessions.cache import Ticket
from bamboo_sessions.models import Base


class Publisher(Protocol):
    """Who wants to know what was committed. Called under the session's lock: no I/O, no second session."""

    def expect(self, session_id: str) -> Ticket:
        """Somebody is about to commit, and others may commit and be seen here before that is told; give it to `release`."""

    def release(self, ticket: Ticket) -> None:
        """What was expected was told, or is not coming."""

    def committed(self, base: Base, saver: str | None, ticket: Ticket | None = None) -> None:
        """`base` is durable; `saver` is the unsaved mark of the copy that was saved. None: nobody can have come between."""

    def deleted(self, session_id: str) -> None:
        """The session is gone."""

    def purged(self, session_id: str) -> None:
        """The session is gone because its time had run out; nobody wanted to be rid of work that was not saved."""

    def known(self, session_id: str) -> Base | None:
        """A committed state that is at hand, so that a read needs to bring only what came after it."""


Expected = list[tuple[Publisher, Ticket]]


class Publishing:
    """The publishers of one store, held weakly: whoever drops a repository drops its cache with it."""

    def __init__(self) -> None:
        self._publishers: tuple[ref[Publisher], ...] = ()  # replaced as a whole: a save may be walking through it
        self._registering = threading.Lock()  # guards the replacing

    def register(self, publisher: Publisher) -> None:
        """Tell `publisher` of every commit made through this store. It is held weakly."""
        with self._registering:
            alive = (known for known in self._publishers if known() is not None)
            self._publishers = (*alive, ref(publisher))

    def _listeners(self) -> list[Publisher]:
        return [publisher for known in self._publishers if (publisher := known()) is not None]

    def _expected(self, session_id: str) -> Expected:
        return [(publisher, publisher.expect(session_id)) for publisher in self._listeners()]

    def _publish(self, base: Base, saver: str | None, expected: Expected | None) -> None:
        """Tell everybody; whoever came after the expecting knows nothing yet, and need not be told."""
        for publisher, ticket in expected if expected is not None else ((one, None) for one in self._listeners()):
            publisher.committed(base, saver, ticket)

    def _known(self, session_id: str) -> Base | None:
        return next((base for p in self._listeners() if (base := p.known(session_id)) is not None), None)
