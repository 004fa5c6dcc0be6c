"""google-adk with its database service on SQLite: each append loads the session, as its runner does for each turn, and appends
one event to what was loaded. A session that somebody else appended to in between is refused (`StaleSessionError`)."""

from __future__ import annotations

import asyncio

from google.adk.events import Event
from google.adk.sessions import DatabaseSessionService
from google.genai import types

WHO = {"app_name": "app", "user_id": "user", "session_id": "chat"}


class Store:
    package = "google-adk"
    settings = "`DatabaseSessionService(\"sqlite+aiosqlite:///…\")`, held; each append is `get_session`, then `append_event`"

    def __init__(self, folder: str) -> None:
        self._loop = asyncio.Runner()
        self._service = DatabaseSessionService(f"sqlite+aiosqlite:///{folder}/sessions.db")
        if self._loop.run(self._service.get_session(**WHO)) is None:
            self._loop.run(self._service.create_session(**WHO))

    def append(self, text: str) -> None:
        self._loop.run(self._append(text))

    async def _append(self, text: str) -> None:
        session = await self._service.get_session(**WHO)
        said = types.Content(role="user", parts=[types.Part(text=text)])
        await self._service.append_event(session, Event(author="user", invocation_id="turn", content=said))

    def texts(self) -> list[str]:
        session = self._loop.run(self._service.get_session(**WHO))
        return [event.content.parts[0].text for event in session.events]
