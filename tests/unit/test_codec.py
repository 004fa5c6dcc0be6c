"""Heads as stored: small, complete, in order, and the same whichever way a change is applied."""

from __future__ import annotations

import json
import math
import tracemalloc
from datetime import UTC, datetime

import attrs
import orjson
import pytest

from bamboo_sessions.codec import (
    decode_head,
    decode_state,
    diff_head,
    encode_head,
    patch_head,
    patch_in_place,
    patch_json,
    patch_state,
    split_messages,
)
from bamboo_sessions.models import Head, Message, Messages, Session, State

NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)


def head_of(**fields):
    return Head(id="s", birth="b", created_at=NOW, updated_at=NOW, **fields)


def stored(value):
    """As a file gives it back."""
    return orjson.loads(orjson.dumps(value))


def full():
    """A session that uses every field, and its plain form."""
    session = Session.from_dict({"id": "s", "zeta": {"a": [2**70]}, "extra": 1, "alpha": None})
    session.title, session.pinned, session.archived, session.tags = "t", True, True, {"b", "a"}
    session.model, session.provider, session.external_id, session.context_id, session.parent_id = "mpecx"
    session.metadata.update(z=math.nan, a=[-0.0, 1, 1.0, True], m={"$json": "1"}, s="\ud800")
    session.set_pending_question("x", "?", options=[{"n": math.inf}])
    session.set_pending_question("y", "?")
    session.clear_pending_question("x")
    session.set_pending_question("x", "again?")
    return session


def test_a_new_head_is_stored_in_a_few_words():
    """Defaults are left out; times are text in UTC to the microsecond."""
    assert encode_head(head_of()) == {
        "id": "s", "birth": "b", "created_at": "2026-01-02T03:04:05.000006Z", "updated_at": "2026-01-02T03:04:05.000006Z"}


def test_every_field_comes_back():
    """Through bytes, with the types and the order that were said."""
    session = full()
    head = session._state().head
    again = decode_head(stored(encode_head(head)))
    assert again == head
    assert repr(Session._of(State(again, Messages.of(())), None).to_dict()) == repr(session.to_dict())
    assert [q.question for q in again.questions] == ["?", "again?"]


def test_a_new_field_of_the_head_is_stored_without_being_named_here():
    """Each field of the class changes what is stored: a field that the codec forgot would be lost at a reload."""
    values = {int: 7, bool: True, str: "x"}
    for field in attrs.fields(Head):
        if field.name in ("id", "birth", "created_at", "updated_at", "tags", "questions", "closed_questions", "metadata", "extra",
                          "lost_revisions"):
            continue
        value = values.get(type(field.default), "x")
        head = head_of(**{field.name: value})
        assert stored(encode_head(head))[field.name] == value
        assert getattr(decode_head(stored(encode_head(head))), field.name) == value


def test_lost_revisions_are_pairs_as_stored_and_as_read():
    """Whether they are compared or written, they are the same."""
    head = head_of(lost_revisions=((3, 5), (9, 9)))
    assert stored(encode_head(head))["lost_revisions"] == [[3, 5], [9, 9]]
    assert decode_head(stored(encode_head(head))) == head


@pytest.mark.parametrize("name", ["zeta", "extra", "messages", "set", "unset", "in", "$json", ""])
def test_P13_a_field_of_a_newer_version_survives_whatever_its_name(name):
    """Decoding, encoding, changing it, removing it, and changing something else."""
    newer = {**encode_head(head_of()), name: {"deep": [1, None]}}
    head = decode_head(stored(newer))
    assert encode_head(head) == newer
    renamed = attrs.evolve(head, title="t")
    assert patch_json(newer, diff_head(head, renamed)) == {**newer, "title": "t"}
    plain = head_of()
    for old, new in ((head, plain), (plain, head), (head, attrs.evolve(head, extra={name: b"5"}))):
        change = stored(diff_head(old, new))
        assert patch_json(encode_head(old), change) == encode_head(new)
        assert patch_head(old, change, 0) == new


def test_a_turn_of_a_long_lived_session_writes_only_what_changed():
    """However much metadata and however many closed questions there are."""
    session = Session.new("s", metadata={f"key{i}": "x" * 100 for i in range(200)})
    for i in range(250):
        session.set_pending_question(f"c{i}", "?")
    session.clear_pending_question()
    before = session._state().head
    session.metadata["key7"] = "y"
    session.set_pending_question("q", "?")
    session.title = "t"
    change = diff_head(before, session._state().head)
    assert len(orjson.dumps(change)) < 500
    assert change["in"]["metadata"] == {"set": {"key7": "y"}}


def test_nothing_changed_is_an_empty_change():
    """Equal heads, shared or not; the revision is the storage's own."""
    head = full()._state().head
    assert diff_head(head, decode_head(stored(encode_head(head)))) == {}
    assert diff_head(head, attrs.evolve(head, revision=9)) == {}


