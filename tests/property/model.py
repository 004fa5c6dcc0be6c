"""What a set of repositories has to hold, in plain Python: dicts, sets, and the promises read literally.

Nothing of the library's merge is used here. A copy remembers what its holder saw (`base`) and has (`now`); the
difference is what the holder *did*, as a list of deeds, and each deed is done to the stored state on its own, by the
rule of its kind. Where messages stand is not computed: the model only demands that the order in which any holder saw
or wrote two messages is the order in which they are found (`orders`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

NOBODY = (None, None)
Title = tuple[str | None, str | None]


@dataclass(frozen=True)
class State:
    """One state of a session."""

    messages: dict[str, str] = field(default_factory=dict)
    orders: tuple[tuple[str, ...], ...] = ()
    """Sequences of message ids, each of which has to be found in this order."""
    title: Title = NOBODY
    pinned: bool = False
    tags: frozenset[str] = frozenset()
    version: int = 0
    """How often people edited."""
    titles: int = 0
    """How often the title was changed."""
    model: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Open questions: token -> (call id, text)."""
    closed: frozenset[str] = frozenset()

    def same(self, other: State) -> bool:
        """Whether both say the same, wherever the messages stand."""
        return replace(self, orders=(), closed=frozenset()) == replace(other, orders=(), closed=frozenset()) and (
            self.closed == other.closed)


# -- what a holder did, and how it is done to another state ------------------------------------------------------

Deed = tuple[str, Any, Any, Any]
"""(kind, which, before, after)"""


def deeds(base: State, now: State) -> Iterator[Deed]:
    """What lies between the two."""
    for kind in ("messages", "metadata"):
        before, after = getattr(base, kind), getattr(now, kind)
        for which in {**before, **after}:
            if before.get(which) != after.get(which):
                yield kind, which, before.get(which), after.get(which)
    for kind in ("title", "pinned", "model"):
        if getattr(base, kind) != getattr(now, kind):
            yield kind, None, getattr(base, kind), getattr(now, kind)
    yield from (("tags", tag, tag in base.tags, tag in now.tags) for tag in sorted(base.tags ^ now.tags))
    yield from (("closes", token, None, None) for token in sorted(now.closed - base.closed))
    for token, (call, text) in now.asked.items():
        if base.asked.get(token) != (call, text):
            yield "asks", token, base.asked.get(token), (call, text)


def done_to(there: State, did: list[Deed], by: State) -> State:
    """The state in which each deed of the holder `by` has been done, as the promises say."""
    made = replace(there, messages=dict(there.messages), metadata=dict(there.metadata), asked=dict(there.asked),
                   version=max(there.version, by.version), titles=max(there.titles, by.titles))
    for kind, which, before, after in did:
        made = DOING[kind](made, there, which, before, after, by)
    # What is new to me and stored already came there by another way, and stands where that way put it.
    came = {which for kind, which, before, _ in did if kind == "messages" and before is None and which in there.messages}
    placed = {which: text for which, text in made.messages.items() if which not in came}
    return replace(made, orders=_kept((*there.orders, *_kept(by.orders, placed)), made.messages))


def _kept(orders: tuple[tuple[str, ...], ...], of: dict[str, str]) -> tuple[tuple[str, ...], ...]:
    return tuple(dict.fromkeys(tuple(which for which in order if which in of) for order in orders))


def _message(made: State, there: State, which: str, before: Any, after: Any, by: State) -> State:
    """An edit always stands, an addition too; a removal gives way to an edit that it had not seen."""
    if after is not None:
        made.messages[which] = after
    elif there.messages.get(which) == before:
        made.messages.pop(which, None)
    return made


def _metadata(made: State, there: State, which: str, before: Any, after: Any, by: State) -> State:
    """The later commit."""
    made.metadata.pop(which, None)
    return made if after is None else replace(made, metadata={**made.metadata, which: after})


def _title(made: State, there: State, which: None, before: Title, after: Title, by: State) -> State:
    """A person before a machine; two persons (or two machines): who edited more often, the stored one on a tie."""
    if there.title in (before, after):
        return replace(made, title=after)
    sources = {there.title[1], after[1]}
    if sources == {"user", "generated"}:
        return replace(made, title=after if after[1] == "user" else there.title)
    return replace(made, title=after if by.version > there.version else there.title)


def _closes(made: State, there: State, which: str, before: Any, after: Any, by: State) -> State:
    made.asked.pop(which, None)
    return replace(made, closed=made.closed | {which})


def _asks(made: State, there: State, which: str, before: Any, after: Any, by: State) -> State:
    """Never again once closed; and of two that were opened at once under one call the stored one stays."""
    if which in made.closed:
        return made
    twin = any(call == after[0] and token != which for token, (call, _) in made.asked.items())
    if twin and which not in made.asked:
        return replace(made, closed=made.closed | {which})
    made.asked[which] = after
    return made


