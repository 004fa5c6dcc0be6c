"""What writers do while a test kills them or fails their system calls: small stories, told as data.

A scenario is a store made ready (`prepare`), and a list of changes that `run` makes one after the other, each of them
acknowledged by a call of `acknowledge` *after* the repository said so. A change is told twice: `Writers` makes it with
the library, `scenarios_model` says without it what it means. So a judge knows what a store must hold: the changes
acknowledged, and perhaps those that were begun and whose outcome nobody was told.

Everything follows from the seed: texts, sizes and with them the system calls. Ids and tokens are drawn, but are as long
in every run; and stamps of files are taken for old (or, in some scenarios, for young) whatever the clock says, so that
no run reads more often than another.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from bamboo_sessions import (
    Message,
    Session,
    SessionExpired,
    SessionNotFound,
    SessionRepository,
    StorageError,
    StorageUnavailable,
)
from bamboo_sessions._files import Files
from tests.torture import scenarios_wounds as wounds
from tests.torture.scenarios_expiry import TTL, Aging, folder_of, grow_old
from tests.torture.scenarios_model import Change, Model, after, apply

__all__ = ["Change", "Model", "Pointless", "Scenario", "Settled", "Unsettled", "Writers", "after", "apply", "scenarios",
           "usage_lines"]


class Pointless(Exception):
    """The change before it, on which this one stands, was never made: nothing was begun."""


class Settled(Aging):
    """Every file's last change is long ago: one look is enough."""

    def wall_ns(self) -> int:
        return super().wall_ns() + 60 * 10**9


class Unsettled(Aging):
    """No stamp is ever old enough to be trusted: every look is followed by a second one."""

    def wall_ns(self) -> int:
        return super().wall_ns() - 60 * 10**9


# -- the same with the library ---------------------------------------------------------------------------------------


