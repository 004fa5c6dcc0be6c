"""The JSON storage as its callers see it: commits, reads by stamp, listing, deleting, usage, what is refused."""

import errno
import json
import os
import stat
import threading

import pytest

from bamboo_sessions._files import Files
from bamboo_sessions.errors import (
    CorruptSession,
    InvalidSessionId,
    InvalidValue,
    LockTimeout,
    RevisionConflict,
    SessionNotFound,
    StorageError,
    StorageUnavailable,
    UnsupportedFormat,
)
from bamboo_sessions.storages.json_files import JsonFileStorage
from bamboo_sessions.storages.json_files import writer as writer_module
from bamboo_sessions.storages.protocol import (
    UNCHANGED,
    Change,
    Commit,
    Delta,
    Record,
    RecordStorage,
    SessionLocks,
    UsageLog,
)
from tests.unit.json_kit import (
    BIRTH,
    TIME,
    Counting,
    first,
    grown,
    journal_of,
    later,
    message,
    snapshot_of,
    state_of,
)


class LaterClock(Files):
    """A wall clock ten seconds ahead: every stamp is old enough to be trusted."""

    def wall_ns(self):
        return super().wall_ns() + 10 * 10**9


@pytest.fixture
def store(tmp_path):
    return JsonFileStorage(tmp_path / "store", durability="process")


@pytest.fixture
def settled(tmp_path):
    return JsonFileStorage(tmp_path / "store", durability="process", files=LaterClock())


# -- commits -----------------------------------------------------------------------------------------------------


def test_it_has_the_three_powers(store):
    """It is a record storage with locks across processes and a usage log."""
    assert isinstance(store, RecordStorage)
    assert isinstance(store, SessionLocks)
    assert isinstance(store, UsageLog)


@pytest.mark.usefixtures("damage_on_purpose")
def test_what_is_committed_is_read(store):
    """Messages come back byte for byte and in order, the head patched, the operations listed."""
    store.commit(first("a", message(0), message(1), title="t"))
    store.commit(later("a", 2, 1, message(7), message(8), head={"set": {"title": "u"}, "unset": ["updated_at"]}))
    record = store.read("a")
    assert state_of(record) == (2, [message(0), message(7), message(8)], ("op1", "op2"))
    assert record.head == {"id": "a", "birth": BIRTH, "title": "u", "created_at": TIME, "revision": 2}


def test_another_object_reads_the_same(store):
    """Nothing of a session lives in the storage object alone."""
    grown(store, "a", 5)
    assert state_of(JsonFileStorage(store.root).read("a")) == state_of(store.read("a"))


def test_reading_nothing_is_none(store):
    """Absence is an answer, not an error."""
    assert store.read("a") is None
    assert not store.exists("a")
    assert store.delete_record("a") is False


def test_a_commit_against_a_passed_revision_is_refused(store):
    """Expected (birth, revision) is compared with the disk, also where another object has moved it."""
    grown(store, "a", 3)
    grown_elsewhere = JsonFileStorage(store.root)
    grown_elsewhere.commit(later("a", 4, 3, message(3)))
    with pytest.raises(RevisionConflict) as caught:
        store.commit(later("a", 4, 3, message(9), op="other"))
    assert (caught.value.expected, caught.value.found) == ((BIRTH, 3), (BIRTH, 4))
    assert len(store.read("a").messages) == 4


@pytest.mark.parametrize("expected", [("other", 3), (BIRTH, 2)])
def test_birth_and_revision_both_count(store, expected):
    """A revision of another birth is another revision."""
    grown(store, "a", 3)
    with pytest.raises(RevisionConflict):
        store.commit(Commit("a", expected, Change(9, "x", 0, [], {})))


def test_a_first_commit_needs_the_name_free(store):
    """Two first commits: the second conflicts and names what it found."""
    store.commit(first("a", message(0)))
    with pytest.raises(RevisionConflict) as caught:
        store.commit(first("a", message(1), op="other", birth="b2"))
    assert caught.value.found == (BIRTH, 1)
    assert store.read("a").messages == [message(0)]


