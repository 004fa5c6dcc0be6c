"""What a time to live allows: a session may be gone without a delete, but not before its time, and must be gone behind it.

By the one monotonic clock. What was acknowledged as activity happened after its operation began, so until so long after
that the session is there; what may have been activity happened before its operation ended, so after that it is not shown.
Lives of which something is of unknown end are not judged by the second, for nobody knows when they were last active.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.histories.history import FOREVER, LOOKS, Op, State
from tests.histories.wants import found_nothing

if TYPE_CHECKING:
    from tests.histories.judge import Judge
    from tests.histories.lives import Life

NOT_DONE = ("absent", "deleted", "expired", "not open")
MARGIN = 40_000_000
"""Nanoseconds: files are stamped by a coarser clock than the one that operations are timed by."""


def ttl_of(flushes: list[Op]) -> int | None:
    """In nanoseconds, where those who made the history said that there is one."""
    return next((op.value for op in flushes if op.kind == "ttl"), None)


def is_spared(state: State) -> bool:
    return bool(state.says[3] or state.says[6])


class Expiry:
    """One session's history, where sessions expire."""

    def __init__(self, whole: Judge, ttl: int) -> None:
        self.whole, self.ttl = whole, ttl
        self.acts = [op for op in whole.ops if op.kind not in (*LOOKS, "delete")]
        self.sure = [op for op in self.acts if op.outcome == "ok" and not (op.kind == "touch" and op.repo in whole.kept_since)]

    def judge(self) -> None:
        for op in self.whole.ops:
            if found_nothing(op):
                self.judge_absence(op)
            elif op.kind in LOOKS and op.outcome == "ok":
                self.judge_look(op)
            elif op.outcome == "expired":
                self.judge_refusal(op)

    def renewed_before(self, op: Op, birth: str | None = None) -> Op | None:
        """What was acknowledged so shortly before that the session cannot have expired; of this life, where one is named."""
        near = (act for act in self.sure if act.t1 < op.t0 and op.t1 < act.t0 + self.ttl - MARGIN)
        return next((act for act in near if (birth is None or (act.out is not None and act.out.birth == birth))
                     and not self.whole.deletes(act.t0, op.t1)), None)

    def judge_absence(self, op: Op) -> None:
        act = self.renewed_before(op)
        if act is not None:
            self.whole.report("expired before its time", f"active {(op.t1 - act.t0) / 1e6:.0f} ms before", act, op)
        for life in self.whole.lives.values():
            if self.is_spared_throughout(life, op):
                self.whole.report("expired and was pinned or asked", life.birth[:6], life.first, op)

    def is_spared_throughout(self, life: Life, op: Op) -> bool:
        """Whether every state that can have been the newest while the operation ran spares the session."""
        seen = [(t0, rev) for t0, t1, rev, _ in life.fresh if t1 < op.t0]
        if not seen or any(maybe.t0 < op.t1 for maybe in self.whole.maybes) or self.whole.deletes(min(seen)[0], op.t1):
            return False
        first = max(rev for _, rev in seen)
        last = max([first, *(rev for rev, maker in life.makers.items() if maker.t0 < op.t1)])
        return all(rev in life.states and is_spared(life.states[rev]) for rev in range(first, last + 1))

    def judge_look(self, op: Op) -> None:
        """A state that is shown was active, or is spared; a cache that keeps unsaved changes shows them whatever happened."""
        if op.out is None or is_spared(op.out) or self.whole.maybes or op.repo in self.whole.kept_since:
            return
        last = max((act.t1 for act in self.acts if act.t0 < op.t1 and act.outcome not in NOT_DONE), default=FOREVER)
        if last + self.ttl + MARGIN < op.t0:
            self.whole.report("shown long after it had expired", f"{(op.t0 - last) / 1e6:.0f} ms after anybody was active", op)

    def judge_refusal(self, op: Op) -> None:
        """A copy that is refused as expired is of a life that expired, and is over."""
        if op.base is None:
            return
        act = self.renewed_before(op, op.base.birth)
        if act is not None:
            self.whole.report("refused as expired before its time", f"active {(op.t1 - act.t0) / 1e6:.0f} ms before", act, op)
        life = self.whole.lives.get(op.base.birth)
        again = None if life is None else next((look for t0, _, _, look in life.fresh if t0 > op.t1), None)
        if again is not None:
            self.whole.report("resurrected after a purge", op.base.birth[:6], op, again)
