"""What looks like an anomaly and is none: each was one finding in some hundred thousand operations, told here by hand.

All of it is about what nobody saw (a revision, an answer, the end of an operation): what is not known explains more than
one thing, and the judge must not take the likely one for the only one.
"""

from __future__ import annotations

from tests.histories.history import history_of
from tests.histories.judge import judge
from tests.histories.test_judge import begun, state


def test_an_edit_of_what_a_try_brought_along_is_an_edit():
    """A save proved applied and gave the copy what others had said; its holder edits that while somebody removes it."""
    log, a, b = begun()
    seen = log.save(a, state(1, "a.1m", "a.2m", "a.4m"), state(2, "a.1m", "a.2m", "a.4m"))
    tries = [log.save(b, state(1, "a.1m", "a.2m", "b.3m"), None, outcome="unknown", by="b", changed=None) for _ in range(2)]
    log.op("load_merged", state(3, "a.1m", "a.2m", "a.4m", "b.3m"), by="c")
    log.save(seen, state(2, "a.1m", "a.2m"), state(4, "a.1m", "a.2m", "b.3m"))
    log.save(b, state(1, "a.1m", "a.2m", "a.4m:2", "b.3m"), state(5, "a.1m", "a.2m", "a.4m:2", "b.3m"), by="b", tried=tries)
    assert judge(history_of(log.records)).anomalies == []


def test_what_an_unsaved_edit_stood_on_may_have_been_seen_by_nobody():
    """A cache keeps an edit of a message, on a revision that nobody saw without it; its holder removes that message."""
    log, a, b = begun()
    log.op("save_and_cache", base=a, mine=state(1, "a.1m", "a.2m:2"), outcome="kept")
    log.save(b, state(1, "a.1m", "a.2m", "b.3m"), None, outcome="killed", by="b")
    dirty = log.op("load_merged", state(2, "a.1m", "a.2m:2", "b.3m"))
    log.save(b, state(1, "a.1m", "a.2m", "c.4m"), state(3, "a.1m", "a.2m", "b.3m", "c.4m"), by="c")
    log.save(dirty, state(2, "a.1m", "b.3m"), state(4, "a.1m", "b.3m", "c.4m"))
    assert judge(history_of(log.records)).anomalies == []


def test_what_a_copy_learned_while_a_save_of_it_failed_is_its_past():
    """What a cache had kept was stored after all, beside somebody's message: a save that failed for itself found both. That
    message is removed, and the copy, which has it, is saved."""
    log, a, b = begun()
    log.op("save_and_cache", base=a, mine=state(1, "a.1m", "a.2m", "a.3m"), outcome="kept")
    dirty = log.op("load", state(1, "a.1m", "a.2m", "a.3m"))
    log.save(b, state(1, "a.1m", "a.2m", "b.9m"), state(2, "a.1m", "a.2m", "b.9m"), by="b")
    seen = log.op("load_merged", state(3, "a.1m", "a.2m", "b.9m", "a.3m"), by="c")
    log.save(dirty, state(1, "a.1m", "a.2m", "a.3m", "a.4m"), None, outcome="error", changed=None)
    log.save(seen, state(3, "a.1m", "a.2m", "a.3m"), state(4, "a.1m", "a.2m", "a.3m"), by="c")
    log.save(dirty, state(3, "a.1m", "a.2m", "b.9m", "a.3m", "a.4m"), state(5, "a.1m", "a.2m", "a.3m", "a.4m"))
    assert judge(history_of(log.records)).anomalies == []


def test_what_went_and_came_back_unseen_may_stand_elsewhere():
    """Two revisions that nobody saw: one removed a message that a cache keeps, the other stored what the cache keeps."""
    log, a, _ = begun()
    log.op("save_and_cache", base=a, mine=state(1, "a.3m", "a.1m", "a.2m"), outcome="kept")
    seen = log.op("load_merged", state(2, "a.3m", "a.1m", "a.2m"), by="b")
    log.save(seen, state(2, "a.1m", "a.2m"), None, outcome="killed", by="b")
    log.op("load_merged", state(4, "a.1m", "a.2m", "a.3m"), by="c")
    assert judge(history_of(log.records)).anomalies == []


