"""A session of 100,000 messages: a turn costs what a turn says, not what the session holds.

Counted, not timed: calls and bytes at the file system's seam, objects by identity, memory by `tracemalloc`. One clock
stands at the end, with a bound so generous that only a cost which grows with the session can pass it.
"""

from __future__ import annotations

import gc
import time
import tracemalloc

import pytest

from bamboo_sessions import JsonFileStorage, LockedSessionStore, Message, Session, SessionCache, SessionRepository
from bamboo_sessions._files import Files

SHORT, LONG = 10, 100_000
TURNS = 40


class CountingFiles(Files):
    """The real files, and a list of (call, bytes) of everything that was asked of them."""

    def __init__(self):
        self.asked = []

    def note(self, call, size=0):
        self.asked.append((call, size))

    def append(self, fd, data):
        self.note("write", len(data))
        return super().append(fd, data)

    def write_at(self, fd, data, offset):
        self.note("write", len(data))
        return super().write_at(fd, data, offset)

    def read_at(self, fd, size, offset):
        data = super().read_at(fd, size, offset)
        self.note("read", len(data))
        return data


def _noting(name):
    def method(self, *args, **kwargs):
        self.note(name)
        return getattr(super(CountingFiles, self), name)(*args, **kwargs)

    return method


for _name in ("open", "close", "fstat", "truncate", "sync", "stat", "listdir", "rename", "unlink", "sync_dir"):
    setattr(CountingFiles, _name, _noting(_name))


class Subject:
    """A repository with one session of n messages, and what its calls cost."""

    def __init__(self, root, n):
        self.files = CountingFiles()
        storage = JsonFileStorage(root, durability="process", files=self.files)
        storage._files.syncs = False
        self.repo = SessionRepository(SessionCache(), storage, LockedSessionStore(storage))
        session = Session.new("long")
        for number in range(n):
            session.add_message(Message.user(f"message {number:06}"))
        self.repo.save(session)
        self.held = self.repo.load("long")
        for number in range(3):
            self.append(f"warm up {number}")

    def append(self, text="one turn"):
        self.held.add_message(Message.user(text))
        self.repo.save(self.held)

    def cost(self, work):
        """(calls in order, bytes written, bytes read) of one call."""
        asked = self.storage_files().asked
        del asked[:]
        work()
        return (tuple(call for call, _ in asked), sum(size for call, size in asked if call == "write"),
                sum(size for call, size in asked if call == "read"))

    def storage_files(self):
        """The counter that the storage really uses: it may have made a copy of the one it was given."""
        return self.repo.storage._files


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    """(short, long)."""
    made = [Subject(tmp_path_factory.mktemp("store") / "s", n) for n in (SHORT, LONG)]
    yield made
    for subject in made:
        subject.repo.close()


def usual(costs):
    """The turn that comes most often: now and then one folds the journal, which is counted beside."""
    calls = [cost[0] for cost in costs]
    often = max(set(calls), key=calls.count)
    return [cost for cost in costs if cost[0] == often]


def test_an_append_asks_the_same_of_the_disk_at_any_length(subjects):
    """The same calls in the same order, the same bytes but for the digits of larger numbers; a fold is rarer."""
    costs = [[subject.cost(subject.append) for _ in range(TURNS)] for subject in subjects]
    short, long = map(usual, costs)
    assert long[0][0] == short[0][0]
    assert len(long) >= len(short) >= TURNS // 2
    assert "write" in short[0][0]
    assert max(cost[1] for cost in long) <= min(cost[1] for cost in short) + 16
    assert max(cost[2] for cost in long) <= max(cost[2] for cost in short) + 16
    assert max(cost[1] for cost in long) < 800  # 200 bytes of frame, a small head and a message of some 80


def test_a_warm_load_asks_nothing_of_the_disk(subjects):
    """No call at all, at either length; and an unchanged `load_merged` the same few at both, reading nothing."""
    time.sleep(0.05)  # a stamp this young is not trusted: two clock ticks, see the page on files
    for subject in subjects:
        subject.repo.load_merged("long")
        assert subject.cost(lambda subject=subject: subject.repo.load("long")) == ((), 0, 0)
    short, long = (subject.cost(lambda subject=subject: subject.repo.load_merged("long")) for subject in subjects)
    assert long == short == (("stat",), 0, 0)


def test_no_list_is_copied_by_a_load_or_a_save(subjects):
    """All copies stand on one backing; a load and a turn at 100,000 messages need less memory than a list of them."""
    _, long = subjects
    before = long.repo.load("long").messages._backing
    assert long.repo.load("long").messages._backing is before
    long.append()
    assert long.held.messages._backing is before
    assert long.repo.load("long").messages._backing is before
    assert long.repo.load_merged("long").messages._backing is before
    assert long.repo.persistence.load("long").messages._backing is before
    peaks = [peak_of(work) for work in (lambda: long.repo.load("long"), long.append, long.append, long.append)]
    # The backing itself may have to grow once, by an eighth of its pointers; that is what three turns are for.
    assert peaks[0] < 5_000
    assert min(peaks[1:]) < 50_000 < LONG * 8


def peak_of(work):
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_turn_takes_about_as_long_as_in_a_short_session(subjects):
    """Best of several interleaved rounds; a list copied anywhere would be 100 times over the bound for loads."""
    for work, rounds in ((lambda subject: subject.repo.load("long"), 400), (lambda subject: subject.append(), 40)):
        best = [min(pair) for pair in zip(*[[timed(work, s) for s in subjects] for _ in range(rounds)], strict=True)]
        assert best[1] <= 4 * best[0]


def timed(work, subject):
    began = time.perf_counter_ns()
    work(subject)
    return time.perf_counter_ns() - began


def test_a_message_with_an_id_of_its_own_needs_no_walk_through_the_session(subjects):
    """Looking whether the id is there already costs the same at 100,000 messages: few ids are looked at."""
    short, long = (ids_looked_at(subject.repo.load("long")) for subject in subjects)
    assert long <= short + 50


def ids_looked_at(session):
    """How many ids an `add_message` looks at, after three that may have built whatever there is to build."""
    for number in range(3):
        session.add_message(Message.user("again", id=f"mine-{number}"))
    looked_at, read = [], Message.id.fget
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Message, "id", property(lambda message: (looked_at.append(1), read(message))[1]))
        session.add_message(Message.user("again", id="mine-3"))
    return len(looked_at)


def test_messages_of_a_long_session_are_all_there(subjects):
    """What the counts are about was really stored: another repository reads every one of them, in order."""
    for subject, n in zip(subjects, (SHORT, LONG), strict=True):
        with SessionRepository.open(subject.repo.storage.root) as other:
            messages = other.load("long").messages
            assert [message.content for message in messages[:n]] == [f"message {number:06}" for number in range(n)]
            assert messages == subject.held.messages
