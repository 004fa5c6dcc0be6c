"""All sessions of one store copied into another, while writers go on.

A copy is the same session: same birth, same revision, same bytes of every message. So whoever is interrupted begins again and
writes only what is left. Each run reads what both places have and compares it once; from then on a glance at (birth,
revision) tells what changed, so that a run follows writers for the price of what they write. Nothing is ever overwritten that
the source does not have: where the target went its own way, that is reported and left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from os import PathLike
from typing import Any, Final

import attrs

from bamboo_sessions.clock import SYSTEM_CLOCK, Clock
from bamboo_sessions.errors import RevisionConflict, SessionError, StorageError
from bamboo_sessions.moving_states import Place as State
from bamboo_sessions.moving_states import apart, commit_of, damage, is_same, is_told_apart, place_of, told_apart
from bamboo_sessions.moving_usage import UsageCopying
from bamboo_sessions.storages.adapted import as_records
from bamboo_sessions.storages.opening import open_storage
from bamboo_sessions.storages.protocol import (
    Head,
    Record,
    RecordStorage,
    Storage,
    has_checks,
    has_expiry,
    has_locks,
    has_telling_heads,
)
from bamboo_sessions.storages.records import found

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
    """Sessions that it had as they are before this run: read in both places, and equal."""
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
    new, `passes` at most. Each session is read in both places and compared, what is written is read back. Its token usage comes
    with it, line by line, also what is appended to that later. `progress` is called with (sessions looked at, sessions in all) of
    each pass. What cannot be copied is in the report's `problems`, one by one; a store that fails as a whole raises `StorageError`.

    Never overwritten: what the target has of its own. Where nothing shows that its state is an earlier one of the source's, that is
    a problem of the report too: two branches of one length, another birth, a storage that remembers no commits.

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


class _Unfit(StorageError):
    """What the source has is nothing to be copied."""


class _Copying:
    """One run: what was counted, and what went wrong, by session."""

    def __init__(self, source: RecordStorage, target: RecordStorage, told: Progress) -> None:
        self._source, self._target, self._told = source, target, told
        self._copied = self._updated = 0
        self._brought: dict[str, tuple[State, str]] = {}  # (state, commit) that this run saw in both places or made in the target
        self._matched: set[str] = set()  # of these, who was read in both and is the same
        self._written: set[str] = set()
        self._usage = UsageCopying(source, target)
        self._problems: dict[str, str] = {}
        self._left_out: dict[str, str] = {}

    def run(self, passes: int) -> CopyReport:
        moved, made = 1, 0
        while moved and made < passes:
            moved, made = self._pass(), made + 1
        self._note_damage()
        wrong = [*(("", why) for why in self._usage.unable()), *sorted(self._problems.items())]
        problems = tuple(CopyProblem(session_id, why) for session_id, why in wrong)
        same = len(self._matched - self._written)
        return CopyReport(self._copied, self._updated, same, self._usage.copied, made, not moved, problems)

    def _pass(self) -> int:
        """How many steps it had to take: none, where the target has what the source had."""
        there = {head["id"]: place_of(head) for head, _ in self._target.heads()}
        listed = [(head["id"], place_of(head)) for head, _ in self._heads()]
        moved = 0
        for done, (session_id, state) in enumerate(listed):
            self._told(done, len(listed))
            if session_id in self._problems or there.get(session_id) != state or not self._is_matched(session_id, state):
                moved += self._one(session_id)
            if session_id not in self._problems:
                moved += self._usage_of(session_id, state[0])
        self._told(len(listed), len(listed))
        return moved

    def _heads(self) -> Iterator[tuple[Head, int]]:
        """What could not be read in this pass is remembered: a moment later a look for damage may find nothing wrong with it."""
        self._left_out.clear()
        source = self._source
        return source.heads_telling(self._left_out.__setitem__) if has_telling_heads(source) else source.heads()

    def _is_matched(self, session_id: str, state: State) -> bool:
        """Whether what both list as this state is the same. Equal numbers are not enough: a branch here and a branch there, each
        of one commit, have them too, and their times are equal as well where a clock stands."""
        if not is_told_apart(state):
            return False
        if session_id not in self._matched:
            self._do(session_id, self._match)
        return session_id in self._matched and self._brought[session_id][0] == state

    def _match(self, session_id: str) -> bool:
        """Without the lock: two equal looks need none, and the others are repeated with it."""
        there, record = self._target.read(session_id), self._read(session_id)
        if record is not None and isinstance(there, Record) and is_same(there, record):
            self._note_match(session_id, there)
        return False

    def _note_damage(self) -> None:
        """A listing leaves out what it cannot read, so that one bad file hides no other; here it must not be passed over."""
        for session_id, why in self._left_out.items():
            self._problems.setdefault(session_id, why)
        if has_checks(self._source):
            for finding in self._source.check():
                if finding.severity == "damage":
                    self._problems.setdefault(finding.session_id or finding.path, str(finding))

    def _one(self, session_id: str) -> bool:
        """Whether something was written."""
        self._problems.pop(session_id, None)
        self._matched.discard(session_id)
        return self._do(session_id, self._bring)

    def _do(self, session_id: str, step: Callable[[str], bool]) -> bool:
        """One session does not end the run for the others. A storage says ValueError to a commit that cannot follow."""
        try:
            return step(session_id)
        except RevisionConflict:
            return True  # somebody wrote to the target at this moment: the next pass looks again
        except (SessionError, ValueError) as error:
            self._problems[session_id] = str(error)
            return False

    def _usage_of(self, session_id: str, birth: str) -> bool:
        """The same for its usage log. Needs no lock: what is added names what it stands on."""
        try:
            moved, why = self._usage.bring(session_id, birth)
        except SessionError as error:
            moved, why = False, f"its token usage: {error}"
        if why is not None:
            self._problems[session_id] = why
        return moved

    def _bring(self, session_id: str) -> bool:
        with self._held(session_id):
            there = self._target.read(session_id)
            before = there if isinstance(there, Record) else None
            record = self._read(session_id)  # last: what another run brought meanwhile is no newer than this
            if record is None:
                return False  # deleted meanwhile
            record = told_apart(record, before)
            if before is not None and is_same(before, record):
                self._note_match(session_id, before)
                self._show(session_id)
                return False
            why = self._gone(session_id, record) if before is None else self._apart(session_id, before, record)
            if why is not None:
                self._problems[session_id] = why
                return False
            self._write(session_id, record, before)
            return True

    def _read(self, session_id: str) -> Record | None:
        """What the source has. What no version writes is refused: it would be no session in the target either."""
        record = self._source.read(session_id)
        if not isinstance(record, Record):
            return None
        if found(record, self._source.name).base.state.head.id != session_id:
            raise _Unfit(f"the source lists {session_id!r}, and gives {record.head['id']!r} for it")
        why = damage(record)
        if why is not None:
            raise _Unfit(why)
        return record

    def _gone(self, session_id: str, record: Record) -> str | None:
        """Why what is not in the target is not put there."""
        birth, _ = place_of(record.head)
        gone = self._target.was_deleted(session_id, birth)
        return "it was deleted from the target, or expired there, and stays gone" if gone else None

    def _apart(self, session_id: str, there: Record, record: Record) -> str | None:
        """Not, where it is what this run left there: however many commits the source is ahead by now. A birth of its own is
        another session though, whatever was left there: what stands beside it, its usage, is of the old one."""
        state, (birth, newest) = place_of(there.head), place_of(record.head)
        left_there = there.ops and self._brought.get(session_id) == (state, there.ops[-1])
        return None if left_there and state[0] == birth and state[1] < newest else apart(there, record)

    @contextmanager
    def _held(self, session_id: str) -> Iterator[None]:
        with self._target.lock(session_id, _LOCK_TIMEOUT) if has_locks(self._target) else nullcontext():
            yield

    def _write(self, session_id: str, record: Record, before: Record | None) -> None:
        commit = commit_of(record, before)
        self._brought[session_id] = place_of(record.head), commit.change.op  # first: its answer may get lost
        self._target.commit(commit)
        self._written.add(session_id)
        self._copied += before is None
        self._updated += before is not None
        if is_same(self._target.read(session_id), record):
            self._matched.add(session_id)
        else:
            self._problems[session_id] = "read back from the target, it is not what the source has"

    def _note_match(self, session_id: str, there: Record) -> None:
        self._brought[session_id] = place_of(there.head), there.ops[-1] if there.ops else ""
        self._matched.add(session_id)

    def _show(self, session_id: str) -> None:
        """A copy whose time ran out in the target is renewed, as by any writer: else it were there and nobody saw it."""
        if not self._target.exists(session_id) and has_expiry(self._target):
            self._target.touch(session_id)
