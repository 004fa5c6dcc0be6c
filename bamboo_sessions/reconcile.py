"""The decisions of loading and saving, pure: no clock, no lock, no storage; facts in, a decision out.

`prefers_storage` is the rule of `load_merged` and nothing else. The rest says what a copy descends from, what a save
has to write, and what the cache should hold after a commit or a look at the storage.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from bamboo_sessions._frozen import frozen
from bamboo_sessions.errors import SessionDeleted
from bamboo_sessions.merge import Merged, merge
from bamboo_sessions.merge_messages import in_one_order, ordered_as
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


def _is_open(attempt: Attempt, there: Base) -> bool:
    """Whether `there`, which does not show the attempt among its commits, still leaves it possible.

    A commit's place is its revision. Where another one took it, or where the remembered commits reach back to it, the
    attempt was never applied.
    """
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


# -- what the cache should hold ----------------------------------------------------------------------------------


@frozen(slots=True, eq=False)
class Copy:
    """A cached copy: its state, where it comes from, and the mark of its unsaved changes, if any."""

    state: State
    origin: Origin
    unsaved: str | None = None

    def as_committed(self, store: str) -> Base | None:
        """The committed state that this copy *is*; None where it has changes of its own."""
        base = self.origin.base
        return base if base is not None and self.state is base.state and base.store == store and not self.unsaved else None


def after_commit(cached: Copy | None, committed: Base, saver: str | None) -> Copy:
    """What the cache holds once `committed` is durable: never less, never older than what it held.

    `saver` is the unsaved mark of the copy that was saved: its changes are in the commit.
    """
    new = Copy(committed.state, Origin(committed))
    if cached is None:
        return new
    if cached.unsaved is not None:
        return new if cached.unsaved == saver else carried_over(cached, committed)
    return cached if _at_least(cached, committed) else new


def _at_least(cached: Copy, committed: Base) -> bool:
    """Whether a cached copy without unsaved changes is as new as a commit; one of a life that ended never is."""
    base = cached.origin.base
    if base is not None and base.store == committed.store:
        if not same_birth(base, committed):
            return False
        if cached.state is base.state:
            return base.state.head.revision > committed.state.head.revision and not _apart(base, committed)
    return cached.state.head.updated_at > committed.state.head.updated_at


def _apart(base: Base, committed: Base) -> bool:
    """Whether a commit of a lower revision is none of those that led to `base`: storage lost its state since (it made room,
    or came back from a backup) and counts anew."""
    ago = base.state.head.revision - committed.state.head.revision
    return ago < len(base.ops) and bool(committed.op) and committed.op not in base.ops


def carried_over(cached: Copy, onto: Base) -> Copy:
    """Unsaved changes on a newer committed state: still unsaved, unless that state has them all."""
    base = cached.origin.base if was_committed(cached.origin, onto.store) else None
    if base is not None and not same_birth(base, onto):
        return Copy(onto.state, Origin(onto))  # changes of a session that is gone
    if base is not None and _older(onto, base):
        return cached
    if not _can_tell(cached.origin, onto):
        return cached  # what was already stored would be taken for new; the next look at the storage tells
    past, mine = _since(cached, onto)
    return _onto(past, mine, cached, onto)


def _onto(past: State | None, mine: State, cached: Copy, onto: Base) -> Copy:
    merged = merge(past, mine, onto.state).state
    if merged.says_the_same(onto.state):
        return Copy(onto.state, Origin(onto))
    attempt = _carried(cached.origin.attempt, past, onto, _Carry(mine, onto.state, merged))
    return Copy(merged, Origin(onto, attempt, cached.unsaved), cached.unsaved)


def _can_tell(origin: Origin, onto: Base) -> bool:
    """Whether `onto` settles if the copy's attempt, where it has one, was applied before it."""
    attempt = origin.attempt
    if attempt is None or attempt.store != onto.store or was_applied(attempt, onto):
        return True
    if not was_committed(origin, onto.store) and attempt.state.head.birth != onto.state.head.birth:
        return False  # applied, deleted and created anew since, or never applied
    return onto.state.head.revision < attempt.state.head.revision or not _is_open(attempt, onto)


def _since(copy: Copy, onto: Base) -> tuple[State | None, State]:
    """The ancestor that a copy shares with a committed state that follows its base, and the copy to compare with it."""
    attempt, base = copy.origin.attempt, copy.origin.base
    if attempt is not None and was_applied(attempt, onto):
        return attempt.state, settled(copy.state, attempt)
    return (base.state if base is not None and base.store == onto.store else None), copy.state


