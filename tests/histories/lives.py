"""One life of a session, from its birth to its end: its states in order, who made them, who saw them, and when."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from tests.histories.history import FOREVER, INTENDED, NOTHING, Op, State
from tests.histories.steps import Step
from tests.histories.wants import carried_out, differences, differing, excused, says, told

if TYPE_CHECKING:
    from tests.histories.judge import Judge


def may_be_cached(op: Op) -> bool:
    """Whether what it shows may come from a cache: it asked for no more, or its storage failed."""
    return op.kind == "load" or op.outcome == "faulty"


class Life:
    """One life of the session: its revisions, who made them, who saw them."""

    def __init__(self, whole: Judge, birth: str) -> None:
        self.whole, self.birth = whole, birth
        self.states: dict[int, State] = {}
        self.source: dict[int, Op] = {}
        self.makers: dict[int, Op] = {}
        self.seen_at: dict[int, float] = {}
        """By when at the latest somebody knew the revision."""
        self.dirty: list[tuple[Op, State]] = []
        self.fresh: list[tuple[float, float, int, Op]] = []
        self.plain: list[tuple[float, float, int, Op]] = []
        self.first: Op | None = None
        self.last: Op | None = None
        self.seen_messages: set[str] = set()
        self.gone: set[str] = set()
        self.closed: set[str] = set()

    @property
    def first_t1(self) -> float:
        return self.first.t1 if self.first else FOREVER

    @property
    def last_t0(self) -> float:
        return self.last.t0 if self.last else -1

    @property
    def since(self) -> float:
        """Since when it may have been there. A cache shows it for the first time, perhaps, when it has ended already."""
        if self.first is None:
            return 0
        if not may_be_cached(self.first):
            return self.first.t0
        return min((op.t0 for op in self.whole.ops if op.mine is not None and op.mine.birth == self.birth), default=0)

    def spans(self, op: Op) -> bool:
        """Whether the life was certainly there before the operation began and after it ended."""
        return self.first_t1 < op.t0 and op.t1 < self.last_t0

    # -- gathering

    def shown(self, op: Op, state: State, *, clean: bool) -> None:
        if not clean:
            self.dirty.append((op, state))
            if self.whole.expiry is not None:
                return  # what a cache keeps it shows when the time has run out as well: it tells nothing of the storage
        else:
            known = self.states.get(state.rev)
            if known is None:
                self.states[state.rev], self.source[state.rev] = state, op
            elif known is not state and (known.says != state.says or known.updated != state.updated):
                self.whole.report("one revision shown with two contents", f"{self.birth[:6]}@{state.rev}: {differences(known, state)}",
                                  self.source[state.rev], op)
        self.witnessed(op, state.rev, plain=may_be_cached(op), clean=clean,
                       base=state is op.base)

    def witnessed(self, op: Op, rev: int, *, plain: bool = False, clean: bool = True, base: bool = False) -> None:
        """The operation shows that the revision was there: from a storage just looked at, or (plain) from a cache."""
        self.seen_at[rev] = min(self.seen_at.get(rev, FOREVER), op.t1)
        if plain:
            if clean:
                self.plain.append((op.t0, op.t1, rev, op))
            if self.first is None or op.t1 < self.first.t1:
                self.first = op
            return
        if not base or op.outcome == "ok":
            self.fresh.append((op.t0, op.t1, rev, op))
        if self.first is None or op.t1 < self.first.t1:
            self.first = op
        if self.last is None or op.t0 > self.last.t0:
            self.last = op

    def made(self, op: Op, rev: int) -> None:
        other = self.makers.get(rev)
        if other is not None and other is not op:
            self.whole.report("one revision committed twice", f"{self.birth[:6]}@{rev}", other, op)
        self.makers[rev] = op

    def shows(self, op: Op) -> bool:
        """Whether the revision that the operation names says what nobody else says, and the one before does not. Somebody else
        may have made it, of what he had from another life."""
        if self.makers.get(op.rev or 0, op) is not op:
            return False
        before, state = self.states.get((op.rev or 0) - 1), self.states.get(op.rev or 0)
        return op.changed is True and before is not None and state is not None and says(op, state) and not says(op, before)

    # -- judging

    def judge(self) -> None:
        self.walk()
        self.judge_times()
        self.judge_looks()
        self.judge_dirty()

    def walk(self) -> None:
        """From one known revision to the next."""
        before, at = NOTHING, 0
        for rev in sorted({*self.states, *self.makers}):
            state, maker = self.states.get(rev), self.makers.get(rev)
            if state is None and maker is not None and rev == at + 1 and maker.kind in INTENDED:
                state = carried_out(maker, before)
            elif state is None and maker is not None and maker.mine is not None:
                state = State([self.birth, rev, None, *maker.mine.says])  # on the newest: what was made of it is what is stored
            if state is None:
                continue
            Step(self, before, at, state, rev, maker).judge()
            self.whole.verdict.unseen += rev - at - 1
            self.remember(before, state)
            before, at = state, rev

    def remember(self, before: State, state: State) -> None:
        now = {name for kind, name in state.facts if kind == "message"}
        was = {name for kind, name in before.facts if kind == "message"}
        self.gone = (self.gone | (was - now)) - now
        self.seen_messages |= now
        asked = {token for kind, token in state.facts if kind == "question"}
        self.closed |= {token for kind, token in before.facts if kind == "question"} - asked

    def judge_times(self) -> None:
        """P10."""
        before: State | None = None
        for rev in sorted(self.states):
            state = self.states[rev]
            if before is not None and state.updated <= before.updated:
                self.whole.report("updated_at did not go forward", f"{self.birth[:6]}@{before.rev} {before.updated} and @{rev} {state.updated}",
                                  self.source[before.rev], self.source[rev])
            before = state

    def judge_looks(self) -> None:
        """P3: no look at the storage shows less than what was known when it began; nor does a cache, of itself."""
        known = sorted(((t1, rev, op) for _, t1, rev, op in [*self.fresh, *self.plain] if op.t1 != FOREVER), key=lambda seen: seen[:2])
        self.no_look_behind(known, self.fresh, "shown less than what was acknowledged before")
        for repo in {op.repo for *_, op in self.plain}:
            since = self.whole.kept_since.get(repo, FOREVER)
            own = [entry for entry in known if entry[2].repo == repo and entry[2].t1 < since]
            looks = [entry for entry in self.plain if entry[3].repo == repo and entry[3].t1 < since]
            self.no_look_behind(own, looks, "a cache went backwards")

    def no_look_behind(self, known: list[tuple[float, int, Op]], looks: list[tuple[float, float, int, Op]], what: str) -> None:
        known.sort(key=lambda entry: entry[0])
        times, best = [], []
        for t1, rev, op in known:
            times.append(t1)
            best.append((rev, op) if not best or rev > best[-1][0] else best[-1])
        for t0, _, rev, op in looks:
            n = bisect_left(times, t0)
            if n and best[n - 1][0] > rev:
                self.whole.report(what, f"{self.birth[:6]}@{rev} after @{best[n - 1][0]}", best[n - 1][1], op)

    def judge_dirty(self) -> None:
        """What a cache shows that keeps unsaved changes: the committed state and those changes, and nothing else."""
        for op, state in self.dirty:
            stored = self.states.get(state.rev)
            if stored is None or stored.says == state.says:
                continue
            excuses = [kept for kept in self.whole.maybes if kept.t0 < op.t1]
            for element in differing(stored, state):
                was, now = stored.facts.get(element), state.facts.get(element)
                if not excused(element, now, was, excuses):
                    self.whole.report("a cache shows what nobody did", f"{told(element)}: {was} became {now}", self.source[state.rev], op)
                    break

    def has_open_throughout(self, call: str, op: Op) -> bool:
        """Whether the call was open in every state that can have been the newest while the operation ran."""
        first = max((rev for _, t1, rev, _ in [*self.fresh, *self.plain] if t1 < op.t0), default=0)
        last = max((rev for rev, maker in self.makers.items() if maker.t0 < op.t1), default=0)
        last = max([last, *(rev for t0, _, rev, _ in self.fresh if t0 < op.t1)])
        if not first or any(maybe.t0 < op.t1 for maybe in self.whole.maybes):
            return False
        return all(rev in self.states and call in self.states[rev].open_calls() for rev in range(first, last + 1))
