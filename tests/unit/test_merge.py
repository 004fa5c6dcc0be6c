"""The merge of heads, rule by rule: the table of the design, line by line."""

from __future__ import annotations

import attrs
import pytest

from bamboo_sessions.merge import merge
from bamboo_sessions.models import Head, MergeRule, Messages, Session, State
from bamboo_sessions.models.state import fields_with


def three(setup=lambda s: None):
    """A base and two copies of it."""
    base = Session.new("s")
    setup(base)
    return base, base.snapshot(), base.snapshot()


def merged(base, mine, theirs):
    return merge(None if base is None else base._state(), mine._state(), theirs._state())


def plain(made):
    return Session._of(made.state, None).to_dict()


def conflicts(made):
    return [(c.field, c.what, c.kept) for c in made.conflicts]


def test_every_field_names_a_rule():
    """A new field cannot be added without choosing one."""
    assert all(isinstance(field.metadata.get("merge"), MergeRule) for field in (*attrs.fields(Head), attrs.fields(State).messages))
    assert fields_with(MergeRule.FIXED) == ("id", "birth", "created_at")


# -- what people edit --------------------------------------------------------------------------------------------


def test_P5_edits_of_different_fields_all_stand():
    """Field by field: who pinned does not undo who renamed, whatever the versions say."""
    base, mine, theirs = three()
    mine.pinned = True
    theirs.title, theirs.archived, theirs.tags = "T", True, {"x"}
    for made in (merged(base, mine, theirs), merged(base, theirs, mine)):
        assert (made.state.head.title, made.state.head.pinned, made.state.head.archived, made.state.head.tags) == (
            "T", True, True, {"x"})
        assert made.conflicts == ()


@pytest.mark.parametrize(("mine_edits", "theirs_edits", "kept"), [(2, 1, "mine"), (1, 2, "theirs"), (1, 1, "theirs")])
def test_the_same_field_goes_to_the_higher_version_theirs_on_a_tie(mine_edits, theirs_edits, kept):
    """And is reported."""
    base, mine, theirs = three()
    for side, edits in ((mine, mine_edits), (theirs, theirs_edits)):
        for i in range(edits):
            side.title = f"{'mine' if side is mine else 'theirs'}{i if i < edits - 1 else ''}"
    made = merged(base, mine, theirs)
    assert made.state.head.title == kept
    assert conflicts(made) == [("title", "", kept)]
    assert made.state.head.metadata_version == max(mine_edits, theirs_edits)


@pytest.mark.parametrize("generated_by", ["mine", "theirs"])
@pytest.mark.parametrize("with_base", [True, False])
def test_P5_a_persons_title_beats_a_generated_one_before_any_version_is_looked_at(generated_by, with_base):
    """On either side, also without a base."""
    base, mine, theirs = three()
    machine, person = (mine, theirs) if generated_by == "mine" else (theirs, mine)
    for i in range(5):
        machine.set_title(f"made {i}", source="generated")
        machine.pinned = not machine.pinned
    person.title = "given"
    made = merged(base if with_base else None, mine, theirs)
    assert (made.state.head.title, made.state.head.title_source) == ("given", "user")
    assert made.state.head.title_version == 5


def test_a_title_that_a_person_took_away_makes_room_for_a_generated_one():
    """With nobody else at work the result is mine exactly."""
    base, mine, _ = three(lambda s: s.set_title("given"))
    mine.title = None
    mine.set_title("made", source="generated")
    theirs = Session._of(State(attrs.evolve(base._state().head, model="m"), Messages.of(())), None)
    for other, model in ((base, None), (theirs, "m")):
        made = merged(base, mine, other)
        assert (made.state.head.title, made.state.head.title_source, made.state.head.model) == ("made", "generated", model)


