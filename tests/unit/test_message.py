"""A message: immutable, faithful to its chat form, its id outside of it."""

from __future__ import annotations

import json
import math
from copy import copy, deepcopy
from datetime import UTC, datetime
from pickle import dumps, loads
from types import MappingProxyType

import pytest

from bamboo_sessions.errors import InvalidMessage
from bamboo_sessions.models import Message, Role, ToolCall

CHATS = [
    {},
    {"role": "user", "content": "hi"},
    {"role": "user", "content": None},
    {"role": "user"},
    {"role": "user", "content": ""},
    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:,"}}]},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]},
    {"role": "assistant", "tool_calls": [{"id": "c1", "function": "f", "arguments": {"a": [1, {"b": None}]}}]},
    {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
    {"role": "function", "name": "f", "content": "1"},
    {"role": "tool", "tool_call_id": "c1", "content": "1"},
    {"role": "tool", "tool_call_ids": ["c1"], "content": "1"},
    {"id": "their own id", "role": "user", "content": "x"},
    {"id": 7, "m": {"id": "no"}, "text": "no", "role": "user"},
    {"role": 5, "content": 5, "tool_calls": 5, "tool_call_id": ["x"], "name": {}, "function_call": "auto"},
    {"content": "z", "role": "user", "a": 1},
    {"role": "user", "content": "\u2028\u0085\x1c\r\n\"}\\", "\\\"key": "\\"},
    {"role": "user", "n": [2**63, 2**64, -(2**70), 1, 1.0, True, -0.0, 1e300]},
    {"role": "user", "content": "\ud83d"}, {"\udfff": "key"}, {"n": math.inf},
    {"$json": "1"}, {"role": "user", "content": {"$json": "{}"}},
]


@pytest.mark.parametrize("chat", CHATS, ids=ascii)
def test_P14_a_chat_form_comes_back_as_it_went_in(chat):
    """Equal, in the same order of keys, with the same types; directly and through the stored line."""
    message = Message.from_dict(chat)
    assert repr(message.to_dict()) == repr(chat)
    assert repr(Message.from_line(message.line).to_dict()) == repr(chat)


@pytest.mark.parametrize("chat", CHATS, ids=ascii)
def test_a_stored_line_is_one_line_of_json_with_the_id_in_front(chat):
    """Storages join lines with line breaks and find the id without decoding."""
    message = Message.from_dict(chat, id='a"b\\c')
    assert b"\n" not in message.line
    assert json.loads(message.line)["id"] == 'a"b\\c'
    assert Message.from_line(message.line).id == 'a"b\\c'


@pytest.mark.parametrize("chat", CHATS, ids=ascii)
def test_every_field_can_be_read_whatever_the_chat_form_is(chat):
    """Nothing in the wild may make a look at a message raise: a merge looks at calls and results."""
    message = Message.from_dict(chat)
    assert isinstance(message.role, str)
    assert isinstance(message.tool_calls, tuple)
    assert {call.id for call in message.tool_calls} <= {"c1", None}
    assert message.name is None or isinstance(message.name, str)
    assert message.tool_call_id is None or isinstance(message.tool_call_id, str)
    assert [ToolCall.from_dict(call.to_dict()) for call in message.tool_calls] == list(message.tool_calls)
    assert repr(message)


@pytest.mark.parametrize("calls", [[{"id": ["x"], "function": {"name": "f"}}], [{"id": {}, "name": 1, "arguments": None}]])
def test_a_tool_call_whose_id_is_no_text_has_none(calls):
    """An id that cannot be compared is no id; the chat form keeps it all the same."""
    message = Message.from_dict({"role": "assistant", "tool_calls": calls})
    assert [call.id for call in message.tool_calls] == [None]
    assert message.tool_calls[0].to_dict()["id"] is None
    assert message.to_dict()["tool_calls"] == calls


def test_nan_in_a_message_is_kept():
    """And the message equals itself after a round trip, by what is stored."""
    message = Message.from_dict({"role": "user", "score": math.nan})
    assert math.isnan(message.to_dict()["score"])
    assert Message.from_dict(message.to_dict()) == message


def at_depth(frames, work):
    return work() if frames == 0 else at_depth(frames - 1, work)


def deep(levels, leaf):
    value = leaf
    for _ in range(levels - 1):
        value = [value]
    return {"role": "user", "content": value}


@pytest.mark.parametrize("frames", [0, 300])
def test_a_message_900_levels_deep_is_kept_read_and_compared_at_any_stack_depth(frames):
    """Two deep messages that differ in the innermost leaf only are told apart, without a recursion error."""
    def work():
        one, other = (Message.from_dict(deep(899, leaf)) for leaf in ("a", "b"))
        assert one.content is not None
        assert one != other
        assert one == Message.from_dict({"content": deep(899, "a")["content"], "role": "user"})
        assert "user" in repr(one)
        return one.to_dict()

    value = at_depth(frames, work)["content"]
    for _ in range(898):
        (value,) = value
    assert value == "a"
    with pytest.raises(InvalidMessage):
        Message.from_dict(deep(901, "a"))


@pytest.mark.parametrize("bad", [b"x", {1}, datetime(2026, 1, 1, tzinfo=UTC), object(), {1: 2}, 10**5000],
                         ids=["bytes", "set", "datetime", "object", "key", "endless"])
def test_what_cannot_be_kept_is_refused_where_it_enters(bad):
    """By every way in, as InvalidMessage."""
    for way in (lambda: Message.from_dict({"role": "user", "content": bad}), lambda: Message.user([bad]),
                lambda: Message("user", "x", extra=bad), lambda: Message.tool_result("c", [bad]),
                lambda: Message.assistant(tool_calls=[{"id": "c", "arguments": bad}]),
                lambda: Message.assistant(tool_calls=[ToolCall("c", "f", {"a": bad})])):
        with pytest.raises(InvalidMessage):
            way()


@pytest.mark.parametrize("chat", [None, [], "text", 5, MappingProxyType({}), [("role", "user")]])
def test_a_chat_form_is_a_dict(chat):
    """Anything else is refused with InvalidMessage, not with an accident further on."""
    with pytest.raises(InvalidMessage):
        Message.from_dict(chat)


@pytest.mark.parametrize("role", [5, None, "\ud800", b"user"])
def test_a_role_given_by_hand_is_text(role):
    """The same error as for anything else in a message that cannot be kept."""
    with pytest.raises(InvalidMessage):
        Message(role, "x")


@pytest.mark.parametrize("message_id", ["", 5, b"x", "\ud800"])
def test_an_id_is_text_that_is_not_empty(message_id):
    """A name that cannot be stored is refused with the message."""
    with pytest.raises(InvalidMessage):
        Message.user("x", id=message_id)


@pytest.mark.parametrize("message_id", ["a", "\\", '"', '\\"', '\\\\', 'x\\\\"y', "\n", "é", "\x00", '"m":{'])
def test_any_text_can_be_an_id(message_id):
    """Quotes and backslashes in it do not confuse where the chat form begins."""
    message = Message.user("hello", id=message_id)
    assert Message.from_line(message.line).id == message_id
    assert Message.from_line(message.line).to_dict() == {"role": "user", "content": "hello"}
    assert message.with_id("other").to_dict() == {"role": "user", "content": "hello"}
    assert Message.user("z", id="q").with_id(message_id).id == message_id


def test_ids_are_drawn_once_and_stay():
    """Two messages that say the same are two messages."""
    one, other = Message.user("x"), Message.user("x")
    assert one == other
    assert hash(one) == hash(other)
    assert one.id == one.id != other.id
    assert "id" not in one.to_dict()


def test_messages_are_equal_where_their_chat_forms_are():
    """Whatever the order of keys and the id; never equal to a dict."""
    assert Message.from_dict({"role": "user", "content": "x"}) == Message.from_dict({"content": "x", "role": "user"})
    assert Message.user("x") != Message.user("y")
    assert Message.user("x") != {"role": "user", "content": "x"}


def test_a_message_cannot_be_changed_through_what_it_gives_out():
    """Content parts, arguments and unknown keys are frozen; `to_dict` is the caller's own."""
    message = Message.assistant([{"type": "text"}], tool_calls=[ToolCall("c", "f", {"a": [1]})], x={"y": [1]})
    line = message.line
    for change in (lambda: message.content[0].update(a=1), lambda: message.tool_calls[0].arguments["a"].append(2),
                   lambda: message.get("x")["y"].append(2)):
        with pytest.raises(TypeError):
            change()
    message.to_dict()["x"]["y"].append(2)
    assert message.line == line
    assert message.to_dict()["x"] == {"y": [1]}


def test_a_message_does_not_follow_what_it_was_made_of():
    """The caller may go on using its dict."""
    chat = {"role": "user", "content": [{"type": "text", "text": "a"}]}
    message = Message.from_dict(chat)
    chat["content"][0]["text"] = "b"
    assert message.content == [{"type": "text", "text": "a"}]


def test_copies_are_the_message_and_a_pickle_is_an_equal_one_of_the_same_id():
    """Immutable values need no copies."""
    message = Message.user("x", n=2**70)
    assert copy(message) is message
    assert deepcopy([message])[0] is message
    again = loads(dumps(message))
    assert (again.id, again) == (message.id, message)


def test_the_makers_give_the_openai_form():
    """The forms written out, by hand."""
    assert Message.system("s").to_dict() == {"role": "system", "content": "s"}
    assert Message.user("u", name="n").to_dict() == {"role": "user", "content": "u", "name": "n"}
    assert Message.tool_result("c", "r").to_dict() == {"role": "tool", "content": "r", "tool_call_id": "c"}
    assert Message.assistant(tool_calls=[ToolCall("c", "f", "{}")]).to_dict() == {
        "role": "assistant", "content": None,
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}
    assert Message(Role.DEVELOPER, "d").role == "developer"