def test_a_commit_to_an_absent_session_conflicts(store):
    """Nothing is created by a commit that expects something."""
    with pytest.raises(RevisionConflict) as caught:
        store.commit(later("a", 2, 1))
    assert caught.value.found is None
    assert not store.exists("a")


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("revision", [1, 3])
def test_a_repeated_commit_is_applied_once(store, fresh, revision):
    """The newest operation, sent again by the same or another object, changes nothing."""
    before = state_of(grown(store, "a", revision))
    again = first("a", message(0)) if revision == 1 else later("a", 3, 2, message(2))
    (JsonFileStorage(store.root) if fresh else store).commit(again)
    assert state_of(store.read("a")) == before


@pytest.mark.parametrize(("revision", "keep"), [(4, 4), (4, -1), (3, 3), (2, 1)])
def test_changes_that_cannot_be_are_refused_loudly(store, revision, keep):
    """More kept than there is, or a revision that does not go up: an error of the caller, nothing is written."""
    grown(store, "a", 3)
    before = os.stat(journal_of(store, "a")).st_size
    with pytest.raises(ValueError):
        store.commit(Commit("a", (BIRTH, 3), Change(revision, "x", keep, [], {})))
    assert os.stat(journal_of(store, "a")).st_size == before


def test_a_line_break_in_a_message_is_refused(store):
    """It would end the journal's line; refused before a byte is written, at creation and later."""
    with pytest.raises(ValueError):
        store.commit(first("a", b'{\n"a":1}'))
    assert not store.exists("a")
    store.commit(first("a"))
    with pytest.raises(ValueError):
        store.commit(later("a", 2, 0, b'{"a":\n1}'))
    assert store.read("a").head["revision"] == 1


@pytest.mark.usefixtures("damage_on_purpose")
def test_unusual_line_breaks_inside_a_message_are_text(store):
    """U+2028, U+0085 and a form feed end no line."""
    odd = json.dumps("a\u2028b\u0085c\x1cd\x0ce", ensure_ascii=False).replace("\\u001c", "\x1c").encode()
    store.commit(first("a", odd))
    store.commit(later("a", 2, 1, odd))
    assert store.read("a").messages == [odd, odd]


def test_a_head_may_say_anything_that_json_can(store):
    """Keys and texts that look like the journal's own punctuation are nothing but text."""
    tricky = {"add": [1], "size": [9], "x": ',"add":[', "crc": '{"crc":"00000000",'}
    store.commit(first("a", message(0), metadata=tricky))
    store.commit(later("a", 2, 1, message(1), op='","size":[7],', head={"in": {"metadata": {"set": {"add": [2], "size": [3]}}}}))
    record = JsonFileStorage(store.root).read("a")
    assert record.head["metadata"] == {**tricky, "add": [2], "size": [3]}
    assert record.messages == [message(0), message(1)]
    assert record.ops[-1] == '","size":[7],'


def test_an_ordinary_append_costs_less_than_185_bytes(tmp_path):
    """One message of a turn: the journal grows by the message's own bytes and at most 185 more."""
    files = Counting()
    store = JsonFileStorage(tmp_path, files=files)
    store.commit(first("a", message(0)))
    for revision in range(2, 1200):
        store.commit(later("a", revision, revision - 1, message(revision, 0), op=f"operation{revision % 1000:03}"))
        if revision == 1100:
            files.reset()
            before = os.stat(journal_of(store, "a")).st_size
        if revision == 1101:
            assert files.written - len(message(revision, 0)) <= 185
            assert os.stat(journal_of(store, "a")).st_size - before == files.written


def test_an_append_is_one_open_one_write_one_sync(tmp_path):
    """The calls of an append-save by a writer whose line is the last one, counted."""
    files = Counting()
    store = JsonFileStorage(tmp_path, files=files)
    grown(store, "a", 3)
    files.reset()
    store.commit(later("a", 4, 3, message(3)))
    assert files.calls == {"open": 1, "fstat": 2, "read_at": 1, "write_at": 1, "sync": 1, "close": 1}


