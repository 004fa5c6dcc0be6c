"""What is claimed is there, what is there is claimed, and what is not claimed is refused in the documented way."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import pytest

from bamboo_sessions.clock import SYSTEM_CLOCK
from bamboo_sessions.errors import InvalidValue, RevisionConflict, SessionNotFound, StorageUnavailable
from bamboo_sessions.filters import Order
from bamboo_sessions.models import Message, Session
from bamboo_sessions.storages.protocol import (
    Storage,
    UsageLog,
    has_expiry,
    has_locks,
    has_plain_reads,
    has_search,
    has_telling_heads,
    has_usage_log,
    has_usage_reads,
    keeps_records,
)
from bamboo_sessions.storages.shortcuts import has_current_stamps, has_held_reads, has_likely_stamps, makes_room
from bamboo_sessions.testing.harness import Desk, Power, needs
from bamboo_sessions.testing.plain import back_door
from bamboo_sessions.testing.samples import counted, everything, talk, texts


def powers_found(desk: Desk) -> set[Power]:
    """What a storage can do, whatever is claimed: by asking it, and by trying. `PROCESSES` cannot be tried."""
    storage = desk.storage
    asked = {Power.RECORDS: keeps_records(storage), Power.LOCKS: has_locks(storage), Power.USAGE: has_usage_log(storage),
             Power.USAGE_READS: has_usage_reads(storage),
             Power.SEARCH: _searches(storage), Power.STAMPS: has_current_stamps(storage), Power.LISTING: hasattr(storage, "heads"),
             Power.HELD_READS: has_held_reads(storage), Power.PLAIN_READS: has_plain_reads(storage),
             Power.LIKELY_STAMPS: has_likely_stamps(storage), Power.ALONE: makes_room(storage),
             Power.EXPIRY: _expires(desk), Power.IDENTITY: _keeps_identity(storage), Power.REOPEN: _outlives(desk)}
    return {power for power, there in asked.items() if there}


def _expires(desk: Desk) -> bool:
    """A storage that was opened without a time to live has not the power, whatever its methods are."""
    storage = desk.open_expiring(timedelta(hours=1), SYSTEM_CLOCK) if desk.has(Power.EXPIRY) else desk.storage
    return has_expiry(storage) and storage.ttl is not None


def _searches(storage: Storage) -> bool:
    """One that keeps records: nobody asks another one, whatever its methods are called."""
    return keeps_records(storage) and has_search(storage)


def _keeps_identity(storage: Storage) -> bool:
    given = counted(everything("powers"), 7)
    storage.save_session(given.snapshot())
    found = storage.load_session("powers")
    assert found is not None
    ids = [message.id for message in given.messages] == [message.id for message in found.messages]
    return ids and found.birth == given.birth and found.revision >= given.revision


def _outlives(desk: Desk) -> bool:
    """A place that can only be opened once is none that outlives its object."""
    desk.storage.save_session(talk("outlives", "word"))
    try:
        return desk.open().load_session("outlives") is not None
    except Exception:  # noqa: BLE001 - whatever a second opening meets
        return False


class PowerContract:
    """Claims against findings."""

    def test_every_claimed_power_is_there(self, desk: Desk) -> None:
        """A claim without the methods, or without what they promise, would make its contracts pass for nothing."""
        missing = sorted(desk.harness.powers - powers_found(desk) - {Power.PROCESSES})
        assert not missing, f"claimed and not there: {', '.join(missing)}"
        if desk.has(Power.PROCESSES):
            assert desk.has(Power.REOPEN), "several processes need a place that outlives an object"
            assert desk.has(Power.RECORDS) or desk.has(Power.LOCKS), "several processes need commits or locks"

    def test_every_power_that_is_there_is_claimed(self, desk: Desk) -> None:
        """A power that the library will find and use, and that no contract is asked about, is a hole."""
        unclaimed = sorted(powers_found(desk) - desk.harness.powers)
        assert not unclaimed, f"there and not claimed: {', '.join(unclaimed)}"

    @needs(without=Power.USAGE)
    def test_without_a_usage_log_appending_is_refused(self, desk: Desk) -> None:
        """StorageUnavailable, nothing applied: usage is never dropped in silence."""
        repo = desk.repository()
        repo.save(talk("one", "word"))
        with pytest.raises(StorageUnavailable) as caught:
            repo.append_token_usage_record("one", '{"tokens": 1}')
        assert caught.value.outcome == "not applied"

    @needs(without=Power.LISTING)
    def test_without_heads_listing_is_refused(self, desk: Desk) -> None:
        """StorageUnavailable, not an empty page."""
        repo = desk.repository()
        repo.save(talk("one", "word"))
        with pytest.raises(StorageUnavailable):
            repo.list()

    @needs(Power.RECORDS, without=Power.LOCKS)
    def test_without_locks_an_overtaken_edit_is_refused(self, desk: Desk) -> None:
        """RevisionConflict, and the other's commit stands: what was decided on an older state is not committed."""
        repo, other = desk.repository(), desk.repository()
        repo.save(talk("one", "first"))
        edit = repo.edit("one")
        session = edit.__enter__()
        other.update("one", lambda s: s.add_message(Message.user("overtook")))
        session.add_message(Message.user("late"))
        with pytest.raises(RevisionConflict):
            edit.__exit__(None, None, None)
        found = desk.newest("one")
        assert found is not None
        assert texts(found) == ["first", "overtook"]


