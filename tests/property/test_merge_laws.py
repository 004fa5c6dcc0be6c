"""The laws of the merge, over drawn edits, against a plain model that shares no code with it."""

from __future__ import annotations

import json
from collections import Counter

import attrs
import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bamboo_sessions.codec import (
    decode_head,
    decode_state,
    diff_head,
    encode_head,
    patch_head,
    patch_json,
    patch_state,
    split_messages,
)
from bamboo_sessions.merge import merge
from bamboo_sessions.models import Message, Messages, Session, State
from tests.property.strategies import HEAD_STEPS, MESSAGE_STEPS, Copy, Three, scripts, threes

some = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
more = settings(some, max_examples=300)


def again(state):
    """An equal state that shares nothing with the first: what another process would have read."""
    head = decode_head(orjson.loads(orjson.dumps(encode_head(state.head))))
    return State(head, Messages.of([Message.from_line(m.line) for m in state.messages]))


def exactly(state):
    """All that a session says, in an order and with types that Python's `==` cannot blur, revision aside."""
    head = encode_head(attrs.evolve(state.head, revision=0))
    return (json.dumps(head, sort_keys=True), [q.token for q in state.head.questions], list(state.head.closed_questions),
            [m.line for m in state.messages])


def ids(state):
    return [m.id for m in state.messages]


# -- laws --------------------------------------------------------------------------------------------------------


@some
@given(threes(moves=True), st.booleans())
def test_one_side_alone_is_taken_exactly(three, shared):
    """base = theirs gives mine exactly, base = mine gives theirs exactly, with no conflict; whether they share or not."""
    base, mine, theirs = (copy.state() for copy in (three.base, three.mine, three.theirs))
    other = base if shared else again(base)
    only_mine, only_theirs = merge(base, mine, other), merge(base, other, theirs)
    assert exactly(only_mine.state) == exactly(mine)
    assert exactly(only_theirs.state) == exactly(theirs)
    assert only_mine.conflicts == only_theirs.conflicts == ()
    assert only_mine.adopted(mine) == ()


@more
@given(threes(moves=True), st.booleans())
def test_merging_again_changes_nothing(three, with_base):
    """A save whose outcome was unknown may be merged a second time, into what it gave the first time."""
    base = three.base.state() if with_base else None
    mine, theirs = three.mine.state(), three.theirs.state()
    merged = merge(base, mine, theirs).state
    for there in (merged, again(merged)):
        assert exactly(merge(base, again(mine), there).state) == exactly(merged)


@some
@given(threes(moves=True))
def test_what_is_shared_does_not_matter(three):
    """The short cuts that sharing allows give what looking at everything gives; the arguments stay as they were."""
    states = [copy.state() for copy in (three.base, three.mine, three.theirs)]
    before = [exactly(state) for state in states]
    shared = merge(*states)
    apart = merge(*map(again, states))
    assert exactly(shared.state) == exactly(apart.state)
    assert shared.conflicts == apart.conflicts
    assert [exactly(state) for state in states] == before


# -- the plain model ---------------------------------------------------------------------------------------------


def expected_contents(base, mine, theirs):
    """{id: chat form} that must come out: additions of both; gone where one side removed and the other left it alone."""
    base, mine, theirs = dict(base), dict(mine), dict(theirs)
    made = {}
    for i in {**base, **mine, **theirs}:
        if i not in base:
            made[i] = mine.get(i, theirs.get(i))
        elif i in mine and i in theirs:
            made[i] = mine[i] if mine[i] != base[i] else theirs[i]
        elif i in mine and mine[i] != base[i]:
            made[i] = mine[i]
        elif i in theirs and theirs[i] != base[i]:
            made[i] = theirs[i]
    return made


def sub_order(order, of):
    return [i for i in order if i in of]


def plain_order(copy):
    return [i for i, _ in copy.plain]


