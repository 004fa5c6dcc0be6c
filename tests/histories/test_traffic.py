"""What a record says of a look, also where the repository tells its caller nothing."""

from __future__ import annotations

import pytest

from bamboo_sessions import MemoryStorage, Message, Session, StorageUnavailable
from tests.histories.factories import FACTORIES
from tests.histories.history import read_history
from tests.histories.judge import judge
from tests.histories.recorder import Pen, Recorder
from tests.histories.traffic import Actor


@pytest.mark.parametrize("fails", [False, True])
def test_a_failure_that_nobody_planned_is_found_behind_what_is_cached(fails, tmp_path, monkeypatch):
    """`load_merged` logs it and gives the cached copy: what that shows may be old, and the record says why."""
    factory = FACTORIES["memory"](tmp_path)
    repo, recorder = factory.open(), Recorder(tmp_path / "all.log", "all")
    actor = Actor(factory, [repo], Pen(recorder, 0), "all.0", "1", lambda: 1)
    session = Session.new("chat-1", model="m0")
    session.add_message(Message.user("one", id="all.0.1m"))
    repo.save(session)

    def fail(*_asked):
        raise StorageUnavailable("read", reason="nobody planned this")

    if fails:
        monkeypatch.setattr(MemoryStorage, "read", fail)
    assert actor._look("load_merged", "chat-1", 0, repo.load_merged) is not None
    looked = read_history(tmp_path)["chat-1"][0]
    assert (looked.outcome, "nobody planned this" in looked.what) == (("surprise", True) if fails else ("ok", False))
    assert ("unexpected error" in {found.what for found in judge(read_history(tmp_path)).anomalies}) is fails
