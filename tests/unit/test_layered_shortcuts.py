"""Layers over a last one that guesses and makes room: both are passed on, and nothing above gets in the way of them."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest

from bamboo_sessions import (
    JsonFileStorage,
    LayeredStorage,
    MemoryStorage,
    Message,
    Session,
    SqlStorage,
    StorageUnavailable,
)
from bamboo_sessions.storages import protocol, shortcuts
from bamboo_sessions.storages.adapted import as_records
from bamboo_sessions.storages.protocol import Delta
from bamboo_sessions.storages.shortcuts import has_likely_stamps, makes_room
from bamboo_sessions.testing import FailingStorage, ManualClock, SlowStorage
from bamboo_sessions.testing.scribe import Page, first, later, written
from tests.support import Steered, WholeSessions, bundle, texts


class Guessing(MemoryStorage):
    """Takes every stamp for the newest one, and notes who is alone with what."""

    def __init__(self):
        super().__init__()
        self.asked, self.rooms, self.fails = [], [], None

    def is_likely(self, session_id, stamp):
        self.asked.append((session_id, stamp))
        return True

    @contextmanager
    def alone(self, session_id):
        if self.fails is not None:
            raise self.fails
        self.rooms.append(("in", session_id, threading.get_ident()))
        try:
            yield
        finally:
            self.rooms.append(("out", session_id, threading.get_ident()))


@pytest.fixture
def last():
    return Guessing()


@pytest.fixture
def fast():
    return Steered(MemoryStorage())


@pytest.fixture
def layered(fast, last):
    layers = LayeredStorage([fast, last])
    layers.commit(first("s", "1"))
    fast.calls.clear()
    return layers


def shown(layers):
    return Page().as_seen(layers.read_plain("s"))


POWERS = {name: has for module in (protocol, shortcuts) for name, has in vars(module).items() if name.startswith(("has_", "makes_"))}
"""Every question that is asked about a storage, also those that are still to come."""


def test_every_power_of_the_last_layer_is_passed_on(tmp_path):
    """One that the contract gets and the layers forget is noticed here; a shorter way for plain loads is their own."""
    database = SqlStorage(f"sqlite:///{tmp_path}/sessions.db", durability="process")
    lasts, had = [MemoryStorage(), JsonFileStorage(tmp_path / "files"), database, WholeSessions()], set()
    for last in lasts:
        layers, records = LayeredStorage([MemoryStorage(), last]), as_records(last)
        for name, has in POWERS.items():
            assert has(layers) is (name == "has_plain_reads" or has(records)), f"{name} over {type(last).__name__}"
            had |= {name} if has(layers) else set()
    assert had == set(POWERS), "a power that no storage here has cannot be seen to be passed on"
    database.close()


def test_they_are_there_where_the_last_layer_has_them(tmp_path):
    """And not there where it has not, whatever the layers above can do; through wrappers and through other layers as well."""
    database = SqlStorage(f"sqlite:///{tmp_path}/sessions.db", durability="process")
    lasts = [MemoryStorage(), JsonFileStorage(tmp_path / "files"), WholeSessions(), database, FailingStorage(database),
             SlowStorage(MemoryStorage()), LayeredStorage([MemoryStorage(), database]), LayeredStorage([database, MemoryStorage()])]
    powers = (has_likely_stamps, makes_room)
    found = [[has(LayeredStorage([above, last])) for has in powers] for last in lasts for above in (MemoryStorage(), database)]
    assert found == [[has(last) for has in powers] for last in lasts for _ in range(2)]
    assert found[6] == found[8] == found[12] == [True, True]
    assert found[0] == found[4] == found[14] == [False, False]
    database.close()


def test_a_guess_is_the_last_layers(layered, last, fast):
    """About a stamp of that one, and nobody above is asked."""
    stamp = layered.read_plain("s").stamp
    fast.calls.clear()
    assert layered.is_likely("s", stamp) is True
    assert (last.asked, fast.calls) == ([("s", last.read("s").stamp)], [])


def test_a_copy_that_nobody_confirmed_is_not_likely():
    """While the last layer does not answer, what is served has no stamp of that one's; nor is a commit tried on it."""
    copies, last = MemoryStorage(), FailingStorage(Guessing())
    copies.commit(first("s", "1"))
    layers = LayeredStorage([copies, last])
    last.fail("read")
    record = layers.read_plain("s")
    assert Page().as_seen(record) == written(first("s", "1"))
    assert layers.is_likely("s", record.stamp) is False
    assert last.inner.asked == []


def test_a_last_layer_that_is_down_is_told_at_the_commit(layered, last):
    """A guess asks nobody, so that it says what it would have said; the save that trusts it fails as any other and keeps its work."""
    failing = FailingStorage(last)
    repo = bundle(LayeredStorage([MemoryStorage(), failing]))
    session = repo.load("s")
    session.add_message(Message.user("2"))
    failing.fail("commit")
    with pytest.raises(StorageUnavailable) as caught:
        repo.save(session)
    assert (caught.value.outcome, repo.storage.degraded, last.asked[-1][0]) == ("not applied", True, "s")
    repo.save(session)
    assert (repo.storage.degraded, texts(session)) == (False, ["1", "2"])


