"""What a repair makes of damaged sessions: nothing readable is missing, nothing is thrown away, nobody's copy is harmed."""

from __future__ import annotations

import json
import os
import random
import shutil

import pytest

from bamboo_sessions import (
    CorruptSession,
    JsonFileStorage,
    Message,
    RevisionConflict,
    Session,
    SessionNotFound,
    StorageUnavailable,
    UnsupportedFormat,
)
from bamboo_sessions.storages.json_files import journal, lines, snapshot
from bamboo_sessions.storages.json_files import writer as writer_module
from bamboo_sessions.storages.json_files.layout import quarantine_in
from bamboo_sessions.storages.protocol import Change
from tests.support import ManualClock, bundle, texts
from tests.unit.json_kit import BIRTH, Died, Failing, PowerCut, first, grown, later, message

pytestmark = pytest.mark.usefixtures("damage_on_purpose")


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def flip(path, at):
    data = bytearray(read(path))
    data[at] ^= 1
    write(path, bytes(data))


def starts(path):
    data = read(path)
    return [0, *(at + 1 for at, byte in enumerate(data) if byte == 10)][:-1]


def ids(storage, session_id="a"):
    return [json.loads(line)["id"] for line in storage.read(session_id).messages]


def damage(storage):
    return [one for one in storage.check() if one.severity == "damage"]


def repaired(storage, session_id="a"):
    """The result, after a look that the store is whole and that a newcomer reads what this object reads."""
    made = storage.repair(session_id)
    assert damage(storage) == []
    one, other = storage.read(session_id), JsonFileStorage(storage.root).read(session_id)
    assert (one.head, list(one.messages), one.ops) == (other.head, list(other.messages), other.ops)
    return made


@pytest.fixture
def store(tmp_path):
    """Revision n of `a` has the messages m0 … m(n-1): the first one in the snapshot, six more in the journal."""
    storage = JsonFileStorage(tmp_path / "store", clock=ManualClock())
    grown(storage, "a", 7)
    yield storage
    storage.close()


@pytest.fixture
def place(store):
    return store._place("a")


def everything(folder):
    return {os.path.relpath(os.path.join(at, name), folder): read(os.path.join(at, name))
            for at, _, names in os.walk(folder) for name in names}


# -- what is not damaged -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", [b"", b'{"crc":"01'])
def test_a_session_that_is_not_damaged_is_left_alone(store, place, tail):
    """Byte for byte, also where a dead writer left half a line: the next writer takes care of that."""
    write(place.journal, read(place.journal) + tail)
    before = everything(place.folder)
    made = store.repair("a")
    assert (made.changed, made.revision, made.quarantined) == (False, None, ())
    assert made.lines[0] == "'a' is not damaged; nothing was changed"
    assert everything(place.folder) == before


def test_no_session_no_repair(store):
    """As everywhere."""
    with pytest.raises(SessionNotFound):
        store.repair("b")


# -- the journal -------------------------------------------------------------------------------------------------


def test_a_lost_line_costs_its_own_messages_only(store, place):
    """What was appended behind it is there, in order; the result says what was kept, what was not, and where it lies."""
    before = read(place.snapshot), read(place.journal)
    at = starts(place.journal)[3]  # revision 4
    flip(place.journal, at + 60)
    broken = read(place.journal)
    made = repaired(store)
    assert ids(store) == ["m0", "m1", "m2", "m4", "m5", "m6"]
    assert (made.changed, made.revision) == (True, 8)
    assert [one.offset for one in made.found if one.severity == "damage"] == [at]
    assert made.kept == (
        "the whole snapshot: revision 1, 1 message", "2 changes of the journal exactly as meant",
        "3 changes of the journal behind the damage, as additions: all their messages, and nothing removed")
    assert [text for text in made.not_usable if f"at byte {at} of the journal" in text] == list(made.not_usable)
    assert {os.path.dirname(path) for path in made.quarantined} == {quarantine_in(place.folder)}
    assert [read(path) for path in made.quarantined] == [before[0], broken]
    assert "'a' is whole again at revision 8" in made.lines


def test_a_line_that_is_missing_altogether(store, place):
    """No byte is wrong, and still something is lost."""
    data, at = read(place.journal), starts(place.journal)
    write(place.journal, data[: at[3]] + data[at[4] :])
    made = repaired(store)
    assert ids(store) == ["m0", "m1", "m2", "m4", "m5", "m6"]
    assert made.not_usable == ("what was committed between revisions 3 and 5",)


