"""Locks by key between threads and between processes: exclusion, deadlines, fairness, nothing left behind, fork."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from bamboo_sessions import _locks
from bamboo_sessions._locks import FileLocks, KeyedLocks, RangeLocks, poll

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
needs_ranges = pytest.mark.skipif(not _locks.HAS_RANGE_LOCKS, reason="the kernel has no open file description locks")


# -- threads -----------------------------------------------------------------------------------------------------


def test_one_key_excludes_and_others_do_not():
    """A held key is refused at the deadline, another one is free."""
    locks = KeyedLocks()
    with locks.hold("a", 1):
        with pytest.raises(TimeoutError):
            locks.hold("a", 0.01).__enter__()
        with locks.hold("b", 0):
            assert len(locks) == 2
    with locks.hold("a", 0):
        pass


def test_the_table_is_empty_when_nobody_holds_or_waits():
    """Eight threads over three keys, with time-outs among them: no entry is left, and no increment is lost."""
    locks, counts = KeyedLocks(), {"a": 0, "b": 0, "c": 0}

    def work():
        for number in range(300):
            key = "abc"[number % 3]
            with locks.hold(key, 30):
                seen = counts[key]
                if locks.acquire(key, 0) is not None:
                    raise AssertionError("granted twice")
                counts[key] = seen + 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts.values()) == 8 * 300
    assert len(locks) == 0


def test_first_come_first_served():
    """Waiters get the key in the order in which they came, and a thread that lets go and comes again queues behind."""
    locks, order, queued = KeyedLocks(), [], []
    token = locks.acquire("k", 1)
    threads = []
    for name in range(5):
        thread = threading.Thread(target=lambda name=name: _take(locks, order, name))
        thread.start()
        threads.append(thread)
        while len(locks._waiting["k"] or ()) <= name:
            time.sleep(0)
    locks.release("k", token)
    _take(locks, order, "again")
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4, "again"]
    assert not queued


def _take(locks, order, name):
    with locks.hold("k", 30):
        order.append(name)


def test_a_hold_belongs_to_no_thread():
    """Taken on one thread, released on another."""
    locks = KeyedLocks()
    token = locks.acquire("a", 1)
    thread = threading.Thread(target=locks.release, args=("a", token))
    thread.start()
    thread.join()
    with locks.hold("a", 0):
        pass


def test_a_wait_ends_under_frozen_time():
    """A test that freezes `time.monotonic` must not hang a lock."""
    freezegun = pytest.importorskip("freezegun")
    locks = KeyedLocks()
    with locks.hold("a", 1), freezegun.freeze_time("2026-01-01"):
        assert locks.acquire("a", 0.01) is None
        assert poll(lambda: False, 0.01) is False


def test_a_key_handed_over_at_the_deadline_is_not_lost():
    """The holder lets go just as the waiter gives up: the waiter takes what it was given, or it goes to the next."""
    for _ in range(300):
        locks = KeyedLocks()
        token = locks.acquire("a", 1)
        got = []
        thread = threading.Thread(target=lambda locks=locks, got=got: got.append(locks.acquire("a", 0.0002)))
        thread.start()
        time.sleep(0.0002)
        locks.release("a", token)
        thread.join()
        if got[0] is not None:
            locks.release("a", got[0])
        assert len(locks) == 0


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_starts_with_an_empty_table():
    """What threads of the parent hold is free in the child, and ending an inherited hold there does no harm."""
    locks = KeyedLocks()
    token = locks.acquire("a", 1)

    def child():
        mine = locks.acquire("a", 1)
        locks.release("a", token)  # the parent's
        return mine is not None and locks.acquire("a", 0) is None

    assert _in_child(child)
    assert locks.acquire("a", 0) is None


def _in_child(function):
    """Whether `function` gave True in a forked child."""
    pid = os.fork()
    if not pid:
        result = False
        try:
            result = function()
        finally:
            os._exit(0 if result is True else 1)
    return os.waitpid(pid, 0)[1] == 0


# -- processes ---------------------------------------------------------------------------------------------------


def _ranges(tmp_path):
    return RangeLocks(str(tmp_path / "locks"))


def _files(tmp_path):
    (tmp_path / "locks.d").mkdir(exist_ok=True)
    return FileLocks(str(tmp_path / "locks.d"))


KINDS = pytest.mark.parametrize("make", [pytest.param(_ranges, marks=needs_ranges), _files])


@KINDS
def test_two_holders_exclude_each_other(tmp_path, make):
    """Per number, with a deadline, also under frozen time."""
    freezegun = pytest.importorskip("freezegun")
    one, other = make(tmp_path), make(tmp_path)
    assert one.acquire(5, 1)
    assert other.acquire(6, 1)
    assert not other.acquire(5, 0.02)
    with freezegun.freeze_time("2026-01-01"):
        assert not other.acquire(5, 0.02)
    one.release(5)
    assert other.acquire(5, 1)
    other.release(5)
    other.release(6)


@KINDS
@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_neither_holds_nor_drops_the_lock(tmp_path, make):
    """The child waits like anybody else, its end changes nothing, and the parent's release is enough."""
    locks = make(tmp_path)
    assert locks.acquire(5, 1)

    def child():
        denied = not locks.acquire(5, 0.02)
        locks.release(5)
        return denied and not locks.acquire(5, 0.02)

    assert _in_child(child)
    assert not make(tmp_path).acquire(5, 0.02)
    gate = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(gate[1])
        os.read(gate[0], 1)  # outlive the parent's release
        os._exit(0)
    locks.release(5)
    assert make(tmp_path).acquire(5, 0.2)
    os.close(gate[1])
    os.waitpid(pid, 0)
    os.close(gate[0])


