"""Tasks that are cancelled, threads that are not, loops that end, and other processes: nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bamboo_sessions import JsonFileStorage, LockTimeout, MemoryStorage, Message, Session
from bamboo_sessions.aio import AsyncSessionRepository
from bamboo_sessions.aio_edit import Edit
from bamboo_sessions.clock import real_monotonic
from tests.support import Gate, ManualClock, Worker, bundle, failing, steered, stored, texts

pytestmark = pytest.mark.anyio

KINDS = ("memory", "json_files")
BACKENDS = ("asyncio", "trio")


@pytest.fixture(params=BACKENDS)
def anyio_backend(request):
    """Every async test, on both."""
    return request.param


@pytest.fixture(params=KINDS)
def storage(request, clock):
    """One without a lock across processes, one with."""
    return steered(MemoryStorage(clock=clock) if request.param == "memory" else request.getfixturevalue("json_storage"))


@pytest.fixture
def aio(storage, clock):
    return AsyncSessionRepository(bundle(storage, clock))


def new(aio, *words, session_id="s"):
    session = Session.new(session_id, clock=aio.sync._clock)
    session.messages = [Message.user(word) for word in words]
    return session


def say(word):
    return lambda session: session.add_message(Message.user(word))


class Doing:
    """A call in a task of its own, that can be cancelled alone."""

    def __init__(self, tasks, function, *args):
        self.scope, self.over = anyio.CancelScope(), anyio.Event()
        self.answer = self.error = None
        tasks.start_soon(self._do, function, args)

    async def _do(self, function, args):
        with self.scope:
            try:
                self.answer = await function(*args)
            except Exception as error:
                self.error = error
        self.over.set()

    async def cancel(self):
        self.scope.cancel()
        await self.over.wait()
        assert self.scope.cancelled_caught

    async def result(self):
        await self.over.wait()
        if self.error is not None:
            raise self.error
        return self.answer


async def reached(gate):
    """Somebody's thread is at the gate; the loop goes on meanwhile."""
    await anyio.to_thread.run_sync(gate.reached)


@asynccontextmanager
async def at(storage, point, tasks, function, *args):
    """A call whose thread is held at a point of the storage during the body."""
    gate = Gate()
    storage.at(point, gate)
    doing = Doing(tasks, function, *args)
    await reached(gate)
    try:
        yield doing
    finally:
        gate.open()


async def idle(aio):
    """Until no thread of it is at work, also of those nobody waits for, and nothing is held or queued for."""
    while aio._here().running or len(aio._here()):
        await aio._here().threads_done()
        await anyio.lowlevel.checkpoint()
    assert len(aio.persistence._holds) == 0


# -- independence ------------------------------------------------------------------------------------------------


HOLDER = """
import sys
from bamboo_sessions import SessionRepository
with SessionRepository.open(sys.argv[1]) as repo:
    with repo.edit("held"):
        print("held", flush=True)
        sys.stdin.readline()
"""


@asynccontextmanager
async def another_process_holds(root):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(root)],  # noqa: ASYNC220 - a fork and a moment
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert await anyio.to_thread.run_sync(process.stdout.readline) == "held\n"
            yield
        finally:
            process.communicate("\n")


async def test_P11_forty_saves_behind_another_process_delay_no_other_session(tmp_path, clock):
    """They wait on one thread; with two threads in all, every other session is saved, loaded and edited meanwhile."""
    aio = AsyncSessionRepository(bundle(JsonFileStorage(tmp_path, clock=clock), clock), threads=2)
    await aio.save(new(aio, session_id="held"))
    async with anyio.create_task_group() as tasks:
        async with another_process_holds(tmp_path):
            waiting = [Doing(tasks, aio.update, "held", say(str(number))) for number in range(40)]
            for number in range(20):
                await aio.save(new(aio, "one", session_id=f"s{number}"))
                async with aio.edit(f"s{number}") as session:
                    session.pinned = True
            aio.cache.clear()
            assert (await aio.load("held")).id == "held"
            assert (await aio.load_merged("s0")).pinned
            assert len(aio._here().running) == 1
            assert not any(doing.over.is_set() for doing in waiting)
        for doing in waiting:
            await doing.result()
    assert sorted(texts(await aio.load("held")), key=int) == [str(number) for number in range(40)]
    await aio.close()


