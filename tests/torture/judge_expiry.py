"""Whether a store in which sessions expire hides, renews and purges what it must, and nothing else.

Which sessions have expired follows from the model alone: when each was active last, and whether it is spared. That is
compared with what a repository with a time to live shows, by the clock as it is and by one that is ahead; there the rest of
what is old is purged, as the next clean-up would.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

from bamboo_sessions import JsonFileStorage, Session, SessionRepository
from tests.torture.judge_words import Wrong
from tests.torture.scenarios_expiry import LATER, Ahead, is_hidden
from tests.torture.scenarios_model import Model


def purged_later(folder: str | Path, state: Model, ttl: timedelta, options: Mapping[str, Any], *, renewing: bool) -> list[str]:
    """Look, purge by a clock that is ahead, and look again; what was purged is taken out of `state`. `renewing`: before that,
    a copy of each hidden session is saved, and it is there again."""
    with closing(JsonFileStorage(folder, **options)) as everything:
        copies = {chat: everything.get_session(chat) for chat, session in state.items() if is_hidden(session, later=True)}
    with closing(SessionRepository.open(folder, ttl=ttl, **{**options, "clock": Ahead(timedelta(0))})) as repo:
        _hides(repo, state, later=False)
        if renewing:
            _renew(repo, state, copies)
    with closing(SessionRepository.open(folder, ttl=ttl, **{**options, "clock": Ahead(LATER)})) as repo:
        hidden = [chat for chat, session in state.items() if is_hidden(session, later=True)]
        counts = [repo.purge_expired(), repo.purge_expired()]
        if counts != [len(hidden), 0]:
            raise Wrong("broken", f"{len(hidden)} sessions have expired, and two purges removed {counts}")
        for chat in hidden:
            del state[chat]
            storage: Any = repo.storage
            if not storage.was_expired(chat, copies[chat].birth):
                raise Wrong("ghost", f"nobody remembers that {chat!r} expired")
        _hides(repo, state, later=True)
        return hidden


def _hides(repo: SessionRepository, state: Model, *, later: bool) -> None:
    """Shown is what has not expired: in lists, and one by one."""
    shown = {chat for chat, session in state.items() if not is_hidden(session, later=later)}
    listed = {item.id for item in repo.list(limit=1000).items}
    loaded = {chat for chat in state if repo.try_load(chat) is not None}
    there = {chat for chat in state if repo.exists(chat)}
    if not listed == loaded == there == shown:
        missing = shown - (listed & loaded & there)
        raise Wrong("lost" if missing else "ghost", f"shown are {listed}, {loaded}, {there} and should be {shown}")


def _renew(repo: SessionRepository, state: Model, copies: Mapping[str, Session]) -> None:
    """By a save of nothing: nobody loses a session that he still holds."""
    for chat, session in state.items():
        if not is_hidden(session):
            continue
        if repo.save(copies[chat]).changed or repo.try_load(chat) is None:
            raise Wrong("broken", f"a save of its copy does not renew {chat!r}")
        session["time"] = "now"

