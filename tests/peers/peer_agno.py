"""agno with its JSON database: a real agent, whose model answers at once and says nothing; an append is one run of it.

A run reads the session, stores itself, and stores the session. Titles are `set_session_name`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from agno.agent import Agent
from agno.db.base import BaseDb, SessionType
from agno.db.json import JsonDb
from agno.models.base import Model
from agno.models.response import ModelResponse
from agno.run.base import RunStatus


class Mute(Model):
    """The least that an agent accepts as a model."""

    def invoke(self, *args: Any, **kwargs: Any) -> ModelResponse:
        return ModelResponse(role="assistant", content="yes")

    async def ainvoke(self, *args: Any, **kwargs: Any) -> ModelResponse:
        return self.invoke()

    def invoke_stream(self, *args: Any, **kwargs: Any) -> Iterator[ModelResponse]:
        yield self.invoke()

    async def ainvoke_stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ModelResponse]:
        yield self.invoke()

    def _parse_provider_response(self, response: Any, **kwargs: Any) -> ModelResponse:
        return self.invoke()

    def _parse_provider_response_delta(self, response: Any) -> ModelResponse:
        return self.invoke()


class Store:
    package = "agno"
    settings = "`Agent(db=JsonDb(folder))`, telemetry off; each append is one `run` with a model that answers at once"

    def __init__(self, folder: str) -> None:
        self._open(JsonDb(db_path=folder))

    def _open(self, db: BaseDb) -> None:
        self._db = db
        self._agent = Agent(id="agent", model=Mute(id="mute"), db=self._db, session_id="chat", telemetry=False)

    def append(self, text: str) -> None:
        run = self._agent.run(text)
        if run.status == RunStatus.error:
            raise RuntimeError(run.content)

    def texts(self) -> list[str]:
        session = self._db.get_session("chat", SessionType.AGENT)
        return [run.input.input_content for run in session.runs or []]

    def rename(self, title: str) -> None:
        self._agent.set_session_name(session_id="chat", session_name=title)

    def title(self) -> str:
        session = self._db.get_session("chat", SessionType.AGENT)
        return (session.session_data or {}).get("session_name", "")
