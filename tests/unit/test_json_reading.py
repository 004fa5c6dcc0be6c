"""The quick ways of reading say exactly what the careful ones say, and ask the disk for no more than is new."""

from __future__ import annotations

import os
import zlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bamboo_sessions.storages.json_files import journal, lines, snapshot
from bamboo_sessions.storages.protocol import Change, Delta, Record
from tests.unit.json_kit import Counting, JsonFileStorage, first, grown, journal_of, later, message

# -- runs of lines -----------------------------------------------------------------------------------------------

# Heads and messages that contain what the reader looks for, in keys and in values.
WORDS = st.sampled_from(["add", "size", "rev", 'x","add":[', '"size":[1]', "set", "\r", "\u2028", "]}", ""])
VALUES = st.recursive(st.one_of(st.integers(-3, 99), WORDS),
                      lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)))
CHANGES = st.lists(st.tuples(WORDS, st.floats(0, 1), st.lists(VALUES, max_size=3), st.dictionaries(WORDS, VALUES, max_size=3)),
                   min_size=1, max_size=12)


def _written(plan):
    """(bytes of the lines, the changes they tell, where each line ends) behind a line with checksum 7 at revision 1."""
    data, changes, ends, count, crc = b"", [], [], 0, 7
    for number, (op, part, added, head) in enumerate(plan):
        keep = round(part * count) if number % 3 else count
        changes.append(Change(number + 2, op, keep, tuple(orjson.dumps(value) for value in added), head))
        line, crc = journal.change_line(changes[-1], crc)
        data, count = data + line, keep + len(added)
        ends.append(len(data))
    return data, changes, ends


