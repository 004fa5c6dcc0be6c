"""Copying a store into another one: everything arrives as it was, again and again, and nothing is overwritten."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bamboo_sessions import JsonFileStorage, MemoryStorage, Message, Session, StorageUnavailable, copy_sessions
from bamboo_sessions.storages.protocol import Record
from tests.support import Steered, bundle


def filled(storage, clock, count=5):
    """Sessions with turns, an edit in the middle, a title, metadata, an open and a closed question, an unknown field."""
    repo = bundle(storage, clock)
    for n in range(count):
        session = Session.new(f"s{n}", model="m", clock=clock)
        session.messages = [Message.user(f"{n}-{i}", id=f"{n}-{i}") for i in range(n + 2)]
        repo.save(session)
        session.title = f"title {n}"
        session.metadata["deep"] = {"list": [n, None, "x"]}
        session.set_pending_question("c1", "what?")
        repo.save(session)
        session.clear_pending_question("c1")
        session.set_pending_question("c2", "and?")
        session.replace_message(f"{n}-0", Message.user("edited"))
        repo.save(session)
    return repo


def whole(storage, session_id):
    record = storage.read(session_id)
    return (record.head, tuple(record.messages)) if isinstance(record, Record) else None


def ids(storage):
    return sorted(head["id"] for head, _ in storage.heads())


def test_everything_arrives_with_its_birth_revision_and_bytes(source, target, clock):
    """Heads and messages are equal byte for byte, and a second run has nothing to do."""
    filled(source, clock)
    report = copy_sessions(source, target)
    assert (report.copied, report.updated, report.settled, report.problems) == (5, 0, True, ())
    assert ids(target) == ids(source) == [f"s{n}" for n in range(5)]
    assert all(whole(source, f"s{n}") == whole(target, f"s{n}") for n in range(5))
    again = copy_sessions(source, target)
    assert (again.copied, again.updated, again.same, again.passes) == (0, 0, 5, 1)


def test_what_changed_meanwhile_follows_in_the_next_pass(source, target, clock):
    """A session is written to, one is made and one is deleted while the first pass runs: the target ends as the source is."""
    repo = filled(source, clock)
    changes = iter([lambda: repo.set_title("s0", "later"), lambda: repo.save(Session.new("s9", clock=clock))])

    def meanwhile(done, total):
        if done == total:
            next(changes, lambda: None)()

    report = copy_sessions(source, target, progress=meanwhile)
    assert report.settled
    assert (report.copied, report.updated, report.passes) == (6, 1, 4)
    assert ids(target) == ids(source)
    assert all(whole(source, session_id) == whole(target, session_id) for session_id in ids(source))


def test_writers_that_never_rest_are_followed_for_some_passes_only(source, target, clock):
    """It ends, and says that there was more to come."""
    repo = filled(source, clock, 1)
    report = copy_sessions(source, target, passes=3, progress=lambda done, total: repo.update("s0", lambda s: s.add_message(Message.user("x"))))
    assert (report.passes, report.settled) == (3, False)


def test_an_interrupted_run_goes_on_where_it_was(source, target, clock):
    """Stopped in the third session: the next run copies what is left and looks at nothing twice."""
    filled(source, clock)

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_sessions(source, target, progress=stop)
    assert len(ids(target)) == 3
    report = copy_sessions(source, target)
    assert (report.copied, report.same) == (2, 3)


def test_a_target_that_was_written_to_is_left_alone(source, target, clock):
    """Whatever the target has of its own stays, and is named: another session of the id, a later revision, another branch."""
    repo = filled(source, clock)
    bundle(target, clock).save(Session.new("s0", title="mine", clock=clock))
    copy_sessions(source, target)
    moved = bundle(target, clock)
    moved.set_title("s1", "written to in the target")
    moved.set_title("s2", "here as well")
    repo.set_title("s2", "and in the source")
    repo.set_title("s2", "twice")
    before = {session_id: whole(target, session_id) for session_id in ("s0", "s1", "s2")}
    report = copy_sessions(source, target)
    assert [problem.session_id for problem in report.problems] == ["s0", "s1", "s2"]
    assert {session_id: whole(target, session_id) for session_id in before} == before
    assert report.settled


def test_a_session_that_cannot_be_read_does_not_stop_the_others(clock):
    """It is named, and the rest is copied."""
    class OneIsBad(MemoryStorage):
        bad = False

        def read(self, session_id, known=None):
            if self.bad and session_id == "s1":
                raise StorageUnavailable("read", session_id=session_id, reason="a bad sector")
            return super().read(session_id, known)

    source, target = OneIsBad(), MemoryStorage()
    filled(source, clock, 3)
    source.bad = True
    report = copy_sessions(source, target)
    assert ids(target) == ["s0", "s2"]
    assert [(problem.session_id, "bad sector" in problem.why) for problem in report.problems] == [("s1", True)]


@pytest.mark.usefixtures("damage_on_purpose")
def test_a_session_that_no_listing_shows_is_named(tmp_path, clock):
    """Its head is unreadable, so that a list leaves it out: the report does not, and the exit is not "all is there"."""
    source, target = JsonFileStorage(tmp_path / "from"), MemoryStorage()
    filled(source, clock, 2)
    for snapshot in (tmp_path / "from").rglob("session.json"):
        if b'"id":"s1"' in snapshot.read_bytes():
            snapshot.write_bytes(b"{" + snapshot.read_bytes())
    report = copy_sessions(JsonFileStorage(tmp_path / "from"), target)
    assert ids(target) == ["s0"]
    assert [problem.session_id for problem in report.problems] == ["s1"]


def test_what_the_target_garbles_is_noticed(source, clock):
    """Each session is read back: a target that loses a byte is found out."""
    class Garbles(MemoryStorage):
        def read(self, session_id, known=None):
            record = super().read(session_id, known)
            if isinstance(record, Record) and session_id == "s1":
                return Record(record.head, [*record.messages[:-1], record.messages[-1] + b" "], record.ops, record.stamp)
            return record

    filled(source, clock, 3)
    report = copy_sessions(source, Garbles(), passes=2)
    assert [problem.session_id for problem in report.problems] == ["s1"]


def test_a_copy_from_the_old_store_is_merged_into_the_moved_session(source, target, clock):
    """Whoever still holds a copy saves it through the new repository: nothing of it is lost, and nothing is doubled."""
    held = filled(source, clock, 1).load("s0")
    copy_sessions(source, target)
    moved = bundle(target, clock)
    moved.update("s0", lambda session: session.add_message(Message.user("in the new house")))
    held.add_message(Message.user("from the old one"))
    moved.save(held)
    assert [message.content for message in moved.load("s0").messages] == ["edited", "0-1", "in the new house", "from the old one"]


def test_places_are_opened_and_closed_by_their_names(tmp_path, clock):
    """Paths and URLs, as `SessionRepository.open` takes them."""
    filled(JsonFileStorage(tmp_path / "a"), clock, 2)
    report = copy_sessions(tmp_path / "a", f"file://{tmp_path / 'b'}")
    assert report.copied == 2
    assert ids(JsonFileStorage(tmp_path / "b")) == ["s0", "s1"]
    assert report.to_dict()["settled"] is True


def test_what_was_deleted_from_the_target_is_not_brought_back(source, target, clock):
    """P9: somebody meant that; it is reported, and the others are copied."""
    filled(source, clock, 3)
    copy_sessions(source, target)
    bundle(target, clock).delete("s1")
    report = copy_sessions(source, target)
    assert (ids(target), report.same, [problem.session_id for problem in report.problems]) == (["s0", "s2"], 2, ["s1"])
    assert "deleted" in report.problems[0].why


def test_writers_may_be_faster_than_the_memory_for_commits(source, clock):
    """What this run itself left in the target is an earlier state of the source, however many commits lie between."""
    repo = filled(source, clock, 1)
    target = Steered(MemoryStorage())

    def many():
        for n in range(70):
            repo.set_title("s0", str(n))

    target.at("was committed", many)
    report = copy_sessions(source, target)
    assert (report.copied, report.updated, report.settled, report.problems) == (1, 1, True, ())
    assert whole(source, "s0") == whole(target.inner, "s0")


def test_two_runs_at_once_do_not_take_each_other_for_a_stranger(source, clock):
    """One reads, the source is written to, the other one copies that, and then the first one comes to compare."""
    repo, target = filled(source, clock, 1), MemoryStorage()
    slow = Steered(source)

    def other_run():
        repo.set_title("s0", "later")
        copy_sessions(source, target)

    slow.at("was read", other_run)
    report = copy_sessions(slow, target)
    assert report.problems == ()
    assert whole(source, "s0") == whole(target, "s0")


def test_a_copy_that_expired_in_the_target_is_shown_again(source, clock):
    """The source still has it; a copy that is there and that nobody sees would be none."""
    filled(source, clock, 1)
    target = MemoryStorage(ttl=timedelta(hours=1), clock=clock)
    bundle(source, clock).answer("s0", "c2", "yes")
    copy_sessions(source, target)
    clock.forward(hours=2)
    assert not target.exists("s0")
    assert copy_sessions(source, target).same == 1
    assert target.exists("s0")
