"""Unsaved copies: what `save_and_cache` could not store is nobody's deletion, and nobody else's save loses it."""

from __future__ import annotations

import pytest

from bamboo_sessions import Message, Session
from tests.support import applied_but_unknown, begin, bundle, failing, keep, keep_more, open_calls, over, stored, texts


@pytest.fixture
def repo(storage, clock):
    return over(storage, clock)


@pytest.fixture
def other(repo, clock):
    """Another process, as far as this one can tell: another repository on the same storage."""
    return bundle(repo.storage.inner, clock)


def unsaved(repo, word="unsaved"):
    return keep_more(repo, word)


def both_kept(repo):
    """Two copies of one state, each with a message of its own, kept one after the other."""
    begin(repo, "one")
    a, b = repo.load("s"), repo.load("s")
    for word, session in (("a", a), ("b", b)):
        session.add_message(Message.user(word))
        keep(repo, session)
    return a, b


def test_the_next_save_of_the_object_stores_it(repo):
    """The object that failed to be saved holds its changes and its old base; saving it again is enough."""
    begin(repo, "one")
    session = unsaved(repo)
    repo.save(session)
    assert texts(stored(repo.storage, "s")) == texts(repo.load("s")) == ["one", "unsaved"]
    assert repo.cache.unsaved_ids() == []


def test_a_copy_loaded_from_the_unsaved_entry_stores_it(repo):
    """It descends from the committed base, not from the entry: what is unsaved is its own change and is saved with it."""
    begin(repo, "one")
    unsaved(repo)
    session = repo.load("s")
    session.add_message(Message.user("two"))
    repo.save(session)
    assert texts(stored(repo.storage, "s")) == ["one", "unsaved", "two"]
    assert repo.cache.unsaved_ids() == []


def test_an_older_copy_does_not_take_it_for_a_deletion(repo):
    """A copy that was loaded before, and never had the unsaved message, is saved: the message is still kept, unsaved."""
    begin(repo, "one")
    older = repo.load("s")
    unsaved(repo)
    older.add_message(Message.user("older"))
    repo.save(older)
    assert texts(stored(repo.storage, "s")) == ["one", "older"]
    assert texts(repo.load("s")) == ["one", "older", "unsaved"]
    assert repo.cache.unsaved_ids() == ["s"]
    repo.flush()
    assert texts(stored(repo.storage, "s")) == ["one", "older", "unsaved"]


def test_it_survives_load_merged(repo, other, clock):
    """What another process saved is merged with it, and it stays unsaved until a save contained it."""
    begin(repo, "one")
    unsaved(repo)
    clock.forward(hours=1)
    other.update("s", lambda s: s.add_message(Message.user("theirs")))
    for _ in range(2):
        assert texts(repo.load_merged("s")) == ["one", "theirs", "unsaved"]
        assert repo.cache.unsaved_ids() == ["s"]
    repo.flush()
    assert texts(stored(repo.storage, "s")) == ["one", "theirs", "unsaved"]


def test_it_survives_updates_edits_and_setters(repo):
    """They work on the committed state and publish over the entry: the unsaved change stays beside theirs."""
    begin(repo, "one")
    unsaved(repo)
    repo.set_title("s", "a title")
    with repo.edit("s") as session:
        session.pinned = True
    kept = repo.load("s")
    assert (kept.title, kept.pinned, texts(kept)) == ("a title", True, ["one", "unsaved"])
    repo.flush()
    kept = stored(repo.storage, "s")
    assert (kept.title, kept.pinned, texts(kept)) == ("a title", True, ["one", "unsaved"])


def test_several_unsaved_copies_are_kept_together(repo):
    """Two copies of one state, each with a change of its own, neither of which could be saved."""
    begin(repo, "one")
    a, b = repo.load("s"), repo.load("s")
    a.add_message(Message.user("a"))
    b.add_message(Message.user("b"))
    b.metadata["b"] = 1
    keep(repo, a)
    keep(repo, b)
    assert sorted(texts(repo.load("s"))) == ["a", "b", "one"]
    repo.flush()
    kept = stored(repo.storage, "s")
    assert sorted(texts(kept)) == ["a", "b", "one"]
    assert kept.metadata == {"b": 1}


