"""Work that caches keep while their storage is away, in many hands: told at random, judged by what people did.

Everybody loads, adds, removes, edits, puts a summary in the place of the front, and saves; the storage refuses now and then,
or stores and does not say so. No merge is modelled. What is held against every state of the storage is what no merge may do,
whoever comes when: work that was saved or kept is lost; what somebody was shown and took out is back; an edit that was made
over another gives way to it again; messages change places though nobody moved one.

The stories are the same at every call; BAMBOO_SESSIONS_EXAMPLES asks for so many other ones.
"""

from __future__ import annotations

import os
import random
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

import pytest

from bamboo_sessions import MemoryStorage, Message, Session, SessionRepository, StorageError
from bamboo_sessions.testing import FailingStorage
from tests.support import bundle

ASKED_FOR = os.environ.get("BAMBOO_SESSIONS_EXAMPLES")
SEEDS = range(int(ASKED_FOR or 250))
STEPS = 40
MOODS = {"refused": "before", "unheard": "after"}
"""What becomes of a commit: it fails before it is made, or only its answer does."""


@dataclass(eq=False)
class Hand:
    """Somebody with a copy."""

    repo: SessionRepository
    session: Session
    taken_out: set[str] = field(default_factory=set)
    """Since the copy was last stored."""


@dataclass
class Known:
    """What people did, as far as it binds the storage."""

    owed: set[str] = field(default_factory=set)
    """Ids that somebody saved, or was told are kept."""
    taken_out: set[str] = field(default_factory=set)
    """By anybody, stored or not."""
    gone: set[str] = field(default_factory=set)
    """By somebody whose copy was stored then."""
    edited: set[str] = field(default_factory=set)
    """An edit stands against a removal."""
    over: dict[str, set[str]] = field(default_factory=dict)
    """text: those that it was written over."""
    said: set[tuple[str, str]] = field(default_factory=set)
    """(id, text) that was stored at some time."""


class Story:
    """One storage, some repositories, and what happens."""

    def __init__(self, seed: int, repos: int, moods: list[str | None]) -> None:
        self.dice, self.moods, self.storage = random.Random(seed), moods, FailingStorage(self.make_storage())
        self.repos = [bundle(self.storage) for _ in range(repos)]
        self.hands: list[Hand] = []
        self.known, self.log, self.numbers = Known(), [f"seed {seed}"], count(1)
        first = Session.new("chat")
        for n in range(4):
            first.add_message(Message.user(f"m{n}.0", id=f"m{n}"))
        self.repos[0].save(first)
        self.order = self.judged([])

    def make_storage(self) -> object:
        return MemoryStorage()

    def tell(self) -> None:
        for _ in range(STEPS):
            step = self.dice.choices([self.load, self.change, self.save], [3, 3, 4])[0]
            step()
            self.order = self.judged(self.order)
        for repo in self.repos:
            repo.flush()
            assert repo.cache.unsaved_ids() == [], self.log
        self.judged(self.order)
        lost = self.known.owed - self.known.taken_out - {m.id for m in self.stored().messages}
        assert not lost, [*self.log, f"LOST: {lost}"]

    # -- what happens

    def load(self) -> None:
        repo = self.dice.choice(self.repos)
        session = (repo.load_merged if self.dice.random() < 0.3 else repo.load)("chat")
        self.hands.append(Hand(repo, session))
        self.note(self.hands[-1], "loads")

    def hand(self) -> Hand:
        """Most often of those who came last."""
        if not self.hands:
            self.load()
        return self.hands[max(0, len(self.hands) - 1 - int(self.dice.expovariate(0.7)))]

    def change(self) -> None:
        hand, known, number = self.hand(), self.known, next(self.numbers)
        messages = list(hand.session.messages)
        deed = self.dice.choices(["add", "remove", "compact", "edit"], [5, 2, 1, 2])[0]
        if deed == "add" or not messages:
            hand.session.add_message(Message.user(f"a{number}.0", id=f"a{number}"))
        elif deed == "remove":
            self.take_out(hand, [self.dice.choice(messages)])
        elif deed == "compact":
            kept = messages[-self.dice.randrange(1, 4):]
            self.take_out(hand, messages[: -len(kept)])
            hand.session.messages = [Message.user(f"s{number}.0", id=f"s{number}"), *kept]
        else:
            before = self.dice.choice(messages)
            after = f"{before.id}.{number}"
            known.over[after] = known.over.get(before.content, set()) | {before.content}
            known.edited.add(before.id)
            hand.session.replace_message(before.id, Message.user(after, id=before.id))
        self.note(hand, deed)

    def take_out(self, hand: Hand, messages: list[Message]) -> None:
        for message in messages:
            hand.session.remove_message(message.id)
            hand.taken_out.add(message.id)
            self.known.taken_out.add(message.id)

    def save(self) -> None:
        hand, keep, before = self.hand(), self.dice.random() < 0.7, self.stored().revision
        mine = {m.id for m in hand.session.messages}
        mood = self.dice.choice(self.moods)
        if mood is not None:
            self.storage.fail("commit", when=MOODS[mood], times=STEPS)
        with suppress(StorageError):
            (hand.repo.save_and_cache if keep else hand.repo.save)(hand.session)
        self.storage.recover()
        self.note(hand, f"{'save_and_cache' if keep else 'save'} ({mood})")
        if keep or mood is None:
            self.known.owed |= mine
        if mood is None or self.stored().revision > before:
            self.known.gone |= hand.taken_out
            hand.taken_out = set()

    def note(self, hand: Hand, what: str) -> None:
        texts = " ".join(m.content for m in hand.session.messages)
        self.log.append(f"repository {self.repos.index(hand.repo)}, copy {self.hands.index(hand)}: {what}: {texts}")

    # -- what is held against it

    def stored(self) -> Session:
        return bundle(self.storage).load("chat")

    def judged(self, before: list[str]) -> list[str]:
        """The order of what is stored now."""
        known, messages = self.known, list(self.stored().messages)
        order = [m.id for m in messages]
        if order != before:
            self.log.append(f"stored: {' '.join(m.content for m in messages)}")
        both = set(order) & set(before)
        assert [i for i in order if i in both] == [i for i in before if i in both], [*self.log, "MOVED"]
        back = set(order) & known.gone - known.edited
        assert not back, [*self.log, f"BACK: {back}"]
        known.said |= {(m.id, m.content) for m in messages}
        for m in messages:
            over = [text for i, text in known.said if i == m.id and m.content in known.over.get(text, ())]
            assert not over, [*self.log, f"REVERTED: {m.content} over {over}"]
        return order


@pytest.mark.timeout(60 if ASKED_FOR is None else 3600)
@pytest.mark.parametrize(("repos", "moods"), [
    (1, [None, None, "refused"]), (2, [None, None, "refused"]), (1, [None, None, "refused", "unheard"]),
    (2, [None, None, "refused", "unheard"])], ids=["one", "two", "one, answers lost", "two, answers lost"])
def test_nobody_loses_or_undoes_what_others_did_while_the_storage_was_away(repos, moods):
    """P1, P2, P5: with kept work as with stored work."""
    for seed in SEEDS:
        Story(seed, repos, moods).tell()