async def test_the_time_in_the_queue_counts(tmp_path, clock):
    """All who wait for another process's lock give up at their own deadline, not one after the other's."""
    repo = bundle(JsonFileStorage(tmp_path, clock=clock), clock, lock_timeout=0.2)
    aio = AsyncSessionRepository(repo)
    await aio.save(new(aio, session_id="held"))
    async with another_process_holds(tmp_path), anyio.create_task_group() as tasks:
        with anyio.fail_after(2):  # one after the other: four seconds
            waiting = [Doing(tasks, aio.set_pinned, "held", True) for _ in range(20)]
            for doing in waiting:
                with pytest.raises(LockTimeout) as caught:
                    await doing.result()
                assert caught.value.session_id == "held"
    await idle(aio)
    await aio.close()


async def test_the_time_in_the_queue_counts_at_the_lock(clock):
    """Given the turn at the last moment, nobody waits as long again in the thread."""
    aio = AsyncSessionRepository(bundle(MemoryStorage(clock=clock), clock, lock_timeout=30))
    await aio.save(new(aio))
    gate = Gate()
    other = Worker(aio.sync.update, "s", lambda _: gate())
    await reached(gate)
    with anyio.fail_after(20), aio._here().free() as turn, pytest.raises(LockTimeout) as caught:
        await aio._patiently(turn, real_monotonic() - 29.99, partial(aio.sync.set_pinned, "s", True))
    assert caught.value.seconds == 30
    gate.open()
    await anyio.to_thread.run_sync(other.result)


async def test_readers_wait_for_no_writer(aio, storage):
    """P7: the only thread that may wait is at work on the session; it can be loaded and compared."""
    await aio.save(new(aio, "one"))
    async with anyio.create_task_group() as tasks, at(storage, "commit", tasks, aio.update, "s", say("two")):
        aio.cache.clear()
        assert texts(await aio.load("s")) == texts(await aio.load_merged("s")) == ["one"]
        assert await aio.exists("s")


async def test_many_who_miss_at_once_read_once(aio, storage):
    """The first in the queue brings it, the others find it."""
    await aio.save(new(aio, "one"))
    aio.cache.clear()
    storage.calls.clear()
    found, hops, submit = [], [], aio._here().prompt.submit
    aio._here().prompt.submit = lambda *args: (hops.append(args), submit(*args))[1]

    async def load():
        found.append(texts(await aio.load("s")))

    async with anyio.create_task_group() as tasks, at(storage, "read", tasks, load):
        for _ in range(50):
            tasks.start_soon(load)
    assert found == [["one"]] * 51
    assert (len(hops), storage.calls.count(("read", "s"))) == (1, 1)
    await idle(aio)


# -- one object --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["read", "commit", "was committed"])
async def test_what_is_added_during_a_save_stays_unsaved(aio, storage, point):
    """On the new base: the next save stores it, and nothing of the first again."""
    session = new(aio, "one")
    await aio.save(session)
    await aio.update("s", say("theirs"))
    session.add_message(Message.user("two"))
    async with anyio.create_task_group() as tasks, at(storage, point, tasks, aio.save, session):
        session.add_message(Message.user("three"))
        session.metadata["k"] = 1
    assert texts(session) == ["one", "theirs", "two", "three"]
    assert texts(stored(storage.inner, "s")) == ["one", "theirs", "two"]
    await aio.save(session)
    after = stored(storage.inner, "s")
    assert (texts(after), after.metadata, after.revision) == (["one", "theirs", "two", "three"], {"k": 1}, 4)


