"""What one operation of a repository costs, counted: calls and bytes at the file system's seam, locks, memory.

The twins of the benchmarks that no busy machine can make fail. What is flat in the length of a session is beside this, in
`test_long_session`; the calls of the storage alone in `test_json_storage`.
"""

from __future__ import annotations

import gc
import threading
import tracemalloc
from datetime import timedelta

import orjson
import pytest

from bamboo_sessions import JsonFileStorage, Message, Session, SessionCache
from tests.support import ManualClock, bundle
from tests.unit.json_kit import Counting

LATER_NS = 10**10
"""Ten seconds: a stamp of that age is trusted."""


class CountingReads(Counting):
    """And the bytes that are read. Its clock is late, so that every stamp is trusted at once."""

    def __init__(self):
        super().__init__()
        self.read = 0

    def reset(self):
        super().reset()
        self.read = 0

    def read_at(self, fd, size, offset):
        data = super().read_at(fd, size, offset)
        self.read += len(data)
        return data

    def wall_ns(self):
        return super().wall_ns() + LATER_NS


def said(number, size=1000):
    """A message as agents send them, its id of our own so that bytes can be counted."""
    return Message.assistant("x" * size, id=f"message-{number:08}", tool_calls=[
        {"id": f"call-{number:08}", "type": "function", "function": {"name": "read", "arguments": '{"path": "a/b"}'}}])


def conversation(n, size=1000, session_id="s"):
    session = Session.new(session_id, model="m", clock=ManualClock())
    for number in range(n):
        session.add_message(said(number, size))
    return session


def json_size(message):
    return len(orjson.dumps(message.to_dict()))


def opened(root, cache=None):
    """(repository, what it asks of the disk); with syncs, which are counted and not carried out."""
    files = CountingReads()
    files.syncs = False
    return bundle(JsonFileStorage(root, files=files), cache=cache), files


@pytest.fixture
def counted(tmp_path):
    repo, files = opened(tmp_path / "store")
    repo.save(conversation(20))
    yield repo, files
    repo.close()


def turn(repo, number, size=1000):
    """Somebody adds one message to the newest state."""
    session = repo.load_merged("s")
    message = said(number, size)
    session.add_message(message)
    repo.save(session)
    return message


# -- calls and bytes ------------------------------------------------------------------------------------------------


def test_a_turn_is_one_write_and_one_sync(counted):
    """The journal is opened once, written once, synced once and closed; what else is asked are looks, three at most."""
    repo, files = counted
    session = repo.load("s")
    for number in range(100, 103):
        session.add_message(said(number))
        files.reset()
        repo.save(session)
        looks = {name: files.calls.pop(name, 0) for name in ("stat", "fstat", "read_at")}
        assert files.calls == {"open": 1, "write_at": 1, "sync": 1, "close": 1}
        assert looks["stat"] + looks["fstat"] <= 3
        assert (looks["read_at"], files.read) <= (1, 100)


@pytest.mark.parametrize("size", [10, 1000, 50_000])
def test_a_turn_writes_little_more_than_what_it_says(counted, size):
    """At most 1.15 times the message's JSON and 200 bytes, by the writer whose line is the last one."""
    repo, files = counted
    for number in range(100, 110):
        session, message = repo.load("s"), said(number, size)
        session.add_message(message)
        files.reset()
        repo.save(session)
        if "rename" not in files.calls:  # else the journal was folded: see the amplification below
            assert files.written <= 1.15 * json_size(message) + 200


def test_a_save_of_nothing_writes_nothing(counted):
    """A loaded copy that was only looked at: looks, and neither a write nor a sync nor an open."""
    repo, files = counted
    session = repo.load("s")
    assert session.messages[0].content == "x" * 1000
    files.reset()
    repo.save(session)
    assert set(files.calls) <= {"stat"}


@pytest.mark.parametrize("n", [20, 2000])
def test_what_was_added_elsewhere_costs_its_own_line(tmp_path, n):
    """`load_merged` reads that line and the one before it, by which it knows the place; at any length."""
    repo, files = opened(tmp_path / "store")
    other, _ = opened(tmp_path / "store")
    repo.save(conversation(n))
    line = 1.15 * json_size(turn(other, n)) + 200
    repo.load_merged("s")
    for number in range(n + 1, n + 4):
        turn(other, number)
        files.reset()
        assert len(repo.load_merged("s").messages) == number + 1
        assert files.read <= 2 * line
        assert (files.calls["open"], files.calls["read_at"], files.calls["close"], files.written) == (1, 1, 1, 0)
        assert set(files.calls) <= {"open", "read_at", "close", "stat", "fstat"}
    files.reset()
    repo.load_merged("s")
    assert files.calls == {"stat": 1}


def test_a_turn_behind_somebody_elses_writes_his_line_once_more(counted, tmp_path):
    """And reads it: one line each way, whatever the length, for the sake of a sync that may have failed over there."""
    repo, files = counted
    other, _ = opened(tmp_path / "store")
    line = 1.15 * json_size(turn(other, 100)) + 200
    session = repo.load_merged("s")
    session.add_message(said(101))
    files.reset()
    repo.save(session)
    assert line < files.written <= 2 * line
    assert files.read <= 3 * line
    assert (files.calls["write_at"], files.calls["sync"]) == (1, 1)


