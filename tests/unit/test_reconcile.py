"""The decisions of loading and saving, by themselves: what is newer, what is deleted, what a copy descends from."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bamboo_sessions import Message, Session, SessionDeleted
from bamboo_sessions.models import Attempt, Base, Kept, Origin, Part
from bamboo_sessions.models.state import changed
from bamboo_sessions.reconcile import (
    Stored,
    common_ancestor,
    is_deleted,
    plan_save,
    prefers_storage,
    settled,
)
from bamboo_sessions.reconcile_copies import Copy, after_commit, after_look, carried_over, with_unsaved
from tests.support import START, ManualClock

STORE = "store-1"


def session(*words, birth="b", revision=0, later=0, asking=()):
    made = Session.new("s", clock=ManualClock())
    for word in words:
        made.add_message(Message.user(word, id=word))
    for call_id in asking:
        made.set_pending_question(tool_call_id=call_id, question="?")
    made._head = changed(made._head, birth=birth, revision=revision, updated_at=START + timedelta(seconds=later))
    return made


def state(*words, **facts):
    return session(*words, **facts)._state()


def base(*words, ops=("op-1",), store=STORE, **facts):
    return Base(state(*words, **{"revision": len(ops), "later": len(ops), **facts}), ops[-1] if ops else "", store,
                object(), ops)


def unsaved(state, base, attempt=None):
    """A copy as a cache keeps it."""
    return Copy(state, Origin(base, attempt, (Part(Kept("mark"), state),)), "mark")


def said(copy):
    return [message.content for message in copy.state.messages]


@pytest.mark.parametrize(("stored_later", "asking", "wanted"), [
    (1, (), True), (-1, ("q",), False), (0, (), False), (0, ("q",), True), (0, ("mine",), False), (0, ("mine", "q"), True),
])
def test_prefers_storage(stored_later, asking, wanted):
    """P3: storage where it is newer, or of the same age with a question that memory lost; nothing else counts."""
    cached, stored = state(asking=("mine",)).head, state("x", later=stored_later, asking=asking).head
    assert prefers_storage(cached, stored) is wanted


@pytest.mark.parametrize(("origin", "stored", "buried", "wanted"), [
    (Origin(), None, False, False),
    (Origin(base("one")), None, False, True),
    (Origin(base("one")), Stored(base("one")), False, False),
    (Origin(base("one")), Stored(base("one", birth="another")), False, True),
    (Origin(base("one")), Stored(base("one", birth="")), False, False),
    (Origin(base("one", store="elsewhere")), None, False, False),
    (Origin(None, Attempt("op", state(), STORE)), None, False, False),
    (Origin(None, Attempt("op", state(), STORE)), None, True, True),
    (Origin(None, Attempt("op", state(), STORE)), Stored(base("one", birth="another")), True, True),
    (Origin(None, Attempt("op", state(), STORE)), Stored(base("one")), True, False),
])
def test_is_deleted(origin, stored, buried, wanted):
    """P9: committed here and gone, or another birth; never saved is never deleted; an attempt where it is buried."""
    assert is_deleted(origin, stored, STORE, buried=buried) is wanted


def test_a_copy_that_descends_from_nothing_the_storage_had_lost_track():
    """A restored backup (a lower revision) or a fail-over (another commit at that place): no base, and it is reported."""
    mine = Origin(base("one", "two", ops=("op-1", "op-2")))
    follows = Stored(base(ops=("op-1", "op-2", "op-3")), ("op-1", "op-2", "op-3"))
    restored = Stored(base(ops=("op-1",)), ("op-1",))
    failed_over = Stored(base(ops=("op-1", "op-x", "op-y")), ("op-1", "op-x", "op-y"))
    assert common_ancestor(mine, follows, STORE).state is mine.base.state
    for stored in (restored, failed_over):
        ancestor = common_ancestor(mine, stored, STORE)
        assert (ancestor.state, ancestor.lost_track) == (None, True)
        plan = plan_save(state("one", "two", "three"), mine, stored, store=STORE, buried=False, now=START, birth="x")
        assert plan.conflicts[0].field == "revision"
        assert [m.content for m in plan.state.messages] == ["one", "two", "three"]


def test_a_first_save_plans_revision_one():
    """With the clock's time where it is later than the session's own, and the birth it has."""
    plan = plan_save(state("one"), Origin(), None, store=STORE, buried=False, now=START + timedelta(hours=1), birth="new")
    head = plan.state.head
    assert (head.revision, head.birth, head.updated_at) == (1, "b", START + timedelta(hours=1))
    born = plan_save(state("one", birth=""), Origin(), None, store=STORE, buried=False, now=START, birth="new")
    assert born.state.head.birth == "new"


@pytest.mark.parametrize(("now", "mine", "theirs", "wanted"), [
    (0, 0, 0, timedelta(microseconds=1)), (5, 0, 3, timedelta(seconds=5)), (0, 7, 3, timedelta(seconds=7)),
    (0, 0, 9, timedelta(seconds=9, microseconds=1)), (0, 90_000, 3, timedelta(seconds=3, microseconds=1)),
])
def test_time_goes_forward(now, mine, theirs, wanted):
    """P10: max(now, mine, theirs + 1 µs), and a value over a day ahead of the clock is not carried on."""
    stored = Stored(base("one", later=theirs))
    plan = plan_save(state("one", "two", later=mine), Origin(stored.base), stored, store=STORE, buried=False,
                     now=START + timedelta(seconds=now), birth="x")
    assert plan.state.head.updated_at == START + wanted
    assert plan.state.head.revision == 2


def test_nothing_to_write():
    """The same content at another time is no change."""
    stored = Stored(base("one"))
    plan = plan_save(state("one", later=99), Origin(stored.base), stored, store=STORE, buried=False, now=START, birth="x")
    assert plan.state is None


def test_a_dead_copy_has_no_plan():
    """P9: SessionDeleted says whether another one stands there."""
    for stored in (None, Stored(base("new", birth="another"))):
        with pytest.raises(SessionDeleted) as caught:
            plan_save(state("one"), Origin(base("one")), stored, store=STORE, buried=False, now=START, birth="x")
        assert caught.value.recreated is (stored is not None)


def test_settled_goes_on_from_what_was_stored():
    """The attempt merged away a message that the copy still has; what the copy did since is kept, that message is not."""
    attempt = Attempt("op-2", state("two", "mine"), STORE, state("one", "two", "mine"))
    after = settled(state("one", "two", "mine", "since"), attempt)
    assert [message.content for message in after.messages] == ["two", "mine", "since"]


# -- what the cache should hold ----------------------------------------------------------------------------------


def test_after_commit_takes_the_newest():
    """P3: nothing cached, an older commit, a newer one, a plain copy of an earlier or a later time."""
    old, new = base("one"), base("one", "two", ops=("op-1", "op-2"))
    assert said(after_commit(None, new, None)) == ["one", "two"]
    assert said(after_commit(Copy(old.state, Origin(old)), new, None)) == ["one", "two"]
    newer = Copy(new.state, Origin(new))
    assert after_commit(newer, old, None) is newer
    later = Copy(state("plain", later=60), Origin())
    assert after_commit(later, new, None) is later
    assert said(after_commit(Copy(state("plain"), Origin()), new, None)) == ["one", "two"]


def test_after_commit_believes_a_storage_that_lost_its_state():
    """A lower revision that is none of those which led to the cached one came after it; one of them came before it, and
    where the cached copy does not remember so far back, the higher revision stands."""
    cached = base("one", "two", "three", revision=5, ops=("op-3", "op-4", "op-5"))
    anew, earlier, unknown = base("anew", revision=3, ops=("x",)), base("one", revision=3, ops=("op-3",)), base("?", revision=2, ops=("y",))
    held = Copy(cached.state, Origin(cached))
    assert said(after_commit(held, anew, None)) == ["anew"]
    assert after_commit(held, earlier, None) is held
    assert after_commit(held, unknown, None) is held


def test_after_commit_clears_only_the_mark_of_what_was_saved():
    """The saver's mark says whose changes are in the commit."""
    old, new = base("one"), base("one", "two", ops=("op-1", "op-2"))
    cached = unsaved(state("one", "mine"), old)
    assert after_commit(cached, new, "mark").unsaved is None
    kept = after_commit(cached, new, "another")
    assert (said(kept), kept.unsaved, kept.origin.base) == (["one", "two", "mine"], "mark", new)