def test_process_durability_syncs_nothing_and_keeps_all(tmp_path):
    """`durability="process"` leaves out syncs and nothing else."""
    files = Counting()
    full = JsonFileStorage(tmp_path / "f", files=files)
    expected = state_of(grown(full, "a", 5))
    process = JsonFileStorage(tmp_path / "p", durability="process")
    assert not process._files.syncs
    assert state_of(grown(process, "a", 5)) == expected


# -- folding -----------------------------------------------------------------------------------------------------


def test_bytes_written_stay_within_three_times_bytes_said(tmp_path):
    """5 MB of appends, folds included, measured at the seam; and the journal never outgrows twice its snapshot."""
    files = Counting()
    store = JsonFileStorage(tmp_path, durability="process", files=files)
    counted = store._files
    store.commit(first("a", message(0, 1000)))
    counted.written = files.written = 0
    said = 0
    for revision in range(2, 5000):
        line = message(revision, 1000)
        store.commit(later("a", revision, revision - 1, line))
        said += len(line)
        limit = max(writer_module.FOLD_AT, 2 * os.stat(snapshot_of(store, "a")).st_size)
        assert os.stat(journal_of(store, "a")).st_size <= limit + 2000
    assert counted.written <= 3 * said
    assert len(store.read("a").messages) == 4999


def test_the_snapshot_is_one_readable_json_document(store):
    """What a person opens in an editor after a fold is JSON, with the head alone in the first line."""
    grown(store, "a", 400, size=400)
    with open(snapshot_of(store, "a"), "rb") as file:
        data = file.read()
    whole = json.loads(data)
    assert whole["messages"] == [json.loads(message(n, 400)) for n in range(whole["count"])]
    assert whole["count"] > 1
    top = json.loads(data.split(b"\n")[0].removesuffix(b",") + b"}")
    assert top["head"] == whole["head"]


def test_a_fold_that_fails_does_not_fail_the_commit(tmp_path, monkeypatch):
    """The commit is acknowledged, the failure logged; the fold comes later and the state is right throughout."""
    store = JsonFileStorage(tmp_path, durability="process")
    refuse = True

    def replace(self, place, path, data, kept=writer_module.Writer._replace):
        if refuse:
            raise OSError(errno.ENOSPC, "full")
        kept(self, place, path, data)

    monkeypatch.setattr(writer_module.Writer, "_replace", replace)
    grown(store, "a", 300, size=400)
    inode = os.stat(snapshot_of(store, "a")).st_ino
    refuse = False
    for revision in range(301, 600):
        store.commit(later("a", revision, revision - 1, message(revision - 1, 400)))
    assert os.stat(snapshot_of(store, "a")).st_ino != inode
    assert store.read("a").messages == [message(n, 400) for n in range(599)]


# -- stamps ------------------------------------------------------------------------------------------------------


def test_a_fold_cut_short_costs_readers_nothing(tmp_path, monkeypatch):
    """The snapshot is one ahead and nobody comes to finish: an unchanged read is one `stat` all the same."""
    store = JsonFileStorage(tmp_path, durability="process", files=LaterClock())
    grown(store, "a", 3)
    monkeypatch.setattr(store._writer, "_finish", lambda place, record: (_ for _ in ()).throw(OSError(errno.EIO, "cut")))
    with pytest.raises(OSError, match="cut"):
        store._writer._fold(store._place("a"))
    record = store.read("a")
    assert record.stamp.ahead
    assert store.read("a", record.stamp) is UNCHANGED
    JsonFileStorage(tmp_path).commit(later("a", 4, 3, message(3)))
    assert store.read("a", record.stamp).messages == [message(n) for n in range(4)]


def test_an_unchanged_read_is_one_stat(tmp_path):
    """With a trusted stamp: exactly one `stat`, no open, whatever the length."""
    files = Counting()
    store = JsonFileStorage(tmp_path, durability="full", files=files)
    record = grown(store, "a", 50)
    files.wall_ns = lambda: os.stat(journal_of(store, "a")).st_mtime_ns + 10**9
    stamp = store.read("a", record.stamp).stamp
    files.reset()
    assert store.read("a", stamp) is UNCHANGED
    assert files.calls == {"stat": 1}


