"""What a check finds: each kind of damage done to a real store, and exactly that finding; and nothing in a healthy one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading

import orjson
import pytest

from bamboo_sessions import (
    JsonFileStorage,
    MemoryStorage,
    Message,
    Session,
    SessionNotFound,
    StorageError,
    StorageUnavailable,
)
from bamboo_sessions._files import Files
from bamboo_sessions.codec import encode_head
from bamboo_sessions.storages.json_files import journal, lines, snapshot
from bamboo_sessions.storages.json_files.layout import decode_id, encode_id, graves_in, usage_in
from bamboo_sessions.storages.protocol import Change
from tests.support import WholeSessions, bundle
from tests.unit.json_kit import BIRTH, first, grown, message

DAMAGE, LEFTOVER = "damage", "leftover"


def store_of(root, revisions=4):
    """A session `a` whose revision n has n messages: one in the snapshot, the rest in the journal."""
    storage = JsonFileStorage(root)
    grown(storage, "a", revisions)
    return storage


@pytest.fixture
def store(tmp_path, damage_on_purpose):
    storage = store_of(tmp_path / "store")
    yield storage
    storage.close()


@pytest.fixture
def place(store):
    return store._place("a")


def found(storage, session_id=None):
    """Findings as (kind, path, offset, since, severity); that time stands still in the kit's commits is no matter here."""
    return [(one.kind, one.path, one.offset, one.since, one.severity) for one in storage.check(session_id)
            if one.kind != "time-not-forward"]


def flip(path, at):
    data = bytearray(read(path))
    data[at] ^= 1
    write(path, bytes(data))


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def line_starts(path):
    data = read(path)
    return [0, *(at + 1 for at, byte in enumerate(data) if byte == 10)][:-1]


def rechain(place, *changes, drop=None):
    """The journal with further lines whose checksums are right, whatever they say."""
    data = read(place.journal)
    crc = int(data.splitlines()[-1][8:16], 16)
    for change in changes:
        line, crc = journal.change_line(change, crc)
        data += line
    write(place.journal, data)


def change(revision, keep, *added, op=None, head=None):
    return Change(revision, op or f"op{revision}", keep, added, head or {"set": {"updated_at": f"2027-01-01T00:00:0{revision}Z"}})


# -- a healthy store ---------------------------------------------------------------------------------------------


def test_a_healthy_store_has_no_findings(tmp_path):
    """Created, appended to, edited, folded, with usage, questions and a deletion: nothing is found."""
    repo = bundle(JsonFileStorage(tmp_path))
    for name in ("a", "B/ü", "x" * 300):
        session = Session.new(name)
        session.add_message(Message.user("hello"))
        repo.save(session)
        session.set_pending_question(tool_call_id="c", tool_name="ask", question="?")
        repo.save(session)
        repo.answer(name, "c", "yes")
        repo.append_token_usage_record(name, "{}")
        repo.update(name, lambda s: s.add_message(Message.from_dict({"role": "user", "content": float("inf")})))
    repo.delete("a")
    assert list(repo.check()) == []
    assert list(repo.check("B/ü")) == []


WRITER = """
import sys
import bamboo_sessions.storages.json_files.writer as writer
from bamboo_sessions import SessionRepository, Session, Message
writer.FOLD_AT = 1500
repo = SessionRepository.open(sys.argv[1], durability="process")
for number in range(150):
    name = f"s{number % 3}"
    session = repo.load_or_create(name)
    session.add_message(Message.user(f"{sys.argv[2]}-{number}"))
    repo.save(session)
    repo.append_token_usage_record(name, "{}")
    if number % 10 == 9:
        mine = f"own-{sys.argv[2]}"
        repo.save(Session.new(mine))
        repo.delete(mine)
"""


def test_a_store_under_four_writers_has_no_findings(tmp_path):
    """Half-written lines, folds between their renames, sessions made and deleted: none of it is a finding."""
    JsonFileStorage(tmp_path).close()
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(n)]) for n in range(4)]
    storage, rounds, seen = JsonFileStorage(tmp_path), 0, []
    while any(writer.poll() is None for writer in writers):
        seen += [one for one in storage.check() if one.kind != "time-not-forward"]
        rounds += 1
    assert [writer.returncode for writer in writers] == [0] * 4
    assert seen == []
    assert rounds > 5
    assert list(storage.check()) == []


