"""Questions: opened with a token, closed by token, refused at the door where they could not be kept."""

from __future__ import annotations

import math
from copy import deepcopy
from datetime import UTC, datetime
from pickle import dumps, loads

import pytest

from bamboo_sessions.errors import InvalidMessage, InvalidValue, QuestionNotOpen, SessionError
from bamboo_sessions.models import PendingQuestion, Session


def test_the_oldest_open_question_comes_first_and_a_closed_one_is_gone():
    """Order of asking; closing one leaves the others."""
    session = Session.new("s")
    assert session.pending_question is None
    for name in "abc":
        session.set_pending_question(name, f"{name}?")
    assert [q.question for q in session.pending_questions] == ["a?", "b?", "c?"]
    assert session.clear_pending_question("a") is True
    assert session.pending_question.question == "b?"
    assert session.clear_pending_question("a") is False
    assert session.clear_pending_question() is True
    assert session.pending_questions == ()
    assert session.clear_pending_question() is False


def test_asking_again_while_open_replaces_the_text_and_keeps_the_token():
    """It is the same question, in its place, asked at the same time."""
    session = Session.new("s")
    first = session.set_pending_question("x", "one?", options=["a"], tool_name="ask")
    session.set_pending_question("y", "other?")
    again = session.set_pending_question("x", "two?", allow_custom=False)
    assert (again.token, again.asked_at) == (first.token, first.asked_at)
    assert [(q.tool_call_id, q.question, q.options) for q in session.pending_questions] == [
        ("x", "two?", ()), ("y", "other?", ())]


def test_asking_again_after_an_answer_is_a_new_question():
    """Real transcripts repeat call ids; the token tells the askings apart."""
    session = Session.new("s")
    first = session.set_pending_question("x", "?")
    session.clear_pending_question("x")
    second = session.set_pending_question("x", "?")
    assert first.token != second.token
    assert session.pending_questions == (second,)
    assert session.to_dict()["closed_questions"] == [first.token]


def test_an_answer_closes_the_question_and_appends_the_result():
    """Or only closes it; what is not open is refused, and nothing has changed then."""
    session = Session.new("s")
    session.set_pending_question("x", "?")
    session.answer("x", "yes")
    assert [m.to_dict() for m in session.messages] == [{"role": "tool", "content": "yes", "tool_call_id": "x"}]
    with pytest.raises(QuestionNotOpen):
        session.answer("x", "yes")
    session.set_pending_question("x", "?")
    session.answer("x", "yes", append_result=False)
    assert len(session.messages) == 1
    assert session.pending_question is None


def test_an_answer_that_cannot_be_kept_leaves_the_question_open():
    """The result is made before the question is closed."""
    session = Session.new("s")
    session.set_pending_question("x", "?")
    with pytest.raises(InvalidMessage):
        session.answer("x", [object()])
    assert session.pending_question.tool_call_id == "x"
    assert session.messages == []


def ring():
    value = []
    value.append(value)
    return value


BAD = [b"x", {1}, datetime(2026, 1, 1, tzinfo=UTC), object(), {1: 2}, ring(), 10**5000]


@pytest.mark.parametrize("bad", BAD, ids=["bytes", "set", "datetime", "object", "key", "cycle", "endless"])
def test_options_that_cannot_be_kept_are_refused_and_nothing_is_asked(bad):
    """A SessionError at the door, never a recursion error and never at a save."""
    session = Session.new("s")
    with pytest.raises(InvalidValue):
        session.set_pending_question("x", "?", options=[{"label": "a"}, bad])
    with pytest.raises(InvalidValue):
        Session.from_dict({"id": "s", "questions": [{"tool_call_id": "x", "token": "t", "question": "?", "options": [bad]}]})
    with pytest.raises(InvalidValue):
        session.set_pending_question("x", bad)
    with pytest.raises(InvalidValue):
        session.set_pending_question("x", "?", tool_name=bad)
    assert session.pending_question is None


@pytest.mark.parametrize("question", [{}, {"tool_call_id": "x"}, {"token": "t"}, {"tool_call_id": 5, "token": "t"},
                                      {"tool_call_id": "x", "token": None}, {"tool_call_id": "x", "token": "t", "asked_at": "?"},
                                      {"tool_call_id": "x", "token": "t", "asked_at": "2026-01-01T00:00:00"},
                                      {"tool_call_id": "x", "token": "t", "options": 5}, None, 5])
