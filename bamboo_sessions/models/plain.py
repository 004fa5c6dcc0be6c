"""A session as one plain JSON object and back: for users, and for storages that keep sessions whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from hashlib import blake2b
from typing import Any

import attrs

from bamboo_sessions.errors import InvalidMessage, InvalidValue
from bamboo_sessions.ids import check_session_id
from bamboo_sessions.models.alignment import refuse_repeats
from bamboo_sessions.models.message import Message
from bamboo_sessions.models.messages import Messages
from bamboo_sessions.models.question import PendingQuestion
from bamboo_sessions.models.state import Head, State
from bamboo_sessions.models.times import from_text, to_text
from bamboo_sessions.models.values import checked_text, checked_type, pack, unpack

_TIMES = ("created_at", "updated_at")
_PLAIN = tuple(
    field.name for field in attrs.fields(Head)
    if field.name not in (*_TIMES, "id", "birth", "tags", "questions", "closed_questions", "metadata", "extra",
                          "lost_revisions")  # as the base: it belongs to the store, not to what is said
)


def session_to_dict(state: State) -> dict[str, Any]:
    """Every field under its own name, `questions`, `closed_questions`, `messages` in chat form, `message_ids` beside."""
    head = state.head
    made: dict[str, Any] = {"id": head.id, "birth": head.birth}
    made |= {name: to_text(getattr(head, name)) for name in _TIMES}
    made |= {name: getattr(head, name) for name in _PLAIN}
    made["tags"] = sorted(head.tags)
    made["questions"] = [question.to_dict() for question in head.questions]
    made["closed_questions"] = list(head.closed_questions)
    made["metadata"] = {key: unpack(value) for key, value in head.metadata.items()}
    made["messages"] = [message.to_dict() for message in state.messages]
    made["message_ids"] = [message.id for message in state.messages]
    return {**{key: unpack(value) for key, value in head.extra.items()}, **made}


def state_from_dict(value: Mapping[str, Any], now: datetime) -> State:
    """The reverse; only `id` is required. Unknown keys are kept."""
    rest: dict[str, Any] = dict(value)
    fields: dict[str, Any] = {"id": check_session_id(rest.pop("id", None)),
                              "birth": checked_text(rest.pop("birth", None) or "", "birth")}
    for name in _TIMES:
        text = rest.pop(name, None)
        fields[name] = now if text is None else from_text(text)
    fields |= {name: rest.pop(name) for name in _PLAIN if name in rest}
    _check_types(fields)
    fields["tags"] = frozenset(checked_text(tag, "tag") for tag in _many(rest, "tags"))
    fields["questions"] = tuple(PendingQuestion.from_dict(question) for question in _many(rest, "questions"))
    fields["closed_questions"] = tuple(dict.fromkeys(checked_text(t, "token") for t in _many(rest, "closed_questions")))
    fields["metadata"] = _packed(checked_type(rest.pop("metadata", {}), dict, "metadata"))
    named = rest.get("message_ids") is not None
    messages = _messages(_many(rest, "messages"), _many(rest, "message_ids") if named else None)
    rest.pop("message_ids", None)
    fields["extra"] = {checked_text(key, "field name"): pack(item, key) for key, item in rest.items()}
    return State(Head(**fields), Messages.of(messages))


def _many(rest: dict[str, Any], name: str) -> list[Any]:
    value = rest.pop(name, ())
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise InvalidValue(name, f"a list is needed, not {type(value).__name__}")
    return list(value)


def _packed(metadata: Mapping[str, Any]) -> dict[str, bytes]:
    return {checked_text(key, "metadata key"): pack(item, f"metadata[{key!r}]") for key, item in metadata.items()}


def _check_types(fields: Mapping[str, Any]) -> None:
    defaults = attrs.fields_dict(Head)
    for name in _PLAIN:
        if name not in fields:
            continue
        value, default = fields[name], defaults[name].default
        if default is None and value is not None:
            checked_text(value, name)
        elif default is not None and type(value) is not type(default):
            raise InvalidValue(name, f"{type(default).__name__} is needed, not {type(value).__name__}")


def _messages(chats: list[Any], ids: list[Any] | None) -> list[Message]:
    if ids is None:
        return [*_named_by_content(chats)]
    if len(ids) != len(chats):
        raise InvalidMessage("message_ids", f"{len(ids)} ids for {len(chats)} messages")
    refuse_repeats(messages := [Message.from_dict(chat, id) for chat, id in zip(chats, ids, strict=True)])
    return messages


def _named_by_content(chats: Iterable[Mapping[str, Any]]) -> Iterable[Message]:
    """Ids from content and occurrence: a storage that keeps no ids then gives the same ones at each reading."""
    seen: Counter[str] = Counter()
    for chat in chats:
        message = Message.from_dict(chat)
        digest = blake2b(message.chat_bytes, digest_size=9).hexdigest()
        seen[digest] += 1
        named = message.with_id(f"{digest}-{seen[digest]}")
        named._fresh = True  # the id is a guess: a message that is known by content keeps the id it has
        yield named
