"""What becomes of work that a cache keeps, where its holder, a thread, a task or another store comes in between."""

from __future__ import annotations

from pickle import dumps, loads

import anyio
import pytest

from bamboo_sessions import (
    AsyncSessionRepository,
    LockedSessionStore,
    MemoryStorage,
    Message,
    Session,
    SessionCache,
    SessionRepository,
    StorageUnavailable,
)
from bamboo_sessions import locked_store as module
from bamboo_sessions.storages.protocol import Commit, Stamp


class Failing(MemoryStorage):
    """Refuses commits (`down`), or makes them and does not say so (`lost`)."""

    mode = ""

    def commit(self, commit: Commit) -> Stamp:
        if self.mode == "down":
            raise StorageUnavailable("commit", session_id=commit.session_id, reason="on purpose")
        stamp = super().commit(commit)
        if self.mode == "lost":
            raise StorageUnavailable("commit", session_id=commit.session_id, outcome="unknown", reason="on purpose")
        return stamp


class ThreeMethods:
    """A plain storage, which remembers no commits."""

    def __init__(self) -> None:
        self.held: dict[str, Session] = {}
        self.down = False

    def load_session(self, session_id: str) -> Session | None:
        return self.held[session_id].snapshot() if session_id in self.held else None

    def save_session(self, session: Session) -> None:
        if self.down:
            raise StorageUnavailable("save", session_id=session.id, reason="on purpose")
        self.held[session.id] = session.snapshot()

    def delete_session(self, session_id: str) -> bool:
        return self.held.pop(session_id, None) is not None

    def close(self) -> None:
        pass


def _repo(storage: object) -> SessionRepository:
    return SessionRepository(SessionCache(), storage, LockedSessionStore(storage))  # type: ignore[arg-type]


def _session(*ids: str) -> Session:
    session = Session.new("c")
    for name in ids:
        session.add_message(Message.user(name, id=name))
    return session


def _stored(storage: object) -> list[str]:
    found = _repo(storage).load("c")
    return [] if found is None else [str(message.content) for message in found.messages]


def _kept(storage: Failing, repo: SessionRepository) -> Session:
    """A session with `k` in it that could only be kept."""
    session = _session("a", "b")
    repo.save(session)
    storage.mode = "down"
    session.add_message(Message.user("k", id="k"))
    repo.save_and_cache(session)
    storage.mode = ""
    return session


@pytest.mark.parametrize("landed", [False, True])
def test_a_holder_takes_back_what_a_save_of_unknown_outcome_stored(landed: bool) -> None:
    """What is undone after a save of unknown outcome stays undone, also in a copy that has kept work."""
    storage = Failing()
    repo = _repo(storage)
    mine = _kept(storage, repo)
    other = repo.load("c")
    assert other is not None
    mine.add_message(Message.user("x", id="x"))
    mine.replace_message("a", Message.user("A", id="a"))
    storage.mode = "lost"
    with pytest.raises(StorageUnavailable):
        repo.save(mine)
    storage.mode = ""
    mine.remove_message("x")
    mine.replace_message("a", Message.user("a", id="a"))
    if landed:
        repo.save(other)
    repo.save(mine)
    assert _stored(storage) == ["a", "b", "k"]


def test_what_is_added_while_a_copy_comes_home_stays_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that another thread adds to an object while it is being kept is not taken off it."""
    storage = Failing()
    repo = _repo(storage)
    mine = _kept(storage, repo)
    other = repo.load("c")
    assert other is not None
    repo.save(other)
    mine.add_message(Message.user("y", id="y"))
    real = module.at_home

    def meanwhile(*given: object) -> object:
        made = real(*given)  # type: ignore[arg-type]
        mine.add_message(Message.user("z", id="z"))
        return made

    monkeypatch.setattr(module, "at_home", meanwhile)
    module.bring_home(mine, mine)
    assert [message.id for message in mine.messages] == ["a", "b", "k", "y", "z"]


def test_a_task_knows_what_was_tried_although_its_copy_came_home_on_the_way() -> None:
    """A save of unknown outcome that found its kept work stored is told to the object: nobody's later edit is reverted."""
    storage = Failing()

    async def scenario() -> None:
        sync = _repo(storage)
        repo = AsyncSessionRepository(sync)
        mine = _kept(storage, sync)
        other = await repo.load("c")
        assert other is not None
        storage.mode = "lost"
        with pytest.raises(StorageUnavailable):
            await repo.save(other)
        mine.replace_message("a", Message.user("A1", id="a"))
        mine.add_message(Message.user("x", id="x"))
        with pytest.raises(StorageUnavailable):
            await repo.save(mine)
        storage.mode = ""

        def edit(session: Session) -> None:
            session.replace_message("a", Message.user("A2", id="a"))
            session.remove_message("x")

        _repo(storage).update("c", edit)
        await repo.save(mine)

    anyio.run(scenario)
    assert _stored(storage) == ["A2", "b", "k"]


def test_kept_work_survives_a_plain_storage_that_came_back_from_a_backup() -> None:
    """A storage without a memory of commits that lost the commit of kept work gets that work from who still has it."""
    storage = ThreeMethods()
    repo = _repo(storage)
    mine = _session("a")
    repo.save(mine)
    backup = storage.held["c"].snapshot()
    storage.down = True
    mine.add_message(Message.user("k", id="k"))
    repo.save_and_cache(mine)
    storage.down = False
    other = repo.load("c")
    assert other is not None
    repo.save(other)
    storage.held["c"] = backup
    mine.add_message(Message.user("y", id="y"))
    repo.save(mine)
    assert _stored(storage) == ["a", "k", "y"]


def test_work_that_another_store_has_is_still_unsaved_here() -> None:
    """A first save that was kept for one store and stored in another is not given up for a stranger's session in the first."""
    here, there = Failing(), Failing()
    repo = _repo(here)
    mine = _session("k")
    here.mode = "down"
    repo.save_and_cache(mine)
    _repo(there).save(mine)
    here.mode = ""
    _repo(here).save(_session("o"))
    repo.load_merged("c")
    repo.flush()
    assert sorted(_stored(here)) == ["k", "o"]


def test_what_is_changed_in_the_cache_itself_is_not_taken_for_what_was_kept() -> None:
    """Its holder saves what was kept of him; what somebody put into the cached copy since stays unsaved, and is saved with it."""
    storage = Failing()
    repo = _repo(storage)
    mine = _kept(storage, repo)
    with repo.cache.with_mut("c") as cached:
        assert cached is not None
        cached.add_message(Message.user("x", id="x"))
    repo.save(mine)
    assert repo.cache.unsaved_ids() == ["c"]
    repo.flush()
    assert _stored(storage) == ["a", "b", "k", "x"]


def test_a_pickled_copy_of_kept_work_brings_it_home_as_well() -> None:
    """It shares nothing with the others, but its mark; what it took out does not come back with them."""
    storage = Failing()
    repo = _repo(storage)
    _kept(storage, repo)
    other, travelled = repo.load("c"), loads(dumps(repo.load("c")))
    assert other is not None
    travelled.remove_message("k")
    repo.save(travelled)
    other.add_message(Message.user("y", id="y"))
    repo.save(other)
    assert _stored(storage) == ["a", "b", "y"]
    assert repo.cache.unsaved_ids() == []