@pytest.mark.parametrize("saved", [0, 1])
def test_saving_one_of_two_leaves_the_other_unsaved(repo, saved):
    """Only a save that contained the changes clears the mark: neither that of the first one nor that of the second has both."""
    a, b = both_kept(repo)
    repo.save((a, b)[saved])
    assert repo.cache.unsaved_ids() == ["s"]
    repo.flush()
    assert sorted(texts(stored(repo.storage, "s"))) == ["a", "b", "one"]


def test_what_its_own_holder_takes_out_again_stays_out(repo):
    """The copy that made the unsaved change takes it back and fails to be saved again: nothing of it is kept."""
    begin(repo, "one")
    session = unsaved(repo)
    session.remove_message(session.messages[-1].id)
    session.metadata["k"] = 1
    keep(repo, session)
    del session.metadata["k"]
    session.add_message(Message.user("instead"))
    keep(repo, session)
    assert texts(repo.load("s")) == ["one", "instead"]
    assert repo.load("s").metadata == {}
    repo.flush()
    assert texts(stored(repo.storage, "s")) == ["one", "instead"]


def edited(session, text):
    """The last message says something else now."""
    last = session.messages[-1]
    session.replace_message(last.id, Message.user(text, id=last.id))


@pytest.mark.parametrize("stored_by", ["this repository", "another one", "one whose answer is lost"])
def test_what_was_taken_out_of_kept_work_does_not_come_back_with_another_copy(repo, clock, stored_by):
    """P2: two copies are made of what is kept. One of them takes a message out, and is stored; the other one only adds."""
    begin(repo, "one")
    unsaved(repo)
    taken, added = repo.load("s"), repo.load("s")
    taken.remove_message(taken.messages[-1].id)
    taken.add_message(Message.user("instead"))
    if stored_by == "one whose answer is lost":
        repo.storage.at("was committed", applied_but_unknown)
        with pytest.raises(Exception, match="unknown"):
            repo.save(taken)
    else:
        (repo if stored_by == "this repository" else bundle(repo.storage.inner, clock)).save(taken)
    added.add_message(Message.user("added"))
    repo.save(added)
    repo.flush()
    assert texts(stored(repo.storage, "s")) == texts(repo.load("s")) == ["one", "instead", "added"]
    assert repo.cache.unsaved_ids() == []


def test_an_edit_of_kept_work_is_not_undone_by_another_copy(repo):
    """P2: the other one was shown the text of before, and never touched it."""
    begin(repo, "one")
    unsaved(repo, "draft")
    editor, other = repo.load("s"), repo.load("s")
    edited(editor, "final")
    editor.metadata["k"] = 1
    repo.save(editor)
    other.add_message(Message.user("more"))
    repo.save(other)
    kept = stored(repo.storage, "s")
    assert (texts(kept), kept.metadata) == (["one", "final", "more"], {"k": 1})


def test_who_could_not_save_learns_that_somebody_else_did(repo):
    """P2: a copy of what was kept of him was stored; what he takes out afterwards is taken out, and what he edits is edited."""
    begin(repo, "one")
    holder = unsaved(repo, "first")
    holder.add_message(Message.user("second"))
    keep(repo, holder)
    repo.save(repo.load("s"))
    holder.remove_message(holder.messages[1].id)
    edited(holder, "second, edited")
    assert repo.save(holder).conflicts == ()
    assert texts(stored(repo.storage, "s")) == ["one", "second, edited"]


def test_what_one_of_two_takes_back_stays_out_of_what_is_kept_of_both(repo, other):
    """P5: it is kept beside somebody else's; on a newer state, and after the other one's was stored."""
    a, b = both_kept(repo)
    other.update("s", lambda s: s.add_message(Message.user("theirs")))
    repo.load_merged("s")
    a.remove_message(a.messages[-1].id)
    a.add_message(Message.user("instead"))
    keep(repo, a)
    assert sorted(texts(repo.load("s"))) == ["b", "instead", "one", "theirs"]
    b.remove_message(b.messages[-1].id)
    b.add_message(Message.user("of b"))
    repo.save(b)
    repo.flush()
    assert sorted(texts(stored(repo.storage, "s"))) == ["instead", "of b", "one", "theirs"]


