"""What the error torture found, each as the smallest story that shows it."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import orjson
import pytest

from bamboo_sessions import JsonFileStorage, Message, Session, SessionRepository, StorageUnavailable, _json, _locks
from bamboo_sessions._files import Files
from bamboo_sessions._holds import Holds
from bamboo_sessions._locks import RangeLocks
from tests.unit.json_kit import PowerCut, first, grown, later, message, state_of

pytestmark = pytest.mark.skipif(os.name == "nt", reason="descriptors and byte ranges of POSIX")


class Breaks(Files):
    """Fails the calls named in `broken`, for as long as they are; "close" closes before it fails."""

    def __init__(self):
        self.broken = set()

    def _try(self, name):
        if name in self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def close(self, fd):
        super().close(fd)
        self._try("close")

    def sync(self, fd):
        self._try("sync")
        super().sync(fd)

    def sync_dir(self, path):
        self._try("sync_dir")
        super().sync_dir(path)

    def truncate(self, fd, size):
        self._try("truncate")
        super().truncate(fd, size)


@pytest.fixture
def disk():
    return Breaks()


@pytest.fixture
def cut(tmp_path):
    """A disk that forgets what was not synced, and fails what is named in `broken`."""
    class Both(Breaks, PowerCut):
        def __init__(self, root):
            PowerCut.__init__(self, root)
            Breaks.__init__(self)

    os.mkdir(tmp_path / "store")
    return Both(str(tmp_path / "store"))


def test_a_close_that_fails_takes_nothing_back(tmp_path, disk):
    """The line was synced: the commit is acknowledged, whatever `close` says."""
    storage = JsonFileStorage(tmp_path, files=disk)
    grown(storage, "a", 2)
    disk.broken = {"close"}
    storage.commit(later("a", 3, 2, message(2)))
    disk.broken = set()
    assert state_of(storage.read("a"))[0] == 3


def test_a_bill_that_was_not_applied_does_not_show_up(tmp_path, disk):
    """The name of a new log cannot be synced: its line is taken back, and the caller may send it again."""
    storage = JsonFileStorage(tmp_path, files=disk)
    grown(storage, "a", 1)
    disk.broken = {"sync_dir"}
    with pytest.raises(StorageUnavailable) as caught:
        storage.append_usage("a", b'{"n":1}')
    assert caught.value.outcome == "not applied"
    path = os.path.join(storage._place("a").folder, "usage.jsonl")
    assert os.path.getsize(path) == 0
    disk.broken = {"sync", "truncate"}
    with pytest.raises(StorageUnavailable) as caught:
        storage.append_usage("a", b'{"n":1}')
    assert caught.value.outcome == "unknown"


def test_a_retry_is_acknowledged_only_when_its_line_is_durable(tmp_path, cut):
    """Neither synced nor undone, the line is in the page cache: to find it there is no reason to say "saved"."""
    with SessionRepository.open(cut.root, files=cut) as repo:
        session = Session.new("a")
        repo.save(session)
        session.add_message(Message.user("mine"))
        cut.broken = {"sync", "truncate"}
        for _ in range(2):
            with pytest.raises(StorageUnavailable) as caught:
                repo.save(session)
            assert caught.value.outcome == "unknown"
        cut.broken = set()
        repo.save(session)
        after = JsonFileStorage(cut.after_cut(tmp_path / "after")).load_session("a")
        assert [one.content for one in after.messages] == ["mine"]


def test_a_line_behind_a_fold_whose_name_was_not_synced_stays(tmp_path, cut):
    """The fold's last sync of the folder failed; the next line is acknowledged only in a journal that has its name."""
    storage = JsonFileStorage(cut.root, files=cut)
    grown(storage, "a", 3)
    writer, place = storage._writer, storage._place("a")
    whole, calls = cut.sync_dir, []

    def fails_second(path):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.EIO, "no")
        whole(path)

    cut.sync_dir = fails_second
    stamp = writer._folded(place, storage._tips.get("a").stamp)
    assert stamp is not None
    assert len(calls) == 2
    storage.commit(later("a", 4, 3, message(3)))
    assert state_of(JsonFileStorage(cut.after_cut(tmp_path / "after")).read("a"))[0] == 4


def test_there_is_none_is_durable_as_well(tmp_path, cut):
    """A removal whose name was not synced is "unknown"; asked again, "there is none" is a promise."""
    storage = JsonFileStorage(cut.root, files=cut)
    grown(storage, "a", 1)
    whole, shard = cut.sync_dir, storage._place("a").shard
    calls = []

    def fails_last(path):
        calls.append(path)
        if path == shard and calls.count(shard) == 2:
            raise OSError(errno.EIO, "no")
        whole(path)

    cut.sync_dir = fails_last
    with pytest.raises(StorageUnavailable) as caught:
        storage.delete_record("a")
    assert caught.value.outcome == "unknown"
    assert storage.delete_record("a") is False
    assert JsonFileStorage(cut.after_cut(tmp_path / "after")).read("a") is None


