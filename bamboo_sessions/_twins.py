"""Saving an object that belongs to a task, in a thread that outlives the task.

The thread works on a *twin*. When it is done, the object becomes what was stored, on its own side and only if the task
that wanted it is still there. A task that was cancelled leaves the object as it is, content and base; all that the
object is told then is what was tried in its name, as after an error of unknown outcome. The next save of the object
finds out by that whether it was applied, and stores what is missing: nothing is lost, nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from bamboo_sessions.errors import StorageError
from bamboo_sessions.locked_store import LockedSessionStore, _rebase, _settle, bring_home
from bamboo_sessions.models import Attempt, Origin, Part, Session
from bamboo_sessions.reconcile import was_applied

T = TypeVar("T")


class Twin:
    """One save of one object. `saved_by` and `was_applied` run in a thread, the rest where the object is at home."""

    __slots__ = ("_entry", "_owner", "_twin")

    def __init__(self, owner: Session) -> None:
        self._owner, self._entry = owner, owner.snapshot()
        self._twin = self._entry

    # -- an earlier save that never came back ------------------------------------------------------------------------

    def open_attempt(self) -> Attempt | None:
        """What an earlier save of the object tried, where nobody knows yet whether it was applied."""
        return self._owner._origin.attempt

    def was_applied(self, store: LockedSessionStore, attempt: Attempt) -> bool:
        """Whether it was, as far as is known: an error here will be met again by the save."""
        try:
            stored = store.look(self._owner.id, self._owner._origin.base)
        except StorageError:
            return False
        return stored is not None and was_applied(attempt, stored.base)

    def settle(self, attempt: Attempt) -> None:
        """It was: the object moves onto it now. Left to the twin alone, a second attempt would stand on a base that the
        object does not have, and could not be noted on it."""
        if self._owner._origin.attempt is attempt:
            _settle(self._owner, attempt)

    # -- this one ----------------------------------------------------------------------------------------------------

    def begin(self, twin: Session | None = None) -> None:
        """It is our turn: another save of the object may have moved its base meanwhile. `twin`: what the thread will save,
        where that is not for us to choose."""
        if self._owner._origin.unsaved:
            bring_home(self._owner, self._owner)  # or the twin would do so, onto a base that the object does not have
        if self._owner._origin is not self._entry._origin:
            self._entry = self._owner.snapshot()
        if twin is None:
            self._twin = self._entry.snapshot()
        else:
            self._twin = twin
            twin._adopt(self._entry._state(), self._entry._origin)

    def saved_by(self, save: Callable[[Session], T]) -> T:
        """Tells the object from here what became of it: the task may be gone by then, and its event loop too."""
        try:
            result = save(self._twin)
        except BaseException:
            self._tell(self._twin._origin)
            raise
        self._tell(self._as_attempt() if self._is_saved() else self._twin._origin)
        return result

    def followed(self) -> None:
        """The task is still there: the object becomes what was stored; what was added to it meanwhile stays, unsaved."""
        base = self._twin._origin.base
        if self._is_saved() and base is not None:
            _rebase(self._owner, self._entry._state(), base)

    def _is_saved(self) -> bool:
        """Not so for a copy that `save_and_cache` could only keep: the object has its mark, and keeps its base."""
        return not self._twin._origin.unsaved

    def _as_attempt(self) -> Origin:
        """What was stored, as it is for somebody who does not know that it was."""
        base, origin = self._twin._origin.base, self._entry._origin
        assert base is not None
        return Origin(origin.base, Attempt(base.op, base.state, base.store, self._entry._state()), origin.unsaved)

    def _tell(self, origin: Origin) -> None:
        """One assignment: whoever copies the object meanwhile finds the one or the other. Its content stays, and so must
        its base."""
        before = self._entry._origin
        if origin.base is before.base:
            self._owner._origin = origin
        elif before.unsaved:
            self._owner._origin = self._as_before(before, origin)

    def _as_before(self, before: Origin, origin: Origin) -> Origin:
        """The twin found that its kept work is stored, and was moved there: what it tried then, and was kept as, for an object
        that stays where it was."""
        mine, tried = self._entry._state(), origin.attempt
        attempt = before.attempt if tried is None else Attempt(tried.op, tried.state, tried.store, mine)
        had = {part.kept.mark for part in before.unsaved}
        own = tuple(Part(part.kept, mine) for part in origin.unsaved if part.kept.mark not in had)
        return Origin(before.base, attempt, (*before.unsaved, *own))