class Writers:
    """One or more repositories on one store, each opened when it first has something to do."""

    def __init__(self, folder: str | Path, options: Mapping[str, Any]) -> None:
        self.folder, self.options = folder, options
        self.repos: dict[int, SessionRepository] = {}
        self.held: dict[tuple[int, str], Session] = {}

    def make(self, change: Change) -> None:
        """Returns when it is acknowledged."""
        getattr(self, change.kind)(self._repo(change.by), change)

    def _repo(self, by: int) -> SessionRepository:
        if by not in self.repos:
            self.repos[by] = SessionRepository.open(self.folder, **self.options)
        return self.repos[by]

    def close(self) -> None:
        for repo in self.repos.values():
            repo.close()
        self.repos.clear()

    def _newest(self, repo: SessionRepository, chat: str) -> Session:
        session = repo.try_load_merged(chat)
        if session is None:
            raise SessionNotFound(chat)
        return session

    def open(self, repo: SessionRepository, change: Change) -> None:
        """`_repo` did it."""

    def create(self, repo: SessionRepository, change: Change) -> None:
        session = Session.new(change.chat, metadata={"life": change.text})
        session.add_message(Message.user(change.text))
        repo.save(session)

    def say(self, repo: SessionRepository, change: Change) -> None:
        session = self._newest(repo, change.chat)
        session.add_message(Message.user(change.text))
        repo.save(session)

    def hold(self, repo: SessionRepository, change: Change) -> None:
        """Take a copy now, for a save from an older state than the store's later on."""
        self.held[change.by, change.chat] = self._newest(repo, change.chat)

    def say_held(self, repo: SessionRepository, change: Change) -> None:
        session = self.held.pop((change.by, change.chat), None) or self._newest(repo, change.chat)
        session.add_message(Message.user(change.text))
        repo.save(session)
        self.held[change.by, change.chat] = session  # not after an error: it would say this again with the next

    def keep(self, repo: SessionRepository, change: Change) -> None:
        session = self._newest(repo, change.chat)
        session.add_message(Message.user(change.text))
        repo.save_and_cache(session)
        repo.flush()

    def _message(self, session: Session, text: str) -> str:
        for message in session.messages:
            if message.content == text:
                return message.id
        raise Pointless(text)

    def edit(self, repo: SessionRepository, change: Change) -> None:
        session = self._newest(repo, change.chat)
        session.replace_message(self._message(session, change.old), Message.user(change.text))
        repo.save(session)

    def remove(self, repo: SessionRepository, change: Change) -> None:
        session = self._newest(repo, change.chat)
        session.remove_message(self._message(session, change.old))
        repo.save(session)

    def title(self, repo: SessionRepository, change: Change) -> None:
        repo.set_title(change.chat, change.text)

    def ask(self, repo: SessionRepository, change: Change) -> None:
        session = self._newest(repo, change.chat)
        session.set_pending_question(tool_call_id=change.text, tool_name="ask", question="Which?", options=["a", "b"])
        repo.save(session)

    def answer(self, repo: SessionRepository, change: Change) -> None:
        if all(question.tool_call_id != change.old for question in self._newest(repo, change.chat).pending_questions):
            raise Pointless(change.old)
        repo.answer(change.chat, change.old, change.text)

    def delete(self, repo: SessionRepository, change: Change) -> None:
        if not repo.delete(change.chat):
            raise Pointless(change.chat)

    def usage(self, repo: SessionRepository, change: Change) -> None:
        repo.append_token_usage_record(change.chat, json.dumps({"said": change.text}))

    def list(self, repo: SessionRepository, change: Change) -> None:
        repo.list(limit=10)

    def repair(self, repo: SessionRepository, change: Change) -> None:
        repo.repair(change.chat)

    # -- where time runs out -----------------------------------------------------------------------------------------

    def age(self, repo: SessionRepository, change: Change) -> None:
        """Time passes for one session alone."""
        folder, files = folder_of(self.folder, change.chat), self.options.get("files")
        if folder is None:
            raise Pointless(change.chat)
        try:
            grow_old(folder, change.text, files if isinstance(files, Aging) else Aging())
        except OSError as error:  # a disk that is read-only
            raise StorageUnavailable("age", reason=str(error)) from error
        for writer in self.repos.values():
            if writer.persistence.lifetimes is not None:
                writer.persistence.lifetimes.forget(change.chat)  # what it knows holds for whom time passes for everything

    def _held(self, change: Change) -> Session:
        if (change.by, change.chat) not in self.held:
            raise Pointless(change.chat)
        return self.held[change.by, change.chat]

    def touch(self, repo: SessionRepository, change: Change) -> None:
        repo.touch(change.chat)

    def pin(self, repo: SessionRepository, change: Change) -> None:
        repo.set_pinned(change.chat, change.text == "yes")

    def save_again(self, repo: SessionRepository, change: Change) -> None:
        """With nothing to write, of a copy that was taken before its time ran out."""
        saved = repo.save(self._held(change))
        if saved.changed:
            raise AssertionError(f"a save of nothing made revision {saved.revision}")

    def late(self, repo: SessionRepository, change: Change) -> None:
        """Say a word in a copy: it renews a session whose time ran out, and is refused where that was purged."""
        session = self._held(change).snapshot()
        session.add_message(Message.user(change.text))
        try:
            repo.save(session)
        except SessionExpired:
            return
        self.held[change.by, change.chat] = session

    def purge(self, repo: SessionRepository, change: Change) -> None:
        """What cannot be removed is logged and left to the next purge; here somebody wants to know."""
        if bool(repo.purge_expired()) != bool(change.chat):
            raise StorageUnavailable("purge", session_id=change.chat, outcome="unknown", reason="another number was purged")


# -- a scenario ------------------------------------------------------------------------------------------------------


def _fail(change: Change, error: Exception) -> None:
    raise error