def test_tags_merge_as_a_set():
    """Additions and removals of both; no conflict between them."""
    base, mine, theirs = three(lambda s: setattr(s, "tags", {"a", "b", "c"}))
    mine.tags = {"a", "c", "mine"}
    theirs.tags = {"b", "c", "theirs"}
    made = merged(base, mine, theirs)
    assert made.state.head.tags == {"c", "mine", "theirs"}
    assert made.conflicts == ()


@pytest.mark.parametrize(("mine_edits", "theirs_edits", "kept"), [(3, 2, "mine"), (2, 3, "theirs"), (2, 2, "theirs"), (0, 2, "theirs")])
def test_without_a_base_the_group_goes_as_a_whole_to_the_higher_version(mine_edits, theirs_edits, kept):
    """The ancestor's rule: nobody can tell an edit from an older value."""
    mine, theirs = Session.new("s"), Session.new("s")
    for side, edits, tag in ((mine, mine_edits, "mine"), (theirs, theirs_edits, "theirs")):
        for i in range(edits):
            side.tags = {tag, str(i)} if i < edits - 1 else {tag}
    made = merged(None, mine, theirs)
    assert made.state.head.tags == {kept}
    assert bool(made.conflicts) == (0 not in (mine_edits, theirs_edits))


def test_P5_a_runtime_that_generates_titles_does_not_outvote_a_person_without_a_base():
    """A generated title raises no version: the pin stays."""
    mine, theirs = Session.new("s"), Session.new("s")
    for i in range(5):
        mine.set_title(f"made {i}", source="generated")
    theirs.pinned = True
    assert merged(None, mine, theirs).state.head.pinned is True


# -- plain fields, keys, times -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model", "provider", "external_id", "context_id", "parent_id"])
def test_a_plain_field_goes_to_who_changed_it(name):
    """Both: mine, the later commit, reported. Taking away is a change like any other."""
    for was, ours, other, expected, both in (
        ("a", "a", "b", "b", False), ("a", "b", "a", "b", False), ("a", "b", "b", "b", False), ("a", "b", "c", "b", True),
        ("a", None, "a", None, False), ("a", "a", None, None, False), ("a", None, "b", None, True), (None, "a", None, "a", False),
    ):
        base, mine, theirs = three(lambda s, was=was: setattr(s, name, was))
        setattr(mine, name, ours)
        setattr(theirs, name, other)
        made = merged(base, mine, theirs)
        assert getattr(made.state.head, name) == expected
        assert conflicts(made) == ([(name, "", "mine")] if both else [])


def test_metadata_and_unknown_fields_merge_key_by_key():
    """Set, changed, removed on either side; both changed one key: mine, reported."""
    def setup(s):
        s.metadata.update(same=1, mine=1, theirs=1, both=1, gone_mine=1, gone_theirs=1, fight=1)

    base, mine, theirs = three(setup)
    for side, other, word in ((mine, "theirs", "mine"), (theirs, "mine", "theirs")):
        side.metadata[word] = word
        side.metadata["both"] = [2]
        del side.metadata[f"gone_{word}"]
        side.metadata[f"new_{word}"] = {"a": other}
    mine.metadata["fight"] = True
    del theirs.metadata["fight"]
    made = merged(base, mine, theirs)
    assert plain(made)["metadata"] == {
        "same": 1, "mine": "mine", "theirs": "theirs", "both": [2], "new_mine": {"a": "theirs"}, "new_theirs": {"a": "mine"},
        "fight": True}
    assert conflicts(made) == [("metadata", "fight", "mine")]


def test_P2_a_change_that_python_calls_equal_is_not_lost():
    """1 to True, on one side, while the other side changes something else."""
    base, mine, theirs = three(lambda s: s.metadata.update(k=1))
    mine.metadata["k"] = True
    theirs.model = "m"
    assert plain(merged(base, mine, theirs))["metadata"]["k"] is True
    assert plain(merged(base, theirs, mine))["metadata"]["k"] is True


