"""What the disk does to the JSON storage: every call failing once, dying at every call, power cuts, damage in place."""

import errno
import os
import shutil
from types import SimpleNamespace

import pytest

from bamboo_sessions._files import Files
from bamboo_sessions.errors import CorruptSession, RevisionConflict, StorageError, StorageUnavailable
from bamboo_sessions.storages.json_files import JsonFileStorage
from bamboo_sessions.storages.json_files import writer as writer_module
from bamboo_sessions.storages.json_files.layout import quarantine_in
from tests.unit.json_kit import (
    BIRTH,
    Died,
    Failing,
    PowerCut,
    first,
    grown,
    journal_of,
    later,
    message,
    snapshot_of,
    state_of,
)

SIZE = 300


@pytest.fixture(autouse=True)
def small_folds(monkeypatch):
    """Fold early, so that a short scenario has several."""
    monkeypatch.setattr(writer_module, "FOLD_AT", 2000)


def expected_state(revision):
    return revision, [message(n, SIZE) for n in range(revision)], tuple(f"op{n}" for n in range(1, revision + 1))[-64:]


def commit_of(revision):
    if revision == 1:
        return first("a", message(0, SIZE))
    return later("a", revision, revision - 1, message(revision - 1, SIZE))


# -- dying at every step -----------------------------------------------------------------------------------------

LAST = 20


def _run_until_dead(root, files, acknowledged):
    storage = JsonFileStorage(root, files=files)
    for revision in range(1, LAST + 1):
        storage.commit(commit_of(revision))
        acknowledged.append(revision)


@pytest.mark.parametrize("short", [False, True])
def test_death_at_any_call_loses_nothing(tmp_path, short):
    """Stopped before each changing call in turn (or in mid-write): all that was acknowledged is read by another
    process, at most the change in flight besides; and work goes on from there to the same end."""
    JsonFileStorage(tmp_path / "empty")
    deaths = 0
    for at in range(1, 1000):
        root = tmp_path / f"s{at}"
        shutil.copytree(tmp_path / "empty", root)
        files, acknowledged = Failing(at, dead=True, short=short), [0]
        try:
            _run_until_dead(root, files, acknowledged)
        except Died:
            deaths += 1
        else:
            break
        survivor = JsonFileStorage(root)
        found = survivor.read("a")
        revision = 0 if found is None else found.head["revision"]
        assert acknowledged[-1] <= revision <= acknowledged[-1] + 1, files.failed
        assert found is None or state_of(found) == expected_state(revision)
        for later_one in range(revision + 1, LAST + 1):
            survivor.commit(commit_of(later_one))
        assert state_of(JsonFileStorage(root).read("a")) == expected_state(LAST)
        assert sorted(h["revision"] for h, _ in survivor.heads()) == [LAST]
    assert deaths > 40


@pytest.mark.parametrize("reads", [True, False])
def test_a_second_writer_that_knew_the_journal_survives_a_death(tmp_path, reads):
    """The other writer has the very journal in mind that the dead one was about to fold (by reading what was new, or
    from its own last commit): its next commits go where readers look."""
    for at in range(1, 400):
        root = tmp_path / f"s{at}"
        alive = JsonFileStorage(root, durability="process")
        for revision in range(1, 4):
            stamp = alive.commit(commit_of(revision))
        files = Failing(at, dead=True)
        dead = JsonFileStorage(root, files=files)
        try:
            for revision in range(4, 12):
                dead.commit(commit_of(revision))
        except Died:
            pass
        else:
            break
        if reads:
            alive.read("a", stamp)
        revision = JsonFileStorage(root).read("a").head["revision"]
        for later_one in range(revision + 1, revision + 3):
            alive.commit(commit_of(later_one))
        assert state_of(JsonFileStorage(root).read("a")) == expected_state(revision + 2), files.failed
    assert at > 20


def test_death_while_deleting_is_all_or_nothing(tmp_path):
    """The session is whole, or gone and remembered; never a half of it."""
    for at in range(1, 40):
        root = tmp_path / f"s{at}"
        grown(JsonFileStorage(root), "a", 3)
        files = Failing(at, dead=True)
        try:
            JsonFileStorage(root, files=files).delete_record("a")
        except Died:
            pass
        else:
            break
        survivor = JsonFileStorage(root)
        found = survivor.read("a")
        assert survivor.was_deleted("a", BIRTH) is (found is None)
        assert found is None or len(found.messages) == 3
        survivor.commit(first("a", message(9), birth="b2") if found is None else later("a", 4, 3, message(3)))
    assert at >= 5


