"""What a storage of records owes: commits applied exactly, against exactly the expected state, once."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from bamboo_sessions.errors import RevisionConflict
from bamboo_sessions.storages.protocol import (
    OPS_KEPT,
    UNCHANGED,
    Commit,
    Delta,
    Record,
    RecordStorage,
    Stamp,
)
from bamboo_sessions.storages.shortcuts import has_current_stamps
from bamboo_sessions.testing.harness import Desk, Power, needs
from bamboo_sessions.testing.scribe import BIRTH, Page, first, later, line, written

HEADS: tuple[dict[str, Any], ...] = (
    {"set": {"title": "A title", "pinned": True, "tags": ["a", "b"]}},
    {"in": {"metadata": {"set": {"k": {"list": [1, None, 1.5]}, "other": "x"}}}},
    {"set": {"title": "Another", "from_a_newer_version": {"deep": [{}]}}, "unset": ["pinned"]},
    {"in": {"metadata": {"set": {"k": 2}, "unset": ["other"]}, "closed_questions": {"set": {"t1": 1, "t2": 1}}}},
    {"unset": ["title", "never there"], "in": {"metadata": {"unset": ["k"]}}},
    {"set": {"tags": []}, "unset": ["from_a_newer_version"]},
    {},
)
"""Changes of a head, one after another: fields, sections that come and go, fields that this version does not know."""


def whole(storage: RecordStorage, session_id: str) -> Record:
    """What somebody reads who knows nothing."""
    answer = storage.read(session_id)
    assert isinstance(answer, Record), f"{session_id!r}: a whole record was asked for, {answer!r} was given"
    return answer


def page(storage: RecordStorage, session_id: str) -> Page:
    """The same, as a page to compare."""
    return Page().as_seen(whole(storage, session_id))


def grown(storage: RecordStorage, session_id: str, revisions: int) -> list[Commit]:
    """A session with one message a revision; the commits that made it."""
    commits = [first(session_id, "w1"), *(later(session_id, n, n - 1, f"w{n}") for n in range(2, revisions + 1))]
    for commit in commits:
        storage.commit(commit)
    return commits


@needs(Power.RECORDS)
class RecordContract:
    """The delta interface, by one object."""

    def test_a_commit_is_read_back(self, desk: Desk) -> None:
        """Head, messages to the byte, revision and operation id; absence is None."""
        storage, commit = desk.records, first("s", "one", "two", title="t", from_a_newer_version=[1.0, None])
        storage.commit(commit)
        assert page(storage, "s") == written(commit)
        assert storage.read("nobody") is None

    def test_keep_and_append(self, desk: Desk) -> None:
        """An append, an edit in the middle, one at the front, a cut, nothing left, and something again."""
        storage = desk.records
        commits = [first("s", "a", "b", "c"), later("s", 2, 3, "d"), later("s", 3, 1, "B", "C", "D"), later("s", 4, 0, "A"),
                   later("s", 5, 1), later("s", 6, 0), later("s", 7, 0, "x", "y"), later("s", 8, 1)]
        for at, commit in enumerate(commits, 1):
            storage.commit(commit)
            assert page(storage, "s") == written(*commits[:at])

    def test_head_changes(self, desk: Desk) -> None:
        """Set, unset, and the same inside sections; unknown fields as well; what is not named stays."""
        storage = desk.records
        commits = [first("s", "a"), *(later("s", at, 1, head=head) for at, head in enumerate(HEADS, 2))]
        for at, commit in enumerate(commits, 1):
            storage.commit(commit)
            assert page(storage, "s") == written(*commits[:at])

    @pytest.mark.parametrize("expected", [None, (BIRTH, 1), (BIRTH, 3), ("another birth", 2)])
    def test_a_commit_against_another_state_is_refused(self, desk: Desk, expected: tuple[str, int] | None) -> None:
        """Revision and birth both count, and so does None: RevisionConflict with what was found; nothing changes."""
        storage = desk.records
        commits = grown(storage, "s", 2)
        change = first("s", "w", op="late").change if expected is None else later("s", 3, 2, "w", op="late").change
        with pytest.raises(RevisionConflict) as caught:
            storage.commit(Commit("s", expected, change))
        assert (caught.value.expected, caught.value.found) == (expected, (BIRTH, 2))
        assert page(storage, "s") == written(*commits)

    def test_a_change_of_nothing_is_refused(self, desk: Desk) -> None:
        """A session that is not there, and one that is no longer there, is not made by a change of it."""
        storage = desk.records
        grown(storage, "gone", 1)
        storage.delete_record("gone")
        for name in ("nobody", "gone"):
            with pytest.raises(RevisionConflict) as caught:
                storage.commit(later(name, 2, 0, "w"))
            assert caught.value.found is None
            assert storage.read(name) is None

    def test_a_commit_of_the_predecessor_is_refused(self, desk: Desk) -> None:
        """Deleted and made anew at the same revision: the birth tells."""
        storage = desk.records
        grown(storage, "s", 1)
        storage.delete_record("s")
        storage.commit(first("s", "new", birth="second birth", op="again"))
        with pytest.raises(RevisionConflict) as caught:
            storage.commit(later("s", 2, 1, "late"))
        assert caught.value.found == ("second birth", 1)
        assert page(storage, "s").messages == [line("new")]

    @pytest.mark.parametrize("revisions", [1, 2])
    def test_a_retried_commit_is_applied_once(self, desk: Desk, revisions: int) -> None:
        """Whose operation id is the newest already: no error, no second time, a stamp of the state that is there."""
        storage = desk.records
        commits = grown(storage, "s", revisions)
        stamp = storage.commit(commits[-1])
        assert page(storage, "s") == written(*commits)
        assert written(*commits).as_seen(storage.read("s", stamp)) == written(*commits)

    def test_the_newest_operation_ids_are_kept(self, desk: Desk) -> None:
        """Sixty-four of them, oldest first, none twice; enough to find a save whose answer was lost."""
        storage = desk.records
        commits = grown(storage, "s", OPS_KEPT + 6)
        assert list(whole(storage, "s").ops) == [commit.change.op for commit in commits[-OPS_KEPT:]]

    def test_an_answer_leads_from_what_was_known_to_what_is(self, desk: Desk) -> None:
        """From every earlier state, by its stamp: UNCHANGED only where nothing changed, a Delta without a gap, or all."""
        storage, commits = desk.records, [first("s", "a")]
        commits += [later("s", 2, 1, "b"), later("s", 3, 0, "A", head=HEADS[0]), later("s", 4, 1, "c"), later("s", 5, 1)]
        known: list[tuple[Page, Stamp]] = []
        for at, commit in enumerate(commits, 1):
            now, stamp = written(*commits[:at]), storage.commit(commit)
            known += [(now, stamp), (now, whole(storage, "s").stamp)]
            for before, stamp_before in known:
                answer = storage.read("s", stamp_before)
                assert before.as_seen(answer) == now
                if isinstance(answer, Delta):
                    assert [c.revision for c in answer.changes] == list(range(before.head["revision"] + 1, at + 1))
                if answer is not None and answer is not UNCHANGED:
                    assert now.as_seen(storage.read("s", answer.stamp)) == now  # type: ignore[union-attr]  # neither is it Unchanged

    def test_a_stamp_of_another_life_means_nothing(self, desk: Desk) -> None:
        """The predecessor's, another session's, or no stamp of this storage at all: the whole record."""
        storage = desk.records
        grown(storage, "s", 2)
        other = first("other", "w", birth="another birth")
        stamps = [whole(storage, "s").stamp, storage.commit(other), "no stamp", object()]
        storage.delete_record("s")
        assert [storage.read("s", stamp) for stamp in stamps] == [None] * 4
        commits = [first("s", "new", birth="second birth"), later("s", 2, 1, "newer", birth="second birth")]
        for commit in commits:
            storage.commit(commit)
        for stamp in stamps:
            answer = storage.read("s", stamp)
            assert isinstance(answer, Record), f"{stamp!r} was taken for a state of this session"
            assert Page().as_seen(answer) == written(*commits)

    def test_deletions_are_remembered_by_birth(self, desk: Desk) -> None:
        """While no session of that birth is there; a deletion of nothing is none (P9)."""
        storage = desk.records
        assert storage.delete_record("s") is False
        grown(storage, "s", 1)
        assert storage.was_deleted("s", BIRTH) is False
        assert storage.delete_record("s") is True
        assert storage.delete_record("s") is False
        asked = [("s", BIRTH), ("s", "another birth"), ("t", BIRTH)]
        assert [storage.was_deleted(*pair) for pair in asked] == [True, False, False]
        storage.commit(first("s", "w", birth="second birth"))
        assert [storage.was_deleted("s", birth) for birth in (BIRTH, "second birth")] == [True, False]
        storage.delete_record("s")
        assert [storage.was_deleted("s", birth) for birth in (BIRTH, "second birth")] == [True, True]

    def test_a_birth_that_came_back_is_not_deleted(self, desk: Desk) -> None:
        """A backup that was put back, say."""
        storage = desk.records
        grown(storage, "s", 1)
        storage.delete_record("s")
        grown(storage, "s", 1)
        assert storage.was_deleted("s", BIRTH) is False

    def test_exists(self, desk: Desk) -> None:
        """Before, while, after."""
        storage = desk.records
        found = [storage.exists("s")]
        grown(storage, "s", 1)
        found += [storage.exists("s"), storage.exists("t")]
        storage.delete_record("s")
        assert [*found, storage.exists("s")] == [False, True, False, False]

    def test_what_is_given_out_is_the_readers_own(self, desk: Desk) -> None:
        """Changing a head that was read, nested values included, changes nothing that anybody else reads (P6)."""
        storage, commit = desk.records, first("s", "w", metadata={"k": {"list": [1]}}, tags=["a"])
        storage.commit(commit)
        said = written(commit)
        for head in (whole(storage, "s").head, next(iter(storage.heads()))[0]):
            head["title"] = "mine"
            head.get("tags", []).append("mine")
            head.get("metadata", {}).get("k", {"list": []})["list"].append(2)
        assert page(storage, "s") == said

    def test_what_was_handed_in_is_the_callers_own(self, desk: Desk) -> None:
        """Changing what a commit was made of, after it returned, changes nothing that is stored (P6)."""
        storage = desk.records
        commits = [first("s", "w", metadata={"k": [1]}), later("s", 2, 1, head={"set": {"tags": ["a"]}}),
                   later("s", 3, 1, "x", head={"in": {"metadata": {"set": {"l": {"deep": []}}}}})]
        said = deepcopy(commits)
        stamp, *_ = [storage.commit(commit) for commit in commits]
        commits[0].change.head["set"]["metadata"]["k"].append(2)
        commits[1].change.head["set"]["tags"].append("b")
        commits[2].change.head["in"]["metadata"]["set"]["l"]["deep"].append(1)
        messages = commits[2].change.add
        assert isinstance(messages, list)
        messages.append(line("y"))
        assert page(storage, "s") == written(*said)
        assert written(said[0]).as_seen(storage.read("s", stamp)) == written(*said)

    @needs(Power.STAMPS)
    def test_a_glance_says_what_a_read_says(self, desk: Desk) -> None:
        """A stamp is called current only where a read would answer UNCHANGED; a stamp of what is gone never is."""
        storage, glances = desk.records, desk.storage
        assert has_current_stamps(glances), "stamps are claimed, and there is no is_current"
        stamps = [storage.commit(commit) for commit in (first("s", "a"), later("s", 2, 1, "b"))]
        stamps.append(whole(storage, "s").stamp)
        for stamp in stamps:
            assert not glances.is_current(stamp) or storage.read("s", stamp) is UNCHANGED
        assert not glances.is_current(stamps[0])
        storage.delete_record("s")
        assert not any(glances.is_current(stamp) for stamp in stamps)
        storage.commit(first("s", "a", birth="second birth", op="again"))
        storage.commit(later("s", 2, 1, "b", birth="second birth"))
        assert not any(glances.is_current(stamp) for stamp in stamps)
