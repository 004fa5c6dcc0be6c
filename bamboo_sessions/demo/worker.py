"""One runtime process: plays its script into the shared sessions, a save a turn, from copies that it holds.

It never reloads a session before it saves: what the others wrote meanwhile reaches its copy through the save itself.
After a kill it starts again with the same script, and its logbook says where it was. The one thing it cannot know is
whether its last attempt was stored; so it looks, the way a runtime would, and does not say anything twice.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from bamboo_sessions import Message, Session, SessionError, SessionRepository
from bamboo_sessions.demo.logbook import Logbook, digest
from bamboo_sessions.demo.plan import Turn
from bamboo_sessions.demo.scripts import Place, read_turns


class Runtime:
    """The copies that one process holds, its script and its logbook."""

    def __init__(self, repo: SessionRepository, log: Logbook, pause_seconds: float) -> None:
        self._repo, self._log, self._pause_seconds = repo, log, pause_seconds
        self._held: dict[str, Session] = {}

    def play(self, turns: list[Turn]) -> None:
        """Each turn that is not settled yet, in order."""
        settled = {entry.number for entry in self._log.entries if entry.acked is not None or entry.failed is not None}
        in_doubt = {entry.number for entry in self._log.entries} - settled
        for number, turn in enumerate(turns):
            if number in settled:
                continue
            time.sleep(random.uniform(0, 2 * self._pause_seconds))  # a model thinks
            session = self._copy(turn.session)
            if number in in_doubt and self._was_stored(session, turn):
                self._log.acked(number, found=True)
            else:
                self._say(number, turn, session)

    def _copy(self, session_id: str) -> Session:
        if session_id not in self._held:
            self._held[session_id] = self._repo.load_or_create(session_id, model="demo")
        return self._held[session_id]

    @staticmethod
    def _was_stored(session: Session, turn: Turn) -> bool:
        """A commit is stored whole or not at all, so that its first message stands for it."""
        return turn.messages[0][0] in {message.id for message in session.messages}

    def _say(self, number: int, turn: Turn, session: Session) -> None:
        question = turn.question
        title = turn.title if session.title is None else None
        self._log.tried(number, do="say", session=turn.session, title=title,
                        messages=[[name, digest(chat)] for name, chat in turn.messages],
                        asks=None if question is None else question.tool_call_id)
        try:
            before = session.revision
            for name, chat in turn.messages:
                session.add_message(Message.from_dict(chat, id=name))
            if question is not None:
                session.set_pending_question(tool_call_id=question.tool_call_id, tool_name=question.tool_name,
                                             question=question.text)
            if title is not None:
                session.set_title(title, source="generated")
            result = self._repo.save(session)
        except SessionError as error:
            self._log.failed(number, error)
            # The copy may carry half of a turn; the next turn starts from what is stored.
            del self._held[turn.session]
        else:
            merged = bool(result.adopted) or result.revision > before + 1
            self._log.acked(number, revision=result.revision, merged=merged, conflicts=len(result.conflicts))


def main(folder: Path, name: str, pause_seconds: float) -> None:
    """What the process does; a runtime that was killed is started again with the same words."""
    place = Place(folder)
    with Logbook(place.log(name)) as log, SessionRepository.open(place.sessions) as repo:
        Runtime(repo, log, pause_seconds).play(read_turns(place.script(name)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