def test_the_names_of_a_store_are_durable_with_its_first_session(tmp_path, cut):
    """Whoever made the store failed before it synced the root; the first creation by somebody else does it."""
    whole = cut.sync_dir

    def not_the_root(path):
        if path != cut.root:
            whole(path)

    cut.sync_dir = not_the_root
    JsonFileStorage(cut.root, files=cut)
    cut.sync_dir = whole
    JsonFileStorage(cut.root, files=cut).commit(first("a", message(0)))
    assert state_of(JsonFileStorage(cut.after_cut(tmp_path / "after")).read("a"))[0] == 1


@pytest.mark.skipif(not _locks.HAS_RANGE_LOCKS, reason="byte ranges of Linux")
@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "no locks"), MemoryError()])
def test_an_unlock_that_fails_leaves_no_lock(tmp_path, error):
    """The kernel refuses it for want of memory: nobody hears of it, another object gets the lock, other holds stay."""
    one, other = RangeLocks(str(tmp_path / "locks")), RangeLocks(str(tmp_path / "locks"))
    assert one.acquire(1, 0)
    assert one.acquire(2, 0)
    whole = _locks._set_range

    def refuses(fd, what):
        if what == _locks._spelled(1).unlock:
            raise error
        return whole(fd, what)

    with patch.object(_locks, "_set_range", refuses):
        one.release(1)
    assert not other.acquire(2, 0)
    one.release(2)
    assert other.acquire(1, 0)
    assert other.acquire(2, 0)
    one.close()
    other.close()


def test_no_memory_to_parse_is_no_damage():
    """orjson calls both a decode error; only one of them says that bytes are wrong."""
    def starved(data):
        raise orjson.JSONDecodeError("Not enough memory to allocate buffer for parsing", "", 0)

    with patch.object(_json.orjson, "loads", starved), pytest.raises(MemoryError):
        _json.loads(b"{}")
    with pytest.raises(ValueError, match="unexpected"):
        _json.loads(b"{")


def test_a_bill_behind_a_doubtful_one_is_whole_and_has_a_name(tmp_path, cut):
    """The one before is neither synced nor undone, and its log is new: the next one is acknowledged with the log's name, on
    a line of its own."""
    storage = JsonFileStorage(cut.root, files=cut)
    grown(storage, "a", 1)
    cut.broken = {"sync", "truncate"}
    with pytest.raises(StorageUnavailable) as caught:
        storage.append_usage("a", b'{"n":1}')
    assert caught.value.outcome == "unknown"
    cut.broken = set()
    storage.append_usage("a", b'{"n":2}')
    place = JsonFileStorage(cut.after_cut(tmp_path / "after"))._place("a")
    assert b'{"n":2}' in Path(place.folder, "usage.jsonl").read_bytes().split(b"\n")


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
def test_a_hold_that_cannot_leave_its_context_gives_its_locks_back(error):
    """To leave it takes memory; the session must not stay locked for want of that."""
    class Starved:
        def __init__(self, inner):
            self.get, self.set = inner.get, inner.set

        def reset(self, token):
            raise error

    given_back = []

    @contextmanager
    def across(session_id, seconds):
        yield
        given_back.append(session_id)

    holds = Holds(across, 1.0)
    holds.within = Starved(holds.within)
    with pytest.raises(type(error)), holds.hold("a"):
        pass
    assert given_back == ["a"]
    assert len(holds) == 0


def test_threads_get_a_session_whose_process_lock_could_not_be_let_go(tmp_path):
    """What fails in between does not keep the thread's own lock."""
    storage = JsonFileStorage(tmp_path)
    with patch.object(storage._locks, "release", side_effect=MemoryError), pytest.raises(MemoryError), storage.lock("a", 1):
        pass
    assert "a" not in storage._outer
    assert "a" not in storage._held


@pytest.mark.usefixtures("damage_on_purpose")
def test_a_repair_told_not_applied_was_not_made(tmp_path):
    """Whichever look at a file fails, the last one included: then the damage is still there."""
    class Blind(Files):
        left = -1

        def _look(self):
            self.left -= 1
            if self.left == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        def fstat(self, fd):
            self._look()
            return super().fstat(fd)

        def stat(self, path):
            self._look()
            return super().stat(path)

    told = set()
    for number in range(1, 200):
        root, disk = tmp_path / str(number), Blind()
        storage = JsonFileStorage(root, files=disk)
        grown(storage, "a", 4)
        path = storage._place("a").journal
        data = bytearray(Path(path).read_bytes())
        data[len(data) // 2] ^= 1
        Path(path).write_bytes(data)
        disk.left = number
        try:
            made = storage.repair("a")
        except StorageUnavailable as error:
            told.add(error.outcome)
            if error.outcome == "not applied":
                assert any(one.severity == "damage" for one in JsonFileStorage(root).check("a")), number
        else:
            if disk.left > 0:
                assert made.changed
                break
    assert "not applied" in told
    assert disk.left > 0


def test_a_portable_lock_that_cannot_be_looked_at_is_no_timeout(tmp_path):
    """Nobody holds it: the file system failed, and that is what has to be said."""
    storage = JsonFileStorage(tmp_path, portable_locks=True)
    whole = os.stat

    def fails(path, *args, **options):
        if str(path).endswith(".lock"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return whole(path, *args, **options)

    with patch.object(_locks.os, "stat", fails), pytest.raises(StorageUnavailable), storage.lock("a", 0.2):
        pass
    with storage.lock("a", 0.2):
        pass
