"""The UI process: renames, pins, tags and answers, while the runtimes write.

It goes round: one edit here and there, then a look for questions. Like a real UI it sees sessions through a repository
of its own, keeps nothing in hand and edits the newest state. When the runtimes are done it does what is left, looks
until no question that it should answer is open, and ends.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from bamboo_sessions import SessionError, SessionRepository
from bamboo_sessions.demo.logbook import Logbook, digest
from bamboo_sessions.demo.plan import Edit, Question
from bamboo_sessions.demo.scripts import UI, Place, read_ui_script

EDITS_A_ROUND: Final = 5
PAUSE_SECONDS: Final = 0.01  # a person is slower; a UI without any pause would take a core from the runtimes


class Person:
    """What somebody at a UI does, and the logbook of it."""

    def __init__(self, repo: SessionRepository, log: Logbook) -> None:
        self._repo, self._log = repo, log
        self._numbers: Iterator[int] = iter(range(len(log.entries), sys.maxsize))

    def edit(self, edit: Edit) -> bool:
        """One edit; False where the session does not exist yet."""
        if not self._repo.exists(edit.session):
            return False
        by_name: dict[str, Callable[[], object]] = {
            "title": lambda: self._repo.set_title(edit.session, edit.value, source="user"),
            "pinned": lambda: self._repo.set_pinned(edit.session, edit.value),
            "tag": lambda: self._repo.add_tags(edit.session, edit.value),
        }
        self._do(by_name[edit.what], do=edit.what, session=edit.session, value=edit.value)
        return True

    def answer_open_ones(self, session_id: str, wanted: dict[str, Question]) -> None:
        """Answer what is open and wanted; what was answered is taken out of `wanted`."""
        session = self._repo.load_merged(session_id)
        for asked in () if session is None else session.pending_questions:
            question = wanted.pop(asked.tool_call_id, None)
            if question is not None:
                self._answer(session_id, question)

    def _answer(self, session_id: str, question: Question) -> None:
        answer = question.answer or ""
        result = {"role": "tool", "content": answer, "tool_call_id": question.tool_call_id}
        self._do(
            lambda: self._repo.answer(session_id, question.tool_call_id, answer, append_result=question.is_result),
            do="answer", session=session_id, tool_call_id=question.tool_call_id,
            result=digest(result) if question.is_result else None)

    def _do(self, act: Callable[[], object], **facts: Any) -> None:
        number = next(self._numbers)
        self._log.tried(number, **facts)
        try:
            act()
        except SessionError as error:
            self._log.failed(number, error)
        else:
            self._log.acked(number)


def work(person: Person, edits: list[Edit], answers: dict[str, dict[str, Question]], done: Callable[[], bool]) -> None:
    """Round after round until the runtimes are done, and then once more with all that is left."""
    waiting = list(edits)
    while True:
        last_round = done()  # asked first: what the runtimes did before it was so is seen by the round that follows
        count = len(waiting) if last_round else EDITS_A_ROUND
        now, waiting = waiting[:count], waiting[count:]
        waiting += [edit for edit in now if not person.edit(edit)]
        for session_id, wanted in answers.items():
            if wanted:
                person.answer_open_ones(session_id, wanted)
        if last_round:
            return
        time.sleep(PAUSE_SECONDS)


def main(folder: Path) -> None:
    """What the process does."""
    place = Place(folder)
    edits, answers = read_ui_script(place.script(UI))
    with Logbook(place.log(UI)) as log, SessionRepository.open(place.sessions) as repo:
        work(Person(repo, log), edits, answers, place.curtain.exists)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