def test_a_line_break_that_is_damaged_costs_nothing(store, place):
    """Two lines have become one, and each is vouched for by its own checksum."""
    write(place.journal, read(place.journal)[: starts(place.journal)[3] - 1] + b"x" + read(place.journal)[starts(place.journal)[3] :])
    made = repaired(store)
    assert ids(store) == [f"m{n}" for n in range(7)]
    assert made.not_usable == ()
    assert store.read("a").ops[:7] == tuple(f"op{n}" for n in range(1, 8))


def test_a_damaged_first_line_costs_nothing(store, place):
    """It says nothing that the snapshot does not, and the first change names its checksum."""
    flip(place.journal, 40)
    made = repaired(store)
    assert ids(store) == [f"m{n}" for n in range(7)]
    assert made.not_usable == ("the journal's first line, which only said what it follows",)
    assert store.read("a").ops[:7] == tuple(f"op{n}" for n in range(1, 8))


def test_a_missing_journal_leaves_the_snapshot(store, place):
    """The revisions behind it are unknown, and said to be."""
    os.unlink(place.journal)
    made = repaired(store)
    assert ids(store) == ["m0"]
    assert made.not_usable == ("the journal, which is missing: changes behind revision 1",)


def edited(store, place, *changes):
    """The journal with line 4 lost and these changes behind the rest."""
    crc = int(read(place.journal).splitlines()[-1][8:16], 16)
    for change in changes:
        line, crc = journal.change_line(change, crc)
        write(place.journal, read(place.journal) + line)
    flip(place.journal, starts(place.journal)[3] + 60)
    repaired(store)
    return store.read("a")


def at_time(n):
    return {"set": {"updated_at": f"2026-12-01T00:00:{n:02}.000000Z"}}


def test_an_edit_behind_the_damage_removes_nothing(store, place):
    """"Keep the first five": of which list, nobody knows. The edited message stands in its new version, once."""
    new = b'{"id":"m5","m":{"role":"user"}}'
    record = edited(store, place, Change(8, "op8", 5, (new, message(9)), at_time(8)))
    assert ids(store) == ["m0", "m1", "m2", "m4", "m5", "m9", "m6"]
    assert new in record.messages


@pytest.mark.parametrize("keep", [1, 3, 6])
def test_a_cut_behind_the_damage_removes_nothing(store, place, keep):
    """Not even within what was known before: the lost change may have moved everything."""
    edited(store, place, Change(8, "op8", keep, (message(9),), at_time(8)))
    assert ids(store) == ["m0", "m1", "m2", "m4", "m5", "m6", "m9"]


def test_a_change_that_keeps_nothing_says_all_there_is(store, place):
    """From there on history is known again, deletions included."""
    edited(store, place, Change(8, "op8", 0, (message(2), message(9)), at_time(8)), Change(9, "op9", 1, (message(3),), at_time(9)))
    assert ids(store) == ["m2", "m3"]


def test_heads_are_set_by_every_change_behind_the_damage(store, place):
    """Absolute changes need no past."""
    record = edited(store, place, Change(8, "op8", 7, (), {"set": {**at_time(8)["set"], "title": "t"},
                                                          "in": {"metadata": {"set": {"k": 1}}}}))
    assert (record.head["title"], record.head["metadata"]) == ("t", {"k": 1})


def test_revision_time_generation_and_operation_are_above_all_seen(store, place):
    """Also above a time that is ahead of the clock; the operation is a new one."""
    record = edited(store, place, Change(50, "op50", 7, (), at_time(30)))
    assert (record.head["revision"], record.head["updated_at"]) == (51, "2026-12-01T00:00:30.000001Z")
    assert record.stamp.generation == 1
    assert not {"op4", "op5", "op6", "op7", "op50"} & set(record.ops)
    assert record.ops[:3] == ("op1", "op2", "op3")
    assert len(record.ops) == len(set(record.ops)) == 3 + 48


