"""One conversation in the caller's hands: a mutable handle over an immutable state.

A `Session` belongs to whoever loaded it. Changing it replaces the handle's own state; other copies, the cache and the
storage see nothing until `save`, which merges. What the copy descends from travels with it privately (`_origin`), with
copy, deepcopy and pickle, so that a save can tell "I removed this" from "I never saw it".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from bamboo_sessions.clock import SYSTEM_CLOCK, Clock
from bamboo_sessions.errors import InvalidMessage, InvalidValue, QuestionNotOpen
from bamboo_sessions.ids import check_session_id, new_birth, new_token
from bamboo_sessions.models.alignment import align
from bamboo_sessions.models.fields import Read, Text
from bamboo_sessions.models.message import Message
from bamboo_sessions.models.messages import Messages
from bamboo_sessions.models.metadata import Metadata
from bamboo_sessions.models.plain import session_to_dict, state_from_dict
from bamboo_sessions.models.question import PendingQuestion
from bamboo_sessions.models.state import CLOSED_KEPT, Head, Origin, State, changed
from bamboo_sessions.models.times import checked_time
from bamboo_sessions.models.values import check, checked_text, freeze, unpack

_NOWHERE = Origin()


class Session:
    """A conversation and its state. Make one with `Session.new`, get one with `SessionRepository.load`.

    The copy is the caller's own: nobody sees a change before `save`. Not for two threads at once; each thread loads its
    own copy. Equal to another session with the same content, ids and times, whatever the revision.
    """

    __slots__ = ("_clock", "_head", "_messages", "_metadata", "_origin")

    _clock: Clock
    _head: Head
    _messages: Messages
    _metadata: Metadata | None
    _origin: Origin

    id = Read[str]()
    """The name that the caller gave: 1 to 512 characters, without NUL and lone surrogates."""
    birth = Read[str]()
    """A random token made by `Session.new`; tells a re-created session from its deleted predecessor."""
    revision = Read[int]()
    """How many changes were committed; 0: never saved."""
    created_at = Read[datetime]()
    """When `Session.new` made it (UTC)."""
    title_source = Read["str | None"]()
    """Who gave the title: "user", "generated", or None."""
    title_version = Read[int]()
    """How often the title was changed, by anybody; from 0."""
    metadata_version = Read[int]()
    """How often a person changed the title, the pin, the archive flag or the tags; from 0."""
    model = Text()
    """Which model answers; any text, or None. Assigning what is no text raises `InvalidValue`; so for the next four."""
    provider = Text()
    """Who runs the model; any text, or None."""
    external_id = Text()
    """The conversation's name in another system; any text, or None."""
    context_id = Text()
    """What the conversation belongs to, such as a project; any text, or None. Lists can be filtered by it."""
    parent_id = Text()
    """The id of the session that this one came from; any text, or None. Lists can be filtered by it."""

    def __init__(self) -> None:
        raise TypeError("use Session.new(id, …) for a new session, repo.load(id) for a stored one")

    @classmethod
    def new(cls, id: str, *, model: str | None = None, provider: str | None = None,  # noqa: A002 - `id` is the word of the domain
            external_id: str | None = None, context_id: str | None = None, parent_id: str | None = None,
            title: str | None = None, metadata: Mapping[str, Any] | None = None,
            created_at: datetime | None = None, updated_at: datetime | None = None,
            clock: Clock = SYSTEM_CLOCK) -> Session:
        """A session that nobody has saved yet, at revision 0.

        Times are aware datetimes and default to now. A `title` counts as given by a person. Raises `InvalidSessionId`, and
        `InvalidValue` for a naive time, a text field that is no text, or metadata that JSON cannot carry.
        """
        now = clock.now()
        born = now if created_at is None else checked_time(created_at, "created_at")
        when = now if updated_at is None else checked_time(updated_at, "updated_at")
        head = Head(id=check_session_id(id), birth=new_birth(), created_at=born, updated_at=when)
        session = cls._of(State(head, Messages.of(())), _NOWHERE, clock)
        for name, value in (("model", model), ("provider", provider), ("external_id", external_id),
                            ("context_id", context_id), ("parent_id", parent_id), ("title", title)):
            if value is not None:
                setattr(session, name, value)
        session._metadata = Metadata()
        session._metadata.update(metadata or {})
        session._head = changed(session._head, updated_at=when)
        return session

    @classmethod
    def _of(cls, state: State, origin: Origin, clock: Clock = SYSTEM_CLOCK) -> Session:
        session = cls.__new__(cls)
        session._head, session._messages, session._metadata = state.head, state.messages, None
        session._origin, session._clock = origin, clock
        return session

    # -- copies --------------------------------------------------------------------------------------------------

    def snapshot(self) -> Session:
        """An isolated copy that descends from the same committed state; O(1), whatever the session's length.

        Raises `InvalidValue` where something was put into opened metadata that JSON cannot carry.
        """
        made = Session.__new__(Session)
        made._head = self._head if self._metadata is None else self._settled()
        made._messages = self._messages
        made._metadata = None
        made._origin = self._origin
        made._clock = self._clock
        return made

    __copy__ = snapshot

    def __deepcopy__(self, memo: object) -> Session:
        return self.snapshot()

    def as_new(self, id: str | None = None) -> Session:  # noqa: A002 - `id` is the word of the domain
        """The same conversation as a session of its own: a new birth, never saved; under `id` where one is given.

        What to do after `SessionDeleted`. Raises `InvalidSessionId`.
        """
        head = changed(self._settled(), id=self.id if id is None else check_session_id(id), birth=new_birth(),
                            revision=0)
        return Session._of(State(head, self._messages), _NOWHERE, self._clock)

    def __getstate__(self) -> tuple[State, Origin]:
        return self._state(), self._origin

    def __setstate__(self, kept: tuple[State, Origin]) -> None:
        state, self._origin = kept
        self._head, self._messages, self._metadata, self._clock = state.head, state.messages, None, SYSTEM_CLOCK

    def __reduce__(self) -> tuple[object, ...]:
        return Session.__new__, (Session,), self.__getstate__()

    def _state(self) -> State:
        return State(self._settled(), self._messages)

    def _settled(self) -> Head:
        """The head with what the caller did to opened metadata; raises `InvalidValue` for what cannot be kept."""
        if self._metadata is not None:
            packed = self._metadata.packed(self._head.metadata)
            if packed is not self._head.metadata:
                self._head = changed(self._head, metadata=packed)
        return self._head

    def _adopt(self, state: State, origin: Origin) -> None:
        """Become `state`; metadata that the caller has opened follows in place."""
        if self._metadata is not None:
            self._metadata.follow(self._settled().metadata, state.head.metadata)
        self._head, self._messages, self._origin = state.head, state.messages, origin

    def _edit(self, **changes: Any) -> None:
        self._head = changed(self._head, **{"updated_at": self._clock.now(), **changes})

    # -- messages ------------------------------------------------------------------------------------------------

    @property
    def messages(self) -> Messages:
        """A snapshot of the messages in order: a sequence that equals a list. Assigning is `replace_messages`.

        It cannot be changed in place: `append` and the like raise a TypeError that names the method to use. Slices and
        sums are lists.
        """
        return self._messages

    @messages.setter
    def messages(self, messages: Iterable[Message | Mapping[str, Any]]) -> None:
        self.replace_messages(messages)

    def add_message(self, message: Message | Mapping[str, Any]) -> Message:
        """Append one message (or its chat form) and give it back; O(1).

        Raises `InvalidMessage` where its id is here already, or the chat form cannot be kept.
        """
        message = _as_message(message)
        if message._fresh:
            message._fresh = False  # a random id that no session has seen needs no search
        elif self._messages.index_of(message.id) >= 0:
            raise InvalidMessage(f"message {message.id!r}", f"session {self.id!r} has a message of this id already")
        self._messages = self._messages.appended(message)
        self._edit()
        return message

    def replace_message(self, message_id: str, message: Message | Mapping[str, Any]) -> Message:
        """Put `message` in the place of the one of that id, which it keeps. Raises `InvalidMessage` where there is none."""
        at = self._index(message_id)
        made = _as_message(message).with_id(message_id)
        rest = self._messages[at + 1 :]
        self._messages = self._messages.kept(at).appended(made, *rest)
        self._edit()
        return made

    def remove_message(self, message_id: str) -> None:
        """Take the message of that id out. Raises `InvalidMessage` where there is none."""
        at = self._index(message_id)
        self._messages = self._messages.kept(at).appended(*self._messages[at + 1 :])
        self._edit()

    def replace_messages(self, messages: Iterable[Message | Mapping[str, Any]]) -> None:
        """Make these the messages, aligned with the present ones by id first, then by equal content in order.

        Handing the same history back changes nothing, a longer one is an append: frameworks do that every turn. Raises
        `InvalidMessage` where one cannot be kept or an id comes twice; then nothing has changed.
        """
        old = self._messages
        new = align(old, [_as_message(message) for message in messages])
        keep = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if not a.same_as(b)),
                    min(len(old), len(new)))
        if keep == len(old) == len(new):
            return
        self._messages = old.kept(keep).appended(*new[keep:])
        self._edit()

    def _index(self, message_id: str) -> int:
        at = self._messages.index_of(message_id)
        if at < 0:
            raise InvalidMessage(f"message {message_id!r}", f"session {self.id!r} has no message of this id")
        return at

    # -- questions -----------------------------------------------------------------------------------------------

    @property
    def pending_question(self) -> PendingQuestion | None:
        """The oldest open question; None where none is open."""
        questions = self._head.questions
        return questions[0] if questions else None

    @property
    def pending_questions(self) -> tuple[PendingQuestion, ...]:
        """All open questions, oldest first."""
        return self._head.questions

    def set_pending_question(self, tool_call_id: str, question: str, *, tool_name: str | None = None,
                             options: Iterable[Any] = (), allow_custom: bool = True) -> PendingQuestion:
        """Ask. While a question is open under this call id in this copy, its text is replaced; else a new one opens.

        `options` are what the person may pick, any JSON values; `allow_custom` says whether free text is an answer as
        well. Neither is enforced here: they are for whoever shows the question. Raises `InvalidValue` for what JSON
        cannot carry.
        """
        checked_text(tool_call_id, "tool_call_id")
        offered = list(options)
        check(offered, f"options of question {tool_call_id!r}")
        open_now = next((q for q in self._head.questions if q.tool_call_id == tool_call_id), None)
        asked = PendingQuestion(
            tool_call_id=tool_call_id, token=new_token() if open_now is None else open_now.token, question=question,
            tool_name=tool_name, options=tuple(freeze(offered)), allow_custom=allow_custom,
            asked_at=self._clock.now() if open_now is None else open_now.asked_at,
            extra={} if open_now is None else open_now.extra)
        asked = PendingQuestion.unpacked(asked.packed())  # refused here, not at a save; and no caller's list inside
        if open_now is None:
            self._edit(questions=(*self._head.questions, asked))
        else:
            self._edit(questions=tuple(asked if q is open_now else q for q in self._head.questions))
        return asked

    def clear_pending_question(self, tool_call_id: str | None = None) -> bool:
        """Close the question of that call id; None: every question open in this copy. True where one was open."""
        closing = [q for q in self._head.questions if tool_call_id in (None, q.tool_call_id)]
        if not closing:
            return False
        closed = (*self._head.closed_questions, *(q.token for q in closing))[-CLOSED_KEPT:]
        self._edit(questions=tuple(q for q in self._head.questions if q not in closing), closed_questions=closed)
        return True

    def answer(self, tool_call_id: str, answer: str | list[Any], *, append_result: bool = True) -> None:
        """Close the question and append the tool result: text, or a list of content parts.

        In this copy only, until it is saved; `SessionRepository.answer` does it in one step for everybody. Raises
        `QuestionNotOpen` where it is not open here, `InvalidMessage` for an answer that cannot be kept.
        """
        result = Message.tool_result(tool_call_id, answer) if append_result else None
        if not self.clear_pending_question(tool_call_id):
            raise QuestionNotOpen(self.id, tool_call_id)
        if result is not None:
            self.add_message(result)

    # -- what people edit ----------------------------------------------------------------------------------------

    @property
    def title(self) -> str | None:
        """The title. Assigning is an edit by a person: no generated title replaces it any more; None takes it away.

        Raises `InvalidValue` for what is no text or holds a lone surrogate.
        """
        return self._head.title

    @title.setter
    def title(self, title: str | None) -> None:
        self.set_title(title)

    def set_title(self, title: str | None, *, source: str = "user") -> bool:
        """Give a title; `source` is "user" or "generated". False where a generated one met a title of a user.

        Raises `InvalidValue` for another source or what is no text.
        """
        if source not in ("user", "generated"):
            raise InvalidValue("title source", f'"user" or "generated" is needed, not {source!r}')
        if source == "generated" and self._head.title_source == "user":
            return False
        text = None if title is None else checked_text(title, "title")
        by = None if text is None else source
        if (text, by) != (self._head.title, self._head.title_source):
            edit = self._edit_as_person if source == "user" else self._edit  # a runtime never raises metadata_version
            edit(title=text, title_source=by, title_version=self._head.title_version + 1)
        return True

    @property
    def pinned(self) -> bool:
        """Whether a person pinned the session."""
        return self._head.pinned

    @pinned.setter
    def pinned(self, pinned: bool) -> None:
        if bool(pinned) != self._head.pinned:
            self._edit_as_person(pinned=bool(pinned))

    @property
    def archived(self) -> bool:
        """Whether a person put the session away."""
        return self._head.archived

    @archived.setter
    def archived(self, archived: bool) -> None:
        if bool(archived) != self._head.archived:
            self._edit_as_person(archived=bool(archived))

    @property
    def tags(self) -> frozenset[str]:
        """The tags; assign a set to replace them, `session.tags |= {"x"}` to add one.

        Raises `InvalidValue` for a single string, which would be taken for its letters.
        """
        return self._head.tags

    @tags.setter
    def tags(self, tags: Iterable[str]) -> None:
        if isinstance(tags, str):
            raise InvalidValue("tags", "a set of strings is needed, not one string")
        made = frozenset(checked_text(tag, "tag") for tag in tags)
        if made != self._head.tags:
            self._edit_as_person(tags=made)

    def _edit_as_person(self, **changes: Any) -> None:
        self._edit(metadata_version=self._head.metadata_version + 1, **changes)

    # -- metadata, time ------------------------------------------------------------------------------------------

    @property
    def metadata(self) -> Metadata:
        """Plain JSON values by key, the caller's own; changes in place, nested ones too, count and are saved.

        Assigning what JSON cannot carry raises `InvalidValue`; where it was put into a nested value, the save does.
        """
        if self._metadata is None:
            self._metadata = Metadata.unpacked(self._head.metadata)
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: Mapping[str, Any]) -> None:
        made = Metadata()
        made.update(metadata)
        self._metadata = made
        self._edit()

    @property
    def extra(self) -> dict[str, Any]:
        """Fields that this version does not know, a copy; they survive load, merge and save."""
        return {key: unpack(value) for key, value in self._head.extra.items()}

    @property
    def updated_at(self) -> datetime:
        """When it was last changed (UTC, to the microsecond). `save` moves it forward, past what storage has.

        Assigning needs an aware datetime, else `InvalidValue`.
        """
        return self._head.updated_at

    @updated_at.setter
    def updated_at(self, when: datetime) -> None:
        self._head = changed(self._head, updated_at=checked_time(when, "updated_at"))

    # -- plain form ----------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The whole session as plain JSON values, the caller's own: every field under its name, times as text in UTC,
        `messages` in chat form, `message_ids` in the same order. What the copy descends from stays behind.
        """
        return session_to_dict(self._state())

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], *, clock: Clock = SYSTEM_CLOCK) -> Session:
        """The reverse of `to_dict`; only `id` is required, unknown keys are kept (see `extra`).

        Without `message_ids` the ids follow from content, the same at each reading. Raises `InvalidSessionId`,
        `InvalidMessage`, `InvalidValue`.
        """
        return cls._of(state_from_dict(value, clock.now()), _NOWHERE, clock)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Session):
            return NotImplemented
        return self is other or self._state().same_as(other._state())

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"<Session {self.id!r} revision {self.revision}, {len(self._messages)} messages>"


def _as_message(message: Message | Mapping[str, Any]) -> Message:
    return message if isinstance(message, Message) else Message.from_dict(message)
