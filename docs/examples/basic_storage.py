"""A storage of one's own: three methods over a folder of text files, and what a repository makes of it.

    python docs/examples/basic_storage.py

`TextFiles` passes the kit that every storage has to pass (`bamboo_sessions.testing`); `tests/docs/test_examples.py` runs it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import threading
from pathlib import Path

from bamboo_sessions import LockedSessionStore, Message, Session, SessionCache, SessionRepository, Storage


class TextFiles(Storage):
    """A JSON file a session. Safe for the threads of one process; for several it would need a `lock`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def _path(self, session_id: str) -> Path:
        """By a digest: an id may hold any character, and names that differ in case only are two sessions."""
        return self._folder / (hashlib.sha256(session_id.encode("utf-8")).hexdigest() + ".json")

    def load_session(self, session_id: str) -> Session | None:
        try:
            text = self._path(session_id).read_text("utf-8")
        except FileNotFoundError:
            return None
        return Session.from_dict(json.loads(text))

    def save_session(self, session: Session) -> None:
        """Written aside, synced, renamed: a reader sees the old file or the new one, and a crash leaves one of them."""
        path = self._path(session.id)
        aside = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.new")
        with aside.open("w", encoding="utf-8") as file:
            json.dump(session.to_dict(), file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def delete_session(self, session_id: str) -> bool:
        try:
            self._path(session_id).unlink()
        except FileNotFoundError:
            return False
        return True


def main(folder: Path) -> None:
    storage = TextFiles(folder)
    repo = SessionRepository(SessionCache(), storage, LockedSessionStore(storage))
    session = repo.load_or_create("chat-1", model="large")
    session.add_message(Message.user("Do three methods suffice?"))
    repo.save(session)

    repo.set_title("chat-1", "A question")  # somebody renames it in a UI, while the agent goes on with its copy
    session.add_message(Message.assistant("They do."))
    saved = repo.save(session)
    print(f"revision {saved.revision}, taken over from storage: {', '.join(saved.adopted)}")
    repo.close()

    again = TextFiles(folder).load_session("chat-1")
    assert again is not None
    print(f"{again.title!r}: {' '.join(str(message.content) for message in again.messages)}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else made))