@more
@given(threes(MESSAGE_STEPS, moves=True))
def test_P2_every_change_to_the_messages_is_in_the_merge(three):
    """Nothing added is missing or doubled, every removal and edit that met no other change is there."""
    merged = merge(three.base.state(), three.mine.state(), three.theirs.state()).state
    expected = expected_contents(three.base.plain, three.mine.plain, three.theirs.plain)
    assert {m.id: m.to_dict() for m in merged.messages} == expected
    assert len(merged.messages) == len(expected)


@more
@given(threes(MESSAGE_STEPS, moves=True))
def test_old_messages_keep_the_order_that_the_rule_names(three):
    """Nobody moved them: as before. One did: that one's order. Both did: theirs."""
    merged = ids(merge(three.base.state(), three.mine.state(), three.theirs.state()).state)
    base, mine, theirs = (plain_order(copy) for copy in (three.base, three.mine, three.theirs))
    common = set(base) & set(mine) & set(theirs) & set(merged)
    before, ours, other = (sub_order(order, common) for order in (base, mine, theirs))
    assert sub_order(merged, common) == (ours if other == before else other)


@more
@given(threes(MESSAGE_STEPS))
def test_additions_stand_where_their_writer_put_them(three):
    """Each writer's own order is kept; mine behind my last old message form one block at the end; results follow calls."""
    merged_state = merge(three.base.state(), three.mine.state(), three.theirs.state()).state
    merged, chats = ids(merged_state), {m.id: m.to_dict() for m in merged_state.messages}
    base, mine, theirs = (plain_order(copy) for copy in (three.base, three.mine, three.theirs))
    for side in (mine, theirs):
        said = {i for i in side if "tool_call_id" not in chats.get(i, {"tool_call_id": "gone"})}
        assert sub_order(merged, said) == sub_order(side, said)
    assert sub_order(merged, theirs) == [i for i in theirs if i in chats]
    last_old = max((i for i, name in enumerate(mine) if name in base and name in chats), default=-1)
    block = [i for i in mine[last_old + 1 :] if i in chats]
    while block and "tool_call_id" in chats[block[0]]:
        block.pop(0)
    assert merged[len(merged) - len(block):] == block
    assert_results_follow_calls(merged, chats)


def assert_results_follow_calls(merged, chats):
    """Between a result and its call, if that is still there, stand only results of the same message's calls."""
    callers = {call["id"]: i for i, chat in chats.items() for call in chat.get("tool_calls", ())}
    for i, name in enumerate(merged):
        caller = callers.get(chats[name].get("tool_call_id"))
        if caller is not None:
            between = merged[merged.index(caller) + 1 : i]
            assert merged.index(caller) < i
            assert all(callers.get(chats[other].get("tool_call_id")) == caller for other in between)


def changed(base, mine, theirs):
    return mine if repr(mine) != repr(base) else theirs


@more
@given(threes(HEAD_STEPS))
def test_P2_P5_every_field_follows_its_rule(three):
    """Tags as sets, metadata key by key, plain fields by who changed them, a person's title before a generated one."""
    base, mine, theirs = (copy.session.to_dict() for copy in (three.base, three.mine, three.theirs))
    merged = Session._of(merge(three.base.state(), three.mine.state(), three.theirs.state()).state, None).to_dict()
    for tag in ("red", "green", "blue"):
        in_base, in_mine, in_theirs = (tag in side["tags"] for side in (base, mine, theirs))
        assert (tag in merged["tags"]) == ((in_mine and in_theirs) if in_base else (in_mine or in_theirs))
    nothing = object()
    for key in ("a", "b", "c"):
        was, ours, other = (side["metadata"].get(key, nothing) for side in (base, mine, theirs))
        assert repr(merged["metadata"].get(key, nothing)) == repr(changed(was, ours, other))
    for name in ("model", "pinned", "archived"):
        assert merged[name] == changed(base[name], mine[name], theirs[name])
    assert (merged["title"], merged["title_source"]) == expected_title(base, mine, theirs)
    assert merged["metadata_version"] == max(mine["metadata_version"], theirs["metadata_version"])
    assert (merged["id"], merged["birth"], merged["created_at"]) == (theirs["id"], theirs["birth"], theirs["created_at"])


