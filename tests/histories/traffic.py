"""What one thread does: everything that the public face offers, over a few sessions at a time that everybody shares.

Sessions are retired after a few hundred operations, so that what is unknown about one of them never piles up. A thread
keeps some copies for long and saves them late; no two messages, titles or values ever say the same, so that whatever
turns up in a state names the operation that said it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bamboo_sessions import (
    Message,
    QuestionNotOpen,
    RevisionConflict,
    Session,
    SessionDeleted,
    SessionExpired,
    SessionNotFound,
    SessionRepository,
    StorageError,
    ToolCall,
)
from tests.histories.factories import Factory, Noting
from tests.histories.recorder import Pen, plain_state

LONGEST = 26
"""Messages at which a copy is compacted: what is judged is the history, and short sessions make for more of it."""
HELD, HELD_LONG = 5, 40
"""Copies in somebody's hands; where sessions expire, so many that some outlive the session that they are of."""
CALLS = ("ask-1", "ask-2")
KEYS = ("k1", "k2", "k3")
TAGS = ("red", "green", "blue")
UNSPARED = 3
"""Where sessions expire, all but every so many of them are never pinned and ask nothing: else hardly one would expire."""
FAULTY = 6
"""Every so many sessions the storage fails now and then; in the others whatever is seen can be judged to the letter."""


@dataclass(eq=False)
class Held:
    """A copy in somebody's hands: which operation gave it, and which saves of it had no clear end."""

    session: Session
    base: str | None
    tried: list[str] = field(default_factory=list)