HOLDER = """
import sys
from bamboo_sessions._locks import RangeLocks, FileLocks
locks = {kind}({path!r})
assert locks.acquire(5, 5)
print("held", flush=True)
sys.stdin.read()
"""


def _holder(make, tmp_path):
    kind, path = ("RangeLocks", tmp_path / "locks") if make is _ranges else ("FileLocks", tmp_path / "locks.d")
    make(tmp_path)
    script = HOLDER.format(kind=kind, path=str(path))
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


@KINDS
def test_a_killed_holder_holds_nothing(tmp_path, make):
    """Another process excludes us while it lives, and not a moment longer."""
    locks, process = make(tmp_path), _holder(make, tmp_path)
    assert not locks.acquire(5, 0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert locks.acquire(5, 1)
    locks.release(5)


COUNTER = textwrap.dedent("""
    import sys
    from bamboo_sessions._locks import RangeLocks, FileLocks
    locks, path = {kind}({lock!r}), {path!r}
    for _ in range({times}):
        assert locks.acquire(5, 30)
        with open(path) as file:
            number = int(file.read())
        with open(path, "w") as file:
            file.write(str(number + 1))
        locks.release(5)
""")


@KINDS
def test_processes_lose_no_increment(tmp_path, make):
    """Four processes count in one file, reading and writing it under the lock."""
    (tmp_path / "n").write_text("0")
    make(tmp_path)
    kind, lock, times = ("RangeLocks", "locks", 300) if make is _ranges else ("FileLocks", "locks.d", 50)
    script = COUNTER.format(kind=kind, lock=str(tmp_path / lock), path=str(tmp_path / "n"), times=times)
    processes = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    assert (tmp_path / "n").read_text() == str(4 * times)


HOG = """
import os, sys, time
from bamboo_sessions._locks import RangeLocks
locks, counter, rounds = RangeLocks({lock!r}), os.open({path!r}, os.O_RDWR | os.O_CREAT), 0
while os.getppid() == {parent}:
    assert locks.acquire(5, 30)
    time.sleep(0.001)
    rounds += 1
    os.pwrite(counter, b"%9d" % rounds, 0)
    locks.release(5)
"""


@needs_ranges
def test_a_waiter_is_not_starved_by_one_who_comes_again_at_once(tmp_path):
    """Another process lets go and takes again in a tight loop: a waiter gets its turn within a few of its rounds."""
    locks, path = _ranges(tmp_path), tmp_path / "rounds"
    path.write_text("0")
    script = HOG.format(lock=str(tmp_path / "locks"), path=str(path), parent=os.getpid())
    process, waits = subprocess.Popen([sys.executable, "-c", script]), []
    try:
        while int(path.read_text()) < 5:
            time.sleep(0.001)
        for _ in range(21):
            begun = int(path.read_text())
            assert locks.acquire(5, 30)
            waits.append(int(path.read_text()) - begun)
            locks.release(5)
            time.sleep(0.003)  # let the other one come to hold it again
    finally:
        process.kill()
        process.wait()
    assert sorted(waits)[10] <= 3


@needs_ranges
def test_a_lock_file_that_was_removed_excludes_nobody_and_is_made_anew(tmp_path):
    """The folder was cleared under a running process: it must meet the others at the new file."""
    one, other = _ranges(tmp_path), _ranges(tmp_path)
    assert one.acquire(1, 1)
    one.release(1)
    os.unlink(tmp_path / "locks")
    assert other.acquire(5, 1)
    assert not one.acquire(5, 0.02)


def test_lock_files_go_with_their_holders(tmp_path):
    """Nothing grows with the keys ever locked."""
    locks = _files(tmp_path)
    for number in range(50):
        assert locks.acquire(number, 1)
        locks.release(number)
    assert os.listdir(tmp_path / "locks.d") == []


def test_a_lock_file_exchanged_while_it_was_being_locked_is_not_believed(tmp_path, monkeypatch):
    """The file that we opened lost its name before we had it locked: locking it excludes nobody, so we try again."""
    locks, native = _files(tmp_path), _locks._native_lock
    exchanged = []

    def unlinked(path, mode):
        lock = native(path, mode)
        if not exchanged:
            acquire = lock.acquire

            def and_gone(**how):
                acquire(**how)
                os.unlink(path)
                exchanged.append(path)

            lock.acquire = and_gone
        return lock

    monkeypatch.setattr(_locks, "_native_lock", unlinked)
    assert locks.acquire(5, 1)
    assert exchanged
    monkeypatch.undo()
    assert not _files(tmp_path).acquire(5, 0.02)


@needs_ranges
def test_descriptors_stay_few(tmp_path):
    """One for all numbers, closed on exec, none after close."""
    locks = _ranges(tmp_path)
    for number in range(100):
        locks.acquire(number, 1)
    assert not os.get_inheritable(locks._fd)
    before = len(os.listdir("/proc/self/fd"))
    locks.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1
