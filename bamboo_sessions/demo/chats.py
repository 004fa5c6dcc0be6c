"""Conversations from JSON Lines files: `{"id": …, "messages": [{"role": …, …}, …]}`, one a line.

A demonstration that stops in the middle because of line 4,711 is worth little, so everything is read and looked at
before anything starts, and what is wrong is named by file and line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from bamboo_sessions.errors import InvalidMessage, InvalidSessionId
from bamboo_sessions.ids import check_session_id
from bamboo_sessions.models import Message

SAMPLE: Final = Path(__file__).with_name("sample.jsonl")

ChatDict = dict[str, Any]


class BadInput(Exception):
    """A file that cannot be replayed; the text says where and why."""


@attrs.frozen
class Chat:
    """One recorded conversation."""

    id: str
    messages: tuple[ChatDict, ...]


def read_chats(paths: Iterable[Path]) -> list[Chat]:
    """All conversations of these files (a folder stands for its `*.jsonl`), in order; raises `BadInput`."""
    chats: dict[str, Chat] = {}
    for path in paths:
        for file in _files(path):
            for place, line in _lines(file):
                chat = _chat(place, line)
                if chat.id in chats:
                    raise BadInput(f"{place}: the id {chat.id!r} was used before; each conversation needs its own")
                chats[chat.id] = chat
    if not any(chat.messages for chat in chats.values()):
        raise BadInput("there is no conversation in " + ", ".join(map(str, paths)))
    return [chat for chat in chats.values() if chat.messages]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.jsonl"))
    if not files:
        raise BadInput(f"{path}: a folder without *.jsonl files")
    return files


def _lines(file: Path) -> Iterator[tuple[str, bytes]]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}") from error
    # Only at \n: JSON text may carry U+2028 and its like, at which str.splitlines would cut a line in two.
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield f"{file}, line {number}", line


def _chat(place: str, line: bytes) -> Chat:
    try:
        value = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{place}: not a line of JSON: {error}") from error
    if not isinstance(value, dict) or not isinstance(value.get("messages"), list):
        raise BadInput(f'{place}: an object with "id" and a list "messages" is needed')
    try:
        return Chat(check_session_id(value.get("id")), tuple(_message(m) for m in value["messages"]))
    except (InvalidSessionId, InvalidMessage) as error:
        raise BadInput(f"{place}: {error}") from error


def _message(value: Any) -> ChatDict:
    chat: ChatDict = Message.from_dict(value).to_dict()
    if chat != value and json.dumps(chat) != json.dumps(value):  # the dumps agree where NaN makes equals unequal
        raise InvalidMessage("message", "it does not come back as it went in")
    return chat
