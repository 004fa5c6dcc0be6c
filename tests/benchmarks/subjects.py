"""What is measured: repositories on a real disk, with sessions of realistic messages.

A message is 1.4 kB of JSON on average: a text of 1,000 characters (one in ten not plain ASCII), every third with a tool
call of four arguments, and what providers put beside it.
"""

from __future__ import annotations

import itertools
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson

from bamboo_sessions import JsonFileStorage, LockedSessionStore, Message, Session, SessionCache, SessionRepository

SIZES = (10, 1_000, 10_000)
_WORDS = """the agent reads a file and then calls the tool with arguments because the user asked for a summary of the
session while the cache expires so it retries the request until the storage returns a result "quoted" path/to/module.py
error: line 42 async def return None True False import class self token model output""".split()
_OTHER = ("naïve", "façade", "数据", "→", "✓")


def _running_text(rng: random.Random, words: list[str], size: int = 200_000) -> str:
    return " ".join(rng.choices(words, k=size // 5))


class Chats:
    """An endless supply of chat messages, the same at every run."""

    def __init__(self, length: int = 1000, seed: int = 7) -> None:
        self._rng, self._length = random.Random(seed), length
        self._plain = _running_text(self._rng, _WORDS)
        self._mixed = _running_text(self._rng, [*_WORDS, *_OTHER])
        self._numbers = itertools.count()

    def _text(self, length: int) -> str:
        text = self._mixed if self._rng.random() < 0.1 else self._plain
        begin = self._rng.randrange(len(text) - length)
        return text[begin : begin + length]

    def chat(self) -> dict[str, Any]:
        number, rng = next(self._numbers), self._rng
        chat: dict[str, Any] = {"role": ("user", "assistant", "tool")[number % 3], "content": self._text(self._length)}
        if self._length < 100:
            return chat
        chat["created_at"] = f"2026-01-01T10:{number // 60 % 60:02}:{number % 60:02}.{rng.randrange(10**6):06}Z"
        chat["usage"] = {"input_tokens": rng.randrange(5000), "output_tokens": rng.randrange(2000)}
        chat["annotations"] = {"latency_ms": rng.randrange(9000), "stop": "end_turn", "model": "large-model-20260101"}
        if number % 3 == 1:
            arguments = {"path": self._text(40), "pattern": self._text(150), "limit": rng.randrange(500), "deep": True}
            chat["tool_calls"] = [{"id": f"call_{rng.getrandbits(64):016x}", "type": "function", "function": {
                "name": rng.choice(("read_file", "shell", "web_fetch")), "arguments": orjson.dumps(arguments).decode()}}]
        if number % 3 == 2:
            chat["tool_call_id"] = f"call_{rng.getrandbits(64):016x}"
        return chat

    def message(self) -> Message:
        return Message.from_dict(self.chat())

    def session(self, session_id: str, n: int) -> Session:
        session = Session.new(session_id, model="large-model-20260101", provider="somebody", context_id="context-1",
                              external_id="external-1", parent_id="parent-1")
        session.title, session.tags = "A session", frozenset(("a", "b", "c"))
        session.metadata["cwd"], session.metadata["os"] = "/srv/x", "linux"
        session.metadata["plan"] = {"step": 3, "steps": ["x", "y"], "done": {"a": 1}}
        for _ in range(n):
            session.add_message(self.message())
        return session


class Subject:
    """One repository over one store, with a stored session of n messages."""

    def __init__(self, root: Path, n: int, chats: Chats, **options: Any) -> None:
        storage = JsonFileStorage(root, **options)
        self.storage, self.root, self.n, self.chats = storage, root, n, chats
        self.repo = SessionRepository(SessionCache(), storage, LockedSessionStore(storage))
        self._numbers = itertools.count()
        self.begin()

    def begin(self) -> None:
        """Store a new session of n messages, and hold a copy of it."""
        self.key = f"chat-{next(self._numbers)}"
        self.repo.save(self.chats.session(self.key, self.n))
        self.held = self._loaded()

    def _loaded(self) -> Session:
        session = self.repo.load(self.key)
        assert session is not None
        return session

    @property
    def journal(self) -> str:
        return self.storage._place(self.key).journal

    @property
    def snapshot(self) -> str:
        return self.storage._place(self.key).snapshot

    def another(self, **options: Any) -> SessionRepository:
        """A second repository over the same store, as another process would have it."""
        storage = JsonFileStorage(self.root, **options)
        return SessionRepository(SessionCache(), storage, LockedSessionStore(storage))

    def next_message(self) -> Message:
        """For the next turn; begins another session where this one has outgrown its name."""
        if len(self.held.messages) > self.n + max(20, self.n // 10):
            self.begin()
        return self.chats.message()

    def append(self, message: Message) -> None:
        """One turn."""
        self.held.add_message(message)
        self.repo.save(self.held)

    def line_size(self) -> int:
        """How many bytes an append writes, by the mean of three."""
        sizes = []
        while len(sizes) < 3:
            message, before = self.next_message(), os.stat(self.journal).st_size
            self.append(message)
            grown = os.stat(self.journal).st_size - before
            if grown > 0:  # else it was folded, or another session begun
                sizes.append(grown)
        return sum(sizes) // 3

    def settle(self) -> None:
        """Wait until the stamp is old enough to be trusted, and let the repository see that."""
        time.sleep(0.05)
        self.repo.load_merged(self.key)


class Lab:
    """A folder on a real disk, and the subjects in it; `quick` runs once through everything and proves nothing."""

    def __init__(self, folder: Path, *, quick: bool = False) -> None:
        self.folder, self.quick, self.chats = folder, quick, Chats()
        self._stores = itertools.count()
        self._settled: dict[int, Subject] = {}
        self._open: list[SessionRepository] = []
        self._fds: list[int] = []

    def rounds(self, usual: int) -> int:
        return 2 if self.quick else usual

    def sizes_of(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        return sizes[:1] if self.quick else sizes

    def subject(self, n: int, **options: Any) -> Subject:
        """One of its own, to be changed."""
        made = Subject(self.folder / f"store-{next(self._stores)}", n, self.chats, **options)
        self._open.append(made.repo)
        return made

    def settled(self, n: int) -> Subject:
        """One for everybody, not to be changed."""
        if n not in self._settled:
            self._settled[n] = self.subject(n)
            self._settled[n].settle()
        return self._settled[n]

    def new_path(self) -> Path:
        return self.folder / f"file-{next(self._stores)}"

    def growing_file(self) -> int:
        """A descriptor that writes to the end of a new file, until the lab is closed."""
        self._fds.append(os.open(self.new_path(), os.O_WRONLY | os.O_CREAT | os.O_APPEND))
        return self._fds[-1]

    def close(self) -> None:
        for repo in self._open:
            repo.close()
        for fd in self._fds:
            os.close(fd)


def bench_folder() -> tempfile.TemporaryDirectory[str]:
    """On the disk of the checkout, where `BAMBOO_SESSIONS_BENCH_DIR` names no other: a `/tmp` in memory syncs nothing."""
    given = os.environ.get("BAMBOO_SESSIONS_BENCH_DIR")
    parent = Path(given) if given else Path(__file__).parents[2] / ".benchmarks"
    parent.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=parent, prefix="work-")