@frozen(slots=True, eq=False)
class _Carry:
    """How a copy came onto a newer base: what it was, what it was merged with (the base, or that and more), what came out."""

    said: State
    theirs: State
    merged: State


def _carried(attempt: Attempt | None, past: State | None, onto: Base, carry: _Carry) -> Attempt | None:
    """An attempt that may still prove applied, for the copy that was merged onto `onto`.

    What the copy said then and what it says now differ, so the merges may put the same messages in different places. Left so,
    `settled` would take the difference for an order that the holder wants. Hence the copy's order, unless somebody did want one.
    """
    if attempt is None or was_applied(attempt, onto) or not _is_open(attempt, onto):
        return None
    tried = attempt.mine or attempt.state
    mine = merge(past, tried, onto.state).state
    if in_one_order(tried.messages, carry.said.messages) and in_one_order(onto.state.messages, carry.theirs.messages):
        mine = State(mine.head, ordered_as(mine.messages, carry.merged.messages))
    return Attempt(attempt.op, attempt.state, attempt.store, mine)


def _older(a: Base, b: Base) -> bool:
    """By revision; by time where a storage keeps none."""
    one, other = a.state.head, b.state.head
    if one.revision and other.revision and one.birth and other.birth:
        return one.revision < other.revision
    return one.updated_at < other.updated_at


def with_unsaved(cached: Copy | None, mine: Copy, seen: str | None = None) -> Copy:
    """What the cache holds after a save that failed: my changes beside all that it had.

    `seen` is the unsaved mark that the copy was loaded with: what it lacks of that entry was taken out on purpose.
    """
    if cached is None or (seen is not None and cached.unsaved == seen and cached.origin.base is mine.origin.base):
        return mine
    there, base = cached.origin.base, mine.origin.base
    if there is None:
        return _beside(mine, cached, mine) if base is None else _beside(cached, mine, mine)
    if base is not None and base.store == there.store:
        if not same_birth(there, base):
            return mine  # one of the two lives is over; which one, only the storage knows, and the next save asks it
        if _older(there, base):
            return _beside(cached, mine, mine)
    if cached.unsaved is None and not _can_tell(mine.origin, there):
        return mine  # nothing is lost: what was cached is committed
    return _beside(mine, cached, mine)


def _beside(ours: Copy, theirs: Copy, mine: Copy) -> Copy:
    """`ours` merged onto `theirs`, one of which is `mine`."""
    base, attempt = theirs.origin.base, mine.origin.attempt or theirs.origin.attempt or ours.origin.attempt
    past, said = (None, ours.state) if base is None else _since(ours, base)
    merged = merge(past, said, theirs.state).state
    if base is not None and attempt is ours.origin.attempt:
        attempt = _carried(attempt, past, base, _Carry(said, theirs.state, merged))
    return Copy(merged, Origin(base, attempt, mine.unsaved), mine.unsaved)


def after_look(cached: Copy | None, stored: Stored | None, store: str, *, buried: bool = False) -> Copy | None:
    """What `load_merged` makes of the cached copy and of what storage holds; None: nothing is left of the session."""
    if cached is None:
        return None if stored is None else Copy(stored.base.state, Origin(stored.base))
    if is_deleted(cached.origin, stored, store, buried=buried):
        return None if stored is None else Copy(stored.base.state, Origin(stored.base))
    if stored is None:
        return cached
    if cached.unsaved is not None:
        return _unsaved_onto(cached, stored, store)
    if prefers_storage(cached.state.head, stored.base.state.head) or _same_commit(cached, stored.base, store):
        return Copy(stored.base.state, Origin(stored.base))
    return cached


def _unsaved_onto(cached: Copy, stored: Stored, store: str) -> Copy:
    attempt = cached.origin.attempt
    if attempt is not None and was_applied(attempt, stored.base):
        return _onto(attempt.state, settled(cached.state, attempt), cached, stored.base)
    return _onto(common_ancestor(cached.origin, stored, store).state, cached.state, cached, stored.base)


def _same_commit(cached: Copy, stored: Base, store: str) -> bool:
    """One commit, seen again: the newer stamp of it is worth having."""
    base = cached.as_committed(store)
    return (base is not None and base.op == stored.op and same_birth(base, stored)
            and base.state.head.revision == stored.state.head.revision)