# -- failing at every step ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_an_error_at_any_call_is_told_and_survived(tmp_path, error, short):
    """Each changing call fails once: the commit raises and is not there ("not applied"), or it may be ("unknown"), or
    it was a fold's affair and nobody hears of it; the same object then goes on and the end is the same."""
    JsonFileStorage(tmp_path / "empty")
    told = []
    for at in range(1, 1000):
        root = tmp_path / f"s{at}"
        shutil.copytree(tmp_path / "empty", root)
        files = Failing(at, error=error, short=short)
        storage, judge = JsonFileStorage(root, files=files), JsonFileStorage(root)
        for revision in range(1, LAST + 1):
            try:
                storage.commit(commit_of(revision))
            except StorageUnavailable as failure:
                told.append(failure.outcome)
                found = JsonFileStorage(root).read("a")
                there = 0 if found is None else found.head["revision"]
                assert there in ((revision - 1,) if failure.outcome == "not applied" else (revision - 1, revision))  # noqa: PT017 - no error is right as well
                storage.commit(commit_of(revision))
            # By another object: a read by this one would renew what it knows, and hide that it should not have.
            assert state_of(judge.read("a")) == expected_state(revision), (at, files.failed)
        if not files.failed:
            break
        assert state_of(JsonFileStorage(root).read("a")) == expected_state(LAST)
    assert {"not applied", "unknown"} >= set(told)
    assert len(told) > 20


class BrokenDisk(Files):
    """Fails the calls named in `broken`, for as long as they are."""

    def __init__(self):
        self.broken = set()
        self.log = []

    def _try(self, name):
        self.log.append(name)
        if name in self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def sync(self, fd):
        self._try("sync")
        super().sync(fd)

    def truncate(self, fd, size):
        self._try("truncate")
        super().truncate(fd, size)

    def write_at(self, fd, data, offset):
        self._try("write_at")
        return super().write_at(fd, data, offset)


@pytest.mark.parametrize("then", ["again", "another", "again elsewhere"])
def test_a_commit_that_cannot_be_undone_is_unknown_and_stops_the_session(tmp_path, then):
    """Until both files were written anew nothing is appended; then the retry is recognised and applied once, also by a
    process that knows nothing of the failure, and another change goes on top."""
    disk = BrokenDisk()
    storage = JsonFileStorage(tmp_path, files=disk)
    grown(storage, "a", 3)
    files = journal_of(storage, "a"), snapshot_of(storage, "a")
    held = [open(path, "rb") for path in files]  # noqa: SIM115 - so that their inode numbers are not given out again
    inodes = {os.stat(path).st_ino for path in files}
    disk.broken = {"sync", "truncate"}
    with pytest.raises(StorageUnavailable) as caught:
        storage.commit(later("a", 4, 3, message(3)))
    assert caught.value.outcome == "unknown"
    if then == "again":
        disk.broken = {"sync"}
        with pytest.raises(StorageUnavailable) as caught:
            storage.commit(later("a", 4, 3, message(3)))
        assert caught.value.outcome == "unknown"  # still: the first attempt may be there
    disk.broken = set()
    last = 5 if then == "another" else 4
    (JsonFileStorage(tmp_path) if then == "again elsewhere" else storage).commit(
        later("a", last, last - 1, message(last - 1)))
    assert state_of(JsonFileStorage(tmp_path).read("a")) == (
        last, [message(n) for n in range(last)], tuple(f"op{n}" for n in range(1, last + 1)))
    assert not inodes & {os.stat(path).st_ino for path in files}
    for file in held:
        file.close()


class OneTick(Files):
    """A file system whose clock does not move: times tell nothing."""

    def fstat(self, fd):
        return self._still(super().fstat(fd))

    def stat(self, path):
        return self._still(super().stat(path))

    @staticmethod
    def _still(stat):
        return SimpleNamespace(st_ino=stat.st_ino, st_size=stat.st_size, st_mode=stat.st_mode, st_mtime_ns=1, st_ctime_ns=1)


