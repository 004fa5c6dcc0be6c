"""A tombstone that a power cut tore was never acknowledged: what is left of it is a leftover, not damage."""

from __future__ import annotations

import pytest

from bamboo_sessions import JsonFileStorage, Message, Session, SessionDeleted, SessionRepository


@pytest.mark.parametrize("torn", [bytes(60), b'{"crc":"' + bytes(52), b"\x9a\x17\n\xff" * 15, b'\x00\n{"cr'],
                         ids=["zeros", "zeros behind some bytes", "garbage with a line break in it", "torn twice"])
def test_a_tombstone_torn_by_a_power_cut_is_no_damage(tmp_path, torn):
    """The length of a file may reach the disk before its bytes; the next tombstone then goes behind what is there."""
    with SessionRepository.open(tmp_path / "store") as repo:
        repo.save(Session.new("kept"))
        repo.save(Session.new("gone"))
        repo.delete("gone")
    graves, = tmp_path.glob("store/sessions/*/deleted.jsonl")
    graves.write_bytes(graves.read_bytes() + torn)
    storage = JsonFileStorage(tmp_path / "store")
    found = list(storage.check())
    storage.close()
    assert {(one.kind, one.severity) for one in found} == {("torn-line", "leftover")}


TORN = {"zeros": bytes(60), "a half": b'{"crc":"0123', "garbage with a line break in it": b"\x9a\x17\n\xff" * 15,
        "a half, and garbage": b'{"crc":"0123\x9a\n\x17', "less than a beginning": b'{"c'}


@pytest.mark.parametrize("torn", TORN.values(), ids=TORN)
@pytest.mark.parametrize("before", [True, False], ids=["behind another", "first of all"])
def test_what_was_torn_is_no_damage_behind_the_next_tombstone_either(tmp_path, torn, before):
    """Nobody could tell later what stood there; the tombstones before and behind it are remembered."""
    with SessionRepository.open(tmp_path / "store") as repo:
        for session_id in ("gone", "kept"):
            repo.save(Session.new(session_id))
        first = repo.load("gone")
        repo.delete("gone")
        graves, = tmp_path.glob("store/sessions/*/deleted.jsonl")
        graves.write_bytes((graves.read_bytes() if before else b"") + torn)
        repo.save(Session.new("gone"))
        again = repo.load("gone")
        repo.delete("gone")
        assert [one.severity for one in repo.persistence.records.check()] in ([], ["leftover"])
        for copy in (again, first) if before else (again,):
            copy.add_message(Message.user("late"))
            with pytest.raises(SessionDeleted):
                repo.save(copy)


def test_a_whole_tombstone_with_a_wrong_bit_is_damage(tmp_path, damage_on_purpose):
    """It ends with its line break, so it was once written whole."""
    with SessionRepository.open(tmp_path / "store") as repo:
        repo.save(Session.new("gone"))
        repo.delete("gone")
    graves, = tmp_path.glob("store/sessions/*/deleted.jsonl")
    graves.write_bytes(graves.read_bytes().replace(b'"birth"', b'"birti"'))
    storage = JsonFileStorage(tmp_path / "store")
    assert [one.severity for one in storage.check()] == ["damage"]
    storage.close()