def expected_title(base, mine, theirs):
    was, ours, other = ((side["title"], side["title_source"]) for side in (base, mine, theirs))
    if was in (ours, other) or ours == other:
        return other if ours == was else ours
    if {ours[1], other[1]} == {"user", "generated"}:
        return ours if ours[1] == "user" else other
    return ours if mine["metadata_version"] > theirs["metadata_version"] else other


@more
@given(threes(HEAD_STEPS))
def test_P4_open_questions_are_those_asked_and_closed_by_nobody(three):
    """By token: what either closed stays closed, what either asked is open; two under one call id become theirs."""
    base, mine, theirs = (copy.session.to_dict() for copy in (three.base, three.mine, three.theirs))
    merged = Session._of(merge(three.base.state(), three.mine.state(), three.theirs.state()).state, None).to_dict()
    was, ours, other = ({q["token"]: q for q in side["questions"]} for side in (base, mine, theirs))
    expected = {}
    for token, question in other.items():
        if token not in was:
            expected[token] = question["question"]
        elif token in ours:
            expected[token] = changed(was[token]["question"], ours[token]["question"], question["question"])
    there = {other[token]["tool_call_id"] for token in expected}
    twice = {token for token, q in ours.items() if token not in was and q["tool_call_id"] in there}
    expected |= {token: q["question"] for token, q in ours.items() if token not in was and token not in twice}
    assert {q["token"]: q["question"] for q in merged["questions"]} == expected
    assert set(merged["closed_questions"]) == {*mine["closed_questions"], *theirs["closed_questions"], *twice}
    by_call = Counter(q["tool_call_id"] for q in merged["questions"])
    assert all(count == 1 for count in by_call.values())


# -- without a base ----------------------------------------------------------------------------------------------


@some
@given(threes())
def test_without_a_base_nothing_of_either_side_is_missing(three):
    """Theirs comes first and whole; of mine, by id or by equal words at the front, every message is there."""
    mine, theirs = three.mine.state(), three.theirs.state()
    merged = merge(None, mine, theirs).state
    assert sub_order(ids(merged), set(ids(theirs))) == ids(theirs)
    front = 0
    for ours, other in zip(mine.messages, theirs.messages, strict=False):
        if json.dumps(ours.to_dict()) != json.dumps(other.to_dict()):
            break
        front += 1
    assert {m.id for m in mine.messages[front:]} <= set(ids(merged))
    assert len(merged.messages) == len(set(ids(merged)))
    open_now, closed = ({q.token for q in merged.head.questions}, set(merged.head.closed_questions))
    for side in (mine, theirs):
        assert {q.token for q in side.head.questions} <= open_now | closed
        assert side.head.metadata.keys() <= merged.head.metadata.keys()


@some
@given(scripts(MESSAGE_STEPS), scripts(MESSAGE_STEPS))
def test_a_transcript_that_was_rebuilt_is_not_doubled(first, more_steps):
    """The same words under other ids, and what came behind them: the words stand once."""
    theirs = Copy.new(first)
    mine = Session.new("s")
    for message in theirs.session.messages:
        mine.add_message(message.to_dict())
    added = [step for step in more_steps if step[0] == "add"]
    for _, text in added:
        mine.add_message(Message.user(text))
    merged = merge(None, mine._state(), theirs.state()).state
    assert [m.to_dict() for m in merged.messages] == [chat for _, chat in theirs.plain] + [
        {"role": "user", "content": text} for _, text in added]
    assert ids(merged)[: len(theirs.plain)] == plain_order(theirs)


# -- histories of saves ------------------------------------------------------------------------------------------