def test_what_looks_wrong_is_looked_at_again_under_the_lock(store, place):
    """Half a line in the journal while its writer holds the lock: the check waits for it, and the line is whole then."""
    line, _ = journal.change_line(change(5, 4, message(9)), int(read(place.journal).splitlines()[-1][8:16], 16))
    other, results = JsonFileStorage(store.root), []
    with store.lock("a", 5):
        write(place.journal, read(place.journal) + line[:40])
        thread = threading.Thread(target=lambda: results.append(found(other)))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        write(place.journal, read(place.journal) + line[40:])
    thread.join(20)
    assert results == [[]]


def test_a_lock_that_is_not_let_go_makes_a_finding_of_its_own(store, place, monkeypatch):
    """Without the lock nobody can tell damage from work: it says so, and calls nothing damaged."""
    monkeypatch.setattr("bamboo_sessions.storages.json_files.locking.OWN_WAIT", 0.05)
    flip(place.journal, line_starts(place.journal)[1] + 30)
    with store.lock("a", 5):
        [one] = [one for one in JsonFileStorage(store.root).check() if one.kind != "time-not-forward"]
    assert (one.kind, one.severity) == ("unsure", LEFTOVER)


def test_a_check_within_an_edit_of_the_same_session_does_not_wait_for_itself(store, place):
    """The thread that holds the session asks about it."""
    flip(place.journal, line_starts(place.journal)[1] + 30)
    with store.lock("a", 5):
        assert [kind for kind, *_ in found(store)] == ["journal-damaged"]


# -- the journal -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", [2, 3])
def test_a_damaged_line_before_a_valid_one(store, place, revision):
    """Where it begins, and the revision before it."""
    at = line_starts(place.journal)[revision - 1]
    flip(place.journal, at + 30)
    assert found(store) == [("journal-damaged", place.journal, at, revision - 1, DAMAGE)]
    assert found(store, "a") == found(store)


def test_a_line_that_is_missing(store, place):
    """The chain shows it."""
    starts = line_starts(place.journal)
    data = read(place.journal)
    write(place.journal, data[: starts[2]] + data[starts[3] :])
    assert found(store) == [("journal-damaged", place.journal, starts[2], 2, DAMAGE)]


def test_a_torn_end(store, place):
    """Never acknowledged, so left over."""
    end = len(read(place.journal))
    write(place.journal, read(place.journal) + b'{"crc":"01')
    assert found(store) == [("torn-tail", place.journal, end, 4, LEFTOVER)]


def test_a_damaged_first_line(store, place):
    """The snapshot's revision is the last one that is certain."""
    flip(place.journal, 30)
    assert found(store) == [("journal-damaged", place.journal, 0, 1, DAMAGE)]


@pytest.mark.parametrize(("header", "since"), [
    ((BIRTH, 5, 1), 1), (("another", 0, 1), 1), ((BIRTH, 0, 7), 1)])
def test_a_journal_that_follows_another_snapshot(store, place, header, since):
    """By generation, birth or revision."""
    write(place.journal, journal.header_line(*header))
    assert found(store) == [("journal-foreign", place.journal, 0, since, DAMAGE)]


def test_a_fold_that_was_cut_short(store, place):
    """The snapshot is one ahead: the next writer finishes."""
    record = store.read("a")
    write(place.snapshot, snapshot.encode(record.head, record.messages, record.ops, 1))
    assert found(store) == [("unfinished-fold", place.journal, 0, 4, LEFTOVER)]


