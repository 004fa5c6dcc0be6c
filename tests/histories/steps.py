"""One change of a session: from one known state to the next, and whether the operation between them explains it.

Where nobody but an acknowledged maker can have had a part, each thing must be what the documented merge makes of it; else
what guests of unknown end wanted may be there as well.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tests.histories.history import FOREVER, INTENDED, NOTHING, Element, Op, State
from tests.histories.rules import allowed
from tests.histories.wants import (
    additions,
    block,
    call_of,
    carried_out,
    differing,
    edited,
    has_no_past,
    intended,
    is_result,
    process,
    stands_on_more,
    told,
    wanted,
    was_edited,
)

if TYPE_CHECKING:
    from tests.histories.lives import Life


REMEMBERED = 64
"""So many commits a storage remembers, as documented: a save that is tried again later may be stored twice."""


class Step:
    """From one known state of a life to the next known one."""

    def __init__(self, life: Life, before: State, at: int, after: State, rev: int, maker: Op | None) -> None:
        self.life, self.before, self.after, self.maker = life, before, after, maker
        self.at, self.rev = at, rev
        whole, seen = life.whole, life.source.get(rev)
        limit = seen.t1 if seen is not None else FOREVER
        between = [life.makers[r] for r in range(at + 1, rev) if r in life.makers]
        self.mine = maker.mine if maker is not None and maker.kind not in INTENDED else None
        self.is_sure = rev == at + 1 and maker is not None
        """Whether nobody but the maker had a part in it."""
        self.guests = [] if self.is_sure else [*between, *(op for op in whole.maybes if op.t0 < limit)]
        if maker is not None and (maker.tried or self._is_of_unsaved()):
            self.guests = [*self.guests, *(op for op in whole.maybes if op.t0 < maker.t1)]
        self.is_first_try = maker is not None and not self.guests

    def _is_of_unsaved(self) -> bool:
        """Whether the copy may stand on changes that a cache kept."""
        maker = self.maker
        assert maker is not None
        return maker.repo in self.life.whole.kept_since or any(
            op.outcome == "kept" or op.kind == "save_and_cache" for op in self.life.whole.maybes
            if op.t0 < maker.t1 and process(op) == process(maker))

    def judge(self) -> None:
        verdict = self.life.whole.verdict
        verdict.steps += 1
        verdict.loose += bool(self.guests)
        if self.maker is None and not self.guests:
            self.report("a revision came from nowhere", "no operation can have made it")
            return
        if self.maker is not None and self.maker.kind in INTENDED:
            self.judge_intended()
        elif self.is_plain():
            return
        else:
            self.judge_elements()
        self.judge_order()
        self.judge_blocks()

    def report(self, what: str, story: str) -> None:
        life, maker = self.life, self.maker
        states = [(f"stored @{self.at}", self.before)]
        if maker is not None:
            states += [("made from", maker.base), ("wanted", self.mine)]
        states.append((f"stored @{self.rev}", self.after))
        whole = f"{life.birth[:6]}@{self.at} to @{self.rev}: {story}"
        life.whole.report(what, whole, life.source.get(self.at), *(self.guests[:12] if not self.is_first_try else ()), maker,
                          life.source.get(self.rev), states=states)

    def is_plain(self) -> bool:
        """The usual case, told by a glance: nobody else wrote since the copy was made, and what was wanted was stored."""
        maker = self.maker
        if not self.is_first_try or maker is None or self.mine is None or self.mine.says != self.after.says:
            return False
        if maker.base is None:
            return self.before is NOTHING
        return maker.base.rev == self.at and maker.base.says == self.before.says

    def judge_intended(self) -> None:
        """What was asked for by name was done to the newest state, and nothing else."""
        maker = self.maker
        assert maker is not None
        if maker.kind == "answer" and self.is_first_try and maker.value[0] not in self.before.open_calls():
            self.report("answered twice, or what nobody asked", f"call {maker.value[0]}")
            return
        if not self.is_first_try:
            self.judge_elements()
            return
        wanted = carried_out(maker, self.before)
        for element in differing(wanted, self.after):
            self.wrong(element, [wanted.facts.get(element)], self.after.facts.get(element))

    def judge_elements(self) -> None:
        for element in self.elements():
            values, found = self.values(element), self.after.facts.get(element)
            if found not in values:
                self.wrong(element, values, found)
            elif element[0] == "question" and found is not None and element[1] in self.life.closed:
                self.report("a closed question is open again", str(found))
            elif element[0] == "message" and found is not None and self.is_back(element):
                self.report("removed and back again", told(element))

    def elements(self) -> list[Element]:
        states = [self.before, self.after, *self.bases()]
        if self.mine is not None:
            states.append(self.mine)
        return list(dict.fromkeys(element for state in states if state is not None for element in state.facts))

    def bases(self) -> list[State | None]:
        """What the maker's copy may have descended from: an earlier try of it may have been stored after all."""
        maker = self.maker
        if maker is None or self.mine is None:
            return []
        made: list[State | None] = [maker.base if maker.base is None or maker.base.rev else None]
        if maker.base is not None:
            made += self.committed(maker.base.rev)
        if stands_on_more(maker):
            made += self.committed(self.mine.rev)
        if self.guests and self.maker is not None:
            made += [op.mine for op in self.guests if op.mine is not None and (op in maker.tried or op.outcome == "kept")]
            made += [maker.base] if maker.base is not None else []
        # Whoever tried again learned what the try before had made, and who had kept work which commit has it: any state since may
        # be what he stood on.
        if maker.tried or any(op.outcome == "kept" for op in self.guests):
            first = 0 if maker.base is None else maker.base.rev
            made += [state for rev, state in self.life.states.items() if first < rev < self.rev]
        return made

    def committed(self, rev: int) -> list[State]:
        """What the copy's base was without what a cache had put onto it; where nobody saw that, it was like one beside it."""
        states = self.life.states
        if not rev or rev in states:
            return [states[rev]] if rev else []
        near = (max((r for r in states if r < rev), default=0), min((r for r in states if r > rev), default=0))
        return [states[r] for r in near if r]

    def gone_on(self, element: Element) -> list[Any]:
        """What was kept, and was not saved when the time ran out, goes on as a session of its own, whole: with whatever the
        life that ended or its holders had of it."""
        whole = self.life.whole
        if whole.expiry is None or self.before is not NOTHING or all(op.outcome != "kept" for op in self.guests):
            return []
        ended = [state for life in whole.lives.values() if life is not self.life for state in life.states.values()]
        return [state.facts.get(element) for state in [*ended, *(op.mine for op in self.guests)] if state is not None]

    def values(self, element: Element) -> list[Any]:
        """What the element may be now."""
        return [*self.by_the_rules(element), *self.gone_on(element)]

    def by_the_rules(self, element: Element) -> list[Any]:
        was = self.before.facts.get(element)
        theirs = [was] if self.is_sure else [was, *wanted(element, was, self.guests)]
        maker = self.maker
        if maker is None:
            return theirs
        if self.mine is None:
            return [value for one in theirs for value in intended(maker, element, one)]
        stored = self.before if self.is_first_try else None
        made = [value for base in self.bases() for one in theirs
                for value in allowed(element, base, self.mine, one, stored if one is was else None)]
        if element[0] == "question" and maker.base is None and self.life.whole.is_older(element, self.life):
            made += [None, was]  # `as_new` takes along which questions were closed, and nobody is shown that
        if self.before is NOTHING:
            made.append(self.mine.facts.get(element))  # nobody was there to merge with
        return made + wanted(element, was, self.guests) if self.guests else made

    def is_back(self, element: Element) -> bool:
        """Whether a message that was seen and then gone is here again, and nothing explains that.

        What explains it: an edit, which stands against a removal. A copy without a common past, to which nothing counts as
        removed. And a cache that keeps the same addition unsaved, while a copy of it was saved by another repository.
        """
        if element[1] not in self.life.gone or element in self.before.facts:
            return False
        if self.maker is not None and self.maker.tried and self.maker.base and self.rev - self.maker.base.rev > REMEMBERED:
            return False
        makers = [*([self.maker] if self.maker else []), *self.guests]
        return not any(op.mine is not None and element in op.mine.facts and (
            has_no_past(op) or was_edited(op, element) or self.was_edited_since_a_try(op, element)
            or (op.outcome == "kept" and self.is_near(op))) for op in makers)

    def back_within(self) -> set[str]:
        """What may have gone and come back in revisions that nobody saw, and by that to another place; `is_back` says how."""
        found: set[str] = set()
        for op in () if self.is_sure else (*self.guests, *([self.maker] if self.maker else [])):
            if op.mine is not None:
                found |= set(op.mine.order) if has_no_past(op) else set(additions(op)) if op.outcome == "kept" else set()
        return found

    def was_edited_since_a_try(self, op: Op, element: Element) -> bool:
        """An earlier save of the copy proved applied, as a later one found, and gave it what others had stored by then. So the
        message may be one that no state in this record gave to its holder, and a version that was never stored is the holder's."""
        assert op.mine is not None
        stored = [state.facts.get(element) for rev, state in self.life.states.items() if rev < self.rev]
        return bool(op.tried) and op.mine.facts[element] not in stored

    def is_near(self, kept: Op) -> bool:
        """Whether the process that kept it may have had a hand in this: no other one sees what a cache keeps."""
        return not self.is_sure or self.maker is None or process(kept) == process(self.maker)

    def wrong(self, element: Element, values: list[Any], found: Any) -> None:
        kind, was = element[0], self.before.facts.get(element)
        story = f"{told(element)} is {found!r}; it can only be {' or '.join(map(repr, values)) or 'as it was'}"
        names = {"title": "a title was lost", "pinned": "a pin was lost", "tag": "a tag was lost", "model": "a plain field was lost",
                 "metadata": "a metadata key was lost"}
        if kind == "message":
            what = ("an append was lost" if found is None and was is None else "a message was lost" if found is None
                    else "removed and back again" if element[1] in self.life.gone
                    else "a message came from nowhere" if was is None and None in values else "an edit was lost")
        elif kind == "question":
            is_closed = element[1] in self.life.closed or (was is not None and None in values)
            what = ("a question was lost" if found is None else "a closed question is open again" if is_closed
                    else "a question came from nowhere" if was is None else "a question's text was lost")
        elif kind == "title" and found and found[1] == "generated" and any(v and v[1] == "user" for v in values):
            what = "a generated title stands where a person gave one"
        else:
            what = names[kind]
        self.report(what, story)

    # -- the order of messages

    def judge_order(self) -> None:
        twice = [name for name in self.after.order if self.after.order.count(name) > 1] if (
            len(set(self.after.order)) != len(self.after.order)) else []
        if twice:
            self.report("a message is there twice", twice[0])
            return
        moved = {name for op in (*self.guests, *([self.maker] if self.maker else [])) for name in edited(op)} | self.back_within()
        self.in_order(self.before.order, moved, "two messages changed places")
        if self.mine is not None:
            self.in_order(self.mine.order, moved | self.came_by_another_way() | self.in_another_order(),
                          "a writer's messages were re-ordered")

    def in_another_order(self) -> set[str]:
        """What the copy shares with the stored state, where that had put it into another order: then that order stands."""
        assert self.mine is not None
        here, there = set(self.mine.order), set(self.before.order)
        mine = [name for name in self.mine.order if name in there]
        return set() if mine == [name for name in self.before.order if name in here] else set(mine)

    def came_by_another_way(self) -> set[str]:
        """What was stored already where the copy has no common past: it stands where that other way put it."""
        assert self.maker is not None
        base = self.maker.base
        known = base if base is None or not self.guests else self.life.states.get(base.rev)
        return set() if known is not None else set(self.before.order)

    def in_order(self, wanted: list[str], moved: set[str], what: str) -> None:
        place = {name: at for at, name in enumerate(self.after.order)}
        kept = [name for name in wanted if name in place and name not in moved and not is_result(name)]
        for a, b in pairwise(kept):
            if place[a] > place[b]:
                self.report(what, f"{a} and {b}")
                return
        had = {name: at for at, name in enumerate(wanted)}
        for name in wanted:
            call = call_of(name)
            if name not in moved and call in had and had[call] < had[name] and call in place and name in place and place[call] > place[name]:
                self.report(what, f"the result {name} stands before its call")
                return

    def judge_blocks(self) -> None:
        """What one save added behind the last message that it knew stands together, and the newest block at the end."""
        for op in (*self.guests, *([self.maker] if self.maker else [])):
            if op.mine is None:
                continue
            # What the known maker brought (an old copy saved anew has everybody's messages) says nothing of a guest.
            others = self.mine.order if self.mine is not None and op is not self.maker else ()
            fresh = [name for name in block(op) if not is_result(name) and name not in self.before.order and name not in others]
            here = [name for name in fresh if name in self.after.order]
            if not here:
                continue
            missing = [name for name in fresh if name not in here and name not in self.life.whole.removers
                       and name not in self.life.seen_messages]
            if missing:
                self.report("half of a save was stored", f"{here[0]} and not {missing[0]}, both of {op}")
            elif (not (op.tried or stands_on_more(op) or self.is_parted(op, here))
                  and (op is self.maker or not self.maker)):  # else parts may be elsewhere
                self.stands_together(op, here)

    def is_parted(self, op: Op, here: list[str]) -> bool:
        """Whether another copy that may have had a part in it has some of the block, and not all. What a cache keeps it shows,
        so the block may have come to somebody who took a message out of it; whoever brings that back puts it at the end."""
        others = [other.mine for other in (*self.guests, self.maker) if other is not None and other is not op]
        return any(0 < len({*here} & {*mine.order}) < len(here) for mine in others if mine is not None)

    def stands_together(self, op: Op, here: list[str]) -> None:
        back = self.back_within() - set(here)
        rest = [name for name in self.after.order if not is_result(name) and name not in back]
        at = rest.index(here[0])
        if rest[at : at + len(here)] != here:
            self.report("a block was torn", f"{', '.join(here)} of {op}")
        elif self.is_first_try and rest[-len(here):] != here:
            self.report("a block does not stand at the end", f"{', '.join(here)} of {op}")
