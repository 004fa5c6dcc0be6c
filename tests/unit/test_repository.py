"""Every public method of `SessionRepository`, over each kind of storage."""

from __future__ import annotations

import json
import pickle
from copy import copy, deepcopy
from datetime import UTC, datetime, timedelta

import pytest
from freezegun import freeze_time

from bamboo_sessions import (
    InvalidSessionId,
    InvalidValue,
    JsonFileStorage,
    LockedSessionStore,
    MemoryStorage,
    Message,
    QuestionNotOpen,
    RuntimeSessionPersistence,
    SaveResult,
    Session,
    SessionCache,
    SessionDeleted,
    SessionNotFound,
    SessionRepository,
    StorageError,
    StorageUnavailable,
)
from tests.support import START, ManualClock, Steered, WholeSessions, bundle, failing, open_calls, stored, texts


def said(*words):
    return [Message.user(word) for word in words]


def first(repo, session_id="s", *words, **fields):
    """A saved session that says `words`."""
    session = Session.new(session_id, clock=repo._clock, **fields)
    session.messages = said(*words)
    repo.save(session)
    return session


@pytest.fixture
def broken(clock):
    """A repository whose storage fails until `storage.never_mind()`, with one session cached."""
    repo = bundle(Steered(MemoryStorage(clock=clock)), clock)
    first(repo, "s", "one")
    for point in ("read", "commit", "delete"):
        repo.storage.always(point, failing())
    return repo


# -- the bundle --------------------------------------------------------------------------------------------------


def test_the_tiers_are_there_by_name(storage):
    """repo.cache, repo.storage and repo.persistence are what was handed in."""
    cache, persistence = SessionCache(), LockedSessionStore(storage)
    repo = SessionRepository(cache, storage, persistence)
    assert (repo.cache, repo.storage, repo.persistence) == (cache, storage, persistence)


def test_repository_and_store_are_runtime_persistence(repo):
    """Both satisfy the small interface that a runtime persists through."""
    assert isinstance(repo, RuntimeSessionPersistence)
    assert isinstance(repo.persistence, RuntimeSessionPersistence)


def test_open_takes_a_path_and_urls(tmp_path):
    """A path and file:// lead to the same JSON files, memory:// to this process; more options reach the storage."""
    with SessionRepository.open(tmp_path / "a", durability="process") as repo:
        assert isinstance(repo.storage, JsonFileStorage)
        assert repo.storage.durability == "process"
        first(repo, "s", "one")
    with SessionRepository.open(f"file://{tmp_path}/a") as again:
        assert texts(again.load("s")) == ["one"]
    with SessionRepository.open("memory://") as memory:
        assert isinstance(memory.storage, MemoryStorage)


# -- loading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["load", "try_load", "load_merged", "try_load_merged"])
def test_loading_gives_what_was_saved(repo, storage, way):
    """From the cache as from the storage, and None for what is not there."""
    first(repo, "s", "one", "two", model="m")
    for source in (repo, bundle(storage)):
        session = getattr(source, way)("s")
        assert (session.id, session.model, texts(session), session.revision) == ("s", "m", ["one", "two"], 1)
        assert getattr(source, way)("another") is None


@pytest.mark.parametrize("way", ["load", "try_load", "load_merged", "try_load_merged"])
def test_a_loaded_session_is_cached(storage, clock, way):
    """The second load of a session asks the storage for nothing (P7, and the whole point of a cache)."""
    first(bundle(storage, clock), "s", "one")
    repo = bundle(storage, clock)
    getattr(repo, way)("s")
    assert repo.cache.peek("s") is not None
    hits = repo.stats().hits
    assert texts(repo.load("s")) == ["one"]
    assert repo.stats().hits == hits + 1


@pytest.mark.parametrize("method", ["load", "try_load", "load_merged", "try_load_merged", "load_or_create", "exists",
                                    "delete", "touch"])
@pytest.mark.parametrize("bad", ["", "a\0b", "x" * 513, "\ud800", 7, None])
def test_bad_ids_are_refused(repo, method, bad):
    """With InvalidSessionId, by every method that takes one."""
    with pytest.raises(InvalidSessionId):
        getattr(repo, method)(bad)