async def test_two_saves_of_one_object_queue_on_it(aio, storage):
    """The second one goes on from where the first left the object."""
    session = new(aio, "one")
    async with anyio.create_task_group() as tasks:
        async with at(storage, "commit", tasks, aio.save, session):
            session.add_message(Message.user("two"))
            second = Doing(tasks, aio.save, session)
            await anyio.lowlevel.checkpoint()
        assert (await second.result()).revision == 2
    assert texts(session) == texts(stored(storage.inner, "s")) == ["one", "two"]


# -- cancelled saves ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["read", "was read", "commit", "was committed"])
async def test_a_cancelled_save_does_not_come_back(aio, storage, point):
    """The task is free at once, the object keeps content and base for good, and the next save finds what was stored."""
    session = new(aio, "one")
    await aio.save(session)
    base = session._origin.base
    session.add_message(Message.user("two"))
    async with anyio.create_task_group() as tasks:
        async with at(storage, point, tasks, aio.save, session) as doing:
            await doing.cancel()
        await idle(aio)
    assert (texts(session), session.revision) == (["one", "two"], 1)
    assert session._origin.base is base
    assert session._origin.attempt is not None  # a save that had begun goes on to its end: it was applied
    assert texts(stored(storage.inner, "s")) == ["one", "two"]
    assert (await aio.save(session)).changed is False
    assert (texts(session), session.revision) == (["one", "two"], 2)


async def test_what_others_did_to_a_cancelled_save_is_not_undone(aio, storage):
    """Stored after all; somebody who saw it removed a message, answered the question and changed the key."""
    session = new(aio, "one")
    await aio.save(session)
    session.add_message(Message.user("two"))
    session.set_pending_question("call-1", "?")
    session.metadata["k"] = "mine"
    async with anyio.create_task_group() as tasks, at(storage, "commit", tasks, aio.save, session) as doing:
        await doing.cancel()

    def undo(theirs):
        theirs.remove_message(theirs.messages[1].id)
        theirs.metadata["k"] = "theirs"

    await aio.update("s", undo)
    await aio.answer("s", "call-1", "yes")
    session.add_message(Message.user("three"))
    await aio.save(session)
    for after in (session, stored(storage.inner, "s"), await aio.load("s")):
        assert (texts(after), after.metadata, after.pending_questions) == (["one", "yes", "three"], {"k": "theirs"}, ())


async def test_a_second_cancelled_save_stands_on_the_first(aio, storage):
    """Both stored, each merged with what others did before; the object, which saw none of it, puts nothing back."""
    session = new(aio, "one", "two", "three")
    await aio.save(session)
    for word in ("mine 1", "mine 2"):
        await aio.update("s", lambda theirs: theirs.remove_message(theirs.messages[0].id))
        session.add_message(Message.user(word))
        async with anyio.create_task_group() as tasks, at(storage, "commit", tasks, aio.save, session) as doing:
            await doing.cancel()
    await aio.update("s", say("theirs"))
    session.add_message(Message.user("mine 3"))
    await aio.save(session)
    assert texts(session) == texts(stored(storage.inner, "s")) == ["three", "mine 1", "mine 2", "theirs", "mine 3"]


async def test_cancelled_and_failed(aio, storage):
    """The thread that nobody waits for met an error: the object is saved by its next save."""
    session = new(aio, "one")
    await aio.save(session)
    for outcome in ("not applied", "unknown"):
        session.add_message(Message.user(outcome))
        async with anyio.create_task_group() as tasks:
            async with at(storage, "was read", tasks, aio.save, session) as doing:
                storage.at("commit", failing(outcome))
                await doing.cancel()
            await idle(aio)
        assert texts(stored(storage.inner, "s")) == ["one"]
    await aio.save(session)
    assert texts(session) == texts(stored(storage.inner, "s")) == ["one", "not applied", "unknown"]


