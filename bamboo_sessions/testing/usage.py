"""A log of token usage that can be read back, and carried on by the bundle: what a move from store to store stands on."""

from __future__ import annotations

from typing import Any

import pytest

from bamboo_sessions.errors import InvalidValue
from bamboo_sessions.storages.protocol import UsageReads, has_usage_log, has_usage_reads
from bamboo_sessions.testing.harness import Desk, Power, needs
from bamboo_sessions.testing.samples import talk


@needs(Power.RECORDS, Power.USAGE, Power.USAGE_READS)
class UsageReadsContract:
    """`read_usage` and `add_usage`."""

    def test_usage_is_read_back(self, desk: Desk) -> None:
        """To the byte and in order, by another object too; of that birth only, and gone with it."""
        log, birth = _log(desk), _made(desk, "one")
        lines = [b'{"tokens":%d,"text":"\xc3\xa9 "}' % number for number in (1, 2, 2)]
        for line in lines:
            log.append_usage("one", line)
        assert list(log.read_usage("one", birth)) == lines
        if desk.has(Power.REOPEN):
            assert list(_reads(desk.open()).read_usage("one", birth)) == lines
        assert [list(log.read_usage(*asked)) for asked in (("one", "another"), ("nobody", birth))] == [[], []]
        desk.records.delete_record("one")
        anew = _made(desk, "one")
        assert [list(log.read_usage("one", asked)) for asked in (birth, anew)] == [[], []]

    def test_usage_is_added_in_one_step(self, desk: Desk) -> None:
        """Behind what the caller knew to be there; where that is no longer so, or the session is another one, nothing is."""
        log, birth = _log(desk), _made(desk, "one")
        log.append_usage("one", b'{"n":0}')
        more = [b'{"n":1}', b'{"n":2}', b'{"n":1}']
        assert log.add_usage("one", birth, more, 1) is True
        assert list(log.read_usage("one", birth)) == [b'{"n":0}', *more]
        for name, whose, after in (("one", birth, 1), ("one", birth, 5), ("one", "another", 4), ("nobody", birth, 0)):
            assert log.add_usage(name, whose, [b'{"n":3}'], after) is False
        assert list(log.read_usage("one", birth)) == [b'{"n":0}', *more]
        assert desk.storage.load_session("nobody") is None

    def test_usage_that_is_added_is_one_line_of_json_each(self, desk: Desk) -> None:
        """InvalidValue, and none of the bundle is there."""
        log, birth = _log(desk), _made(desk, "one")
        for bad in (b"no json", b'{"a":1}\n{"b":2}', b"", b'"\xff"', b'"\xed\xa0\x80"', b'"\\ud800"'):
            with pytest.raises(InvalidValue):
                log.add_usage("one", birth, [b'{"n":0}', bad], 0)
        assert list(log.read_usage("one", birth)) == []


def _made(desk: Desk, name: str) -> str:
    """A new session's birth."""
    session = talk(name, "word")
    desk.storage.save_session(session)
    found = desk.storage.load_session(name)
    assert found is not None
    return found.birth


def _reads(storage: Any) -> UsageReads:
    assert has_usage_reads(storage), "a log that can be read back is claimed, and there is no read_usage or add_usage"
    return storage


def _log(desk: Desk) -> Any:
    storage: Any = desk.storage
    assert has_usage_log(storage)
    return _reads(storage)
