"""A session in the caller's hands: isolated copies, cheap ones, and bad input refused before anything changed."""

from __future__ import annotations

import json
from copy import copy, deepcopy
from datetime import UTC, datetime, timedelta, timezone
from pickle import dumps, loads

import pytest

from bamboo_sessions.errors import InvalidMessage, InvalidSessionId, InvalidValue, SessionError
from bamboo_sessions.models import Attempt, Base, Kept, Message, Origin, Part, Session


class Ticking:
    """A clock that moves one second a look."""

    def __init__(self):
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self):
        self.time += timedelta(seconds=1)
        return self.time


def committed(session):
    """The session as it is after a save: a copy that descends from its own state."""
    base = Base(session._state(), "op-1", "store-1", ("stamp", 1))
    parts = (Part(Kept("mark"), session._state()),)
    return Session._of(session._state(), Origin(base, Attempt("op-2", session._state(), "store-1"), parts), session._clock)


WAYS = [lambda s: s.snapshot(), copy, deepcopy]


@pytest.mark.parametrize("way", [*WAYS, lambda s: loads(dumps(s))], ids=["snapshot", "copy", "deepcopy", "pickle"])
def test_copies_keep_what_they_descend_from(way):
    """A save of a copy can tell "I removed this" from "I never saw it"."""
    session = committed(Session.new("s", title="t"))
    session.add_message(Message.user("later"))
    other = way(session)
    assert other == session
    assert (other._origin.base.op, other._origin.base.store, other._origin.base.stamp) == ("op-1", "store-1", ("stamp", 1))
    assert other._origin.base.state.same_as(session._origin.base.state)
    assert (other._origin.attempt.op, other._origin.mark) == ("op-2", "mark")
    assert other.messages.shared_with(other._origin.base.state.messages) == len(other._origin.base.state.messages)


@pytest.mark.parametrize("way", WAYS, ids=["snapshot", "copy", "deepcopy"])
def test_a_copy_of_a_long_session_copies_no_list(way):
    """O(1): the same head, the same lists, counted and not timed; adding a message afterwards copies none either."""
    session = Session.new("s", metadata={"k": [1]})
    session.messages = [Message.user(str(i)) for i in range(500)]
    session = committed(session)
    other = way(session)
    assert other._messages is session._messages
    assert other._head is session._head
    before = session._messages
    other.add_message(Message.user("x"))
    first_tail = other._messages._tail
    for i in range(20):
        other.add_message(Message.user(f"y{i}"))
    assert other._messages._backing is before._backing
    assert session._messages is before
    if before._tail is None:
        assert other._messages._tail is first_tail


def test_adding_a_message_looks_at_no_other(monkeypatch):
    """However long the session: no id of an earlier message is read."""
    session = Session.new("s")
    session.messages = [Message.user(str(i)) for i in range(50)]
    looked = []
    monkeypatch.setattr(Message, "id", property(looked.append))
    session.add_message(Message.user("x"))
    assert looked == []


@pytest.mark.parametrize("way", [*WAYS, lambda s: loads(dumps(s))], ids=["snapshot", "copy", "deepcopy", "pickle"])
def test_P6_changing_a_copy_changes_nobody_else(way):
    """Every mutator, both ways round."""
    def change(s, word):
        s.add_message(Message.user(word))
        s.replace_message("m0", Message.user(word))
        s.remove_message("m1")
        s.metadata["k"].append(word)
        s.metadata[word] = word
        s.title = s.model = word
        s.pinned = s.archived = True
        s.tags |= {word}
        s.set_pending_question("x", word)
        s.set_pending_question(word, word)

    def seen(s):
        return json.dumps(s.to_dict(), sort_keys=True)

    for first, second in ((0, 1), (1, 0)):
        session = Session.new("s", metadata={"k": []})
        for i in range(3):
            session.add_message(Message.user(str(i), id=f"m{i}"))
        session.set_pending_question("x", "?", options=[{"a": []}])
        session = committed(session)
        pair = (session, way(session))
        before, base = seen(session), session._origin.base.state
        base_before = seen(Session._of(base, Origin()))
        change(pair[first], "mine")
        assert seen(pair[second]) == before
        change(pair[second], "theirs")
        assert "theirs" not in seen(pair[first])
        assert seen(Session._of(base, Origin())) == base_before