def test_a_stored_form_that_is_no_question_is_refused_by_name(question):
    """With an error of this library's own."""
    with pytest.raises(SessionError):
        Session.from_dict({"id": "s", "questions": [question]})


@pytest.mark.parametrize("call_id", [None, 5, b"x", "\ud800"])
def test_a_call_id_is_text(call_id):
    """It becomes part of a message and of a key."""
    with pytest.raises(InvalidValue):
        Session.new("s").set_pending_question(call_id, "?")


@pytest.mark.parametrize("options", [
    ["a", {"label": "b", "n": [2**70]}], [math.inf], ["\ud800"], [1, True, 1.0, None], [{"$json": "1"}], [["a", ("b",)]],
], ids=ascii)
def test_options_come_back_as_json(options):
    """Through the stored form, strange numbers and texts included."""
    session = Session.new("s")
    asked = session.set_pending_question("x", "?", options=iter(options))
    plain = [["a", ["b"]]] if options == [["a", ("b",)]] else options
    assert repr(session.pending_question.to_dict()["options"]) == repr(plain)
    assert PendingQuestion.unpacked(asked.packed()) == asked
    assert PendingQuestion.from_dict(asked.to_dict()) == asked


def test_a_question_with_nan_equals_itself_after_a_round_trip():
    """Or every save would find it changed."""
    asked = Session.new("s").set_pending_question("x", "?", options=[math.nan])
    assert PendingQuestion.unpacked(asked.packed()) == asked


def test_options_that_python_calls_equal_are_different_questions():
    """[1] edited to [True] is an edit."""
    asked = [PendingQuestion.from_dict({"tool_call_id": "x", "token": "t", "question": "?", "options": o})
             for o in ([1], [True], [1.0])]
    assert asked[0] != asked[1] != asked[2] != asked[0]


@pytest.mark.parametrize("way", [
    lambda q: q, deepcopy, lambda q: loads(dumps(q)), lambda q: PendingQuestion.from_dict(q.to_dict()),
    lambda q: PendingQuestion.from_dict({**q.to_dict(), "options": tuple(q.to_dict()["options"])}),
], ids=["itself", "deepcopy", "pickle", "dict", "dict with a tuple"])
def test_P6_a_question_cannot_be_changed_through_what_it_gives_out(way):
    """Copies of a session share it; also after copy and pickle."""
    given = [{"label": ["a"]}, ({"b": 1},)]
    question = way(Session.new("s").set_pending_question("x", "?", options=given))
    given[0]["label"].append("later")
    for change in (lambda: question.options[0]["label"].append(1), lambda: question.options[0].update(a=1),
                   lambda: question.options[1][0].update(a=1), lambda: question.extra.update(a=1)):
        with pytest.raises(TypeError):
            change()
    question.to_dict()["options"][0]["label"].append("mine")
    assert question.to_dict()["options"] == [{"label": ["a"]}, [{"b": 1}]]


def test_P13_fields_of_a_newer_version_stay_in_a_question():
    """Through the plain form, the stored form, and a replaced text."""
    session = Session.from_dict({"id": "s", "questions": [
        {"tool_call_id": "x", "token": "t", "question": "?", "urgency": {"level": [3]}}]})
    session.set_pending_question("x", "new?")
    again = PendingQuestion.unpacked(session.pending_question.packed())
    assert again.question == "new?"
    assert again.to_dict()["urgency"] == {"level": [3]}


def test_256_closed_tokens_are_remembered_the_newest():
    """A record stays bounded."""
    session, tokens = Session.new("s"), []
    for i in range(300):
        tokens.append(session.set_pending_question(f"c{i}", "?").token)
        session.clear_pending_question(f"c{i}")
    assert session.to_dict()["closed_questions"] == tokens[-256:]


def test_the_time_of_asking_is_the_clocks():
    """In UTC, from the injected clock."""
    class Standing:
        def now(self):
            return datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC)

    asked = Session.new("s", clock=Standing()).set_pending_question("x", "?")
    assert asked.asked_at == datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC)
    assert asked.to_dict()["asked_at"] == "2026-03-04T05:06:07.000089Z"
