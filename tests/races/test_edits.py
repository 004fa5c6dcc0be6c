"""`edit` holds the session: others wait, calls from within join, whoever outlives the body queues like anybody else."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from bamboo_sessions import LockedSessionStore, LockTimeout, Message, Session, SessionDeleted
from tests.support import Gate, Worker, bundle, stored, texts


@pytest.fixture
def repo(repo):
    session = Session.new("s", clock=repo._clock)
    session.messages = [Message.user("one")]
    repo.save(session)
    return repo


def say(word):
    return lambda session: session.add_message(Message.user(word))


def within(function, *args):
    """A thread started in here that belongs to here."""
    return Worker(contextvars.copy_context().run, function, *args)


def test_others_wait_for_an_edit(repo, storage):
    """A save, an update and a deletion from other threads come after it, in one piece with what it read."""
    gate, mine = Gate(), repo.load("s")
    mine.add_message(Message.user("mine"))

    def edit():
        with repo.edit("s") as session:
            gate()
            session.add_message(Message.user(f"edited at {len(session.messages)}"))

    editor = Worker(edit)
    gate.reached()
    saver = Worker(repo.save, mine)
    assert saver.is_waiting()
    assert texts(repo.load("s")) == ["one"]
    gate.open()
    editor.result()
    saver.result()
    assert texts(stored(storage, "s")) == ["one", "edited at 1", "mine"]


def test_calls_from_within_join(repo, storage):
    """Save, update, setters, load_merged and another edit of the same session, in the body: all in the result."""
    mine = repo.load("s")
    mine.add_message(Message.user("saved"))
    with repo.edit("s") as session:
        repo.save(mine)
        repo.set_title("s", "joined")
        with repo.edit("s") as inner:
            inner.metadata["inner"] = True
        assert texts(repo.load_merged("s")) == ["one", "saved"]
        session.add_message(Message.user("edited"))
    after = stored(storage, "s")
    assert (sorted(texts(after)), after.title, after.metadata) == (["edited", "one", "saved"], "joined", {"inner": True})


def test_a_thread_started_within_joins(repo, storage):
    """The hold belongs to the edit, not to a thread: also for two such threads at once."""
    with repo.edit("s") as session:
        workers = [within(repo.update, "s", lambda s, n=n: s.add_message(Message.user(f"thread {n}"))) for n in range(4)]
        for worker in workers:
            worker.result()
        session.pinned = True
    after = stored(storage, "s")
    assert sorted(texts(after)) == ["one", *(f"thread {n}" for n in range(4))]
    assert after.pinned


def test_a_thread_that_outlives_the_edit_queues(repo):
    """Once the edit is over, what was started in it has no hold to join."""
    gate = Gate()

    def late():
        gate()
        repo.set_pinned("s", True)

    with repo.edit("s"):
        worker = within(late)
        gate.reached()
    blocker = Gate()

    def another():
        with repo.edit("s"):
            blocker()

    other = Worker(another)
    blocker.reached()
    gate.open()
    assert worker.is_waiting()
    blocker.open()
    worker.result()
    other.result()
    assert repo.load("s").pinned


def test_a_stranger_does_not_join(storage, clock):
    """A thread with a context of its own waits, and gets LockTimeout at its deadline."""
    repo = bundle(storage, clock, lock_timeout=0.05)
    repo.save(Session.new("s", clock=clock))
    with repo.edit("s"):
        stranger = Worker(repo.set_pinned, "s", True)
        with pytest.raises(LockTimeout):
            stranger.result()
    assert repo.set_pinned("s", True).changed


def test_an_edit_may_be_left_on_another_thread(repo, storage):
    """An async face enters on one worker and leaves on another: the session is free afterwards, and saved."""
    edit = repo.edit("s")
    session = within(edit.__enter__).result()
    session.add_message(Message.user("two"))
    within(edit.__exit__, None, None, None).result()
    assert texts(stored(storage, "s")) == ["one", "two"]
    assert len(repo.persistence._holds) == 0


def test_an_exception_frees_the_session(repo, storage):
    """The body's own, on whichever thread; nothing is saved."""
    edit = repo.edit("s")
    session = within(edit.__enter__).result()
    session.add_message(Message.user("two"))
    error = ZeroDivisionError()
    assert not within(edit.__exit__, ZeroDivisionError, error, None).result()  # not swallowed
    assert len(repo.persistence._holds) == 0
    assert texts(stored(storage, "s")) == ["one"]


def test_edits_of_two_sessions_do_not_join(repo, storage):
    """An edit of one inside an edit of the other holds both, each for itself."""
    repo.save(Session.new("t", clock=repo._clock))
    with repo.edit("s") as s, repo.edit("t") as t:
        s.pinned = t.pinned = True
    assert stored(storage, "s").pinned
    assert stored(storage, "t").pinned


def test_deleting_within_an_edit(repo, storage):
    """P9: the deletion joins, and the edit's own save then finds the session deleted."""
    with pytest.raises(SessionDeleted), repo.edit("s") as session:
        repo.delete("s")
        session.pinned = True
    assert stored(storage, "s") is None
    assert repo.load("s") is None


def test_edits_in_tasks_take_turns(repo, storage):
    """Tasks of one event loop, each with its edits on worker threads: no update is lost."""

    async def work(name):
        for number in range(5):
            await asyncio.to_thread(repo.update, "s", say(f"{name}{number}"))

    async def main():
        await asyncio.gather(*(work(name) for name in "abc"))

    asyncio.run(main())
    assert sorted(texts(stored(storage, "s"))) == sorted(["one", *(f"{n}{i}" for n in "abc" for i in range(5))])


def test_two_stores_over_one_storage_take_turns(storage, clock):
    """Two bundles over one storage object: appends by both, at once, all arrive."""
    stores = [LockedSessionStore(storage, clock=clock) for _ in range(2)]
    stores[0].save(Session.new("s", clock=clock))

    def work(store, name):
        for number in range(10):
            store.update("s", say(f"{name}{number}"))

    for worker in [Worker(work, store, name) for store, name in zip(stores * 2, "abcd", strict=True)]:
        worker.result()
    assert len(stored(storage, "s").messages) == 40