DOING: dict[str, Any] = {
    "messages": _message, "metadata": _metadata, "title": _title, "closes": _closes, "asks": _asks,
    "pinned": lambda made, there, which, before, after, by: replace(made, pinned=after),
    "model": lambda made, there, which, before, after, by: replace(made, model=after),
    "tags": lambda made, there, which, before, after, by: replace(
        made, tags=made.tags | {which} if after else made.tags - {which}),
}


def united(now: State, there: State) -> State:
    """Two copies that know of no common past: nothing is a removal; what people edit goes as one to the more edited."""
    did = [deed for deed in deeds(State(), now) if deed[0] not in ("title", "pinned", "tags")]
    did = [deed for deed in did if deed[0] != "messages" or deed[1] not in there.messages]
    added = {message_id: text for message_id, text in now.messages.items() if message_id not in there.messages}
    made = done_to(there, did, replace(now, orders=_kept(now.orders, added)))  # theirs first, then what I alone have
    kept, other = (now, there) if now.version > there.version else (there, now)
    made = replace(made, pinned=kept.pinned, tags=kept.tags)
    if other.title[1] == "user" and kept.title[1] != "user":
        return replace(made, title=other.title)
    return replace(made, title=kept.title, titles=kept.titles)


# -- lives, copies, repositories ---------------------------------------------------------------------------------

_marks = count(1)


class Life:
    """One session from its first save to its deletion: what was committed, by revision."""

    def __init__(self, birth: str, first: State) -> None:
        self.birth, self.states = birth, [first]

    @property
    def newest(self) -> State:
        """What is stored now."""
        return self.states[-1]

    @property
    def revision(self) -> int:
        """Of `newest`."""
        return len(self.states)


@dataclass(eq=False)
class Copy:
    """One copy in somebody's hands, or in a cache."""

    sid: str
    now: State
    birth: str
    life: Life | None = None
    """None: never saved, as far as this copy knows."""
    base: State | None = None
    """What its holder saw, or knows to be stored."""
    revision: int = 0
    said: State | None = None
    """What it was when a save of it went through and the answer was lost."""
    said_in: Life | None = None
    tried: State | None = None
    """What that save made of it in the storage, at `tried_revision`."""
    tried_revision: int = 0
    doubt: bool = False
    """Whether the answer to some save of it was lost, stored or not."""
    mark: int = 0
    """Names the unsaved cache entry that has this copy's changes; 0: none."""
    kept_by: int = 0
    """Whose cache has that entry."""
    shown: State | None = None
    """What this copy was when it had that entry's changes and no others."""
    is_home: bool = False
    """Somebody else has saved that entry: `said` and `tried` tell what, as if this copy had done so."""

    def clone(self) -> Copy:
        return replace(self)

    def became(self, life: Life) -> None:
        """Now *is* the newest state of `life`."""
        self.life, self.base, self.now, self.revision, self.birth = (
            life, life.newest, life.newest, life.revision, life.birth)
        self.said = self.said_in = self.shown = None
        self.mark, self.doubt, self.is_home = 0, False, False

    def comes_home(self, life: Life) -> None:
        """Another copy of the unsaved entry was saved: what that one stored is no change of this one's."""
        self.said, self.said_in, self.tried, self.tried_revision = self.shown, life, life.newest, life.revision
        self.is_home = True

    def on_top_of(self, life: Life) -> State:
        """The stored state and what this copy's holder did since it last knew what is stored."""
        base = self.said if self.said is not None and self.said_in is life else self.base
        if base is None:
            return united(self.now, life.newest)
        return done_to(life.newest, list(deeds(base, self.now)), self.now)


class Deleted(Exception):
    """A save of this copy has to be refused."""


