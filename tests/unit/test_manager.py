"""`SessionManager`: one creator a conversation, its binding, and the end of those that nobody comes back to."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import pytest

from bamboo_sessions import (
    AsyncSessionRepository,
    InvalidValue,
    JsonFileStorage,
    LayeredStorage,
    LockedSessionStore,
    MemoryStorage,
    Message,
    Session,
    SessionExists,
    SessionExpired,
    SessionManager,
    SessionNotFound,
    SessionRepository,
    StorageUnavailable,
)
from tests.support import ManualClock, Steered, WholeSessions, applied_but_unknown, bundle, steered, stored, texts

DAY = timedelta(days=1)
GPT, OPUS = {"provider": "openai", "model": "gpt"}, {"provider": "anthropic", "model": "opus"}


@pytest.fixture
def clock():
    """Files have times of the machine's clock, so this one begins there."""
    return ManualClock(datetime.now(UTC))


@pytest.fixture(params=["memory", "json_files", "three_methods", "layers"])
def storage(request, tmp_path, clock):
    if request.param == "three_methods":
        made = WholeSessions()
        made.clock = clock
        return made
    if request.param == "memory":
        return MemoryStorage(clock=clock)
    files = JsonFileStorage(tmp_path / "store", clock=clock)
    return files if request.param == "json_files" else LayeredStorage([MemoryStorage(clock=clock), files], clock=clock)


class SteeredWithTime(Steered):
    """A storage in whose steps a test has its say, and whose sessions expire."""

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.inner, name)


@pytest.fixture
def manager(storage, clock):
    return SessionManager(bundle(storage, clock))


def test_a_conversation_is_created_once(manager):
    """It is stored with its binding; a second creation of the id is refused and changes nothing."""
    made = manager.create("s", **GPT, external_id="thread-7")
    assert (made.provider, made.model, made.external_id, made.revision) == ("openai", "gpt", "thread-7", 1)
    with pytest.raises(SessionExists) as refused:
        manager.create("s", **OPUS)
    assert refused.value.session_id == "s"
    assert manager.get("s").provider == "openai"


