"""Copying somebody's own storage, or into one: it keeps no operation ids, and perhaps no births and revisions either.

So less can be shown of two states. What is not shown to be an earlier state is named, and not overwritten.
"""

from __future__ import annotations

import pytest

from bamboo_sessions import Session, StorageUnavailable, copy_sessions
from bamboo_sessions.codec import encode_head
from bamboo_sessions.ids import new_token
from tests.support import ChatsOnly, WholeSessions, bundle
from tests.unit.moving_kit import begun, named, said, texts


class Listing:
    """What makes somebody's own storage one that can be copied."""

    def heads(self):
        for session_id in self.ids():
            session = self.load_session(session_id)
            yield encode_head(session._state().head), len(session.messages)


class Chats(Listing, ChatsOnly):
    """It keeps no births, no revisions and no message ids: each load draws new ones."""

    def ids(self):
        return list(self.rows)

    def load_session(self, session_id):
        row = self.rows.get(session_id)
        return None if row is None else Session.from_dict({**row, "message_ids": [new_token() for _ in row["messages"]]})


class Sessions(Listing, WholeSessions):
    """It keeps births and revisions. What led to a state only the process knows that committed it."""

    def ids(self):
        return list(self.kept)

    def elsewhere(self):
        """As another process has it."""
        other = Sessions()
        other.kept = self.kept
        return other


def go_apart(source, target, clock):
    """Each is written to; the target, by its number, is the one behind."""
    said(target, clock, "somebody tried the new house")
    said(source, clock, "one")
    said(source, clock, "two")


def test_a_branch_of_a_store_that_remembers_no_commits_is_named(source, clock):
    """The target was written to and is behind in number: nothing shows that it is an earlier state, so it is not overwritten."""
    target = Sessions()
    begun(source, clock)
    assert copy_sessions(source, target).problems == ()
    go_apart(source, target.elsewhere(), clock)
    report = copy_sessions(source, target.elsewhere())
    assert named(report) == ["s"]
    assert texts(target) == ["somebody tried the new house"]


def test_a_branch_beside_a_source_that_remembers_no_commits_is_named(target, clock):
    """The same the other way."""
    source = Sessions()
    begun(source, clock)
    copy_sessions(source, target)
    go_apart(source, target, clock)
    report = copy_sessions(source.elsewhere(), target)
    assert named(report) == ["s"]
    assert texts(target) == ["somebody tried the new house"]


def test_writers_of_a_source_that_remembers_no_commits_are_followed_within_a_run(target, clock):
    """What this run saw in both places it knows to be an earlier state."""
    source = Sessions()
    begun(source, clock)
    copy_sessions(source, target)
    begun(source, clock, "t")
    more = iter(["one", "two"])

    def meanwhile(done, total):
        text = next(more, None) if done == total else None
        if text is not None:
            said(source.elsewhere(), clock, text)

    report = copy_sessions(source.elsewhere(), target, progress=meanwhile)
    assert (report.updated, report.problems, report.settled) == (2, (), True)
    assert texts(target) == ["one", "two"]


def test_a_source_without_births_is_copied_and_later_named(target, clock):
    """Every session of it looks like revision 0 of no birth: what is unchanged is found the same by what it says, what changed
    since is named, for nothing shows that the target was not written to."""
    source = Chats()
    begun(source, clock, "s", "t")
    said(source, clock, "first")
    report = copy_sessions(source, target)
    assert (report.copied, report.problems, report.settled) == (2, (), True)
    assert (texts(target), texts(target, "t")) == (["first"], [])
    assert copy_sessions(source, target).same == 2
    clock.forward(seconds=1)
    elsewhere = Chats()
    elsewhere.rows = source.rows
    said(elsewhere, clock, "later")
    report = copy_sessions(source, target)
    assert (report.same, named(report)) == (1, ["s"])
    assert texts(target) == ["first"]


def test_a_source_without_births_is_followed_within_a_run(target, clock):
    """What this run brought it knows; messages that are there already keep their ids."""
    source = Chats()
    begun(source, clock)
    said(source, clock, "first")
    once = iter([True])
    ids = []

    def meanwhile(done, total):
        if done == total and next(once, False):
            ids.extend(message.id for message in target.load_session("s").messages)
            clock.forward(seconds=1)
            said(source, clock, "later")

    report = copy_sessions(source, target, progress=meanwhile)
    assert (report.updated, report.problems, report.settled) == (1, (), True)
    assert texts(target) == ["first", "later"]
    assert [message.id for message in target.load_session("s").messages][:1] == ids


def test_what_came_without_a_birth_and_was_deleted_stays_gone(target, clock):
    """Each run gives it the same birth, which the target remembers; a session made anew at the source has another one."""
    source = Chats()
    repo = begun(source, clock)
    copy_sessions(source, target)
    bundle(target, clock).delete("s")
    assert named(copy_sessions(source, target)) == ["s"]
    assert not target.exists("s")
    repo.delete("s")
    clock.forward(seconds=1)
    begun(source, clock)
    assert copy_sessions(source, target).copied == 1


def test_a_target_without_births_is_named(source, clock):
    """It cannot keep what a copy is: the words arrive, and the report does not say that all is well, in this run or the next."""
    target = Chats()
    begun(source, clock)
    said(source, clock, "first")
    for _ in range(2):
        report = copy_sessions(source, target)
        assert (report.same, named(report), report.settled) == (0, ["s"], True)
    assert texts(target) == ["first"]


def test_an_own_storage_that_cannot_list_says_so_as_any_other(target):
    """What its `heads` raises is told as what its loads raise."""
    class Breaks(ChatsOnly):
        def heads(self):
            yield from ()
            raise OSError("the cable")

    with pytest.raises(StorageUnavailable, match="the cable"):
        copy_sessions(Breaks(), target)
