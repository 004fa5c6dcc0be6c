"""Saves that meet: stale copies, copies of the dead, objects that change or are saved twice at once, clocks that lie."""

from __future__ import annotations

import itertools
from datetime import timedelta
from threading import Event

import pytest

from bamboo_sessions import (
    LockTimeout,
    MemoryStorage,
    Message,
    RevisionConflict,
    SessionDeleted,
)
from tests.support import (
    PATIENCE,
    START,
    ChatsOnly,
    Gate,
    ManualClock,
    Worker,
    begin,
    bundle,
    failing,
    held,
    open_calls,
    over,
    steered,
    stored,
    texts,
)


@pytest.fixture
def repo(storage, clock):
    return over(storage, clock)


@pytest.fixture
def other(repo, clock):
    return bundle(repo.storage.inner, clock)


# -- stale copies ------------------------------------------------------------------------------------------------


def test_a_stale_copy_does_not_shrink_the_transcript(repo, other):
    """P2: a copy of revision 1 saved over revision 4, changed or not, leaves all that was said in between."""
    stale = begin(repo, "one")
    for word in ("two", "three", "four"):
        other.update("s", lambda s, word=word: s.add_message(Message.user(word)))
    assert repo.save(stale.snapshot()).changed is False
    stale.metadata["k"] = 1
    repo.save(stale)
    assert texts(stale) == texts(stored(repo.storage, "s")) == ["one", "two", "three", "four"]


def test_a_stale_copy_that_hands_its_whole_history_back_does_not_shrink_it(repo, other):
    """Frameworks assign the whole list every turn, as fresh objects."""
    stale = begin(repo, "one", "two")
    other.update("s", lambda s: s.add_message(Message.user("theirs")))
    stale.messages = [{"role": "user", "content": word} for word in ("one", "two", "mine")]
    repo.save(stale)
    assert texts(stored(repo.storage, "s")) == ["one", "two", "theirs", "mine"]


def test_appends_from_held_copies_all_arrive(repo, other):
    """P2: two writers that never load again, alternating: every message once, each writer's own order kept."""
    a = begin(repo, "start")
    b = other.load("s")
    for number in range(10):
        a.add_message(Message.user(f"a{number}"))
        repo.save(a)
        b.add_message(Message.user(f"b{number}"))
        other.save(b)
    said = texts(stored(repo.storage, "s"))
    assert len(said) == 21
    assert [word for word in said if word[0] == "a"] == [f"a{number}" for number in range(10)]
    assert [word for word in said if word[0] == "b"] == [f"b{number}" for number in range(10)]


def test_threads_that_save_one_session_lose_nothing(repo):
    """P2: eight threads, each with a copy of its own, at once."""
    begin(repo)

    def write(name):
        session = repo.load("s")
        for number in range(10):
            session.add_message(Message.user(f"{name}-{number}"))
            session.metadata[name] = number
            repo.save(session)

    for worker in [Worker(write, name) for name in "abcdefgh"]:
        worker.result()
    after = stored(repo.storage, "s")
    assert sorted(texts(after)) == sorted(f"{name}-{number}" for name in "abcdefgh" for number in range(10))
    assert after.metadata == dict.fromkeys("abcdefgh", 9)
    assert texts(repo.load("s")) == texts(after)


def test_a_late_lock_free_reader_does_not_make_a_save_forget_a_message(clock):
    """Over a storage that keeps neither birth nor revision: what a slow load read is nothing to commit against.

    The reader has read "one" and comes back while a writer is between its own read and its commit.
    """
    storage = ChatsOnly()
    repo = bundle(storage, clock)
    begin(repo, "one")
    gates, load = {"slow": Gate(), "commit": Gate()}, storage.load_session

    def slow_load(session_id):
        session = load(session_id)
        gates["slow"]()
        return session

    storage.load_session = slow_load
    reader = Worker(repo.persistence.load, "s")
    gates["slow"].reached()
    storage.load_session = load
    repo.update("s", lambda s: s.add_message(Message.user("two")))

    def change(session):
        session.add_message(Message.user("three"))
        gates["slow"].open()
        reader.result()

    repo.update("s", change)
    assert texts(stored(storage, "s")) == ["one", "two", "three"]


