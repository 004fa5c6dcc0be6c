"""The comparison judges itself: what it says about a store that does one thing wrong. No peer has to be installed for this."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.peers.child import append_all, read, rename_all
from tests.peers.install import OURS, PEERS, pins_of
from tests.peers.judge import Verdict, judged
from tests.peers.notes import FIRST, Notebook, read_notes
from tests.peers.race import Raced, _kept
from tests.peers.tables import Row, race_row

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "explanation" / "comparison.md"


class Honest:
    """A peer in memory; those below do one thing wrong with the third word of each writer."""

    def __init__(self, folder: str = "") -> None:
        self.words = [FIRST]
        self.named = ""

    def append(self, text: str) -> None:
        (self.wrong if "-2 " in text else self.words.append)(text)

    def wrong(self, text: str) -> None:
        self.words.append(text)

    def texts(self) -> list[str]:
        return self.words

    def rename(self, title: str) -> None:
        self.named = title


class Forgets(Honest):
    def wrong(self, text: str) -> None:
        pass


class Doubles(Honest):
    def wrong(self, text: str) -> None:
        self.words += [text, text]


class Tears(Honest):
    def wrong(self, text: str) -> None:
        self.words += [text[:50]]


class Swaps(Honest):
    def wrong(self, text: str) -> None:
        self.words.insert(-1, text)


class Empties(Honest):
    """What stood there before goes, too."""

    def wrong(self, text: str) -> None:
        self.words[:] = [text]


class Refuses(Honest):
    def wrong(self, text: str) -> None:
        raise LookupError(text)


class RefusesOnce(Honest):
    def wrong(self, text: str) -> None:
        self.wrong = self.words.append
        raise LookupError(text)


def verdict_of(store: Honest, tmp_path: Path, again: int = 0) -> Verdict:
    """Two writers with four words each, one after the other."""
    notes = [tmp_path / "0", tmp_path / "1"]
    for writer, path in enumerate(notes):
        append_all(store, Notebook(str(path)), writer, count=4, pace=0, again=again)
    return judged([read_notes(path, writer) for writer, path in enumerate(notes)], store.texts())


def test_a_store_that_keeps_everything_is_not_blamed(tmp_path: Path):
    """Eight words asked for, eight there, none of them wrong."""
    verdict = verdict_of(Honest(), tmp_path)
    assert (verdict.asked, verdict.acknowledged, verdict.stored, verdict.harmed) == (8, 9, 8, False)


@pytest.mark.parametrize(("store", "found"), [
    (Forgets, {"lost": 2}),
    (Doubles, {"doubled": 2}),
    (Tears, {"lost": 2, "strange": 2}),
    (Swaps, {"swapped": 2}),
    (Empties, {"lost": 1 + 2 + 4}),
])
def test_a_planted_loss_is_noticed_for_what_it_is(store: type[Honest], found: dict[str, int], tmp_path: Path):
    """A word that is lost, doubled, torn or out of order, and the loss of what was there before: each under its own name."""
    verdict = verdict_of(store(), tmp_path)
    counts = {name: getattr(verdict, name) for name in ("lost", "doubled", "strange", "swapped")}
    assert {name: count for name, count in counts.items() if count} == found
    assert verdict.harmed


def test_a_refusal_is_an_error_and_no_loss(tmp_path: Path):
    """Who is told that it was not saved has lost nothing."""
    verdict = verdict_of(Refuses(), tmp_path)
    assert (verdict.stored, verdict.acknowledged, dict(verdict.errors)) == (6, 7, {"LookupError": 2})
    assert not verdict.harmed


def test_a_refused_word_that_is_tried_again_counts_as_both(tmp_path: Path):
    """The error was raised, and the word is there."""
    verdict = verdict_of(RefusesOnce(), tmp_path, again=1)
    assert (verdict.stored, verdict.acknowledged, verdict.errors["LookupError"], verdict.harmed) == (8, 9, 1, False)


def test_only_what_was_acknowledged_before_the_cut_is_owed(tmp_path: Path):
    """The third word's time is the end: it is not owed, the two before it are, and the older one says how much time is lost."""
    path = tmp_path / "notes"
    path.write_text("".join(f"begun {n} {n + 10.0} \ndone {n} {n + 10.5} \n" for n in range(3)) + "begun 3 12")
    verdict = judged([read_notes(path, 0)], [FIRST], end=12.5)
    assert (verdict.asked, verdict.acknowledged, verdict.lost, verdict.lost_age) == (3, 3, 2, 2.0)


def test_a_store_that_cannot_be_opened_is_told_from_an_empty_one():
    """Otherwise a broken store would read like one that kept nothing."""

    def breaks(folder: str) -> Honest:
        raise OSError("a bad sector")

    assert read(breaks, "", "")["texts"] is None
    assert read(breaks, "", "")["error"] == "OSError: …a bad sector"


def test_a_title_that_went_back_is_noticed(tmp_path: Path):
    """The last one that was acknowledged counts, not one before it."""
    store = Honest()
    rename_all(store, Notebook(str(tmp_path / "notes")), count=3, pace=0)
    assert (store.named, _kept(tmp_path / "notes", store.named)) == ("title 2", True)
    assert not _kept(tmp_path / "notes", "title 1")


@pytest.mark.parametrize("store", [Forgets, Doubles, Tears, Swaps, Refuses])
def test_our_own_row_may_have_none_of_it(store: type[Honest], tmp_path: Path):
    """For us a refusal counts as well, and so do a title that went back and a session that cannot be read."""
    def row(verdict: Verdict, unreadable: str = "", kept: bool = True) -> Row:
        return Row(OURS, {}, [Raced(verdict, 0.1, unreadable, kept)])

    (tmp_path / "good").mkdir()
    good = verdict_of(Honest(), tmp_path / "good")
    assert row(good).failed == []
    assert len(row(verdict_of(store(), tmp_path)).failed) == len(row(good, unreadable="?").failed) == len(row(good, kept=False).failed) == 1


def test_several_races_are_told_as_least_and_most(tmp_path: Path):
    """One run of a race says little: the table shows how far apart they were."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    races = [Raced(verdict_of(Honest(), tmp_path / "a"), 0.25, "", True), Raced(verdict_of(Refuses(), tmp_path / "b"), 1.0, "", False)]
    assert race_row(Row(OURS, {}, races))[1:] == ("6 to 8", "0 to 2 (LookupError)", "0", "0", "1 of 2", "0.2 to 1.0")


def test_every_peer_is_pinned_to_the_last_package():
    """A comparison that installs something else next month is another comparison."""
    for peer in set(PEERS) - {OURS}:
        lines = [line for line in pins_of(peer).read_text().splitlines() if not line.startswith("#")]
        assert lines, peer
        assert [line for line in lines if not re.fullmatch(r"[\w.\[\]-]+==[\w.!+-]+", line)] == []


def test_the_page_names_the_versions_that_are_pinned():
    """A pin that is raised makes the figures of the page old: measure again, then write both."""
    pins = {line for peer in set(PEERS) - {OURS} for line in pins_of(peer).read_text().splitlines()}
    named = re.findall(r"^\| [^|]+ \| ([\w-]+) ([\d.]+) \|", PAGE.read_text(), re.MULTILINE)
    assert len(named) == len(PEERS) - 1
    assert {f"{package}=={version}" for package, version in named} <= pins