def heads_of(storage: Any) -> list[tuple[dict[str, Any], int]]:
    """What the storage itself lists; a page of a repository would not show that one came twice."""
    return list(storage.heads())


@needs(Power.LISTING)
class ListingContract:
    """`heads`."""

    def test_every_session_is_listed_once(self, desk: Desk) -> None:
        """With its title and its number of messages, as of now; a deleted one is not."""
        repo = desk.repository()
        assert repo.list().items == repo.list().items[:0]
        for number in range(6):
            session = talk(f"s/{number}", *["word"] * number)
            session.title = f"title {number}"
            repo.save(session)
        repo.delete("s/2")
        repo.update("s/4", lambda s: s.add_message(Message.user("more")))
        repo.set_title("s/5", "Renamed")
        found = [(item.id, item.title, item.message_count) for item in desk.repository().list().items]
        assert sorted(found, key=str) == [("s/0", "title 0", 0), ("s/1", "title 1", 1), ("s/3", "title 3", 3),
                                          ("s/4", "title 4", 5), ("s/5", "Renamed", 5)]
        counts = sorted((head["id"], count) for head, count in heads_of(desk.storage))
        assert counts == [("s/0", 0), ("s/1", 1), ("s/3", 3), ("s/4", 5), ("s/5", 5)]

    def test_a_damaged_session_hides_no_other(self, desk: Desk) -> None:
        """It is left out of the list, or listed as far as its head goes; the others are there (P8)."""
        back_door(desk, "damage")
        repo = desk.repository(desk.storage)
        for name in ("a", "broken", "z"):
            repo.save(talk(name, "word"))
        desk.harness.damage(desk.storage, desk.place, "broken")
        assert {item.id for item in desk.repository(desk.storage).list().items} - {"broken"} == {"a", "z"}
        if has_telling_heads(desk.storage):
            told: list[str] = []
            listed = [head["id"] for head, _ in desk.storage.heads_telling(lambda session_id, _why: told.append(session_id))]
            assert sorted([*listed, *told]) == ["a", "broken", "z"], "each is listed or told of"

    def test_a_list_is_filtered_and_sorted(self, desk: Desk) -> None:
        """Each filter takes those that have what is asked for, and no other; each order is one of times that the list shows."""
        repo = desk.repository()
        fields: dict[str, dict[str, Any]] = {
            "a": {"model": "m", "tags": {"red", "work"}, "metadata": {"customer": {"plan": "pro", "seats": 3}}},
            "b": {"model": "n", "provider": "p", "pinned": True, "tags": {"red"}, "metadata": {"ok": True, "a.b": None}},
            "c": {"model": "m", "context_id": "ctx", "archived": True, "metadata": {"ok": 1, "customer": {"plan": "free"}}},
            "d": {"parent_id": "a", "metadata": {"note": {"ok": True, "tags": ["red"]}, "text": "\0\ud800"}}}
        for name, given in fields.items():
            repo.save(_made(name, **given))
        repo.update("d", lambda session: session.set_pending_question("call", "Really?"))
        repo.set_title("a", "changed last")
        for wanted, expected in _ASKED:
            assert {item.id for item in repo.list(**wanted).items} == set(expected), f"asked for {wanted}"
        shown = repo.list().items
        changed = [item.id for item in sorted(shown, key=lambda item: item.updated_at)]
        created = [item.id for item in sorted(shown, key=lambda item: item.created_at)]
        assert [item.id for item in shown] == changed[::-1]
        assert [item.id for item in repo.list(order="oldest").items] == changed
        assert [item.id for item in repo.list(order="created").items] == created[::-1]
        since = shown[1].updated_at
        assert [item.id for item in repo.list(updated_after=since).items] == changed[:1:-1]
        assert [item.id for item in repo.list(updated_before=since).items] == changed[1::-1]

    @pytest.mark.parametrize("order", ["newest", "oldest", "created"])
    def test_pages_stay_right_while_others_write(self, desk: Desk, order: Order) -> None:
        """What is not changed comes exactly once, what is changed or new at least once, page by page, through a filter."""
        repo = desk.repository()
        for number in range(9):
            repo.save(_made(f"s{number}", pinned=number != 4))
        shown, cursor, changed = [], None, set()
        for number in range(20):
            answer = repo.list(2, cursor, pinned=True, order=order)
            shown += [item.id for item in answer.items]
            cursor = answer.next_cursor
            if cursor is None:
                break
            if number < 3:
                changed |= {f"s{number * 4}", f"new{number}"}
                repo.update(f"s{number * 4}", lambda session: session.set_title("changed"))
                repo.save(_made(f"new{number}", pinned=True))
        assert cursor is None, "a list that nobody disturbs comes to an end"
        assert set(shown) == {*(f"s{number}" for number in range(9) if number != 4), *changed} - {"s4"}
        assert [name for name in shown if shown.count(name) != 1 and name not in changed] == []


