"""A question that the agent waits on: who asked, what, and the token that tells two askings under one call id apart.

Real transcripts repeat tool call ids, so the id alone cannot say which asking an answer belongs to. The token is drawn
when a question is opened and closed with it; a closed token never opens again.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from bamboo_sessions.models.times import from_text, to_text
from bamboo_sessions.models.values import check, checked_text, checked_type, freeze, pack, thaw, unpack


def _exactly(value: object) -> bytes:
    """What two questions compare: for Python 1 is True and NaN is not NaN, and both would mislead a merge."""
    return pack(thaw(value), "question")


def _frozen_options(options: object) -> tuple[Any, ...]:
    return () if options is None else tuple(freeze(checked_type(options, list | tuple, "question options")))


@attrs.frozen(slots=True)
class PendingQuestion:
    """An open question, immutable."""

    tool_call_id: str
    """The tool call that waits for the answer."""
    token: str
    """Drawn when the question was opened; tells two askings under one call id apart."""
    question: str
    """What the person is asked."""
    tool_name: str | None = None
    """Which tool asks, where that was said."""
    options: tuple[Any, ...] = attrs.field(default=(), eq=_exactly)  # Any: frameworks offer strings, or objects with label and description
    """What the person may pick: any JSON values, in order."""
    allow_custom: bool = True
    """Whether free text is an answer as well."""
    asked_at: datetime | None = None
    """When it was opened (UTC)."""
    extra: Mapping[str, Any] = attrs.field(factory=dict, eq=_exactly)
    """Fields that this version does not know, kept as they came."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the caller's own."""
        return {
            "tool_call_id": self.tool_call_id, "token": self.token, "tool_name": self.tool_name,
            "question": self.question, "options": [thaw(option) for option in self.options],
            "allow_custom": self.allow_custom, "asked_at": None if self.asked_at is None else to_text(self.asked_at),
            **thaw(self.extra),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> PendingQuestion:
        """The reverse of `to_dict`. Raises `InvalidValue`."""
        rest: dict[str, Any] = dict(checked_type(value, dict, "question"))
        check(rest, "question")
        for name in ("tool_call_id", "token"):
            checked_text(rest.get(name), f"question {name}")
        options = rest.pop("options", None)
        asked_at = rest.pop("asked_at", None)
        return cls(
            tool_call_id=rest.pop("tool_call_id"), token=rest.pop("token"), question=rest.pop("question", ""),
            tool_name=rest.pop("tool_name", None), options=_frozen_options(options),
            allow_custom=rest.pop("allow_custom", True), asked_at=None if asked_at is None else from_text(asked_at),
            extra=freeze(rest),
        )

    def packed(self) -> bytes:
        """JSON bytes for a head; raises `InvalidValue` for what cannot be kept."""
        return pack(self.to_dict(), f"question {self.tool_call_id!r}")

    def __reduce__(self) -> tuple[object, ...]:
        return PendingQuestion.unpacked, (self.packed(),)  # frozen again: by parts, the options would come back plain

    @classmethod
    def unpacked(cls, packed: bytes) -> PendingQuestion:
        """The reverse of `packed`."""
        return cls.from_dict(unpack(packed))