def test_a_copy_without_a_past_may_bring_back_what_nobody_saw_go():
    """It is a copy of an older life: what of it was removed meanwhile comes with its block, at the end."""
    log, _, b = begun()
    log.save(b, state(1, "a.2m"), None, outcome="killed", by="b")
    log.save(None, state(0, "c.3m", "a.1m", "c.4m", birth="B0"), state(3, "a.2m", "c.3m", "a.1m", "c.4m"), by="c")
    assert judge(history_of(log.records)).anomalies == []


def test_a_title_that_a_later_life_has_from_an_earlier_one_was_given_in_the_earlier():
    """`set_title` tells its revision and not its session's birth; another operation is known to have made that of the other."""
    log = begun()[0]
    log.op("title", by="b", value=["mine", "user"], rev=2, changed=True)
    log.op("delete", by="b")
    log.save(None, state(0, "c.3m", birth="B2"), state(1, "c.3m", birth="B2"), by="c")
    log.save(None, state(0, "a.1m", "a.2m", birth="B3", title="mine", source="user", version=1),
             state(2, "c.3m", "a.1m", "a.2m", birth="B2", title="mine", source="user", version=1), by="a")
    assert judge(history_of(log.records)).anomalies == []


def test_of_two_lives_that_began_at_once_the_one_that_was_deleted_came_first():
    """It was known later: whoever had made it was told so after the other life had begun."""
    log = begun()[0]
    log.op("delete", by="b")
    name = log.save(None, state(0, "a.3m", birth="B2"), state(1, "a.3m", birth="B2"))
    log.op("delete", by="b")
    log.save(None, state(0, "c.4m", birth="B3"), state(1, "c.4m", birth="B3"), by="c")
    end = next(record for record in log.records if record.get("e") == name)
    end["t1"] = log.tick()
    log.op("load_merged", state(1, "c.4m", birth="B3"), by="b")
    assert judge(history_of(log.records)).anomalies == []


def test_what_the_maker_brought_is_no_half_of_somebody_elses_save():
    """Two words of one session were saved by nobody knows whom; a copy that had the first one only is saved."""
    log, a, b = begun()
    log.save(b, state(1, "a.1m", "a.2m", "b.3m", "b.4m"), None, outcome="killed", by="b")
    log.save(a, state(1, "a.1m", "a.2m", "b.3m", "a.5m"), state(3, "a.1m", "a.2m", "b.3m", "a.5m"))
    assert "half of a save was stored" not in log.found()


def test_whose_tags_stand_where_there_is_no_common_past_is_one_question():
    """The copy was edited more often, so all its tags stand, and that it has fewer is meant. Its holder was killed."""
    log = begun(tags=["red"], version=1)[0]
    log.save(None, state(0, "b.3m", birth="B0", tags=["blue"], version=3), None, outcome="killed", by="b")
    log.op("load_merged", state(2, "a.1m", "a.2m", "b.3m", tags=["blue"], version=3), by="c")
    assert judge(history_of(log.records)).anomalies == []


def a_block_in_two_places(kept):
    """Two messages that a cache kept stand apart when they are stored, by nobody knows whom; `kept` is what it kept later, of
    a copy that it had shown. What the judge says of that."""
    log, a, _ = begun()
    log.op("save_and_cache", base=a, mine=state(1, "a.1m", "a.2m", "a.3m", "a.4m"), outcome="kept")
    dirty = log.op("load", state(1, "a.1m", "a.2m", "a.3m", "a.4m"))
    log.op("save_and_cache", base=dirty, mine=kept, outcome="kept")
    seen = log.op("load_merged", state(1, "a.1m", "a.2m"), by="b")
    log.save(seen, state(1, "a.1m", "a.2m", "b.5m"), state(2, "a.1m", "a.2m", "b.5m"), by="b")
    log.op("load_merged", state(4, "a.1m", "a.2m", "a.3m", "b.5m", "a.4m"), by="c")
    return log.found()