def test_a_writer_whose_line_is_the_last_notices_a_rebuilding_that_was_cut_short(tmp_path):
    """Another process failed behind our line, undid it, began to write both files anew and died with the new snapshot
    in place, all within one tick: our next commit goes where readers look, not into the old journal."""
    alive = JsonFileStorage(tmp_path, files=OneTick())
    grown(alive, "a", 3)
    disk = BrokenDisk()
    other = JsonFileStorage(tmp_path, files=disk)
    disk.broken = {"sync"}
    with pytest.raises(StorageUnavailable):
        other.commit(later("a", 4, 3, message(8), op="lost"))
    disk.broken = set()

    def died(place, record):
        raise Died

    other._writer._finish = died
    with pytest.raises(Died):
        other.commit(later("a", 4, 3, message(8), op="lost"))
    alive.commit(later("a", 4, 3, message(3)))
    assert JsonFileStorage(tmp_path).read("a").messages == [message(n) for n in range(4)]


def test_a_failed_write_is_undone(tmp_path):
    """The line is cut off and the cut is synced; outcome "not applied", and the next commit goes through."""
    disk = BrokenDisk()
    storage = JsonFileStorage(tmp_path, files=disk)
    before = state_of(grown(storage, "a", 3))
    disk.broken, disk.log = {"write_at"}, []
    with pytest.raises(StorageUnavailable) as caught:
        storage.commit(later("a", 4, 3, message(3)))
    assert caught.value.outcome == "not applied"
    assert isinstance(caught.value.__cause__, OSError)
    assert disk.log == ["write_at", "truncate", "sync"]
    disk.broken = set()
    assert state_of(JsonFileStorage(tmp_path).read("a")) == before
    storage.commit(later("a", 4, 3, message(3)))
    assert len(storage.read("a").messages) == 4


def test_an_interrupt_in_mid_commit_leaves_no_half_line(tmp_path):
    """Ctrl-C between write and sync: undone like an error, and the interrupt goes on its way."""
    storage = JsonFileStorage(tmp_path)
    before = state_of(grown(storage, "a", 3))

    def interrupted(fd):
        del storage._files.sync
        raise KeyboardInterrupt

    storage._files.sync = interrupted
    with pytest.raises(KeyboardInterrupt):
        storage.commit(later("a", 4, 3, message(3)))
    assert state_of(JsonFileStorage(tmp_path).read("a")) == before
    with storage.lock("a", 0.1):
        storage.commit(later("a", 4, 3, message(3)))


def test_a_line_of_another_writer_is_written_again_before_ours(tmp_path):
    """Its sync may have failed and left it in the page cache alone: our sync must have it to write. Ours is not."""
    class Writes(Files):
        def __init__(self):
            self.seen = []

        def write_at(self, fd, data, offset):
            self.seen.append((offset, data))
            return super().write_at(fd, data, offset)

    files = Writes()
    one, other = JsonFileStorage(tmp_path, files=files), JsonFileStorage(tmp_path)
    grown(one, "a", 2)
    end = os.stat(journal_of(one, "a")).st_size
    other.commit(later("a", 3, 2, message(2)))
    with open(journal_of(one, "a"), "rb") as file:
        line = file.read()[end:]
    files.seen.clear()
    one.commit(later("a", 4, 3, message(3)))
    [(offset, data)] = files.seen
    assert offset == end
    assert data.startswith(line)
    files.seen.clear()
    end = os.stat(journal_of(one, "a")).st_size
    one.commit(later("a", 5, 4, message(4)))
    assert [offset for offset, _ in files.seen] == [end]


# -- power cuts --------------------------------------------------------------------------------------------------


