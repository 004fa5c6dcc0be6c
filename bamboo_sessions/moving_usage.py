"""Token usage, copied behind the session it belongs to.

A bill carries no name of its own, so what is missing in the target is told by counting: every line has to be there as often
as at the source. The order is not looked at, because a database shows lines in the order in which they were committed, not
begun. Lines are added in one step that says how many there were before, so that neither a second run at the same time nor a
lost answer brings one twice; and a log that has lines of its own is left alone, for which of two equal ones is whose nobody
can tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from bamboo_sessions.codec import check_usage
from bamboo_sessions.errors import InvalidValue
from bamboo_sessions.storages.protocol import Record, RecordStorage, UsageReads, has_usage_log, has_usage_reads

_NO_SOURCE: Final = "the source keeps token usage and offers no read_usage: whatever there is stays behind"


class UsageCopying:
    """What one run did with the logs."""

    def __init__(self, source: RecordStorage, target: RecordStorage) -> None:
        self._records, self._keeps_log = source, has_usage_log(source)
        self._source: UsageReads | None = source if has_usage_reads(source) else None
        self._target: UsageReads | None = target if has_usage_reads(target) else None
        self._had: dict[tuple[str, str], int] = {}  # lines of a log, all of them in both places when it was last looked at
        self._left: dict[str, int] = {}  # lines that the target cannot take, by session
        self.copied = 0

    def unable(self) -> Iterator[str]:
        """What can be done for no session at all, because one of the two places lacks the power."""
        if self._keeps_log and self._source is None:
            yield _NO_SOURCE
        if self._left:
            yield (f"{sum(self._left.values())} lines of token usage of {len(self._left)} sessions stay behind: "
                   "the target keeps no usage log, or none that can be read back")

    def bring(self, session_id: str, birth: str) -> tuple[bool, str | None]:
        """(whether something was written, or somebody else was faster; what stays behind and why). The session is in both places."""
        if self._source is None:
            return False, None
        if self._target is None:
            self._note_left(session_id, len(self._source.read_usage(session_id, birth)))
            return False, None
        had = self._had.get((session_id, birth))
        if had is not None and had == len(self._source.read_usage(session_id, birth)):
            return False, None  # nothing is ever taken away from a log
        return self._compared(self._source, self._target, session_id, birth)

    def _note_left(self, session_id: str, count: int) -> None:
        if count:
            self._left[session_id] = count

    def _compared(self, source: UsageReads, target: UsageReads, session_id: str, birth: str) -> tuple[bool, str | None]:
        there = target.read_usage(session_id, birth)
        here = source.read_usage(session_id, birth)  # last: what another run brought meanwhile is among these
        whole = [line for line in here if _is_whole(line)]
        own = Counter(filter(_is_whole, there)) - Counter(whole)
        if own:
            return False, self._why_own(session_id, birth, own.total())
        missing = _missing(whole, there)
        if missing:
            if not target.add_usage(session_id, birth, missing, len(there)):
                return True, None  # somebody was faster, or it was deleted: the next pass looks again
            self.copied += len(missing)
            if _counted(target.read_usage(session_id, birth)) != _counted(whole):
                return True, "its token usage, read back from the target, is not what the source has"
        broken = len(here) - len(whole)
        if broken:
            which = "1 line of its token usage is no JSON and stays" if broken == 1 else f"{broken} lines of its token usage are no JSON and stay"
            return bool(missing), f"{which} behind"
        self._had[session_id, birth] = len(here)
        return bool(missing), None

    def _why_own(self, session_id: str, birth: str, count: int) -> str | None:
        """Not, where the session is gone from the source by now, and its log with it."""
        record = self._records.read(session_id)
        if not isinstance(record, Record) or record.head.get("birth", "") != birth:
            return None
        return f"its token usage was left alone: the target's log was written to and has {count} of its own"


def _is_whole(line: bytes) -> bool:
    """A crash may leave half a line, which is kept as it is."""
    try:
        check_usage(line)
    except InvalidValue:
        return False
    return True


def _counted(lines: Sequence[bytes]) -> Counter[bytes]:
    return Counter(filter(_is_whole, lines))


def _missing(lines: Sequence[bytes], there: Sequence[bytes]) -> list[bytes]:
    """Of `lines`, in their order, those that are not there as often."""
    found, missing = Counter(there), []
    for line in lines:
        if found[line]:
            found[line] -= 1
        else:
            missing.append(line)
    return missing
