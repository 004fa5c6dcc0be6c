"""Whether a store is as it must be after its writer died, or met errors, at some point of a scenario.

What a store may hold is worked out without the library: the state before, then every change that was acknowledged, and
any of those that were begun and whose outcome nobody was told; each wholly or not at all, in the order in which they
were made. What it does hold is read by whoever there may be: a survivor that had the store open all the while, and
newcomers. Then the store must go on: both kinds of reader save, and everything is looked at once more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import attrs

from bamboo_sessions import CorruptSession, Message, Session, SessionDeleted, SessionExpired, SessionRepository
from tests.torture.judge_expiry import purged_later
from tests.torture.judge_words import Wrong
from tests.torture.scenarios import usage_lines
from tests.torture.scenarios_expiry import AGES, age_of
from tests.torture.scenarios_model import Change, Model, after, fresh, half_of

MOST_IN_DOUBT = 12
FIRST_WORD = "a survivor's first word"


# -- what is there -------------------------------------------------------------------------------------------------


def observe(repo: SessionRepository, folder: str | Path, chats: Collection[str] = ()) -> Model:
    """The store as a reader sees it; of `chats`, also those that cannot be listed."""
    listed = {item.id for item in repo.list(limit=1000).items}
    seen = {chat: _seen(repo, folder, chat) for chat in sorted(listed | set(chats))}
    there = {chat: one for chat, one in seen.items() if one is not None}
    if not listed <= there.keys():
        raise Wrong("moving", f"listed and not there: {sorted(listed - there.keys())}")
    return there


def _seen(repo: SessionRepository, folder: str | Path, chat: str) -> dict[str, Any] | None:
    try:
        session = repo.try_load_merged(chat)
    except CorruptSession:
        return {"damaged": True}
    if session is None:
        return None
    return {"life": session.metadata["life"], "messages": [message.content for message in session.messages],
            "title": session.title, "open": [question.tool_call_id for question in session.pending_questions],
            "usage": usage_lines(folder, chat), "time": age_of(folder, chat), "revision": session.revision}


def same(seen: Model, expected: Model) -> bool:
    """Of a session that is damaged only that much is known; of one that was repaired everything but its revision."""
    return seen.keys() == expected.keys() and all(_same(seen[chat], expected[chat]) for chat in seen)


def _same(seen: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    if expected.get("damaged") or seen.get("damaged"):
        return bool(expected.get("damaged")) and bool(seen.get("damaged"))
    if AGES.index(seen["time"]) < AGES.index(expected["time"]):  # what came to nothing may have been activity all the same
        return False
    return all(expected[key] == value or key == "time" or (key == "revision" and expected[key] is None) for key, value in seen.items())


# -- what may be there -----------------------------------------------------------------------------------------------


def possible(before: Model, changes: Sequence[Change], done: Collection[int], perhaps: Collection[int]) -> Iterator[Model]:
    """Every state the store may be in, the emptiest first."""
    if len(perhaps) > MOST_IN_DOUBT:
        raise ValueError(f"{len(perhaps)} changes in doubt give too many states to tell right from wrong")
    doubts = sorted(perhaps)
    for applied in chain.from_iterable(combinations(doubts, size) for size in range(len(doubts) + 1)):
        made = {number: change for number, change in enumerate(changes) if number in done or number in applied}
        yield after(before, made.values())
        for number in applied:
            if (half := half_of(made[number])) is not None:
                yield after(before, {**made, number: half}.values())


def matching(seen: Model, before: Model, changes: Sequence[Change], done: Collection[int], perhaps: Collection[int]) -> Model:
    """The one of them that is there; raises `Wrong`."""
    states = list(possible(before, changes, done, perhaps))
    for state in states:
        if same(seen, state):
            for chat, session in seen.items():
                if "time" in session:
                    state[chat]["time"] = session["time"]
            return state
    raise Wrong(*_blame(seen, states))


def _blame(seen: Model, states: Sequence[Model]) -> tuple[str, str]:
    """What is missing that every possible state has is lost; what none has is a ghost."""
    for chat in sorted(seen.keys() | set().union(*states)):
        if chat not in seen:
            if all(chat in state for state in states):
                return "lost", f"session {chat!r} is gone"
            continue
        if not any(chat in state for state in states):
            return "ghost", f"session {chat!r} is there: {_short(seen[chat])}"
        if not any(_same(seen[chat], state[chat]) for state in states if chat in state):
            told = [str(_short(state[chat])) for state in states if chat in state]
            kind = "broken" if seen[chat].get("damaged") else _kind(seen[chat], [state[chat] for state in states if chat in state])
            return kind, f"session {chat!r} is {_short(seen[chat])}\n  and should be one of\n  " + "\n  ".join(told)
    return "ghost", "each session alone could be so, but not all of them together"


def _kind(seen: Mapping[str, Any], states: Sequence[Mapping[str, Any]]) -> str:
    said = {*seen["messages"], *seen["usage"]}
    owed = set.intersection(*({*state["messages"], *state["usage"]} for state in states))
    return "lost" if owed - said else "ghost"


def _short(session: Mapping[str, Any]) -> dict[str, Any]:
    def cut(value: Any) -> Any:
        return [str(item)[:12] for item in value] if isinstance(value, list) else str(value)[:12]
    return {key: cut(value) for key, value in session.items()}


# -- the judge ---------------------------------------------------------------------------------------------------------


@attrs.frozen
class Survivor:
    """A process's view of the store from before: what it has cached, and copies that its users still hold."""

    repo: SessionRepository
    copies: Mapping[str, Session]

    @classmethod
    def of(cls, folder: str | Path, options: Mapping[str, Any]) -> Survivor:
        """Open the store and load everything in it."""
        repo = SessionRepository.open(folder, **options)
        ids = [item.id for item in repo.list(limit=1000).items]
        return cls(repo, {chat: session for chat in ids if (session := repo.try_load(chat)) is not None})

    def speak(self) -> None:
        """Say a word in every session, and so know the end of every journal as one's own; see `spoken`."""
        for session in self.copies.values():
            session.add_message(Message.user(FIRST_WORD))
            self.repo.save(session)


