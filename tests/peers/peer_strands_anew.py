"""strands-agents as a web server uses it: an agent is made, and the session read, for each append, so that none holds old copies."""

from __future__ import annotations

from strands.session.file_session_manager import FileSessionManager

from tests.peers import peer_strands


class Store:
    package = "strands-agents"
    settings = "`Agent(session_manager=FileSessionManager(...))`, made anew for each append"

    def __init__(self, folder: str) -> None:
        self._folder = folder
        FileSessionManager(session_id="chat", storage_dir=folder)  # the session exists from here on

    def append(self, text: str) -> None:
        peer_strands.Store(self._folder).append(text)

    def texts(self) -> list[str]:
        return peer_strands.Store(self._folder).texts()
