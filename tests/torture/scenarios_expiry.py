"""Time that runs out, for scenarios: sessions grow old by having the times of their files set back, and nobody waits.

A session is told by one of three words: it was active `now`, it is `resting` (its time runs out before somebody looks whose
clock is `LATER`), or it is `old`, which is expired unless somebody pinned it or it waits for an answer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bamboo_sessions._files import Files
from bamboo_sessions.clock import SystemClock

TTL = timedelta(days=8)
LATER = TTL / 2
"""By how much a judge sets its clock ahead: what was active `now` has half of its time left, what rested has none."""
AGES = ("old", "resting", "now")
_BACK = {"resting": TTL * 0.7, "old": TTL * 2}


class Aging(Files):
    """The real one, and time that passes."""

    def age(self, path: str | Path, ns: int) -> None:
        """No call of a writer: it is as if nobody had changed the file since."""
        os.utime(path, ns=(ns, ns))


def folder_of(root: str | Path, chat: str) -> Path | None:
    """Chats here have ids that are their own folder names."""
    shards = os.path.join(root, "sessions")
    found = (os.path.join(shards, shard, chat) for shard in os.listdir(shards))
    return next((Path(path) for path in found if os.path.isdir(path)), None)


def grow_old(folder: Path, word: str, files: Aging) -> None:
    """The journal first: as long as `active` is young, the session is."""
    then = time.time_ns() - int(_BACK[word].total_seconds() * 10**9)
    for name in ("journal.jsonl", "active"):
        if (folder / name).exists():
            files.age(folder / name, then)


def age_of(root: str | Path, chat: str) -> str:
    """Which of the words the files' times say, whatever the library makes of them."""
    folder = folder_of(root, chat)
    times = [path.stat().st_mtime_ns for name in ("journal.jsonl", "active")
             if folder is not None and (path := folder / name).exists()]
    idle = timedelta(microseconds=(time.time_ns() - max(times, default=time.time_ns())) // 1000)
    return "now" if idle < TTL * 0.3 else "resting" if idle < TTL else "old"


def is_hidden(session: Mapping[str, Any], *, later: bool = False) -> bool:
    """Whether a session of a model has expired: by the clock as it is, or by one that is `LATER`."""
    spared = session.get("pinned") or session.get("open")
    return not spared and session.get("time") in (("old", "resting") if later else ("old",))


class Ahead(SystemClock):
    """A clock that is so much ahead."""

    def __init__(self, by: timedelta) -> None:
        self._by = by

    def now(self) -> datetime:
        return datetime.fromtimestamp(time.time(), UTC) + self._by