@settings(some, max_examples=80)
@given(scripts(), st.lists(st.tuples(st.integers(0, 2), scripts(max_size=4), st.booleans()), max_size=12))
def test_P2_three_writers_that_save_from_held_copies_lose_nothing(start, turns):
    """Whatever the interleaving: each addition stands once and in its writer's order, unless somebody removed it."""
    stored = Copy.new(start).state()
    writers = [Copy(Session._of(stored, None), [(m.id, m.to_dict()) for m in stored.messages], f"w{i}-") for i in range(3)]
    bases = [stored] * 3
    added, removed = ids(stored), set()
    for who, script, saves in turns:
        writer = writers[who]
        before = {i for i, _ in writer.plain}
        writer.play([step for step in script if step[0] != "edit"])
        now = {i for i, _ in writer.plain}
        removed |= before - now
        added += [i for i, _ in writer.plain if i not in before]
        if saves:
            stored = bases[who] = merge(bases[who], writer.state(), stored).state
            writer.session = Session._of(stored, None)
            writer.plain = [(m.id, m.to_dict()) for m in stored.messages]
    for who in range(3):
        stored = merge(bases[who], writers[who].state(), stored).state
    assert set(ids(stored)) == set(added) - removed
    assert len(ids(stored)) == len(set(ids(stored)))


# -- codec -------------------------------------------------------------------------------------------------------


def bytes_and_back(value):
    return orjson.loads(orjson.dumps(value))


@more
@given(threes(moves=True), st.integers(1, 9))
def test_a_change_of_a_head_means_the_same_for_stored_json_and_for_a_decoded_head(three, revision):
    """Between any two states that occur, the merged one included: order of questions and of closed tokens as well."""
    states = [three.base.state(), three.mine.state(), three.theirs.state()]
    states.append(merge(*states).state)
    states.append(merge(None, states[1], states[2]).state)
    for old, new in ((0, 1), (1, 0), (0, 2), (2, 3), (1, 2), (2, 4)):
        before, after = states[old].head, attrs.evolve(states[new].head, revision=revision)
        change = bytes_and_back(diff_head(before, after))
        stored = patch_json(bytes_and_back(encode_head(before)), change)
        assert {**stored, "revision": revision} == bytes_and_back(encode_head(after))
        assert patch_head(before, change, revision) == decode_head({**stored, "revision": revision})
        assert decode_head(bytes_and_back(encode_head(after))) == after
        assert patch_head(before, change, revision) == after
        assert exactly(State(patch_head(before, change, revision), Messages.of(()))) == exactly(State(after, Messages.of(())))
    head = states[3].head
    assert patch_json({}, bytes_and_back(diff_head(None, head))) == bytes_and_back(encode_head(head))
    assert diff_head(head, attrs.evolve(head, revision=revision)) == {}


@some
@given(threes(MESSAGE_STEPS, moves=True))
def test_a_commit_rebuilds_the_merged_state_from_the_stored_one(three):
    """Keep the first k, append these: what a reader makes of it is the writer's state, to the byte."""
    theirs = three.theirs.state()
    merged = merge(three.base.state(), three.mine.state(), theirs).state
    keep, added = split_messages(theirs.messages, merged.messages)
    change = diff_head(theirs.head, merged.head)
    for reader in (theirs, again(theirs)):
        assert exactly(patch_state(reader, keep, [m.line for m in added], change, 5)) == exactly(merged)
    lines = [m.line for m in theirs.messages][:keep] + [m.line for m in added]
    stored = patch_json(encode_head(theirs.head), change)
    assert exactly(decode_state(stored, lines)) == exactly(merged)


def test_the_model_can_fail():
    """A merge that simply took mine would be found out: the model does not lean on the code under test."""
    three = Three.of([("add", "ok")], [("add", "mine")], [("remove", 0), ("add", "theirs")])
    assert expected_contents(three.base.plain, three.mine.plain, three.theirs.plain) != dict(three.mine.plain)