@attrs.frozen
class Scenario:
    """`changes` on a store that `prepared` and then `wound` made; a store that is not there where nothing is prepared."""

    name: str
    prepared: tuple[Change, ...]
    changes: tuple[Change, ...]
    wound: Callable[[str | Path], None] | None = None
    damaged: Mapping[str, list[str]] = attrs.field(factory=dict)
    """chat id -> the messages that a repair must bring back."""
    files: type[Files] = Settled
    options: Mapping[str, Any] = attrs.field(factory=dict)
    ttl: timedelta | None = None
    """Its writers' sessions expire; who judges opens without, and sees what is hidden from them."""
    after_another: bool = False
    """Worth trying where somebody else, who goes on living, wrote the last line of every journal before the first change."""

    @property
    def of_writers(self) -> dict[str, Any]:
        """Their options."""
        return {**self.options} if self.ttl is None else {**self.options, "ttl": self.ttl}

    def before(self) -> Model:
        """What a prepared store holds."""
        model = after({}, self.prepared)
        for chat, messages in self.damaged.items():
            model[chat] |= {"damaged": True, "messages": list(messages)}
        return model

    def prepare(self, folder: str | Path) -> None:
        """Make the store ready, as ordinary writers and their misfortunes would."""
        if not self.prepared:
            return
        writers = Writers(folder, self.of_writers)
        for change in self.prepared:
            writers.make(change)
        writers.close()
        if self.wound is not None:
            self.wound(folder)

    def run(self, folder: str | Path, acknowledge: Callable[[int], None], *,
            failed: Callable[[Change, Exception], None] = _fail, files: Files | None = None) -> None:
        """Make the changes; `acknowledge(n)` after the n-th, counted from 0.

        `failed(change, error)`: told of a `StorageError` or `SessionNotFound` (or raise it, the default); the next change
        is then tried. Whatever is held from a failed change is dropped, so that no later change says it again.
        """
        writers = Writers(folder, {**self.of_writers, "files": files or self.files()})
        for number, change in enumerate(self.changes):
            try:
                writers.make(change)
            except Pointless as error:
                if failed is _fail:
                    raise AssertionError(f"change {number} of {self.name} stands on nothing") from error
            except (StorageError, SessionNotFound) as error:
                failed(change, error)
            else:
                acknowledge(number)
        try:
            writers.close()
        except StorageError as error:
            failed(Change("close"), error)


# -- the scenarios -----------------------------------------------------------------------------------------------------


class _Texts:
    """Texts that are never the same twice, of sizes that the seed draws."""

    def __init__(self, seed: str) -> None:
        self._dice, self._count = random.Random(seed), 0

    def __call__(self, least: int = 5, most: int = 400) -> str:
        self._count += 1
        return f"word {self._count} " + "x" * self._dice.randint(least, most)

    def long(self) -> str:
        """Two or three of these make a journal fold."""
        return self(25_000, 40_000)


def _saying(kind: str, chat: str, texts: Iterable[str], **more: Any) -> list[Change]:
    return [Change(kind, chat, text, **more) for text in texts]


def _first_open(text: _Texts) -> Scenario:
    changes = [Change("open"), *_saying("create", "first", [text()]), *_saying("say", "first", [text()]),
               *_saying("create", "second", [text()], by=1), *_saying("create", "third", [text()])]
    return Scenario("first_open", (), tuple(changes))


def _create(text: _Texts) -> Scenario:
    made = [Change("create", f"new-{number}", text(5, 20_000)) for number in range(8)]
    return Scenario("create", (Change("create", "old", text()),), tuple(made))


def _append(text: _Texts) -> Scenario:
    return Scenario("append", (Change("create", "chat", text()),), tuple(_saying("say", "chat", [text() for _ in range(20)])))


def _append_young(text: _Texts) -> Scenario:
    """No stamp is trusted: the last line is read again before and after each append."""
    changes = _saying("say", "chat", [text() for _ in range(8)])
    return Scenario("append_young", (Change("create", "chat", text()),), tuple(changes), files=Unsettled, after_another=True)