def spoken(model: Model) -> Model:
    """After a survivor spoke."""
    return after(model, [Change("say", chat, FIRST_WORD) for chat in model])


def judge(folder: str | Path, before: Model, changes: Sequence[Change], done: Collection[int], perhaps: Collection[int] = (), *,
          survivor: Survivor | None = None, options: Mapping[str, Any] | None = None, ttl: timedelta | None = None) -> Model:
    """The state that was found; raises `Wrong`.

    `before`: what the store held before the first of `changes`. `done`: the numbers of those that were acknowledged;
    `perhaps`: of those that may or may not have been applied. All others must not be there. The store is used up: words
    are added to every session. `ttl`: of the writers; then what has expired is purged before that.
    """
    options = options or {}
    try:
        state = _look(folder, before, changes, done, perhaps, survivor, options)
        found = after(state, ())
        expired = [] if ttl is None else purged_later(folder, state, ttl, options, renewing=len(done) % 2 == 1)
        gone = {*expired, *(change.chat for change in changes if ttl is not None and change.kind != "delete")}
        _go_on(folder, state, survivor, options, gone - {change.chat for change in changes if change.kind == "delete"} | {*expired})
    except Wrong:
        raise
    except Exception as error:
        raise Wrong("broken", f"{type(error).__name__}: {error}") from error
    return found


def _look(folder: str | Path, before: Model, changes: Sequence[Change], done: Collection[int], perhaps: Collection[int],
          survivor: Survivor | None, options: Mapping[str, Any]) -> Model:
    """Read by everybody, with nothing saved in between: always the same, and undamaged."""
    chats = {change.chat for change in changes if change.chat} | before.keys()
    state = None
    if survivor is not None:
        state = matching(observe(survivor.repo, folder, chats), before, changes, done, perhaps)
    for _ in range(2):
        with closing(SessionRepository.open(folder, **options)) as repo:
            seen = observe(repo, folder, chats)
            if state is None:
                state = matching(seen, before, changes, done, perhaps)
            elif not same(seen, state):
                broken = any(session.get("damaged") for session in seen.values())
                raise Wrong("broken" if broken else "moving", f"another look gives another state: {_blame(seen, [state])[1]}")
            _undamaged(repo, {chat for chat, session in state.items() if session.get("damaged")})
    assert state is not None
    return state


def _undamaged(repo: SessionRepository, known: Collection[str] = ()) -> None:
    damage = [str(found) for found in repo.check() if found.severity == "damage" and found.session_id not in known]
    if damage:
        raise Wrong("broken", "\n".join(damage))


def _go_on(folder: str | Path, state: Model, survivor: Survivor | None, options: Mapping[str, Any],
           expired: Collection[str] = ()) -> None:
    """The survivor saves what it holds, a newcomer what it loads; then everything is there once."""
    with closing(SessionRepository.open(folder, **options)) as repo:
        for chat, session in state.items():
            if session.get("damaged"):
                repo.repair(chat)
                session |= {"damaged": False, "revision": None}
        if survivor is not None:
            _save_copies(survivor, state, expired)
        for chat in [*state, "afterwards"]:
            session = repo.load_or_create(chat, metadata={"life": "later"})
            session.add_message(Message.user("a newcomer's word"))
            repo.save(session)
            _expect_word(state, chat, "a newcomer's word")
    if survivor is not None:
        survivor.repo.close()
    with closing(SessionRepository.open(folder, **options)) as repo:
        seen = observe(repo, folder, state)
        if not same(seen, state):
            raise Wrong(*_blame(seen, [state]))
        _undamaged(repo)


def _save_copies(survivor: Survivor, state: Model, expired: Collection[str]) -> None:
    """Old copies merge into the life they are of, and are refused where that life has ended, with the word for how it did."""
    for chat, session in survivor.copies.items():
        life = session.metadata["life"]
        session.add_message(Message.user("a survivor's word"))
        lives = chat in state and state[chat]["life"] == life
        try:
            survivor.repo.save(session)
        except (SessionDeleted, SessionExpired) as error:
            if lives or isinstance(error, SessionExpired) != (chat in expired):
                raise
        else:
            if not lives:
                raise Wrong("ghost", f"a copy of the deleted session {chat!r} was saved")
            _expect_word(state, chat, "a survivor's word")


def _expect_word(state: Model, chat: str, word: str) -> None:
    if chat not in state:
        state[chat] = fresh("later", [], 0)
    state[chat]["messages"].append(word)
    state[chat]["time"] = "now"
    if state[chat]["revision"] is not None:
        state[chat]["revision"] += 1
