"""Readers of a torture run: they take no lock, look in every way that the library offers, and write down what they saw.

A reader judges nothing but itself: that what it sees of one session, in one way, does not go back between two looks of
its own. Everything else needs to know what others saw and did, which the judge does.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

from bamboo_sessions import JsonFileStorage, Session, SessionRepository
from tests.torture.kills_lives import ROOMS, SESSIONS, HesitantFiles, Life
from tests.torture.kills_log import Log, what_is_seen

TOLD_ANYWAY = 0.08
"""How often a look that shows what the last one showed is written down all the same."""


class Looks:
    """Writes down what one process sees; what it saw the same way a moment ago, only now and then."""

    def __init__(self, log: Log, life: Life) -> None:
        self._log, self._life = log, life
        self._dice = random.Random(f"looks of {life.seed}")
        self._last: dict[tuple[str, str], tuple[str | None, int]] = {}
        self._untold = 0

    def saw(self, way: str, session_id: str, session: Session | None, at: int) -> None:
        """`at`: how long the log was when the look began; for one that a cache may answer, when it was last filled."""
        found = (None, 0) if session is None else (session.birth, session.revision)
        if self._is_news(way, session_id, *found):
            facts = {} if session is None else what_is_seen(session)
            self._tell(way, session_id, at, *found, **facts)

    def saw_listed(self, session_id: str, birth: str, revision: int, count: int, at: int) -> None:
        if self._is_news("list", session_id, birth, revision):
            self._tell("list", session_id, at, birth, revision, n=count)

    def _is_news(self, way: str, session_id: str, birth: str | None, revision: int) -> bool:
        self._untold += 1
        before = self._last.get((way, session_id))
        self._last[way, session_id] = (birth, revision)
        if before is not None and before[0] == birth and revision < before[1]:
            self._log.write("wrong", rule="reader went back", life=self._life.name, s=session_id,
                            what=f"{way}: revision {before[1]}, then {revision} of birth {birth}")
        return before != (birth, revision) or self._dice.random() < TOLD_ANYWAY

    def _tell(self, way: str, session_id: str, at: int, birth: str | None, revision: int, **facts: object) -> None:
        self._log.write("look", life=self._life.name, way=way, s=session_id, b=birth, r=revision, at=at, c=self._untold,
                        **facts)
        self._untold = 0


class Reader:
    """Looks until it is killed."""

    def __init__(self, root: str, log: Log, life: Life) -> None:
        self.root, self.log, self.life = root, log, life
        self.dice = random.Random(f"reader {life.seed}")
        self.looks = Looks(log, life)
        files = HesitantFiles(life)
        self.storage = JsonFileStorage(root, files=files)
        self.repo = SessionRepository.open(root, files=files)

    def run(self, parent: int) -> None:
        ways: dict[Callable[[str], None], float] = {self.merged: 12, self.whole: 4, self.cached: 2, self.page: 0.1}
        choices, weights = list(ways), list(ways.values())
        while os.getppid() == parent:
            # A few sessions get most looks: what changes between two looks of one reader is the subject.
            session_id = self.dice.choice(ROOMS[:3] if self.dice.random() < 0.5 else SESSIONS)
            self.dice.choices(choices, weights)[0](session_id)
            time.sleep(0.0003)  # else the readers have the machine to themselves, and nobody writes what they could see

    def merged(self, session_id: str) -> None:
        """By stamp: only what came since is read, or nothing."""
        at = self.log.now()
        self.looks.saw("merged", session_id, self.repo.try_load_merged(session_id), at)

    def whole(self, session_id: str) -> None:
        at = self.log.now()
        self.looks.saw("whole", session_id, self.storage.load_session(session_id), at)

    def cached(self, session_id: str) -> None:
        """What the cache has may be as old as it likes, but must be one whole revision."""
        self.looks.saw("cached", session_id, self.repo.try_load(session_id), 0)

    def page(self, _: str) -> None:
        at = self.log.now()
        for summary in self.repo.list(limit=100).items:
            self.looks.saw_listed(summary.id, summary.birth, summary.revision, summary.message_count, at)
