"""What was lost: what a writer was told, against what the store gives back.

Acknowledged and not there is lost. Refused with an error is not lost: its writer knows, and may try again. There twice is
doubled, there and never asked for is strange (a torn text is), and two texts of one writer in the wrong order are swapped.
What was begun and neither acknowledged nor refused may be there or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import attrs

from tests.peers.notes import FIRST, Asked


@attrs.frozen
class Verdict:
    asked: int
    acknowledged: int
    stored: int
    """Different texts of the writers that are there."""
    lost: int
    lost_age: float
    """How many seconds before the end the earliest one of the writers' that is lost was acknowledged."""
    doubled: int
    strange: int
    swapped: int
    errors: Counter[str]
    """Raised to the writers, by type."""

    @property
    def harmed(self) -> bool:
        """Whether anything happened that nobody was told of."""
        return bool(self.lost or self.doubled or self.strange or self.swapped)


def judged(writers: Sequence[Sequence[Asked]], found: Sequence[str], end: float = float("inf")) -> Verdict:
    """`end`: only what was acknowledged before it is owed."""
    every = [one for asked in writers for one in asked]
    owed = [one for one in every if one.done_at is not None and one.done_at < end]
    counts = Counter(found)
    ages = [end - one.done_at for one in owed if one.done_at is not None and one.text not in counts]
    known = {one.text for one in every} | {FIRST}
    return Verdict(
        asked=len(every),
        # And the word that stood there long before; how old that one is says nothing about the peer.
        acknowledged=len(owed) + 1,
        stored=sum(one.text in counts for one in every),
        lost=len(ages) + (FIRST not in counts),
        lost_age=max(ages, default=0.0),
        doubled=sum(count - 1 for text, count in counts.items() if text in known),
        strange=sum(count for text, count in counts.items() if text not in known),
        swapped=sum(_swapped([one.text for one in asked], found) for asked in writers),
        errors=Counter(why for one in every for why in one.refusals),
    )


def _swapped(asked: Sequence[str], found: Sequence[str]) -> int:
    """How often a writer's text stands directly before one that it had said earlier."""
    place = {text: number for number, text in enumerate(asked)}
    # Each where it first stands: a doubled text is counted as that, not as two in the wrong order.
    seen = [place[text] for text in dict.fromkeys(found) if text in place]
    return sum(earlier > later for earlier, later in pairwise(seen))
