"""What this storage object knows about the ends of journals: so that a commit need not read what it just wrote.

A tip is a hint. It is believed only after the journal itself, looked at under the session's lock, agrees with it, so a
stale one costs a read and nothing else. The table is bounded; a forgotten tip costs a read as well.
"""

from __future__ import annotations

import threading
from typing import Final

from bamboo_sessions._frozen import frozen
from bamboo_sessions.storages.json_files.stamp import Stamp

KEPT: Final = 4096


@frozen(slots=True)
class Tip:
    """The newest state seen, and whether this object itself wrote and synced its last line."""

    stamp: Stamp
    own: bool


class Tips:
    """The newest tip of each of the last few thousand sessions."""

    def __init__(self) -> None:
        self._tips: dict[str, Tip] = {}
        self._full = threading.Lock()  # guards the dropping of the oldest; single dict calls are atomic by themselves

    def get(self, session_id: str) -> Tip | None:
        return self._tips.get(session_id)

    def wrote(self, session_id: str, stamp: Stamp) -> None:
        self._put(session_id, Tip(stamp, own=True))

    def saw(self, session_id: str, stamp: Stamp) -> None:
        """A read came by this state. It stays our own where it still ends in the line that we synced."""
        known = self._tips.get(session_id)
        own = known is not None and known.own and _same_end(known.stamp, stamp)
        self._put(session_id, Tip(stamp, own))

    def drop(self, session_id: str) -> None:
        self._tips.pop(session_id, None)

    def _put(self, session_id: str, tip: Tip) -> None:
        self._tips[session_id] = tip
        if len(self._tips) > KEPT:
            with self._full:
                while len(self._tips) > KEPT:
                    self._tips.pop(next(iter(list(self._tips))), None)

    def __len__(self) -> int:
        return len(self._tips)


def _same_end(one: Stamp, other: Stamp) -> bool:
    return (one.ino, one.crc, one.end, one.generation) == (other.ino, other.crc, other.end, other.generation)
