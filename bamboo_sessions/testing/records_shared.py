"""Records seen by several at a time: threads of one object, and objects on the same data."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from bamboo_sessions.errors import RevisionConflict
from bamboo_sessions.storages.protocol import RecordStorage
from bamboo_sessions.storages.shortcuts import HeldReads, has_held_reads
from bamboo_sessions.testing.harness import Desk, Power, needs
from bamboo_sessions.testing.locks import locks_of
from bamboo_sessions.testing.records import grown, page, whole
from bamboo_sessions.testing.scribe import BIRTH, Page, first, later, line, written

BLOCK = 8
"""So many messages at most, in the race of a writer with readers."""


def second(desk: Desk) -> RecordStorage:
    """Another object on the same data."""
    return desk.as_records(desk.open())


def _held(storage: object) -> HeldReads:
    assert has_held_reads(storage), f"{type(storage).__name__} claims held reads and has no method `read_held`"
    return storage


def in_threads(*tasks: Callable[[], object]) -> list[str]:
    """Run them all at once; how each ended: "done", or the name of what it raised with its text."""
    ended = [""] * len(tasks)
    ready = threading.Barrier(len(tasks))

    def run(number: int) -> None:
        ready.wait()
        try:
            tasks[number]()
        except BaseException as error:  # noqa: BLE001 - told to the test
            ended[number] = f"{type(error).__name__}: {error}"
        else:
            ended[number] = "done"

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ended


@needs(Power.RECORDS)
class SharedRecordContract:
    """The delta interface, by several."""

    def test_of_commits_against_one_state_one_is_applied(self, desk: Desk) -> None:
        """Whoever comes second gets RevisionConflict, also in the same instant; the same for a first commit."""
        storage = desk.records
        for revision in range(1, 9):
            words = [f"{revision} by {t}" for t in range(4)]
            commits = [first("s", word, op=word) if revision == 1 else later("s", revision, revision - 1, word, op=word)
                       for word in words]
            ended = in_threads(*(lambda commit=commit: storage.commit(commit) for commit in commits))
            assert sorted(text.split(":")[0] for text in ended) == ["RevisionConflict"] * 3 + ["done"], ended
            found, winner = page(storage, "s"), commits[ended.index("done")]
            assert (found.head["revision"], len(found.messages)) == (revision, revision)
            assert found.messages[-1:] == list(winner.change.add)

    def test_a_reader_sees_whole_revisions_that_never_go_back(self, desk: Desk) -> None:
        """While somebody writes: head, messages and operation ids of one commit, whole or as a difference (P7)."""
        storage, looks = desk.records, [0, 0]
        storage.commit(first("s", "0", title="0", op="op-0"))
        wrong: list[str] = []
        newest = 0  # once the writer has ended

        def write() -> None:
            nonlocal newest
            number = 0
            while (number < 40 or min(looks) < 20) and not wrong:
                number += 1
                keep = number % BLOCK  # now and then everything is written anew
                storage.commit(later("s", number + 1, keep, str(number), op=f"op-{number}", head={"set": {"title": str(number)}}))
            newest = number

        def read(reader: int) -> None:
            answer, last, done = whole(storage, "s"), 0, 0
            known, stamp = Page().as_seen(answer), answer.stamp
            while not wrong and not (done and last == done):
                done, looks[reader] = newest, looks[reader] + 1
                newer = storage.read("s", stamp)
                known, stamp = known.as_seen(newer), getattr(newer, "stamp", stamp)
                number = known.head["revision"] - 1
                expected = str(number), [line(str(n)) for n in range(number - number % BLOCK, number + 1)], f"op-{number}"
                if (known.head["title"], known.messages, known.ops[-1]) != expected:
                    wrong.append(f"revision {number + 1}: {known.head['title']}, {known.messages}, {known.ops[-1]}")
                if number < last or (done and number != done):
                    wrong.append(f"number {number} after {last}, and {done or 'more'} to come")
                last = number

        assert in_threads(write, lambda: read(0), lambda: read(1)) == ["done"] * 3
        assert wrong == []

    def test_the_store_keeps_its_name(self, desk: Desk) -> None:
        """The same at every look; another one for a store elsewhere, whose copies are nobody's here (P9)."""
        mine = desk.records.store_id
        assert isinstance(mine, str)
        assert mine
        assert desk.records.store_id == mine
        place = desk.place.with_name("another store")
        place.mkdir()
        with Desk(desk.harness, place) as other:
            assert other.records.store_id != mine

    @needs(Power.REOPEN)
    def test_a_second_object_goes_on_where_the_first_stopped(self, desk: Desk) -> None:
        """Store id, records, operation ids, deletions and listing, after the first one was closed."""
        commits = grown(desk.records, "s", 5)
        grown(desk.records, "gone", 1)
        desk.records.delete_record("gone")
        name = desk.records.store_id
        desk.storage.close()
        again = second(desk)
        assert (again.store_id, page(again, "s")) == (name, written(*commits))
        assert (again.was_deleted("gone", BIRTH), again.exists("gone"), again.exists("s")) == (True, False, True)
        assert [(head["id"], count) for head, count in again.heads()] == [("s", 5)]
        again.commit(commits[-1])
        again.commit(later("s", 6, 5, "w6"))
        assert page(again, "s") == written(*commits, later("s", 6, 5, "w6"))

    @needs(Power.HELD_READS, Power.LOCKS)
    def test_a_held_read_is_right_or_its_commit_is_refused(self, desk: Desk) -> None:
        """Under the lock, after commits of one's own and of another object: nothing is committed onto a wrong state."""
        one, other = desk.records, second(desk) if desk.has(Power.REOPEN) else desk.records
        commits = [first("s", "1")]
        known, stamp = written(*commits), one.commit(commits[0])
        for revision in range(2, 12):
            length = len(written(*commits).messages)
            if revision % 3 == 0:
                commits.append(later("s", revision, length if revision % 2 else 1, f"other {revision}"))
                other.commit(commits[-1])
                continue
            with locks_of(desk.storage).lock("s", 10.0):
                seen = known.as_seen(_held(desk.storage).read_held("s", stamp))
                commit = later("s", seen.head["revision"] + 1, len(seen.messages), f"mine {revision}", op=f"mine-{revision}")
                if seen != written(*commits):
                    with pytest.raises(RevisionConflict):
                        one.commit(commit)
                    commit = later("s", revision, length, f"mine {revision}", op=f"mine-{revision}")
                stamp = one.commit(commit)
            commits.append(commit)
            known = written(*commits)
            assert page(other, "s") == known
            assert page(one, "s") == known

    @needs(Power.REOPEN)
    def test_two_objects_see_each_others_commits(self, desk: Desk) -> None:
        """Each commits on what the other did, follows it by its own stamps, and is refused where it missed something."""
        one, two = desk.records, second(desk)
        commits = [first("s", "1")]
        knows = {0: (written(*commits), one.commit(commits[0]))}
        knows[1] = written(*commits), whole(two, "s").stamp
        for revision in range(2, 10):
            at, storage = revision % 2, (one, two)[revision % 2]
            keep = len(written(*commits).messages) if revision % 4 else 1
            commits.append(later("s", revision, keep, f"w{revision}"))
            knows[at] = written(*commits), storage.commit(commits[-1])
            with pytest.raises(RevisionConflict):
                (one, two)[1 - at].commit(later("s", revision, 0, "missed it", op=f"late-{revision}"))
            known, stamp = knows[1 - at]
            answer = (one, two)[1 - at].read("s", stamp)
            assert known.as_seen(answer) == written(*commits)
            if revision % 3 == 0:
                knows[1 - at] = written(*commits), getattr(answer, "stamp", stamp)
        two.delete_record("s")
        assert (one.read("s", knows[0][1]), one.exists("s"), one.was_deleted("s", BIRTH)) == (None, False, True)
