"""The two formats and the names, without a disk: what is written is read, what is damaged is noticed."""

import json
import re
import zlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bamboo_sessions.errors import UnsupportedFormat
from bamboo_sessions.storages.json_files import journal, lines, snapshot
from bamboo_sessions.storages.json_files.layout import LONGEST_NAME, encode_id
from bamboo_sessions.storages.protocol import Change
from tests.unit.json_kit import TIME, message

# -- names -------------------------------------------------------------------------------------------------------

HOSTILE = ["..", ".", "/", "a/b", "../../etc/passwd", "\\", "C:\\x", "a b", " ", "A", "a", "ä", "a\u0308", "con", "CON", "con.txt",
           "nul", "com1", "lpt9", "com0", "=", "==", "=63on", "=2e", "-rf", "--", "~", "*", "a" * 512, "a" * 511 + "b", "." * 512,
           "語" * 512, "\U0001f600" * 512, "a\nb", "\x7f", "session.json", "=2e=2e", "%2e", "a" * 200, "a" * 201]
IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=512)


def _decoded(name):
    return re.sub(rb"=([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), name.encode()).decode()


@pytest.mark.parametrize("session_id", HOSTILE)
def test_hostile_ids_become_harmless_names(session_id):
    """Only [a-z0-9_=-], never a dot, a leading dash, a device of Windows, or more than 200 bytes."""
    name = encode_id(session_id)
    assert re.fullmatch(r"[a-z0-9_=][a-z0-9_=-]*", name)
    assert len(name) <= LONGEST_NAME
    assert not re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)", name)


def test_hostile_ids_stay_apart():
    """No two of them share a name, not even on a file system that folds case."""
    assert len({encode_id(session_id).casefold() for session_id in HOSTILE}) == len(HOSTILE)


@given(IDS)
def test_a_short_name_can_be_decoded(session_id):
    """So no two short names are equal; a long one carries a hash and a mark that no short one can have."""
    name = encode_id(session_id)
    if "==" in name:
        assert len(name) == LONGEST_NAME
    else:
        assert _decoded(name) == session_id


def test_ordinary_ids_stay_readable():
    """What people choose mostly is what they find in the folder."""
    assert encode_id("chat-42_b") == "chat-42_b"
    assert encode_id("Chat 1.0") == "=43hat=201=2e0"


# -- lines -------------------------------------------------------------------------------------------------------


def test_a_line_is_json_and_its_checksum_covers_the_rest():
    """Anybody can check it with a CRC-32 and a JSON parser."""
    line, crc = lines.sealed(b'"a":1}')
    assert json.loads(line) == {"crc": f"{crc:08x}", "a": 1}
    assert crc == zlib.crc32(b'"a":1}')
    assert lines.checksum(line[:-1]) == crc


@pytest.mark.parametrize("line", [b"", b"{", b'{"crc":"', b'{"crc":"00000000",', b'{"crc":"0000000', b"\n", b"x" * 50])
def test_what_is_no_line_has_no_checksum(line):
    """Short, empty and foreign bytes are simply not valid."""
    assert lines.checksum(line) == -1


# -- journal -----------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
MESSAGES = st.dictionaries(TEXTS, st.one_of(TEXTS, st.lists(st.integers(-9, 9)))).map(orjson.dumps)
HEADS = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(-9, 9), TEXTS),
                     lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)))


@given(st.lists(MESSAGES, max_size=4), st.dictionaries(TEXTS, HEADS, max_size=4), TEXTS)
def test_a_change_comes_back_as_it_was(messages, head, op):
    """Whatever the texts look like: the messages byte for byte, the head and the operation equal; the line is JSON."""
    line, crc = journal.change_line(Change(7, op, 3, messages, head), 0xABC)
    found = journal.scan(line, 100, 0xABC, 10, 6, 3)
    assert (found.damage, found.crc, found.start, found.end) == ("", crc, 100, 100 + len(line))
    assert found.changes == [Change(7, op, 3, tuple(messages), head)]
    assert found.count == 3 + len(messages)
    assert json.loads(line)["add"] == [json.loads(m) for m in messages]


def _journal(count=4):
    """(bytes, where each line begins) of a header and `count` changes."""
    data, starts = journal.header_line("b", 1, 1), [0]
    crc = journal.read_header(data, "j").crc
    for number in range(count):
        starts.append(len(data))
        line, crc = journal.change_line(Change(number + 2, f"op{number}", number, [message(number)], {"set": {"t": TIME}}), crc)
        data += line
    return data, starts


def _scan(data):
    header = journal.read_header(data, "j")
    return journal.scan(data[header.end :], header.end, header.crc, 0, header.revision, 0)


def test_a_torn_tail_is_the_state_before_at_every_byte():
    """However much of the last line is there: the lines before it count, the rest is a tail and no corruption."""
    data, starts = _journal()
    for end in range(starts[-1], len(data)):
        found = _scan(data[:end])
        assert [change.revision for change in found.changes] == [2, 3, 4]
        assert found.end == starts[-1]
        assert not found.fatal


