"""Judging a whole history, session by session, without a search.

Every state is named by (birth, revision), and each acknowledged save says which one it made. So the order of commits
need not be guessed: the judge lays the known states of one life side by side, and what differs between two neighbours
must be what the save between them did, by the documented rules. Where a revision has no acknowledged maker (somebody was
killed, an answer was lost, a copy was kept in a cache) whatever an operation of unknown end wanted may be there or not;
such steps are judged more loosely and counted as `loose`. Then come the clocks: nobody may be shown less than what was
acknowledged before he asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from tests.histories.expiry import Expiry, ttl_of
from tests.histories.history import FOREVER, INTENDED, Element, Op, State
from tests.histories.lives import Life
from tests.histories.verdict import Anomaly, Verdict
from tests.histories.wants import additions, found_nothing, removers


def judge(history: dict[str, list[Op]]) -> Verdict:
    """Every session of the history."""
    verdict, flushes = Verdict(), history.get("", [])
    for session_id, ops in history.items():
        if session_id:
            verdict.add(Judge(session_id, ops, flushes).judge())
    verdict.operations += len(flushes)
    for op in flushes:
        if op.outcome == "surprise":
            verdict.anomalies.append(Anomaly("unexpected error", "", op.what, (op,)))
    return verdict


class Judge:
    """One session's history."""

    def __init__(self, session_id: str, ops: list[Op], flushes: list[Op]) -> None:
        self.session_id, self.ops = session_id, ops
        self.flushes = [op for op in flushes if op.kind == "flush"]
        self.verdict = Verdict(sessions=1, operations=len(ops), unknown=sum(op.is_maybe() for op in ops))
        self.maybes = [op for op in ops if op.is_maybe() and op.kind != "delete"]
        self.kept_since: dict[str, int] = {}
        """Repositories whose cache may hold something that nobody stored, and since when."""
        for op in ops:
            if op.outcome in ("kept", "unknown") and op.kind == "save_and_cache":
                self.kept_since.setdefault(op.repo, op.t0)
        self.lives: dict[str, Life] = {}
        self.removers = removers(ops)
        ttl = ttl_of(flushes)
        self.expiry = None if ttl is None else Expiry(self, ttl)

    def judge(self) -> Verdict:
        for op in self.ops:
            if op.outcome == "surprise":
                self.report("unexpected error", op.what or "a look failed", op)
        self.gather()
        for life in self.lives.values():
            life.judge()
        self.judge_births()
        if self.expiry is None:
            self.judge_absences()
        else:
            self.expiry.judge()
        self.judge_refusals()
        self.judge_flushes()
        return self.verdict

    def report(self, what: str, story: str, *ops: Op | None, states: Iterable[tuple[str, State | None]] = ()) -> None:
        self.verdict.anomalies.append(Anomaly(what, self.session_id, story, tuple(op for op in ops if op), tuple(states)))

    # -- what is known

    def gather(self) -> None:
        """Each life's states and makers; two contents of one revision are found here."""
        for op in self.ops:
            seen = [op.base] if op.kind in ("edit", "update") else []
            for state in (*seen, op.out):
                if state is not None and state.rev > 0:
                    life = self.life(state.birth)
                    life.shown(op, state, clean=not self.is_dirty(op) or op.kind not in ("load", "load_merged"))
            if op.outcome == "ok" and op.changed and op.kind not in INTENDED:
                made = op.out if op.out is not None else op.base
                if made is not None:
                    self.life(made.birth).made(op, op.rev or 0)
                if op.kind in ("edit", "update") and op.base is not None:
                    self.life(op.base.birth).witnessed(op, op.rev or 0)
                    if op.rev != op.base.rev + 1:
                        self.report("an edit was overtaken", f"it began on @{op.base.rev} and made @{op.rev}", op)
        for op in self.ops:
            if op.outcome == "ok" and op.kind in INTENDED:
                self.place(op)

    def life(self, birth: str) -> Life:
        if birth not in self.lives:
            self.lives[birth] = Life(self, birth)
        return self.lives[birth]

    def is_dirty(self, op: Op) -> bool:
        """Whether this repository's cache may show changes that it only keeps."""
        since = self.kept_since.get(op.repo)
        return since is not None and since < op.t1

    def is_older(self, element: Element, life: Life) -> bool:
        """Whether another life of the session was seen to have it as well."""
        return any(element in state.facts for other in self.lives.values() if other is not life for state in other.states.values())

    def place(self, op: Op) -> None:
        """An intended change tells its revision and not its birth. Whose it was is certain where one life was there all the
        while, or where a state shows what only this operation says; else it had a part in any of them."""
        life = next((life for life in self.lives.values() if life.spans(op) or life.shows(op)), None)
        if life is None:
            self.maybes += [op] * bool(op.changed)
            return
        if op.changed:
            life.made(op, op.rev or 0)
        life.witnessed(op, op.rev or 0)

    # -- births, absences, refusals

    def judge_births(self) -> None:
        """A session has one life at a time, and a life that was ended stays so."""
        lives = sorted(self.lives.values(), key=lambda life: life.first_t1)
        for life in lives:
            for op in self.ops:
                if op.kind == "delete" and op.outcome in ("ok", "absent") and life.spans(op):
                    self.report("resurrected after a delete", f"life {life.birth[:6]} was seen before and after it",
                                life.first, op, life.last)
        for a, b in pairwise(lives):
            if max(a.first_t1, b.first_t1) < min(a.last_t0, b.last_t0):
                self.report("two lives at once", f"{a.birth[:6]} and {b.birth[:6]}", a.first, b.first, a.last, b.last)
            elif self.expiry is not None:
                act = b.first and self.expiry.renewed_before(b.first, a.birth)
                if act:
                    self.report("replaced before its time", f"{a.birth[:6]} by {b.birth[:6]}", act, b.first)
            elif not self.deletes(min(a.since, b.since), b.first_t1):  # either came first
                self.report("replaced and nobody deleted it", f"{a.birth[:6]} by {b.birth[:6]}", a.last, b.first)
        for op in self.ops:
            if (op.kind in ("save", "save_and_cache") and op.outcome == "ok" and not op.tried and op.base and op.out
                    and op.base.rev > 0 and op.base.birth != op.out.birth):
                self.report("a copy of an ended life was saved into another one",
                            f"{op.base.birth[:6]} into {op.out.birth[:6]}", op)

    def deletes(self, after: float, before: float) -> list[Op]:
        """Where sessions expire, "absent" as well: it was not shown any more, and was deleted all the same."""
        done = ("ok", "unknown") if self.expiry is None else ("ok", "unknown", "absent")
        return [op for op in self.ops if op.kind == "delete" and op.outcome in done and op.t0 < before and op.t1 > after]

    def judge_absences(self) -> None:
        for op in self.ops:
            if not found_nothing(op):
                continue
            for life in self.lives.values():
                if life.first_t1 < op.t0 and not self.deletes(life.since, op.t1):
                    self.report("a session is gone and nobody deleted it", life.birth[:6], life.first, op)
                elif op.kind != "load" and life.spans(op):
                    self.report("a session was gone for a while", life.birth[:6], life.first, op, life.last)

    def judge_refusals(self) -> None:
        for op in self.ops:
            if op.outcome == "deleted" and not self.deletes(-1, op.t1):
                self.report("refused as deleted and nobody deleted it", "", op)
            if op.outcome == "not open":
                life = self.only_life_around(op)
                if life is not None and life.has_open_throughout(op.value[0], op):
                    self.report("an open question could not be answered", f"call {op.value[0]}", op)

    def only_life_around(self, op: Op) -> Life | None:
        fitting = [life for life in self.lives.values() if life.spans(op)]
        return fitting[0] if len(fitting) == 1 else None

    def judge_flushes(self) -> None:
        """After a flush that went well nothing that was kept before may be missing, unless somebody deleted or removed it."""
        for op in self.ops:
            if op.outcome != "kept" or op.mine is None or self.deletes(-1, FOREVER) or self.expiry is not None:
                continue
            if any(f.repo == op.repo and f.outcome == "ok" and f.t0 > op.t1 for f in self.flushes):
                gone = [name for name in additions(op) if name not in self.removers and not any(
                    name in life.seen_messages for life in self.lives.values())]
                if gone:
                    self.report("kept, flushed and lost", f"message {gone[0]}", op)