def test_load_is_the_callers_own(repo):
    """P6: nothing done to a loaded copy, nested values included, reaches anybody else's."""
    first(repo, "s", "one", metadata={"deep": {"list": [1]}})
    mine = repo.load("s")
    mine.metadata["deep"]["list"].append(2)
    mine.metadata["more"] = True
    mine.add_message(Message.user("two"))
    mine.title = "mine"
    for other in (repo.load("s"), repo.load_merged("s"), repo.cache.peek("s")):
        assert other.metadata == {"deep": {"list": [1]}}
        assert (texts(other), other.title) == (["one"], None)


def test_what_was_saved_stays_the_callers_own(repo, storage):
    """P6: changing an object after its save changes neither the cache nor the storage."""
    session = first(repo, "s", "one", metadata={"deep": {"list": [1]}})
    session.metadata["deep"]["list"].append(2)
    session.add_message(Message.user("two"))
    for other in (repo.load("s"), stored(storage, "s")):
        assert (texts(other), other.metadata) == (["one"], {"deep": {"list": [1]}})


def test_a_failure_is_logged_by_load_and_raised_by_try_load(broken):
    """load gives None, load_merged the cached copy; the try_ ones raise StorageError."""
    assert texts(broken.load_merged("s")) == ["one"]
    broken.cache.invalidate("s")
    assert broken.load("s") is None
    assert broken.load_merged("s") is None
    for way in (broken.try_load, broken.try_load_merged):
        with pytest.raises(StorageUnavailable):
            way("s")


def test_load_or_create_takes_no_failure_for_absence(broken):
    """A storage error is raised: an empty session must not be written over a full one."""
    broken.cache.invalidate("s")
    with pytest.raises(StorageError):
        broken.load_or_create("s")
    broken.storage.never_mind()
    assert texts(broken.load_or_create("s")) == ["one"]


def test_load_or_create_neither_saves_nor_caches(repo, storage):
    """A fresh session is the caller's alone until it is saved; an existing one is loaded as it is."""
    session = repo.load_or_create("s", model="m", provider="p")
    assert (session.model, session.provider, session.revision) == ("m", "p", 0)
    assert repo.cache.peek("s") is None
    assert stored(storage, "s") is None
    repo.save(session)
    assert repo.load_or_create("s", model="other").model == "m"


def test_exists_asks_the_storage(repo, storage, clock):
    """Whatever is cached: what was never saved does not exist, what was deleted elsewhere does not either."""
    repo.cache.insert("s", Session.new("s"))
    assert repo.exists("s") is False
    first(repo, "s")
    assert repo.exists("s") is True
    bundle(storage, clock).delete("s")
    assert repo.exists("s") is False


def test_touch_starts_the_time_to_live_anew(clock):
    """A touched session is still cached when an untouched one has expired; touching nothing raises SessionNotFound."""
    repo = bundle(MemoryStorage(clock=clock), clock, cache=SessionCache(ttl=timedelta(minutes=10), clock=clock))
    first(repo, "touched")
    first(repo, "left")
    clock.forward(minutes=6)
    repo.touch("touched")
    clock.forward(minutes=6)
    assert repo.cache.list_cached() == ["touched"]
    with pytest.raises(SessionNotFound):
        repo.touch("nobody")


# -- load_merged: P3 ---------------------------------------------------------------------------------------------


def by_changing_a_loaded_copy(repo):
    return repo.load("s")


def by_a_fresh_session(repo):
    session = Session.new("s", clock=repo._clock)
    session.messages = said("one")
    return session


def by_a_deepcopy(repo):
    return deepcopy(repo.load("s"))


def by_a_shallow_copy(repo):
    return copy(repo.cache.peek("s"))


def by_pickling(repo):
    return pickle.loads(pickle.dumps(repo.load("s")))


def from_a_dict(repo):
    return Session.from_dict(json.loads(json.dumps(repo.load("s").to_dict())))


COPIES = [by_changing_a_loaded_copy, by_a_fresh_session, by_a_deepcopy, by_a_shallow_copy, by_pickling, from_a_dict]