def test_a_fresh_stamp_is_looked_at_once_more(tmp_path):
    """Within the file system's tick a stamp is not believed: the last line is read, and the answer is "nothing new"."""
    store = JsonFileStorage(tmp_path)
    store._files.wall_ns = lambda: 0
    record = grown(store, "a", 3)
    answer = store.read("a", record.stamp)
    assert isinstance(answer, Delta)
    assert answer.changes == ()
    assert not answer.stamp.trusted
    store._files.wall_ns = lambda: os.stat(journal_of(store, "a")).st_mtime_ns + 30 * 10**6
    answer = store.read("a", answer.stamp)
    assert answer.stamp.trusted
    assert store.read("a", answer.stamp) is UNCHANGED


def test_whole_second_times_are_trusted_after_two_seconds(tmp_path):
    """On a file system whose times are whole seconds, 20 ms prove nothing."""
    store = JsonFileStorage(tmp_path)
    grown(store, "a", 2)
    os.utime(journal_of(store, "a"), ns=(10**18, 10**18))
    store._files.wall_ns = lambda: 10**18 + 10**9
    assert not store.read("a").stamp.trusted
    store._files.wall_ns = lambda: 10**18 + 3 * 10**9
    assert store.read("a").stamp.trusted


def test_a_line_of_equal_length_in_the_same_tick_is_seen(tmp_path):
    """Undone and replaced by one of equal length, with the times put back: an untrusted stamp still notices."""
    store = JsonFileStorage(tmp_path)
    store._files.wall_ns = lambda: 0
    record = grown(store, "a", 3)
    before = os.stat(journal_of(store, "a"))
    other = JsonFileStorage(tmp_path)
    os.truncate(journal_of(store, "a"), record.stamp.start)
    other.commit(later("a", 3, 2, message(9), op="opX"))
    stamp = record.stamp
    os.utime(journal_of(store, "a"), ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(journal_of(store, "a")).st_size == stamp.size
    answer = store.read("a", stamp)
    assert isinstance(answer, Record)
    assert answer.messages[-1] == message(9)


def test_what_was_added_elsewhere_comes_as_a_delta(settled):
    """Only the new lines are read, and they follow the named state without a gap."""
    record = grown(settled, "a", 30)
    other = JsonFileStorage(settled.root)
    for revision in (31, 32):
        other.commit(later("a", revision, revision - 1, message(revision - 1)))
    answer = settled.read("a", record.stamp)
    assert isinstance(answer, Delta)
    assert [(c.revision, c.op, c.keep, list(c.add)) for c in answer.changes] == [
        (31, "op31", 30, [message(30)]), (32, "op32", 31, [message(31)])]
    assert settled.read("a", answer.stamp) is UNCHANGED


def test_a_delta_costs_the_bytes_that_are_new(tmp_path):
    """The reading behind a known stamp is flat in the session's length."""
    files = Counting()
    store = JsonFileStorage(tmp_path, files=files)
    stamp = grown(store, "a", 60, size=900).stamp
    other = JsonFileStorage(tmp_path)
    other.commit(later("a", 61, 60, message(60)))
    files.reset()
    read = []
    original = files.read_at
    files.read_at = lambda fd, size, offset: read.append(size) or original(fd, size, offset)
    assert isinstance(store.read("a", stamp), Delta)
    assert sum(read) <= (stamp.end - stamp.start) + 300


def test_a_fold_or_another_birth_is_answered_whole(settled):
    """A stamp of a journal that is gone gets the whole record, and of a deleted session gets None."""
    stamp = grown(settled, "a", 3).stamp
    other = JsonFileStorage(settled.root)
    assert other.delete_record("a")
    assert settled.read("a", stamp) is None
    other.commit(first("a", message(5), birth="another"))
    answer = settled.read("a", stamp)
    assert isinstance(answer, Record)
    assert answer.head["birth"] == "another"


def test_a_plain_save_over_another_birth_moves_the_birth(settled):
    """A change of the head may put one session in the place of another; what follows expects the new birth."""
    stamp = grown(settled, "a", 3).stamp
    settled.commit(later("a", 4, 0, message(9), head={"set": {"birth": "b2"}}))
    for storage in (settled, JsonFileStorage(settled.root)):
        with pytest.raises(RevisionConflict):
            storage.commit(later("a", 5, 1, message(10), op=f"x{id(storage)}"))
    assert settled.read("a", stamp).stamp.birth == "b2"
    JsonFileStorage(settled.root).commit(later("a", 5, 1, message(10), birth="b2"))
    assert settled.read("a").messages == [message(9), message(10)]


# -- deleting ----------------------------------------------------------------------------------------------------


def test_deleted_is_remembered_by_birth(store):
    """Also after the id was taken anew, and by another object; a birth that was never here was not deleted."""
    grown(store, "a", 3)
    assert not store.was_deleted("a", BIRTH)
    assert store.delete_record("a")
    store.commit(first("a", birth="second"))
    other = JsonFileStorage(store.root)
    assert other.was_deleted("a", BIRTH)
    assert not other.was_deleted("a", "second")
    assert not other.was_deleted("a", "never")
    assert not other.was_deleted("b", BIRTH)


def test_written_down_but_still_there_is_not_deleted(store, monkeypatch):
    """Killed between the tombstone and the rename: the session is there, so it was not deleted."""
    grown(store, "a", 3)
    monkeypatch.setattr(store._graves, "clear_away", lambda place: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
    with pytest.raises(StorageUnavailable) as caught:
        store.delete_record("a")
    assert caught.value.outcome == "not applied"
    assert not store.was_deleted("a", BIRTH)
    assert len(store.read("a").messages) == 3


def test_tombstones_are_bounded(store, monkeypatch):
    """The memory of a shard keeps the newest births, at least as many as it says, and forgets older ones."""
    monkeypatch.setattr("bamboo_sessions.storages.json_files.graves.KEPT", 10)
    monkeypatch.setattr("bamboo_sessions.storages.json_files.graves._LOOK_FROM", 0)
    for number in range(60):
        store.commit(first("a", birth=f"b{number}"))
        store.delete_record("a")
    remembered = [n for n in range(60) if store.was_deleted("a", f"b{n}")]
    assert remembered == list(range(remembered[0], 60))
    assert 10 <= len(remembered) <= 21


def test_nothing_stays_of_a_deleted_session(store):
    """The folder is gone, the trash is empty."""
    grown(store, "a", 3)
    store.delete_record("a")
    assert os.listdir(os.path.join(store.root, "trash")) == []
    assert not os.path.exists(os.path.dirname(journal_of(store, "a")))


def test_opening_sweeps_what_a_crash_left(tmp_path):
    """Trash goes at once, half-made sessions when they are old: a young one may be somebody's work."""
    store = JsonFileStorage(tmp_path)
    for name in ("trash/x", "new/old", "new/young"):
        os.makedirs(tmp_path / name)
        (tmp_path / name / "session.json").write_text("x")
    os.utime(tmp_path / "new/old", (1, 1))
    JsonFileStorage(tmp_path)
    assert os.listdir(tmp_path / "trash") == []
    assert os.listdir(tmp_path / "new") == ["young"]
    assert store.read("a") is None


# -- listing -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("damage_on_purpose")
def test_heads_tell_every_session_and_its_length(store):
    """Heads are those of the records; the count of messages follows keeps and additions."""
    for number in range(20):
        grown(store, f"s{number}", number + 1)
    store.commit(later("s9", 11, 3, message(1), head={"set": {"title": "new"}}))
    listed = {head["id"]: (head, count) for head, count in JsonFileStorage(store.root).heads()}
    expected = {f"s{n}": (store.read(f"s{n}").head, len(store.read(f"s{n}").messages)) for n in range(20)}
    assert listed == expected
    assert listed["s9"][1] == 4


def test_a_second_listing_costs_one_stat_a_session(tmp_path):
    """Nothing changed: one `stat` each and one listing per shard; a changed one is read again."""
    files = Counting()
    store = JsonFileStorage(tmp_path, files=files)
    for number in range(10):
        grown(store, f"s{number}", 3)
    files.wall_ns = lambda: os.stat(journal_of(store, "s9")).st_mtime_ns + 10**9
    assert len(list(store.heads())) == 10
    files.reset()
    assert len(list(store.heads())) == 10
    shards = len(os.listdir(tmp_path / "sessions"))
    assert files.calls == {"stat": 10 + shards, "listdir": 1 + shards}
    store.commit(later("s3", 4, 3, message(3), head={"set": {"title": "t"}}))
    assert {head.get("title") for head, _ in store.heads()} == {None, "t"}


def test_a_listing_forgets_who_is_gone(store):
    """P12: heads of sessions that were deleted, by this object or by another one, are not kept beyond the next listing."""
    for number in range(6):
        store.commit(first(str(number), message(0)))
    assert len(list(store.heads())) == 6
    store.delete_record("0")
    JsonFileStorage(store.root).delete_record("1")
    assert {head["id"] for head, _ in store.heads()} == {"2", "3", "4", "5"}
    assert sum(map(len, store._listing._kept.values())) == 4


@pytest.mark.usefixtures("damage_on_purpose")
def test_one_bad_session_hides_no_other(store):
    """A damaged session and a stray file are left out of the listing, which goes on."""
    for name in ("a", "b", "c"):
        grown(store, name, 2)
    with open(snapshot_of(store, "b"), "r+b") as file:
        file.write(b"#")
    open(os.path.join(store.root, "sessions", "stray"), "w").close()
    assert sorted(head["id"] for head, _ in store.heads()) == ["a", "c"]


# -- usage -------------------------------------------------------------------------------------------------------


def test_usage_lines_are_appended_whole(store):
    """From several objects, in order; a line torn by a crash is ended and kept, not mixed with the next."""
    grown(store, "a", 1)
    store.append_usage("a", b'{"n":1}')
    path = os.path.join(os.path.dirname(journal_of(store, "a")), "usage.jsonl")
    with open(path, "ab") as file:
        file.write(b'{"n":')
    JsonFileStorage(store.root).append_usage("a", b'{"n":2}')
    with open(path, "rb") as file:
        assert file.read() == b'{"n":1}\n{"n":\n{"n":2}\n'


def test_usage_of_no_session_is_not_found(store):
    """And makes no folder."""
    with pytest.raises(SessionNotFound):
        store.append_usage("a", b"{}")
    assert not store.exists("a")


@pytest.mark.parametrize("line", [b"", b"{", b"{}\n", b'{"a":\r1}', b"{}{}", b"\xff", b"nope"])
def test_usage_that_is_no_line_of_json_is_refused(store, line):
    """Before anything is written."""
    grown(store, "a", 1)
    with pytest.raises(InvalidValue):
        store.append_usage("a", line)
    assert not os.path.exists(os.path.join(os.path.dirname(journal_of(store, "a")), "usage.jsonl"))


# -- the store itself --------------------------------------------------------------------------------------------


def test_the_store_id_is_made_once(tmp_path):
    """Every object of one root tells the same id, two roots tell two; eight openers at once agree."""
    ids = []
    threads = [threading.Thread(target=lambda: ids.append(JsonFileStorage(tmp_path / "x" / "y").store_id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8
    assert len(set(ids)) == 1
    assert JsonFileStorage(tmp_path / "z").store_id != ids[0]


def test_files_are_private_and_an_existing_root_is_left_as_it_is(tmp_path):
    """0600 and 0700 for all that is made, whatever the umask; the root that was there keeps its mode."""
    tmp_path.chmod(0o755)
    old = os.umask(0)
    try:
        store = JsonFileStorage(tmp_path)
        grown(store, "a", 300, size=400)
        store.append_usage("a", b"{}")
        store.delete_record("a")
        grown(store, "a", 2)
    finally:
        os.umask(old)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    for folder, folders, files in os.walk(tmp_path):
        assert {stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode) for name in folders} <= {0o700}
        assert {stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode) for name in files} <= {0o600}


def test_a_shared_mode_survives_the_umask(tmp_path):
    """`mode=0o660` is what the files get, and folders may be entered by the same."""
    old = os.umask(0o077)
    try:
        store = JsonFileStorage(tmp_path / "s", mode=0o660)
        grown(store, "a", 300, size=400)
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(journal_of(store, "a")).st_mode) == 0o660
    assert stat.S_IMODE(os.stat(snapshot_of(store, "a")).st_mode) == 0o660
    assert stat.S_IMODE(os.stat(store._place("a").folder).st_mode) == 0o770
    assert stat.S_IMODE(os.stat(store.root).st_mode) == 0o770


@pytest.mark.usefixtures("damage_on_purpose")
@pytest.mark.parametrize(("text", "error"), [
    ('{"format":2,"store_id":"x"}', UnsupportedFormat), ('{"format":1}', StorageError), ("", StorageError),
    ("nonsense", StorageError), ('{"format":1,"store_id":7}', StorageError)])
def test_a_newer_or_damaged_store_is_refused(tmp_path, text, error):
    """With a clear error, and without being touched."""
    (tmp_path / "store.json").write_text(text)
    with pytest.raises(error):
        JsonFileStorage(tmp_path)
    assert os.listdir(tmp_path) == ["store.json"]
    assert (tmp_path / "store.json").read_text() == text


def test_sessions_without_a_store_file_get_no_new_id(tmp_path):
    """A lost `store.json` is damage: a new id would make every copy a foreign one."""
    store = JsonFileStorage(tmp_path)
    grown(store, "a", 2)
    (tmp_path / "store.json").unlink()
    with pytest.raises(StorageError, match=r"store\.json"):
        JsonFileStorage(tmp_path)


def test_a_root_that_is_a_file_is_unavailable(tmp_path):
    """Said at opening."""
    (tmp_path / "f").write_text("x")
    for root in (tmp_path / "f", tmp_path / "f" / "below"):
        with pytest.raises(StorageUnavailable):
            JsonFileStorage(root)


def test_a_vanished_root_is_no_absence(store, tmp_path):
    """A failure is never None: the whole store gone, or a session's files gone from their folder."""
    grown(store, "a", 2)
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    for call in (lambda: store.read("a"), lambda: store.read("never"), lambda: store.exists("never"),
                 lambda: store.commit(later("a", 3, 2)), lambda: store.append_usage("a", b"{}"), lambda: list(store.heads())):
        with pytest.raises(StorageUnavailable):
            call()


@pytest.mark.parametrize("name", ["session.json", "journal.jsonl"])
def test_a_folder_without_its_files_is_damage(store, name):
    """Not absence: a first save must not be written over it."""
    grown(store, "a", 2)
    os.unlink(os.path.join(store._place("a").folder, name))
    with pytest.raises(CorruptSession):
        store.read("a")
    with pytest.raises(CorruptSession):
        store.commit(first("a", op="x"))
    with pytest.raises(StorageError):
        JsonFileStorage(store.root).commit(later("a", 3, 2))
    assert store.delete_record("a")


@pytest.mark.parametrize("bad", ["", "a\0b", "x" * 513, "\ud800", 7])
def test_ids_that_name_nothing_are_refused(store, bad):
    """By every method, before the disk is looked at."""
    for call in (store.read, store.exists, store.delete_record):
        with pytest.raises(InvalidSessionId):
            call(bad)


@pytest.mark.usefixtures("damage_on_purpose")
def test_another_session_in_the_folder_is_not_handed_out(store):
    """The id inside is compared with the id that was asked for."""
    grown(store, "a", 2)
    os.makedirs(os.path.dirname(store._place("b").folder), exist_ok=True)
    os.rename(store._place("a").folder, store._place("b").folder)
    with pytest.raises(CorruptSession, match="holds the session 'a'"):
        store.read("b")


# -- links and rights --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("damage_on_purpose")
@pytest.mark.parametrize("what", ["folder", "shard", "journal", "snapshot"])
def test_symbolic_links_are_not_followed(store, tmp_path, what):
    """A link inside the store is an error, for readers and writers; what it points to is not touched."""
    grown(store, "a", 2)
    path = getattr(store._place("a"), what)
    os.rename(path, tmp_path / "moved")
    os.symlink(tmp_path / "moved", path)
    fresh = JsonFileStorage(store.root)
    with pytest.raises(StorageError):
        fresh.read("a")
    with pytest.raises(StorageError):
        fresh.commit(later("a", 3, 2))
    with pytest.raises(StorageError):
        fresh.commit(first("a", op="x"))


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EMFILE, errno.EIO])
def test_what_the_system_refuses_is_unavailable_with_its_cause(tmp_path, code):
    """Every errno becomes `StorageUnavailable`, never None and never a bare OSError."""
    store = JsonFileStorage(tmp_path)
    grown(store, "a", 2)

    def refuse(path, flags, mode=0o600):
        raise OSError(code, os.strerror(code), path)

    store._files.open = refuse
    for call in (lambda: store.read("a"), lambda: store.commit(later("a", 3, 2)), lambda: store.append_usage("a", b"{}")):
        with pytest.raises(StorageUnavailable) as caught:
            call()
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.session_id == "a"
        assert os.strerror(code) in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    """A store is opened and read there; a commit is refused."""
    grown(JsonFileStorage(tmp_path / "s"), "a", 2)
    for folder, _, _ in os.walk(tmp_path / "s"):
        os.chmod(folder, 0o500)
    store = JsonFileStorage(tmp_path / "s")
    assert len(store.read("a").messages) == 2
    with pytest.raises(StorageUnavailable):
        store.commit(first("b"))