def _edit(text: _Texts) -> Scenario:
    words = [text() for _ in range(8)]
    prepared = [Change("create", "chat", words[0]), *_saying("say", "chat", words[1:])]
    changes = [Change("edit", "chat", text(), old=words[3]), Change("remove", "chat", old=words[1]),
               Change("say", "chat", text()), Change("edit", "chat", text(), old=words[0]),
               Change("edit", "chat", text(), old=words[7]), Change("remove", "chat", old=words[2]),
               Change("title", "chat", "A title"), Change("edit", "chat", text(), old=words[5]),
               Change("remove", "chat", old=words[6]), Change("say", "chat", text())]
    return Scenario("edit", tuple(prepared), tuple(changes))


def _merge(text: _Texts) -> Scenario:
    """Each holds a copy that the other one's save has made old."""
    changes = [Change("hold", "chat", by=0), Change("hold", "chat", by=1)]
    for number in range(14):
        changes.append(Change("say_held", "chat", text(), by=number % 2))
    return Scenario("merge", (Change("create", "chat", text()),), tuple(changes), files=Unsettled, after_another=True)


def _fold(text: _Texts) -> Scenario:
    prepared = [Change("create", "chat", text()), Change("say", "chat", text.long())]
    return Scenario("fold", tuple(prepared), tuple(_saying("say", "chat", [text.long() for _ in range(11)])), after_another=True)


def _delete(text: _Texts) -> Scenario:
    prepared = [Change("create", f"chat-{number}", text()) for number in range(6)]
    prepared += [Change("say", "chat-1", text()), Change("usage", "chat-2", text())]
    changes = [Change("delete", f"chat-{number}") for number in range(5)]
    return Scenario("delete", tuple(prepared), tuple(changes))


def _recreate(text: _Texts) -> Scenario:
    changes = []
    for _ in range(4):
        changes += [Change("delete", "chat"), Change("create", "chat", text()), Change("say", "chat", text())]
    return Scenario("recreate", (Change("create", "chat", text()), Change("create", "beside", text())), tuple(changes), after_another=True)


def _recover(text: _Texts) -> Scenario:
    """What dead writers left: a torn tail, a fold between its renames, half-made and half-removed folders."""
    chats = ("torn", "folding", "whole")
    prepared = [change for chat in chats for change in
                (Change("create", chat, text()), Change("say", chat, text()), Change("say", chat, text()))]
    changes = [Change("say", chat, text()) for chat in (*chats, *chats)]
    return Scenario("recover", tuple(prepared), tuple(changes), wound=partial(wounds.as_dead_writers_leave, text()))


def _upgrade(text: _Texts) -> Scenario:
    """Snapshots as they were written before they told a running checksum of each message."""
    chats = ("one", "two", "three")
    prepared = [change for chat in chats for change in (Change("create", chat, text()), Change("say", chat, text()))]
    changes = [Change("say", chat, text.long()) for chat in chats for _ in range(3)]
    return Scenario("upgrade", tuple(prepared), tuple(changes), wound=wounds.older_snapshots)


def _usage(text: _Texts) -> Scenario:
    changes = [Change("usage", chat, text()) for _ in range(8) for chat in ("one", "two")]
    prepared = [Change("create", "one", text()), Change("create", "two", text())]
    return Scenario("usage", tuple(prepared), tuple(changes))


