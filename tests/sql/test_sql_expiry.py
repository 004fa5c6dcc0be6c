"""Time to live in databases: the manager, and times that are as good as for ever."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bamboo_sessions import Session, SessionManager


@pytest.mark.parametrize("ttl", [None, timedelta(hours=24)])
def test_a_manager_works_over_a_database(opened, bundle, ttl):
    """Sessions expire there, also with the very time to live that the manager asks for."""
    manager = SessionManager(bundle(opened(ttl=ttl)), ttl=timedelta(hours=24))
    manager.create("s", provider="p", model="m")
    assert manager.get("s").model == "m"


@pytest.mark.parametrize("ttl", [timedelta(days=1_000_000), timedelta.max])
def test_a_time_to_live_of_ages_is_one_like_any_other(opened, bundle, ttl):
    """As in files and in memory: nothing expires, and nothing raises OverflowError."""
    repo = bundle(opened(ttl=ttl))
    repo.save(Session.new("s", title="word"))
    assert repo.exists("s")
    assert [item.id for item in repo.list().items] == ["s"]
    assert [hit.session.id for hit in repo.search("word").items] == ["s"]
    assert repo.purge_expired() == 0
