"""The async face: the same methods as the sync one, hits on the loop, threads for the rest."""

from __future__ import annotations

import gc
import inspect
import threading

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from bamboo_sessions import (
    InvalidSessionId,
    LockTimeout,
    MemoryStorage,
    Message,
    QuestionNotOpen,
    Session,
    SessionDeleted,
    SessionError,
    SessionNotFound,
    SessionRepository,
    StorageUnavailable,
)
from bamboo_sessions._twins import Twin
from bamboo_sessions.aio import AsyncSessionRepository
from tests.support import WholeSessions, applied_but_unknown, bundle, failing, steered, stored, texts

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Every async test, on both."""
    return request.param


@pytest.fixture
def aio(repo):
    return AsyncSessionRepository(repo)


def new(aio, *words, session_id="s"):
    session = Session.new(session_id, clock=aio.sync._clock)
    session.messages = [Message.user(word) for word in words]
    return session


def say(word):
    return lambda session: session.add_message(Message.user(word))


# -- the same face -----------------------------------------------------------------------------------------------


PUBLISHER = {"committed", "deleted", "expect", "known", "purged", "release"}
"""Called by the store under a lock, never by users."""


def public(kind):
    return {name for name in dir(kind) if not name.startswith("_")}


def parameters(method):
    return [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]


def test_every_method_has_its_namesake():
    """Name by name: none is missing, none is added."""
    assert public(AsyncSessionRepository) == public(SessionRepository) - PUBLISHER


@pytest.mark.parametrize("name", sorted(public(SessionRepository) - PUBLISHER))
def test_every_method_takes_the_same(name):
    """Parameter by parameter: name, kind and default. All are awaited, but for `open`, `async with` and `async for`."""
    here, there = getattr(AsyncSessionRepository, name), getattr(SessionRepository, name)
    assert parameters(here) == parameters(there)
    assert inspect.iscoroutinefunction(here) is (name not in ("open", "edit", "check"))


def test_the_tiers_are_those_of_the_wrapped_repository(repo):
    """One cache, one storage, one store: what either face does, the other one sees."""
    aio = AsyncSessionRepository(repo)
    assert (aio.sync, aio.cache, aio.storage, aio.persistence) == (repo, repo.cache, repo.storage, repo.persistence)
    with pytest.raises(ValueError, match="threads must be positive, not 0"):
        AsyncSessionRepository(repo, threads=0)


async def test_open_wraps_what_the_sync_open_makes(tmp_path):
    """JSON files at a path; leaving the block closes them, and what was saved is there."""
    async with AsyncSessionRepository.open(tmp_path, lock_timeout=5, durability="process") as aio:
        await aio.save(new(aio, "one"))
    assert (aio.storage.durability, aio.persistence._holds.timeout) == ("process", 5)
    with SessionRepository.open(tmp_path) as repo:
        assert texts(repo.load("s")) == ["one"]


async def test_every_method_does_what_its_namesake_does(aio, storage):
    """A walk through all of them, on each kind of storage; what is expected is what the sync pages promise."""
    assert await aio.load("s") is await aio.try_load("s") is await aio.load_merged("s") is None
    assert not await aio.exists("s")
    session = await aio.load_or_create("s", model="m", title="t")
    assert (session.model, session.title, session.revision) == ("m", "t", 0)
    result = await aio.save(session)
    assert (result.revision, result.changed, session.revision) == (1, True, 1)
    assert (await aio.save_runtime_session(session)).changed is False
    assert await aio.exists("s")
    await aio.touch("s")
    session.set_pending_question("call-1", "?")
    await aio.save_and_cache(session)
    assert (await aio.answer("s", "call-1", "yes", append_result=True)).revision == 3
    with pytest.raises(QuestionNotOpen):
        await aio.answer("s", "call-1", "no")
    await aio.set_title("s", "by hand")
    assert (await aio.set_title("s", "made up", source="generated")).changed is False
    await aio.set_pinned("s", True)
    await aio.set_archived("s", True)
    await aio.set_tags("s", ["a", "b"])
    await aio.add_tags("s", "c", "d")
    await aio.remove_tags("s", "a", "d")
    await aio.update("s", say("two"))
    async with aio.edit("s") as edited:
        edited.add_message(Message.user("three"))
    for loaded in (await aio.load_merged("s"), await aio.try_load_merged("s"), stored(storage, "s"), edited):
        assert (texts(loaded), loaded.title, loaded.tags) == (["yes", "two", "three"], "by hand", {"b", "c"})
        assert (loaded.pinned, loaded.archived, loaded.pending_questions) == (True, True, ())
    await aio.flush()
    assert (await aio.stats()).unsaved == 0
    assert (await aio.delete("s"), await aio.delete("s")) == (True, False)
    with pytest.raises(SessionDeleted):
        await aio.save(session)
    await aio.close()


async def test_lists_and_usage(tmp_path):
    """What only some storages offer: pages, and the log of tokens."""
    async with AsyncSessionRepository.open(tmp_path) as aio:
        for number in range(3):
            await aio.save(new(aio, session_id=f"s{number}"))
        await aio.set_pinned("s1", True)
        first = await aio.list(2)
        rest = await aio.list(2, first.next_cursor)
        assert sorted(item.id for item in (*first.items, *rest.items)) == ["s0", "s1", "s2"]
        assert [item.id for item in (await aio.list(pinned=True)).items] == ["s1"]
        await aio.append_token_usage_record("s0", '{"tokens": 1}')
        with pytest.raises(SessionNotFound):
            await aio.append_token_usage_record("absent", "{}")


async def test_checking_and_repairing(tmp_path, damage_on_purpose):
    """A line damaged before a good one: the findings are those of the sync face, one after the other; repair works."""
    async with AsyncSessionRepository.open(tmp_path) as aio:
        for session_id in ("s0", "s1"):
            await aio.save(new(aio, "one", session_id=session_id))
            for word in ("two", "three"):
                await aio.update(session_id, say(word))
        assert [finding async for finding in aio.check()] == []
        for journal in tmp_path.rglob("journal.jsonl"):
            journal.write_bytes(journal.read_bytes().replace(b"two", b"tow"))
        expected = list(aio.sync.check())
        assert len(expected) >= 2
        assert [finding async for finding in aio.check()] == expected
        assert all([finding.session_id == "s0" async for finding in aio.check("s0")])
        assert (await aio.repair("s0")).changed
        assert (await aio.repair("s1")).changed
        assert [finding async for finding in aio.check("s0")] == list(aio.sync.check("s0"))


BY_ID = {
    "load": (), "try_load": (), "load_merged": (), "try_load_merged": (), "load_or_create": (), "exists": (),
    "touch": (), "update": (print,), "set_title": ("t",), "set_pinned": (True,), "set_archived": (True,),
    "set_tags": ((),), "add_tags": (), "remove_tags": (), "answer": ("c", "a"), "delete": (),
    "append_token_usage_record": ("{}",)}


@pytest.mark.parametrize("name", sorted(BY_ID))
async def test_bad_ids_are_refused(aio, name):
    """By every method that takes one, as the sync one does."""
    for bad in ("", "a\0b", "x" * 513):
        with pytest.raises(SessionError) as there:
            getattr(aio.sync, name)(bad, *BY_ID[name])
        with pytest.raises(SessionError) as here:
            await getattr(aio, name)(bad, *BY_ID[name])
        assert isinstance(here.value, InvalidSessionId) or name == "append_token_usage_record"
        assert (type(here.value), str(here.value)) == (type(there.value), str(there.value))


async def test_errors_of_a_storage():
    """`load` gives None, `try_load` and the rest raise, `save_and_cache` keeps, `load_merged` gives what is cached."""
    storage = WholeSessions()
    aio = AsyncSessionRepository(bundle(storage))
    session = new(aio, "one")
    storage.fails = ConnectionResetError("gone")
    assert await aio.load("s") is None
    for call in (aio.try_load, aio.try_load_merged, aio.load_or_create, aio.touch, aio.exists, aio.delete):
        with pytest.raises(StorageUnavailable):
            await call("s")
    with pytest.raises(StorageUnavailable):
        await aio.save(session)
    await aio.save_and_cache(session)
    session.add_message(Message.user("two"))
    assert texts(await aio.load_merged("s")) == texts(await aio.load("s")) == ["one"]
    with pytest.raises(StorageUnavailable):
        await aio.flush()
    storage.fails = None
    await aio.save(session)
    assert (texts(stored(storage, "s")), (await aio.stats()).unsaved) == (["one", "two"], 0)


async def test_what_a_failed_block_leaves(repo, storage):
    """Leaving the block closes the repository also where the body failed or was cancelled: what was unsaved is saved."""
    aio = AsyncSessionRepository(repo)
    session = new(aio, "one")
    aio.sync._keep_unsaved(session)
    with anyio.CancelScope() as scope:
        async with aio:
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert texts(stored(storage, "s")) == ["one"]


# -- on the loop -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["load", "try_load", "load_or_create", "touch", "stats"])
def test_a_hit_needs_no_loop_at_all(aio, name):
    """Run by hand, the coroutine comes to its end at the first step: no thread, no other task in between."""
    aio.sync.save(new(aio, "one"))
    gets = []
    aio.sync._cached, get = (lambda session_id: (gets.append(session_id), get(session_id))[1]), aio.sync._cached
    with pytest.raises(StopIteration) as ended:
        getattr(aio, name)(*([] if name == "stats" else ["s"])).send(None)
    if name.startswith(("load", "try")):
        assert texts(ended.value.value) == ["one"]
    assert gets == ([] if name == "stats" else ["s"])
    assert len(aio._loops) == 0


async def test_a_hit_is_the_callers_own(aio):
    """P6: what one task does to its copy, another one does not see."""
    await aio.save(new(aio, "one"))
    mine, theirs = await aio.load("s"), await aio.load("s")
    mine.add_message(Message.user("two"))
    mine.metadata["k"] = 1
    assert (texts(theirs), theirs.metadata) == (["one"], {})


# -- saving an object --------------------------------------------------------------------------------------------


async def test_the_object_becomes_what_was_stored(aio, storage):
    """Merged and committed: what others wrote is in it, metadata that was opened follows in place."""
    session = new(aio, "one")
    await aio.save(session)
    await aio.update("s", lambda theirs: (say("theirs")(theirs), theirs.metadata.update(their=1)))
    metadata = session.metadata
    metadata["mine"] = 2
    session.add_message(Message.user("mine"))
    result = await aio.save(session)
    assert texts(session) == texts(stored(storage, "s")) == ["one", "theirs", "mine"]
    assert metadata == session.metadata == {"their": 1, "mine": 2}
    assert (result.revision, session.revision) == (3, 3)


@pytest.mark.parametrize("outcome", ["not applied", "unknown", "applied"])
async def test_after_an_error_the_object_can_be_saved_again(outcome):
    """Each message once, whatever had become of the first try."""
    storage = steered(MemoryStorage())
    aio = AsyncSessionRepository(bundle(storage))
    session = new(aio, "one")
    await aio.save(session)
    storage.at("was committed" if outcome == "applied" else "commit",
               applied_but_unknown if outcome == "applied" else failing(outcome))
    session.add_message(Message.user("two"))
    with pytest.raises(StorageUnavailable):
        await aio.save(session)
    assert (session._origin.attempt is None) is (outcome == "not applied")
    await aio.update("s", lambda theirs: theirs.remove_message(theirs.messages[0].id))
    session.add_message(Message.user("three"))
    await aio.save(session)
    assert texts(session) == texts(stored(storage.inner, "s")) == ["two", "three"]


async def test_a_copy_that_could_only_be_kept_keeps_its_changes(clock):
    """The object, the cache: both have them, until storage answers again."""
    storage = steered(MemoryStorage(clock=clock))
    aio = AsyncSessionRepository(bundle(storage, clock))
    session = new(aio, "one")
    await aio.save(session)
    session.add_message(Message.user("two"))
    storage.at("commit", failing())
    await aio.save_and_cache(session)
    assert texts(session) == texts(await aio.load("s")) == ["one", "two"]
    assert texts(stored(storage.inner, "s")) == ["one"]
    await aio.save_and_cache(session)
    assert texts(stored(storage.inner, "s")) == texts(session) == ["one", "two"]
    assert (await aio.stats()).unsaved == 0


def test_an_object_hears_of_no_attempt_on_a_base_that_it_does_not_have(clock):
    """The thread found an earlier attempt applied, moved its twin onto it, and failed: the object goes on from its own."""
    storage = steered(MemoryStorage(clock=clock))
    repo = bundle(storage, clock)
    session = Session.new("s", clock=clock)
    session.messages = [Message.user("one")]
    repo.save(session)
    session.add_message(Message.user("two"))
    storage.at("was committed", applied_but_unknown)
    with pytest.raises(StorageUnavailable):
        repo.save(session)
    before = session._origin
    session.add_message(Message.user("three"))
    storage.at("commit", failing("unknown"))
    twin = Twin(session)
    twin.begin()
    with pytest.raises(StorageUnavailable):
        twin.saved_by(repo.save)
    assert session._origin is before
    repo.save(session)
    assert texts(session) == texts(stored(storage.inner, "s")) == ["one", "two", "three"]


async def test_what_cannot_be_kept_is_refused_as_it_is_there(aio):
    """Metadata that JSON cannot carry: the error of the sync face, and nothing written."""
    session = new(aio, "one")
    session.metadata["k"] = [1]
    session.metadata["k"].append(object())
    with pytest.raises(ValueError, match="metadata"):
        await aio.save(session)
    assert not await aio.exists("s")


# -- editing -----------------------------------------------------------------------------------------------------


async def test_an_edit_that_fails_saves_nothing(aio, storage):
    """An exception in the body, or a body that leaves something that cannot be kept: unsaved, and the session is free."""
    await aio.save(new(aio, "one"))
    with pytest.raises(ZeroDivisionError):
        async with aio.edit("s") as session:
            session.add_message(Message.user("two"))
            raise ZeroDivisionError
    with pytest.raises(ValueError, match="metadata"):
        async with aio.edit("s") as session:
            session.metadata["k"] = [1]
            session.metadata["k"].append(object())
    with pytest.raises(SessionNotFound):
        async with aio.edit("absent"):
            pytest.fail("there is nothing to edit")
    assert texts(stored(storage, "s")) == ["one"]
    assert len(aio.persistence._holds) == len(aio._here()) == 0


async def test_calls_from_within_an_edit_join(aio, storage):
    """Awaited ones, another edit, and those of tasks and threads started in the body: all in the result."""
    await aio.save(new(aio, "one"))
    mine = await aio.load("s")
    mine.add_message(Message.user("saved"))
    async with aio.edit("s") as session:
        await aio.save(mine)
        async with aio.edit("s") as inner:
            inner.metadata["inner"] = True
            await aio.set_title("s", "joined")
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(aio.update, "s", say(f"task {number}"))
            tasks.start_soon(anyio.to_thread.run_sync, aio.sync.update, "s", say("thread"))
        session.pinned = True
    after = stored(storage, "s")
    assert sorted(texts(after)) == sorted(["one", "saved", "thread", *(f"task {n}" for n in range(5))])
    assert (after.title, after.metadata, after.pinned) == ("joined", {"inner": True}, True)
    assert texts(session) == texts(after)
    assert len(aio.persistence._holds) == len(aio._here()) == 0


async def test_edits_in_tasks_take_turns(aio, storage):
    """Read and write are one step: no count is lost."""
    await aio.save(new(aio))

    async def add():
        async with aio.edit("s") as session:
            seen = session.metadata.get("count", 0)
            await anyio.lowlevel.checkpoint()
            session.metadata["count"] = seen + 1

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(add)
    assert stored(storage, "s").metadata == {"count": 20}


async def test_an_edit_of_another_session_does_not_join(aio, storage):
    """Each is held for itself, and each is saved."""
    for session_id in "st":
        await aio.save(new(aio, session_id=session_id))
    async with aio.edit("s") as s, aio.edit("t") as t:
        assert len(aio.persistence._holds) == 2
        s.pinned = t.pinned = True
    assert [stored(storage, session_id).pinned for session_id in "st"] == [True, True]


async def test_a_stranger_does_not_join(storage, clock):
    """A task that was started outside waits in the queue, without a thread, and gets LockTimeout at its deadline."""
    aio = AsyncSessionRepository(bundle(storage, clock, lock_timeout=0.05))
    await aio.save(new(aio))
    raised, begun = [], anyio.Event()

    async def stranger():
        await begun.wait()
        with pytest.raises(LockTimeout) as caught:
            await aio.set_pinned("s", True)
        raised.append((caught.value.session_id, caught.value.seconds, len(aio._here().running)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stranger)
        async with aio.edit("s") as session:
            begun.set()
            while not raised:
                await anyio.lowlevel.checkpoint()
            session.archived = True
    assert raised == [("s", 0.05, 0)]
    assert (stored(storage, "s").pinned, stored(storage, "s").archived) == (False, True)


# -- threads and loops -------------------------------------------------------------------------------------------


async def test_never_more_threads_than_agreed(storage, clock):
    """Twenty sessions at once on two threads: all are saved, by two."""
    threads, save = set(), SessionRepository.save

    class Seen(SessionRepository):
        def save(self, session):
            threads.add(threading.get_ident())
            return save(self, session)

    repo = bundle(storage, clock)
    aio = AsyncSessionRepository(Seen(repo.cache, storage, repo.persistence, clock=clock), threads=2)
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(aio.save, new(aio, "one", session_id=f"s{number}"))
    assert 1 <= len(threads) <= 2
    assert all(texts(stored(storage, f"s{number}")) == ["one"] for number in range(20))
    assert len(aio._here()) == len(aio._here().running) == 0


def test_one_repository_serves_loop_after_loop(anyio_backend, repo):
    """Each loop has queues and threads of its own; both go with it (P12)."""
    aio, before = AsyncSessionRepository(repo), set(threading.enumerate())

    async def work(number):
        await aio.save(await aio.load_or_create(f"s{number}"))
        assert len(aio._loops) == 1

    for number in range(5):
        anyio.run(work, number, backend=anyio_backend)
        while len(aio._loops):  # a thread may be about to let go of it
            gc.collect()
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("bamboo-sessions"):
            thread.join(20)
            assert not thread.is_alive()
    assert sum(repo.exists(f"s{number}") for number in range(5)) == 5