async def test_a_cancelled_save_and_cache_that_had_to_keep(aio, storage):
    """Kept in the cache by the thread that nobody waits for; the object bears its mark, and its save clears both."""
    session = new(aio, "one")
    await aio.save(session)
    session.add_message(Message.user("two"))
    async with anyio.create_task_group() as tasks:
        async with at(storage, "was read", tasks, aio.save_and_cache, session) as doing:
            storage.at("commit", failing())
            await doing.cancel()
        await idle(aio)
    assert (texts(await aio.load("s")), (await aio.stats()).unsaved) == (["one", "two"], 1)
    session.add_message(Message.user("three"))
    await aio.save(session)
    assert texts(stored(storage.inner, "s")) == texts(await aio.load("s")) == ["one", "two", "three"]
    assert (await aio.stats()).unsaved == 0


async def test_a_waiter_that_is_cancelled_leaves_the_queue(aio, storage):
    """Nothing of it is done, and those behind it move up."""
    await aio.save(new(aio, "one"))
    async with anyio.create_task_group() as tasks:
        async with at(storage, "commit", tasks, aio.update, "s", say("first")):
            gone, stays = Doing(tasks, aio.update, "s", say("gone")), Doing(tasks, aio.update, "s", say("stays"))
            await anyio.lowlevel.checkpoint()
            await gone.cancel()
        await stays.result()
    assert texts(stored(storage.inner, "s")) == ["one", "first", "stays"]
    await idle(aio)


async def test_a_turn_given_to_a_task_that_is_cancelled_is_handed_on(aio):
    """Given and cancelled in the same step of the loop: the next one gets it."""
    turns = aio._here()
    first = await turns.take("key")
    async with anyio.create_task_group() as tasks:
        second, third = Doing(tasks, turns.take, "key"), Doing(tasks, turns.take, "key")
        while len(turns._queues["key"]) < 2:
            await anyio.lowlevel.checkpoint()
        second.scope.cancel()
        first.end()
        await second.over.wait()
        with anyio.fail_after(20):
            turn = second.answer or await third.result()
            turn.end()
            if second.answer:
                (await third.result()).end()
    assert len(turns) == 0


async def test_what_no_thread_has_begun_is_not_done(clock):
    """Cancelled in the line for a thread: the call never runs, and the session is free."""
    storage = steered(MemoryStorage(clock=clock))
    aio = AsyncSessionRepository(bundle(storage, clock), threads=1)
    await aio.save(new(aio, "one"))
    async with anyio.create_task_group() as tasks:
        async with at(storage, "commit", tasks, aio.save, new(aio, session_id="other")):
            doing = Doing(tasks, aio.update, "s", say("gone"))
            while len(aio._here().running) < 2:
                await anyio.lowlevel.checkpoint()
            await doing.cancel()
        await aio.update("s", say("two"))
    assert texts(stored(storage.inner, "s")) == ["one", "two"]


def test_a_loop_that_ends_before_its_threads(anyio_backend, storage, clock):
    """The save goes on to its end and tells the object; the next loop goes on from there."""
    aio, gate = AsyncSessionRepository(bundle(storage, clock)), Gate()
    session = new(aio, "one")
    aio.sync.save(session)
    session.add_message(Message.user("two"))

    async def cut_short():
        async with anyio.create_task_group() as tasks:
            storage.at("commit", gate)
            doing = Doing(tasks, aio.save, session)
            await reached(gate)
            await doing.cancel()

    async def again():
        session.add_message(Message.user("three"))
        return await aio.save(session)

    anyio.run(cut_short, backend=anyio_backend)
    gate.open()
    assert anyio.run(again, backend=anyio_backend).revision == 3
    assert texts(session) == texts(stored(storage.inner, "s")) == ["one", "two", "three"]
    assert len(aio.persistence._holds) == 0


async def test_close_waits_for_the_threads_that_were_left(aio, storage):
    """What a cancelled call is still writing is written before the storage lets go of its locks."""
    session = new(aio, "one")
    closed, close = [], storage.inner.close
    storage.inner.close = lambda: (closed.append(storage.calls[-1]), close())
    async with anyio.create_task_group() as tasks, at(storage, "commit", tasks, aio.save, session) as doing:
        await doing.cancel()
        tasks.start_soon(aio.close)
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        assert closed == []
    assert closed == [("was committed", "s")]