def _made(session_id: str, **fields: Any) -> Session:
    session = Session.new(session_id)
    for name, value in fields.items():
        if name == "metadata":
            session.metadata.update(value)
        else:
            setattr(session, name, value)
    return session


_ASKED: Final[Sequence[tuple[dict[str, Any], str]]] = (
    ({}, "abcd"), ({"model": "m"}, "ac"), ({"provider": "p"}, "b"), ({"context_id": "ctx"}, "c"), ({"parent_id": "a"}, "d"),
    ({"pinned": True}, "b"), ({"pinned": False}, "acd"), ({"archived": True}, "c"), ({"archived": False}, "abd"),
    ({"tag": "red"}, "ab"), ({"tags": ["red", "work"]}, "a"), ({"tags": ["re"]}, ""), ({"has_open_question": True}, "d"),
    ({"has_open_question": False}, "abc"), ({"metadata": {"customer.plan": "pro"}}, "a"), ({"metadata": {"ok": True}}, "b"),
    ({"metadata": {"ok": 1.0}}, "c"), ({"metadata": {("a.b",): None}}, "b"), ({"metadata": {"customer.seats": 3.0}}, "a"),
    ({"metadata": {"customer": {"seats": 3, "plan": "pro"}}}, "a"), ({"metadata": {"note.tags": ["red"]}}, "d"),
    ({"metadata": {"none": None}}, ""), ({"metadata": {"text": "\0\ud800"}}, "d"), ({"model": "m", "archived": False}, "a"))
"""What is asked for, and who has it."""


@needs(Power.USAGE)
class UsageContract:
    """`append_usage`."""

    def _log(self, desk: Desk) -> UsageLog:
        storage = desk.storage
        assert has_usage_log(storage), "a usage log is claimed, and there is no append_usage"
        return storage

    def test_usage_is_appended(self, desk: Desk) -> None:
        """Line by line, in order, whatever is saved in between; gone with the session."""
        back_door(desk, "usage_lines")
        repo, lines = desk.repository(desk.storage), [b'{"tokens":%d,"text":"\xc3\xa9"}' % n for n in range(5)]
        repo.save(talk("one", "word"))
        for number, line in enumerate(lines):
            self._log(desk).append_usage("one", line)
            repo.set_title("one", f"title {number}")
        assert desk.harness.usage_lines(desk.storage, desk.place, "one") == lines
        repo.delete("one")
        repo.save(talk("one", "anew"))
        self._log(desk).append_usage("one", b"1")
        assert desk.harness.usage_lines(desk.storage, desk.place, "one") == [b"1"]

    def test_usage_of_nobody_is_refused(self, desk: Desk) -> None:
        """SessionNotFound where there never was a session, and where there is none any more; none is made."""
        log, repo = self._log(desk), desk.repository(desk.storage)
        repo.save(talk("gone", "word"))
        repo.delete("gone")
        for name in ("nobody", "gone"):
            with pytest.raises(SessionNotFound):
                log.append_usage(name, b'{"tokens":1}')
            assert desk.storage.load_session(name) is None

    def test_usage_that_is_not_one_line_of_json_is_refused(self, desk: Desk) -> None:
        """InvalidValue: a line break would forge a second record, and what is no UTF-8 or a lone surrogate is no text."""
        desk.repository(desk.storage).save(talk("one", "word"))
        for bad in (b"no json", b'{"a":1}\n{"b":2}', b'{"a":\n1}', b"", b'{"a":1}\r', b'"\xff"', b'"\xed\xa0\x80"', b'"\\ud800"'):
            with pytest.raises(InvalidValue):
                self._log(desk).append_usage("one", bad)

    @needs(Power.LOCKS)
    def test_usage_waits_for_no_writer(self, desk: Desk) -> None:
        """The log takes no lock of the session."""
        repo = desk.repository(desk.storage)
        repo.save(talk("one", "word"))
        assert hasattr(desk.storage, "lock")
        with desk.storage.lock("one", 5.0):
            self._log(desk).append_usage("one", b'{"tokens":1}')