@pytest.mark.parametrize(("kind", "wrong"), [
    ("message-twice", change(5, 4, message(0))),
    ("message-twice", change(5, 0, message(7), message(7))),
    ("message-invalid", change(5, 4, b'{"no":"id"}')),
    ("message-invalid", change(5, 4, b'{"id":"m9"}')),
    ("message-invalid", change(5, 4, b'{"id":"m9","text":"not json"}')),
    ("message-invalid", change(5, 4, b'{"id":"","m":{}}')),
    ("operations-invalid", change(5, 4, op="op3")),
    ("head-invalid", change(5, 4, head={"set": {"updated_at": "yesterday"}})),
    ("head-invalid", change(5, 4, head={"unset": ["created_at"]})),
    ("head-invalid", change(5, 4, head={"set": {"updated_at": "2027-01-01T00:00:00Z", "birth": ""}})),
    ("head-invalid", change(5, 4, head={"in": 5})),
    ("head-invalid", change(5, 4, head={"in": {"questions": {"set": {"t": {}}}, "closed_questions": {"set": {"t": 1}}}})),
    ("journal-damaged", change(4, 4)),
    ("journal-damaged", change(5, 9)),
])
def test_a_change_that_breaks_an_invariant(store, place, kind, wrong):
    """Its checksum is right, so reading may well believe it; its line and the revision before it are told."""
    at = len(read(place.journal))
    rechain(place, wrong)
    assert found(store) == [(kind, place.journal, at, 4, DAMAGE)]


def test_edits_that_write_a_message_again_are_no_second_message(store, place):
    """Cut and added under its own id, in the last place and in the middle."""
    rechain(place, change(5, 3, message(3)), change(6, 1, message(1), message(3), message(2)), change(7, 4, message(9)))
    assert found(store) == []


def test_a_message_that_two_changes_added(store, place):
    """The second one is told."""
    rechain(place, change(5, 4, message(9)))
    at = len(read(place.journal))
    rechain(place, change(6, 5, message(9)))
    assert found(store) == [("message-twice", place.journal, at, 5, DAMAGE)]


def test_a_question_that_is_open_and_closed(store, place):
    """A whole question, whose token is among the closed ones."""
    session = Session.new("q")
    session.set_pending_question(tool_call_id="c", tool_name="ask", question="?")
    [(token, asked)] = encode_head(session._state().head)["questions"].items()
    at = len(read(place.journal))
    section = {"questions": {"set": {token: asked}}, "closed_questions": {"set": {token: 1}}}
    rechain(place, change(5, 4, head={"set": {"updated_at": "2027-01-01T00:00:05Z"}, "in": section}))
    [one] = [one for one in store.check() if one.severity == DAMAGE]
    assert (one.kind, one.offset, "open and closed" in one.what) == ("head-invalid", at, True)


def test_a_bad_head_is_told_where_it_became_bad(store, place):
    """Not at the last change."""
    at = len(read(place.journal))
    rechain(place, change(5, 4, head={"unset": ["created_at"]}), change(6, 4))
    assert found(store) == [("head-invalid", place.journal, at, 4, DAMAGE)]


def test_time_that_does_not_go_forward(store, place):
    """A plain save may do that on purpose, so it is told and called harmless."""
    kinds = {(one.kind, one.severity) for one in store.check()}
    assert kinds == {("time-not-forward", LEFTOVER)}


# -- the snapshot ------------------------------------------------------------------------------------------------


def test_a_damaged_head(store, place):
    """Nothing is certain then."""
    flip(place.snapshot, 60)
    assert found(store) == [("snapshot-damaged", place.snapshot, 0, None, DAMAGE)]


def test_a_damaged_message(tmp_path, damage_on_purpose):
    """Where the message begins."""
    storage = JsonFileStorage(tmp_path)
    storage.commit(first("a", message(0), message(1), message(2)))
    path = storage._place("a").snapshot
    at = read(path).index(b'{"id":"m1"')
    flip(path, at + 20)
    assert found(storage) == [("snapshot-damaged", path, at, None, DAMAGE)]


def test_both_files_damaged_are_two_findings(store, place):
    """What stands behind a damaged snapshot is looked at all the same."""
    flip(place.snapshot, 60)
    at = line_starts(place.journal)[2]
    flip(place.journal, at + 30)
    assert found(store) == [("snapshot-damaged", place.snapshot, 0, None, DAMAGE),
                            ("journal-damaged", place.journal, at, None, DAMAGE)]


def resealed(place, **fields):
    """The snapshot with other contents under right checksums."""
    snap = snapshot.decode(read(place.snapshot), place.snapshot)
    head = {**snap.head, **fields.pop("head", {})}
    messages, ops = fields.pop("messages", snap.messages), fields.pop("ops", snap.ops)
    write(place.snapshot, snapshot.encode(head, messages, ops, snap.generation))