def asking(storage, clock):
    """A repository over a storage whose session "s" asks a question; it was last changed an hour after START."""
    repo = SessionRepository(SessionCache(), storage, LockedSessionStore(storage))
    session = Session.new("s", clock=clock)
    session.messages = said("one")
    session.set_pending_question(tool_call_id="call-1", question="really?")
    session.updated_at = START + timedelta(hours=1)
    storage.save_session(session)
    assert repo.load("s").pending_question.tool_call_id == "call-1"
    return repo


@pytest.mark.parametrize("copied", COPIES)
def test_P3a_memory_strictly_newer_with_the_question_answered_stays(storage, clock, copied):
    """Storage older and still asking: the answered copy comes back and the cache still holds it."""
    repo = asking(storage, clock)
    newer = copied(repo)
    newer.clear_pending_question()
    newer.add_message(Message.tool_result("call-1", "yes"))
    newer.updated_at = START + timedelta(hours=2)
    repo.cache.insert("s", newer)
    for _ in range(2):
        merged = repo.load_merged("s")
        assert merged.pending_question is None
        assert texts(merged) == ["one", "yes"]
        assert merged.updated_at == START + timedelta(hours=2)
        assert repo.cache.peek("s").pending_question is None
        assert repo.load("s").pending_question is None
        assert texts(repo.load("s")) == ["one", "yes"]


@pytest.mark.parametrize("copied", COPIES)
def test_P3b_of_the_same_age_the_lost_question_comes_back(storage, clock, copied):
    """Storage still asking, memory lost the question: it is back in the result and in the cache."""
    repo = asking(storage, clock)
    lost = copied(repo)
    lost.clear_pending_question()
    lost.updated_at = START + timedelta(hours=1)
    repo.cache.insert("s", lost)
    assert repo.load("s").pending_question is None
    assert repo.load_merged("s").pending_question.tool_call_id == "call-1"
    assert repo.cache.peek("s").pending_question.tool_call_id == "call-1"
    assert repo.load("s").pending_question.question == "really?"


@pytest.mark.parametrize("copied", COPIES)
def test_P3_storage_strictly_newer_wins(storage, clock, copied):
    """A cached copy of an hour before is given up for what storage has, in the result and in the cache."""
    repo = asking(storage, clock)
    older = copied(repo)
    older.clear_pending_question()
    older.updated_at = START
    repo.cache.insert("s", older)
    assert open_calls(repo.load_merged("s")) == ["call-1"]
    assert open_calls(repo.load("s")) == ["call-1"]


@pytest.mark.parametrize("copied", COPIES)
def test_P3_of_the_same_age_without_a_lost_question_memory_stays(storage, clock, copied):
    """Same age and the same questions: the cached copy is preferred."""
    repo = asking(storage, clock)
    same = copied(repo)
    same.set_pending_question(tool_call_id="call-1", question="really, really?")
    same.metadata["where"] = "memory"
    same.updated_at = START + timedelta(hours=1)
    repo.cache.insert("s", same)
    assert repo.load_merged("s").metadata == {"where": "memory"}
    assert repo.cache.peek("s").metadata == {"where": "memory"}


def test_load_merged_brings_what_another_repository_saved(storage, clock):
    """load serves the cached copy, load_merged the newer one, and so does every load after it."""
    ours, theirs = bundle(storage, clock), bundle(storage, clock)
    first(ours, "s", "one")
    session = theirs.load("s")
    session.add_message(Message.user("two"))
    clock.forward(seconds=1)
    theirs.save(session)
    assert texts(ours.load("s")) == ["one"]
    assert texts(ours.load_merged("s")) == ["one", "two"]
    assert texts(ours.load("s")) == ["one", "two"]


def test_load_merged_drops_what_another_repository_deleted(storage, clock):
    """P9: the cached copy of a deleted session is gone after load_merged; that of a session never saved is kept."""
    ours = bundle(storage, clock)
    first(ours, "s", "one")
    bundle(storage, clock).delete("s")
    assert ours.load("s") is not None
    assert ours.load_merged("s") is None
    assert ours.load("s") is None
    fresh = Session.new("fresh", clock=clock)
    ours.cache.insert("fresh", fresh)
    assert ours.load_merged("fresh") is not None


