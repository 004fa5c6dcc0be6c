"""openai-agents with its SQLite session: a row for each item, in one transaction for each `add_items`."""

from __future__ import annotations

import asyncio

from agents import SQLiteSession


class Store:
    package = "openai-agents"
    settings = '`SQLiteSession("chat", file)`, held; each append is one `add_items`'

    def __init__(self, folder: str) -> None:
        self._loop = asyncio.Runner()
        self._session = SQLiteSession("chat", f"{folder}/sessions.db")

    def append(self, text: str) -> None:
        self._loop.run(self._session.add_items([{"role": "user", "content": text}]))

    def texts(self) -> list[str]:
        return [item["content"] for item in self._loop.run(self._session.get_items())]