# -- what people edit: P5 ----------------------------------------------------------------------------------------


def test_edits_of_people_survive_saves_of_older_copies(repo, other):
    """P5: title, pin, archive and tags set by a UI stay, however old the runtime's copy is."""
    runtime = begin(repo, "one")
    other.set_title("s", "by a person")
    other.set_pinned("s", True)
    other.set_archived("s", True)
    other.set_tags("s", {"a", "b"})
    for number in range(3):
        runtime.add_message(Message.assistant(f"turn {number}"))
        repo.save(runtime)
    after = stored(repo.storage, "s")
    assert (after.title, after.title_source, after.pinned, after.archived) == ("by a person", "user", True, True)
    assert after.tags == {"a", "b"}
    assert runtime.title == "by a person"


def test_a_generated_title_from_an_older_copy_does_not_replace_a_persons(repo, other):
    """P5: the runtime generated one without having seen that a person came first, and edited much else since."""
    runtime = begin(repo, "one")
    other.set_title("s", "by a person")
    runtime.set_title("generated", source="generated")
    runtime.pinned = True
    runtime.archived = True
    repo.save(runtime)
    after = stored(repo.storage, "s")
    assert (after.title, after.title_source, after.pinned) == ("by a person", "user", True)


def test_unpinning_survives_an_older_copy_that_was_pinned(repo, other):
    """P5: the older copy still says pinned; that is no edit."""
    runtime = begin(repo, "one")
    runtime.pinned = True
    repo.save(runtime)
    other.set_pinned("s", False)
    runtime.add_message(Message.user("two"))
    repo.save(runtime)
    assert stored(repo.storage, "s").pinned is False


# -- questions: P4 -----------------------------------------------------------------------------------------------


def test_a_question_survives_saves_of_copies_that_never_saw_it(repo, other):
    """P4: asked elsewhere, it stays open."""
    stale = begin(repo, "one")
    other.update("s", lambda s: s.set_pending_question(tool_call_id="call-1", question="?"))
    stale.add_message(Message.user("two"))
    stale.clear_pending_question()
    repo.save(stale)
    assert open_calls(stored(repo.storage, "s")) == ["call-1"]


def test_an_answered_question_is_not_reopened_by_an_older_copy(repo, other):
    """P4: the runtime's copy still asks; saving it asks nothing again."""
    runtime = begin(repo, "one")
    runtime.set_pending_question(tool_call_id="call-1", question="?")
    repo.save(runtime)
    other.answer("s", "call-1", "yes")
    runtime.add_message(Message.user("two"))
    repo.save(runtime)
    assert open_calls(runtime) == open_calls(stored(repo.storage, "s")) == []


def test_the_same_call_id_can_be_asked_again(repo, other):
    """P4: a new question under an old id is open, though an older copy saw the first one answered."""
    session = begin(repo, "one")
    session.set_pending_question(tool_call_id="call-1", question="first?")
    repo.save(session)
    older = other.load("s")
    repo.answer("s", "call-1", "yes")
    repo.update("s", lambda s: s.set_pending_question(tool_call_id="call-1", question="second?"))
    older.clear_pending_question("call-1")
    other.save(older)
    assert [question.question for question in stored(repo.storage, "s").pending_questions] == ["second?"]


# -- lives: P9 ---------------------------------------------------------------------------------------------------


def test_a_copy_of_the_predecessor_is_refused_however_it_was_made(repo, other):
    """P9: held, copied, cached, with or without changes: none of it reaches the successor."""
    held_copy = begin(repo, "old")
    cached = repo.load("s")
    other.delete("s")
    begin(other, "new")
    for copy in (held_copy, cached, held_copy.snapshot()):
        copy.add_message(Message.user("old again"))
        with pytest.raises(SessionDeleted):
            repo.save(copy)
    assert texts(stored(repo.storage, "s")) == texts(repo.load("s")) == ["new"]