# -- locks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("portable", [False, True])
def test_two_objects_exclude_each_other(tmp_path, portable):
    """A session's lock is one for all objects of the store; another session's is free."""
    one, other = (JsonFileStorage(tmp_path, portable_locks=portable) for _ in range(2))
    with one.lock("a", 1):
        with pytest.raises(LockTimeout):
            other.lock("a", 0.02).__enter__()
        with pytest.raises(LockTimeout):
            one.lock("a", 0.02).__enter__()
        with other.lock("b", 0.02):
            pass
    with other.lock("a", 1):
        pass


@pytest.mark.parametrize("portable", [False, True])
def test_locks_leave_nothing_behind(tmp_path, portable):
    """A thousand ids locked: no file and no table entry more than before."""
    store = JsonFileStorage(tmp_path, durability="process", portable_locks=portable)
    with store.lock("a", 1):
        pass
    before = sum(len(files) for _, _, files in os.walk(tmp_path))
    for number in range(200):
        with store.lock(f"s{number}", 1):
            pass
    assert sum(len(files) for _, _, files in os.walk(tmp_path)) == before
    assert len(store._outer) == len(store._busy) == len(store._held) == 0


@pytest.mark.usefixtures("damage_on_purpose")
@pytest.mark.parametrize("portable", [False, True])
def test_threads_that_do_not_lock_conflict_or_follow(tmp_path, portable):
    """Eight threads commit without `lock`, each retrying on a conflict: every acknowledged change is there."""
    store = JsonFileStorage(tmp_path, durability="process", portable_locks=portable)
    store.commit(first("a"))
    acknowledged = []

    def work(name):
        for number in range(15):
            while True:
                record = store.read("a")
                revision, count = record.head["revision"] + 1, len(record.messages)
                line = b'"%d-%d"' % (name, number)
                try:
                    store.commit(later("a", revision, count, line, op=f"{name}-{number}"))
                except RevisionConflict:
                    continue
                acknowledged.append(line)
                break

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(store.read("a").messages) == sorted(acknowledged)
    assert len(acknowledged) == 120


def test_times_are_text(store):
    """Nothing of the storage reads or writes a time: what the head says is what comes back."""
    grown(store, "a", 1)
    assert store.read("a").head["updated_at"] == TIME
