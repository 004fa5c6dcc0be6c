"""Layers: who answers, what goes up, what a layer above may get wrong, and what is shown then."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bamboo_sessions import (
    CapacityExceeded,
    JsonFileStorage,
    LayeredStorage,
    MemoryStorage,
    Message,
    RevisionConflict,
    Session,
    SessionDeleted,
    StorageUnavailable,
)
from bamboo_sessions.storages.protocol import (
    Record,
    has_checks,
    has_expiry,
    has_locks,
    has_plain_reads,
    has_usage_log,
    keeps_records,
)
from bamboo_sessions.storages.shortcuts import has_current_stamps, has_held_reads
from bamboo_sessions.testing import FailingStorage, ManualClock, StrictStorage
from bamboo_sessions.testing.scribe import BIRTH, first, later, line
from tests.support import ChatsOnly, Steered, WholeSessions, bundle, texts

DOWN = 1_000_000


def counted(inner=None):
    return Steered(MemoryStorage() if inner is None else inner)


def looks(storage, point="read"):
    return [session_id for at, session_id in storage.calls if at == point]


def saved(storage, *words, session_id="s"):
    """A session of these messages, saved through a repository of its own."""
    session = Session.new(session_id)
    for word in words:
        session.add_message(Message.user(word))
    bundle(storage).save(session)
    return session


def say(storage, word, session_id="s"):
    bundle(storage).update(session_id, lambda session: session.add_message(Message.user(word)))


def shown(storage, session_id="s"):
    session = storage.load_session(session_id)
    return None if session is None else texts(session)


def stages(count=2):
    """Memory layers that fail on command, and the whole of them."""
    layers = [FailingStorage(MemoryStorage()) for _ in range(count)]
    return (*layers, LayeredStorage(layers, clock=ManualClock()))


# -- who answers -------------------------------------------------------------------------------------------------


def test_a_plain_load_is_answered_by_the_first_layer_that_has_it():
    """The layers below are not asked."""
    fast, slow = counted(), counted()
    layered = LayeredStorage([fast, slow])
    saved(layered, "one")
    fast.calls.clear()
    slow.calls.clear()
    assert shown(layered) == ["one"]
    assert (looks(fast), looks(slow)) == (["s"], [])


def test_a_repositorys_plain_load_is_too():
    """After its cache let go of the session."""
    slow = counted()
    repo = bundle(LayeredStorage([MemoryStorage(), slow]))
    repo.save(Session.new("s"))
    repo.cache.invalidate("s")
    slow.calls.clear()
    assert repo.load("s") is not None
    assert slow.calls == []


def test_a_hit_in_a_lower_layer_fills_those_above():
    """Of three layers the last one alone has it: after one load all do, and the one after asks the first one only."""
    slow = counted()
    saved(slow.inner, "one")
    fast, middle = counted(), counted()
    layered = LayeredStorage([fast, middle, slow])
    assert shown(layered) == ["one"]
    assert [shown(layer.inner) for layer in (fast, middle)] == [["one"], ["one"]]
    for layer in (fast, middle, slow):
        layer.calls.clear()
    assert shown(layered) == ["one"]
    assert (looks(fast), middle.calls, slow.calls) == (["s"], [], [])


def test_a_hit_in_the_middle_fills_the_first():
    """The first layer evicted it; the last one is not asked."""
    fast, middle, slow = MemoryStorage(), MemoryStorage(), counted()
    layered = LayeredStorage([fast, middle, slow])
    saved(layered, "one")
    fast.delete_record("s")
    slow.calls.clear()
    assert [shown(layered), shown(layered)] == [["one"], ["one"]]
    assert (shown(fast), slow.calls) == (["one"], [])


def test_writes_go_through_to_all():
    """First saves, later ones and deletions."""
    layers = [MemoryStorage(), MemoryStorage(), MemoryStorage()]
    layered = LayeredStorage(layers)
    saved(layered, "one")
    say(layered, "two")
    assert [shown(layer) for layer in layers] == [["one", "two"]] * 3
    assert bundle(layered).delete("s") is True
    assert [layer.exists("s") for layer in layers] == [False] * 3


def test_what_decides_asks_the_last_layer():
    """Conditional reads, existence and lists: what the layers above hold does not count."""
    fast, slow = MemoryStorage(), MemoryStorage()
    layered = LayeredStorage([fast, slow])
    saved(fast, "a copy of nothing", session_id="ghost")
    saved(slow, "one")
    assert (layered.exists("ghost"), layered.exists("s"), layered.read("ghost")) == (False, True, None)
    assert [head["id"] for head, _ in layered.heads()] == ["s"]
    assert layered.read("s").stamp == slow.read("s").stamp
    assert layered.store_id == slow.store_id


def test_a_plain_load_gives_the_last_layers_stamp():
    """So that what follows a hit reads the difference only."""
    slow = MemoryStorage()
    layered = LayeredStorage([MemoryStorage(), slow])
    saved(layered, "one")
    record = layered.read_plain("s")
    assert (record.stamp, record.ops) == (slow.read("s").stamp, slow.read("s").ops)
    repo = bundle(layered)
    session = repo.load("s")
    say(slow, "two")
    session.add_message(Message.user("three"))
    assert repo.save(session).conflicts == ()
    assert shown(slow) == ["one", "two", "three"]


def test_layers_need_no_particular_storage():
    """Three methods above, and three methods as the last one."""
    for layers in ([WholeSessions(), MemoryStorage()], [MemoryStorage(), WholeSessions()], [WholeSessions(), WholeSessions()]):
        layered = LayeredStorage(layers)
        saved(layered, "one")
        say(layered, "two")
        assert shown(layered) == ["one", "two"]
        below = layers[-1].load_session
        layers[-1].load_session = lambda session_id: pytest.fail("a copy was there")
        assert shown(layered) == ["one", "two"]
        layers[-1].load_session = below
        assert bundle(layered).delete("s") is True
        assert shown(layered) is None


def test_a_last_layer_without_births_is_always_asked():
    """Nothing that could be compared: a copy of it is never served."""
    layered = LayeredStorage([MemoryStorage(), last := ChatsOnly()])
    saved(layered, "one")
    session = last.load_session("s")
    session.add_message(Message.user("behind our back"))
    last.save_session(session)
    assert shown(layered) == ["one", "behind our back"]


def test_a_layer_above_without_births_is_left_alone():
    """Its copies cannot be told apart: it serves nothing, and loads do not go on writing to it."""
    layered = LayeredStorage([above := ChatsOnly(), MemoryStorage()], clock=ManualClock())
    saved(layered, "one")
    assert [shown(layered) for _ in range(3)] == [["one"]] * 3
    writes = []
    above.save_session = writes.append
    assert shown(layered) == ["one"]
    assert writes == []
    assert layered.stats().layers[0].stale is True


def test_one_layer_is_that_storage():
    """And none is a mistake."""
    layered = LayeredStorage([MemoryStorage()])
    saved(layered, "one")
    assert (shown(layered), layered.stats().layers) == (["one"], ())
    with pytest.raises(ValueError, match="at least one"):
        LayeredStorage([])


def test_the_powers_are_those_of_the_last_layer(tmp_path):
    """There where it has them, and not there where it has not, whatever the layers above can do."""
    json_files, memory = JsonFileStorage(tmp_path), MemoryStorage()
    powers = (has_locks, has_held_reads, has_current_stamps, has_usage_log, has_checks, has_expiry, keeps_records)
    for above, last in ((memory, json_files), (json_files, memory)):
        layered = LayeredStorage([above, last])
        assert [has(layered) for has in powers] == [has(last) for has in powers]
        assert has_plain_reads(layered)
    assert LayeredStorage([memory, json_files]).name == "memory over json_files"


# -- what a layer above may get wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", ["commit", "read"])
def test_a_layer_above_that_fails_costs_no_save(call, when):
    """The save is acknowledged, the next load gives it, and the failure is told and counted."""
    fast, slow, layered = stages()
    saved(layered, "one")
    fast.fail(call, when=when)
    with capture_logs() as logs:
        say(layered, "two")
        assert shown(layered) == ["one", "two"]
    assert shown(slow.inner) == ["one", "two"]
    assert [(log["event"], log["layer"], log["action"]) for log in logs if log["log_level"] == "warning"] == [
        ("a layer failed, going on without it", "memory", {"read": "fill"}.get(call, call))]
    assert layered.stats().layers[0].failures == 1


def test_a_layer_that_missed_a_commit_serves_nothing_until_it_has_it():
    """What it still holds is older than what was acknowledged."""
    fast, _slow, layered = stages()
    saved(layered, "one")
    fast.fail("commit")
    say(layered, "two")
    assert shown(fast.inner) == ["one"]
    fast.fail("commit", times=DOWN)
    assert [shown(layered), shown(layered)] == [["one", "two"]] * 2
    assert layered.stats().layers[0].stale is True


def test_a_layer_heals_with_its_next_success():
    """It is filled anew, and answers again."""
    slow = counted()
    layered = LayeredStorage([fast := FailingStorage(MemoryStorage()), slow], clock=ManualClock())
    saved(layered, "one")
    fast.fail("commit")
    say(layered, "two")
    with capture_logs() as logs:
        assert shown(layered) == ["one", "two"]
    assert [log["event"] for log in logs] == ["a layer answers again"]
    assert (shown(fast.inner), layered.stats().layers[0].stale) == (["one", "two"], False)
    slow.calls.clear()
    assert shown(layered) == ["one", "two"]
    assert slow.calls == []


def test_a_layer_that_goes_on_failing_is_left_alone_for_a_while():
    """A hung server must not cost every load its timeout: after the second failure in a row there are pauses, of 0.1 to 5 s."""
    clock, fast = ManualClock(), FailingStorage(MemoryStorage())
    layered = LayeredStorage([fast, MemoryStorage()], clock=clock)
    saved(layered, "one")
    fast.fail("read", times=DOWN)
    for _ in range(20):
        shown(layered)
    assert fast.failed == 2
    clock.forward(seconds=0.1)
    for _ in range(20):
        shown(layered)
    assert fast.failed == 3
    for _ in range(12):
        clock.forward(seconds=5)
        shown(layered)
    assert fast.failed == 15
    fast.recover()
    assert shown(layered) == ["one"]
    assert layered.stats().layers[0].stale is True
    clock.forward(seconds=5)
    assert shown(layered) == ["one"]
    assert layered.stats().layers[0].stale is False


def test_a_full_layer_is_no_failed_one():
    """It does not take the copy, and that is all."""
    layered = LayeredStorage([fast := FailingStorage(MemoryStorage()), MemoryStorage()])
    fast.fail("commit", times=2, error=CapacityExceeded("s", 1))
    saved(layered, "one")
    assert shown(layered) == ["one"]
    assert (layered.stats().layers[0].failures, layered.stats().layers[0].stale) == (0, False)
    assert fast.failed == 2


def test_a_layer_above_may_fail_in_any_way():
    """Also with what is no storage error: a copy is not worth an error in a call that the last layer has answered."""
    fast, _slow, layered = stages()
    fast.fail("commit", error=ZeroDivisionError("a bug"))
    saved(layered, "one")
    assert shown(layered) == ["one"]
    assert layered.stats().layers[0].last_error == "ZeroDivisionError: a bug"


def test_a_copy_from_an_earlier_life_is_compared_before_it_is_served():
    """A layer that outlives the process comes back with what it had: older, of a deleted session, or of the life before."""
    for change, expected in ((lambda slow: say(slow, "two"), ["one", "two"]), (lambda slow: slow.delete_record("s"), None),
                             (lambda slow: (slow.delete_record("s"), saved(slow, "anew")), ["anew"])):
        fast, slow = MemoryStorage(), MemoryStorage()
        saved(LayeredStorage([fast, slow]), "one")
        change(slow)
        layered = LayeredStorage([fast, slow])
        assert [shown(layered), shown(layered)] == [expected] * 2
        assert shown(fast) == expected


def test_a_copy_that_is_still_good_is_not_written_again():
    """After a restart one look at the last layer confirms it."""
    slow, fast = MemoryStorage(), counted()
    saved(LayeredStorage([fast, slow]), "one")
    fast.calls.clear()
    assert shown(LayeredStorage([fast, slow])) == ["one"]
    assert looks(fast, "commit") == []


def test_a_crash_between_the_layers_brings_nothing_back():
    """Deleted from the last layer, still there above: the next process shows nothing, and clears it away."""
    fast, slow = MemoryStorage(), MemoryStorage()
    saved(LayeredStorage([fast, slow]), "one")
    slow.delete_record("s")
    layered = LayeredStorage([fast, slow])
    assert (shown(layered), fast.exists("s")) == (None, False)


@pytest.mark.parametrize("call", ["delete_record", "read"])
def test_a_deletion_that_a_layer_above_missed_is_one(call):
    """Nothing is shown, then or later, in spite of the copy that is left."""
    fast, _slow, layered = stages()
    saved(layered, "one")
    fast.fail(call, times=DOWN)
    bundle(layered).delete("s")
    assert fast.inner.exists("s")
    assert shown(layered) is None
    fast.recover()
    assert shown(layered) is None


def test_a_future_that_the_last_layer_never_had_is_not_served():
    """The last layer came back from a backup: the copy above has more revisions, and says other things."""
    fast, slow = StrictStorage(), MemoryStorage()
    for storage, commits in ((fast, [first("s", "a"), later("s", 2, 1, "lost", op="x"), later("s", 3, 2, "lost", op="y")]),
                             (slow, [first("s", "a"), later("s", 2, 1, "kept")])):
        for commit in commits:
            storage.commit(commit)
    layered = LayeredStorage([fast, slow])
    assert [list(layered.read_plain("s").messages) for _ in range(2)] == [[line("a"), line("kept")]] * 2
    assert list(fast.read("s").messages) == [line("a"), line("kept")]
    assert layered.stats().layers[0].failures == 0


def test_a_revision_that_was_counted_twice_is_not_taken_for_the_other_one():
    """The last layer came back from a backup and went on: the copy has the same birth and revision, and another time."""
    fast, slow = MemoryStorage(), MemoryStorage()
    for storage, word in ((fast, "lost"), (slow, "kept")):
        storage.commit(first("s", word, updated_at=f"2026-01-01T00:00:0{len(word)}.{word == 'kept':d}00000Z"))
    layered = LayeredStorage([fast, slow])
    assert [list(layered.read_plain("s").messages) for _ in range(2)] == [[line("kept")]] * 2


def test_a_commit_goes_up_only_where_the_state_before_is_confirmed():
    """A copy of the same birth and revision that nobody has compared: a difference put on it would look right."""
    fast, slow = FailingStorage(MemoryStorage()), MemoryStorage()
    for storage, word in ((fast.inner, "lost"), (slow, "kept")):
        storage.commit(first("s", word, updated_at=f"2026-01-01T00:00:00.{word == 'kept':d}00000Z"))
    layered = LayeredStorage([fast, slow])
    fast.fail("read")
    layered.read("s")
    layered.commit(later("s", 2, 1, "2", head={"set": {"updated_at": "2026-01-01T00:00:01.000000Z"}}))
    assert [list(layered.read_plain("s").messages) for _ in range(2)] == [[line("kept"), line("2")]] * 2


def test_a_layer_that_lost_its_copy_is_filled_again():
    """It evicts, or was emptied by somebody: the last layer is asked once."""
    fast, slow = MemoryStorage(), counted()
    layered = LayeredStorage([fast, slow])
    saved(layered, "one")
    fast.delete_record("s")
    slow.calls.clear()
    assert [shown(layered), shown(layered)] == [["one"], ["one"]]
    assert looks(slow) == ["s"]


def test_more_sessions_than_are_remembered():
    """Those that are forgotten are asked for again; nothing old is shown."""
    fast, slow = MemoryStorage(), counted()
    layered = LayeredStorage([fast, slow], remembered=3)
    for number in range(10):
        saved(layered, "one", session_id=f"s{number}")
    say(slow.inner, "two", session_id="s0")
    assert shown(layered, "s0") == ["one", "two"]
    assert len(layered._known) <= 3


# -- another process writes to the last layer --------------------------------------------------------------------


def test_what_another_process_wrote_shows_when_the_last_layer_was_asked():
    """Until then a plain load may be older, as that of any cache; after it never again."""
    fast, slow = MemoryStorage(), MemoryStorage()
    layered = LayeredStorage([fast, slow])
    saved(layered, "one")
    say(slow, "two")
    assert shown(layered) == ["one"]
    assert layered.read("s").head["revision"] == 2
    assert shown(layered) == ["one", "two"]


@pytest.mark.parametrize("above", [MemoryStorage, lambda: FailingStorage(MemoryStorage())], ids=["well", "failing"])
def test_a_difference_goes_up_as_well(above):
    """`load_merged` reads what came after its copy: no plain load is behind that, and a layer that is well has it."""
    fast, slow = above(), MemoryStorage()
    layered = LayeredStorage([fast, slow])
    repo = bundle(layered)
    repo.save(Session.new("s"))
    say(slow, "one")
    if isinstance(fast, FailingStorage):
        fast.fail("commit", times=2)
    assert texts(repo.load_merged("s")) == ["one"]
    repo.cache.invalidate("s")
    assert texts(repo.load("s")) == ["one"]


def test_a_deletion_by_another_process_shows_when_the_last_layer_was_asked():
    """And the copies above are cleared away."""
    fast, slow = MemoryStorage(), MemoryStorage()
    layered = LayeredStorage([fast, slow])
    saved(layered, "one")
    slow.delete_record("s")
    assert layered.read("s") is None
    assert (shown(layered), fast.exists("s")) == (None, False)


def test_a_deletion_by_another_process_is_remembered_where_a_copy_cannot_be_cleared_away():
    """Not even a degraded load brings it back."""
    fast, slow, layered = stages()
    saved(layered, "one")
    slow.inner.delete_record("s")
    fast.fail("delete_record")
    assert layered.read("s") is None
    assert fast.inner.exists("s")
    slow.fail("read")
    with pytest.raises(StorageUnavailable):
        layered.read_plain("s")


def test_a_copy_of_a_deleted_session_cannot_be_saved():
    """P9 holds for what a layer above served."""
    layered = LayeredStorage([MemoryStorage(), slow := MemoryStorage()])
    saved(layered, "one")
    session = layered.load_session("s")
    slow.delete_record("s")
    session.add_message(Message.user("late"))
    with pytest.raises(SessionDeleted):
        bundle(layered).save(session)
    assert shown(layered) is None


def test_a_stamp_from_elsewhere_is_not_taken_for_what_is_known_here():
    """Another object on the same store knew more: after "unchanged" no plain load here is behind that."""
    slow = MemoryStorage()
    layered = LayeredStorage([MemoryStorage(), slow])
    saved(layered, "one")
    say(slow, "two")
    newer = slow.read("s").stamp
    layered.read("s", newer)
    assert shown(layered) == ["one", "two"]


def test_a_difference_that_does_not_follow_what_is_known_is_not_put_on_it():
    """The reader knew revision 2 from elsewhere, the layers have revision 1: the next load asks again."""
    slow = MemoryStorage()
    layered = LayeredStorage([MemoryStorage(), slow])
    saved(layered, "one")
    say(slow, "two")
    known = slow.read("s").stamp
    say(slow, "three")
    layered.read("s", known)
    assert shown(layered) == ["one", "two", "three"]


def test_what_expired_below_is_not_shown_from_above(clock):
    """At once; also where another process purged it, so that nobody knows its time any more."""
    slow = MemoryStorage(ttl=timedelta(hours=1), clock=clock)
    layered = LayeredStorage([fast := MemoryStorage(), slow], clock=clock)
    saved(layered, "one")
    clock.forward(hours=2)
    assert (shown(layered), fast.exists("s")) == (None, True)
    layered.touch("s")
    assert shown(layered) == ["one"]
    clock.forward(hours=2)
    assert slow.purge_record("s") is True
    assert bundle(layered, clock).try_load("s") is None
    assert (shown(layered), fast.exists("s")) == (None, False)


# -- the last layer fails ----------------------------------------------------------------------------------------


def test_with_the_last_layer_down_plain_loads_go_on():
    """Marked as degraded once that was noticed, and told once; saves and merges raise. Then all is as before."""
    _fast, slow, layered = stages()
    repo = bundle(layered)
    repo.save(Session.new("s"))
    repo.cache.invalidate("s")
    for call in ("read", "commit", "exists", "delete_record"):
        slow.fail(call, times=DOWN)
    with capture_logs() as logs:
        assert repo.try_load("s") is not None
        for ask in (repo.try_load_merged, repo.exists, repo.delete, lambda _: repo.set_title("s", "no")):
            with pytest.raises(StorageUnavailable):
                ask("s")
        repo.cache.invalidate("s")
        assert repo.try_load("s") is not None
    assert (layered.degraded, layered.stats().degraded) == (True, True)
    assert [log["event"] for log in logs].count("the last layer does not answer: plain loads go on with copies") == 1
    slow.recover()
    repo.set_title("s", "yes")
    assert layered.degraded is False


def test_a_copy_that_was_never_confirmed_is_served_only_while_nobody_can_confirm_it(tmp_path):
    """It was there before this process began. Its stamp means nothing to the last layer, and is not handed to it."""
    fast, slow = MemoryStorage(), FailingStorage(JsonFileStorage(tmp_path, durability="process"))
    saved(LayeredStorage([fast, slow]), "from before")
    layered = LayeredStorage([fast, slow])
    slow.fail("read", times=2)
    record = layered.read_plain("s")
    assert texts(layered.load_session("s")) == ["from before"]
    assert (layered.degraded, layered.is_current(record.stamp)) == (True, False)
    given, read = [], slow.inner.read
    slow.inner.read = lambda session_id, known=None: (given.append(known), read(session_id, known))[1]
    layered.read("s", record.stamp)
    assert given == [None]
    say(slow, "two")
    assert len(layered.read("s", record.stamp).messages) == 2
    slow.delete_record("s")
    assert layered.read("s", record.stamp) is None
    assert shown(layered) is None


@pytest.mark.parametrize("learn", [lambda layered, slow: (say(slow.inner, "two"), layered.read("s")),
                                   lambda layered, slow: say(layered, "two"),
                                   lambda layered, slow: bundle(layered).delete("s")], ids=["read", "saved", "deleted"])
def test_a_degraded_load_contradicts_nothing_that_is_known(learn):
    """A copy older than what this process saw, saved or deleted is not served: an error is no worse than a lie."""
    fast, slow, layered = stages()
    saved(layered, "one")
    fast.fail("commit", times=DOWN)
    fast.fail("delete_record", times=DOWN)
    learn(layered, slow)
    assert shown(fast.inner) == ["one"]
    fast.recover()
    slow.fail("read", times=DOWN)
    with pytest.raises(StorageUnavailable):
        layered.read_plain("s")


def test_a_degraded_load_does_not_bet_on_what_was_forgotten():
    """Who has forgotten what it knew of some sessions cannot say that it knew nothing of this one."""
    fast, slow = FailingStorage(MemoryStorage()), FailingStorage(MemoryStorage())
    layered = LayeredStorage([fast, slow], remembered=2)
    saved(layered, "one", session_id="s0")
    fast.fail("commit", times=1)
    say(layered, "two", session_id="s0")
    for number in (1, 2):
        saved(layered, "one", session_id=f"s{number}")
    slow.fail("read", times=DOWN)
    with pytest.raises(StorageUnavailable):
        layered.read_plain("s0")


def test_a_commit_of_unknown_outcome_shows_nowhere_until_it_is_known():
    """The last layer comes first: what it may not have is in no layer above."""
    fast, slow, layered = stages()
    layered.commit(first("s", "1"))
    slow.fail("commit", when="after")
    with pytest.raises(StorageUnavailable):
        layered.commit(later("s", 2, 1, "2"))
    assert len(layered.read_plain("s").messages) == len(fast.inner.read("s").messages) == 1
    assert len(layered.read("s").messages) == 2
    assert len(layered.read_plain("s").messages) == 2


def test_a_commit_that_the_last_layer_refuses_is_in_no_layer():
    """RevisionConflict, and nothing has changed above."""
    fast, slow = MemoryStorage(), MemoryStorage()
    layered = LayeredStorage([fast, slow])
    layered.commit(first("s", "1"))
    slow.commit(later("s", 2, 1, "theirs"))
    with pytest.raises(RevisionConflict):
        layered.commit(later("s", 2, 1, "mine", op="mine"))
    assert fast.read("s").head["revision"] == 1


def test_a_deletion_that_failed_leaves_the_session():
    """In the layers above as well: nothing was acknowledged."""
    fast, slow, layered = stages()
    saved(layered, "one")
    slow.fail("delete_record")
    with pytest.raises(StorageUnavailable):
        layered.delete_record("s")
    assert fast.inner.exists("s")
    assert shown(layered) == ["one"]


# -- the rest ----------------------------------------------------------------------------------------------------


def test_a_commit_without_a_read_before_it_is_followed_where_the_state_is_known():
    """And where it is not, the layers above are asked for nothing until the last one was."""
    slow = MemoryStorage()
    slow.commit(first("s", "1"))
    layered = LayeredStorage([MemoryStorage(), slow])
    layered.commit(later("s", 2, 1, "2"))
    layered.commit(later("s", 3, 2, "3"))
    assert [len(layered.read_plain("s").messages) for _ in range(2)] == [3, 3]
    assert (layered.read_plain("s").head["birth"], layered.read_plain("s").ops) == (BIRTH, ("op-1", "op-2", "op-3"))


def test_a_commit_again_is_one():
    """Its answer was lost: the layers above have it once."""
    layered = LayeredStorage([fast := MemoryStorage(), MemoryStorage()])
    layered.commit(first("s", "1"))
    stamps = [layered.commit(later("s", 2, 1, "2")) for _ in range(2)]
    assert stamps[0] == stamps[1]
    assert (len(layered.read_plain("s").messages), len(fast.read("s").messages)) == (2, 2)
    assert layered.read_plain("s").ops == ("op-1", "op-2")


def test_the_last_layers_lock_is_taken_for_a_plain_save(tmp_path):
    """Read and commit are one step there; and a layer's own lock that is busy makes nobody wait for a fill."""
    above, last = JsonFileStorage(tmp_path / "above", durability="process"), JsonFileStorage(tmp_path / "last", durability="process")
    layered = LayeredStorage([above, last])
    layered.save_session(Session.new("s"))
    assert layered.delete_session("s") is True
    last.save_session(Session.new("s"))
    with above.lock("s", 1.0):
        assert layered.load_session("s") is not None
    assert layered.stats().layers[0].failures == 0
    assert above.read("s") is None
    assert layered.load_session("s") is not None
    assert above.read("s") is not None