def test_an_edit_works_on_the_successor(repo, other):
    """The cached copy of the predecessor does not get into an update of the new session."""
    begin(repo, "old")
    other.delete("s")
    begin(other, "new")
    repo.update("s", lambda s: s.add_message(Message.user("two")))
    assert texts(stored(repo.storage, "s")) == texts(repo.load("s")) == ["new", "two"]


def test_a_deletion_waits_for_the_save_that_is_under_way(repo):
    """P9: the save was first and is acknowledged; then the session is gone, and its publish brings nothing back."""
    session = begin(repo, "one")
    session.add_message(Message.user("two"))
    with held(repo.storage, "was committed", repo.save, session) as saver:
        deleter = Worker(repo.delete, "s")
        assert deleter.is_waiting()
    saver.result()
    assert deleter.result() is True
    assert repo.load("s") is None


def test_a_save_that_waited_for_a_deletion_raises(repo):
    """P9: the deletion was first."""
    session = begin(repo, "one")
    session.add_message(Message.user("two"))
    with held(repo.storage, "delete", repo.delete, "s") as deleter:
        saver = Worker(repo.save, session)
    deleter.result()
    with pytest.raises(SessionDeleted):
        saver.result()
    assert repo.load("s") is None


# -- one object, two threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["read", "was read", "commit", "was committed"])
def test_what_is_added_during_a_save_stays_unsaved_on_the_object(repo, other, point):
    """The save stores the object as it was on entry; what came meanwhile is on the new base and in the next save."""
    session = begin(repo, "one", metadata={"k": 0})
    other.update("s", lambda s: s.add_message(Message.user("theirs")))
    session.add_message(Message.user("two"))
    with held(repo.storage, point, repo.save, session) as saver:
        session.add_message(Message.user("meanwhile"))
        session.metadata["k"] = 1
        session.set_title("meanwhile")
        session.set_pending_question(tool_call_id="call-1", question="?")
    saver.result()
    after = stored(repo.storage, "s")
    assert (texts(after), after.metadata, after.title, open_calls(after)) == (["one", "theirs", "two"], {"k": 0}, None, [])
    assert texts(session) == ["one", "theirs", "two", "meanwhile"]
    repo.save(session)
    after = stored(repo.storage, "s")
    assert texts(after) == ["one", "theirs", "two", "meanwhile"]
    assert (after.metadata, after.title, open_calls(after)) == ({"k": 1}, "meanwhile", ["call-1"])


def test_what_is_removed_during_a_save_is_removed_by_the_next(repo):
    """Also where it is what the save is storing just then."""
    session = begin(repo, "one")
    added = session.add_message(Message.user("two"))
    with held(repo.storage, "commit", repo.save, session) as saver:
        session.remove_message(added.id)
    saver.result()
    assert texts(session) == ["one"]
    repo.save(session)
    assert texts(stored(repo.storage, "s")) == ["one"]


def test_what_is_added_during_a_failing_save_stays_on_the_object(repo):
    """The object keeps its base and all of its changes."""
    session = begin(repo, "one")
    session.add_message(Message.user("two"))
    gate = Gate()

    def wait_and_fail():
        gate()
        failing("unknown")()

    repo.storage.at("was committed", wait_and_fail)
    saver = Worker(repo.save, session)
    gate.reached()
    session.add_message(Message.user("meanwhile"))
    gate.open()
    with pytest.raises(Exception, match="unknown"):
        saver.result()
    repo.save(session)
    assert texts(session) == texts(stored(repo.storage, "s")) == ["one", "two", "meanwhile"]


def test_two_saves_of_one_object_queue_on_it(repo):
    """The second one saves what the object has become, on the base that the first one gave it."""
    session = begin(repo, "one")
    session.add_message(Message.user("two"))
    with held(repo.storage, "was committed", repo.save, session) as first:
        second = Worker(repo.save, session)
    assert first.result().revision == 2
    assert second.result().changed is False
    assert texts(session) == texts(stored(repo.storage, "s")) == ["one", "two"]


