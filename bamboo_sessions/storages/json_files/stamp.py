"""The cheap mark of one state: what `stat` says of the journal, and where the journal's last good line is.

Every commit and every fold changes the journal, so one `stat` answers "is it still this?". Except within one tick of
the file system's clock: a line that was undone and replaced by one of equal length leaves the size, and may leave the
times. A stamp taken that soon after the file's last change is therefore not trusted; the next read looks at the last
line itself and gives a fresh stamp.
"""

from __future__ import annotations

import os
from typing import Final

from bamboo_sessions._frozen import frozen

Mark = tuple[int, int, int, int]

TICKS: Final = 20_000_000
"""Two ticks of the slowest kernel clock in use (100 a second), in ns."""
WHOLE_SECONDS: Final = 2_000_000_000


@frozen(slots=True)
class Stamp:
    """One state of one session, as this storage names it."""

    path: str
    """The journal."""
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int
    trusted: bool
    birth: str
    generation: int
    """The journal's."""
    revision: int
    op: str
    count: int
    """Messages."""
    crc: int
    """Of the journal's last good line."""
    start: int
    end: int
    """Where that line begins and ends; `end < size`: something unfinished stands behind it."""
    base: Mark
    """What `stat` said of the snapshot."""
    ahead: bool
    """The snapshot is one generation ahead: a fold is under way, or was cut short, and must be finished first."""


def mark_of(stat: os.stat_result) -> Mark:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def still(stamp: Stamp, stat: os.stat_result) -> bool:
    """Whether the journal looks as it did."""
    return (stat.st_size == stamp.size and stat.st_mtime_ns == stamp.mtime_ns and stat.st_ctime_ns == stamp.ctime_ns
            and stat.st_ino == stamp.ino)


def is_settled(stat: os.stat_result, now_ns: int) -> bool:
    """Whether a later change must show in the file's times. `now_ns` by the clock that stamps files."""
    tick = TICKS if stat.st_mtime_ns % 1_000_000_000 else WHOLE_SECONDS
    return now_ns - stat.st_mtime_ns > tick