def test_a_change_leaves_its_arguments_alone():
    """A cached head is shared by every reader."""
    session = full()
    before = session._state().head
    session.clear_pending_question()
    session.metadata.clear()
    session.tags, session.title = set(), None
    change, head = stored(diff_head(before, session._state().head)), stored(encode_head(before))
    kept = json.dumps(change), json.dumps(head)
    made = patch_json(head, change)
    made.get("closed_questions", {}).clear()
    assert (json.dumps(change), json.dumps(head)) == kept
    assert "metadata" not in made
    assert "questions" not in made


def test_the_order_of_questions_and_of_closed_tokens_is_part_of_the_state():
    """The oldest open question comes first, the oldest closed token is forgotten first: also after any change."""
    session = Session.new("s")
    for name in "abc":
        session.set_pending_question(name, "?")
    one = session._state().head
    other = attrs.evolve(one, questions=one.questions[::-1], closed_questions=("z", "y"))
    third = attrs.evolve(one, questions=(one.questions[2], one.questions[0]), closed_questions=("y", "x", "z"))
    for old in (one, other, third):
        for new in (one, other, third):
            change = stored(diff_head(old, new))
            assert patch_head(old, change, 0) == new
            assert decode_head(patch_json(stored(encode_head(old)), change)) == new
            assert (change == {}) == (old is new)


def test_a_head_of_ones_own_is_patched_in_place_like_any_other():
    """Every change between heads that differ in all there is, sections that empty included; and the change stays as it is."""
    session = full()
    heads = [session._state().head, head_of(), head_of(metadata={"b": b"1"}, closed_questions=("x",), extra={"new": b"[]"})]
    session.clear_pending_question()
    session.metadata.pop("z")
    heads.append(session._state().head)
    for old in heads:
        for new in heads:
            change, made = stored(diff_head(old, new)), stored(encode_head(old))
            kept = json.dumps(change)
            patch_in_place(made, change)
            assert made == patch_json(stored(encode_head(old)), change) == encode_head(new)
            assert json.dumps(change) == kept
            assert patch_head(old, change, new.revision) == new


def test_values_that_orjson_would_change_survive_a_change_of_another_key():
    """A change is applied to stored JSON without touching what it does not name."""
    session = full()
    before = session._state().head
    session.metadata["new"] = [math.nan, 2**80]
    after = session._state().head
    made = decode_head(patch_json(stored(encode_head(before)), stored(diff_head(before, after))))
    assert made == after
    again = Session._of(State(made, Messages.of(())), None).metadata
    assert math.isnan(again["z"])
    assert repr(again["a"]) == "[-0.0, 1, 1.0, True]"
    assert repr(again["new"]) == "[nan, 1208925819614629174706176]"


def test_reading_a_record_decodes_no_message(monkeypatch):
    """A load costs nothing per message but its line."""
    lines = [Message.user(str(i)).line for i in range(5)]
    monkeypatch.setattr(Message, "to_dict", None)
    monkeypatch.setattr(Message, "id", None)
    state = decode_state(encode_head(head_of()), lines)
    longer = patch_state(state, 5, lines[:1], {"set": {"title": "t"}}, 3)
    assert len(longer.messages) == 6
    assert longer.messages.shared_with(state.messages) == 5
    assert (longer.head.title, longer.head.revision) == ("t", 3)


@pytest.mark.parametrize(("old", "new", "keep"), [("abc", "abcd", 3), ("abc", "abc", 3), ("abc", "ab", 2), ("abc", "aXc", 1),
                                                  ("", "a", 0), ("abc", "", 0)])
def test_messages_split_into_what_is_kept_and_what_comes_behind(old, new, keep):
    """With and without shared lists."""
    before = Messages.of([Message.user(c, id=c) for c in old])
    after = Messages.of([Message.user(c, id=c) for c in new])
    shared = before.kept(keep).appended(*after[keep:])
    for sequence in (after, shared):
        kept, added = split_messages(before, sequence)
        assert (kept, [m.id for m in added]) == (keep, list(new[keep:]))


@pytest.mark.parametrize("make", [
    lambda: Session.new("s", metadata={str(number): number for number in range(20)})._settled(),
    lambda: decode_head(encode_head(Session.new("s", metadata={str(number): number for number in range(20)})._settled())),
    lambda: decode_head({**encode_head(Session.new("s")._head), **{f"newer {number}": number for number in range(20)}}),
], ids=["given", "read", "newer"])
def test_a_head_keeps_no_more_than_it_says(make):
    """Twenty numbers take a few kilobytes; with the encoder's spare room behind each they would take eighty."""
    make()
    tracemalloc.start()
    try:
        kept = [make() for _ in range(50)]
        assert tracemalloc.get_traced_memory()[0] / len(kept) < 8_000
    finally:
        tracemalloc.stop()
