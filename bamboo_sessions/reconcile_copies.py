"""What a cache should hold: after a commit, after a look at the storage, after a save that failed. Pure, like `reconcile`.

A cache never goes back, and what it keeps unsaved is never lost: on a newer state it goes on as the difference to the old
one, until a commit has it. Whose work it was, and which commit has it, is in `reconcile_kept`.
"""

from __future__ import annotations

from bamboo_sessions._frozen import frozen
from bamboo_sessions.merge import merge
from bamboo_sessions.models.state import Attempt, Base, Kept, Origin, Part, State
from bamboo_sessions.reconcile import (
    Stored,
    common_ancestor,
    is_deleted,
    is_open,
    prefers_storage,
    same_birth,
    settled,
    was_applied,
    was_committed,
)
from bamboo_sessions.reconcile_kept import Parts, Way, at_home, carried, rebased, with_part


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
        return new if cached.unsaved == saver and _is_as_kept(cached) else carried_over(cached, committed)
    return cached if _at_least(cached, committed) else new


def _is_as_kept(cached: Copy) -> bool:
    """Whether nobody changed it in place since, in the cache itself."""
    parts = cached.origin.unsaved
    return not parts or cached.state.is_just(parts[-1].shown)


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
    cached = come_home(cached, onto)
    if cached.unsaved is None:
        return after_commit(cached, onto, None)
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
    attempt = carried(cached.origin.attempt, past, onto, Way(mine, onto.state, merged))
    parts = _parts(cached, onto, Way(cached.state, onto.state, merged))
    return _kept(merged, onto, attempt, parts, cached.unsaved)


def _parts(copy: Copy, onto: Base, way: Way) -> Parts:
    """Its parts, as they are on a newer base."""
    base = copy.origin.base
    return rebased(copy.origin.unsaved, base.state if base is not None and base.store == onto.store else None, onto.state, way)


def come_home(cached: Copy, seen: Base | None) -> Copy:
    """With only what is not stored yet of its unsaved changes, as far as that is known."""
    state, origin = at_home(cached.state, cached.origin, seen)
    if origin is cached.origin:
        return cached
    base = origin.base
    if base is not None and state.says_the_same(base.state):
        return Copy(base.state, Origin(base))
    return _kept(state, base, origin.attempt, origin.unsaved, cached.unsaved)


def _kept(state: State, base: Base | None, attempt: Attempt | None, parts: Parts, mark: str | None) -> Copy:
    """For the cache to keep. Whoever is given a copy is shown this: it is what the last part is."""
    if parts:
        parts = (*parts[:-1], Part(parts[-1].kept, state))
    return Copy(state, Origin(base, attempt, parts), mark)


def _can_tell(origin: Origin, onto: Base) -> bool:
    """Whether `onto` settles if the copy's attempt, where it has one, was applied before it."""
    attempt = origin.attempt
    if attempt is None or attempt.store != onto.store or was_applied(attempt, onto):
        return True
    if not was_committed(origin, onto.store) and attempt.state.head.birth != onto.state.head.birth:
        return False  # applied, deleted and created anew since, or never applied
    return onto.state.head.revision < attempt.state.head.revision or not is_open(attempt, onto)


def _since(copy: Copy, onto: Base) -> tuple[State | None, State]:
    """The ancestor that a copy shares with a committed state that follows its base, and the copy to compare with it."""
    attempt, base = copy.origin.attempt, copy.origin.base
    if attempt is not None and was_applied(attempt, onto):
        return attempt.state, settled(copy.state, attempt)
    return (base.state if base is not None and base.store == onto.store else None), copy.state


def _older(a: Base, b: Base) -> bool:
    """By revision; by time where a storage keeps none."""
    one, other = a.state.head, b.state.head
    if one.revision and other.revision and one.birth and other.birth:
        return one.revision < other.revision
    return one.updated_at < other.updated_at