def test_load_merged_takes_up_a_session_that_was_made_anew(storage, clock):
    """P9: a cached copy of the predecessor, even one changed later than the new session, is nobody's any more."""
    ours, theirs = bundle(storage, clock), bundle(storage, clock)
    first(ours, "s", "old")
    changed = ours.load("s")
    changed.updated_at = START + timedelta(hours=9)
    ours.cache.insert("s", changed)
    theirs.delete("s")
    first(theirs, "s", "new")
    assert texts(ours.load_merged("s")) == ["new"]
    assert texts(ours.load("s")) == ["new"]


# -- saving ------------------------------------------------------------------------------------------------------


def test_save_says_what_it_did(repo):
    """revision counts changes; a save that changes nothing writes nothing."""
    session = Session.new("s")
    assert repo.save(session) == SaveResult(1, changed=True)
    assert repo.save(session) == SaveResult(1, changed=False)
    session.add_message(Message.user("one"))
    assert repo.save(session).changed
    assert session.revision == repo.load("s").revision == 2


def test_after_save_the_session_is_the_merged_state(storage, clock):
    """On return the caller's object holds what others wrote as well, and says which fields it took over."""
    mine, theirs = bundle(storage, clock), bundle(storage, clock)
    session = first(mine, "s", "one")
    other = theirs.load("s")
    other.add_message(Message.user("theirs"))
    other.title = "a title"
    theirs.save(other)
    session.add_message(Message.user("mine"))
    result = mine.save(session)
    assert texts(session) == ["one", "theirs", "mine"]
    assert session.title == "a title"
    assert {"title", "messages"} <= set(result.adopted)
    assert texts(mine.load("s")) == texts(stored(storage, "s")) == ["one", "theirs", "mine"]


def test_save_reports_conflicts(storage, clock):
    """Where both changed one metadata key the later commit stands, and the result says so."""
    mine, theirs = bundle(storage, clock), bundle(storage, clock)
    session = first(mine, "s", metadata={"k": 0})
    theirs.update("s", lambda s: s.metadata.update(k=1))
    session.metadata["k"] = 2
    (conflict,) = mine.save(session).conflicts
    assert (conflict.field, conflict.what, conflict.kept) == ("metadata", "k", "mine")
    assert stored(storage, "s").metadata == {"k": 2}


def test_saving_a_deleted_session_raises_and_drops_its_copy(storage, clock):
    """P9, for a copy held over a deletion here and elsewhere; `as_new` keeps the work."""
    repo = bundle(storage, clock)
    session = first(repo, "s", "one")
    bundle(storage, clock).delete("s")
    assert repo.cache.peek("s") is not None
    session.add_message(Message.user("two"))
    with pytest.raises(SessionDeleted) as caught:
        repo.save(session)
    assert not caught.value.recreated
    assert repo.cache.peek("s") is None
    assert stored(storage, "s") is None
    repo.save(session.as_new())
    assert texts(stored(storage, "s")) == ["one", "two"]


def test_saving_over_a_session_made_anew_raises_and_keeps_the_new_one(storage, clock):
    """P9: neither the storage nor the cache of the new session is touched."""
    repo = bundle(storage, clock)
    old = first(repo, "s", "old")
    repo.delete("s")
    first(repo, "s", "new")
    old.add_message(Message.user("too late"))
    with pytest.raises(SessionDeleted) as caught:
        repo.save(old)
    assert caught.value.recreated
    assert texts(repo.load("s")) == texts(stored(storage, "s")) == ["new"]


def test_a_copy_from_another_store_is_imported(storage, clock):
    """P9: it was never saved here, so it is a first save, whatever became of it there."""
    elsewhere = bundle(WholeSessions(), clock)
    session = first(elsewhere, "s", "one")
    elsewhere.delete("s")
    repo = bundle(storage, clock)
    assert repo.save(session).revision == 1
    assert texts(stored(storage, "s")) == ["one"]


def test_two_sessions_made_under_one_id_become_one(storage, clock):
    """Two workers that both create an id merge: neither had a birth to defend."""
    one, two = Session.new("s"), Session.new("s")
    one.add_message(Message.user("from one"))
    two.add_message(Message.user("from two"))
    bundle(storage, clock).save(one)
    bundle(storage, clock).save(two)
    assert texts(stored(storage, "s")) == texts(two) == ["from one", "from two"]
    assert two.birth == one.birth


