"""The conversations of real agents, every message of them; needs the folder named by BAMBOO_SESSIONS_DATA."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bamboo_sessions.codec import decode_state, encode_head
from bamboo_sessions.models import Message, Session

DATA = os.environ.get("BAMBOO_SESSIONS_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="BAMBOO_SESSIONS_DATA names no folder of *.jsonl conversations")


def conversations():
    for path in sorted(Path(DATA).glob("*.jsonl")):
        for line in path.read_bytes().split(b"\n"):
            if line:
                yield json.loads(line)


def exactly(chat):
    """Python calls 1 and True equal, and dicts in any order of keys; a byte for byte form does not."""
    return json.dumps(chat)


def test_P14_every_real_message_comes_back_as_it_went_in():
    """Through `from_dict` and `to_dict`, and through the line that storages keep; types and order of keys included."""
    count = 0
    for conversation in conversations():
        for chat in conversation["messages"]:
            message = Message.from_dict(chat)
            again = Message.from_line(message.line)
            assert message.to_dict() == again.to_dict() == chat
            assert exactly(again.to_dict()) == exactly(chat)
            assert b"\n" not in message.line
            count += 1
    assert count > 0


def test_every_field_of_every_real_message_can_be_read():
    """Whatever the variant: calls are found, results name their call where the chat form does."""
    for conversation in conversations():
        for chat in conversation["messages"]:
            message = Message.from_dict(chat)
            assert message.role == chat.get("role", "")
            assert message.content == chat.get("content")
            calls = chat.get("tool_calls") or ([chat["function_call"]] if chat.get("function_call") else [])
            assert [call.id for call in message.tool_calls] == [call.get("id") for call in calls]
            assert all(call.name for call in message.tool_calls)
            assert message.tool_call_id == chat.get("tool_call_id")


def test_every_real_conversation_survives_as_a_stored_record_and_handed_back_whole():
    """Head and lines give the session; the same history handed back by a framework changes nothing."""
    for conversation in conversations():
        session = Session.new(conversation["id"], metadata={"meta": conversation.get("meta")})
        session.messages = conversation["messages"]
        state = session._state()
        head = json.loads(json.dumps(encode_head(state.head)))
        again = decode_state(head, [message.line for message in state.messages])
        assert again.same_as(state)
        assert [message.to_dict() for message in again.messages] == conversation["messages"]
        before = session.messages
        session.replace_messages(json.loads(json.dumps(conversation["messages"])))
        assert session.messages is before