async def test_who_is_cancelled_already_begins_nothing(aio, storage):
    """In a scope that was cancelled before the call: no save, no edit."""
    session = new(aio, "one")
    await aio.save(session)
    session.add_message(Message.user("two"))
    for call in (partial(aio.save, session), partial(edit, aio, "three"), partial(aio.set_pinned, "s", True)):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await call()
    async with aio.edit("s") as edited:
        edited.add_message(Message.user("four"))
        with anyio.CancelScope() as scope:
            scope.cancel()
            await aio.save(session)
    assert texts(stored(storage.inner, "s")) == ["one", "four"]
    with anyio.CancelScope() as scope:
        async with aio.edit("s") as edited:
            edited.add_message(Message.user("five"))
            scope.cancel()
    assert texts(stored(storage.inner, "s")) == ["one", "four"]
    await idle(aio)


# -- cancelled edits ---------------------------------------------------------------------------------------------


async def test_a_cancelled_body_saves_nothing(aio, storage):
    """And the session is free."""
    await aio.save(new(aio, "one"))
    with anyio.CancelScope() as scope:
        async with aio.edit("s") as session:
            session.add_message(Message.user("two"))
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert len(aio.persistence._holds) == 0
    await aio.update("s", say("three"))
    assert texts(stored(storage.inner, "s")) == ["one", "three"]


async def edit(aio, word):
    async with aio.edit("s") as session:
        session.add_message(Message.user(word))


@pytest.mark.parametrize("how", ["in the queue", "at the lock", "reading"])
async def test_cancelled_while_entering(aio, storage, how):
    """Wherever it was on its way in, the body does not run and the session is free afterwards."""
    await aio.save(new(aio, "one"))
    async with anyio.create_task_group() as tasks:
        if how == "reading":
            async with at(storage, "was read", tasks, edit, aio, "gone") as doing:
                await doing.cancel()
        else:
            gate = Gate()
            storage.at("commit", gate)
            writer = Worker(aio.sync.update, "s", say("other")) if how == "at the lock" else None
            ahead = None if writer else Doing(tasks, aio.update, "s", say("other"))
            await reached(gate)
            doing = Doing(tasks, edit, aio, "gone")
            while writer and not aio._here().running:
                await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            await doing.cancel()
            gate.open()
            if writer:
                await anyio.to_thread.run_sync(writer.result)
            else:
                await ahead.result()
        await aio.update("s", say("after"))
    expected = ["one", "after"] if how == "reading" else ["one", "other", "after"]
    assert texts(stored(storage.inner, "s")) == expected
    await idle(aio)


async def test_cancelled_when_the_thread_has_just_entered(aio, storage, monkeypatch):
    """The thread is through, its answer is not: the cancelled task leaves in its stead."""
    await aio.save(new(aio, "one"))
    entered, enter = Gate(), Edit._enter_here

    def late(self):
        answer = enter(self)
        entered()
        return answer

    async with anyio.create_task_group() as tasks:
        monkeypatch.setattr(Edit, "_enter_here", late)
        doing = Doing(tasks, edit, aio, "gone")
        await reached(entered)
        assert len(aio.persistence._holds) == 1
        await doing.cancel()
        assert len(aio.persistence._holds) == 0
        entered.open()
        await aio.update("s", say("after"))
    assert texts(stored(storage.inner, "s")) == ["one", "after"]


@pytest.mark.parametrize("point", ["commit", "was committed"])
async def test_cancelled_while_leaving(aio, storage, point):
    """The save goes on to its end and lets go; the object does not follow, and can be saved again."""
    await aio.save(new(aio, "one"))
    objects = []

    async def work():
        async with aio.edit("s") as session:
            objects.append(session)
            session.add_message(Message.user("two"))

    async with anyio.create_task_group() as tasks:
        async with at(storage, point, tasks, work) as doing:
            await doing.cancel()
        await idle(aio)
    (session,) = objects
    assert (texts(session), session.revision) == (["one", "two"], 1)
    await aio.update("s", lambda theirs: theirs.remove_message(theirs.messages[1].id))
    session.add_message(Message.user("three"))
    await aio.save(session)
    assert texts(session) == texts(stored(storage.inner, "s")) == ["one", "three"]


