"""Where sessions expire: what may be gone is left in peace, and each planted anomaly is found."""

from __future__ import annotations

import pytest

from tests.histories.history import history_of
from tests.histories.judge import judge
from tests.histories.test_judge import Log, state
from tests.histories.verdict import group

TTL = 100_000_000


class Expiring(Log):
    """Operations in a place where sessions live for 100 ms."""

    def __init__(self):
        super().__init__()
        self.records.append({"i": "a.ttl", "k": "ttl", "s": "", "r": "a/0", "t0": 0, "v": TTL})

    def wait(self, ms):
        self.now += ms * 1_000_000

    def found(self):
        return set(group(judge(history_of(self.records)).anomalies))


def begun(**says):
    log = Expiring()
    log.save(None, state(0, "a.1m", **says), state(1, "a.1m", **says))
    return log, log.op("load_merged", state(1, "a.1m", **says), by="b")


def test_what_a_time_to_live_allows_is_left_in_peace():
    """Touched and there, gone behind its time, a copy refused, a fresh life, a pinned one that stays."""
    log, copy = begun()
    log.wait(50)
    log.op("touch")
    log.wait(55)
    log.op("load_merged", state(1, "a.1m"), by="c")
    log.wait(150)
    log.op("load_merged", None, by="c")
    log.save(copy, state(1, "a.1m", "b.2m"), None, outcome="expired", by="b")
    fresh = log.save(None, state(0, "c.3m", birth="B2"), state(1, "c.3m", birth="B2"), by="c")
    log.save(fresh, state(1, "c.3m", birth="B2", pinned=True, version=1), state(2, "c.3m", birth="B2", pinned=True, version=1), by="c")
    log.wait(500)
    log.op("load_merged", state(2, "c.3m", birth="B2", pinned=True, version=1), by="a")
    assert log.found() == set()


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "saved"])
def test_what_was_kept_goes_on_as_a_session_of_its_own_and_nothing_else_does(kept):
    """Whole, with its title: where somebody kept a copy. Where nobody did, what expired is there again and nobody knows why."""
    log, copy = begun(title="mine", source="user", version=1)
    mine = state(1, "a.1m", "b.2m", title="mine", source="user", version=1)
    if kept:
        log.op("save_and_cache", base=copy, mine=mine, outcome="kept", by="b")
    else:
        log.save(copy, mine, state(2, "a.1m", "b.2m", title="mine", source="user", version=1), by="b")
    log.wait(300)
    log.op("load_merged", state(1, "a.1m", "b.2m", birth="B2", title="mine", source="user", version=1), by="c")
    assert log.found() == (set() if kept else {"a revision came from nowhere", "shown long after it had expired"})


def test_a_delete_of_what_is_not_shown_any_more_is_one():
    """It is told that there was nothing; and whoever has a copy, that it was deleted."""
    log, copy = begun()
    log.wait(300)
    log.op("delete", outcome="absent", by="c")
    log.save(copy, state(1, "a.1m", "b.2m"), None, outcome="deleted", by="b")
    assert log.found() == set()


def test_what_a_cache_keeps_is_shown_when_the_time_has_run_out():
    """It is somebody's work, and the only copy. That another life of the session came and went is no matter."""
    log, copy = begun()
    log.op("save_and_cache", base=copy, mine=state(1, "a.1m", "b.2m"), outcome="kept", by="b")
    log.wait(300)
    log.save(None, state(0, "c.3m", birth="B2"), state(1, "c.3m", birth="B2"), by="c")
    log.op("delete", by="c")
    log.op("load_merged", state(1, "a.1m", "b.2m"), by="b")
    assert log.found() == set()


def purged_while_active(log, copy):
    """A touch was acknowledged, and soon after that the session is gone."""
    log.wait(90)
    log.op("touch", by="b")
    log.wait(40)
    log.op("load_merged", None, by="c")


def refused_while_active(log, copy):
    log.wait(20)
    log.save(copy, state(1, "a.1m", "b.2m"), None, outcome="expired", by="b")


def shown_for_too_long(log, copy):
    """Nobody was active, and the session is there still."""
    log.wait(300)
    log.op("load_merged", state(1, "a.1m"), by="c")


def back_after_a_purge(log, copy):
    """A copy was refused, and the life that it is of is there again."""
    log.wait(300)
    log.save(copy, state(1, "a.1m", "b.2m"), None, outcome="expired", by="b")
    log.op("load_merged", state(1, "a.1m"), by="c")


def replaced_while_active(log, copy):
    log.wait(20)
    log.save(None, state(0, "c.3m", birth="B2"), state(1, "c.3m", birth="B2"), by="c")


PLANTED = {purged_while_active: "expired before its time", refused_while_active: "refused as expired before its time",
           shown_for_too_long: "shown long after it had expired", back_after_a_purge: "resurrected after a purge",
           replaced_while_active: "replaced before its time"}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_anomaly_is_found(plant):
    """Each under its name, in a history that had none before."""
    log, copy = begun()
    assert log.found() == set()
    plant(log, copy)
    assert PLANTED[plant] in log.found()


@pytest.mark.parametrize("says", [{"pinned": True}, {"asked": [("T1", "ask-1", "which?")]}], ids=["pinned", "asked"])
def test_who_is_spared_and_gone_is_found(says):
    """However long nobody was active: a pinned session, and one with an open question, are not purged."""
    log, _ = begun(**says)
    log.wait(500)
    assert log.found() == set()
    log.op("load_merged", None, by="c")
    assert log.found() == {"expired and was pinned or asked"}