def test_a_value_that_cannot_be_kept_is_refused_before_anything_is_written(repo, storage):
    """P14: also where it was put into opened metadata by the back door."""
    session = first(repo, "s", metadata={"list": []})
    session.metadata["list"].append(object())
    for save in (repo.save, repo.save_and_cache):
        with pytest.raises(InvalidValue):
            save(session)
    assert stored(storage, "s").revision == 1
    assert repo.load("s").metadata == {"list": []}


def test_save_runtime_session_is_save(repo, storage):
    """The runtime's small interface merges as well."""
    session = first(repo, "s", "one")
    repo.set_title("s", "by a person")
    session.add_message(Message.user("two"))
    repo.save_runtime_session(session)
    assert (session.title, texts(stored(storage, "s"))) == ("by a person", ["one", "two"])


def test_a_save_through_the_store_reaches_the_cache(repo):
    """repo.persistence publishes to the repository that registered with it."""
    session = first(repo, "s", "one")
    session.add_message(Message.user("two"))
    repo.persistence.save(session)
    assert texts(repo.cache.peek("s")) == ["one", "two"]
    repo.persistence.delete("s")
    assert repo.cache.peek("s") is None


# -- unsaved copies ----------------------------------------------------------------------------------------------


def test_save_and_cache_saves_where_it_can(repo, storage):
    """With a healthy storage it is a save, and returns nothing."""
    session = Session.new("s")
    assert repo.save_and_cache(session) is None
    assert stored(storage, "s").revision == 1
    assert repo.stats().unsaved == 0


def test_save_and_cache_keeps_what_it_cannot_save(broken):
    """The copy is served by loads, survives load_merged, and is stored by flush."""
    session = broken.load("s")
    session.add_message(Message.user("two"))
    broken.save_and_cache(session)
    assert texts(broken.load("s")) == texts(broken.load_merged("s")) == ["one", "two"]
    assert broken.cache.unsaved_ids() == ["s"]
    broken.storage.never_mind()
    broken.flush()
    assert broken.cache.unsaved_ids() == []
    assert texts(stored(broken.storage, "s")) == texts(broken.load("s")) == ["one", "two"]


def test_flush_tries_every_session_and_raises_the_first_error(clock):
    """One session that cannot be saved does not keep the others back, and stays unsaved."""
    repo = bundle(Steered(MemoryStorage(clock=clock)), clock)
    repo.storage.always("read", failing())
    for session_id in "abc":
        repo.save_and_cache(Session.new(session_id))
    repo.storage.never_mind()
    repo.storage.at("commit", failing())
    with pytest.raises(StorageUnavailable):
        repo.flush()
    assert repo.cache.unsaved_ids() == ["a"]
    assert [repo.exists(session_id) for session_id in "abc"] == [False, True, True]
    repo.flush()
    assert repo.exists("a")


def test_close_saves_what_is_unsaved_and_closes_anyway(broken, clock):
    """close flushes; where that fails it still closes the storage, and says so."""
    session = broken.load("s")
    session.add_message(Message.user("two"))
    broken.save_and_cache(session)
    closed = []
    broken.persistence.records.close = lambda: closed.append(True)
    with pytest.raises(StorageUnavailable):
        broken.close()
    broken.storage.never_mind()
    with broken:
        pass
    assert closed == [True, True]
    assert texts(stored(broken.storage, "s")) == ["one", "two"]


def test_unsaved_copies_are_not_evicted(clock):
    """The cache grows over its size instead; a later save of anything takes one of them along."""
    storage = Steered(MemoryStorage(clock=clock))
    repo = bundle(storage, clock, cache=SessionCache(2, clock=clock))
    storage.always("commit", failing())
    for number in range(5):
        repo.save_and_cache(Session.new(f"u{number}"))
    assert repo.stats().unsaved == 5
    storage.never_mind()
    for number in range(5):
        repo.save(Session.new(f"n{number}"))
    assert repo.stats().unsaved == 0
    assert all(repo.exists(f"u{number}") for number in range(5))


# -- editing -----------------------------------------------------------------------------------------------------


