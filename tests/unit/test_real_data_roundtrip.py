"""Conversations as agents left them: every one goes in, through a folder of files, and out of another repository."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bamboo_sessions import Message, Session, SessionRepository

DATA = os.environ.get("BAMBOO_SESSIONS_DATA")


def conversations():
    """(id, chat messages) of every line of the folder's *.jsonl files."""
    found = []
    for path in sorted(Path(DATA).glob("*.jsonl")):
        for line in path.read_bytes().split(b"\n"):
            if line.strip():
                value = json.loads(line)
                found.append((value["id"], value["messages"]))
    return found


@pytest.mark.skipif(DATA is None, reason="BAMBOO_SESSIONS_DATA is not set: a folder with conversations in *.jsonl files")
@pytest.mark.parametrize("turn_by_turn", [False, True], ids=["at once", "turn by turn"])
def test_P14_every_real_conversation_comes_back_equal(tmp_path, turn_by_turn):
    """296 conversations, 7,483 messages: `from_dict`, save, loaded by another repository, `to_dict`, equal as text."""
    chats = conversations()
    assert (len(chats), sum(len(messages) for _, messages in chats)) == (296, 7483)
    with SessionRepository.open(tmp_path / "store", durability="process") as repo:
        for session_id, messages in chats:
            save(repo, session_id, messages, step=10 if turn_by_turn else len(messages))
    with SessionRepository.open(tmp_path / "store") as other:
        for session_id, messages in chats:
            loaded = other.try_load(session_id)
            came_back = [message.to_dict() for message in loaded.messages]
            assert came_back == messages
            assert json.dumps(came_back) == json.dumps(messages)  # tells 1 from 1.0 and True, and the order of keys
            assert loaded.to_dict()["messages"] == messages


def save(repo, session_id, messages, step):
    session = Session.new(session_id)
    for start in range(0, len(messages), step):
        for chat in messages[start : start + step]:
            session.add_message(Message.from_dict(chat))
        repo.save(session)
