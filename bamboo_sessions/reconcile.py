"""The decisions of loading and saving, pure: no clock, no lock, no storage; facts in, a decision out.

`prefers_storage` is the rule of `load_merged` and nothing else. The rest says what a copy descends from and what a save
has to write. What a cache should hold is in `reconcile_copies`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from bamboo_sessions._frozen import frozen
from bamboo_sessions.errors import SessionDeleted
from bamboo_sessions.merge import Merged, merge
from bamboo_sessions.models.state import Attempt, Base, Head, Origin, State, changed
from bamboo_sessions.models.summary import Conflict

AHEAD: Final = timedelta(days=1)
"""A time further ahead of the clock than this is not carried into new revisions."""


def prefers_storage(cached: Head, stored: Head) -> bool:
    """Whether storage is newer, or of the same age and asks something that memory lost."""
    if stored.updated_at != cached.updated_at:
        return stored.updated_at > cached.updated_at
    asked = {question.tool_call_id for question in cached.questions}
    return any(question.tool_call_id not in asked for question in stored.questions)


# -- what a copy descends from -----------------------------------------------------------------------------------


@frozen(slots=True, eq=False)
class Stored:
    """What storage holds now and what is known of its past."""

    base: Base
    ops: tuple[str, ...] = ()
    """Operation ids that led here, oldest first; with `follows` only those since the state that was named; empty where the
    storage keeps none."""
    follows: bool = False
    """Storage proved that this descends from the state that the copy named."""

    def for_base(self, named: Base | None, base: Base | None) -> Stored:
        """The same for a copy that stands on another state by now than the one it had named: of that, nothing was proved."""
        return self if base is named or not self.follows else Stored(self.base, self.base.ops)


@frozen(slots=True, eq=False)
class Ancestor:
    """The common past of a copy and storage. `state` None: nothing is known of one."""

    state: State | None
    lost_track: bool = False
    """The copy descends from a state that this storage never had (a restored backup, a fail-over)."""


def was_committed(origin: Origin, store: str) -> bool:
    """Whether the copy descends from a committed state of this store."""
    return origin.base is not None and origin.base.store == store


def is_deleted(origin: Origin, stored: Stored | None, store: str, *, buried: bool) -> bool:
    """Whether the session that the copy descends from is gone (or another one stands under its id).

    A first save whose outcome is unknown counts as saved where storage remembers its birth: it was applied, and what
    was applied was deleted since.
    """
    if was_committed(origin, store) and origin.base is not None:
        return stored is None or not same_birth(origin.base, stored.base)
    return buried and (stored is None or origin.attempt is None
                       or stored.base.state.head.birth != origin.attempt.state.head.birth)


def same_birth(a: Base, b: Base) -> bool:
    """Whether both are states of one life of the session; a storage that keeps no births has no opinion."""
    one, other = a.state.head.birth, b.state.head.birth
    return one == other or not one or not other


def was_applied(attempt: Attempt, there: Base) -> bool:
    """Whether a save of unknown outcome is among the commits that led to `there`."""
    return attempt.store == there.store and (attempt.op == there.op or attempt.op in there.ops)


def settled(mine: State, attempt: Attempt) -> State:
    """What a copy is once the save it tried proves applied: what that save stored, and what was done to the copy since.

    The copy itself never saw what that save merged into it. Compared with the stored state as it stands, what others had
    removed before would look like the copy's own additions.
    """
    return merge(attempt.mine or attempt.state, mine, attempt.state).state


def is_open(attempt: Attempt, there: Base) -> bool:
    """Whether `there`, which does not show the attempt among its commits, still leaves it possible.

    A commit's place is its revision. Where another one took it, or where the remembered commits reach back to it, the
    attempt was never applied.
    """
    if attempt.store != there.store:
        return True
    ago = there.state.head.revision - attempt.state.head.revision
    return ago < 0 or (ago > 0 and ago >= len(there.ops))


def common_ancestor(origin: Origin, stored: Stored, store: str) -> Ancestor:
    """What a three-way merge of the copy with storage takes as its base, once attempts that were applied are settled."""
    if not was_committed(origin, store) or origin.base is None:
        return Ancestor(None)
    if stored.follows or _descends(stored, origin.base):
        return Ancestor(origin.base.state)
    return Ancestor(None, lost_track=True)


def _descends(stored: Stored, base: Base) -> bool:
    """Whether storage's last operation ids put the copy's commit where the copy says it was."""
    there, known = stored.base.state.head, base.state.head
    if there.revision and there.birth == known.birth and there.revision < known.revision:
        return False  # it came back from a backup, whether it remembers commits or not
    if not stored.ops or not base.op or not stored.base.state.head.revision:
        return True  # a storage that remembers no commits, or counts none, has no opinion
    if base.op in stored.ops:
        return True
    ago = stored.base.state.head.revision - base.state.head.revision
    if ago < 0:
        return False
    if ago < len(stored.ops):
        return stored.ops[-1 - ago] == base.op
    return not any(first <= base.state.head.revision <= last for first, last in stored.base.state.head.lost_revisions)


# -- saving ------------------------------------------------------------------------------------------------------


@frozen(slots=True, eq=False)
class Plan:
    """What a save has to do: commit `state`, or nothing where it is None; and what its caller is told."""

    state: State | None
    adopted: tuple[str, ...] = ()
    conflicts: tuple[Conflict, ...] = ()


def plan_next(mine: State, theirs: State, now: datetime) -> Plan:
    """The plan where storage holds the very state that the copy descends from: there is nothing to merge."""
    if mine.says_the_same(theirs):
        return Plan(None)
    return Plan(State(_next_head(mine.head, theirs.head, now, theirs.head.birth), mine.messages))


def plan_save(mine: State, origin: Origin, stored: Stored | None, *, store: str, buried: bool, now: datetime,
              birth: str) -> Plan:
    """Merge the copy with what storage holds; raises `SessionDeleted` for a copy of a session that is gone.

    `birth` is given to a session that has none of its own.
    """
    if is_deleted(origin, stored, store, buried=buried):
        raise SessionDeleted(mine.head.id, recreated=stored is not None)
    if stored is None:
        return Plan(State(_next_head(mine.head, None, now, birth), mine.messages))
    theirs = stored.base.state
    ancestor = common_ancestor(origin, stored, store)
    merged = merge(ancestor.state, mine, theirs)
    conflicts = (_LOST_TRACK, *merged.conflicts) if ancestor.lost_track else merged.conflicts
    if merged.state.says_the_same(theirs):
        return Plan(None, Merged(theirs).adopted(mine), conflicts)
    state = State(_next_head(merged.state.head, theirs.head, now, theirs.head.birth), merged.state.messages)
    return Plan(state, merged.adopted(mine), conflicts)


_LOST_TRACK: Final = Conflict("revision", "", "storage never had the state this copy descends from: merged without", "mine")


def _next_head(made: Head, before: Head | None, now: datetime, birth: str) -> Head:
    """The head to commit: time strictly forward, whatever the clocks say."""
    when, mine, revision = now, made.updated_at, 1
    if mine > when and mine - when <= AHEAD:
        when = mine
    if before is None:
        made = changed(made, lost_revisions=()) if made.lost_revisions else made  # those were another store's
    else:
        revision = before.revision + 1
        if before.updated_at >= when:
            when = before.updated_at + timedelta(microseconds=1)
    return changed(made, updated_at=when, birth=made.birth or birth, revision=revision)