def test_kept_work_is_forgotten_by_parts_and_never_lost(repo):
    """A storage that is away for long: a copy from long ago is stored first, and every later turn is still there."""
    begin(repo, "one")
    holder, words = repo.load("s"), [f"turn {n}" for n in range(30)]
    for n, word in enumerate(words):
        holder.add_message(Message.user(word))
        keep(repo, holder)
        if n == 3:
            early = repo.load("s")
    early.add_message(Message.user("early"))
    repo.save(early)
    repo.flush()
    assert sorted(texts(stored(repo.storage, "s"))) == sorted(["one", "early", *words])
    assert len(holder._origin.unsaved) <= 4


def test_a_deletion_can_be_unsaved_as_well(repo):
    """A message removed while the storage failed is removed when it is back."""
    begin(repo, "one", "two")
    session = repo.load("s")
    session.remove_message(session.messages[0].id)
    keep(repo, session)
    assert texts(repo.load("s")) == texts(repo.load_merged("s")) == ["two"]
    repo.flush()
    assert texts(stored(repo.storage, "s")) == ["two"]


def test_an_older_copy_that_fails_does_not_move_the_cache_back(repo):
    """P3: what a newer committed copy says is still there when an older one is kept as unsaved beside it."""
    begin(repo, "one")
    older = repo.load("s")
    repo.update("s", lambda s: s.add_message(Message.user("two")))
    repo.set_title("s", "a title")
    older.add_message(Message.user("older"))
    keep(repo, older)
    assert texts(repo.load("s")) == ["one", "two", "older"]
    assert repo.load("s").title == "a title"
    repo.flush()
    assert texts(stored(repo.storage, "s")) == ["one", "two", "older"]


def test_a_newer_copy_that_fails_takes_the_cache_forward(repo, other):
    """A copy newer than the cached one (loaded elsewhere) is kept with all it has."""
    begin(repo, "one")
    other.update("s", lambda s: s.add_message(Message.user("two")))
    newer = repo.persistence.load("s")
    newer.add_message(Message.user("unsaved"))
    keep(repo, newer)
    assert texts(repo.load("s")) == ["one", "two", "unsaved"]


def test_a_first_save_that_fails_is_kept_and_stored(repo):
    """Nothing committed stands behind it; it is served, merged with nothing, and stored by flush."""
    session = Session.new("s", clock=repo._clock)
    session.add_message(Message.user("one"))
    keep(repo, session)
    assert texts(repo.load("s")) == texts(repo.load_merged("s")) == ["one"]
    repo.flush()
    assert texts(stored(repo.storage, "s")) == ["one"]


def test_a_first_save_that_fails_meets_one_that_does_not(repo, other):
    """Two workers create one id, one of them offline: both are in it in the end."""
    session = Session.new("s", clock=repo._clock)
    session.add_message(Message.user("offline"))
    keep(repo, session)
    begin(other, "online")
    assert texts(repo.load_merged("s")) == ["online", "offline"]
    repo.flush()
    assert texts(stored(repo.storage, "s")) == ["online", "offline"]


def test_unsaved_changes_of_a_session_deleted_here_go_with_it(repo):
    """P9: delete names the session, its unsaved copy included."""
    begin(repo, "one")
    unsaved(repo)
    repo.delete("s")
    assert repo.load("s") is None
    repo.flush()
    assert stored(repo.storage, "s") is None


@pytest.mark.parametrize("found", ["flush", "load_merged"])
def test_unsaved_changes_of_a_session_deleted_elsewhere_go_with_it(repo, other, found):
    """P9: found out by flush, which logs it and raises nothing, or by load_merged."""
    begin(repo, "one")
    unsaved(repo)
    other.delete("s")
    assert repo.flush() is None if found == "flush" else repo.load_merged("s") is None
    assert repo.load("s") is None
    assert repo.cache.unsaved_ids() == []
    assert stored(repo.storage, "s") is None