async def test_an_edit_that_waits_for_a_thread_to_leave_by_is_left(clock):
    """Cancelled then: nobody else would let go of the session, so the thread does its work all the same."""
    storage = steered(MemoryStorage(clock=clock))
    aio = AsyncSessionRepository(bundle(storage, clock), threads=1)
    await aio.save(new(aio, "one"))
    gate = Gate()

    async def work():
        async with aio.edit("s") as session:
            session.add_message(Message.user("two"))
            storage.at("read", gate)
            tasks.start_soon(aio.try_load, "other")
            await reached(gate)

    async with anyio.create_task_group() as tasks:
        doing = Doing(tasks, work)
        while len(aio._here().running) < 2:
            await anyio.lowlevel.checkpoint()
        await doing.cancel()
        assert len(aio.persistence._holds) == 1
        gate.open()
        await idle(aio)
    assert texts(stored(storage.inner, "s")) == ["one", "two"]


async def test_cancelled_while_waiting_for_those_within(aio, storage):
    """At the end of the body a call from within was still at work: it is finished, the edit saves nothing of its own."""
    await aio.save(new(aio, "one"))
    gate = Gate()

    async def work(tasks):
        async with aio.edit("s") as session:
            storage.at("commit", gate)
            tasks.start_soon(aio.update, "s", say("within"))
            await reached(gate)
            session.add_message(Message.user("gone"))

    async with anyio.create_task_group() as tasks:
        doing = Doing(tasks, work, tasks)
        while not any(aio._here()._queues.values()):
            await anyio.lowlevel.checkpoint()
        doing.scope.cancel()
        await anyio.lowlevel.checkpoint()
        assert not doing.over.is_set()
        gate.open()
        await doing.over.wait()
    assert texts(stored(storage.inner, "s")) == ["one", "within"]
    await idle(aio)


async def test_a_task_that_outlives_the_edit_queues(aio, storage):
    """It was within; when the edit is over it waits like anybody else."""
    await aio.save(new(aio))
    begin, order = anyio.Event(), []

    async def late():
        await begin.wait()
        await aio.update("s", lambda _: order.append("late"))

    async with anyio.create_task_group() as tasks:
        async with aio.edit("s"):
            tasks.start_soon(late)
        async with aio.edit("s"):
            begin.set()
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            order.append("edit")
    assert order == ["edit", "late"]
    await idle(aio)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncio_cancels_twice_through_a_shield(aio, storage):
    """A second `Task.cancel`, while the edit waits for those within before it lets go: it lets go all the same."""
    await aio.save(new(aio, "one"))
    gate = Gate()

    async def work():
        async with aio.edit("s"):
            storage.at("commit", gate)
            within.append(asyncio.create_task(aio.update("s", say("within"))))
            await asyncio.Event().wait()

    within = []
    task = asyncio.create_task(work())
    await asyncio.to_thread(gate.reached)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open()
    await within[0]
    await idle(aio)
    assert texts(stored(storage.inner, "s")) == ["one", "within"]


def test_a_loop_that_is_dropped_in_the_middle_of_an_edit(storage, clock):
    """Nothing can be awaited any more when the coroutine is closed: the session is let go of on the spot."""
    aio = AsyncSessionRepository(bundle(storage, clock))
    aio.sync.save(new(aio, "one"))

    async def work():
        async with aio.edit("s") as session:
            session.add_message(Message.user("two"))
            entered.set_result(None)
            await asyncio.Event().wait()

    loop = asyncio.new_event_loop()
    entered = loop.create_future()
    task = loop.create_task(work())
    loop.run_until_complete(entered)
    assert len(aio.persistence._holds) == 1
    task.get_coro().close()
    assert len(aio.persistence._holds) == 0
    task._log_destroy_pending = False
    loop.close()
    assert texts(stored(storage.inner, "s")) == ["one"]