def with_unsaved(cached: Copy | None, mine: Copy, kept: Kept) -> Copy:
    """What the cache holds after a save that failed: my changes beside all that it had; as `kept`, where it had other work.

    The last part of `mine` is what it is now. What it lacks of an earlier part was taken out on purpose.
    """
    if cached is None:
        return mine
    base = mine.origin.base
    cached = come_home(cached, base)
    if base is not None and cached.unsaved is not None and _is_of_one_life_before(cached.origin.base, base):
        cached = carried_over(cached, base)
    there = cached.origin.base
    common = _common(cached, mine)
    if common is not None and (there is base or mine.origin.attempt is None):
        return _again(cached, mine, common, kept)
    if there is None:
        return _beside(mine, cached, mine, kept) if base is None else _beside(cached, mine, mine, kept)
    if base is not None and base.store == there.store:
        if not same_birth(there, base):
            return mine  # one of the two lives is over; which one, only the storage knows, and the next save asks it
        if _older(there, base):
            return _beside(cached, mine, mine, kept)
    if cached.unsaved is None and not _can_tell(mine.origin, there):
        return mine  # nothing is lost: what was cached is committed
    return _beside(mine, cached, mine, kept)


def _is_of_one_life_before(a: Base | None, b: Base) -> bool:
    return a is not None and a.store == b.store and same_birth(a, b) and _older(a, b)


def _common(cached: Copy, mine: Copy) -> Part | None:
    """The newest part that both have, as mine has it."""
    there = {part.kept.mark for part in cached.origin.unsaved} if cached.unsaved is not None else ()
    return next((part for part in reversed(mine.origin.unsaved) if part.kept.mark in there), None)


def _again(cached: Copy, mine: Copy, part: Part, kept: Kept) -> Copy:
    """What was done since to a copy of kept work, done to what is kept now."""
    own, base = mine.origin.unsaved[-1], cached.origin.base
    state = merge(part.shown, mine.state, cached.state).state
    attempt = mine.origin.attempt or cached.origin.attempt
    parts = with_part(cached.origin.unsaved, own if base is None else _parts(mine, base, Way(mine.state, cached.state, state))[-1])
    if part.kept.mark != cached.unsaved or not _is_as_kept(cached):
        parts = with_part(parts, Part(kept, state))
    return _kept(state, base, attempt, parts, parts[-1].kept.mark)


def _beside(ours: Copy, theirs: Copy, mine: Copy, kept: Kept) -> Copy:
    """`ours` merged onto `theirs`, one of which is `mine`."""
    base, attempt = theirs.origin.base, mine.origin.attempt or theirs.origin.attempt or ours.origin.attempt
    past, said = (None, ours.state) if base is None else _since(ours, base)
    merged = merge(past, said, theirs.state).state
    if base is not None and attempt is ours.origin.attempt:
        attempt = carried(attempt, past, base, Way(said, theirs.state, merged))
    moved = ours.origin.unsaved if base is None else _parts(ours, base, Way(ours.state, theirs.state, merged))
    if ours.unsaved is None or theirs.unsaved is None:  # only mine is unsaved
        return _kept(merged, base, attempt, (*moved, *theirs.origin.unsaved), mine.unsaved)
    parts = (*theirs.origin.unsaved, *moved) if mine is ours else (*moved, *theirs.origin.unsaved)
    return _kept(merged, base, attempt, with_part(parts, Part(kept, merged)), kept.mark)


def after_look(cached: Copy | None, stored: Stored | None, store: str, *, buried: bool = False) -> Copy | None:
    """What `load_merged` makes of the cached copy and of what storage holds; None: nothing is left of the session."""
    if cached is None:
        return None if stored is None else Copy(stored.base.state, Origin(stored.base))
    if is_deleted(cached.origin, stored, store, buried=buried):
        return None if stored is None else Copy(stored.base.state, Origin(stored.base))
    if stored is None:
        return cached
    if cached.unsaved is not None:
        named, cached = cached.origin.base, come_home(cached, stored.base)
        stored = stored.for_base(named, cached.origin.base)
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