@pytest.mark.parametrize(("kind", "fields", "needle"), [
    ("message-twice", {"messages": [message(0), message(1), message(0)]}, -1),
    ("message-invalid", {"messages": [message(0), b'{"m":{}}']}, b'{"m":{}}'),
    ("operations-invalid", {"ops": ["a", "a"]}, None),
    ("operations-invalid", {"ops": [f"o{n}" for n in range(65)]}, None),
    ("operations-invalid", {"ops": []}, None),
    ("head-invalid", {"head": {"created_at": 5}}, 0),
    ("head-invalid", {"head": {"revision": 0}}, 0),
])
def test_a_snapshot_that_breaks_an_invariant(store, place, kind, fields, needle):
    """Its checksums are right all the same."""
    write(place.journal, read(place.journal)[: line_starts(place.journal)[1]])
    resealed(place, **fields)
    data = read(place.snapshot)
    at = {None: len(data), -1: data.rindex(message(0)), 0: 0}.get(needle) if not isinstance(needle, bytes) else data.index(needle)
    assert found(store) == [(kind, place.snapshot, at, None, DAMAGE)]


@pytest.mark.parametrize("name", ["snapshot", "journal"])
def test_a_missing_file(store, place, name):
    """The other one still says what it can."""
    path = getattr(place, name)
    os.unlink(path)
    assert found(store) == [("missing-file", path, 0, 1 if name == "journal" else None, DAMAGE)]


@pytest.mark.parametrize("name", ["snapshot", "journal"])
def test_a_newer_format(store, place, name):
    """Not readable by this version; whether it is damaged cannot be said."""
    path = getattr(place, name)
    write(path, read(path).replace(b'"format":1', b'"format":9', 1))
    assert found(store) == [("newer-format", path, 0, 1 if name == "journal" else None, DAMAGE)]


# -- places and names --------------------------------------------------------------------------------------------


def test_a_folder_that_was_moved(store, place):
    """To another name, and to another shard."""
    for shard, name in ((place.shard, "b"), (os.path.join(os.path.dirname(place.shard), "00"), "a")):
        os.makedirs(shard, exist_ok=True)
        moved = os.path.join(shard, name)
        os.rename(place.folder, moved)
        assert found(store) == [("wrong-place", os.path.join(moved, "session.json"), 0, None, DAMAGE)]
        os.rename(moved, place.folder)


