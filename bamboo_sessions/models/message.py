"""One message of a conversation: immutable, encoded once in its life, decoded only when somebody looks at it.

A message is kept as the line that storages hold (`{"id":"…","m":{…chat form…}}`). Loading, caching, merging and saving
move that line without opening it; the chat form is decoded at the first look at a field. The id belongs to the
envelope: it is given once and is never read from or written into the chat form, whose own `id`, if any, is content.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final

import attrs
import orjson

from bamboo_sessions._json import loads
from bamboo_sessions.errors import InvalidMessage, InvalidValue
from bamboo_sessions.ids import new_token
from bamboo_sessions.models.values import checked_text, decode_text, deeply, encode_plain, encode_text, freeze

_ID_AT: Final = 7  # behind {"id":"
_PLAIN: Final = b',"m":'


class Role(StrEnum):
    """The roles of the OpenAI chat form. `Message.role` is a plain string: roles beyond these are kept as they are."""

    ASSISTANT = "assistant"
    DEVELOPER = "developer"
    FUNCTION = "function"
    SYSTEM = "system"
    TOOL = "tool"
    USER = "user"


@attrs.frozen(slots=True)
class ToolCall:
    """One call of a tool, read from any of the chat forms in use; `arguments` as given: JSON text or an object."""

    id: str | None
    name: str | None
    arguments: str | Mapping[str, Any] = "{}"

    def to_dict(self) -> dict[str, Any]:
        """The call in OpenAI form."""
        arguments = dict(self.arguments) if isinstance(self.arguments, Mapping) else self.arguments
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": arguments}}

    @classmethod
    def from_dict(cls, call: Mapping[str, Any]) -> ToolCall:
        """Read `{"id", "function": {"name", "arguments"}}`, or a variant with name and arguments beside the id.

        An id that is no text counts as none: it could not be compared with a result's.
        """
        inner = call.get("function")
        inside: Mapping[str, Any] = inner if isinstance(inner, Mapping) else call
        name = inside.get("name", inner if isinstance(inner, str) else None)
        call_id = call.get("id")
        return cls(call_id if isinstance(call_id, str) else None, name, inside.get("arguments", "{}"))


class Message:
    """One message in OpenAI chat form; unknown keys are kept, `from_dict(d).to_dict() == d`.

    `fields` are further keys of the chat form, such as `name`; `id` None draws a random one. Two messages are equal where
    their chat forms are; the `id` is who they are, not what they say. Raises
    `InvalidMessage` for what cannot be kept: a value JSON has no form for, a key that is no string, over 900 levels.
    """

    __slots__ = ("_chat", "_fresh", "_id", "_line")

    _line: bytes
    _id: str | None
    _chat: Mapping[str, Any] | None
    _fresh: bool

    def __init__(self, role: str, content: str | list[Any] | None = None, *, id: str | None = None,  # noqa: A002 - `id` is the word of the domain
                 tool_calls: Iterable[ToolCall | Mapping[str, Any]] | None = None,
                 **fields: Any) -> None:  # Any: whatever JSON the chat form of a provider has
        chat: dict[str, Any] = {"role": _text(role, "role"), "content": content, **fields}
        if tool_calls is not None:
            chat["tool_calls"] = [call.to_dict() if isinstance(call, ToolCall) else call for call in tool_calls]
        self._fill(chat, id)

    def _fill(self, chat: Mapping[str, Any], id: str | None) -> None:  # noqa: A002 - `id` is the word of the domain
        self._fresh = id is None
        self._id = new_token() if id is None else _checked_id(id)
        self._line = _envelope(self._id, chat)
        self._chat = None

    @classmethod
    def from_dict(cls, chat: Mapping[str, Any], id: str | None = None) -> Message:  # noqa: A002 - `id` is the word of the domain
        """A message from its chat form, any of the variants in the wild. `id` None draws a random one."""
        if not isinstance(chat, dict):
            raise InvalidMessage("message", f"a dict is needed, not {type(chat).__name__}")
        message = cls.__new__(cls)
        message._fill(chat, id)
        return message

    @classmethod
    def from_line(cls, line: bytes) -> Message:
        """A message from the line that a storage kept; nothing is decoded."""
        message = cls.__new__(cls)
        message._line = line
        message._id = message._chat = None
        message._fresh = False
        return message

    @classmethod
    def system(cls, content: str | list[Any], **fields: Any) -> Message:
        """An instruction to the model."""
        return cls(Role.SYSTEM, content, **fields)

    @classmethod
    def user(cls, content: str | list[Any], **fields: Any) -> Message:
        """What a person said: text, or a list of parts."""
        return cls(Role.USER, content, **fields)

    @classmethod
    def assistant(cls, content: str | list[Any] | None = None, **fields: Any) -> Message:
        """What the model said, with `tool_calls=[ToolCall(…)]` where it calls tools."""
        return cls(Role.ASSISTANT, content, **fields)

    @classmethod
    def tool_result(cls, tool_call_id: str, content: str | list[Any], **fields: Any) -> Message:
        """The result of the tool call of that id."""
        return cls(Role.TOOL, content, tool_call_id=tool_call_id, **fields)

    # -- reading -------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The message's name within its session, given once."""
        if self._id is None:
            end = self._id_end()
            self._id = loads(self._line[_ID_AT - 1 : end + 1])
        return self._id

    @property
    def line(self) -> bytes:
        """What storages keep: one JSON object without a line break."""
        return self._line

    @property
    def chat_bytes(self) -> bytes:
        """The chat form as stored; equal bytes mean equal messages (the reverse need not hold)."""
        return self._line[self._id_end() + 1 :]

    def _id_end(self) -> int:
        line = self._line
        end = line.index(b'"', _ID_AT)
        while line[end - 1] == 0x5C:  # an id of the caller's own may hold an escaped quote
            escapes = end - len(line[:end].rstrip(b"\\"))
            if escapes % 2 == 0:
                break
            end = line.index(b'"', end + 1)
        return end

    def to_dict(self) -> dict[str, Any]:
        """The chat form, a fresh plain dict of the caller's own."""
        body = loads(self._line)
        chat: dict[str, Any] = body["m"] if "m" in body else decode_text(body["text"])
        return chat

    @property
    def _data(self) -> Mapping[str, Any]:
        if self._chat is None:
            self._chat = freeze(self.to_dict())
        return self._chat

    def get(self, key: str, default: Any = None) -> Any:
        """A key of the chat form, known to this library or not; nested values are frozen."""
        return self._data.get(key, default)

    @property
    def role(self) -> str:
        """Who speaks; "" where the chat form has no role."""
        return str(self._data.get("role") or "")

    @property
    def content(self) -> Any:  # Any: text, parts, None, or whatever a provider puts there
        """Text, a frozen list of parts, or None."""
        return self._data.get("content")

    @property
    def name(self) -> str | None:
        """The speaker's or tool's name, where given."""
        name = self._data.get("name")
        return name if isinstance(name, str) else None

    @property
    def tool_call_id(self) -> str | None:
        """Which call this is the result of, where given."""
        call_id = self._data.get("tool_call_id")
        return call_id if isinstance(call_id, str) else None

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls this message makes, from `tool_calls` or the older `function_call`; empty where there are none."""
        calls = self._data.get("tool_calls")
        if calls is None and (legacy := self._data.get("function_call")) is not None:
            calls = [legacy]
        if not isinstance(calls, list):
            return ()
        return tuple(ToolCall.from_dict(call) for call in calls if isinstance(call, Mapping))

    # -- identity ------------------------------------------------------------------------------------------------

    def same_as(self, other: Message) -> bool:
        """The same message with the same content, by the stored bytes."""
        return self is other or self._line == other._line

    @property
    def key(self) -> bytes:
        """Equal for the same content, whatever the order of its keys, and for nothing else: 1, 1.0 and True differ."""
        if self.chat_bytes.startswith(_PLAIN):
            return orjson.dumps(loads(self._line)["m"], option=orjson.OPT_SORT_KEYS)
        return encode_text(self.to_dict(), "message", sort_keys=True).encode()  # orjson would write NaN as null

    def says_as(self, other: Message) -> bool:
        """The same content; stricter than `==`, which Python answers with "yes" for 1 and True."""
        return self.same_as(other) or self.chat_bytes == other.chat_bytes or self.key == other.key

    def with_id(self, id: str) -> Message:  # noqa: A002 - `id` is the word of the domain
        """The same content under another id."""
        return Message.from_line(b'{"id":' + orjson.dumps(id) + self.chat_bytes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        if self is other or self.chat_bytes == other.chat_bytes:
            return True
        return deeply(lambda: self._data == other._data)

    def __hash__(self) -> int:
        content = self.content
        return hash((self.role, content if isinstance(content, str) else None))

    def __reduce__(self) -> tuple[object, ...]:
        return Message.from_line, (self._line,)

    def __copy__(self) -> Message:
        return self

    def __deepcopy__(self, memo: object) -> Message:
        return self

    def __repr__(self) -> str:
        content = self.content
        shown = deeply(lambda: repr(content))
        return f"<Message {self.id} {self.role}: {shown if len(shown) <= 60 else shown[:57] + '...'}>"


def _checked_id(id: object) -> str:  # noqa: A002 - `id` is the word of the domain
    text = _text(id, "message id")
    if not text:
        raise InvalidMessage("message id", "it is empty")
    return text


def _text(value: object, where: str) -> str:
    try:
        return checked_text(value, where)
    except InvalidValue as error:
        raise InvalidMessage(error.where, error.reason) from error


def _envelope(id: str, chat: Mapping[str, Any]) -> bytes:  # noqa: A002 - `id` is the word of the domain
    try:
        plain = encode_plain(chat, "message")
        if plain is not None:
            return b'{"id":%b,"m":%b}' % (orjson.dumps(id), plain)
        return b'{"id":%b,"text":%b}' % (orjson.dumps(id), orjson.dumps(encode_text(chat, "message")))
    except InvalidValue as error:
        raise InvalidMessage(error.where, error.reason) from error