def test_a_question_asked_and_one_answered_offline(repo):
    """P4: both survive as unsaved changes and neither comes back nor gets lost when they are stored."""
    session = begin(repo, "one")
    session.set_pending_question(tool_call_id="old", question="?")
    repo.save(session)
    session = repo.load("s")
    session.answer("old", "yes")
    session.set_pending_question(tool_call_id="new", question="?")
    keep(repo, session)
    assert open_calls(repo.load_merged("s")) == ["new"]
    repo.set_pinned("s", True)
    assert open_calls(repo.load("s")) == ["new"]
    repo.flush()
    assert open_calls(stored(repo.storage, "s")) == ["new"]
    assert texts(stored(repo.storage, "s")) == ["one", "yes"]


# -- lives -------------------------------------------------------------------------------------------------------


def test_an_unsaved_copy_of_the_predecessor_does_not_leak_into_the_successor(repo):
    """P9: deleted, made anew, and then an old copy fails to be saved: the new session never gets what the old one said."""
    begin(repo, "old")
    old = repo.load("s")
    old.add_message(Message.user("more of the old"))
    repo.delete("s")
    begin(repo, "new")
    keep(repo, old, "read")
    repo.flush()
    assert texts(repo.load("s")) == texts(repo.load_merged("s")) == texts(stored(repo.storage, "s")) == ["new"]


def test_an_unsaved_copy_of_the_successor_does_not_mix_with_a_cached_predecessor(repo, other, clock):
    """P9: another process deleted the session and made it anew; this one still has the old copy cached."""
    begin(repo, "old")
    other.delete("s")
    begin(other, "new")
    new = bundle(repo.storage.inner, clock, cache=None).load("s")
    new.add_message(Message.user("unsaved"))
    keep(repo, new)
    repo.flush()
    assert texts(repo.load("s")) == texts(stored(repo.storage, "s")) == ["new", "unsaved"]


def test_a_publish_of_the_successor_ends_the_predecessors_unsaved_entry(repo, other):
    """P9: the entry belongs to a deleted session; a save of the new one through this repository replaces it."""
    begin(repo, "old")
    unsaved(repo)
    other.delete("s")
    begin(other, "new")
    new = repo.persistence.load("s")
    new.add_message(Message.user("two"))
    repo.persistence.save(new)
    assert texts(repo.load("s")) == ["new", "two"]
    assert repo.cache.unsaved_ids() == []


def test_a_cached_copy_of_the_predecessor_gives_way_to_a_commit_of_the_successor(repo, other, clock):
    """P9: also one that somebody changed and put into the cache with a later time."""
    begin(repo, "old")
    changed = repo.load("s")
    changed.add_message(Message.user("more"))
    clock.jump(hours=5)
    changed.updated_at = clock.now()
    repo.cache.insert("s", changed)
    clock.jump(hours=-5)
    other.delete("s")
    begin(other, "new")
    new = repo.persistence.load("s")
    new.add_message(Message.user("two"))
    repo.persistence.save(new)
    assert texts(repo.load("s")) == ["new", "two"]


# -- unknown outcomes of unsaved copies --------------------------------------------------------------------------


def kept_though_applied(repo):
    """A copy that was stored, and is kept as unsaved since nobody said so."""
    session = repo.load("s")
    session.add_message(Message.user("applied"))
    session.set_pending_question(tool_call_id="call-1", question="?")
    keep(repo, session, "was committed", applied_but_unknown)
    return session


def undo(session):
    """Somebody who saw it takes the message out and answers the question."""
    session.remove_message(session.messages[-1].id)
    session.answer("call-1", "answered", append_result=False)


@pytest.mark.parametrize("seen_by", ["publish", "load_merged", "flush"])
def test_what_was_applied_and_then_undone_stays_undone(repo, other, seen_by):
    """P2, P4: the unsaved entry was stored after all and undone since, by this process or another one."""
    begin(repo, "one")
    kept_though_applied(repo)
    if seen_by == "publish":
        session = repo.persistence.load("s")
        undo(session)
        repo.persistence.save(session)
    else:
        other.update("s", undo)
    if seen_by == "load_merged":
        assert texts(repo.load_merged("s")) == ["one"]
    repo.flush()
    for session in (repo.load("s"), repo.load_merged("s"), stored(repo.storage, "s")):
        assert (texts(session), open_calls(session)) == (["one"], [])


