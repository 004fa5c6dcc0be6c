"""Writers of a torture run: what runtimes and people do with shared sessions, each step written down before and after.

Who may say what is arranged so that the outcome is certain whatever the order. A slot (w0, w1, …) has one process at a
time; messages, tags and metadata keys belong to the slot that made them and are changed by it alone, by later lives too.
Titles, pins and questions are anybody's, and are changed on the newest state, so that the order of commits decides.
Nothing is ever tried twice: what a predecessor left in doubt stays in doubt, and is found to be there or not.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from bamboo_sessions import (
    Message,
    QuestionNotOpen,
    SaveResult,
    Session,
    SessionDeleted,
    SessionNotFound,
    SessionRepository,
)
from tests.torture.kills_lives import CHATS, ROOMS, SESSIONS, Life, MortalFiles, words
from tests.torture.kills_log import Log, what_is_seen
from tests.torture.readers import Looks

REFUSALS = (SessionDeleted, SessionNotFound, QuestionNotOpen)
MOST = 40
"""Own messages in one session above which a slot removes some: the torture is about changes, not about length."""


class Writer:
    """Works until it is killed. `acks_early` is a planted defect, see `kills_defects`."""

    acks_early = False

    def __init__(self, root: str, log: Log, life: Life) -> None:
        self.root, self.log, self.life = root, log, life
        self.dice = random.Random(f"writer {life.seed}")
        self.looks = Looks(log, life)
        self.files = MortalFiles(life)
        self.held: dict[str, Session] = {}
        self.versions: dict[str, int] = {}
        self.told = {"folds": 0, "tails": 0}
        self.number = self.tries = self.begun = 0
        self.known: dict[str, int] = {}
        """How long the log was when this repository surely had the session's newest state."""
        self.open_store()

    def open_store(self) -> None:
        self.repo = SessionRepository.open(self.root, files=self.files)

    def run(self, parent: int) -> None:
        deeds: dict[Callable[[str], None], float] = {
            self.say: 30, self.say_newest: 8, self.save_and_cache: 6, self.revise: 6, self.revise_newest: 4,
            self.insert: 5, self.remove: 4, self.title: 6, self.flag: 4, self.tag: 5, self.tag_held: 3, self.note: 4,
            self.ask: 8, self.answer: 14, self.withdraw: 2, self.usage: 8, self.delete: 4, self.reopen: 0.7}
        choices, weights = list(deeds), list(deeds.values())
        while os.getppid() == parent:
            session_id = self.dice.choice((ROOMS[:2] + CHATS[:3]) if self.dice.random() < 0.5 else SESSIONS)
            self.dice.choices(choices, weights)[0](session_id)

    # -- trying and telling ----------------------------------------------------------------------------------------

    def trying(self, session_id: str, **facts: Any) -> None:
        self.tries, self.begun = self.tries + 1, self.log.now()
        self.log.write("try", o=self.op, s=session_id, life=self.life.name, **facts)

    @property
    def op(self) -> str:
        return f"{self.life.name}#{self.tries}"

    @contextmanager
    def refusable(self, session_id: str, copy: Session | None = None) -> Iterator[None]:
        """A refusal is an answer: this copy's life is over, or there is no such session or question."""
        tries, at, birth = self.tries, self.log.now(), None if copy is None or not copy.revision else copy.birth
        try:
            yield
        except REFUSALS as error:
            if self.tries > tries:
                self.log.write("no", o=self.op, why=type(error).__name__, b=birth)
            elif isinstance(error, SessionNotFound):
                self.looks.saw("newest", session_id, None, at)
            if copy is not None:
                del self.held[session_id]

    def done(self, session: Session, result: SaveResult) -> None:
        facts: dict[str, Any] = {}
        if session.revision == result.revision:
            facts = {**what_is_seen(session), "op": session._origin.base.op}
        counts = {"folds": self.files.folds, "tails": self.repo.storage.tails_cut}
        new = {name: count - self.told.get(name, 0) for name, count in counts.items() if count != self.told.get(name)}
        self.told.update(counts)
        self.log.write("ack", o=self.op, b=session.birth, r=result.revision, ch=result.changed, new=new, **facts)
        self.known[session.id] = self.begun  # others may have been at work since, but not before the commit

    def save(self, session: Session, **facts: Any) -> None:
        """Save a held copy, having said what is new in it."""
        birth = {} if session.revision else {"birth": session.birth}
        with self.refusable(session.id, session):
            self.trying(session.id, **birth, **facts)
            if self.acks_early and session.revision:
                self.log.write("ack", o=self.op, b=session.birth, r=session.revision, ch=False, new={})
            self.done(session, self.repo.save(session))

    def change(self, session_id: str, change: Callable[[Session], object]) -> None:
        """On the newest state, by way of `update` or `edit`; `change` says what it is trying, if anything."""
        tries = self.tries
        with self.refusable(session_id):
            if self.dice.random() < 0.5:
                result = self.repo.update(session_id, change)
                # This thread is alone with its repository: what was published last is what was committed.
                session = self.repo.cache.peek(session_id)
                assert session is not None
                assert session.revision == result.revision
            else:
                with self.repo.edit(session_id) as session:
                    before = session.revision
                    change(session)
                result = SaveResult(session.revision, session.revision > before)
            if self.tries > tries:
                self.done(session, result)

    # -- copies ----------------------------------------------------------------------------------------------------

    def copy(self, session_id: str) -> Session:
        """The held copy, often an old one; a new one now and then."""
        session = self.held.get(session_id)
        if session is None or self.dice.random() < 0.15:
            session = self.held[session_id] = self.fetched(session_id)
        return session

    def fetched(self, session_id: str) -> Session:
        at = self.log.now()
        if self.dice.random() < 0.5:
            session = self.repo.try_load_merged(session_id)
            self.looks.saw("merged", session_id, session, at)
            if session is not None:
                self.known[session_id] = at
                return session
        session = self.repo.load_or_create(session_id, model="m")
        if session.revision:
            self.looks.saw("cached", session_id, session, self.known.get(session_id, 0))
        return session

    def mine(self, session: Session) -> list[Message]:
        return [message for message in session.messages if message.id.startswith(f"{self.life.slot}.")]

    def new_ids(self, count: int) -> list[str]:
        self.number += count
        return [f"{self.life.name}/{self.number - count + n}" for n in range(count)]

    # -- messages --------------------------------------------------------------------------------------------------

    def add(self, session: Session, ids: list[str]) -> dict[str, Any]:
        for message_id in ids:
            session.add_message(Message.user(words(message_id, 0), id=message_id))
        session.metadata[self.life.slot] = ids[-1]
        return {"say": [[message_id, None] for message_id in ids], "set": {f"meta/{self.life.slot}": ids[-1]}}

    def say(self, session_id: str) -> None:
        session = self.copy(session_id)
        self.save(session, **self.add(session, self.new_ids(self.dice.choice((1, 1, 3)))))

    def say_newest(self, session_id: str) -> None:
        self.change(session_id, lambda session: self.trying(session_id, **self.add(session, self.new_ids(1))))

    def save_and_cache(self, session_id: str) -> None:
        session = self.copy(session_id)
        facts = self.add(session, self.new_ids(1))
        with self.refusable(session_id, session):
            self.trying(session_id, **({} if session.revision else {"birth": session.birth}), **facts)
            self.repo.save_and_cache(session)
            self.repo.flush()  # raises where it was kept but not saved; no disk fails here
            self.done(session, SaveResult(session.revision, changed=True))

    def again(self, session: Session) -> dict[str, Any] | None:
        """Say one of its own messages in other words."""
        mine = [message for message in self.mine(session) if not message.tool_calls]
        if not mine:
            return None
        one = self.dice.choice(mine)
        # Higher than any it gave, also where the copy is older than that: what is said last must be told from the rest.
        version = max(version_of(one), self.versions.get(one.id, 0)) + 1
        self.versions[one.id] = version
        session.replace_message(one.id, Message.user(words(one.id, version)))
        return {"revise": [one.id, version]}

    def revise(self, session_id: str) -> None:
        session = self.copy(session_id)
        facts = self.again(session)
        if facts is not None:
            self.save(session, **facts)

    def revise_newest(self, session_id: str) -> None:
        def change(session: Session) -> None:
            facts = self.again(session)
            if facts is not None:
                self.trying(session_id, **facts)

        self.change(session_id, change)

    def insert(self, session_id: str) -> None:
        """A message behind one of its own, in the middle: the whole list is handed back, as frameworks do."""
        session = self.copy(session_id)
        mine = self.mine(session)
        if not mine:
            return
        anchor, (message_id,) = self.dice.choice(mine).id, self.new_ids(1)
        messages = list(session.messages)
        at = next(i for i, message in enumerate(messages) if message.id == anchor) + 1
        session.messages = [*messages[:at], Message.user(words(message_id, 0), id=message_id), *messages[at:]]
        self.save(session, say=[[message_id, anchor]])

    def remove(self, session_id: str) -> None:
        """None that it edited since this copy was loaded: an edit that a deletion had not seen stays, says the merge."""
        session = self.copy(session_id)
        mine = [message.id for message in self.mine(session) if version_of(message) >= self.versions.get(message.id, 0)]
        gone = mine[: len(mine) - MOST // 2] if len(mine) > MOST else self.dice.sample(mine, min(1, len(mine)))
        if gone:
            for message_id in gone:
                session.remove_message(message_id)
            self.save(session, drop=gone)

    # -- what people edit ------------------------------------------------------------------------------------------

    def title(self, session_id: str) -> None:
        source = self.dice.choice(("user", "user", "generated"))

        def change(session: Session) -> None:
            self.trying(session_id, set={"title": f"title by {self.life.name}#{self.tries + 1}"})
            session.set_title(f"title by {self.op}", source=source)

        self.change(session_id, change)

    def flag(self, session_id: str) -> None:
        name, value = self.dice.choice(("pinned", "archived")), self.dice.random() < 0.5

        def change(session: Session) -> None:
            self.trying(session_id, set={name: value})
            setattr(session, name, value)

        self.change(session_id, change)

    def turned(self, session: Session) -> dict[str, Any]:
        """Put one of its own tags on, or take it off."""
        tag = f"{self.life.slot}-{self.dice.choice('abc')}"
        there = tag in session.tags
        session.tags = session.tags - {tag} if there else session.tags | {tag}
        return {"set": {f"tag/{tag}": not there}}

    def tag(self, session_id: str) -> None:
        self.change(session_id, lambda session: self.trying(session_id, **self.turned(session)))

    def tag_held(self, session_id: str) -> None:
        """On an old copy: tags are a set, and nobody else touches this one. Of two creators, one decides on all tags."""
        session = self.copy(session_id)
        if session.revision:
            self.save(session, **self.turned(session))

    def note(self, session_id: str) -> None:
        """A metadata key of its own, set or taken out; on an old copy as well."""
        key, value = f"{self.life.slot}-{self.dice.choice('ab')}", f"{self.life.name}:{self.tries}"

        def noted(session: Session) -> dict[str, Any]:
            if session.metadata.pop(key, None) is None or self.dice.random() < 0.5:
                session.metadata[key] = value
            return {"set": {f"meta/{key}": session.metadata.get(key)}}

        if self.dice.random() < 0.5:
            self.change(session_id, lambda session: self.trying(session_id, **noted(session)))
        else:
            session = self.copy(session_id)
            self.save(session, **noted(session))

    # -- questions -------------------------------------------------------------------------------------------------

    def ask(self, session_id: str) -> None:
        """The model calls a tool that needs a human: the call and the open question are one commit."""
        session, (message_id,) = self.copy(session_id), self.new_ids(1)
        call = f"call-{message_id}"
        session.add_message(Message.assistant(words(message_id, 0), id=message_id, tool_calls=[
            {"id": call, "type": "function", "function": {"name": "ask", "arguments": "{}"}}]))
        session.set_pending_question(call, "Which one?", tool_name="ask", options=["a", "b"])
        self.save(session, say=[[message_id, None]], ask=call)

    def an_open_call(self, session_id: str) -> str | None:
        """As the newest state has it, or as somebody's window has shown it for a while."""
        session = self.held.get(session_id) if self.dice.random() < 0.5 else self.repo.try_load_merged(session_id)
        questions = () if session is None else session.pending_questions
        return questions[0].tool_call_id if questions else None

    def answer(self, session_id: str) -> None:
        """Several slots answer the same questions, some from what they saw a while ago: one of them is first."""
        call = self.an_open_call(session_id)
        if call is None:
            return

        def change(session: Session) -> None:
            self.trying(session_id, answer=[call, f"answer by {self.life.name}#{self.tries + 1}"])
            session.answer(call, f"answer by {self.op}")

        self.change(session_id, change)

    def withdraw(self, session_id: str) -> None:
        def change(session: Session) -> None:
            calls = [question.tool_call_id for question in session.pending_questions]
            mine = [call for call in calls if call.startswith(f"call-{self.life.slot}.")]
            if mine:
                self.trying(session_id, withdraw=mine[0])
                session.clear_pending_question(mine[0])

        self.change(session_id, change)

    # -- the rest --------------------------------------------------------------------------------------------------

    def usage(self, session_id: str) -> None:
        """Mostly in two logs: somebody else soon writes behind what a dead process left unfinished."""
        if self.dice.random() < 0.7:
            session_id = self.dice.choice(ROOMS[:2])
        with self.refusable(session_id):
            self.trying(session_id, usage=f"{self.life.name}:{self.tries + 1}")
            record = {"token": f"{self.life.name}:{self.tries}", "model": "m" * self.dice.choice((1, 60, 400))}
            self.repo.append_token_usage_record(session_id, orjson.dumps(record))
            self.log.write("ack", o=self.op)

    def delete(self, session_id: str) -> None:
        if session_id in ROOMS:
            return
        self.trying(session_id, delete=True)
        was_there = self.repo.delete(session_id)
        self.log.write("ack", o=self.op, there=was_there)
        if self.dice.random() < 0.7:
            self.held.pop(session_id, None)  # else a copy of the life that is over goes on
        self.known[session_id] = at = self.log.now()
        self.looks.saw("after delete", session_id, self.repo.try_load(session_id), at)

    def reopen(self, _: str) -> None:
        self.repo.close()
        self.told["tails"] = 0
        self.open_store()


def version_of(message: Message) -> int:
    return int(message.content.split(" ", 2)[1][1:])
