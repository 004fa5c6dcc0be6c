"""The stories whose power cuts are tried: the scenarios, and short ones made up from a seed.

Most bugs of this kind need no more than three operations behind the right beginning. So every sequence of one change and
of two, and a seeded choice of those of three, is played on each of a handful of small stores: with a journal about to be
folded, with what dead writers left, with a question open, with a session that was deleted, with nothing at all.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import lru_cache, partial
from itertools import product

import attrs

from tests.torture import scenarios_wounds as wounds
from tests.torture.scenarios import Change, Scenario, Unsettled, after, scenarios

OF_THREE = 4150
"""How many sequences of three changes are drawn."""
KINDS = ("say", "say by another", "say much", "edit", "remove", "title", "ask", "answer", "usage", "delete", "create",
         "keep", "say elsewhere", "create elsewhere")


class Words:
    """Texts as long and as different as the seed says, each told apart by its place in the story."""

    def __init__(self, seed: str, begin: str = "") -> None:
        self._dice, self._count, self._begin = random.Random(seed), 0, begin

    def __call__(self, least: int = 3, most: int = 700) -> str:
        self._count += 1
        return f"{self._begin}word {self._count} " + "x" * self._dice.randint(least, most)


def _beginnings(words: Words) -> dict[str, Scenario]:
    one = [Change("create", "chat", words())]
    two = [*one, Change("say", "chat", words()), Change("create", "other", words())]
    asked = [*two, Change("ask", "chat", "call-0"), Change("usage", "chat", words()), Change("title", "chat", "Old title")]
    full = [*one, Change("say", "chat", words(33_000, 33_000)), Change("say", "chat", words(32_000, 32_000))]
    again = [*two, Change("delete", "chat")]
    three = [change for chat in ("torn", "folding", "whole") for change in
             (Change("create", chat, words()), Change("say", chat, words()), Change("say", chat, words()))]
    made = {"one": one, "asked": asked, "full": full, "deleted": again, "empty": [Change("create", "other", words())]}
    found = {name: Scenario(name, tuple(prepared), ()) for name, prepared in made.items()}
    found["nothing"] = Scenario("nothing", (), ())
    found["left"] = Scenario("left", tuple(three), (), wound=partial(wounds.as_dead_writers_leave, words()))
    return found


def change_of(kind: str, model: dict, words: Words, chats: tuple[str, str]) -> Change | None:
    """One change of this kind that stands on something; None where there is none."""
    chat = chats[1] if kind.endswith("elsewhere") else chats[0]
    kind, by = kind.removesuffix(" elsewhere"), int(kind == "say by another")
    there = model.get(chat)
    if (kind == "create") == (there is not None):
        return None
    if kind == "create":
        return Change("create", chat, words(), by=by)
    assert there is not None
    if kind in ("say", "say by another", "say much"):
        return Change("say", chat, words(28_000, 36_000) if kind == "say much" else words(), by=by)
    if kind in ("edit", "remove"):
        if not there["messages"] or (kind == "remove" and len(there["messages"]) < 2):
            return None
        return Change(kind, chat, words() if kind == "edit" else "", old=there["messages"][0])
    if kind == "answer":
        return Change(kind, chat, words(), old=there["open"][0]) if there["open"] else None
    if kind == "ask":
        return Change(kind, chat, words(0, 0))
    return Change(kind, chat, "" if kind == "delete" else words())


def _story(name: str, begin: Scenario, kinds: tuple[str, ...], words: Words) -> Scenario | None:
    chats = ("torn", "folding") if begin.name == "left" else ("chat", "other")
    changes: list[Change] = []
    for kind in kinds:
        model = after(begin.before(), changes)
        change = change_of(kind, model, words, chats)
        if change is None:
            return None
        changes.append(change)
    begun = attrs.evolve(begin, name=name, changes=tuple(changes))
    return attrs.evolve(begun, files=Unsettled) if "say by another" in kinds else begun


def _generated(seed: str) -> Iterator[Scenario]:
    sequences = [(kind,) for kind in KINDS] + list(product(KINDS, repeat=2))
    dice = random.Random(seed)
    drawn = [tuple(dice.choice(KINDS) for _ in range(3)) for _ in range(OF_THREE)]
    for number, kinds in enumerate([*sequences, *drawn]):
        words = Words(seed)  # the same prepared stores for all of them
        beginnings = _beginnings(words)
        chosen = beginnings if number < len(sequences) else [dice.choice(list(beginnings))]
        for beginning in chosen:
            name = "+".join(kind.replace(" ", "-") for kind in (beginning, *kinds))
            story = _story(name, beginnings[beginning], kinds, Words(f"{seed}/{name}", "new "))
            if story is not None:
                yield story


@lru_cache(2)
def stories(seed: str = "1") -> dict[str, Scenario]:
    """All of them by name: the scenarios, then the generated ones (`beginning+change+change`)."""
    return {**scenarios(seed), **{story.name: story for story in _generated(seed)}}