@pytest.mark.parametrize("applied", [True, False])
def test_a_flush_of_unknown_outcome_is_remembered(repo, other, applied):
    """The entry learns what was tried in its name: applied and undone elsewhere, the next flush does not redo it."""
    begin(repo, "one")
    session = repo.load("s")
    session.add_message(Message.user("applied"))
    keep(repo, session)
    repo.storage.at("was committed" if applied else "commit", failing("unknown"))
    with pytest.raises(Exception, match="unknown"):
        repo.flush()
    if applied:
        other.update("s", lambda s: s.remove_message(s.messages[-1].id))
    repo.flush()
    assert texts(stored(repo.storage, "s")) == texts(repo.load("s")) == (["one"] if applied else ["one", "applied"])


def test_an_old_attempt_kept_beside_a_newer_cached_copy(repo):
    """Applied, undone and cached since; then the object fails to be saved once more: what was undone stays undone."""
    begin(repo, "one")
    session = repo.load("s")
    session.add_message(Message.user("applied"))
    repo.storage.at("was committed", applied_but_unknown)
    with pytest.raises(Exception, match="unknown"):
        repo.save(session)
    repo.update("s", lambda s: s.remove_message(s.messages[-1].id))
    session.add_message(Message.user("more"))
    keep(repo, session, "read")
    assert texts(repo.load("s")) == ["one", "more"]
    repo.flush()
    assert texts(stored(repo.storage, "s")) == ["one", "more"]


def test_a_lost_answer_moves_no_message(repo, other):
    """A copy of what the cache keeps, and more than that, on another's newer state; stored, and nobody said so. What the copy was
    when it was tried and what the cache makes of it must not disagree on an order that nobody asked for."""
    begin(repo, "one", "two", "three", "four")
    for word in ("kept", "kept too"):
        unsaved(repo, word)
    copy = repo.load("s")
    copy.messages = [Message.system("summary"), *copy.messages[-4:]]
    other.update("s", lambda s: s.replace_messages([s.messages[0], Message.system("theirs"), Message.user("five")]))
    repo.load_merged("s")
    other.update("s", lambda s: s.add_message(Message.user("six")))
    keep(repo, copy, "was committed", applied_but_unknown)
    order = ["theirs", "five", "six", "summary", "kept", "kept too"]
    assert texts(stored(repo.storage, "s")) == order
    again = repo.load("s")
    again.add_message(Message.user("eight"))
    other.update("s", lambda s: s.add_message(Message.user("seven")))
    repo.save(again)
    assert texts(stored(repo.storage, "s")) == [*order, "seven", "eight"]


def test_an_attempted_first_save_is_not_mixed_with_a_cached_successor(repo, other):
    """P9: applied, deleted and made anew elsewhere, the new one cached here; then the object fails to be saved again."""
    session = Session.new("s", clock=repo._clock)
    session.add_message(Message.user("old"))
    repo.storage.at("was committed", applied_but_unknown)
    with pytest.raises(Exception, match="unknown"):
        repo.save(session)
    other.delete("s")
    begin(other, "new")
    repo.cache.invalidate("s")
    assert texts(repo.load("s")) == ["new"]
    keep(repo, session, "read")
    repo.flush()
    assert texts(repo.load("s")) == texts(stored(repo.storage, "s")) == ["new"]


@pytest.mark.parametrize("seen_by", ["publish", "load_merged", "flush"])
def test_an_attempted_first_save_does_not_leak_into_the_successor(repo, other, seen_by):
    """P9: a first save was applied, deleted and made anew elsewhere: the unsaved entry belongs to the deleted one."""
    session = Session.new("s", clock=repo._clock)
    session.add_message(Message.user("old"))
    keep(repo, session, "was committed", applied_but_unknown)
    other.delete("s")
    begin(other, "new")
    if seen_by == "publish":
        new = repo.persistence.load("s")
        new.add_message(Message.user("two"))
        repo.persistence.save(new)
    if seen_by == "load_merged":
        assert texts(repo.load_merged("s")) == ["new"]
    repo.flush()
    expected = ["new", "two"] if seen_by == "publish" else ["new"]
    assert texts(repo.load_merged("s")) == texts(stored(repo.storage, "s")) == expected
    assert repo.cache.unsaved_ids() == []
