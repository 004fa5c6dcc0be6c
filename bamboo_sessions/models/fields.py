"""Fields of the head as attributes of a session: to read, or to read and assign, with a name and a rule in one line each."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar, cast, overload

from bamboo_sessions.models.state import Head
from bamboo_sessions.models.values import checked_text

T = TypeVar("T")


class HasHead(Protocol):
    """What has such fields."""

    _head: Head

    def _edit(self, **changes: Any) -> None: ...


class Text:
    """A plain text field of the head: read from it, replaced on assignment. None means "not set"."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, session: None, owner: type) -> Text: ...
    @overload
    def __get__(self, session: HasHead, owner: type) -> str | None: ...
    def __get__(self, session: HasHead | None, owner: type) -> Text | str | None:
        return self if session is None else cast("str | None", getattr(session._head, self.name))

    def __set__(self, session: HasHead, value: str | None) -> None:
        session._edit(**{self.name: None if value is None else checked_text(value, self.name)})


class Read(Generic[T]):
    """A field of the head that only the library sets."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, session: None, owner: type) -> Read[T]: ...
    @overload
    def __get__(self, session: HasHead, owner: type) -> T: ...
    def __get__(self, session: HasHead | None, owner: type) -> Read[T] | T:
        return self if session is None else cast("T", getattr(session._head, self.name))

    def __set__(self, session: HasHead, value: object) -> None:
        raise AttributeError(f"session.{self.name} is set by the library")