def test_a_repair_is_looked_at_anew(tmp_path):
    """What the last layer mended may say less than the copies: they are not served any more."""
    layered = LayeredStorage([MemoryStorage(), last := JsonFileStorage(tmp_path, durability="process")])
    saved(layered, "one")
    say(last, "two")
    layered.repair("s")
    assert shown(layered) == ["one", "two"]


def test_close_closes_every_layer():
    """Also where one above fails."""
    closed = []

    class Closing(MemoryStorage):
        def close(self):
            closed.append(self)
            if len(closed) == 1:
                raise OSError("stuck")

    layers = [Closing(), Closing(), Closing()]
    LayeredStorage(layers).close()
    assert closed == layers


def test_nothing_that_is_given_out_leads_into_a_layer():
    """A record is the caller's own."""
    layered = LayeredStorage([StrictStorage(), StrictStorage()])
    layered.commit(first("s", "1", metadata={"k": [1]}))
    record = layered.read_plain("s")
    assert isinstance(record, Record)
    record.head["metadata"]["k"].append(2)
    assert layered.read_plain("s").head["metadata"] == {"k": [1]}


def test_a_damaged_copy_is_written_anew(tmp_path, damage_on_purpose):
    """One bad file must not keep a whole layer from being asked; the truth is below it."""
    upper = JsonFileStorage(tmp_path, durability="process")
    layered = LayeredStorage([upper, MemoryStorage()], clock=ManualClock())
    saved(layered, "one")
    saved(layered, "two", session_id="t")
    path = Path(upper._place("s").snapshot)
    path.write_bytes(path.read_bytes().replace(b"birth", b"brith"))
    assert shown(layered) == ["one"]
    assert (layered.stats().layers[0].stale, shown(upper), shown(upper, "t")) == (False, ["one"], ["two"])
    path.write_bytes(path.read_bytes().replace(b"birth", b"brith"))
    layered.delete_session("s")
    assert upper.read("s") is None