@pytest.mark.parametrize("name", ["snapshot", "journal", "folder", "shard"])
def test_a_symbolic_link(store, place, tmp_path, name):
    """None is followed, so what it leads to is not there."""
    path = getattr(place, name)
    os.rename(path, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", path)
    assert found(store) == [("symlink", path, 0, None, DAMAGE)]


def test_a_file_in_the_place_of_a_folder(store, place):
    """The session of that name can neither be read nor made."""
    shutil.rmtree(place.folder)
    write(place.folder, b"")
    assert found(store) == [("not-a-folder", place.folder, 0, None, DAMAGE)]


@pytest.mark.parametrize("where", ["root", "sessions", "shard", "folder"])
def test_an_unknown_name(store, place, where):
    """Somebody's own file, wherever it lies."""
    folder = {"root": store.root, "sessions": os.path.dirname(place.shard), "shard": place.shard, "folder": place.folder}[where]
    path = os.path.join(folder, "notes.txt")
    write(path, b"")
    assert found(store) == [("unknown-name", path, 0, None, LEFTOVER)]


@pytest.mark.parametrize("name", ["store.json.new", "session.json.new", "journal.jsonl.new", "deleted.jsonl.new"])
def test_a_file_that_never_got_its_name(store, place, name):
    """Its writer died."""
    folder = {"store": store.root, "deleted": place.shard}.get(name.split(".")[0], place.folder)
    write(os.path.join(folder, name), b"half")
    assert found(store) == [("unfinished-write", os.path.join(folder, name), 0, None, LEFTOVER)]


def test_what_died_processes_left_aside(tmp_path):
    """What is old; what is young may be somebody's work."""
    class Later(Files):
        ahead = 0

        def wall_ns(self):
            return super().wall_ns() + self.ahead

    files = Later()
    storage = JsonFileStorage(tmp_path, files=files)
    for name in ("new", "trash"):
        (tmp_path / name / "x").mkdir()
    assert found(storage) == []
    files.ahead = 3601 * 10**9
    assert found(storage) == [("half-made", str(tmp_path / "new" / "x"), 0, None, LEFTOVER),
                              ("half-removed", str(tmp_path / "trash" / "x"), 0, None, LEFTOVER)]


def test_what_lies_in_quarantine_is_counted(store, place):
    """So that somebody sees it."""
    os.mkdir(os.path.join(place.folder, "quarantine"))
    assert found(store) == []
    write(os.path.join(place.folder, "quarantine", "1-2-x.tail"), b"half")
    assert found(store) == [("quarantined", os.path.join(place.folder, "quarantine"), 0, None, LEFTOVER)]


# -- beside the sessions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"nonsense", b'{"format":1}', b'{"format":9,"store_id":"x"}', b'{"format":1,"store_id":"x"}'])
def test_a_damaged_store_file(store, data):
    """Unreadable, newer, or with another id than when it was opened."""
    path = os.path.join(store.root, "store.json")
    write(path, data)
    assert found(store) == [("store-damaged", path, 0, None, DAMAGE)]


def test_a_missing_store_file(store):
    """The id is gone with it."""
    path = os.path.join(store.root, "store.json")
    os.unlink(path)
    assert found(store) == [("store-damaged", path, 0, None, DAMAGE)]


def test_tombstones(store, place):
    """A flipped byte, one in the wrong folder, and a line that a killed process did not finish."""
    path = graves_in(place.shard)
    good, _ = lines.sealed(orjson.dumps({"birth": "b1", "id": "a"})[1:])
    other, _ = lines.sealed(orjson.dumps({"birth": "b1", "id": "b"})[1:])
    write(path, good + good.replace(b"b1", b"b2") + other + b'{"crc":"0123')
    n = len(good)
    assert found(store) == [("tombstone-damaged", path, n, None, DAMAGE), ("wrong-place", path, 2 * n, None, DAMAGE),
                            ("torn-line", path, 3 * n, None, LEFTOVER)]
    write(path, good)
    assert found(store) == []


def test_a_line_of_usage_that_is_none(store, place):
    """Nothing tells a dead writer's half of a line from damage; it is kept, and told."""
    write(usage_in(place.folder), b'{}\n{"tok\n{}\n')
    assert found(store) == [("torn-usage", usage_in(place.folder), 3, None, LEFTOVER)]


# -- asking ------------------------------------------------------------------------------------------------------


def test_one_session_or_all(tmp_path, damage_on_purpose):
    """Only what was asked for is looked at; one that is not there is an error at once."""
    storage = store_of(tmp_path)
    storage.commit(first("b", message(0)))
    flip(storage._place("a").snapshot, 60)
    assert [one.session_id for one in storage.check() if one.severity == DAMAGE] == ["a"]
    assert found(storage, "b") == []
    with pytest.raises(SessionNotFound):
        storage.check("c")


def test_progress_is_told(tmp_path):
    """After each session: how many, of how many."""
    storage, told = JsonFileStorage(tmp_path), []
    for number in range(5):
        storage.commit(first(f"s{number}", message(0)))
    assert list(storage.check(progress=lambda *args: told.append(args))) == []
    assert told == [(n, 5) for n in range(1, 6)]


@pytest.mark.parametrize("storage", [MemoryStorage(), WholeSessions()])
def test_a_storage_that_cannot_be_checked_says_so(storage):
    """No findings would read as "all is well"."""
    for call in (lambda repo: repo.check(), lambda repo: repo.repair("a")):
        with pytest.raises(StorageUnavailable, match="check"):
            call(bundle(storage))


def test_a_disk_that_does_not_answer_is_an_error(tmp_path):
    """A file that cannot be read is no healthy one."""
    storage = store_of(tmp_path)

    class Broken(Files):
        def read_at(self, fd, size, offset):
            raise OSError(5, "bad sector")

    storage._files = Broken()
    with pytest.raises(StorageError, match="bad sector"):
        list(storage.check())


@pytest.mark.parametrize("session_id", ["a", "A", "ü/=", "con", "-x", "x" * 201, "=", "a=41"])
def test_folder_names_lead_back_to_ids(session_id):
    """Unless they were cut; and a name that is no id's leads nowhere."""
    name = encode_id(session_id)
    assert decode_id(name) == (session_id if "==" not in name else None)
    assert decode_id("=zz") is None
    assert decode_id("A") is None


