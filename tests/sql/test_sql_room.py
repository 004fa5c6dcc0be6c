"""Savers who need not look first, and savers who would be overtaken for ever."""

from __future__ import annotations

import threading

import pytest

from bamboo_sessions import Message, Session, SessionDeleted, StorageUnavailable
from bamboo_sessions.testing.scribe import Page, first, later, written


def begun(repo, name="s", turns=3):
    """A session that this repository has been saving for a while."""
    session = Session.new(name)
    for turn in range(turns):
        said(repo, session, f"turn {turn}")
    return session


def said(repo, session, text):
    session.add_message(Message.user(text))
    return repo.save(session)


def texts(session):
    return [message.content for message in session.messages]


# -- who need not look -------------------------------------------------------------------------------------------------


def test_who_is_alone_with_a_session_saves_without_looking(storage, bundle, monkeypatch):
    """Two commits in a row tell; from then on a save reads nothing."""
    repo = bundle(storage)
    session, reads, inner = begun(repo, turns=1), [], storage.read
    monkeypatch.setattr(repo.persistence, "_read_held", lambda *args: reads.append(args) or inner(*args))
    for number in range(4):
        said(repo, session, f"more {number}")
    assert len(reads) == 1
    assert texts(bundle(storage).load("s")) == ["turn 0", *(f"more {number}" for number in range(4))]


def test_a_wrong_guess_is_nobodys_loss(opened, bundle):
    """Somebody else saved meanwhile: the guess fails at the commit, and the save merges as it would have."""
    one, two = bundle(opened()), bundle(opened())
    session = begun(one)
    other = two.load("s")
    other.metadata["k"] = "theirs"
    said(two, other, "theirs")
    result = said(one, session, "mine")
    assert texts(session) == ["turn 0", "turn 1", "turn 2", "theirs", "mine"]
    assert (session.metadata["k"], result.revision) == ("theirs", 5)
    assert texts(bundle(opened()).load("s")) == texts(session)


def test_a_save_with_nothing_to_write_looks(opened, bundle):
    """Without a commit there is nobody to tell that the guess was wrong: the copy becomes what is stored."""
    one, two = bundle(opened()), bundle(opened())
    session = begun(one)
    said(two, two.load("s"), "theirs")
    result = one.save(session)
    assert (result.changed, texts(session)[-1]) == (False, "theirs")


def test_a_guess_brings_no_deleted_session_back(opened, bundle):
    """P9, also where this object knows of nothing but its own commits; and where another session has the id by now."""
    one, two = bundle(opened()), bundle(opened())
    session = begun(one)
    two.delete("s")
    with pytest.raises(SessionDeleted):
        said(one, session, "late")
    begun(two)
    with pytest.raises(SessionDeleted):
        said(one, session, "later")
    assert texts(bundle(opened()).load("s")) == ["turn 0", "turn 1", "turn 2"]


def test_an_edit_looks(opened, bundle):
    """Its body sees the newest state, however many commits in a row were this object's."""
    one, two = bundle(opened()), bundle(opened())
    begun(one)
    two.set_title("s", "theirs")
    with one.edit("s") as session:
        assert session.title == "theirs"


# -- who would be overtaken ---------------------------------------------------------------------------------------------


class Overtaking:
    """Whenever the slow one has looked, the busy one saves; it is given time to, and no more than it needs. The first looks are
    taken with no room, where it need not wait for anybody: until it is done, however slow the machine is."""

    def __init__(self, slow, busy, free):
        self._free = free
        self._slow, self._busy, self.saved, self.threads, self._turn = slow, busy, 0, [], threading.Lock()
        self._read = slow.storage.read
        self.looks = 0

    def read(self, *args):
        answer = self._read(*args)
        self.looks += 1
        thread = threading.Thread(target=self._save)
        self.threads.append(thread)
        thread.start()
        thread.join(30 if self.looks <= self._free else 0.2)  # longer only where it has to wait for the slow one, which is what is claimed
        return answer

    def _save(self):
        with self._turn:  # two of these may be waiting at the end
            said(self._busy, self._busy.try_load_merged("s"), f"busy {self.saved + 1}")
            self.saved += 1

    def ended(self):
        [thread.join(30) for thread in self.threads]


def got_through(slow, busy, change, looks, overtook):
    """One who changes what the busy one overtakes so often, and what there is afterwards, sorted."""
    begun(busy)
    mine = slow.load("s")
    overtaking = Overtaking(slow, busy, overtook)
    slow.persistence._read_held = overtaking.read
    if change == "save":
        said(slow, mine, "at last")
    else:
        slow.update("s", lambda session: session.add_message(Message.user("at last")))
    overtaking.ended()
    assert (overtaking.looks, overtaking.saved) == (looks, looks)
    return sorted(["turn 0", "turn 1", "turn 2", "at last", *(f"busy {n}" for n in range(1, looks + 1))])


@pytest.mark.parametrize(("change", "looks", "overtook"), [("save", 4, 3), ("update", 8, 6)])
def test_whoever_is_overtaken_again_and_again_gets_through(opened, bundle, change, looks, overtook):
    """The fourth try holds the row from the look to the commit: the busy writer waits, and neither loses a word. An update
    looks twice a try, for what it decides on and for what it commits on."""
    slow, busy = bundle(opened()), bundle(opened())
    everything = got_through(slow, busy, change, looks, overtook)
    found = texts(bundle(opened()).load("s"))
    assert sorted(found) == everything
    assert found[found.index("at last") - 1].startswith("busy")
    assert len(found[: found.index("at last")]) == 3 + overtook


def test_room_ends_with_the_commit(opened):
    """And is given back without one; the next writer is not kept waiting, nor is the connection left in a transaction."""
    one, two = opened(), opened()
    one.commit(first("s", "a"))
    with one.alone("s"):
        one.commit(later("s", 2, 1, "b"))
        two.commit(later("s", 3, 2, "c"))
    with one.alone("s"):
        pass
    with pytest.raises(KeyError), one.alone("s"):
        raise KeyError
    two.commit(later("s", 4, 3, "d"))
    commits = [first("s", "a"), *(later("s", n, n - 1, word) for n, word in ((2, "b"), (3, "c"), (4, "d")))]
    assert Page().as_seen(one.read("s")) == written(*commits)


def test_room_is_given_up_for_another_session(opened):
    """Whoever changes a second one within loses the room, not the change: two sessions are never held at once."""
    one, two = opened(), opened()
    one.commit(first("s", "a"))
    with one.alone("s"):
        one.commit(first("t", "a"))
        two.commit(later("s", 2, 1, "b"))
    assert Page().as_seen(one.read("s")) == written(first("s", "a"), later("s", 2, 1, "b"))
    assert Page().as_seen(one.read("t")) == written(first("t", "a"))


def test_a_refused_statement_ends_the_room(opened):
    """What failed within is undone, and the next commit has a transaction of its own."""
    one = opened()
    one.commit(first("s", "a"))
    with one.alone("s"):
        with pytest.raises(StorageUnavailable) as caught, one._open.cursor("test") as cursor:
            cursor.execute("SELECT nonsense FROM bamboo_session")
        assert caught.value.outcome == "not applied"
        one.commit(later("s", 2, 1, "b"))
    assert Page().as_seen(one.read("s")) == written(first("s", "a"), later("s", 2, 1, "b"))
