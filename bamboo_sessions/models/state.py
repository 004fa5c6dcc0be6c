"""The state of a session as immutable values, and the rule by which each field merges.

A `Session` is a handle over one `State`; copies, caches and merges move states around, and nothing here ever changes (but
for `Kept`, which says why).
Every field names its merge rule where it is defined: a new field cannot be added without choosing one, and the table in
the documentation is generated from these lines.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from enum import Enum
from operator import attrgetter
from typing import Any, Final

import attrs

from bamboo_sessions._frozen import frozen
from bamboo_sessions.models.messages import Messages
from bamboo_sessions.models.question import PendingQuestion

CLOSED_KEPT: Final = 256
"""How many tokens of closed questions a record remembers."""

TRIES_KEPT: Final = 2
"""How many saves of unknown outcome are remembered of work that a cache keeps."""

WORKS_KEPT: Final = 8
"""Of how many writers it is remembered that such work is theirs together."""

EMPTY: Final[Mapping[str, bytes]] = {}


class MergeRule(Enum):
    """How one field of mine and theirs becomes one field, given the base that mine descends from."""

    FIXED = "never changes within one life of a session"
    COUNTED = "the store counts it"
    AUTHORITATIVE = "field by field; both changed the same one: the higher metadata_version, theirs on a tie"
    SEQUENCE = "by message id: both sides' additions, deletions and edits"
    QUESTIONS = "additions of both; what either side closed stays closed"
    PER_KEY = "key by key; both changed one key: mine, reported"
    THREE_WAY = "who changed it wins; both: mine, reported"
    FORWARD = "the later one"


def ruled(rule: MergeRule, **field: Any) -> Any:  # Any: what attrs.field gives
    """An attrs field that merges by `rule`."""
    return attrs.field(metadata={"merge": rule}, **field)


@frozen(slots=False, kw_only=True)
class Head:
    """Every field of a session but its messages. Values inside `metadata` and `extra` are packed JSON.

    Without slots: a head that differs in two of its twenty fields is made with every save, and one dict is copied faster
    than twenty slots are filled.
    """

    id: str = ruled(MergeRule.FIXED)
    birth: str = ruled(MergeRule.FIXED)
    created_at: datetime = ruled(MergeRule.FIXED)
    revision: int = ruled(MergeRule.COUNTED, default=0)
    lost_revisions: tuple[tuple[int, int], ...] = ruled(MergeRule.COUNTED, default=())
    """(first, last): a repair could not read all of these, so a copy of one of them may have what storage has lost."""
    updated_at: datetime = ruled(MergeRule.FORWARD)
    title: str | None = ruled(MergeRule.AUTHORITATIVE, default=None)
    title_source: str | None = ruled(MergeRule.AUTHORITATIVE, default=None)
    title_version: int = ruled(MergeRule.AUTHORITATIVE, default=0)
    pinned: bool = ruled(MergeRule.AUTHORITATIVE, default=False)
    archived: bool = ruled(MergeRule.AUTHORITATIVE, default=False)
    tags: frozenset[str] = ruled(MergeRule.AUTHORITATIVE, default=frozenset())
    metadata_version: int = ruled(MergeRule.AUTHORITATIVE, default=0)
    model: str | None = ruled(MergeRule.THREE_WAY, default=None)
    provider: str | None = ruled(MergeRule.THREE_WAY, default=None)
    external_id: str | None = ruled(MergeRule.THREE_WAY, default=None)
    context_id: str | None = ruled(MergeRule.THREE_WAY, default=None)
    parent_id: str | None = ruled(MergeRule.THREE_WAY, default=None)
    questions: tuple[PendingQuestion, ...] = ruled(MergeRule.QUESTIONS, default=())
    closed_questions: tuple[str, ...] = ruled(MergeRule.QUESTIONS, default=())
    metadata: Mapping[str, bytes] = ruled(MergeRule.PER_KEY, default=EMPTY)
    extra: Mapping[str, bytes] = ruled(MergeRule.PER_KEY, default=EMPTY)


_NAMES: Final = tuple(field.name for field in attrs.fields(Head))
_said: Final = attrgetter(*(name for name in _NAMES if name not in ("revision", "updated_at")))


def changed(head: Head, **changes: Any) -> Head:  # Any: as the fields are
    """`head` with other values in some fields. `attrs.evolve` does the same at ten times the cost."""
    made = Head.__new__(Head)
    fields = made.__dict__
    fields.update(head.__dict__)
    fields.update(changes)
    if len(fields) != len(_NAMES):
        raise TypeError(f"no such field: {', '.join(changes.keys() - set(_NAMES))}")
    return made


def says_the_same(a: Head, b: Head) -> bool:
    """Equal in all that people and programs said; when it was, and at which revision, is not a change."""
    return bool(_said(a) == _said(b))


def fields_with(rule: MergeRule) -> tuple[str, ...]:
    """The names of the head's fields that merge by `rule`, in order of definition."""
    return tuple(field.name for field in attrs.fields(Head) if field.metadata["merge"] is rule)


