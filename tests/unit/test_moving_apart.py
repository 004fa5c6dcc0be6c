"""Copying a store whose sessions go their own ways: branches of one length, lives that begin anew, sessions that cannot be read.

"Settled, no problems" is what people delete the old store for. So each test here has something that is in one place only,
and asks that it is either brought or named, and never overwritten.
"""

from __future__ import annotations

import errno
from datetime import timedelta

import pytest

from bamboo_sessions import JsonFileStorage, MemoryStorage, Session, copy_sessions
from bamboo_sessions._files import Files
from bamboo_sessions.storages.protocol import Record
from bamboo_sessions.testing.wrappers import Wrapping
from tests.support import Steered, bundle
from tests.unit.moving_kit import begun, named, said, texts

# -- branches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [1, 0, -60])
def test_two_branches_of_one_length_are_named(source, target, clock, seconds):
    """Source and target each got one commit since the last run: the revisions are equal, and where a clock stood or jumped back
    so are the times; the sessions are not, and a problem says so."""
    begun(source, clock)
    copy_sessions(source, target)
    said(source, clock, "what must not be lost")
    clock.forward(seconds=seconds)
    said(target, clock, "somebody tried the new house")
    report = copy_sessions(source, target)
    assert (report.same, report.updated, named(report), report.settled) == (0, 0, ["s"], True)
    assert (texts(source), texts(target)) == (["what must not be lost"], ["somebody tried the new house"])


def test_two_branches_that_part_during_a_run_are_named(source, target, clock):
    """A glance at the numbers is enough for what this run compared, and not for what was written to since."""
    begun(source, clock)
    copy_sessions(source, target)
    begun(source, clock, "t")  # so that the first pass is not the last one
    once = iter([True])

    def meanwhile(done, total):
        if done == total and next(once, False):
            said(source, clock, "here")
            said(target, clock, "there")

    report = copy_sessions(source, target, progress=meanwhile)
    assert (report.same, report.updated, named(report)) == (0, 0, ["s"])
    assert texts(target) == ["there"]


def test_a_copy_goes_back(source, target, clock):
    """What the new house wrote comes home, and the next run finds both the same."""
    begun(source, clock)
    said(source, clock, "one")
    copy_sessions(source, target)
    said(target, clock, "two")
    assert copy_sessions(target, source).updated == 1
    assert texts(source) == ["one", "two"]
    report = copy_sessions(source, target)
    assert (report.same, report.problems) == (1, ())


def test_a_copy_that_lost_a_byte_is_named(source, clock):
    """Numbers and head are right, a message is not: a later run looks at it as the first one did."""
    class Rots(MemoryStorage):
        rotten = False

        def read(self, session_id, known=None):
            record = super().read(session_id, known)
            if self.rotten and isinstance(record, Record):
                return Record(record.head, [b"{}" for _ in record.messages], record.ops, record.stamp)
            return record

    target = Rots()
    begun(source, clock)
    said(source, clock, "one")
    copy_sessions(source, target)
    target.rotten = True
    report = copy_sessions(source, target)
    assert (report.same, report.updated, named(report), report.settled) == (0, 0, ["s"], True)
    assert "damaged" in report.problems[0].why


# -- lives -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revisions", [1, 3])
def test_a_session_that_is_made_anew_during_a_run(target, clock, revisions):
    """What stands in the target is never the new life with the old life's bills, and one session does not end the run for the
    others."""
    source = MemoryStorage()
    repo = begun(source, clock, "s", "t")
    source.append_usage("s", b'{"of":"the old life"}')
    once = iter([True])

    def meanwhile(done, total):
        if done == total and next(once, False):
            repo.delete("s")
            repo.save(Session.new("s", clock=clock))
            for number in range(1, revisions):
                said(source, clock, str(number))
            source.append_usage("s", b'{"of":"the new life"}')
            said(source, clock, "later", "t")

    report = copy_sessions(source, target, progress=meanwhile)
    there = target.read("s")
    assert texts(target, "t") == ["later"]
    assert there.head["birth"] != source.read("s").head["birth"]
    assert list(target.read_usage("s", there.head["birth"])) == [b'{"of":"the old life"}']
    assert named(report) == ["s"]


def test_a_session_that_is_made_anew_in_the_target_during_a_run(source, target, clock):
    """It is somebody's, and stays."""
    begun(source, clock)
    once = iter([True])

    def meanwhile(done, total):
        if done == total and next(once, False):
            bundle(target, clock).delete("s")
            begun(target, clock)
            said(target, clock, "mine")
            said(source, clock, "later")

    report = copy_sessions(source, target, progress=meanwhile)
    assert (texts(target), named(report)) == (["mine"], ["s"])