def test_what_breaks_an_invariant_under_right_checksums_is_mended(store, place):
    """Two messages of one id and different contents: both stay, the earlier under a new id."""
    other = b'{"id":"m0","m":{"role":"user","content":"other"}}'
    crc = int(read(place.journal).splitlines()[-1][8:16], 16)
    write(place.journal, read(place.journal) + journal.change_line(Change(8, "op8", 7, (other,), at_time(8)), crc)[0])
    repaired(store)
    found = [json.loads(line) for line in store.read("a").messages]
    assert [one["id"] for one in found[1:]] == ["m1", "m2", "m3", "m4", "m5", "m6", "m0"]
    assert found[0]["m"] == json.loads(message(0))["m"]
    assert found[-1] == json.loads(other)


# -- the snapshot ------------------------------------------------------------------------------------------------


@pytest.fixture
def folded(tmp_path):
    """Ten messages in the snapshot, and in the journal: m10 appended, m9 edited, m11 appended."""
    storage = JsonFileStorage(tmp_path / "folded", clock=ManualClock())
    storage.commit(first("a", *map(message, range(10)), title="t", metadata={"k": 1}))
    storage.commit(later("a", 2, 10, message(10), head=at_time(2)))
    storage.commit(later("a", 3, 9, b'{"id":"m9","m":{"role":"user"}}', message(10), head=at_time(3)))
    storage.commit(later("a", 4, 11, message(11), head=at_time(4)))
    yield storage
    storage.close()


def test_a_damaged_message_costs_that_message_only(folded):
    """The others are vouched for by their own checksums, and the journal's changes still mean what they say."""
    path = folded._place("a").snapshot
    flip(path, read(path).index(b'"m4"') + 15)
    made = repaired(folded)
    assert ids(folded) == [f"m{n}" for n in range(12) if n != 4]
    assert b'{"id":"m9","m":{"role":"user"}}' in folded.read("a").messages
    assert made.kept[0] == "9 messages of the damaged snapshot, each by its own checksum"
    assert made.not_usable == ("1 message of the snapshot",)
    assert folded.read("a").head["title"] == "t"


def test_a_damaged_line_break_in_the_snapshot(folded):
    """Two rows have become one: those two are lost at most, and all others found in their places."""
    path = folded._place("a").snapshot
    at = read(path).index(b'\n{"id":"m4"')
    write(path, read(path)[:at] + b"x" + read(path)[at + 1 :])
    repaired(folded)
    assert set(ids(folded)) >= {f"m{n}" for n in range(12) if n not in (3, 4)}


def test_a_damaged_end_of_the_snapshot_costs_no_message(folded):
    """The checksums are gone; the messages can be read, and the result says that nothing vouches for them."""
    path = folded._place("a").snapshot
    flip(path, read(path).index(b'"lines":"') + 3)
    made = repaired(folded)
    assert ids(folded) == [f"m{n}" for n in range(12)]
    assert made.kept[0].startswith("10 messages of the damaged snapshot, 10 of them by their form alone")


def test_a_cut_snapshot(folded):
    """What stands before the cut is there, and all of the journal."""
    path = folded._place("a").snapshot
    write(path, read(path)[: read(path).index(b'{"id":"m7"')])
    repaired(folded)
    assert set(ids(folded)) == {f"m{n}" for n in range(12) if n not in (7, 8)}


def test_a_head_that_can_be_read_is_taken_as_it_reads(folded):
    """One wrong letter in the title is better than no title; that nothing vouches for it is said."""
    path = folded._place("a").snapshot
    flip(path, read(path).index(b'"title":"t"') + 9)
    made = repaired(folded)
    head = folded.read("a").head
    assert (head["title"], head["metadata"], head["birth"]) == ("u", {"k": 1}, BIRTH)
    assert ids(folded) == [f"m{n}" for n in range(12)]
    assert any("nothing vouches" in text for text in made.not_usable)


def test_a_head_that_cannot_be_read_is_made_of_what_is_certain(folded):
    """Id by the folder, birth by the journal; the messages are all there."""
    path = folded._place("a").snapshot
    flip(path, read(path).index(b'"head":{'))
    made = repaired(folded)
    head = folded.read("a").head
    assert (head["id"], head["birth"]) == ("a", BIRTH)
    assert ids(folded) == [f"m{n}" for n in range(12)]
    assert any("first line" in text for text in made.not_usable)


