"""strands-agents with file sessions: one agent for the life of a process, restored from the session when it is made.

No model is asked: each append does what the agent's own hooks do for each new message, `append_message` and `sync_agent`.
"""

from __future__ import annotations

from strands import Agent
from strands.session.file_session_manager import FileSessionManager


class Store:
    package = "strands-agents"
    settings = "`Agent(session_manager=FileSessionManager(...))`, held; each append is what its hooks do for a message"

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._manager = FileSessionManager(session_id="chat", storage_dir=folder)
        self._agent = Agent(agent_id="agent", session_manager=self._manager, callback_handler=None)

    def append(self, text: str) -> None:
        message = {"role": "user", "content": [{"text": text}]}
        self._agent.messages.append(message)
        self._manager.append_message(message, self._agent)
        self._manager.sync_agent(self._agent)

    def texts(self) -> list[str]:
        stored = FileSessionManager(session_id="chat", storage_dir=self._folder)
        return [one.to_message()["content"][0]["text"] for one in stored.list_messages("chat", "agent")]