def test_P13_unknown_fields_of_both_sides_survive():
    """In the session and in a question, also where neither side looked at them."""
    stored = {"id": "s", "birth": "b", "old": 1, "extra": {"x": 1},
              "questions": [{"tool_call_id": "x", "token": "t", "question": "?", "urgency": 3}]}
    base = Session.from_dict(stored)
    mine, theirs = base.snapshot(), Session.from_dict({**base.to_dict(), "new": [2]})
    mine.model = "m"
    mine.set_pending_question("x", "new?")
    made = plain(merged(base, mine, theirs))
    assert (made["old"], made["extra"], made["new"], made["model"]) == (1, {"x": 1}, [2], "m")
    assert (made["questions"][0]["urgency"], made["questions"][0]["question"]) == (3, "new?")


def test_what_is_fixed_or_counted_is_what_storage_holds():
    """Two workers that both created one id merge into the one that was saved first."""
    mine, theirs = Session.new("s"), Session._of(State(attrs.evolve(Session.new("s")._state().head, revision=7), Messages.of(())), None)
    made = merged(None, mine, theirs)
    assert (made.state.head.birth, made.state.head.created_at, made.state.head.revision) == (theirs.birth, theirs.created_at, 7)


def test_the_later_time_is_kept():
    """Where both moved it; where one did, that one's."""
    base, mine, theirs = three()
    mine.model, theirs.provider = "m", "p"
    for made in (merged(base, mine, theirs), merged(base, theirs, mine)):
        assert made.state.head.updated_at == max(mine.updated_at, theirs.updated_at)


def test_what_was_adopted_is_named():
    """Fields in which the result is not what I had; not those that only count."""
    base, mine, theirs = three()
    mine.model = "m"
    theirs.provider, theirs.title = "p", "t"
    theirs.metadata["k"] = 1
    theirs.add_message({"role": "user", "content": "x"})
    made = merged(base, mine, theirs)
    assert set(made.adopted(mine._state())) == {"provider", "title", "title_source", "metadata", "messages"}
    assert merged(base, mine, base).adopted(mine._state()) == ()


# -- questions ---------------------------------------------------------------------------------------------------


def ask(session, call_id="x", text="?"):
    return session.set_pending_question(call_id, text).token


def open_tokens(made):
    return [q.token for q in made.state.head.questions]


def test_P4_a_question_that_the_other_side_never_saw_stays_open():
    """Additions of both stay."""
    base, mine, theirs = three(lambda s: ask(s, "old"))
    a, b = ask(mine, "a"), ask(theirs, "b")
    assert open_tokens(merged(base, mine, theirs)) == [base.pending_question.token, b, a]


@pytest.mark.parametrize("swap", [False, True])
def test_P4_what_either_side_closed_stays_closed(swap):
    """Also where the other one changed its text meanwhile, and in every later merge of an older copy."""
    base, mine, theirs = three(lambda s: ask(s))
    mine.clear_pending_question("x")
    theirs.set_pending_question("x", "better?")
    made = merged(base, theirs, mine) if swap else merged(base, mine, theirs)
    assert open_tokens(made) == []
    assert made.state.head.closed_questions == (base.pending_question.token,)
    late = merge(None, base._state(), made.state)
    assert open_tokens(late) == []
    assert open_tokens(merge(None, made.state, base._state())) == []


def test_asking_again_under_the_same_id_is_a_new_question():
    """Closed and asked again on one side: the old one is closed, the new one open, whatever the other side does."""
    base, mine, theirs = three(lambda s: ask(s))
    mine.clear_pending_question("x")
    again = ask(mine)
    theirs.set_pending_question("x", "better?")
    for made in (merged(base, mine, theirs), merged(base, theirs, mine)):
        assert open_tokens(made) == [again]


def test_two_opened_at_once_under_one_id_become_one():
    """Theirs, reported; the other token is closed, so that no late merge brings it back."""
    base, mine, theirs = three()
    dropped, kept = ask(mine), ask(theirs)
    made = merged(base, mine, theirs)
    assert open_tokens(made) == [kept]
    assert made.state.head.closed_questions == (dropped,)
    assert conflicts(made) == [("questions", "x", "theirs")]
    assert open_tokens(merge(None, mine._state(), made.state)) == [kept]
    answered = Session._of(made.state, None)
    answered.clear_pending_question("x")
    assert open_tokens(merge(base._state(), mine._state(), answered._state())) == []