def test_carried_over_keeps_an_attempt_that_nobody_can_settle():
    """Neither among the remembered commits nor excluded by them: the entry waits for a look at the storage."""
    old, onto = base("one"), base("one", "x", ops=("op-70",), revision=70)
    attempt = Attempt("op-2", state("one", "mine", revision=2), STORE)
    cached = unsaved(state("one", "mine"), old, attempt)
    assert carried_over(cached, onto) is cached


def test_carried_over_knows_an_attempt_that_was_applied():
    """It is among the commits: what was undone since is not done again."""
    old, onto = base("one"), base("one", ops=("op-1", "op-2", "op-3"))
    attempt = Attempt("op-2", state("one", "mine", revision=2), STORE)
    after = carried_over(unsaved(state("one", "mine"), old, attempt), onto)
    assert (said(after), after.unsaved) == (["one"], None)


def test_carried_over_knows_an_attempt_that_was_not_applied():
    """Another commit took its place, so it never will be."""
    old, onto = base("one"), base("one", "x", ops=("op-1", "op-x"))
    attempt = Attempt("op-2", state("one", "mine", revision=2), STORE)
    after = carried_over(unsaved(state("one", "mine"), old, attempt), onto)
    assert (said(after), after.unsaved, after.origin.attempt) == (["one", "x", "mine"], "mark", None)