def test_every_mutator_sets_updated_at_and_a_refused_one_does_not():
    """And reading sets nothing."""
    session = Session.new("s", clock=Ticking())
    one = session.add_message(Message.user("1"))
    session.add_message(Message.user("2"))
    for mutate in (
        lambda: session.add_message(Message.user("x")), lambda: session.replace_message(one.id, Message.user("y")),
        lambda: session.remove_message(one.id), lambda: session.replace_messages([]),
        lambda: session.set_pending_question("x", "?"), lambda: session.clear_pending_question("x"),
        lambda: setattr(session, "title", "t"), lambda: setattr(session, "pinned", True),
        lambda: setattr(session, "archived", True), lambda: setattr(session, "tags", {"a"}),
        lambda: setattr(session, "model", "m"), lambda: setattr(session, "metadata", {"a": 1}),
    ):
        before = session.updated_at
        mutate()
        assert session.updated_at > before
    before = session.updated_at
    _ = session.messages, session.metadata, session.to_dict(), session.snapshot(), repr(session), session == session.snapshot()
    for same in (lambda: session.replace_messages(session.messages), session.clear_pending_question,
                 lambda: setattr(session, "title", "t"), lambda: setattr(session, "pinned", True),
                 lambda: setattr(session, "tags", ["a"])):
        same()
        assert session.updated_at == before


BAD = [
    (InvalidMessage, lambda s: s.add_message({"role": "user", "content": b"x"})),
    (InvalidMessage, lambda s: s.add_message("hello")),
    (InvalidMessage, lambda s: s.add_message(None)),
    (InvalidMessage, lambda s: s.add_message(Message.user("again", id="m0"))),
    (InvalidMessage, lambda s: s.add_message(s.messages[0])),
    (InvalidMessage, lambda s: s.replace_message("no", Message.user("x"))),
    (InvalidMessage, lambda s: s.replace_message("m0", {"x": {1}})),
    (InvalidMessage, lambda s: s.remove_message("no")),
    (InvalidMessage, lambda s: s.replace_messages([{"a": 1}, {"b": object()}])),
    (InvalidMessage, lambda s: s.replace_messages([*s.messages, *s.messages])),
    (InvalidMessage, lambda s: setattr(s, "messages", ["x"])),
    (InvalidValue, lambda s: setattr(s, "title", 5)),
    (InvalidValue, lambda s: setattr(s, "title", "\ud800")),
    (InvalidValue, lambda s: s.set_title("x", source="robot")),
    (InvalidValue, lambda s: setattr(s, "tags", "abc")),
    (InvalidValue, lambda s: setattr(s, "tags", {1})),
    (InvalidValue, lambda s: setattr(s, "tags", [["a"]])),
    (InvalidValue, lambda s: setattr(s, "model", 5)),
    (InvalidValue, lambda s: setattr(s, "model", "\ud800")),
    (InvalidValue, lambda s: setattr(s, "updated_at", datetime(2026, 1, 1))),
    (InvalidValue, lambda s: setattr(s, "updated_at", "2026-01-01")),
    (InvalidValue, lambda s: setattr(s, "updated_at", None)),
    (InvalidValue, lambda s: setattr(s, "updated_at", datetime.min.replace(tzinfo=timezone(timedelta(hours=5))))),
    (AttributeError, lambda s: setattr(s, "id", "x")),
    (AttributeError, lambda s: setattr(s, "birth", "x")),
    (AttributeError, lambda s: setattr(s, "revision", 5)),
    (AttributeError, lambda s: setattr(s, "created_at", datetime.now(UTC))),
    (AttributeError, lambda s: setattr(s, "title_version", 5)),
    (AttributeError, lambda s: setattr(s, "titel", "a slip of the pen")),
    (TypeError, lambda s: s.messages.append(Message.user("x"))),
]