def test_edit_saves_what_the_body_did(repo, storage):
    """Newest, change, save: also what another repository wrote just before."""
    first(repo, "s", "one")
    bundle(storage).update("s", lambda s: s.add_message(Message.user("two")))
    with repo.edit("s") as session:
        assert texts(session) == ["one", "two"]
        session.add_message(Message.user("three"))
    assert texts(stored(storage, "s")) == texts(repo.load("s")) == ["one", "two", "three"]


def test_edit_of_nothing_raises(repo):
    """SessionNotFound, before the body runs."""
    with pytest.raises(SessionNotFound), repo.edit("s"):
        pytest.fail("the body ran")
    with pytest.raises(SessionNotFound):
        repo.update("s", lambda session: pytest.fail("the change ran"))


def test_an_exception_in_an_edit_saves_nothing(repo, storage):
    """The body's own exception comes out, and the session is free again."""
    first(repo, "s", "one")
    with pytest.raises(ZeroDivisionError), repo.edit("s") as session:
        session.add_message(Message.user("two"))
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        repo.update("s", lambda session: (session.add_message(Message.user("two")), 1 / 0))
    assert texts(stored(storage, "s")) == texts(repo.load("s")) == ["one"]
    assert repo.set_pinned("s", True).changed


def test_the_setters_set(repo, storage):
    """Title, pin, archive and tags, each in one call on an id, saved and cached."""
    first(repo, "s")
    repo.set_title("s", "a title")
    repo.set_pinned("s", True)
    repo.set_archived("s", True)
    repo.set_tags("s", {"a", "b"})
    repo.add_tags("s", "c")
    repo.remove_tags("s", "a", "not there")
    for session in (repo.load("s"), stored(storage, "s")):
        assert (session.title, session.title_source, session.pinned, session.archived) == ("a title", "user", True, True)
        assert session.tags == {"b", "c"}


def test_one_string_is_one_tag(repo):
    """set_tags("s", "ab") is not the set of its letters."""
    first(repo, "s")
    repo.set_tags("s", "ab")
    assert repo.load("s").tags == {"ab"}


def test_a_generated_title_never_replaces_a_users(repo):
    """P5: it changes nothing then, and SaveResult says so; before a user came, it stands."""
    first(repo, "s")
    assert repo.set_title("s", "generated", source="generated").changed
    repo.set_title("s", "a person's")
    assert not repo.set_title("s", "generated again", source="generated").changed
    assert repo.load("s").title == "a person's"
    with pytest.raises(InvalidValue):
        repo.set_title("s", "x", source="somebody")


def test_answer_closes_and_appends_in_one_commit(repo, storage):
    """One revision more, the question closed, the tool result last; a second answer is refused."""
    session = Session.new("s")
    session.add_message(Message.user("one"))
    session.set_pending_question(tool_call_id="call-1", question="really?", options=["yes", "no"])
    repo.save(session)
    assert repo.answer("s", "call-1", "yes").revision == 2
    after = stored(storage, "s")
    assert after.pending_question is None
    assert after.messages[-1].to_dict() == {"role": "tool", "content": "yes", "tool_call_id": "call-1"}
    with pytest.raises(QuestionNotOpen):
        repo.answer("s", "call-1", "no")
    assert stored(storage, "s").revision == 2


def test_answer_without_a_result(repo):
    """append_result=False closes only; what was never asked is not open."""
    session = Session.new("s")
    session.set_pending_question(tool_call_id="call-1", question="really?")
    repo.save(session)
    with pytest.raises(QuestionNotOpen):
        repo.answer("s", "call-2", "yes")
    repo.answer("s", "call-1", "yes", append_result=False)
    assert (texts(repo.load("s")), repo.load("s").pending_questions) == ([], ())


# -- the rest ----------------------------------------------------------------------------------------------------


def test_delete_says_whether_there_was_one(repo, storage):
    """It is gone from the storage and from the cache, at once."""
    first(repo, "s")
    assert repo.delete("s") is True
    assert (repo.load("s"), stored(storage, "s"), repo.exists("s")) == (None, None, False)
    assert repo.delete("s") is False


def test_a_failed_delete_keeps_the_session(broken):
    """StorageError comes out and the session is still served."""
    with pytest.raises(StorageUnavailable):
        broken.delete("s")
    broken.storage.never_mind()
    assert texts(broken.load("s")) == texts(stored(broken.storage, "s")) == ["one"]


