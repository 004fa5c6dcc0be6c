"""Defects to be planted into the lives of a torture run: a judge that never condemns proves nothing.

Each takes the place of one thing that the library does right, in the processes where that thing happens, and names the
rules by which the judge may notice. All of them were somebody's bug once, in one store or another.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import attrs

from bamboo_sessions import JsonFileStorage, Session, SessionNotFound, SessionRepository, locked_store, reconcile
from bamboo_sessions.reconcile import Plan
from bamboo_sessions.storages.json_files import reader
from bamboo_sessions.storages.json_files.graves import Graves
from bamboo_sessions.storages.json_files.layout import Layout
from bamboo_sessions.storages.json_files.usage import Usage
from bamboo_sessions.storages.json_files.writer import Writer as JsonWriter
from tests.torture.kills_lives import ROOMS, Life
from tests.torture.kills_writers import Writer
from tests.torture.readers import Reader


@attrs.frozen
class Defect:
    """`plant` is called in each process; `rules` are those that may condemn it."""

    plant: Callable[[Life], None]
    rules: frozenset[str]


DEFECTS: dict[str, Defect] = {}


def defect(*rules: str) -> Callable[[Callable[[Life], None]], Callable[[Life], None]]:
    def keep(plant: Callable[[Life], None]) -> Callable[[Life], None]:
        DEFECTS[plant.__name__.replace("_", "-")] = Defect(plant, frozenset(rules))
        return plant

    return keep


def plant(name: str, life: Life) -> None:
    DEFECTS[name].plant(life)


@defect("lost", "question lost", "other words", "removed came back")
def ack_before_commit(_: Life) -> None:
    """A writer is told "saved" before the first byte is written."""
    Writer.acks_early = True


@defect("one revision, two changes", "two states of one revision", "lost", "damage", "raised CorruptSession",
        "raised RevisionConflict", "raised ValueError", "raised StorageUnavailable", "went back")
def no_lock_between_processes(_: Life) -> None:
    """Each process is alone in its own opinion."""
    JsonFileStorage._lock_process = lambda self, session_id, number, left, timeout: None


@defect("lost", "two states of one revision")
def fold_drops_the_last_message(_: Life) -> None:
    """The new snapshot is one message short."""
    whole = JsonWriter._whole

    def short(self: Any, place: Any) -> Any:
        record = whole(self, place)
        return attrs.evolve(record, messages=record.messages[:-1])

    JsonWriter._whole = short


@defect("lost", "damage", "went back", "two states of one revision", "raised CorruptSession", "raised StorageUnavailable",
        "raised RevisionConflict")
def tail_cut_without_the_lock(life: Life) -> None:
    """A reader tidies up an unfinished line, which its writer is just finishing."""
    whole = Reader.whole

    def tidy(self: Reader, session_id: str) -> None:
        path = Layout(self.root).place(session_id).journal
        try:
            with open(path, "r+b") as file:
                data = file.read()
                if not data.endswith(b"\n"):
                    file.truncate(data.rfind(b"\n") + 1)
        except FileNotFoundError:
            pass
        whole(self, session_id)

    Reader.whole = Reader.merged = tidy


@defect("two states of one revision")
def reader_mixes_two_revisions(life: Life) -> None:
    """The head of one revision with the messages of the one before: its two parts were read at two moments."""
    if life.is_reader:
        grown = reader._grown
        reader._grown = lambda snap, steps: grown(snap, steps[:-1])


@defect("went back", "deleted came back")
def reader_trusts_any_stamp(life: Life) -> None:
    """A file of the same inode is taken for the same file."""
    if life.is_reader:
        JsonFileStorage.is_current = lambda self, stamp: os.path.exists(stamp.path)


@defect("deleted came back")
def delete_leaves_the_cache(_: Life) -> None:
    """The session is removed from disk and goes on being served by the process that removed it."""
    SessionRepository.deleted = lambda self, session_id: None


@defect("deleted came back", "two states of one revision", "lost", "value")
def deletion_forgotten_by_saves(_: Life) -> None:
    """Whoever holds a copy of a deleted session saves it back to life."""
    reconcile.is_deleted = lambda origin, stored, store, buried: False


@defect("vanished")
def delete_takes_a_neighbour(_: Life) -> None:
    """Now and then another session of the store goes with the one that was meant."""
    clear_away, dice = Graves.clear_away, random.Random(1)

    def greedy(self: Graves, place: Any) -> None:
        clear_away(self, place)
        if dice.random() < 0.5:
            other = self._layout.place(dice.choice(ROOMS))
            if os.path.isdir(other.folder):
                clear_away(self, other)

    Graves.clear_away = greedy


@defect("twice", "two states of one revision")
def append_doubled_on_retry(_: Life) -> None:
    """A commit that was slow is sent once more, and what it adds is added once more."""
    commit, dice = JsonFileStorage.commit, random.Random(2)

    def twice(self: JsonFileStorage, asked: Any) -> Any:
        change = asked.change
        if change.add and dice.random() < 0.1:
            asked = attrs.evolve(asked, change=attrs.evolve(change, add=[*change.add, *change.add]))
        return commit(self, asked)

    JsonFileStorage.commit = twice


@defect("lost", "value", "question lost", "question came back", "other words")
def last_writer_wins(_: Life) -> None:
    """A save stores the copy as it is, as most session stores do."""

    def overwrite(mine: Any, origin: Any, stored: Any, *, store: str, buried: bool, now: Any, birth: str) -> Plan:
        before = None if stored is None else stored.base.state.head
        if reconcile.is_deleted(origin, stored, store, buried=buried):
            raise SessionNotFound(mine.head.id)
        head = reconcile._next_head(mine.head, before, now, birth if before is None else before.birth)
        return Plan(type(mine)(head, mine.messages))

    locked_store.plan_save = overwrite


@defect("answered twice")
def answer_without_looking(_: Life) -> None:
    """An answer is taken whether or not the question is still open."""
    answer = Session.answer

    def taken(self: Session, tool_call_id: str, text: Any, *, append_result: bool = True) -> None:
        if not any(question.tool_call_id == tool_call_id for question in self.pending_questions):
            self.set_pending_question(tool_call_id, "again?")
        answer(self, tool_call_id, text, append_result=append_result)

    Session.answer = taken


@defect("usage", "lost")
def usage_behind_a_torn_line(_: Life) -> None:
    """The next record is written right behind what a dead process left unfinished."""

    append = Usage._append
    Usage._append = lambda self, fd, data: append(self, fd, data.lstrip(b"\n"))


@defect("half a change", "two states of one revision", "lost", "went back", "order")
def commit_in_two_steps(_: Life) -> None:
    """What belongs together is stored message by message."""
    commit = JsonFileStorage.commit

    def stepwise(self: JsonFileStorage, asked: Any) -> Any:
        change = asked.change
        if asked.expected is not None and len(change.add) > 1:
            first = attrs.evolve(change, add=change.add[:1], op=change.op + "-1", head=only_times(change.head))
            commit(self, attrs.evolve(asked, change=first))
            time.sleep(0.002)
            expected, revision = (asked.expected[0], change.revision), change.revision + 1
            rest = attrs.evolve(change, keep=change.keep + 1, add=change.add[1:], revision=revision)
            return commit(self, attrs.evolve(asked, expected=expected, change=rest))
        return commit(self, asked)

    JsonFileStorage.commit = stepwise


def only_times(head: Any) -> Any:
    before = datetime.fromisoformat(head["set"]["updated_at"]) - timedelta(microseconds=1)
    return {"set": {"updated_at": before.isoformat(timespec="microseconds").replace("+00:00", "Z")}}
