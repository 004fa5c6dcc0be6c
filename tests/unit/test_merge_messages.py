"""The merge of messages: who stands where, written as words so that a case reads as the conversation it is about.

`c:x` is a message that calls tool x (`c:x+y` two of them), `r:x` a result of it, anything else a word somebody said.
Ids are the words themselves, followed by `#n` where one word comes several times; `=` behind an id edits it.
"""

from __future__ import annotations

import pytest

from bamboo_sessions.merge_messages import in_one_order, merge_messages, ordered_as
from bamboo_sessions.models import Message, Messages


def message(word):
    word, _, edited = word.partition("=")
    kind, _, calls = word.partition("#")[0].partition(":")
    if calls and kind == "c":
        return Message.assistant(tool_calls=[{"id": c, "function": {"name": "f", "arguments": "{}"}} for c in calls.split("+")],
                                 id=word)
    return Message.tool_result(calls, edited or "done", id=word) if calls else Message.user(edited or kind, id=word)


def messages(text):
    return Messages.of([message(word) for word in text.split()])


def merged(base, mine, theirs):
    """(the merged conversation, what was reported)"""
    notes = []
    made = merge_messages(None if base is None else messages(base), messages(mine), messages(theirs),
                          lambda field, what, rule, kept: notes.append((what, kept)))
    words = [m.id if m.content in (None, "done", m.id.partition("#")[0]) else f"{m.id}={m.content}" for m in made]
    again = merge_messages(None if base is None else messages(base), messages(mine), made, lambda *_: None)
    assert [m.line for m in again] == [m.line for m in made], "merging again changed something"
    return " ".join(words), notes


