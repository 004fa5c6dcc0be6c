"""agno with its SQLite database, since its documentation does not recommend the JSON files for production: else the same."""

from __future__ import annotations

from agno.db.sqlite import SqliteDb

from tests.peers import peer_agno


class Store(peer_agno.Store):
    settings = "the same with `SqliteDb(file)`"

    def __init__(self, folder: str) -> None:
        self._open(SqliteDb(db_file=f"{folder}/agno.db"))
