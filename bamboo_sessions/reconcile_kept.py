"""What became of work that a cache keeps because it could not be saved. Pure.

It is in several hands: a copy that failed to be saved, the cache's own, and every copy that was made of that one. Once one
of them is stored, the others are older copies of something stored, and have to be told from what is new in them: else what
its holder took out comes back with the next one, and what he edited is undone. So each copy remembers how it looked when it
had only kept work (its *parts*), and a commit that has a part is a base for everybody who has it.
"""

from __future__ import annotations

from typing import Final

from bamboo_sessions._frozen import frozen
from bamboo_sessions.merge import merge
from bamboo_sessions.merge_messages import in_one_order, ordered_as
from bamboo_sessions.models.state import Attempt, Base, Kept, Origin, Part, State
from bamboo_sessions.reconcile import is_open, same_birth, was_applied

_PARTS: Final = 4
"""How many parts a copy remembers. A runtime whose storage is away for an hour keeps the same session a hundred times; of what it
forgets, what somebody took out may come back, what he edited be as it was before, and nothing is lost."""

Parts = tuple[Part, ...]


@frozen(slots=True, eq=False)
class Way:
    """How a copy came onto a newer base: what it was, what it was merged with (that base, or more than that), what came out."""

    was: State
    theirs: State
    became: State

    def of_earlier(self, earlier: State, past: State | None, onto: State) -> State:
        """What an earlier state of the copy is there, given the past that it shares with the base.

        It differs from the copy, so the two merges may put the same messages in different places. Left so, that would pass for an
        order that the holder wanted since. Hence the copy's order, unless somebody did want one.
        """
        made = merge(past, earlier, onto).state
        if in_one_order(earlier.messages, self.was.messages) and in_one_order(onto.messages, self.theirs.messages):
            return State(made.head, ordered_as(made.messages, self.became.messages))
        return made


def with_part(parts: Parts, part: Part) -> Parts:
    """With one more, the newest."""
    return (*parts, part)[-_PARTS:]


def rebased(parts: Parts, past: State | None, new: State, way: Way) -> Parts:
    """The parts of a copy that went from one base to another; `past` is what the two share."""
    if past is new:
        return parts
    return tuple(Part(part.kept, way.of_earlier(part.shown, past, new)) for part in parts)


def at_home(state: State, origin: Origin, seen: Base | None = None) -> tuple[State, Origin]:
    """The copy on the newest commit that has a part of it, so that only what is not stored is its own; as it was, where none is
    known. `seen`: a committed state at hand, which may tell what became of saves whose answer was lost.

    No storage is asked. Should it have lost that commit again, the copy stands on a base that this storage never had, with
    all the work in it, and is merged as such.
    """
    while (found := _stored_part(origin, seen)) is not None:
        part, home = found
        base = origin.base
        there = base if base is not None and _has(base, home) else home
        rest = tuple(other for other in origin.unsaved if other is not part)
        became = merge(_last_stored(part, origin.attempt, there), state, there.state).state
        past, way = None if base is None else base.state, Way(state, there.state, became)
        attempt = carried(origin.attempt, past, there, way)
        state, origin = became, Origin(there, attempt, rebased(rest, past, there.state, way))
    return state, origin


def _last_stored(part: Part, attempt: Attempt | None, there: Base) -> State:
    """What the copy was when it last was in that commit: as tried, where the try came after the part and was applied."""
    if attempt is None or not was_applied(attempt, there) or all(tried.op != attempt.op for tried in part.kept.tried):
        return part.shown
    return attempt.mine or attempt.state


def _stored_part(origin: Origin, seen: Base | None) -> tuple[Part, Base] | None:
    """The newest part that a commit has."""
    for part in reversed(origin.unsaved):
        home = home_of(part.kept, seen)
        here = origin.base or seen
        if home is not None and (here is None or here.store == home.store) and _leads_on(origin.base, home):
            return part, home
    return None


def _leads_on(base: Base | None, home: Base) -> bool:
    """Whether a copy may go from its base to that commit. One that came before the base, as far as revisions tell, and is not known
    to have led to it, may be one that the storage lost: the work is an addition then, as before."""
    if base is None:
        return True
    newer = home.state.head.revision > base.state.head.revision
    return same_birth(base, home) and (newer or _has(base, home))


def carried(attempt: Attempt | None, past: State | None, onto: Base, way: Way) -> Attempt | None:
    """An attempt that may still prove applied, for the copy that went onto another base."""
    if attempt is None or was_applied(attempt, onto) or not is_open(attempt, onto):
        return None
    mine = way.of_earlier(attempt.mine or attempt.state, past, onto.state)
    return Attempt(attempt.op, attempt.state, attempt.store, mine)


def home_of(kept: Kept, seen: Base | None = None) -> Base | None:
    """A commit that has it, less what its holders took out; None while none is known."""
    homes = (_own_home(here, seen) for here in kept.and_later())
    return next((home for home in homes if home is not None), None)


def _own_home(kept: Kept, seen: Base | None) -> Base | None:
    """A commit of a copy that had it; or, where it is the work of several, the one by which all of theirs was stored."""
    if kept.landed is not None:
        return kept.landed
    for tried in reversed(kept.tried):
        if seen is not None and was_applied(tried, seen):
            ops = seen.ops[: seen.ops.index(tried.op) + 1] if tried.op in seen.ops else ()
            return Base(tried.state, tried.op, tried.store, None, ops)
    homes = [_own_home(work, seen) for work in kept.made_of]
    known = [home for home in homes if home is not None]
    if len(known) < len(homes):
        return None
    return next((home for home in known if all(_has(home, other) for other in known)), None)


def _has(base: Base, commit: Base) -> bool:
    """Whether a commit is among those that led to a base, as far as they are known."""
    if base is commit:
        return True
    return base.store == commit.store and bool(commit.op) and (commit.op == base.op or commit.op in base.ops)
