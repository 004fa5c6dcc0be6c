"""All sessions of one store copied into another, while writers go on.

A copy is the same session: same birth, same revision, same bytes of every message. So it can be told at a glance which
sessions are copied already; whoever is interrupted begins again and does only what is left, and a last run after the writers
have moved is short. Nothing is ever overwritten that the source does not have: where the target went its own way, that is
reported and left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from os import PathLike
from typing import Any, Final

import attrs

from bamboo_sessions.clock import SYSTEM_CLOCK, Clock
from bamboo_sessions.errors import RevisionConflict, StorageError
from bamboo_sessions.moving_usage import UsageCopying
from bamboo_sessions.storages.adapted import as_records
from bamboo_sessions.storages.opening import open_storage
from bamboo_sessions.storages.protocol import (
    Change,
    Commit,
    Head,
    HeadChange,
    Record,
    RecordStorage,
    Storage,
    has_checks,
    has_expiry,
    has_locks,
)

Place = str | PathLike[str] | Storage | RecordStorage
Progress = Callable[[int, int], object]

PASSES: Final = 10
"""How often what changed meanwhile is looked for at most: writers that never rest are followed for so long."""
_LOCK_TIMEOUT: Final = 30.0


@attrs.frozen(slots=True)
class CopyProblem:
    """Something that could not be copied, or stands differently in the target; nothing of that was changed there."""

    session_id: str
    """Whose it is; a path for damage that belongs to no session, empty for what concerns them all."""
    why: str


@attrs.frozen(slots=True)
class CopyReport:
    """What `copy_sessions` did."""

    copied: int = 0
    """Sessions that the target did not have."""
    updated: int = 0
    """Sessions that it had at an earlier revision, from an earlier pass or run; how often."""
    same: int = 0
    """Sessions that it had as they are before this run."""
    usage_lines: int = 0
    """Lines of token usage that were brought."""
    passes: int = 0
    settled: bool = False
    """The last pass found nothing new: what the source held then is all there, but for `problems`."""
    problems: tuple[CopyProblem, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return attrs.asdict(self)


def copy_sessions(source: Place, target: Place, *, progress: Progress | None = None, passes: int = PASSES,
                  clock: Clock = SYSTEM_CLOCK) -> CopyReport:
    """Copy every session of `source` into `target`; each is a path, a URL, or a storage, which stays open.

    May be interrupted and run again, and others may write to the source meanwhile: passes follow until one finds nothing
    new, `passes` at most. Each session is read back and compared. Its token usage comes with it, line by line, also what is
    appended to that later. `progress` is called with (sessions looked at, sessions in
    all) of each pass. What cannot be copied is in the report's `problems`; a store that fails as a whole raises `StorageError`.

    Not copied: expired sessions, which are gone for everybody; what was deleted from the target since it was copied there,
    which is a problem of the report; the memory of what was deleted. A session that was copied and is deleted at the source
    afterwards stays in the target.
    """
    with _opened(source, clock) as a, _opened(target, clock) as b:
        return _Copying(a, b, progress or _untold).run(passes)


def _untold(_done: int, _total: int) -> None:
    pass


@contextmanager
def _opened(place: Place, clock: Clock) -> Iterator[RecordStorage]:
    if not isinstance(place, str | PathLike):
        yield as_records(place)
        return
    storage = open_storage(place, clock=clock)
    try:
        yield as_records(storage)
    finally:
        storage.close()


class _Copying:
    """One run: what was counted, and what went wrong, by session."""

    def __init__(self, source: RecordStorage, target: RecordStorage, told: Progress) -> None:
        self._source, self._target, self._told = source, target, told
        self._copied = self._updated = 0
        self._same: set[str] = set()
        self._written: set[str] = set()
        self._brought: dict[str, tuple[int, str]] = {}  # the (revision, commit) that this run saw or made in both
        self._usage = UsageCopying(source, target)
        self._problems: dict[str, str] = {}

    def run(self, passes: int) -> CopyReport:
        moved, made = 1, 0
        while moved and made < passes:
            moved, made = self._pass(), made + 1
        self._note_damage()
        found = [*(("", why) for why in self._usage.unable()), *sorted(self._problems.items())]
        problems = tuple(CopyProblem(session_id, why) for session_id, why in found)
        same = len(self._same - self._written)
        return CopyReport(self._copied, self._updated, same, self._usage.copied, made, not moved, problems)

    def _pass(self) -> int:
        """How many steps it had to take: none, where the target has what the source had."""
        there = {head["id"]: _state_of(head) for head, _ in self._target.heads()}
        found = [(head["id"], _state_of(head)) for head, _ in self._source.heads()]
        moved = 0
        for done, (session_id, state) in enumerate(found):
            self._told(done, len(found))
            if there.get(session_id) == state and session_id not in self._problems:
                self._same.add(session_id)
            else:
                moved += self._one(session_id)
            if session_id not in self._problems:
                moved += self._usage_of(session_id, state[0])
        self._told(len(found), len(found))
        return moved

    def _note_damage(self) -> None:
        """A listing leaves out what it cannot read, so that one bad file hides no other; here it must not be passed over."""
        if has_checks(self._source):
            for found in self._source.check():
                if found.severity == "damage":
                    self._problems.setdefault(found.session_id or found.path, str(found))

    def _one(self, session_id: str) -> bool:
        """Whether something was written."""
        self._problems.pop(session_id, None)
        try:
            return self._bring(session_id)
        except RevisionConflict:
            return True  # somebody wrote to the target at this moment: the next pass looks again
        except StorageError as error:
            self._problems[session_id] = str(error)
            return False

    def _usage_of(self, session_id: str, birth: str) -> bool:
        """The same for its usage log. Needs no lock: what is added names what it stands on."""
        try:
            moved, why = self._usage.bring(session_id, birth)
        except StorageError as error:
            moved, why = False, f"its token usage: {error}"
        if why is not None:
            self._problems[session_id] = why
        return moved

    def _bring(self, session_id: str) -> bool:
        with self._held(session_id):
            there = self._target.read(session_id)
            before = there if isinstance(there, Record) else None
            record = self._source.read(session_id)  # last: what another run brought meanwhile is no newer than this
            if not isinstance(record, Record):
                return False  # deleted meanwhile
            why = self._gone(session_id, record) if before is None else self._apart(session_id, before, record)
            if why is not None:
                self._problems[session_id] = why
                return False
            return self._write(session_id, record, before)

    def _gone(self, session_id: str, record: Record) -> str | None:
        """Why what is not in the target is not put there."""
        birth, _ = _state_of(record.head)
        gone = bool(birth) and self._target.was_deleted(session_id, birth)
        return "it was deleted from the target, or expired there, and stays gone" if gone else None

    def _apart(self, session_id: str, there: Record, record: Record) -> str | None:
        """Not, where it is what this run left there: however many commits the source is ahead by now."""
        (_, revision), (_, newest) = _state_of(there.head), _state_of(record.head)
        left_there = there.ops and self._brought.get(session_id) == (revision, there.ops[-1]) and revision <= newest
        return None if left_there else _apart(there, record)

    @contextmanager
    def _held(self, session_id: str) -> Iterator[None]:
        with self._target.lock(session_id, _LOCK_TIMEOUT) if has_locks(self._target) else nullcontext():
            yield

    def _write(self, session_id: str, record: Record, before: Record | None) -> bool:
        self._brought[session_id] = _state_of(record.head)[1], record.ops[-1] if record.ops else ""
        if before is not None and _is_same(before, record):
            self._same.add(session_id)
            self._show(session_id)
            return False
        self._target.commit(_commit(session_id, record, before))
        self._written.add(session_id)
        if not _is_same(self._target.read(session_id), record):
            self._problems[session_id] = "read back from the target, it is not what the source has"
        self._copied += before is None
        self._updated += before is not None
        return True

    def _show(self, session_id: str) -> None:
        """A copy whose time ran out in the target is renewed, as by any writer: else it were there and nobody saw it."""
        if not self._target.exists(session_id) and has_expiry(self._target):
            self._target.touch(session_id)


def _state_of(head: Head) -> tuple[str, int]:
    return head.get("birth", ""), head.get("revision", 0)


def _apart(there: Record, record: Record) -> str | None:
    """Why the target's state is no earlier one of the source's; None: it is, or it is the same."""
    (birth, revision), (other, newest) = _state_of(there.head), _state_of(record.head)
    if birth != other:
        return "the target has another session of this id"
    if revision > newest:
        return f"the target has revision {revision}, the source {newest}: it was written to, or the source is an older copy"
    if there.ops and record.ops and there.ops[-1] not in record.ops:
        return f"the target's revision {revision} is not the source's: both were written to, or over 64 commits lie between them"
    return None


def _is_same(there: object, record: Record) -> bool:
    return isinstance(there, Record) and there.head == record.head and tuple(there.messages) == tuple(record.messages)


def _commit(session_id: str, record: Record, before: Record | None) -> Commit:
    """The one step that makes the whole record of what is there."""
    keep = 0 if before is None else _common(before.messages, record.messages)
    (_, revision), op = _state_of(record.head), record.ops[-1] if record.ops else ""
    change = Change(revision, op, keep, list(record.messages[keep:]), _head_change(record.head, before))
    return Commit(session_id, None if before is None else _state_of(before.head), change)


def _common(before: Any, after: Any) -> int:
    """How many messages in front are the same."""
    pairs = zip(before, after, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(before), len(after)))


def _head_change(head: Head, before: Record | None) -> HeadChange:
    gone = [] if before is None else [name for name in before.head if name not in head]
    return {"set": head, "unset": gone} if gone else {"set": head}
