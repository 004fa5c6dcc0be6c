"""The results as two tables, for a terminal or for a page of the documentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import attrs

from tests.peers.cut import Cut
from tests.peers.install import OURS, PEERS
from tests.peers.race import APPENDS, WRITERS, Raced


@attrs.define
class Row:
    """All that was found out about one peer. `about`: what it says of itself."""

    peer: str
    about: dict[str, str]
    races: list[Raced] = attrs.field(factory=list)
    cuts: list[Cut] = attrs.field(factory=list)

    @property
    def failed(self) -> list[str]:
        """What must not be, where the row is ours."""
        found = [f"race: {one.verdict}, {one.unreadable or 'readable'}, title kept: {one.title_kept}"
                 for one in self.races if one.verdict.harmed or one.verdict.errors or one.unreadable or one.title_kept is False]
        return found + [f"cut: {one.verdict}, {one.unreadable or 'readable'}, goes on: {one.goes_on}"
                        for one in self.cuts if one.verdict.harmed or one.unreadable or not one.goes_on]


RACE = ("peer", f"stored of {WRITERS * APPENDS}", "refused with an error", "acknowledged and lost", "doubled or out of order",
        "last title kept", "seconds")
CUT = ("peer", "cuts", "acknowledged", "lost or out of reach", "cuts that lost", "oldest loss", "does not open", "torn or doubled", "goes on")


def race_row(row: Row) -> tuple[str, ...]:
    verdicts = [one.verdict for one in row.races]
    titles = [one.title_kept for one in row.races if one.title_kept is not None]
    unreadable = sum(bool(one.unreadable) for one in row.races)
    return (
        _name(row),
        span(one.stored for one in verdicts) + (f" ({unreadable} unreadable)" if unreadable else ""),
        span(sum(one.errors.values()) for one in verdicts) + _types(one.errors for one in verdicts),
        span(one.lost for one in verdicts),
        span(one.doubled + one.strange + one.swapped for one in verdicts),
        f"{sum(titles)} of {len(titles)}" if titles else "no titles",
        span((one.seconds for one in row.races), "{:.1f}"),
    )


def cut_row(row: Row) -> tuple[str, ...]:
    verdicts = [one.verdict for one in row.cuts]
    oldest = max(one.lost_age for one in verdicts)
    return (
        _name(row),
        str(len(row.cuts)),
        str(sum(one.acknowledged for one in verdicts)),
        str(sum(one.lost for one in verdicts)),
        str(sum(one.lost > 0 for one in verdicts)),
        _age(oldest),
        str(sum(bool(one.unreadable) for one in row.cuts)),
        str(sum(one.doubled + one.strange + one.swapped for one in verdicts)),
        f"{sum(one.goes_on for one in row.cuts)} of {len(row.cuts)}",
    )


def about_row(row: Row) -> tuple[str, ...]:
    return (_name(row), row.about["package"] + " " + row.about["version"], row.about["settings"])


ABOUT = ("peer", "version", "used as")


def span(numbers: Iterable[float], form: str = "{:.0f}") -> str:
    """The least and the most."""
    seen = sorted(numbers)
    least, most = form.format(seen[0]), form.format(seen[-1])
    return least if least == most else f"{least} to {most}"


def _name(row: Row) -> str:
    return f"**{PEERS[row.peer]}**" if row.peer == OURS else PEERS[row.peer]


def _age(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{max(1, round(seconds * 1000))} ms" if seconds else "none"


def _types(errors: Iterable[Counter[str]]) -> str:
    names = sorted({name for counter in errors for name in counter})
    return f" ({', '.join(names)})" if names else ""


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A block for each row: the columns are too many for the width of a terminal."""
    width = max(map(len, head))
    blocks = [[row[0].strip("*"), *(f"    {name.ljust(width)}  {cell}" for name, cell in zip(head[1:], row[1:], strict=True))]
              for row in rows]
    return "\n".join(line for block in blocks for line in block)