def test_a_block_whose_end_was_taken_out_of_what_a_cache_kept_may_stand_in_two_places():
    """A third holder, who had that message from the cache, brings it back, and then it goes to the end."""
    assert a_block_in_two_places(state(1, "a.1m", "a.2m", "a.3m")) == set()


def test_a_block_that_was_kept_whole_stands_in_one_place():
    assert a_block_in_two_places(state(1, "a.1m", "a.2m", "a.3m", "a.4m", "a.6m")) == {"a block was torn"}


def a_life_between_two_deletions(look):
    """It was saved by somebody who was killed, and is seen when the second deletion is over; then it is gone. What the judge
    says of that, where that `look` saw it."""
    log = begun()[0]
    log.op("delete", by="b")
    log.save(None, state(0, "b.3m", birth="B2"), None, outcome="killed", by="b")
    log.op("delete", by="c")
    log.op(look, state(1, "b.3m", birth="B2"))
    log.op("load", None)
    return log.found()


def test_what_only_a_cache_shows_may_have_been_deleted_before():
    assert a_life_between_two_deletions("load") == set()


def test_what_the_storage_shows_was_not_deleted_before():
    assert a_life_between_two_deletions("load_merged") == {"a session is gone and nobody deleted it"}


def a_title_filled_in_unseen(kept):
    """A person's title, then a revision that nobody saw, perhaps with what a cache `kept`, then a generated title. What the judge
    says of that."""
    mine = {"title": "mine", "source": "user", "version": 1}
    log, a, b = begun(**mine)
    log.op("save_and_cache", base=a, mine=kept, outcome="kept")
    log.op("title", value=["made up", "generated"], rev=3, changed=True)
    log.save(b, state(1, "a.1m", "a.2m", "b.3m", **mine),
             state(4, "a.1m", "a.2m", "b.3m", title="made up", source="generated", version=kept[5]), by="b")
    return log.found()


def test_a_generated_title_may_fill_the_place_that_a_person_made_empty_unseen():
    """He took his own title away, in a copy that a cache kept, and nobody saw the revision in which that was stored."""
    assert a_title_filled_in_unseen(state(1, "a.1m", "a.2m", version=2)) == set()


def test_a_generated_title_may_not_take_the_place_of_a_persons():
    kept = state(1, "a.1m", "a.2m", "a.3m", title="mine", source="user", version=1)
    assert "a generated title stands where a person gave one" in a_title_filled_in_unseen(kept)


def a_title_that_is_not_stored(outcome):
    """Work, and how it ended; it is stored by nobody knows whom on a generated title, which a person takes away. A copy from before
    is given another one. What the judge says where that is not stored."""
    log, a, _ = begun()
    log.op("save_and_cache", base=a, mine=state(1, "a.1m", "a.2m", "a.3m"), outcome=outcome)
    dirty = log.op("load", state(1, "a.1m", "a.2m", "a.3m"))
    log.op("title", by="b", value=["made up", "generated"], rev=2, changed=True)
    seen = log.op("load_merged", state(3, "a.1m", "a.2m", "a.3m", title="made up", source="generated"), by="c")
    log.save(seen, state(3, "a.1m", "a.2m", "a.3m", version=2), state(4, "a.1m", "a.2m", "a.3m", version=2), by="c")
    log.save(dirty, state(1, "a.1m", "a.2m", "a.3m", title="other", source="generated", version=1),
             state(5, "a.1m", "a.2m", "a.3m", version=2))
    return log.found()


def test_who_has_kept_work_stands_on_the_commit_that_has_it():
    """There his title is another than the one that was given, and the person who took that away has edited more often."""
    assert a_title_that_is_not_stored("kept") == set()


def test_who_has_no_kept_work_stands_on_what_he_was_given():
    assert a_title_that_is_not_stored("killed") == {"a title was lost"}