def test_a_missing_snapshot_leaves_what_the_journal_says(store, place):
    """Every message but those that were in the snapshot alone."""
    os.unlink(place.snapshot)
    made = repaired(store)
    assert ids(store) == [f"m{n}" for n in range(1, 7)]
    assert "the snapshot, which is missing" in made.not_usable


def test_a_whole_snapshot_that_never_got_its_name_is_used(store, place):
    """A fold was killed before its rename, and then the old snapshot was damaged."""
    record = store.read("a")
    write(place.snapshot + ".new", snapshot.encode(record.head, record.messages, record.ops, 1))
    flip(place.snapshot, 60)
    made = repaired(store)
    assert ids(store) == [f"m{n}" for n in range(7)]
    assert made.kept[0] == "the whole snapshot: revision 7, 7 messages"
    assert len(made.quarantined) == 3


# -- what no repair mends ----------------------------------------------------------------------------------------


def test_without_a_birth_nothing_is_changed(store, place):
    """A birth that is made up would turn every copy into one of a deleted session."""
    for path in (place.snapshot, place.journal):
        write(path, read(path).replace(b'"birth":', b'"bxrth":', 1))
    before = everything(place.folder)
    with pytest.raises(CorruptSession, match="backup"):
        store.repair("a")
    assert everything(place.folder) == before


def test_two_births_are_none(store, place):
    """Both first lines are damaged and name different lives: nobody can tell which one the copies know."""
    flip(place.snapshot, 14)
    write(place.journal, read(place.journal).replace(BIRTH.encode(), b"another" + BIRTH[7:].encode(), 1))
    with pytest.raises(CorruptSession, match="backup"):
        store.repair("a")


def test_a_birth_that_can_still_be_read_is_used(store, place):
    """Damage elsewhere in both first lines."""
    flip(place.snapshot, 14)
    write(place.journal, read(place.journal).replace(b'"generation":0', b'"generation";0', 1))
    repaired(store)
    assert store.read("a").head["birth"] == BIRTH
    assert ids(store) == [f"m{n}" for n in range(7)]


