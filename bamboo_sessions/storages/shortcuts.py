"""Optional powers of a record storage that spare its readers and writers a look, or a wait.

Nothing depends on them: without any of these a save reads, merges and commits as ever, and comes out the same. The two for
storages without locks speak of a commit that names what it stands on, so that a guess or a room that ended early costs a
`RevisionConflict` that the layers above deal with, and never a word.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol, TypeGuard, runtime_checkable

from bamboo_sessions.storages.protocol import Delta, Record, Stamp, Unchanged, _has


@runtime_checkable
class HeldReads(Protocol):
    """Optional power: a cheaper `read` for whoever holds the session's lock."""

    def read_held(self, session_id: str, known: Stamp | None = None) -> Record | Delta | Unchanged | None:
        """`read`, called under `SessionLocks.lock`. What it answers, a following `commit` has to confirm."""


@runtime_checkable
class CurrentStamps(Protocol):
    """Optional power: telling that nothing has changed more cheaply than `read` does."""

    def is_current(self, stamp: Stamp) -> bool:
        """Whether `read` of the stamp's session would answer `UNCHANGED`; False where that takes more than a glance.

        `stamp` is one that this storage gave. Never raises: what is wrong, the following `read` will say.
        """


@runtime_checkable
class LikelyStamps(Protocol):
    """Optional power of a storage without locks: a guess, at no price, whether a save may do without reading first.

    A commit names what it stands on, so a wrong guess costs a `RevisionConflict` that nobody sees, and nothing else.
    """

    def is_likely(self, session_id: str, stamp: Stamp) -> bool:
        """Whether `stamp` is the newest that this object knows of, and nobody else has been committing of late.

        That is what it says of the last of a few commits in a row by this object, and of none that it knows to be outdated:
        by a commit of its own, by what it read, by a `RevisionConflict`, by a deletion of its own. Asks nobody, changes
        nothing, and never raises, whatever it is handed: another session's stamp, another storage's, or none.
        """


@runtime_checkable
class Alone(Protocol):
    """Optional power of a storage without locks: room for a writer whom others overtake again and again."""

    def alone(self, session_id: str) -> AbstractContextManager[object]:
        """Until it is left, or this thread's `commit` returned, nobody else commits to the session or deletes it; they wait.

        Who waits too long is told so (`StorageUnavailable`, not applied). The room belongs to the thread that entered it and is
        left by that one; other threads of the same object are others. What this thread reads meanwhile is the newest state,
        and its commit on that is applied. A commit that returned is durable here as anywhere; else nothing is changed, however
        the room is left, and no session is made.

        It ends early, with nothing lost but that room, where this thread changes another session or makes room for one, and
        where the connection breaks: two sessions are never held at once, so nobody waits for somebody who waits for him.
        Raises `StorageUnavailable`.
        """


def has_held_reads(storage: object) -> TypeGuard[HeldReads]:
    """Whether it reads more cheaply under the lock."""
    return _has(storage, "read_held")


def has_current_stamps(storage: object) -> TypeGuard[CurrentStamps]:
    """Whether it can tell by a stamp alone."""
    return _has(storage, "is_current")


def has_likely_stamps(storage: object) -> TypeGuard[LikelyStamps]:
    """Whether it guesses what a commit may stand on."""
    return _has(storage, "is_likely")


def makes_room(storage: object) -> TypeGuard[Alone]:
    """Whether it can keep others from committing for a moment."""
    return _has(storage, "alone")