@pytest.mark.parametrize("kind", ["memory", "json_files"])
def test_list_shows_the_newest_first(request, clock, kind):
    """Summaries by updated_at, in pages, with filters; three methods cannot list and say so."""
    storage = request.getfixturevalue("json_storage") if kind == "json_files" else MemoryStorage(clock=clock)
    repo = bundle(storage, clock)
    for number in range(5):
        clock.forward(seconds=1)
        first(repo, f"s{number}", *["word"] * number, model="even" if number % 2 == 0 else "odd")
    clock.forward(seconds=1)
    repo.set_pinned("s1", True)
    page = repo.list(limit=2)
    assert [(item.id, item.message_count) for item in page.items] == [("s1", 1), ("s4", 4)]
    rest = repo.list(limit=3, cursor=page.next_cursor)
    assert [item.id for item in rest.items] == ["s3", "s2", "s0"]
    assert rest.next_cursor is None
    assert [item.id for item in repo.list(pinned=True).items] == ["s1"]
    assert [item.id for item in repo.list(model="even").items] == ["s4", "s2", "s0"]


def test_three_methods_cannot_list(clock):
    """StorageUnavailable, not an empty page: a storage that cannot say is not an empty one."""
    with pytest.raises(StorageUnavailable):
        bundle(WholeSessions(), clock).list()


def test_usage_records_go_to_a_storage_that_keeps_them(tmp_path, clock):
    """One line of JSON each; SessionNotFound where there is no session, InvalidValue for anything else."""
    with SessionRepository.open(tmp_path, clock=clock) as repo:
        first(repo, "s")
        repo.append_token_usage_record("s", '{"tokens":1}')
        repo.persistence.append_token_usage_record("s", b'{"tokens":2}\n')
        lines = [line for path in tmp_path.rglob("usage.jsonl") for line in path.read_text().splitlines()]
        assert lines == ['{"tokens":1}', '{"tokens":2}']
        for bad in ("not json", '{"a":1}\n{"b":2}', '{"a":"\ud800"}', b'{"a":"\xed\xa0\x80"}'):
            with pytest.raises(InvalidValue):
                repo.append_token_usage_record("s", bad)
        with pytest.raises(SessionNotFound):
            repo.append_token_usage_record("nobody", "{}")
        with pytest.raises(InvalidSessionId):
            repo.append_token_usage_record("", "{}")
    with pytest.raises(StorageUnavailable):
        bundle(WholeSessions(), clock).append_token_usage_record("s", "{}")


def test_stats_are_the_caches(repo):
    """Counters of hits and misses."""
    first(repo, "s")
    repo.load("s")
    repo.load("another")
    stats = repo.stats()
    assert (stats.size, stats.hits, stats.misses, stats.unsaved) == (1, 1, 1, 0)


# -- time --------------------------------------------------------------------------------------------------------


def test_a_frozen_system_clock_is_obeyed(tmp_path):
    """freeze_time moves updated_at, and lock waits do not hang while `time.monotonic` stands still."""
    with freeze_time(datetime(2026, 3, 1, tzinfo=UTC)) as frozen, SessionRepository.open(tmp_path) as repo:
        session = Session.new("s")
        repo.save(session)
        assert session.updated_at == datetime(2026, 3, 1, tzinfo=UTC)
        frozen.move_to(datetime(2026, 3, 2, tzinfo=UTC))
        repo.set_title("s", "later")
        assert repo.load("s").updated_at == datetime(2026, 3, 2, tzinfo=UTC)
        impatient = LockedSessionStore(repo.storage, lock_timeout=0.05)
        with repo.edit("s"), pytest.raises(StorageError):
            impatient.save(session)


def test_the_clock_is_the_one_handed_in(storage):
    """A repository made with a ManualClock stamps by it."""
    clock = ManualClock()
    repo = bundle(storage, clock)
    session = repo.load_or_create("s")
    clock.forward(hours=1)
    session.add_message(Message.user("one"))
    repo.save(session)
    assert (session.created_at, session.updated_at) == (START, START + timedelta(hours=1))