def test_a_wrong_guess_leaves_no_copy_behind(fast):
    """Somebody else committed below: what was tried is in no layer, and the save that looked then shows in all of them."""
    last = Guessing()
    repo, other = bundle(LayeredStorage([fast, last])), bundle(last)
    session = Session.new("s")
    repo.save(session)
    other.update("s", lambda session: session.add_message(Message.user("theirs")))
    session.add_message(Message.user("mine"))
    seen = []
    fast.always("was committed", lambda: seen.append((fast.inner.read("s").messages, last.read("s").messages)))
    repo.save(session)
    assert texts(session) == ["theirs", "mine"]
    assert [len(above) for above, below in seen if above == below] == [1, 2]  # what the look brought, and what was applied
    assert len(seen) == 2
    repo.cache.invalidate("s")
    assert texts(repo.load("s")) == ["theirs", "mine"]


def test_room_is_the_last_layers_and_of_the_thread(layered, last):
    """Entered and left by the thread that asked for it, whatever is raised within."""
    with pytest.raises(KeyError, match="within"), layered.alone("s"):
        assert last.rooms == [("in", "s", threading.get_ident())]
        raise KeyError("within")
    assert [step for step, _, _ in last.rooms] == ["in", "out"]


def test_nothing_above_is_touched_while_others_wait(layered, last, fast):
    """A layer above that hangs would keep all of them waiting. What is learned within is known all the same: nobody is shown
    less afterwards, and the copies come with the next load."""
    last.commit(later("s", 2, 1, "2"))
    with layered.alone("s"):
        assert Page().as_seen(layered.read("s")) == written(first("s", "1"), later("s", 2, 1, "2"))
        layered.commit(later("s", 3, 2, "3"))
        layered.read("nobody")
        assert fast.calls == []
    made = written(first("s", "1"), later("s", 2, 1, "2"), later("s", 3, 2, "3"))
    assert shown(layered) == made
    assert fast.inner.read("s").messages == tuple(made.messages)
    fast.calls.clear()
    assert (shown(layered), fast.calls) == (made, [("read", "s"), ("was read", "s")])


@pytest.mark.parametrize("do", [
    lambda layers: layers.read("s"), lambda layers: layers.read("nobody"), lambda layers: layers.commit(later("s", 2, 1, "2")),
    lambda layers: layers.commit(first("t", "1"))])
def test_nothing_goes_up_while_others_wait(layered, fast, do):
    """Neither a whole record nor a commit of any kind; nor is anything cleared away."""
    with layered.alone("s"):
        do(layered)
    assert fast.calls == []


def test_no_difference_goes_up_while_others_wait(layered, last, fast):
    """Nor a copy from the layer between: that one answers, and the first one is not filled."""
    stamp = layered.read("s").stamp
    last.commit(later("s", 2, 1, "2"))
    fast.calls.clear()
    with layered.alone("s"):
        assert isinstance(layered.read("s", stamp), Delta)
    assert fast.calls == []
    upper = MemoryStorage()
    layers = LayeredStorage([upper, MemoryStorage(), last])
    layers.read("s")
    upper.delete_record("s")
    with layers.alone("s"):
        layers.read_plain("s")
    assert upper.read("s") is None


def test_an_absence_met_within_is_remembered():
    """The copy above from an earlier process stays where it is, and is not served either when the last layer does not answer."""
    copies, last = MemoryStorage(), FailingStorage(Guessing())
    copies.commit(first("s", "1"))
    layers = LayeredStorage([copies, last])
    with layers.alone("s"):
        assert layers.read("s") is None
    last.fail("read")
    with pytest.raises(StorageUnavailable):
        layers.read_plain("s")
    assert copies.exists("s")


def test_only_who_is_alone_leaves_the_layers_above_alone(layered, last, fast):
    """Another thread's load fills them meanwhile, and so does this one's after the room, also after one within another."""
    fast.inner.delete_record("s")
    with layered.alone("s"):
        with layered.alone("t"):
            pass
        layered.read_plain("s")
        assert fast.inner.read("s") is None
        thread = threading.Thread(target=layered.read_plain, args=("s",))
        thread.start()
        thread.join(20)
        assert fast.inner.read("s") is not None
    fast.inner.delete_record("s")
    layered.read("s")
    assert fast.inner.read("s") is not None


def test_an_absence_met_within_shows_afterwards(layered, last, fast):
    """Somebody deleted it below; the copy above is not cleared away within, and is not believed either."""
    last.delete_record("s")
    with layered.alone("s"):
        assert layered.read("s") is None
        assert fast.calls == []
    assert (fast.inner.exists("s"), layered.read_plain("s")) == (True, None)


def test_a_last_layer_that_is_down_makes_no_room(layered, last):
    """`StorageUnavailable`, before anything within is done; the layers say that it does not answer, and that it does again."""
    last.fails = StorageUnavailable("be alone", reason="down")
    with pytest.raises(StorageUnavailable), layered.alone("s"):
        pytest.fail("there is no room")
    assert (layered.degraded, Page().as_seen(layered.read_plain("s"))) == (True, written(first("s", "1")))
    last.fails = None
    with layered.alone("s"):
        assert layered.degraded is False


@pytest.mark.parametrize("call", ["read", "commit"])
def test_a_layer_above_that_fails_costs_neither_a_guess_nor_a_room(last, call):
    """What it missed it is not asked for."""
    above = FailingStorage(MemoryStorage())
    layers = LayeredStorage([above, last], clock=ManualClock())
    stamp = layers.commit(first("s", "1"))
    above.fail(call, times=1000)
    assert layers.is_likely("s", stamp) is True
    with layers.alone("s"):
        layers.commit(later("s", 2, 1, "2"))
    assert shown(layers) == written(first("s", "1"), later("s", 2, 1, "2"))
