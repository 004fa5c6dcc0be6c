"""What sessions look like in the wild, at its worst: ids, messages, metadata and fields that a storage has to carry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from bamboo_sessions.models import Message, Session

WHEN: Final = datetime(2026, 11, 21, 9, 30, 0, 123456, tzinfo=UTC)
"""To the microsecond: a storage that rounds is noticed."""

IDS: Final = (
    "plain", "Plain", "PLAIN", "a/b", "a\\b", "../up", "..", ".", "/root", "~", "-rf", "CON", "nul.txt", "x.json",
    "ends with a dot.", "ends with a space ", " ", "%2e%2e", "100%", "_", "*", "?", "a:b", "a|b", "<tag>", '"quoted"',
    "'; DROP TABLE sessions; --", "{id}", "$HOME", "line\nbreak", "carriage\rreturn", "tab\t", "bell\x07", "\x7f",
    "\u00e9", "e\u0301", "\u00df", "\u0130", "\u2028", "\ufeff", "\uffff", "日本語", "🙂", "x" * 512, "日" * 512, "x" * 511 + "y",
)
"""Each of these names a session of its own, also those that file systems and databases like to take for one another."""


def _deep(levels: int) -> Any:
    """Beyond the 254 levels at which orjson stops writing; short of what Python's own `json` does."""
    value: Any = "bottom"
    for level in range(levels):
        value = [value] if level % 2 else {"in": value}
    return value


VALUES: Final[Mapping[str, Any]] = {
    "null": None, "true": True, "one": 1, "one point oh": 1.0, "minus zero": -0.0, "third": 1 / 3, "tiny": 5e-324,
    "nan": float("nan"), "infinity": float("inf"), "minus infinity": float("-inf"), "long": 2**70, "longest plain": 2**64 - 1,
    "negative": -(2**63), "empty": "", "surrogate": "\ud83d", "controls": "\x00\x1f\x7f\x85", "separators": "\u2028\u2029",
    "escapes": '\\" \\u0041 \\', "nothing in it": [{}, [], ""], "deep": _deep(300), "": "no key", "a.b": {"$json": "no mark"},
    "$set": {"$json": "1"}, "unset": ["unset"], "long text": "word " * 20_000,
}
"""JSON values by what is hard about them."""

CHATS: Final[tuple[Mapping[str, Any], ...]] = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": ""},
    {"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:,"}}]},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "call-1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "call-1", "function": {"name": "g", "arguments": {"x": [1, 2.0]}}}]},
    {"role": "tool", "tool_call_id": "call-1", "content": "done"},
    {"role": "assistant", "function_call": {"name": "old", "arguments": "{}"}},
    {"role": "user", "content": "an id of its own", "id": "msg-1", "name": "Ann"},
    {"content": "no role"},
    {},
    {"role": "user", "content": "again"}, {"role": "user", "content": "again"},
    *({"role": "user", "content": name, "value": value} for name, value in VALUES.items()),
)
"""Chat forms: OpenAI's and its variants, unknown keys, equal neighbours, and every value that is hard to carry."""


def same_json(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON: NaN is NaN, and 1, 1.0 and True are three things. As deep as they go."""
    todo = [(one, other)]
    while todo:
        a, b = todo.pop()
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            if a.keys() != b.keys():
                return False
            todo.extend((a[key], b[key]) for key in a)
        elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
            if len(a) != len(b):
                return False
            todo.extend(zip(a, b, strict=True))
        elif isinstance(a, float) and isinstance(b, float):
            if repr(a) != repr(b):
                return False
        elif isinstance(a, bool) is not isinstance(b, bool) or isinstance(a, float) is not isinstance(b, float) or a != b:
            return False
    return True


def chats(session: Session) -> list[dict[str, Any]]:
    """The chat forms of its messages, in order."""
    return [message.to_dict() for message in session.messages]


def texts(session: Session) -> list[Any]:
    """What its messages say, in order."""
    return [message.content for message in session.messages]


def talk(session_id: str, *words: str) -> Session:
    """A new session in which these words were said."""
    session = Session.new(session_id)
    for word in words:
        session.add_message(Message.user(word))
    return session


def everything(session_id: str = "everything") -> Session:
    """A session with something in every field that a user can fill."""
    session = Session.new(session_id, model="m-1", provider="p", external_id="ext", context_id="ctx", parent_id="parent",
                          metadata={"kept": {"list": [1, {"two": None}]}, "flag": False}, created_at=WHEN)
    for chat in CHATS[:7]:
        session.add_message(Message.from_dict(dict(chat)))
    session.title, session.pinned, session.archived, session.tags = "A title", True, True, {"a", "b/c", "é"}
    session.set_pending_question(tool_call_id="call-2", tool_name="ask", question="Which?", options=["x", {"label": "y"}],
                                 allow_custom=False)
    session.set_pending_question(tool_call_id="call-3", question="And?")
    session.set_pending_question(tool_call_id="call-4", question="Withdrawn")
    session.clear_pending_question("call-4")
    session.updated_at = WHEN
    return session


def counted(session: Session, revision: int) -> Session:
    """The same, as a session that was saved so often."""
    return Session.from_dict({**session.to_dict(), "revision": revision})


SAID_FIELDS: Final = (
    "id", "created_at", "updated_at", "title", "title_source", "title_version", "pinned", "archived", "tags",
    "metadata_version", "model", "provider", "external_id", "context_id", "parent_id", "pending_questions")


def differences(given: Session, found: Session, *, leaving_out: Iterable[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Field by field, what was given and what was found, where they differ; ids, births and revisions aside."""
    names = [name for name in SAID_FIELDS if name not in leaving_out]
    differ = {name: (a, b) for name in names if (a := getattr(given, name)) != (b := getattr(found, name))}
    for name in ("metadata", "extra"):
        a, b = dict(getattr(given, name)), dict(getattr(found, name))
        if not same_json(a, b):
            differ[name] = (a, b)
    if not same_json(chats(given), chats(found)):
        differ["messages"] = (chats(given), chats(found))
    return differ
