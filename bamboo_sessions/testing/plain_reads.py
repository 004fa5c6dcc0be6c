"""What a storage owes that has a shorter way for plain loads: it may be late, and never behind itself."""

from __future__ import annotations

from bamboo_sessions.storages.protocol import PlainReads, Record, has_plain_reads
from bamboo_sessions.testing.harness import Desk, Power, needs
from bamboo_sessions.testing.records import page, whole
from bamboo_sessions.testing.scribe import Page, first, later, written


def _plain(storage: object) -> PlainReads:
    assert has_plain_reads(storage), f"{type(storage).__name__} claims plain reads and has no method `read_plain`"
    return storage


def _seen(storage: object, session_id: str) -> Page | None:
    record = _plain(storage).read_plain(session_id)
    return None if record is None else Page().as_seen(record)


@needs(Power.RECORDS, Power.PLAIN_READS)
class PlainReadContract:
    """`read_plain`."""

    def test_a_plain_read_is_never_behind_its_own_object(self, desk: Desk) -> None:
        """After each commit and deletion that returned; twice, for the second one may come from nearer by."""
        storage, commits = desk.records, [first("s", "w1", title="t"), later("s", 2, 0, "x"), later("s", 3, 1, "y")]
        assert _seen(desk.storage, "s") is None
        for at, commit in enumerate(commits, 1):
            storage.commit(commit)
            assert [_seen(desk.storage, "s") for _ in range(2)] == [written(*commits[:at])] * 2
        storage.delete_record("s")
        assert [_seen(desk.storage, "s") for _ in range(2)] == [None] * 2
        again = first("s", "anew", birth="anotherbirth0000", op="anew")
        storage.commit(again)
        assert [_seen(desk.storage, "s") for _ in range(2)] == [written(again)] * 2

    def test_a_plain_read_has_a_stamp_to_read_on_from(self, desk: Desk) -> None:
        """What `read` says to it leads to what is there."""
        storage, commits = desk.records, [first("s", "w1"), later("s", 2, 1, "w2")]
        storage.commit(commits[0])
        record = [_plain(desk.storage).read_plain("s") for _ in range(2)][-1]
        assert isinstance(record, Record)
        storage.commit(commits[1])
        answer = storage.read("s", record.stamp)
        assert Page().as_seen(record).as_seen(answer) == written(*commits)

    @needs(Power.RECORDS, Power.PLAIN_READS, Power.REOPEN)
    def test_a_plain_read_is_never_behind_what_was_given_out(self, desk: Desk) -> None:
        """Another object commits, deletes and makes anew: it may be missed until this one has read it, and not after."""
        storage, other = desk.records, desk.as_records(desk.open())
        storage.commit(first("s", "w1"))
        _plain(desk.storage).read_plain("s")
        other.commit(later("s", 2, 1, "w2"))
        stamp = whole(storage, "s").stamp
        assert _seen(desk.storage, "s") == page(other, "s")
        other.commit(later("s", 3, 2, "w3"))
        storage.read("s", stamp)
        assert _seen(desk.storage, "s") == page(other, "s")
        other.delete_record("s")
        assert storage.read("s") is None
        assert _seen(desk.storage, "s") is None
        other.commit(first("s", "anew", birth="anotherbirth0000", op="anew"))
        whole(storage, "s")
        assert _seen(desk.storage, "s") == page(other, "s")
