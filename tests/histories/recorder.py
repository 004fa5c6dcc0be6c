"""What happened, as those who did it saw it: one line of JSON a record, one write a line, outside the store.

A record is written before an operation that could change something, with the state that its caller held, and another
one when it returned, with what it gave. Whoever is killed in between leaves the first without the second: nobody knows
what became of it. Times are of CLOCK_MONOTONIC, which all processes of a machine share. A state that the same process
wrote down before is named by the number of that record.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any
from zlib import crc32

import orjson

from bamboo_sessions import Message, Session

Plain = list[Any]
"""One state: birth, revision, updated_at in microseconds; then what it says: title, who gave it, how often people edited;
pinned; tags; metadata; open questions; model; messages as one text of `id:checksum` words, parted by 0x1f."""


class Recorder:
    """The log of one process. Each thread records through a `Pen` of its own."""

    def __init__(self, path: Path, process: str) -> None:
        self.process = process
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, record: dict[str, Any]) -> None:
        line = orjson.dumps(record) + b"\n"
        if os.write(self._fd, line) != len(line):
            raise OSError("the log is full: the history is lost")

    def close(self) -> None:
        os.close(self._fd)


class Pen:
    """Numbers and writes down the operations of one thread."""

    def __init__(self, recorder: Recorder, thread: int) -> None:
        self._recorder, self._name = recorder, f"{recorder.process}.{thread}"
        self._number = 0
        self._known: dict[str, tuple[Plain, str]] = {}

    def begun(self, kind: str, session_id: str, repo: int, **facts: Any) -> str:
        """An operation that may change something begins; gives its name."""
        name = self._next()
        self._recorder.write({"i": name, "k": kind, "s": session_id, "r": self._repo(repo), "t0": time.monotonic_ns(), **facts})
        return name

    def ended(self, name: str, outcome: str, state: Any = None, **facts: Any) -> None:
        """It returned, or raised: `outcome` says how, `state` is what its caller has now."""
        now = time.monotonic_ns()
        self._recorder.write({"e": name, "t1": now, "o": outcome, "x": state, **facts})

    def looked(self, kind: str, session_id: str, repo: int, began: int, outcome: str, session: Session | None,
               what: str = "") -> str:
        """One that only looks: written down when it is over, for a look that nobody saw says nothing."""
        now, name = time.monotonic_ns(), self._next()
        state = None if session is None else self.state(session, name)
        self._recorder.write({"i": name, "k": kind, "s": session_id, "r": self._repo(repo), "t0": began, "t1": now,
                              "o": outcome, "x": state, "what": what})
        return name

    def state(self, session: Session, name: str) -> Plain | str:
        """The state in full, or the name of the operation that wrote the same one down last."""
        plain = plain_state(session)
        known = self._known.get(session.id)
        if known is not None and known[0] == plain:
            return known[1]
        if len(self._known) > 50:
            self._known.clear()
        self._known[session.id] = plain, name
        return plain

    def _next(self) -> str:
        self._number += 1
        return f"{self._name}.{self._number}"

    def _repo(self, repo: int) -> str:
        return f"{self._recorder.process}/{repo}"


def plain_state(session: Session) -> Plain:
    """What a session says, through the public face."""
    metadata = orjson.loads(orjson.dumps(session.metadata, option=orjson.OPT_SORT_KEYS))  # a copy: the caller goes on
    at = session.updated_at
    return [session.birth, session.revision, int(at.timestamp()) * 1_000_000 + at.microsecond,
            session.title, session.title_source, session.metadata_version, session.pinned, sorted(session.tags),
            metadata,
            [[asked.token, asked.tool_call_id, asked.question] for asked in session.pending_questions],
            session.model, "\x1f".join([word_of(message) for message in session.messages])]


def word_of(message: Message) -> str:
    """Our own messages by their ids; one that the library made, an answer, by what it says."""
    if message.id[-1] in "mcrs" and "." in message.id:
        return f"{message.id}:{crc32(message.chat_bytes):x}"
    return f"={message.content}:0"
