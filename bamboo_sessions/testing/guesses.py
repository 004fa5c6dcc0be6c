"""What a storage owes that guesses whether a save may do without a look: a guess is free, and a wrong one is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

from bamboo_sessions.errors import RevisionConflict
from bamboo_sessions.models import Message
from bamboo_sessions.storages.protocol import RecordStorage, Stamp
from bamboo_sessions.storages.shortcuts import LikelyStamps, has_likely_stamps
from bamboo_sessions.testing.harness import Desk, Power, needs
from bamboo_sessions.testing.records import page
from bamboo_sessions.testing.records_shared import second
from bamboo_sessions.testing.samples import talk, texts
from bamboo_sessions.testing.scribe import BIRTH, first, later

STRANGERS: Final[tuple[Any, ...]] = (None, 0, "", b"stamp", (), [], {}, ..., object(), NotImplemented)
"""What may stand for a stamp where a session was read from another storage, or never."""
ROW: Final = 5
"""Commits in a row: enough for anybody to be taken for alone."""


def guesses_of(storage: object) -> LikelyStamps:
    """The storage, as something that guesses."""
    assert has_likely_stamps(storage), f"{type(storage).__name__} claims likely stamps and has no method `is_likely`"
    return storage


def in_a_row(storage: RecordStorage, session_id: str, birth: str = BIRTH) -> list[Stamp]:
    """The stamps of a new session's commits, all of them by this object."""
    stamps = [storage.commit(first(session_id, "w1", birth=birth, op=f"{session_id} {birth} 1"))]
    for revision in range(2, ROW + 1):
        op = f"{session_id} {birth} {revision}"
        stamps.append(storage.commit(later(session_id, revision, revision - 1, f"w{revision}", birth=birth, op=op)))
    return stamps


def _they_commit(other: RecordStorage) -> None:
    other.commit(later("s", ROW + 1, ROW, "theirs", op="theirs"))


def _they_delete(other: RecordStorage) -> None:
    other.delete_record("s")


def _they_make_it_anew(other: RecordStorage) -> None:
    """Up to the revision that was there."""
    other.delete_record("s")
    in_a_row(other, "s", "anotherbirth0000")


@needs(Power.RECORDS, Power.LIKELY_STAMPS)
class GuessContract:
    """`is_likely`."""

    def test_the_newest_of_ones_own_commits_is_likely(self, desk: Desk) -> None:
        """After some in a row, with nobody in between; an older one is not, for this object knows better."""
        storage, guesses = desk.records, guesses_of(desk.storage)
        for name in ("s", "t"):
            stamps = in_a_row(storage, name)
            assert [guesses.is_likely(name, stamp) for stamp in stamps] == [False] * (ROW - 1) + [True]

    def test_a_guess_is_never_an_error(self, desk: Desk) -> None:
        """Whatever it is asked about: stamps of others, of a session that it never met, or that this object deleted or made
        anew. It knows of nothing there, and says so."""
        storage, guesses = desk.records, guesses_of(desk.storage)
        old = in_a_row(storage, "s")
        asked = [("s", stranger) for stranger in STRANGERS] + [("t", old[-1]), ("", old[-1]), ("\ud800", old[-1])]
        assert [case for case in asked if guesses.is_likely(*case) is not False] == []
        in_a_row(storage, "t")
        assert guesses.is_likely("t", old[-1]) is False
        storage.delete_record("s")
        assert [stamp for stamp in (*old, *STRANGERS) if guesses.is_likely("s", stamp) is not False] == []
        new = in_a_row(storage, "s", "anotherbirth0000")
        assert [stamp for stamp in old if guesses.is_likely("s", stamp) is not False] == []
        assert guesses.is_likely("s", new[-1]) is True

    def test_a_guess_changes_nothing(self, desk: Desk) -> None:
        """Asked twice it says the same, and what is stored is what it was; a session that is not there is not there."""
        storage, guesses = desk.records, guesses_of(desk.storage)
        stamps = in_a_row(storage, "s")
        before, asked = page(storage, "s"), [*(("s", stamp) for stamp in (*stamps, *STRANGERS)), ("nobody", stamps[-1])]
        stamps = in_a_row(storage, "t")  # a look at "s" may have told the object that somebody else is about
        asked += [("t", stamp) for stamp in stamps]
        assert [guesses.is_likely(*case) for case in asked] == [guesses.is_likely(*case) for case in asked]
        assert guesses.is_likely("t", stamps[-1]) is True
        assert page(storage, "s") == before
        assert (storage.exists("nobody"), storage.read("nobody")) == (False, None)
        assert sorted(head["id"] for head, _ in storage.heads()) == ["s", "t"]

    def test_a_guess_asks_nobody(self, desk: Desk) -> None:
        """No disk, no server: it can still be made when the storage was closed."""
        storage, guesses = desk.records, guesses_of(desk.storage)
        stamps = in_a_row(storage, "s")
        storage.close()
        for session_id, stamp in (("s", stamps[-1]), ("s", stamps[0]), ("nobody", stamps[-1]), ("s", None)):
            assert guesses.is_likely(session_id, stamp) in (False, True)

    @needs(Power.RECORDS, Power.LIKELY_STAMPS, Power.REOPEN)
    @pytest.mark.parametrize("they", [_they_commit, _they_delete, _they_make_it_anew])
    def test_a_wrong_guess_is_refused_and_changes_nothing(self, desk: Desk, they: Callable[[RecordStorage], None]) -> None:
        """Another object was there meanwhile: `RevisionConflict`, and all is as that one left it. And now this one knows."""
        storage, other, guesses = desk.records, second(desk), guesses_of(desk.storage)
        stamp = in_a_row(storage, "s")[-1]
        they(other)
        left = other.read("s") and page(other, "s")
        with pytest.raises(RevisionConflict):
            storage.commit(later("s", ROW + 1, ROW, "mine", op="mine"))
        for storage_now in (storage, other, second(desk)):
            assert (storage_now.read("s") and page(storage_now, "s")) == left
        assert guesses.is_likely("s", stamp) is False

    @needs(Power.RECORDS, Power.LIKELY_STAMPS, Power.REOPEN)
    def test_a_wrong_guess_costs_no_word(self, desk: Desk) -> None:
        """Of a copy that was saved in a row, after which somebody else saved: both are there, in the order of the saves (P2)."""
        mine, theirs = talk("s", "begun"), desk.repository(desk.open())
        repo = desk.repository(desk.storage)
        for number in range(ROW):
            mine.add_message(Message.user(f"mine {number}"))
            repo.save(mine)
        theirs.update("s", lambda session: session.add_message(Message.user("theirs")))
        mine.add_message(Message.user("late"))
        repo.save(mine)
        found = desk.repository(desk.open()).try_load("s")
        assert found is not None
        assert texts(found) == texts(mine) == ["begun", *(f"mine {number}" for number in range(ROW)), "theirs", "late"]