@frozen(slots=True)
class State:
    """A whole session at one moment."""

    head: Head
    messages: Messages = ruled(MergeRule.SEQUENCE)

    def is_just(self, other: State) -> bool:
        """Nobody changed anything in between: the very same parts, which takes no look at them."""
        return self.head is other.head and self.messages is other.messages

    def says_the_same(self, other: State) -> bool:
        """The same content, message ids included, whatever time and revision say."""
        if len(self.messages) != len(other.messages):
            return False
        return says_the_same(self.head, other.head) and self.messages.same_as(other.messages)

    def same_as(self, other: State) -> bool:
        """The same content and time, whatever the revision says."""
        return self.head.updated_at == other.head.updated_at and self.says_the_same(other)


@frozen(slots=True, eq=False)
class Base:
    """The committed state that a copy descends from, and where it was committed."""

    state: State
    op: str
    """The commit's id (its operation id)."""
    store: str
    """Id of the store that holds it: a copy of one store means nothing to another."""
    stamp: object
    """The storage's mark of that state, for asking it what is new."""
    ops: tuple[str, ...] = ()
    """Operation ids of the commits that led here, as far back as they are known, `op` being the last one."""


@frozen(slots=True, eq=False)
class Attempt:
    """A save whose outcome nobody knows: it may be stored, or not."""

    op: str
    state: State
    """What was to be stored: the copy merged with what the storage held."""
    store: str
    mine: State | None = None
    """The copy as it was when that save began, from which its later changes are told; None: as `state`."""


@attrs.define(eq=False)
class Kept:
    """Work that could not be saved and that a cache keeps, as everybody knows it who has a copy of it.

    A committed state has a revision, by which the holder of an older one learns what was changed since. This has none, and
    whoever saves it, or takes something out of it, has one copy among many. So it is the one thing here that changes: through
    it the others learn, in this process, that it was stored.
    """

    mark: str
    landed: Base | None = None
    """The last commit of a copy that had it."""
    within: Kept | None = None
    """What was kept later, with all of this in it."""
    tried: tuple[Attempt, ...] = ()
    """Saves of copies that had it, of which nobody knows the outcome, oldest first; the last few."""
    made_of: tuple[Kept, ...] = ()
    """What was put together to this, where it is the work of several; empty where that is too much to remember."""

    def note_try(self, attempt: Attempt) -> None:
        """A copy that has it is about to be saved."""
        self.tried = (*self.tried, attempt)[-TRIES_KEPT:]

    def forget_try(self, attempt: Attempt) -> None:
        """That save was not applied."""
        self.tried = tuple(other for other in self.tried if other is not attempt)

    def and_later(self) -> Iterator[Kept]:
        """This, and what it is within."""
        here: Kept | None = self
        while here is not None:
            yield here
            here = here.within

    def note_works(self, works: Iterable[Kept], *, has: Collection[Kept]) -> None:
        """It is the work of several, the last of which `has` some of the others in it."""
        several = tuple(work for work in works if work not in has)
        self.made_of = several if len(several) <= WORKS_KEPT else ()

    def goes_on_in(self, later: Kept) -> None:
        """It is part of what is kept from now on."""
        if self.within is None and later is not self:
            self.within = later

    def __reduce__(self) -> tuple[object, ...]:
        landed = next((kept.landed for kept in self.and_later() if kept.landed is not None), None)
        return Kept, (self.mark, landed)  # what it is within is a row as long as the storage was away


@frozen(slots=True, eq=False)
class Part:
    """Kept work that a copy has."""

    kept: Kept
    shown: State
    """The copy as it was when it had just that: from there on its changes are its own."""


@frozen(slots=True, eq=False)
class Origin:
    """Where a copy comes from. Shared by copies; replaced, never changed."""

    base: Base | None = None
    attempt: Attempt | None = None
    unsaved: tuple[Part, ...] = ()
    """What it has of kept work, oldest first; the last is the cache entry that it is a copy of, or was kept as."""

    @property
    def mark(self) -> str | None:
        """Of that entry."""
        return self.unsaved[-1].kept.mark if self.unsaved else None