CASES = {
    # additions
    "both append: theirs first, mine as one block": ("a", "a m1 m2", "a t1 t2", "a t1 t2 m1 m2"),
    "from nothing": ("", "m", "t", "t m"),
    "one side only": ("a b", "a b m", "a b", "a b m"),
    "mine in the middle": ("a b", "a m b", "a b t", "a m b t"),
    "mine in front": ("a b", "m a b", "a b t", "m a b t"),
    "mine in the middle and at the end": ("a b", "a m1 b m2", "a b t", "a m1 b t m2"),
    "both in one gap: mine right behind its predecessor": ("a b", "a m b", "a t b", "a m t b"),
    "both put in the same message": ("a b", "a b x", "a b x t", "a b x t"),
    "mine in front of one that both have as new": ("a", "a m x", "a x", "a m x"),
    "and behind it": ("a", "a m x n", "a x t", "a m x t n"),
    # deletions
    "mine removed": ("a b c", "a c", "a b c t", "a c t"),
    "theirs removed": ("a b c", "a b c m", "a c", "a c m"),
    "both removed the same": ("a b c", "a c", "a c t", "a c t"),
    "the predecessor is gone: the nearest surviving one": ("a b c", "a b m c", "a c", "a m c"),
    "no predecessor survives: to the front": ("a b c", "a m b c", "b c t", "m b c t"),
    "all removed, added": ("a b", "m", "a b t", "t m"),
    "a summary in the place of the front": ("a b c d", "S c d", "a b c d t", "S c d t"),
    "removed at the end while the other appended": ("a b", "a", "a b t", "a t"),
    # edits
    "edits of different messages": ("a b c", "a=1 b c", "a b c=2", "a=1 b c=2"),
    "both the same edit": ("a b", "a=1 b", "a=1 b t", "a=1 b t"),
    # tool results
    "a result goes behind its call": ("u c:x", "u c:x r:x", "u c:x t", "u c:x r:x t"),
    "behind that call's other results": ("c:x+y", "c:x+y r:y m", "c:x+y r:x t", "c:x+y r:x r:y t m"),
    "a result and what follows it": ("c:x", "c:x r:x m", "c:x t", "c:x r:x t m"),
    "two results of one block": ("c:x+y", "c:x+y r:x r:y", "c:x+y t", "c:x+y r:x r:y t"),
    "the call in the common front, with a result": ("c:x+y r:x", "c:x+y r:x r:y", "c:x+y r:x t", "c:x+y r:x r:y t"),
    "both answered in the middle": ("c:x+y b", "c:x+y r:y b", "c:x+y r:x b", "c:x+y r:x r:y b"),
    "a word of mine never parts their result from its call": ("c:x b", "c:x m b", "c:x r:x b", "c:x r:x m b"),
    "also where the call is in the common front": ("a c:x b", "a c:x m b=1", "a c:x r:x b", "a c:x r:x m b=1"),
    "a call of my own stays with its result": ("a", "a c:x r:x", "a t", "a t c:x r:x"),
    "a repeated call id means the nearest call in front": (
        "c:x", "c:x r:x", "c:x r:x#2 t c:x#2", "c:x r:x#2 r:x t c:x#2"),
    "a repeated call id behind a difference": ("u c:x", "u=1 c:x r:x", "u c:x t c:x#2", "u=1 c:x r:x t c:x#2"),
    "a repeated call id, my own call": ("c:x r:x", "c:x r:x c:x#2 r:x#2", "c:x r:x t", "c:x r:x t c:x#2 r:x#2"),
    "a result without a call is a word": ("a", "a r:z", "a t", "a t r:z"),
    "a result whose call only they have": ("a", "a r:z", "a c:z t", "a c:z r:z t"),
    "the call was removed": ("a c:x", "a c:x r:x", "a t", "a t r:x"),
    # orders
    "mine alone re-ordered": ("a b c", "c a b", "a b c t", "c a b t"),
    "theirs alone re-ordered": ("a b c", "a b c m", "c a b", "c a b m"),
    "mine re-ordered, theirs removed": ("a b c", "c b a", "a c", "c a"),
    "both the same order": ("a b c", "c b a m", "c b a", "c b a m"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_where_messages_stand(case):
    """Each case without a conflict; a second merge changes nothing."""
    base, mine, theirs, expected = case
    assert merged(base, mine, theirs) == (expected, [])


CONFLICTS = {
    "both edited: mine": ("a b", "a=1 b", "a=2 b", "a=1 b", [("a", "mine")]),
    "edited here, removed there": ("a b c", "a b=1 c", "a c t", "a b=1 c t", [("b", "mine")]),
    "removed here, edited there": ("a b c", "a c m", "a b=2 c", "a b=2 c m", [("b", "theirs")]),
    "the edit stays in its place, also at the end": ("a b", "a b=1", "a t", "a b=1 t", [("b", "mine")]),
    "and what I put in front of it as well": ("a b", "a m b=1", "a t", "a m b=1 t", [("b", "mine")]),
    "my last addition is still at the end": ("a b", "a b=1 m", "a t", "a b=1 t m", [("b", "mine")]),
    "both re-ordered: theirs": ("a b c", "c b a", "b c a", "b c a", [("", "theirs")]),
    "but a result that lost its call is no other call's": (
        "c:x r:x o c:y", "c:x r:x=1 o c:y", "c:x r:y", "c:x r:x=1 r:y", [("r:x", "mine")]),
    "a result that only they kept stays with its call": (
        "c:x r:x b", "c:x m b", "c:x r:x=2 b", "c:x r:x=2 m b", [("r:x", "theirs")]),
    "both added one id": ("a", "a x=1", "a x=2", "a x=1", [("x", "mine")]),
}


@pytest.mark.parametrize("case", CONFLICTS.values(), ids=CONFLICTS)
def test_where_both_changed_the_same_thing(case):
    """What stands, and what is reported."""
    base, mine, theirs, expected, reported = case
    assert merged(base, mine, theirs) == (expected, reported)


UNIONS = {
    "theirs first": ("m", "t", "t m"),
    "mine is an older copy": ("a", "a b c", "a b c"),
    "theirs is an older copy": ("a b c", "a", "a b c"),
    "the same front": ("a b m", "a b t", "a b t m"),
    "the same words under other ids": ("a#2 b#2 m", "a b", "a b m"),
    "repeated words": ("ok#3 ok#4 ok#5", "ok#1 ok#2", "ok#1 ok#2 ok#5"),
    "known by id behind a difference": ("a x c m", "a y c", "a y c x m"),
    "an answer to a call that has gone on": ("u c:x+y r:y", "u c:x+y r:x t", "u c:x+y r:x r:y t"),
    "an answer, the transcript rebuilt": ("u#2 c:x#2 r:x", "u c:x t", "u c:x r:x t"),
    "empty": ("", "", ""),
}


@pytest.mark.parametrize("case", UNIONS.values(), ids=UNIONS)
def test_without_a_base(case):
    """Equal leading messages are one, then the union; nothing counts as a deletion."""
    mine, theirs, expected = case
    assert merged(None, mine, theirs) == (expected, [])


def test_without_a_base_the_stored_version_of_one_message_stands():
    """And that is reported."""
    assert merged(None, "a b=1", "a b=2") == ("a b=2", [("b", "theirs")])


def test_without_a_base_words_that_python_calls_equal_are_not_one():
    """{"n": 1} and {"n": True} are two messages."""
    mine, theirs = (Messages.of([Message("user", "x", n=n)]) for n in (1, True))
    assert [repr(m.get("n")) for m in merge_messages(None, mine, theirs, lambda *_: None)] == ["True", "1"]


@pytest.mark.parametrize("strange", [
    {"role": "assistant", "tool_calls": 5}, {"role": "assistant", "tool_calls": [{"id": ["x"]}, {"id": {}}, None, "x"]},
    {"role": "assistant", "function_call": True}, {"role": "tool", "tool_call_id": ["x"]}, {"role": "tool", "tool_call_id": None},
    {"role": "assistant", "tool_calls": [{"id": None, "function": None}]}, {},
], ids=str)
def test_no_chat_form_in_the_wild_can_block_a_merge(strange):
    """An answer is merged beside whatever stands there; a message without a call id is nobody's result."""
    odd = Message.from_dict(strange, id="odd")
    base = Messages.of([*messages("a c:x"), odd])
    mine, theirs = base.appended(*messages("r:x m")), base.appended(*messages("t"))
    made = merge_messages(base, mine, theirs, lambda *_: None)
    assert {m.id for m in made} == {"a", "c:x", "odd", "r:x", "m", "t"}
    assert merge_messages(None, mine, theirs, lambda *_: None)[2].id == "odd"


def test_a_call_without_an_id_has_no_results():
    """Or every message without a call id would count as one of its results."""
    call = Message.assistant(tool_calls=[{"function": {"name": "f"}}, {"id": "x", "function": {"name": "g"}}], id="c")
    base = Messages.of([call])
    made = merge_messages(base, base.appended(*messages("r:x")), base.appended(*messages("t1 t2")), lambda *_: None)
    assert [m.id for m in made] == ["c", "r:x", "t1", "t2"]


def test_900_levels_deep_can_be_merged_without_a_base():
    """Comparing two deep messages that differ in the innermost leaf needs no deep stack."""
    def deep(leaf):
        for _ in range(898):
            leaf = [leaf]
        return Messages.of([Message.user(leaf)])

    def at_depth(frames, work):
        return work() if frames == 0 else at_depth(frames - 1, work)

    assert len(at_depth(300, lambda: merge_messages(None, deep("a"), deep("b"), lambda *_: None))) == 2


def test_a_turn_looks_only_at_what_was_added(monkeypatch):
    """O(what is new): of a thousand shared messages none is compared, decoded or copied."""
    base = Messages.of([Message.user(str(i)) for i in range(1000)])
    mine, theirs = base.appended(*messages("m1 m2")), base.committed(1000, list(messages("t1")))
    looked = []
    original = Message.same_as
    monkeypatch.setattr(Message, "same_as", lambda a, b: looked.append(a) or original(a, b))
    made = merge_messages(base, mine, theirs, lambda *_: None)
    assert [m.id for m in made[-3:]] == ["t1", "m1", "m2"]
    assert made.shared_with(theirs) == 1001
    assert len(looked) <= 6
    monkeypatch.undo()
    monkeypatch.setattr(Message, "_data", property(lambda m: looked.append(m)))
    looked.clear()
    assert len(merge_messages(base, base.appended(*messages("x")), base, lambda *_: None)) == 1001
    assert looked == []


# -- the order of two sequences ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("made", "like", "expected"), [
    ("a b c", "c b a", "c b a"),
    ("a x b c y", "c q b a", "c x b a y"),
    ("a b", "c d", "a b"),
    ("a b", "", "a b"),
    ("a=1 b", "b a=2", "b a=1"),
])
def test_ordered_as(made, like, expected):
    """What the other has too comes in the other's order, in the places that were there; contents are its own."""
    words = [m.id if m.content == m.id else f"{m.id}={m.content}" for m in ordered_as(messages(made), messages(like))]
    assert " ".join(words) == expected


@pytest.mark.parametrize(("one", "other", "same"), [
    ("a b c", "x a y c", True), ("a b c", "c a", False), ("a b", "c d", True), ("", "a", True), ("a b", "b a=1", False)])
def test_in_one_order(one, other, same):
    """Only what both have counts, and only where it stands."""
    assert in_one_order(messages(one), messages(other)) is in_one_order(messages(other), messages(one)) is same


def test_what_is_shared_is_not_looked_at_for_its_order():
    """The front of two copies is one by construction, and stays it."""
    there = messages("a b c d")
    mine, theirs = there.appended(message("m"), message("n")), there.appended(message("n"), message("m"))
    made = ordered_as(mine, theirs)
    assert [m.id for m in made] == ["a", "b", "c", "d", "n", "m"]
    assert made.shared_with(there) == 4
    assert ordered_as(mine, mine).shared_with(mine) == 6