@pytest.mark.parametrize(("mine", "wanted"), [
    (["one", "mine", "new"], ["one", "new", "x", "mine"]),
    (["mine", "one", "new"], ["mine", "one", "new", "x"]),
], ids=["by nobody", "by its holder"])
def test_carried_over_keeps_apart_who_put_messages_into_another_order(mine, wanted):
    """A message that both have as new stands differently with the one behind it and without; where the attempt proves applied, only
    what the holder re-ordered since is re-ordered there."""
    old, onto = base("one"), base("one", "new", "x", ops=("op-1", "op-x"))
    attempt = Attempt("op-3", state("one", "new", "x", "mine", revision=3), STORE, state("one", "mine"))
    carried = carried_over(unsaved(state(*mine), old, attempt), onto)
    assert carried.origin.attempt is not None
    after = settled(carried.state, carried.origin.attempt)
    assert [message.content for message in after.messages] == wanted


def test_with_unsaved_never_mixes_two_lives():
    """P9: the copy that could not be saved is kept as it is; the committed one is safe in the storage."""
    cached = Copy(base("new", birth="another").state, Origin(base("new", birth="another")))
    mine = unsaved(state("old", "more"), base("old"))
    assert with_unsaved(cached, mine, Kept("beside")) is mine


def test_with_unsaved_keeps_an_attempt_that_nobody_can_settle():
    """What was tried may be among the commits that the cached copy no longer names: it must not look like a new change."""
    there = base("one", "x", ops=("op-70",), revision=70)
    attempt = Attempt("op-2", state("one", "mine", revision=2), STORE)
    mine = unsaved(state("one", "mine"), base("one"), attempt)
    assert with_unsaved(Copy(there.state, Origin(there)), mine, Kept("beside")) is mine


def test_after_look_at_nothing_keeps_what_was_never_saved():
    """P9: a session that was never saved is kept; one that was is gone."""
    fresh = Copy(state("one"), Origin())
    assert after_look(fresh, None, STORE) is fresh
    committed = base("one")
    assert after_look(Copy(committed.state, Origin(committed)), None, STORE) is None
    assert after_look(None, None, STORE) is None
    attempted = unsaved(state("one"), None, Attempt("op", state("one"), STORE))
    assert after_look(attempted, None, STORE) is attempted
    assert after_look(attempted, None, STORE, buried=True) is None