def _two_writers(text: _Texts) -> Scenario:
    """In turns, with folds: each finds a journal that the other wrote, and at times another file of that name."""
    changes = [Change("say", "chat", text.long() if number % 2 else text(), by=(number // 2) % 2) for number in range(12)]
    changes.append(Change("delete", "other", by=1))
    prepared = [Change("create", "chat", text()), Change("create", "other", text())]
    return Scenario("two_writers", tuple(prepared), tuple(changes), after_another=True)


def _repair(text: _Texts) -> Scenario:
    """A journal whose middle line was damaged, one whose first line was, and a snapshot with a damaged message."""
    words = {chat: [text() for _ in range(5)] for chat in ("middle", "first-line", "snapshot")}
    prepared = [change for chat, (first, *more) in words.items()
                for change in (Change("create", chat, first), *_saying("say", chat, more))]
    wound, damaged = wounds.damage(words)
    changes = [change for chat in words for change in (Change("repair", chat), Change("say", chat, text()))]
    return Scenario("repair", tuple(prepared), tuple(changes), wound=wound, damaged=damaged)


def _keep(text: _Texts) -> Scenario:
    changes = _saying("keep", "chat", [text() for _ in range(9)]) + _saying("keep", "other", [text() for _ in range(6)])
    prepared = [Change("create", "chat", text()), Change("create", "other", text())]
    return Scenario("keep", tuple(prepared), tuple(changes))


def _questions(text: _Texts) -> Scenario:
    changes = []
    for number in range(6):
        changes += [Change("ask", "chat", f"call-{number}"), Change("answer", "chat", text(), old=f"call-{number}", by=number % 2)]
    changes += [Change("ask", "chat", "call-9"), Change("list")]
    return Scenario("questions", (Change("create", "chat", text()),), tuple(changes), after_another=True)


def _portable(text: _Texts) -> Scenario:
    """A lock file for each session held, as where the system has no byte ranges to lock."""
    changes = [*_saying("say", "chat", [text() for _ in range(4)]), Change("create", "new", text()),
               Change("usage", "chat", text()), Change("delete", "new")]
    return Scenario("portable", (Change("create", "chat", text()),), tuple(changes), options={"portable_locks": True})


def _expire(text: _Texts) -> Scenario:
    """Purges, touches, saves of nothing, copies that come too late, an id that is taken anew by a purge and by a save; and
    sessions that were pinned or asked, which stay however old they are."""
    lives = {chat: text() for chat in ("gone", "quiet", "idle", "pinned", "asked", "doomed")}
    prepared = [Change("create", chat, life) for chat, life in lives.items()]
    prepared += [Change("pin", "pinned", "yes"), Change("ask", "asked", "call-0"), Change("age", "pinned", "old"),
                 Change("age", "asked", "old"), Change("age", "quiet", "resting"), Change("age", "doomed", "resting")]
    changes = [Change("hold", "gone"), Change("hold", "idle"), Change("purge"), Change("touch", "quiet"),
               Change("age", "gone", "old"), Change("purge", "gone"), Change("late", "gone", text(), old=lives["gone"]), Change("create", "gone", text()),
               Change("say", "gone", text(), by=1), Change("age", "gone", "old"), Change("purge", "gone", by=1),
               Change("create", "gone", text()), Change("age", "gone", "old"), Change("create", "gone", text(), by=1),
               Change("say", "pinned", text()), Change("touch", "asked", by=1), Change("delete", "doomed"),
               Change("pin", "pinned", "no"), Change("age", "idle", "old"), Change("late", "idle", text(), old=lives["idle"]),
               Change("age", "idle", "old"), Change("save_again", "idle")]
    return Scenario("expire", tuple(prepared), tuple(changes), ttl=TTL)


_ALL = (_first_open, _create, _append, _append_young, _edit, _merge, _fold, _delete, _recreate, _recover, _upgrade, _usage,
        _two_writers, _repair, _keep, _questions, _portable, _expire)


def scenarios(seed: int | str = 1) -> dict[str, Scenario]:
    """All of them by name."""
    made = [make(_Texts(f"{seed}/{make.__name__}")) for make in _ALL]
    return {scenario.name: scenario for scenario in made}


def usage_lines(folder: str | Path, chat: str) -> list[str]:
    """What the usage log of a chat says; a line that is no JSON was not finished, and says nothing."""
    said = []
    for shard in os.scandir(os.path.join(folder, "sessions")):
        path = os.path.join(shard.path, chat, "usage.jsonl")
        if os.path.exists(path):
            for line in Path(path).read_bytes().split(b"\n"):
                try:
                    said.append(json.loads(line)["said"])
                except ValueError:
                    continue
    return said
