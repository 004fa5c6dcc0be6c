"""The same stories where everybody is slow: others go on between what a storage answers and who asked for it.

Besides all that is held against the storage, a `load_merged` has to show what was stored before it began, however often others
come between; and no look takes the cache back.
"""

from __future__ import annotations

import pytest

from bamboo_sessions import MemoryStorage, SessionRepository
from tests.property.test_kept_work import ASKED_FOR, Hand, Story
from tests.support import Steered

SEEDS = range(int(ASKED_FOR or 80))


class LateStory(Story):
    """What happens while somebody looks is part of the story, and is judged as well."""

    looking: SessionRepository | None = None
    left = cached = 0
    """How often others come between still, and the revision that was cached when they had done so."""

    def make_storage(self) -> Steered:
        return Steered(MemoryStorage())

    def load(self) -> None:
        if self.looking is not None:
            super().load()
            return
        repo, before = self.dice.choice(self.repos), {message.id for message in self.stored().messages}
        if not repo.cache.unsaved_ids() and self.dice.random() < 0.3:
            repo.cache.invalidate("chat")
        self.looking, self.left, self.cached = repo, self.dice.randrange(1, 5), 0
        is_merged = self.dice.random() < 0.75
        usual, self.moods = self.moods, ["refused"] if self.dice.random() < 0.5 else self.moods
        self.storage.inner.at("was read", self.others)
        session = (repo.load_merged if is_merged else repo.load)("chat")
        self.storage.inner.never_mind()
        self.looking, self.moods = None, usual
        self.hands.append(Hand(repo, session))
        self.note(self.hands[-1], "was slow to load")
        unseen = before - {message.id for message in session.messages} - self.known.taken_out
        assert not (is_merged and unseen), [*self.log, f"NOT SHOWN: {unseen}"]
        assert session.revision >= self.cached, [*self.log, f"BACKWARDS: {session.revision} after {self.cached}"]

    def others(self) -> None:
        self.log.append("meanwhile:")
        for _ in range(self.dice.randrange(1, 5)):
            self.dice.choices([self.load, self.change, self.save], [2, 3, 5])[0]()
            self.order = self.judged(self.order)
        there = self.looking.cache.peek("chat")
        self.cached = 0 if there is None else there.revision
        self.left -= 1
        if self.left:
            self.storage.inner.at("was read", self.others)


@pytest.mark.timeout(60 if ASKED_FOR is None else 3600)
@pytest.mark.parametrize(("repos", "moods"), [(1, [None, None, "refused"]), (2, [None, None, "refused", "unheard"])], ids=["one", "two"])
def test_whoever_comes_late_shows_what_was_stored_and_takes_nothing_back(repos, moods):
    """P1, P2, P3: a look that was overtaken, by commits, by work that is kept and by other looks."""
    for seed in SEEDS:
        LateStory(seed, repos, moods).tell()