def test_what_is_acknowledged_survives_a_power_cut(tmp_path):
    """On a disk that forgets every byte not synced and every name whose folder was not synced, after each step."""
    root = tmp_path / "store"
    root.mkdir()
    disk = PowerCut(str(root))
    storage = JsonFileStorage(root, files=disk)
    assert JsonFileStorage(disk.after_cut(tmp_path / "c0")).store_id == storage.store_id
    for revision in range(1, LAST + 1):
        storage.commit(commit_of(revision))
        after = JsonFileStorage(disk.after_cut(tmp_path / f"c{revision}"))
        assert state_of(after.read("a")) == expected_state(revision)
    storage.append_usage("a", b'{"n":1}')
    cut = JsonFileStorage(disk.after_cut(tmp_path / "usage"))
    with open(os.path.join(cut._place("a").folder, "usage.jsonl"), "rb") as file:
        assert file.read() == b'{"n":1}\n'
    storage.delete_record("a")
    after = JsonFileStorage(disk.after_cut(tmp_path / "deleted"))
    assert after.read("a") is None
    assert after.was_deleted("a", BIRTH)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_creation_whose_name_was_not_synced_is_unknown_until_it_was(tmp_path, elsewhere):
    """The folder has its name, its parent could not be synced: "unknown"; the same commit sent again, by this object or
    another, is acknowledged only when a power cut cannot take it back."""
    root = tmp_path / "store"
    root.mkdir()
    disk = PowerCut(str(root))
    storage = JsonFileStorage(root, files=disk)
    shard, broken = storage._place("a").shard, [True]
    whole = disk.sync_dir

    def sync_dir(path):
        if path == shard and broken:
            broken.pop()
            raise OSError(errno.EIO, "no")
        whole(path)

    disk.sync_dir = sync_dir
    with pytest.raises(StorageUnavailable) as caught:
        storage.commit(commit_of(1))
    assert caught.value.outcome == "unknown"
    assert JsonFileStorage(disk.after_cut(tmp_path / "before")).read("a") is None
    (JsonFileStorage(root, files=disk) if elsewhere else storage).commit(commit_of(1))
    assert state_of(JsonFileStorage(disk.after_cut(tmp_path / "after")).read("a")) == expected_state(1)


class Cutting(PowerCut):
    """Takes a picture of what a power cut would leave before every changing call."""

    def __init__(self, root):
        super().__init__(root)
        self.look = None

    def _picture(self):
        if self.look:
            self.look()


def _pictured(name):
    def call(self, *args, **kwargs):
        self._picture()
        return getattr(PowerCut, name)(self, *args, **kwargs)

    return call


for _name in ("write_at", "append", "truncate", "sync", "mkdir", "rename", "unlink", "sync_dir", "remove_tree"):
    setattr(Cutting, _name, _pictured(_name))


def test_a_power_cut_at_any_moment_leaves_a_whole_state(tmp_path):
    """Before every changing call of creation, appends, folds: the acknowledged state, or the one in flight."""
    root, cut = tmp_path / "store", tmp_path / "cut"
    root.mkdir()
    disk = Cutting(str(root))
    storage = JsonFileStorage(root, files=disk)
    acknowledged, pictures = 0, []

    def look():
        shutil.rmtree(cut, ignore_errors=True)
        found = JsonFileStorage(disk.after_cut(cut)).read("a")
        pictures.append(0 if found is None else found.head["revision"])
        assert acknowledged <= pictures[-1] <= acknowledged + 1
        assert found is None or state_of(found) == expected_state(pictures[-1])

    disk.look = look
    for revision in range(1, LAST + 1):
        storage.commit(commit_of(revision))
        acknowledged = revision
    assert len(pictures) > 50


# -- exchanged under a reader ------------------------------------------------------------------------------------


def _deleted_and_made_anew(storage):
    storage.delete_record("a")
    storage.commit(first("a", message(7), birth="b2"))


def _folded_twice(storage):
    for revision in range(4, 30):
        storage.commit(commit_of(revision))


def _deleted(storage):
    storage.delete_record("a")


@pytest.mark.parametrize("name", ["journal.jsonl", "session.json"])
@pytest.mark.parametrize("meanwhile", [_deleted_and_made_anew, _folded_twice, _deleted])
def test_files_exchanged_under_a_reader_are_read_again(tmp_path, meanwhile, name):
    """Just before it opens the one or the other file, the pair is replaced: the reader sees one whole state."""
    other = JsonFileStorage(tmp_path, durability="process")
    for revision in range(1, 4):
        other.commit(commit_of(revision))

    class Interrupted(Files):
        done = False

        def open(self, path, flags, mode=0o600):
            if path.endswith(name) and not self.done:
                self.done = True
                meanwhile(other)
            return super().open(path, flags, mode)

    found = JsonFileStorage(tmp_path, files=Interrupted()).read("a")
    assert state_of(found) == state_of(JsonFileStorage(tmp_path).read("a"))


# -- tails and damage --------------------------------------------------------------------------------------------