def test_a_tail_of_zeros_or_noise_is_a_tail():
    """What a file system leaves after a power cut: the right length, other bytes."""
    data, starts = _journal()
    for noise in (b"\0", b"\xff", b"\n", b"{", b'{"crc":"'):
        found = _scan((data[: starts[-1]] + noise * 200)[: len(data)])
        assert len(found.changes) == 3
        assert not found.fatal


def test_every_flipped_bit_is_noticed():
    """In the last line: the state before. In front of it: fatal, with the lines before the damage still good."""
    data, starts = _journal()
    whole = _scan(data).changes
    for position in range(starts[1], len(data)):
        for bit in range(8):
            broken = bytearray(data)
            broken[position] ^= 1 << bit
            found = _scan(bytes(broken))
            line = max(number for number, start in enumerate(starts) if start <= position) - 1
            assert found.changes == whole[:line]
            assert found.fatal is (line < 3)
            assert found.end == starts[line + 1]


def test_a_damaged_first_line_is_noticed():
    """Every flipped bit of the header is an error, never another header."""
    data, starts = _journal(1)
    for position in range(starts[1]):
        for bit in range(8):
            broken = bytearray(data)
            broken[position] ^= 1 << bit
            with pytest.raises((ValueError, UnsupportedFormat)):
                journal.read_header(bytes(broken), "j")


def test_a_line_of_another_place_is_not_followed():
    """Valid by itself, but not behind this line: swapped, repeated or left out lines are damage."""
    data, starts = _journal()
    cut = [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]
    for order in ([0, 2, 1, 3, 4], [0, 1, 1, 2, 3, 4], [0, 1, 3, 4]):
        found = _scan(b"".join(cut[number] for number in order))
        assert found.damage
        assert found.fatal
        assert len(found.changes) < 4


def test_a_line_of_another_history_is_not_followed():
    """It fits by its revision and its length, but it was written behind another line: one that was undone since."""
    header = journal.header_line("b", 1, 1)
    crc = journal.read_header(header, "j").crc
    undone, undone_crc = journal.change_line(Change(2, "undone", 0, [b"1"], {}), crc)
    kept, _ = journal.change_line(Change(2, "kept", 0, [b"2"], {}), crc)
    behind, _ = journal.change_line(Change(3, "behind", 1, [b"3"], {}), undone_crc)
    assert len(_scan(header + undone + behind).changes) == 2
    found = _scan(header + kept + behind)
    assert [change.op for change in found.changes] == ["kept"]
    assert found.damage


def test_newer_journals_and_snapshots_are_refused():
    """By their number, even if the rest, checksums included, is done otherwise."""
    for data in (b'{"crc":"x","format":2,"more":1}\n', lines.sealed(b'"format":2,"birth":"b"}')[0]):
        with pytest.raises(UnsupportedFormat):
            journal.read_header(data, "j")
        with pytest.raises(UnsupportedFormat):
            snapshot.decode(data, "s")


# -- snapshot ----------------------------------------------------------------------------------------------------

HEAD = {"id": "a", "birth": "b", "revision": 9, "metadata": {"x": ["],", '"messages":[']}}


@given(st.lists(MESSAGES, max_size=5), st.dictionaries(TEXTS, HEADS, max_size=4), st.lists(TEXTS, max_size=3))
def test_a_snapshot_comes_back_as_it_was(messages, head, ops):
    """Byte for byte; the whole file is one JSON document."""
    data = snapshot.encode(head, messages, ops, 5)
    found = snapshot.decode(data, "s")
    assert (found.head, found.messages, found.ops, found.generation, found.size) == (
        head, messages, tuple(ops), 5, len(data))
    assert json.loads(data)["messages"] == [json.loads(m) for m in messages]


def test_every_flipped_bit_of_a_snapshot_is_noticed():
    """And the damage is placed: messages in front of it are given back as good, none behind it."""
    messages = [message(number) for number in range(4)]
    data = snapshot.encode(HEAD, messages, ["o"], 1)
    first = data.index(messages[0])
    for position in range(len(data)):
        for bit in range(8):
            broken = bytearray(data)
            broken[position] ^= 1 << bit
            with pytest.raises((snapshot.Damage, UnsupportedFormat)) as caught:
                snapshot.decode(bytes(broken), "s")
            if isinstance(caught.value, snapshot.Damage) and caught.value.good is not None:
                good = caught.value.good
                assert good.head == HEAD
                assert good.messages == messages[: len(good.messages)]
                assert caught.value.offset <= position or position >= first


def test_damage_in_one_message_is_placed_there():
    """The offset of the line, and the messages before it."""
    messages = [message(number) for number in range(4)]
    data = snapshot.encode(HEAD, messages, ["o"], 1)
    place = data.index(messages[2])
    broken = data[: place + 5] + b"#" + data[place + 6 :]
    with pytest.raises(snapshot.Damage) as caught:
        snapshot.decode(broken, "s")
    assert caught.value.offset == place
    assert caught.value.good.messages == messages[:2]


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_cut_snapshot_is_damage(part):
    """A snapshot gets its name only when it is whole; a shorter one was damaged later."""
    data = snapshot.encode(HEAD, [message(n) for n in range(9)], ["o"], 1)
    with pytest.raises(snapshot.Damage):
        snapshot.decode(data[: int(len(data) * part)], "s")