def test_a_queued_save_that_fails_does_not_take_the_object_back_to_an_older_base(repo, other):
    """What others wrote, and the first save brought in, would look like the object's own additions afterwards."""
    session = begin(repo, "one")
    theirs = other.load("s")
    added = theirs.add_message(Message.user("theirs"))
    other.save(theirs)
    session.add_message(Message.user("two"))
    with held(repo.storage, "was committed", repo.save, session) as first:
        session.add_message(Message.user("three"))
        queued, hold = Event(), repo.persistence._holds.hold
        repo.persistence._holds.hold = lambda *args: (queued.set(), hold(*args))[1]
        second = Worker(repo.save, session)
        assert queued.wait(PATIENCE)
        repo.storage.at("commit", failing())
    first.result()
    with pytest.raises(Exception, match="not applied"):
        second.result()
    other.update("s", lambda s: s.remove_message(added.id))
    repo.save(session)
    assert texts(session) == texts(stored(repo.storage, "s")) == ["one", "two", "three"]


# -- time: P10 ---------------------------------------------------------------------------------------------------


def test_updated_at_strictly_increases_while_the_clock_jumps(repo, clock):
    """P10: over saves with the clock standing, going back an hour, a year, and forward."""
    session = begin(repo, "one")
    seen = [session.updated_at]
    for hours in (0, -1, -24 * 365, 3, -1):
        clock.jump(hours=hours)
        session.metadata["hours"] = hours
        repo.save(session)
        seen.append(session.updated_at)
        assert stored(repo.storage, "s").updated_at == repo.load("s").updated_at == session.updated_at
    assert all(a < b for a, b in itertools.pairwise(seen))


def test_two_hosts_whose_clocks_disagree(repo):
    """P2, P10: one is ten hours ahead; both write in turn; neither loses a word nor serves something older."""
    ahead = bundle(repo.storage.inner, ManualClock(START + timedelta(hours=10)))
    begin(repo, "start")
    times = []
    for number in range(4):
        for name, host in (("behind", repo), ("ahead", ahead)):
            session = host.load("s")
            session.add_message(Message.user(f"{name} {number}"))
            host.save(session)
            times.append(session.updated_at)
            assert texts(host.load_merged("s")) == texts(stored(repo.storage, "s"))
    assert times == sorted(set(times))
    assert len(texts(repo.load_merged("s"))) == 9
    assert texts(repo.load_merged("s")) == texts(ahead.load_merged("s"))


def test_a_host_behind_sees_what_a_host_ahead_wrote_and_the_other_way_round(repo):
    """P3: preference goes by updated_at, which is forward over revisions whoever wrote them."""
    behind = bundle(repo.storage.inner, ManualClock(START - timedelta(days=30)))
    begin(repo, "one")
    assert texts(behind.load("s")) == ["one"]
    behind.update("s", lambda s: s.add_message(Message.user("two")))
    assert texts(repo.load_merged("s")) == ["one", "two"]
    repo.update("s", lambda s: s.add_message(Message.user("three")))
    assert texts(behind.load_merged("s")) == ["one", "two", "three"]


def test_a_time_more_than_a_day_ahead_is_not_carried_forward(repo, clock):
    """P10: a copy stamped two days ahead is saved at the clock's time; one of an hour ahead is believed."""
    session = begin(repo, "one")
    session.add_message(Message.user("two"))
    session.updated_at = clock.now() + timedelta(days=2)
    repo.save(session)
    assert session.updated_at == START + timedelta(microseconds=1)
    session.add_message(Message.user("three"))
    session.updated_at = clock.now() + timedelta(hours=1)
    repo.save(session)
    assert session.updated_at == START + timedelta(hours=1)


# -- edits -------------------------------------------------------------------------------------------------------


def test_an_answer_is_applied_exactly_once_by_two_racing_answerers(repo):
    """P4: through one repository: one is told that the question is not open; there is one result."""
    session = begin(repo, "one")
    session.set_pending_question(tool_call_id="call-1", question="?")
    repo.save(session)
    with held(repo.storage, "commit", repo.answer, "s", "call-1", "a") as a:
        b = Worker(repo.answer, "s", "call-1", "b")
    a.result()
    with pytest.raises(Exception, match="no open question"):
        b.result()
    assert texts(stored(repo.storage, "s")) == ["one", "a"]