def test_a_cold_load_reads_each_byte_once(tmp_path):
    """Two files, each opened once; nothing is read twice and nothing is listed."""
    repo, files = opened(tmp_path / "store")
    repo.save(conversation(50))
    turn(repo, 50)
    place = repo.storage._place("s")
    on_disk = sum(files.stat(path).st_size for path in (place.snapshot, place.journal))
    repo.cache.invalidate("s")
    files.reset()
    assert len(repo.load("s").messages) == 51
    assert (files.calls["open"], files.calls["close"], files.read) == (2, 2, on_disk)
    assert set(files.calls) <= {"open", "close", "fstat", "stat", "read_at"}


def test_a_long_conversation_is_written_at_most_three_times(tmp_path):
    """Every byte that reaches the disk from the first message to the last, folds included, against what was said."""
    repo, files = opened(tmp_path / "store")
    repo.save(conversation(1))
    session, words, folds = repo.load("s"), 0, 0
    for number in range(1, 1500):
        message = said(number)
        words += json_size(message)
        session.add_message(message)
        repo.save(session)
        if number % 10 == 0:
            repo.set_title("s", f"title {number}")
            repo.load("s").metadata["step"] = number
        folds += "rename" in files.calls
        files.calls.clear()
    assert folds >= 3
    assert files.written <= 3 * words
    fresh, _ = opened(tmp_path / "store")
    assert len(fresh.load("s").messages) == 1500


# -- locks ----------------------------------------------------------------------------------------------------------


class CountingLock:
    """A lock that notes its takings."""

    taken = 0

    def __init__(self):
        self._lock = _lock()

    def acquire(self, *args, **kwargs):
        CountingLock.taken += 1
        return self._lock.acquire(*args, **kwargs)

    def release(self):
        self._lock.release()

    def locked(self):
        return self._lock.locked()

    def __enter__(self):
        return self.acquire()

    def __exit__(self, *_):
        self.release()


_lock = threading.Lock


@pytest.mark.parametrize("ttl", [None, timedelta(hours=1)])
def test_a_hit_takes_no_lock_at_all(tmp_path, monkeypatch, ttl):
    """Every lock of cache, store, storage and session is a counting one; a hit and an unchanged `load_merged` take none."""
    monkeypatch.setattr(threading, "Lock", CountingLock)
    repo, _ = opened(tmp_path / "store", SessionCache(10, ttl))
    repo.save(conversation(5))
    before = CountingLock.taken
    assert before > 0
    for _ in range(10):
        assert len(repo.load("s").messages) == 5
        assert len(repo.load_merged("s").messages) == 5
    assert CountingLock.taken == before


# -- memory ---------------------------------------------------------------------------------------------------------


def allocated(work):
    """Bytes that stay allocated with what `work` gives, after the first time."""
    work()
    gc.collect()
    gc.disable()
    try:
        tracemalloc.start()
        kept = work()
        size = tracemalloc.get_traced_memory()[0]
        del kept
    finally:
        tracemalloc.stop()
        gc.enable()
    return size


def test_a_warm_load_allocates_the_same_at_any_length(tmp_path):
    """A hundred loaded copies of 10 messages and of 5,000 take the same memory: some hundred bytes each."""
    sizes = []
    for n in (10, 5000):
        repo, _ = opened(tmp_path / f"store-{n}")
        repo.save(conversation(n, size=10))
        sizes.append(allocated(lambda repo=repo: [repo.load("s") for _ in range(100)]))
    assert abs(sizes[0] - sizes[1]) <= 100
    assert sizes[0] <= 100 * 300


def test_a_message_that_is_only_read_leaves_nothing_in_the_cache(tmp_path):
    """Thousands of tries of load, add and drop: the next load is what it was, and so is the memory."""
    repo, _ = opened(tmp_path / "store")
    repo.save(conversation(10))
    message = said(10)

    def tried_out(times):
        for _ in range(times):
            repo.load("s").add_message(message)

    few, many = (allocated(lambda times=times: tried_out(times)) for times in (100, 5000))
    assert many <= few + 2000
    assert len(repo.load("s").messages) == 10


@pytest.mark.parametrize(("size", "most"), [(1000, 1.2), (250, 1.4)])
def test_a_cached_message_takes_little_more_than_its_json(tmp_path, size, most):
    """What a cold load leaves behind, per message, against the bytes of its chat form."""
    repo, _ = opened(tmp_path / "store")
    session = conversation(1000, size)
    repo.save(session)
    words = sum(map(json_size, session.messages))
    fresh, _ = opened(tmp_path / "store")
    fresh.exists("s")
    gc.collect()
    tracemalloc.start()
    try:
        fresh.load("s")
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] <= most * words
    finally:
        tracemalloc.stop()


def test_a_listed_session_takes_a_kilobyte_or_two(tmp_path):
    """What a listing keeps of each session for the next one: the head's JSON and a stamp."""
    repo, _ = opened(tmp_path / "store")
    for number in range(200):
        repo.save(conversation(1, session_id=f"s-{number}"))
    tracemalloc.start()
    try:
        assert len(list(repo.storage.heads())) == 200
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] <= 200 * 2500
    finally:
        tracemalloc.stop()