def _said(data, room):
    """What a scan in runs of about so many bytes says."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(journal, "_RUN", room)
        if not room:
            patched.setattr(journal, "_read_run", lambda *_: False)
        return journal.scan(b"front" + data, 40, 7, 3, 1, 0, begin=5)


@given(CHANGES, st.sampled_from([1, 200, 10**6]))
def test_a_journal_says_the_same_in_runs_as_line_by_line(plan, room):
    """All fields of every change, and where the last line begins and ends, whatever the heads and messages contain."""
    data, changes, ends = _written(plan)
    found = _said(data, room)
    assert found.changes == changes
    assert found == _said(data, 0)
    assert (found.start, found.end, found.damage) == ([0, *ends][-2] + 40, ends[-1] + 40, "")


@given(CHANGES, st.sampled_from([1, 200, 10**6]), st.data())
def test_damage_is_the_same_in_runs_as_line_by_line(plan, room, draw):
    """One wrong bit or a cut anywhere: the lines in front of it are good, none behind, in a run as by itself."""
    data, changes, ends = _written(plan)
    at = draw.draw(st.integers(0, len(data) - 1))
    for broken in (data[:at], data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]):
        found = _said(broken, room)
        assert found.changes == changes[: sum(end <= at for end in ends)]
        assert found == _said(broken, 0)


def test_an_ordinary_journal_is_read_in_runs():
    """Not one line of it costs a call of its own, else all of this is for nothing."""
    data, changes, _ = _written([("op", 1, ["x"], {"set": {"updated_at": "now"}})] * 50)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(journal, "_read_lines", None)
        assert journal.scan(data, 0, 7, 0, 1, 0).changes == changes


@pytest.mark.parametrize("broken", [
    Change(1, "op", 0, [b"1"], {}), Change(2, "op", 1, [b"1"], {}), Change(2, "op", -1, [b"1"], {})])
def test_a_whole_line_that_does_not_fit_is_damage(broken):
    """A revision that does not rise, and a `keep` that the state before it does not have."""
    line, _ = journal.change_line(broken, 7)
    found = journal.scan(line, 0, 7, 0, 1, 0)
    assert (found.changes, found.end) == ([], 0)
    assert found.damage


@pytest.mark.parametrize("sizes", [b"[1]", b"[3]", b"[1,1]", b"[]", b"[2,0]"])
def test_a_line_that_tells_wrong_sizes_is_damage(sizes):
    """Its checksum is right, but a message would be cut in two or lost."""
    line, _ = lines.sealed(b'"prev":"00000007","rev":2,"op":"o","keep":0,"size":%b,"head":{},"add":[12]}' % sizes)
    found = journal.scan(line, 0, 7, 0, 1, 0)
    assert (found.changes, found.damage) == ([], "the line is no change")


def test_revisions_rise_from_run_to_run():
    """A revision that comes twice is noticed where its two lines are read in different runs as well."""
    one, crc = journal.change_line(Change(2, "a", 0, [b"1"], {}), 7)
    two, _ = journal.change_line(Change(2, "b", 1, [b"2"], {}), crc)
    for room in (0, 1, 10**6):
        assert [change.op for change in _said(one + two, room).changes] == ["a"]


def test_only_a_line_feed_ends_a_line():
    """JSON may hold a carriage return between its tokens, and U+2028 inside strings: neither cuts a message in two."""
    messages = [b'{"a":\r1}', '{"b":"\u2028\u0085"}'.encode(), b'{"c":\x0b\x0c2}', b""]
    assert snapshot.decode(snapshot.encode({}, messages, [], 1), "s").messages == messages
    line, _ = journal.change_line(Change(2, "op", 0, messages, {}), 7)
    assert journal.scan(line, 0, 7, 0, 1, 0).changes[0].add == tuple(messages)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_snapshot_tells_the_checksum_up_to_each_message(count):
    """Of all bytes from the beginning of the file: that is what finds the first damaged one."""
    messages = [message(number) for number in range(count)]
    data = snapshot.encode({"id": "a"}, messages, ["o"], 1)
    ends = [data.index(text) + len(text) for text in messages]
    told = orjson.loads(data)["lines"]
    assert [told[8 * i : 8 * i + 8] for i in range(count)] == [f"{zlib.crc32(data[:end]):08x}" for end in ends]
    assert len(told) == 8 * count


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_wrong_number_of_messages_is_damage(count):
    """Checksums that are right around a count that is not: no message is lost or made up in silence."""
    data = snapshot.encode({"id": "a"}, [message(number) for number in range(3)], ["o"], 1)
    top, rest = data.split(b"\n", 1)
    fields = top[top.index(b'"format"') :].replace(b'"count":3', b'"count":%d' % count)
    body = b'{"crc":"%08x",%b\n' % (zlib.crc32(fields), fields) + rest[: -len(b'"sum":"01234567"}\n')]
    with pytest.raises(snapshot.Damage, match="number of messages"):
        snapshot.decode(body + b'"sum":"%08x"}\n' % zlib.crc32(body), "s")


# -- what is new -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [20, 5000])
def test_one_line_more_is_one_look_and_the_reading_of_that_line(tmp_path, size):
    """Four calls, and not a byte of what was known before, however large that was."""
    files = Counting()
    store = JsonFileStorage(tmp_path, files=files)
    stamp = grown(store, "a", 5, size=size).stamp
    line = JsonFileStorage(tmp_path).commit(later("a", 6, 5, message(5)))
    files.reset()
    read, original = [], files.read_at
    files.read_at = lambda fd, size, offset: read.append((size, offset)) or original(fd, size, offset)
    answer = store.read("a", stamp)
    assert [change.revision for change in answer.changes] == [6]
    assert read == [(line.end - stamp.end, stamp.end)]
    assert files.calls == {"stat": 1, "open": 1, "read_at": 1, "close": 1}


@pytest.mark.parametrize("then", [(), (message(8),)])
def test_behind_a_line_that_took_an_undone_ones_place_nothing_is_new(tmp_path, then):
    """The known line was undone, another of its length stands there, and more may follow: the whole record is read."""
    store, other = JsonFileStorage(tmp_path), JsonFileStorage(tmp_path)
    record = grown(store, "a", 3)
    os.truncate(journal_of(store, "a"), record.stamp.start)
    other.commit(later("a", 3, 2, message(9), op="opX"))
    for revision, more in enumerate(then, 4):
        other.commit(later("a", revision, revision - 1, more))
    store._files.wall_ns = lambda: 0
    answer = store.read("a", record.stamp)
    assert isinstance(answer, Record)
    assert list(answer.messages) == [message(0), message(1), message(9), *then]


def test_an_unfinished_line_behind_the_known_one_is_no_news(tmp_path):
    """A writer at work: nothing was committed since, and the known line is still there."""
    store = JsonFileStorage(tmp_path)
    record = grown(store, "a", 3)
    with open(journal_of(store, "a"), "ab") as file:
        file.write(b'{"crc":"01234567","prev":"')
    answer = store.read("a", record.stamp)
    assert isinstance(answer, Delta)
    assert answer.changes == ()
    assert (answer.stamp.revision, answer.stamp.end) == (3, record.stamp.end)


def test_a_journal_exchanged_between_the_look_and_the_reading_is_read_whole(tmp_path):
    """The name is looked at, then a fold takes it: what is read then is not taken for the old journal's next lines."""
    store, other = JsonFileStorage(tmp_path), JsonFileStorage(tmp_path)
    stamp = grown(store, "a", 3).stamp
    other.commit(later("a", 4, 3, message(3)))
    original = store._files.open

    def exchanging(path, flags, mode=0o600):
        store._files.open = original
        other._writer._fold(other._place("a"))
        for revision in range(5, 9):
            other.commit(later("a", revision, revision - 1, message(revision)))
        return original(path, flags, mode)

    store._files.open = exchanging
    answer = store.read("a", stamp)
    assert isinstance(answer, Record)
    assert answer.head["revision"] == 8


def test_a_record_tells_the_newest_64_operations(tmp_path):
    """Oldest first, over snapshot and journal, however many changes the journal holds."""
    store = JsonFileStorage(tmp_path)
    for revisions in (3, 70, 150):
        record = grown(store, f"s{revisions}", revisions)
        assert record.ops == tuple(f"op{revision}" for revision in range(1, revisions + 1))[-64:]


@pytest.mark.usefixtures("damage_on_purpose")
def test_a_session_of_every_kind_of_change_is_read_back_whole(tmp_path):
    """Head fields set and unset, sections grown and emptied, messages cut: in the record as in the listing."""
    store = JsonFileStorage(tmp_path)
    store.commit(first("a", message(0), title="t", metadata={"x": 1}))
    heads = [{"unset": ["title"]}, {"in": {"metadata": {"set": {"y": [2]}}}}, {"set": {"metadata": {"z": 3}}},
             {"in": {"metadata": {"unset": ["z"]}, "questions": {"set": {"q": {}}}}}, {"set": {"model": "m"}, "unset": ["no"]}]
    for revision, head in enumerate(heads, 2):
        store.commit(later("a", revision, (revision - 1) % 2, message(revision), head=head))
    record = JsonFileStorage(tmp_path).read("a")
    assert list(record.messages) == [message(5), message(6)]
    assert {key: record.head.get(key) for key in ("title", "metadata", "questions", "model", "revision")} == {
        "title": None, "metadata": None, "questions": {"q": {}}, "model": "m", "revision": 6}
    assert [head for head, _ in JsonFileStorage(tmp_path).heads()] == [record.head]