@pytest.mark.parametrize(("error", "change"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_what_is_refused_changes_nothing(error, change):
    """The error that is promised, and the session as before, to the byte."""
    session = Session.new("s", title="t", metadata={"a": [1]}, clock=Ticking())
    for i in range(3):
        session.add_message(Message.user(str(i), id=f"m{i}"))
    before, messages = session.to_dict(), session.messages
    with pytest.raises(error):
        change(session)
    assert session.to_dict() == before
    assert session.messages is messages


@pytest.mark.parametrize("session_id", ["", "x" * 513, "a\0b", "\ud800", None, 5, b"x"])
def test_a_bad_id_is_refused_by_every_maker(session_id):
    """Before anything is made."""
    for way in (lambda: Session.new(session_id), lambda: Session.from_dict({"id": session_id})):
        with pytest.raises(InvalidSessionId):
            way()
    if session_id is not None:
        with pytest.raises(InvalidSessionId):
            Session.new("s").as_new(session_id)


def test_replacing_and_removing_messages():
    """In place, under the id it had; the neighbours stay themselves."""
    session = Session.new("s")
    a, b, c = (session.add_message(Message.user(t)) for t in "abc")
    made = session.replace_message(b.id, Message.user("B", id="another"))
    assert made.id == b.id
    assert [(m.id, m.content) for m in session.messages] == [(a.id, "a"), (b.id, "B"), (c.id, "c")]
    session.remove_message(a.id)
    session.remove_message(c.id)
    assert [m.content for m in session.messages] == ["B"]


def test_one_message_object_may_be_put_into_two_sessions():
    """It is immutable; its id is its name in each."""
    one, other, message = Session.new("a"), Session.new("b"), Message.user("x")
    one.add_message(message)
    other.add_message(message)
    assert one.messages == other.messages == [message]


def test_P5_a_generated_title_never_takes_the_place_of_a_persons():
    """Until the person takes the title away."""
    session = Session.new("s")
    assert session.set_title("made", source="generated") is True
    session.title = "mine"
    assert session.set_title("made again", source="generated") is False
    assert (session.title, session.title_source, session.title_version) == ("mine", "user", 2)
    session.title = None
    assert session.set_title("made again", source="generated") is True
    assert (session.title, session.title_source, session.title_version) == ("made again", "generated", 4)


def test_only_what_people_edit_raises_the_metadata_version():
    """A runtime's writing does not, a generated title included."""
    session = Session.new("s")
    session.add_message(Message.user("x"))
    session.set_title("made", source="generated")
    session.metadata["a"] = 1
    session.model = "m"
    session.set_pending_question("x", "?")
    assert session.metadata_version == 0
    session.title = "t"
    session.pinned = session.archived = True
    session.tags = {"a"}
    assert session.metadata_version == 4
    session.tags = {"a"}
    session.pinned = True
    assert session.metadata_version == 4


def test_a_session_comes_back_from_its_plain_form():
    """Message ids, questions, tokens and all; and the form is JSON."""
    session = Session.new("s", model="m", title="t", metadata={"z": 1, "a": [2**70]})
    session.add_message({"id": "theirs", "role": "user", "content": None})
    session.set_pending_question("x", "?", options=[{"a": 1}])
    session.clear_pending_question("x")
    session.set_pending_question("x", "again?")
    session.tags, session.pinned = {"b", "a"}, True
    again = Session.from_dict(json.loads(json.dumps(session.to_dict())))
    assert again == session
    assert again.to_dict() == session.to_dict()
    assert [m.id for m in again.messages] == [m.id for m in session.messages]


def test_P13_fields_of_a_newer_version_survive_the_plain_form():
    """Whatever they are called, `extra` included."""
    plain = {**Session.new("s").to_dict(), "zeta": {"a": [1]}, "extra": 5, "options": None, "$json": "x", "messages_v2": [2**70]}
    session = Session.from_dict(plain)
    assert session.to_dict() == plain
    assert session.snapshot().extra == {"zeta": {"a": [1]}, "extra": 5, "options": None, "$json": "x", "messages_v2": [2**70]}
    session.extra["zeta"]["a"].append(2)
    assert session.extra["zeta"] == {"a": [1]}


def test_a_plain_form_without_ids_names_its_messages_by_content():
    """The same at each reading, and repeated words are told apart."""
    plain = {"id": "s", "messages": [{"role": "user", "content": t} for t in ("ok", "no", "ok")]}
    one, other = (Session.from_dict(plain) for _ in range(2))
    assert [m.id for m in one.messages] == [m.id for m in other.messages]
    assert len({m.id for m in one.messages}) == 3


@pytest.mark.parametrize("wrong", [
    {"created_at": "yesterday"}, {"updated_at": "2026-01-01T00:00:00"}, {"updated_at": 5}, {"birth": 5}, {"revision": "1"},
    {"pinned": 1}, {"title": 5}, {"tags": "abc"}, {"tags": None}, {"tags": [5]}, {"questions": 5}, {"questions": {"a": 1}},
    {"closed_questions": [b"x"]}, {"closed_questions": "abc"}, {"metadata": None}, {"metadata": [1]}, {"metadata": {1: 2}},
    {"metadata": {"a": b"x"}}, {"messages": None}, {"messages": "abc"}, {"messages": ["x"]}, {"messages": {"role": "user"}},
    {"messages": [{"a": 1}], "message_ids": []}, {"messages": [{"a": 1}, {"b": 1}], "message_ids": ["x", "x"]},
    {"messages": [{"a": 1}], "message_ids": [5]}, {"message_ids": 5}, {"later": b"x"}, {"\ud800": 1}, {5: 1},
], ids=ascii)
def test_a_plain_form_that_cannot_be_kept_is_refused_by_name(wrong):
    """With an error of this library's own, at the door: a repeated id or a bad token would only show at a merge."""
    with pytest.raises(SessionError):
        Session.from_dict({"id": "s", **wrong})


def test_sessions_are_equal_by_content_and_cannot_be_hashed():
    """Mutable values have no place in a set."""
    session = Session.new("s")
    assert session == session.snapshot()
    other = session.snapshot()
    other.add_message(Message.user("x"))
    assert session != other
    assert session != "s"
    with pytest.raises(TypeError):
        hash(session)
    with pytest.raises(TypeError):
        Session()


def test_as_new_is_a_session_of_its_own():
    """Another birth, never saved, descends from nothing; the conversation is the same."""
    session = committed(Session.new("s", metadata={"a": [1]}))
    session.add_message(Message.user("x"))
    other = session.as_new("t")
    assert (other.id, other.revision, other._origin.base, other.messages) == ("t", 0, None, session.messages)
    assert other.birth != session.birth
    assert session.as_new().id == "s"


def test_times_are_utc_whatever_zone_they_were_given_in():
    """To the microsecond."""
    session = Session.new("s")
    session.updated_at = datetime(2026, 1, 1, 5, 30, 0, 7, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert session.updated_at == datetime(2026, 1, 1, 0, 0, 0, 7, tzinfo=UTC)
    assert session.to_dict()["updated_at"] == "2026-01-01T00:00:00.000007Z"


def test_opened_metadata_follows_a_commit_in_place():
    """References that the caller holds stay good after a save that merged."""
    session = Session.new("s", metadata={"a": [1], "gone": 1})
    held, inner = session.metadata, session.metadata["a"]
    theirs = session.snapshot()
    theirs.metadata["b"] = 2
    del theirs.metadata["gone"]
    session._adopt(theirs._state(), Origin())
    assert session.metadata is held
    assert held == {"a": [1], "b": 2}
    assert held["a"] is inner
