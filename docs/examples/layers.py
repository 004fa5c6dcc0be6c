"""Memory over JSON files, and a layer between them that fails: what users notice of it (nothing), and what you can see.

    python docs/examples/layers.py
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import structlog

from bamboo_sessions import (
    JsonFileStorage,
    LayeredStorage,
    LockedSessionStore,
    MemoryStorage,
    Message,
    Session,
    SessionCache,
    SessionRepository,
    Storage,
    StorageUnavailable,
)


class Flaky(Storage):
    """Somebody's server: three methods, each of which fails while it is down. It comes back with what it had."""

    def __init__(self) -> None:
        self.down = False
        self._kept: dict[str, Session] = {}

    def _answer(self) -> None:
        if self.down:
            raise ConnectionError("no route to host")

    def load_session(self, session_id: str) -> Session | None:
        self._answer()
        return self._kept.get(session_id)

    def save_session(self, session: Session) -> None:
        self._answer()
        self._kept[session.id] = session

    def delete_session(self, session_id: str) -> bool:
        self._answer()
        return self._kept.pop(session_id, None) is not None


class Disk(JsonFileStorage):
    """Files on a disk that can be unplugged."""

    plugged = True

    def read(self, session_id: str, known: Any = None) -> Any:
        if not self.plugged:
            raise StorageUnavailable("read", session_id=session_id, reason="unplugged")
        return super().read(session_id, known)

    def read_held(self, session_id: str, known: Any = None) -> Any:
        return self.read(session_id, known)


def repository(layers: LayeredStorage) -> SessionRepository:
    return SessionRepository(SessionCache(), layers, LockedSessionStore(layers))


def words(session: Session | None) -> list[str]:
    return [] if session is None else [str(message.content) for message in session.messages]


def main(folder: Path) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))  # the failures are on purpose
    memory, server, disk = MemoryStorage(), Flaky(), Disk(folder)
    layers = LayeredStorage([memory, server, disk])
    repo = repository(layers)

    session = repo.load_or_create("chat-1", model="large")
    session.add_message(Message.user("Is anybody there?"))
    repo.save(session)
    print("saved to all three:", words(memory.load_session("chat-1")) == words(server.load_session("chat-1"))
          == words(disk.load_session("chat-1")))

    server.down = True
    session.add_message(Message.assistant("The files are. The server is not."))
    repo.save(session)
    stale = layers.stats().layers[1]
    print(f"saved without {stale.name}: stale {stale.stale}, failures {stale.failures}")

    server.down = False
    newcomer = LayeredStorage([MemoryStorage(), server, disk])  # another process: its memory knows nothing yet
    print("the server came back with", len(words(server.load_session("chat-1"))), "message, a load gives",
          len(words(repository(newcomer).load("chat-1"))), "and the server has", len(words(server.load_session("chat-1"))))

    disk.plugged = False
    newcomer_repo = repository(newcomer)
    print("without the disk, a plain load gives", len(words(newcomer_repo.try_load("chat-1"))), "messages")
    try:
        newcomer_repo.set_title("chat-1", "Nobody would keep this")
    except StorageUnavailable as error:
        print(f"and a save says so: {error.outcome}; degraded {newcomer.degraded}")

    disk.plugged = True
    newcomer_repo.set_title("chat-1", "Layers")
    found = repo.load_merged("chat-1")
    assert found is not None
    print(f"in the end: {found.title!r}, {len(found.messages)} messages, degraded {newcomer.degraded}")
    newcomer_repo.close()
    repo.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else made))