@pytest.mark.parametrize("point", ["read", "was read", "commit"])
def test_an_answer_is_applied_exactly_once_by_two_repositories(repo, other, point):
    """P4: also where the storage has no lock and the other one is through between the first one's steps."""
    session = begin(repo, "one")
    session.set_pending_question(tool_call_id="call-1", question="?")
    repo.save(session)
    with held(repo.storage, point, repo.answer, "s", "call-1", "a") as a:
        b = Worker(other.answer, "s", "call-1", "b")
        if not hasattr(repo.storage, "lock"):
            b.wait()
    outcomes = [worker.outcome() for worker in (a, b)]
    assert sorted(outcomes) == ["QuestionNotOpen", "answered"]
    after = stored(repo.storage, "s")
    assert len(texts(after)) == 2
    assert open_calls(after) == []


def test_a_second_commit_between_reading_twice_is_seen(clock):
    """P4: over a storage without a lock an update reads, decides, reads again; what changed in between starts it anew."""
    repo = bundle(steered(MemoryStorage(clock=clock)), clock)
    other = bundle(repo.storage.inner, clock)
    begin(repo, "one")
    runs = []

    def change(session):
        runs.append(texts(session))
        if len(runs) == 1:
            other.update("s", lambda s: s.add_message(Message.user("theirs")))
        session.metadata["seen"] = len(session.messages)

    repo.update("s", change)
    assert runs == [["one"], ["one", "theirs"]]
    assert stored(repo.storage, "s").metadata == {"seen": 2}


def test_an_edit_without_a_storage_lock_refuses_what_it_was_overtaken_by(clock):
    """RevisionConflict; theirs stands, nothing of the edit is stored, and the next edit goes through."""
    repo = bundle(steered(MemoryStorage(clock=clock)), clock)
    other = bundle(repo.storage.inner, clock)
    begin(repo, "one")
    with pytest.raises(RevisionConflict), repo.edit("s") as session:
        other.update("s", lambda s: s.add_message(Message.user("theirs")))
        session.add_message(Message.user("mine"))
    assert texts(stored(repo.storage, "s")) == ["one", "theirs"]
    with repo.edit("s") as session:
        session.add_message(Message.user("mine"))
    assert texts(stored(repo.storage, "s")) == ["one", "theirs", "mine"]


def test_a_save_without_a_storage_lock_merges_with_whoever_was_faster(clock):
    """P2: overtaken between its read and its commit, again and again, it starts again; nobody is told."""
    repo = bundle(steered(MemoryStorage(clock=clock)), clock)
    other = bundle(repo.storage.inner, clock)
    session = begin(repo, "one")
    session.add_message(Message.user("mine"))
    for number in range(5):
        repo.storage.at("commit", lambda number=number: other.update("s", lambda s: s.add_message(Message.user(f"t{number}"))))
    repo.save(session)
    assert texts(stored(repo.storage, "s")) == ["one", "t0", "t1", "t2", "t3", "t4", "mine"]


def test_a_save_that_is_always_overtaken_gives_up(clock):
    """After some twenty times RevisionConflict says so, and the object can be saved again."""
    repo = bundle(steered(MemoryStorage(clock=clock)), clock)
    other = bundle(repo.storage.inner, clock)
    session = begin(repo, "one")
    session.add_message(Message.user("mine"))
    repo.storage.always("commit", lambda: other.update("s", lambda s: s.metadata.update(n=s.revision)))
    with pytest.raises(RevisionConflict):
        repo.save(session)
    repo.storage.never_mind()
    repo.save(session)
    assert texts(stored(repo.storage, "s")) == ["one", "mine"]


def test_a_storage_lock_that_is_held_elsewhere_times_out(json_storage, clock):
    """LockTimeout after lock_timeout, nothing written, and the object can be saved later."""
    repo = bundle(json_storage, clock, lock_timeout=0.05)
    session = begin(repo, "one")
    session.add_message(Message.user("two"))
    with bundle(json_storage, clock).edit("s"), pytest.raises(LockTimeout):
        repo.save(session)
    assert texts(stored(json_storage, "s")) == ["one"]
    repo.save(session)
    assert texts(stored(json_storage, "s")) == ["one", "two"]