def test_another_place_and_a_link_need_hands(store, place, tmp_path):
    """Nothing is changed, and the error says what to do."""
    os.rename(place.snapshot, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", place.snapshot)
    with pytest.raises(CorruptSession, match="in the place of the link"):
        store.repair("a")
    shutil.move(tmp_path / "elsewhere", place.snapshot)
    os.rename(place.folder, os.path.join(place.shard, "b"))
    os.makedirs(store._place("b").shard, exist_ok=True)
    os.rename(os.path.join(place.shard, "b"), store._place("b").folder)
    with pytest.raises(CorruptSession, match="where it belongs"):
        store.repair("b")


def test_a_newer_format_is_not_touched(store, place):
    """Whatever it says, it is not damage."""
    write(place.journal, read(place.journal).replace(b'"format":1', b'"format":9', 1))
    before = everything(place.folder)
    with pytest.raises(UnsupportedFormat):
        store.repair("a")
    assert everything(place.folder) == before


# -- other people's copies ---------------------------------------------------------------------------------------


def talk(repo, count, since=0):
    session = repo.load_merged("a") or Session.new("a")
    for number in range(since, since + count):
        session.add_message(Message.user(str(number)))
        repo.save(session)
        repo._clock.forward(seconds=1)


def lose_line(storage, index):
    path = storage._place("a").journal
    flip(path, starts(path)[index] + 60)


@pytest.fixture
def two(tmp_path):
    """Two repositories of one store, as in two processes; `a` has the messages 0 … 5."""
    one, other = (bundle(JsonFileStorage(tmp_path), ManualClock()) for _ in range(2))
    talk(one, 6)
    return one, other


def test_a_copy_with_the_lost_messages_brings_them_back(two):
    """It descends from a revision that is lost; what the repaired state lacks is not taken for deleted by somebody."""
    one, other = two
    copy = one.load("a")
    lose_line(other.storage, 3)
    assert other.repair("a").changed
    assert texts(other.load_merged("a")) == ["0", "1", "2", "4", "5"]
    copy.add_message(Message.user("mine"))
    result = one.save(copy)
    assert sorted(texts(copy)) == ["0", "1", "2", "3", "4", "5", "mine"]
    assert sorted(texts(other.load_merged("a"))) == sorted(texts(copy))
    assert any(conflict.field == "revision" for conflict in result.conflicts)


def test_a_copy_of_a_lost_revision_is_known_after_any_number_of_commits(two):
    """Also beyond the 64 whose operation ids are remembered, and after a second repair."""
    one, other = two
    copy = one.load("a")
    lose_line(other.storage, 3)
    other.repair("a")
    talk(other, 80, since=10)
    talk(other, 2, since=200)
    lose_line(other.storage, -2)
    assert other.repair("a").changed
    talk(other, 70, since=300)
    result = one.save(copy)
    assert result.revision == other.load_merged("a").revision
    copy.add_message(Message.user("mine"))
    assert one.save(copy).changed
    assert "3" in texts(copy)
    assert texts(other.load_merged("a")).count("3") == 1


def test_a_copy_from_before_the_damage_is_known_after_any_number_of_commits(two):
    """What it deleted is deleted: it has seen all there was."""
    one, other = two
    copy = one.load("a")
    copy.remove_message(copy.messages[0].id)
    talk(other, 3, since=10)
    lose_line(other.storage, 8)
    other.repair("a")
    talk(other, 80, since=20)
    one.save(copy)
    assert "0" not in texts(copy)
    assert texts(copy)[:5] == list("12345")


def test_a_copy_from_before_the_damage_keeps_its_ancestry(two, tmp_path):
    """It is merged with its base: what it deleted is deleted, and nothing is reported as lost."""
    one, other = two
    session_id = "a"
    path = other.storage._place(session_id)
    early = bundle(JsonFileStorage(tmp_path / "early"), ManualClock())
    shutil.rmtree(tmp_path / "early" / "sessions")
    shutil.copytree(tmp_path / "sessions", tmp_path / "early" / "sessions")
    shutil.copy(tmp_path / "store.json", tmp_path / "early" / "store.json")
    there = early.storage._place(session_id).journal
    write(there, read(path.journal)[: starts(path.journal)[2]])  # revision 2
    copy = bundle(JsonFileStorage(tmp_path / "early"), ManualClock()).load(session_id)
    assert texts(copy) == ["0", "1"]
    lose_line(other.storage, 3)
    other.repair(session_id)
    copy.remove_message(copy.messages[0].id)
    result = one.save(copy)
    assert texts(copy) == ["1", "2", "4", "5"]
    assert not any(conflict.field == "revision" for conflict in result.conflicts)


def test_the_repairers_own_cache_brings_the_messages_back(two):
    """And the result says so."""
    one, _ = two
    assert texts(one.load("a")) == list("012345")
    lose_line(one.storage, 3)
    made = one.repair("a")
    assert sorted(texts(one.load("a"))) == list("012345")
    assert sorted(texts(one.try_load_merged("a"))) == list("012345")
    assert made.revision == one.load("a").revision == 8
    assert made.kept[-1] == "what the copy in this process's cache still had: revision 8"
    assert not one.repair("a").changed


def test_a_cached_copy_that_has_nothing_more_writes_nothing(two, tmp_path):
    """One revision for the repair, none for the merge."""
    _, other = two
    lose_line(other.storage, 3)
    assert other.repair("a").revision == 7
    assert texts(other.load("a")) == ["0", "1", "2", "4", "5"]


def test_an_unsaved_copy_is_merged_with_what_it_lacks(two, monkeypatch):
    """Its changes were never on disk; after the repair they are."""
    one, _ = two
    copy = one.load("a")
    copy.add_message(Message.user("unsaved"))
    with monkeypatch.context() as full:
        full.setattr(one.storage._writer, "append", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        one.save_and_cache(copy)
    assert one.cache.unsaved_ids()
    lose_line(one.storage, 3)
    one.repair("a")
    assert sorted(texts(one.load("a"))) == [*"012345", "unsaved"]
    assert not one.cache.unsaved_ids()


def test_messages_lost_from_the_snapshot_come_back_too(tmp_path, monkeypatch):
    """Then no ancestry is certain, not even of the oldest commits."""
    monkeypatch.setattr(writer_module, "FOLD_AT", 300)
    one, other = (bundle(JsonFileStorage(tmp_path), ManualClock()) for _ in range(2))
    talk(one, 12)
    copy = one.load("a")
    path = other.storage._place("a").snapshot
    at = read(path).index(b'"content":"2"') + 11
    flip(path, at)
    other.repair("a")
    assert "2" not in texts(other.load_merged("a"))
    copy.title = "mine"
    one.save(copy)
    assert sorted(texts(copy), key=int) == [str(n) for n in range(12)]


def test_a_process_that_believes_to_know_the_journal_appends_to_the_repaired_one(two):
    """Its own last line was undamaged; nothing that it says goes to the old file."""
    one, other = two
    session = one.load("a")
    lose_line(other.storage, 3)
    other.repair("a")
    session.add_message(Message.user("after"))
    one.save(session)
    assert "after" in texts(bundle(JsonFileStorage(other.storage.root)).load("a"))


def test_the_error_names_the_remedy(store, place):
    """Whoever meets the damage learns what to call."""
    flip(place.journal, starts(place.journal)[3] + 60)
    with pytest.raises(CorruptSession, match=r"repair\('a'\)") as met:
        store.read("a")
    assert met.value.mendable


# -- killed, repeated, refused -----------------------------------------------------------------------------------

DAMAGES = {
    "line": lambda place: flip(place.journal, starts(place.journal)[3] + 60),
    "first line": lambda place: flip(place.journal, 40),
    "head": lambda place: flip(place.snapshot, 60),
    "no journal": lambda place: os.unlink(place.journal),
    "no snapshot": lambda place: os.unlink(place.snapshot),
    "both": lambda place: (flip(place.snapshot, 60), flip(place.journal, starts(place.journal)[3] + 60)),
}


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("damaged", DAMAGES)
def test_death_at_any_call_of_a_repair_loses_nothing(tmp_path, damaged, short):
    """After each, the store opens, another repair (or none) gives the same messages, and the damaged bytes are kept."""
    origin = JsonFileStorage(tmp_path / "origin")
    grown(origin, "a", 7)
    DAMAGES[damaged](origin._place("a"))
    kept = {read(path) for path in (origin._place("a").snapshot, origin._place("a").journal) if os.path.exists(path)}
    shutil.copytree(origin.root, tmp_path / "whole")
    whole = JsonFileStorage(tmp_path / "whole")
    repaired(whole)
    expected, deaths = ids(whole), 0
    for at in range(1, 100):
        root = tmp_path / f"s{at}"
        shutil.copytree(origin.root, root)
        files = Failing(at, dead=True, short=short)
        try:
            JsonFileStorage(root, files=files).repair("a")
        except Died:
            deaths += 1
        else:
            break
        storage = JsonFileStorage(root)
        repaired(storage)
        assert ids(storage) == expected, files.failed
        there = everything(quarantine_in(storage._place("a").folder)).values()
        assert kept <= {data.removesuffix(b"\0") for data in there} | set(there), files.failed
        copies = everything(quarantine_in(storage._place("a").folder)).items()
        copies = [data for name, data in copies if not name.endswith(".new")]
        assert len(copies) == len(set(copies)), files.failed  # one of each is enough
        before = everything(root)
        assert not storage.repair("a").changed
        assert everything(root) == before
    assert deaths > 8


def test_a_writer_that_knew_the_journal_survives_the_death_of_a_repair(tmp_path):
    """The snapshot is damaged, the journal is not, and ends with this writer's own line. Wherever the repair dies, what the
    writer appends then is read by everybody, or refused; it never goes to a journal that nobody reads any more."""
    appended = deaths = 0
    for at in range(1, 100):
        alive = JsonFileStorage(tmp_path / f"s{at}", clock=ManualClock())
        grown(alive, "a", 7)
        flip(alive._place("a").snapshot, 60)
        try:
            JsonFileStorage(alive.root, files=Failing(at, dead=True)).repair("a")
        except Died:
            deaths += 1
        else:
            break
        try:
            alive.commit(later("a", 8, 7, message(8), head=at_time(50)))
        except (CorruptSession, RevisionConflict):
            continue
        appended += 1
        JsonFileStorage(alive.root).repair("a")
        assert "m8" in ids(JsonFileStorage(alive.root)), at
    assert deaths > appended > 3


@pytest.mark.parametrize("error", [5, 28])
def test_an_error_at_any_call_of_a_repair_loses_nothing(tmp_path, error):
    """It is told; the same object repairs once the disk answers again."""
    for at in range(1, 100):
        files = Failing()
        storage = JsonFileStorage(tmp_path / f"s{at}", files=files)
        grown(storage, "a", 7)
        DAMAGES["line"](storage._place("a"))
        files.at, files.error, files.count = at, error, 0
        try:
            storage.repair("a")
        except StorageUnavailable:
            files.at = 0
        else:
            break
        repaired(storage)
        assert ids(storage) == ["m0", "m1", "m2", "m4", "m5", "m6"]
        storage.commit(later("a", storage.read("a").head["revision"] + 1, 6, message(8), head=at_time(50)))
        assert ids(storage)[-1] == "m8"
    assert at > 10


def test_a_power_cut_after_a_repair_loses_nothing(tmp_path):
    """What is not synced is not there: the repaired session is, and so are the quarantined files."""
    root = tmp_path / "store"
    os.mkdir(root)
    files = PowerCut(str(root))
    storage = JsonFileStorage(root, files=files)
    grown(storage, "a", 7)
    place = storage._place("a")
    at = starts(place.journal)[3] + 60
    flip(place.journal, at)
    node = files.node(place.journal)
    node.now = node.durable = read(place.journal)
    made = storage.repair("a")
    cut = JsonFileStorage(files.after_cut(str(tmp_path / "cut")))
    assert ids(cut) == ["m0", "m1", "m2", "m4", "m5", "m6"]
    assert damage(cut) == []
    assert [os.path.exists(path.replace(str(root), str(tmp_path / "cut"))) for path in made.quarantined] == [True, True]


def test_a_second_damage_is_kept_beside_the_first(store, place):
    """No quarantined file is ever written over, nor forgotten with old torn ends."""
    for _ in range(2):
        flip(place.snapshot, 60)
        repaired(store)
    names = os.listdir(quarantine_in(place.folder))
    assert len(names) == 4
    for number in range(105):
        write(os.path.join(quarantine_in(place.folder), f"{number}.tail"), b"")
    store._writer._forget_oldest(quarantine_in(place.folder))
    assert set(names) <= set(os.listdir(quarantine_in(place.folder)))


def test_no_flipped_byte_is_beyond_repair(tmp_path):
    """A byte of either file at a time: the session is whole afterwards, and what no flipped line held is all there."""
    origin = JsonFileStorage(tmp_path / "origin")
    origin.commit(first("a", *map(message, range(4))))
    for revision in range(2, 5):
        origin.commit(later("a", revision, revision + 2, message(revision + 2), head=at_time(revision)))
    place, everything_there, least = origin._place("a"), {f"m{n}" for n in range(7)}, 7
    original = {path: read(path) for path in (place.snapshot, place.journal)}
    chosen = random.Random(7)
    for path, data in original.items():
        for at in chosen.sample(range(len(data)), 150):
            for other, bytes_ in original.items():
                write(other, bytes_)
            write(path, data[:at] + bytes([data[at] ^ chosen.choice([1, 2, 4, 8, 16, 32, 64])]) + data[at + 1 :])
            storage = JsonFileStorage(origin.root, durability="process")  # the flushes are another test's
            if not damage(storage):
                continue  # the last line: a torn end
            try:
                storage.repair("a")
            except UnsupportedFormat:  # the byte made it call itself one
                continue
            assert damage(storage) == []
            there = set(ids(storage))
            assert there <= everything_there
            least = min(least, len(there))
    assert least >= 5  # a line break between two messages of the snapshot


def test_a_valid_line_inside_a_message_is_not_taken_for_a_change(store, place):
    """Only what begins a line, or where a damaged line break stood, is one: a nested object's checksum is not at its end."""
    nested = lines.sealed(b'"prev":"00000000","rev":9,"op":"x","keep":0,"size":[],"head":{},"add":[]}')[0][:-1]
    crc = int(read(place.journal).splitlines()[-1][8:16], 16)
    line, crc = journal.change_line(Change(8, "op8", 7, (b'{"id":"m8","m":{"a":%b,"b":1}}' % nested,), at_time(8)), crc)
    more, _ = journal.change_line(Change(9, "op9", 8, (message(9),), at_time(9)), crc)
    at = len(read(place.journal))
    write(place.journal, read(place.journal) + line + more)
    flip(place.journal, at + 30)
    repaired(store)
    assert ids(store) == [*(f"m{n}" for n in range(7)), "m9"]