def test_both_answered_and_asked_again_at_once():
    """The first asking is closed, the two new ones become one."""
    base, mine, theirs = three(lambda s: ask(s))
    for side in (mine, theirs):
        side.clear_pending_question()
    ask(mine)
    kept = ask(theirs)
    assert open_tokens(merged(base, mine, theirs)) == [kept]


def test_both_changed_the_text():
    """The later commit, reported."""
    base, mine, theirs = three(lambda s: ask(s))
    mine.set_pending_question("x", "mine?")
    theirs.set_pending_question("x", "theirs?")
    made = merged(base, mine, theirs)
    assert [q.question for q in made.state.head.questions] == ["mine?"]
    assert conflicts(made) == [("questions", "x", "mine")]


def closing(session, count, prefix):
    tokens = []
    for i in range(count):
        tokens.append(ask(session, f"{prefix}{i}"))
        session.clear_pending_question(f"{prefix}{i}")
    return tokens


def test_an_old_copy_does_not_push_newer_closed_tokens_out():
    """256 are kept, the newest; a copy from before brings its own old ones back at nobody's cost."""
    base, mine, theirs = three(lambda s: closing(s, 256, "old"))
    mine.model = "m"
    newer = closing(theirs, 256, "new")
    assert list(merged(base, mine, theirs).state.head.closed_questions) == newer
    assert list(merged(None, mine, theirs).state.head.closed_questions) == newer


def test_P4_a_question_closed_so_long_ago_that_its_token_is_forgotten_does_not_open_again():
    """The base says that it was open once and is gone."""
    base, mine, theirs = three(lambda s: ask(s))
    theirs.clear_pending_question("x")
    closing(theirs, 300, "later")
    mine.set_pending_question("x", "better?")
    assert open_tokens(merged(base, mine, theirs)) == []
    assert open_tokens(merged(base, theirs, mine)) == []


def test_closed_tokens_with_the_list_full_still_obey_the_laws():
    """base = mine gives theirs exactly; what I closed since the base is in, whatever had to go for it."""
    base, mine, theirs = three(lambda s: closing(s, 256, "old"))
    new_theirs, new_mine = closing(theirs, 3, "theirs"), closing(mine, 2, "mine")
    old = list(base.to_dict()["closed_questions"])
    assert list(merged(base, base.snapshot(), theirs).state.head.closed_questions) == [*old[3:], *new_theirs]
    made = merged(base, mine, theirs).state
    assert list(made.head.closed_questions) == [*old[5:], *new_theirs, *new_mine]
    assert merge(base._state(), mine._state(), made).state.head.closed_questions == made.head.closed_questions


def test_without_a_base_what_closes_an_open_question_is_always_kept():
    """Also where the list is full: the question must not come back at the next merge."""
    theirs = Session.new("s")
    closing(theirs, 256, "theirs")
    token = ask(theirs)
    mine = theirs.snapshot()
    mine.clear_pending_question("x")
    closing(mine, 5, "mine")
    made = merged(None, mine, theirs).state
    assert token in made.head.closed_questions
    assert len(made.head.closed_questions) == 256
    assert made.head.questions == ()
    assert merge(None, mine._state(), made).state.head.closed_questions == made.head.closed_questions


def test_the_oldest_open_question_stays_the_first():
    """Saving from an older copy puts nobody's question in front of one that was there before."""
    base, mine, theirs = three(lambda s: [ask(s, "a"), ask(s, "b")])
    mine.clear_pending_question("a")
    ask(mine, "c")
    ask(theirs, "d")
    made = merged(base, mine, theirs)
    assert [q.tool_call_id for q in made.state.head.questions] == ["b", "d", "c"]