# -- all at once -------------------------------------------------------------------------------------------------


POINTS = ("read", "was read", "commit", "was committed")

steps = st.lists(st.tuples(
    st.integers(0, 1),                                  # which of two objects is saved
    st.sampled_from((None, "queue", *POINTS)),          # where it is cancelled, if at all
    st.booleans(),                                      # its thread goes on at once, or when the next save is under way
    st.booleans(),                                      # whether more is said meanwhile
    st.sampled_from([None, "not applied", "unknown", "applied but unknown"]),  # what the storage makes of it
    st.booleans(),                                      # whether somebody who saw it removes the newest message after it
), max_size=8)


class Plan:
    """Where one call stops, and what the storage answers to it; its thread knows it by its context."""

    current = contextvars.ContextVar("plan", default=None)

    def __init__(self, point=None, outcome=None):
        self.gate, self.stops, self.fails = Gate(), {point}, {}
        if outcome is not None:
            self.fails["was committed" if outcome == "applied but unknown" else "commit"] = outcome.removeprefix("applied but ")

    @classmethod
    def at(cls, point):
        plan = cls.current.get()
        if plan is not None and point in plan.stops:
            plan.stops.clear()
            plan.gate()
        if plan is not None and point in plan.fails:
            failing(plan.fails.pop(point))()

    async def does(self, function, *args):
        self.current.set(self)
        return await function(*args)

    async def stopped(self, doing):
        while not self.gate._reached.is_set() and not doing.over.is_set():
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=50, deadline=None)
@given(steps=steps)
def test_P2_whatever_is_cancelled_each_message_is_stored_once(backend, steps):
    """Two objects of one session, saves cancelled anywhere: what was acknowledged is there; after a last save of both, all
    that was said is there once, but for what somebody who had seen it removed."""
    anyio.run(_cancelled_anywhere, steps, backend=backend)


async def _cancelled_anywhere(steps):
    clock = ManualClock()
    storage = steered(MemoryStorage(clock=clock))
    for point in POINTS:
        storage.always(point, partial(Plan.at, point))
    aio = AsyncSessionRepository(bundle(storage, clock))
    await aio.save(new(aio))
    objects, said, acknowledged, removed, behind = [await aio.load("s"), await aio.load("s")], [], set(), set(), []

    def add(session):
        said.append(str(len(said)))
        session.add_message(Message.user(said[-1]))

    def remove_newest(session):
        if session.messages:
            removed.add(session.messages[-1].content)
            session.remove_message(session.messages[-1].id)

    async with anyio.create_task_group() as tasks:
        for which, point, at_once, more, outcome, undone in steps:
            session = objects[which]
            add(session)
            saving, plan, ahead = set(texts(session)), Plan(point, outcome), Plan("read")
            if point == "queue":
                behind.append(ahead)
                tasks.start_soon(ahead.does, aio.set_pinned, "s", not session.pinned)
                await anyio.lowlevel.checkpoint()
            doing = Doing(tasks, plan.does, aio.save, session)
            await anyio.lowlevel.checkpoint()
            if more:
                add(session)
            if point == "queue":
                doing.scope.cancel()
            for other in behind:
                other.gate.open()
            behind.clear()
            await plan.stopped(doing)
            doing.scope.cancel()
            if at_once:
                plan.gate.open()
            else:
                behind.append(plan)
            await doing.over.wait()
            if doing.answer is not None:
                acknowledged |= saving
            now = texts(stored(storage.inner, "s"))
            assert acknowledged <= {*now, *removed}
            assert not removed & set(now)
            assert len(now) == len(set(now))
            if undone and not behind:
                await idle(aio)
                await aio.update("s", remove_newest)
        for other in behind:
            other.gate.open()
    await idle(aio)
    for session in objects:
        await aio.save(session)
    final = texts(stored(storage.inner, "s"))
    assert sorted(final, key=int) == [word for word in said if word not in removed]
    assert texts(objects[1]) == final