class World:
    """What is stored, and what each repository's cache holds."""

    def __init__(self) -> None:
        self.lives: dict[str, Life] = {}
        self.buried: set[tuple[str, str]] = set()
        self.caches: dict[tuple[int, str], Copy] = {}

    # -- saving

    def commit(self, copy: Copy, birth: str) -> Life:
        """Do what a save of the copy does to the storage; raises `Deleted`.

        `birth` is what the session has after the save: one whose sibling was saved and deleted may start a life of its
        own, but never under the name of the one that ended.
        """
        life = self.lives.get(copy.sid)
        known = copy.life or copy.said_in
        if known is not None and known is not life:
            raise Deleted
        if life is None:
            if (copy.sid, birth) in self.buried:
                raise Deleted
            life = self.lives[copy.sid] = Life(birth, copy.now)
        elif not (made := copy.on_top_of(life)).same(life.newest):
            life.states.append(made)
        return life

    def published(self, repo: int, life: Life, sid: str, mark: int = 0, cached_revision: int = -1) -> None:
        """A save through this repository is done: its cache takes it up, beside what it had kept unsaved.

        What is kept in doubt may stay as it is (at `cached_revision`) until somebody looks at the storage.
        """
        entry = self.caches.get((repo, sid))
        if entry is None or not entry.mark or entry.mark == mark or (entry.life or entry.said_in or life) is not life:
            self._cached(repo, sid, life)
        elif not (entry.doubt and entry.revision == cached_revision):
            self._rebased(repo, entry, life)

    def _rebased(self, repo: int, entry: Copy, life: Life) -> None:
        made = entry.on_top_of(life)
        if made.same(life.newest):
            self._cached(repo, entry.sid, life)
        else:
            mark = entry.mark
            entry.became(life)
            entry.now, entry.shown, entry.mark, entry.kept_by = made, made, mark, repo

    def _cached(self, repo: int, sid: str, life: Life) -> None:
        entry = Copy(sid, life.newest, life.birth)
        entry.became(life)
        self.caches[repo, sid] = entry

    def keep(self, repo: int, copy: Copy) -> None:
        """The save of `copy` failed, and the cache keeps it beside all that it had and `copy` had not seen."""
        if copy.is_home:
            self.settle(copy)
        seen, copy.mark, copy.kept_by, copy.shown = copy.mark, next(_marks), repo, copy.now
        entry = self.caches.get((repo, copy.sid))
        if entry is None or (seen and seen == entry.mark and copy.revision == entry.revision):
            self.caches[repo, copy.sid] = copy.clone()
            return
        theirs, ours = (copy, entry) if copy.revision > entry.revision else (entry, copy)
        made = (united(ours.now, theirs.now) if ours.base is None
                else done_to(theirs.now, list(deeds(ours.base, ours.now)), ours.now))
        kept = theirs.clone()
        kept.now, kept.shown, kept.mark, kept.kept_by = made, made, copy.mark, repo
        self.caches[repo, copy.sid] = kept

    def may_be_refused(self, copy: Copy) -> bool:
        """Whether this copy's session, or a sibling under the same birth, was deleted."""
        known = copy.life or copy.said_in
        return (copy.sid, copy.birth) in self.buried or (known is not None and known is not self.lives.get(copy.sid))

    def went_through_after_all(self, copy: Copy, *, doubt: bool) -> None:
        """A save of the copy was stored and its answer lost."""
        life = self.commit(copy, copy.birth)
        copy.said, copy.said_in, copy.tried, copy.tried_revision = copy.now, life, life.newest, life.revision
        copy.doubt = doubt

    def settle(self, copy: Copy) -> None:
        """The next save found out that the one before had gone through: as if that one had returned."""
        life = copy.said_in
        if copy.said is None or copy.tried is None or life is None:
            return
        if life is not self.lives.get(copy.sid) and not copy.is_home:  # that somebody else's went through is known without a look
            return
        now = done_to(copy.tried, list(deeds(copy.said, copy.now)), copy.now)
        copy.life, copy.base, copy.now = life, copy.tried, now
        copy.revision, copy.birth = copy.tried_revision, life.birth
        copy.said = copy.said_in = copy.tried = None
        if copy.is_home:
            copy.mark, copy.shown, copy.is_home = 0, None, False

    # -- loading

    def evicted(self, repo: int, sid: str) -> None:
        """The cache let go of it, as it may: of anything but what nobody has stored."""
        entry = self.caches.pop((repo, sid), None)
        assert entry is None or not entry.mark, "an unsaved copy was evicted"

    def load(self, repo: int, sid: str, *, readable: bool = True) -> Copy | None:
        """Cache, then storage."""
        if (repo, sid) not in self.caches and sid in self.lives and readable:
            self._cached(repo, sid, self.lives[sid])
        entry = self.caches.get((repo, sid))
        return None if entry is None else entry.clone()

    def load_merged(self, repo: int, sid: str, *, readable: bool = True) -> Copy | None:
        """Both, reconciled."""
        if readable:
            self._reconcile(repo, sid)
        entry = self.caches.get((repo, sid))
        return None if entry is None else entry.clone()

    def _reconcile(self, repo: int, sid: str) -> None:
        entry, life = self.caches.get((repo, sid)), self.lives.get(sid)
        known = None if entry is None else entry.life or entry.said_in
        if life is None:
            if entry is not None and entry.life is not None:  # a lost first save: only the next save finds out
                del self.caches[repo, sid]
        elif entry is None or not entry.mark or known not in (None, life):
            self._cached(repo, sid, life)
        else:
            self._rebased(repo, entry, life)

    def delete(self, repo: int, sid: str) -> bool:
        """For good."""
        life = self.lives.pop(sid, None)
        if life is not None:
            self.buried.add((sid, life.birth))
        self.caches.pop((repo, sid), None)
        return life is not None
