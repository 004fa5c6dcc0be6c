"""Sessions as JSON files: a readable snapshot and an appended journal per session."""

from bamboo_sessions.storages.json_files.storage import JsonFileStorage

__all__ = ["JsonFileStorage"]