def test_a_torn_tail_is_quarantined_by_the_next_writer(tmp_path):
    """At every byte of the last line: readers see the state before, the writer moves the rest aside, says so, goes on."""
    storage = JsonFileStorage(tmp_path / "s", durability="process")
    stamp = grown(storage, "a", 3).stamp
    with open(journal_of(storage, "a"), "rb") as file:
        data = file.read()
    for end in range(stamp.start + 1, stamp.end):
        with open(journal_of(storage, "a"), "wb") as file:
            file.write(data[:end])
        fresh = JsonFileStorage(storage.root, durability="process")
        assert fresh.read("a").head["revision"] == 2
        assert fresh.tails_cut == 0
        fresh.commit(later("a", 3, 2, message(7)))
        assert fresh.tails_cut == 1
        assert fresh.read("a").messages == [message(0), message(1), message(7)]
        folder = quarantine_in(fresh._place("a").folder)
        [name] = os.listdir(folder)
        with open(os.path.join(folder, name), "rb") as file:
            assert file.read() == data[stamp.start : end]
        shutil.rmtree(folder)


def test_quarantine_is_bounded(tmp_path, monkeypatch):
    """The newest tails are kept."""
    monkeypatch.setattr(writer_module, "TAILS_KEPT", 5)
    storage = JsonFileStorage(tmp_path, durability="process")
    grown(storage, "a", 1)
    for revision in range(2, 20):
        with open(journal_of(storage, "a"), "ab") as file:
            file.write(b"torn")
        storage.commit(later("a", revision, revision - 1, message(revision)))
    assert len(os.listdir(quarantine_in(storage._place("a").folder))) == 5
    assert storage.tails_cut == 18


def test_no_flipped_byte_gives_a_wrong_answer(tmp_path):
    """Any one byte of either file: the right record, an error, or (the last line) the state before; for a fresh reader
    and for one that holds a stamp. A writer never writes over the damage."""
    storage = JsonFileStorage(tmp_path, durability="process")
    stamp = grown(storage, "a", 4).stamp
    right, before = state_of(storage.read("a")), (3, [message(n) for n in range(3)], ("op1", "op2", "op3"))
    for path in (journal_of(storage, "a"), snapshot_of(storage, "a")):
        with open(path, "rb") as file:
            data = file.read()
        in_tail = range(stamp.start, stamp.end) if path == journal_of(storage, "a") else range(0)
        for position in range(len(data)):
            broken = bytearray(data)
            broken[position] ^= 0x15
            with open(path, "wb") as file:
                file.write(broken)
            for known in (None, stamp):
                try:
                    answer = storage.read("a", known)
                except CorruptSession as error:
                    assert (error.path, position in in_tail) == (path, False)  # noqa: PT017 - no error is right as well
                    continue
                except StorageError:
                    continue
                if known is not None and not hasattr(answer, "messages"):
                    assert position not in in_tail  # the state that the stamp names is still the newest one
                    continue
                assert state_of(answer) in ([before] if position in in_tail else [right])
            if position not in in_tail and path == journal_of(storage, "a"):
                with pytest.raises(StorageError):
                    JsonFileStorage(tmp_path, durability="process").commit(later("a", 5, 4, message(4), op="new"))
                with open(path, "rb") as file:
                    assert file.read() == broken
        with open(path, "wb") as file:
            file.write(data)
    assert state_of(storage.read("a")) == right


@pytest.mark.usefixtures("damage_on_purpose")
def test_corruption_tells_where_and_hands_out_the_last_good_state(tmp_path):
    """Path, offset of the damaged line, reason; `last_good` is built from what stands in front of it."""
    storage = JsonFileStorage(tmp_path)
    handed = []
    storage._session_of = handed.append
    grown(storage, "a", 4)
    with open(journal_of(storage, "a"), "rb") as file:
        data = file.read()
    place = data.index(b'{"crc"', data.index(b'"op2"'))
    with open(journal_of(storage, "a"), "wb") as file:
        file.write(data[: place + 40] + b"#" + data[place + 41 :])
    with pytest.raises(CorruptSession) as caught:
        storage.read("a")
    assert (caught.value.path, caught.value.offset) == (journal_of(storage, "a"), place)
    assert [state_of(record) for record in handed] == [(2, [message(0), message(1)], ("op1", "op2"))]


@pytest.mark.usefixtures("damage_on_purpose")
def test_a_damaged_session_does_not_conflict_it_is_corrupt(tmp_path):
    """A first save over damage is neither absence nor a conflict."""
    storage = JsonFileStorage(tmp_path)
    grown(storage, "a", 2)
    with open(snapshot_of(storage, "a"), "r+b") as file:
        file.truncate(50)
    for commit in (first("a", op="x"), later("a", 3, 2)):
        with pytest.raises(StorageError) as caught:
            JsonFileStorage(tmp_path).commit(commit)
        assert not isinstance(caught.value, RevisionConflict)