def test_what_is_deleted_between_the_look_and_the_commit_is_not_brought_back(source, clock):
    """Another run is first, and somebody deletes what it brought: the commit of this one comes too late."""
    inner = MemoryStorage()
    target = Steered(inner)
    begun(source, clock)

    def brought_and_deleted():
        copy_sessions(source, inner)
        bundle(inner, clock).delete("s")

    target.at("commit", brought_and_deleted)
    report = copy_sessions(source, target)
    assert (inner.exists("s"), named(report), report.copied) == (False, ["s"], 0)


def test_a_copy_that_expired_in_the_target_follows_the_source(source, clock):
    """It is shown again, as the source has it by now; a pinned one was never gone."""
    target = MemoryStorage(ttl=timedelta(hours=1), clock=clock)
    repo = begun(source, clock, "s", "pinned")
    repo.update("pinned", lambda session: setattr(session, "pinned", True))
    copy_sessions(source, target)
    clock.forward(hours=2)
    assert (target.exists("s"), target.exists("pinned")) == (False, True)
    said(source, clock, "later")
    report = copy_sessions(source, target)
    assert (report.updated, report.same, report.problems) == (1, 1, ())
    assert texts(target) == ["later"]


def test_a_run_that_ends_between_a_session_and_its_usage_is_made_good(source, clock):
    """The session is there and its bills are not: the next run finds the one the same and brings the others."""
    class Ends(Wrapping):
        def add_usage(self, *_args):
            raise KeyboardInterrupt

    inner = MemoryStorage()
    begun(source, clock)
    source.append_usage("s", b"1")
    with pytest.raises(KeyboardInterrupt):
        copy_sessions(source, Ends(inner))
    report = copy_sessions(source, inner)
    assert (report.same, report.usage_lines, report.problems) == (1, 1, ())


# -- one bad session ---------------------------------------------------------------------------------------------


def test_a_session_that_the_target_refuses_does_not_stop_the_others(source, clock):
    """Whatever a storage says to a commit that it cannot follow."""
    class Refuses(MemoryStorage):
        def commit(self, commit):
            if commit.session_id == "s":
                raise ValueError("no such thing")
            return super().commit(commit)

    target = Refuses()
    begun(source, clock, "r", "s", "t")
    report = copy_sessions(source, target)
    assert sorted(head["id"] for head, _ in target.heads()) == ["r", "t"]
    assert [(problem.session_id, problem.why) for problem in report.problems] == [("s", "no such thing")]


def test_a_head_that_no_version_writes_is_named(clock):
    """Its bytes would arrive as they are, and no more be a session there than here."""
    source, target = MemoryStorage(), MemoryStorage()
    begun(source, clock, "r", "s", "t")
    source._kept["s"].head["created_at"] = 5
    report = copy_sessions(source, target)
    assert (report.copied, named(report)) == (2, ["s"])


def test_a_source_that_gives_another_session_than_it_lists(target, clock):
    """Under neither name is it copied."""
    class Mixes(MemoryStorage):
        def read(self, session_id, known=None):
            return super().read("t" if session_id == "s" else session_id, known)

    source = Mixes()
    begun(source, clock, "r", "s", "t")
    report = copy_sessions(source, target)
    assert sorted(head["id"] for head, _ in target.heads()) == ["r", "t"]
    assert (report.copied, named(report)) == (2, ["s"])
    assert "'t'" in report.problems[0].why


def test_a_session_that_could_not_be_listed_for_a_moment_is_named(tmp_path, clock):
    """The disk said no once. A look for damage finds nothing wrong a moment later, and the session was not copied."""
    class Hiccups(Files):
        bad = False

        def open(self, path, *args):
            if self.bad and path.endswith("session.json"):
                self.bad = False
                raise OSError(errno.EIO, "Input/output error")
            return super().open(path, *args)

    files, target = Hiccups(), MemoryStorage()
    begun(JsonFileStorage(tmp_path / "from"), clock, "s")
    files.bad = True
    report = copy_sessions(JsonFileStorage(tmp_path / "from", files=files), target)
    assert (files.bad, report.copied, named(report)) == (False, 0, ["s"])
    assert copy_sessions(JsonFileStorage(tmp_path / "from"), target).problems == ()