def test_of_many_that_create_one_id_at_once_one_does(storage, clock):
    """Whichever it is: the others are refused, and nothing of theirs is merged into it."""
    managers = [SessionManager(bundle(storage, clock)) for _ in range(6)]
    start, outcomes = threading.Barrier(6), []

    def create(number, manager):
        start.wait()
        try:
            outcomes.append(manager.create("s", provider=f"p{number}", model=f"m{number}").provider)
        except SessionExists:
            outcomes.append(None)

    threads = [threading.Thread(target=create, args=numbered) for numbered in enumerate(managers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    [winner] = [name for name in outcomes if name is not None]
    assert len(outcomes) == 6
    session = stored(storage, "s")
    assert (session.revision, session.provider, session.model) == (1, winner, winner.replace("p", "m"))


def test_somebody_between_the_look_and_the_commit_is_not_merged_with(clock):
    """Over a storage without a lock: the commit finds the other one, and the creation is refused."""
    storage = SteeredWithTime(MemoryStorage(clock=clock))
    manager = SessionManager(bundle(storage, clock))
    storage.at("commit", lambda: bundle(storage.inner, clock).save(Session.new("s", model="theirs", clock=clock)))
    with pytest.raises(SessionExists):
        manager.create("s", **GPT)
    assert (stored(storage.inner, "s").model, stored(storage.inner, "s").revision) == ("theirs", 1)


def test_get_or_create_takes_what_is_there(manager):
    """With its own binding: only `bind` changes that."""
    assert manager.get("s") is None
    assert manager.get_or_create("s", **GPT).provider == "openai"
    assert manager.get_or_create("s", **OPUS).provider == "openai"


def test_get_or_create_is_given_what_somebody_else_created_first(clock):
    """Between its look and its commit."""
    storage = SteeredWithTime(MemoryStorage(clock=clock))
    manager = SessionManager(bundle(storage, clock))
    storage.at("commit", lambda: SessionManager(bundle(storage.inner, clock)).create("s", **OPUS))
    assert manager.get_or_create("s", **GPT).provider == "anthropic"


def test_a_creation_whose_answer_was_lost_can_be_repeated(clock):
    """With the same object: what was stored is recognised as its own."""
    storage = steered(MemoryStorage(clock=clock))
    repo = bundle(storage, clock)
    session = Session.new("s", **GPT, clock=clock)
    storage.at("was committed", applied_but_unknown)
    with pytest.raises(StorageUnavailable):
        repo.create(session)
    session.add_message(Message.user("said since"))
    repo.create(session)
    assert texts(stored(storage.inner, "s")) == ["said since"]
    with pytest.raises(SessionExists):
        repo.create(Session.new("s", **GPT, clock=clock))


def test_binding_reaches_who_holds_an_older_copy(manager, storage, clock):
    """A runtime that saves a turn does not take the new binding back, and others see it at once."""
    held = manager.create("s", **GPT)
    other = SessionManager(bundle(storage, clock))
    other.get("s")
    manager.bind("s", **OPUS)
    held.add_message(Message.user("a turn"))
    manager.repository.save(held)
    assert [(m.get("s").provider, m.get("s").model) for m in (manager, other)] == [("anthropic", "opus")] * 2
    with pytest.raises(SessionNotFound):
        manager.bind("nobody", **GPT)


def test_whoever_is_active_stays_and_the_others_go(manager, clock):
    """Touched within 24 hours: there. Not touched: gone at once, the id free, and the others say why."""
    for session_id in ("active", "gone"):
        manager.create(session_id, **GPT)
    clock.forward(hours=23)
    manager.touch("active")
    revision = manager.get("active").revision
    clock.forward(hours=1, minutes=1)
    assert manager.get("active").revision == revision == 1
    assert manager.get("gone") is None
    with pytest.raises(SessionExpired):
        manager.touch("gone")
    assert manager.create("gone", **OPUS).provider == "anthropic"
    clock.forward(hours=23, minutes=1)
    assert manager.get("active") is None
    assert manager.repository.purge_expired() == 1
    with pytest.raises(SessionExpired):
        manager.bind("active", **OPUS)


def test_sessions_that_were_there_before_have_their_time_from_then_on(storage, clock):
    """A repository without a time to live gets one: nothing is gone at once."""
    repo = bundle(storage, clock)
    repo.save(Session.new("s", clock=clock))
    manager = SessionManager(repo, ttl=timedelta(hours=2))
    clock.forward(hours=1)
    assert manager.get("s") is not None
    assert repo.load("s") is not None
    clock.forward(hours=1, minutes=1)
    assert manager.get("s") is None
    assert repo.load("s") is None


def test_where_the_time_to_live_comes_from(clock, monkeypatch):
    """As given; else from the environment; else the repository's own; else a day. Never two in one store."""
    def ttl(repo, *given):
        return SessionManager(repo, *given).ttl

    def repo(hours=None):
        return bundle(MemoryStorage(ttl=None if hours is None else timedelta(hours=hours), clock=clock), clock)

    assert ttl(repo()) == DAY
    assert ttl(repo(3)) == timedelta(hours=3)
    assert ttl(repo(), timedelta(hours=2)) == timedelta(hours=2)
    monkeypatch.setenv("SESSION_TTL_SECONDS", "90.5")
    assert ttl(repo()) == timedelta(seconds=90.5)
    assert ttl(repo(), timedelta(hours=2)) == timedelta(hours=2)
    with pytest.raises(InvalidValue, match="after 3:00:00 already"):
        ttl(repo(3))
    for text in ("soon", "", "0", "-5", "inf", "nan"):
        monkeypatch.setenv("SESSION_TTL_SECONDS", text)
        with pytest.raises(InvalidValue, match="SESSION_TTL_SECONDS"):
            ttl(repo())


def test_a_storage_that_cannot_forget_is_refused(clock):
    """At once, and not when the time has come."""
    storage = steered(MemoryStorage(clock=clock))
    assert not hasattr(storage, "expire_after")
    with pytest.raises(StorageUnavailable, match="does not know how"):
        SessionManager(bundle(storage, clock), ttl=DAY)


def test_a_path_is_enough(tmp_path):
    """The default storage, from the front door."""
    with SessionRepository.open(tmp_path) as repo:
        SessionManager(repo).create("s", **GPT)
    with SessionRepository.open(tmp_path) as repo:
        assert SessionManager(repo).get("s").model == "gpt"
        assert LockedSessionStore(repo.storage).ttl == DAY


def test_a_time_to_live_given_later_holds_for_the_awaited_face_too(clock):
    """It was made before the manager gave one to the repository below it, and asks that one all the same."""
    awaited = AsyncSessionRepository(bundle(MemoryStorage(clock=clock), clock))
    manager = SessionManager(awaited.sync, ttl=DAY)
    manager.create("c", **GPT)

    async def seen():
        return await awaited.load("c") is not None

    assert asyncio.run(seen())
    clock.forward(days=2)
    assert not asyncio.run(seen())
