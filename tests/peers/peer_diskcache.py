"""python-diskcache, which is no session store but what many build one with: its `Deque`, a list on disk that processes share."""

from __future__ import annotations

from diskcache import Deque


class Store:
    package = "diskcache"
    settings = "`Deque(directory=folder)`, held; each append is one `append`"

    def __init__(self, folder: str) -> None:
        self._words = Deque(directory=folder)

    def append(self, text: str) -> None:
        self._words.append(text)

    def texts(self) -> list[str]:
        return list(self._words)