class Actor:
    """One thread's work; `now` tells which sessions are talked about, `met` counts what came of it."""

    def __init__(self, factory: Factory, repos: list[Noting], pen: Pen, name: str, seed: str,
                 now: Callable[[], int]) -> None:
        self.factory, self.repos, self.pen, self.name, self.now = factory, repos, pen, name, now
        self.dice = random.Random(seed)
        self.held: list[Held] = []
        self._said = 0
        weights: dict[Callable[[], None], float] = {
            self.load: 17, self.load_merged: 17, self.turn: 22, self.late: 11, self.edit: 7, self.update: 3.5, self.rename: 3,
            self.pin: 1.5, self.tag: 2, self.answer: 4, self.keep: 6, self.hold: 3, self.exists: 1, self.flush: 0.6,
            self.delete: 0.7, self.forget: 0.7}
        if factory.ttl is not None:
            weights |= {self.touch: 12, self.purge: 1.5}
            self.pen.begun("ttl", "", 0, v=int(factory.ttl.total_seconds() * 10**9))
        self._kinds, self._weights = list(weights), list(weights.values())

    def step(self) -> None:
        self.dice.choices(self._kinds, self._weights)[0]()

    # -- choosing

    def sid(self) -> str:
        back = self.dice.choice((0, 0, 0, 1, 1, 2))
        if self.factory.ttl is not None and self.dice.random() < 0.03:
            back = self.dice.randrange(3, 25)  # whose time may have run out
        return f"chat-{max(0, self.now() - back)}"

    def repo(self) -> int:
        return self.dice.randrange(len(self.repos))

    def word(self) -> str:
        self._said += 1
        return f"{self.name}.{self._said}"

    def fault(self, session_id: str, often: float = 0.12) -> str | None:
        """What befalls the storage during one operation."""
        if int(session_id.rpartition("-")[2]) % FAULTY or self.dice.random() > often:
            return None
        return self.dice.choice(self.factory.ways)

    def spares(self, session_id: str) -> bool:
        """Whether something may be done to it that keeps it from expiring."""
        return self.factory.ttl is None or int(session_id.rpartition("-")[2]) % UNSPARED == 0

    # -- looking

    def _look(self, kind: str, session_id: str, repo: int, look: Callable[[str], Any]) -> Held | None:
        began, fault = time.monotonic_ns(), self.fault(session_id, 0.02)
        session, what = None, ""
        try:
            with self.factory.faults.planned(fault):
                session = look(session_id)
            what = self.factory.faults.surprise()
            outcome = "faulty" if fault is not None else "surprise" if what else "ok"
        except StorageError as error:
            outcome, what = "error" if fault is not None else "surprise", f"{type(error).__name__}: {error}"
        name = self.pen.looked(kind, session_id, repo, began, outcome, session, what)
        return None if session is None else Held(session, name)

    def load(self) -> None:
        self._load(self.sid(), self.repo())

    def _load(self, session_id: str, r: int) -> Held | None:
        repo = self.repos[r]
        return self._look("load", session_id, r, self.dice.choice((repo.load, repo.try_load)))

    def load_merged(self) -> None:
        self._load_merged(self.sid(), self.repo())

    def _load_merged(self, session_id: str, r: int) -> Held | None:
        repo = self.repos[r]
        return self._look("load_merged", session_id, r, self.dice.choice((repo.load_merged, repo.try_load_merged)))

    def exists(self) -> None:
        session_id, r, began = self.sid(), self.repo(), time.monotonic_ns()
        there = self.repos[r].exists(session_id)
        self.pen.looked("exists", session_id, r, began, "ok" if there else "absent", None)

    def hold(self) -> None:
        """A copy for later."""
        self._hold(self._begin(self.sid(), self.repo()))

    def _hold(self, taken: Held) -> None:
        self.held = [*self.held, taken][-(HELD if self.factory.ttl is None else HELD_LONG) :]

    def _begin(self, session_id: str, r: int) -> Held:
        look = self.dice.choice((self._load, self._load, self._load_merged))
        return look(session_id, r) or Held(Session.new(session_id, model="m0"), None)

    def forget(self) -> None:
        """The cache lets go of a session that is saved, as it may at any time."""
        session_id, cache = self.sid(), self.repos[self.repo()].cache
        entry = cache.peek_entry(session_id)
        if entry is not None and entry.unsaved is None and int(session_id.rpartition("-")[2]) % FAULTY:
            cache.invalidate(session_id)  # not where it could hold unsaved changes by now: those the caller would drop

    # -- saving

    def turn(self) -> None:
        taken = self._begin(self.sid(), self.repo())
        self._change(taken.session)
        self._save(taken, self.repo())
        if self.dice.random() < 0.25:
            self._hold(taken)

    def late(self) -> None:
        """An old copy, perhaps through another repository."""
        if self.held:
            held = self.dice.choice(self.held)
            self._change(held.session)
            self._save(held, self.repo())

    def keep(self) -> None:
        taken = self._begin(self.sid(), self.repo())
        self._change(taken.session)
        self._save(taken, self.repo(), keeping=True)

    def _save(self, held: Held, r: int, *, keeping: bool = False, may_fail: bool = True) -> None:
        session, fault = held.session, self.fault(held.session.id, 0.5 if keeping else 0.1 if may_fail else 0)
        name = self.pen.begun("save_and_cache" if keeping else "save", session.id, r, b=held.base, a=held.tried,
                              m=plain_state(session))
        saved: Any = None
        try:
            with self.factory.faults.planned(fault):
                if keeping:
                    self.repos[r].save_and_cache(session)
                    saved = self.repos[r].noted()
                else:
                    saved = self.repos[r].save(session)
        except SessionDeleted:
            self.pen.ended(name, "deleted")
            self._begin_anew(held, r)
            return
        except SessionExpired:
            self.pen.ended(name, "expired")
            self._begin_anew(held, r)
            return
        except StorageError as error:
            outcome = self._failed(name, error, fault)
            if outcome == "unknown":
                held.tried = [*held.tried, name]
            return
        if saved is None:
            self.pen.ended(name, "kept")
            held.tried = [*held.tried, name]
            return
        held.base, held.tried = name, []
        self.pen.ended(name, "ok", self.pen.state(session, name), rev=saved.revision, ch=saved.changed)

    def _failed(self, name: str, error: StorageError, fault: str | None) -> str:
        outcome = "unknown" if getattr(error, "outcome", "not applied") == "unknown" else "error"
        if fault is None and not isinstance(error, RevisionConflict):
            outcome = "surprise"
        self.pen.ended(name, outcome, what=f"{type(error).__name__}: {error}")
        return outcome

    def _begin_anew(self, held: Held, r: int) -> None:
        self.held = [other for other in self.held if other is not held]
        if self.dice.random() < 0.2:
            self._save(Held(held.session.as_new(), None), r, may_fail=False)

    # -- on the newest

    def edit(self) -> None:
        session_id, r = self.sid(), self.repo()
        self._on_newest("edit", session_id, r, self._in_a_block)

    def _in_a_block(self, repo: SessionRepository, session_id: str, seen: Callable[[Session], None],
                    wrote: Callable[[Session], None]) -> Any:
        with repo.edit(session_id) as session:
            seen(session)
            self._change(session)
            wrote(session)
        return session

    def update(self) -> None:
        self._on_newest("update", self.sid(), self.repo(), self._by_a_function)

    def _by_a_function(self, repo: SessionRepository, session_id: str, seen: Callable[[Session], None],
                       wrote: Callable[[Session], None]) -> Any:
        def change(session: Session) -> None:
            seen(session)
            self._change(session)
            wrote(session)

        return repo.update(session_id, change)

    def _on_newest(self, kind: str, session_id: str, r: int, do: Callable[..., Any]) -> None:
        """What the body was given and what it made of it are part of the record: of its last run, and while it runs."""
        fault = self.fault(session_id, 0.08)
        name = self.pen.begun(kind, session_id, r)
        given: list[Any] = []

        def seen(session: Session) -> None:
            given[:] = [plain_state(session)]

        def wrote(session: Session) -> None:
            given.append(plain_state(session))
            self.pen._recorder.write({"w": name, "t": time.monotonic_ns(), "x": given})

        self._doing(name, fault, lambda: do(self.repos[r], session_id, seen, wrote))

    def _doing(self, name: str, fault: str | None, do: Callable[[], Any]) -> None:
        try:
            with self.factory.faults.planned(fault):
                made = do()
        except (SessionNotFound, SessionExpired):
            self.pen.ended(name, "absent")
        except SessionDeleted:  # over a storage without a lock, somebody came between
            self.pen.ended(name, "deleted")
        except QuestionNotOpen:
            self.pen.ended(name, "not open")
        except StorageError as error:
            self._failed(name, error, fault)
        else:
            if isinstance(made, Session):
                self.pen.ended(name, "ok", plain_state(made))
            else:
                self.pen.ended(name, "ok", rev=made.revision, ch=made.changed)

    def rename(self) -> None:
        source = self.dice.choice(("user", "generated"))
        title = f"{source} {self.word()}"
        self._intend("title", [title, source], lambda repo, sid: repo.set_title(sid, title, source=source))

    def pin(self) -> None:
        session_id = self.sid()
        pinned = self.spares(session_id) and self.dice.random() < 0.5
        self._intend("pin", pinned, lambda repo, sid: repo.set_pinned(sid, pinned), session_id)

    def tag(self) -> None:
        tag, kind = self.dice.choice(TAGS), self.dice.choice(("tag", "untag"))
        self._intend(kind, tag, lambda repo, sid: (repo.add_tags if kind == "tag" else repo.remove_tags)(sid, tag))

    def answer(self) -> None:
        call, text = self.dice.choice(CALLS), f"answer-{self.word()}"
        self._intend("answer", [call, text], lambda repo, sid: repo.answer(sid, call, text))

    def _intend(self, kind: str, what: Any, do: Callable[[SessionRepository, str], Any], session_id: str | None = None) -> None:
        session_id, r = session_id or self.sid(), self.repo()
        fault = self.fault(session_id, 0.08)
        name = self.pen.begun(kind, session_id, r, v=what)
        self._doing(name, fault, lambda: do(self.repos[r], session_id))
        if self.dice.random() < 0.5:
            self._load(session_id, r)

    # -- the rest

    def flush(self) -> None:
        r = self.repo()
        name = self.pen.begun("flush", "", r)
        try:
            self.repos[r].flush()
        except StorageError as error:
            self._failed(name, error, None)
        else:
            self.pen.ended(name, "ok")

    def touch(self) -> None:
        """Mostly where nobody says anything any more: without it the time would run out."""
        session_id, r = f"chat-{max(0, self.now() - self.dice.choice((0, 3, 4, 5, 6, 7)))}", self.repo()
        name = self.pen.begun("touch", session_id, r)
        try:
            self.repos[r].touch(session_id)
        except (SessionNotFound, SessionExpired):
            self.pen.ended(name, "absent")
        except StorageError as error:
            self._failed(name, error, None)
        else:
            self.pen.ended(name, "ok")

    def purge(self) -> None:
        r = self.repo()
        name = self.pen.begun("purge", "", r)
        try:
            self.repos[r].purge_expired()
        except StorageError as error:
            self._failed(name, error, None)
        else:
            self.pen.ended(name, "ok")

    def delete(self) -> None:
        session_id, r = self.sid(), self.repo()
        name = self.pen.begun("delete", session_id, r)
        try:
            there = self.repos[r].delete(session_id)
        except StorageError as error:
            self._failed(name, error, None)
        else:
            self.pen.ended(name, "ok" if there else "absent")
            if self.dice.random() < 0.5:
                self._save(self._spoken(Held(Session.new(session_id, model="m0"), None)), r)

    def _spoken(self, held: Held) -> Held:
        self._append(held.session)
        return held

    # -- changing a copy

    def _change(self, session: Session) -> None:
        if len(session.messages) > LONGEST:
            self._compact(session)
        for _ in range(self.dice.choice((1, 1, 2))):
            self.dice.choices(_CHANGES, _CHANGE_WEIGHTS)[0](self, session)

    def _append(self, session: Session) -> None:
        for _ in range(self.dice.choice((1, 1, 2, 3))):
            word, roll = self.word(), self.dice.random()
            text = f"{word} " + "x" * self.dice.choice((0, 20, 300))
            if roll < 0.2:
                session.add_message(Message.assistant(text, id=f"{word}c", tool_calls=[ToolCall(f"call-{word}", "look")]))
                if roll < 0.12:
                    session.add_message(Message.tool_result(f"call-{word}", text, id=f"{self.word()}~{word}r"))
            else:
                session.add_message(Message.user(text, id=f"{word}m"))

    def _late_result(self, session: Session) -> None:
        """The result of a call that somebody made before, as the first thing that is said."""
        there = {message.id for message in session.messages}
        answered = {i.partition("~")[2][:-1] for i in there if "~" in i}
        waiting = [i for i in there if i.endswith("c") and i[:-1] not in answered]
        if waiting:
            word = self.dice.choice(sorted(waiting))[:-1]
            session.add_message(Message.tool_result(f"call-{word}", f"late {self.word()}", id=f"{self.word()}~{word}r"))

    def _some(self, session: Session) -> Message | None:
        """Any of ours that is no call: to edit a call away would leave results that answer nothing."""
        ours = [message for message in session.messages if message.id[-1] == "m" and "." in message.id]
        return self.dice.choice(ours) if ours else None

    def _edit(self, session: Session) -> None:
        message = self._some(session)
        if message is not None:
            session.replace_message(message.id, Message.user(f"edited {self.word()}"))

    def _remove(self, session: Session) -> None:
        message = self._some(session)
        if message is not None:
            session.remove_message(message.id)

    def _compact(self, session: Session) -> None:
        """A summary in the place of all but the last few."""
        if len(session.messages) > 6:
            word = self.word()
            session.replace_messages([Message.system(f"summary {word}", id=f"{word}s"), *session.messages[-4:]])

    def _title(self, session: Session) -> None:
        source = self.dice.choice(("user", "generated", "generated"))
        if source == "user" and self.dice.random() < 0.2:
            session.title = None
        else:
            session.set_title(f"{source} {self.word()}", source=source)

    def _pin(self, session: Session) -> None:
        session.pinned = not session.pinned and self.spares(session.id)

    def _tag(self, session: Session) -> None:
        session.tags = session.tags ^ {self.dice.choice(TAGS)}

    def _metadata(self, session: Session) -> None:
        key, word = self.dice.choice(KEYS), self.word()
        if key in session.metadata and self.dice.random() < 0.5:
            if self.dice.random() < 0.4:
                del session.metadata[key]
            else:
                session.metadata[key]["by"].append(word)
                session.metadata[key]["by"] = session.metadata[key]["by"][-3:]
        else:
            session.metadata[key] = {"by": [word]}

    def _model(self, session: Session) -> None:
        session.model = f"model {self.word()}"

    def _ask(self, session: Session) -> None:
        if self.spares(session.id):
            session.set_pending_question(self.dice.choice(CALLS), f"question {self.word()}")

    def _withdraw(self, session: Session) -> None:
        session.clear_pending_question(self.dice.choice((*CALLS, None)))


_CHANGE_OF: dict[Any, float] = {
    Actor._append: 45, Actor._late_result: 5, Actor._edit: 8, Actor._remove: 4, Actor._compact: 1.5, Actor._title: 6, Actor._pin: 4,
    Actor._tag: 5, Actor._metadata: 10, Actor._model: 3, Actor._ask: 8, Actor._withdraw: 3}
_CHANGES, _CHANGE_WEIGHTS = list(_CHANGE_OF), list(_CHANGE_OF.values())
