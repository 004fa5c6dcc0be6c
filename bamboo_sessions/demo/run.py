"""Runs the demonstration: writes the scripts, starts the processes, kills one, and reads everything back.

The processes are real ones and share nothing but the store. The kill is meant to hurt: it waits until the victim's
logbook ends with an attempt, so that the process dies between "I try" and "it was acknowledged".
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import attrs

from bamboo_sessions import SessionError, SessionRepository
from bamboo_sessions.demo.chats import Chat
from bamboo_sessions.demo.judge import Found, Logs, Row, judge
from bamboo_sessions.demo.logbook import digest, read_logbook
from bamboo_sessions.demo.plan import make_plan
from bamboo_sessions.demo.scripts import UI, Place, runtime_names, write_scripts

POLL_SECONDS: Final = 0.01
STALL_SECONDS: Final = 60.0
LEAST_SECONDS: Final = 4.0
"""A short script is stretched to about so long, as models take their time: in one burst there is nothing to see."""
LONGEST_PAUSE_SECONDS: Final = 0.15
KILL_WITHIN_SECONDS: Final = 0.002
"""About what a save takes: the kill comes before its commit, in it, or behind it."""


class DemoFailed(Exception):
    """A process ended badly or nothing went on; the text says which and why."""


class Watcher(Protocol):
    """Who is told how far things are."""

    def progress(self, done: int, total: int) -> None:
        """So many of all turns are acknowledged."""

    def happened(self, what: str) -> None:
        """Something worth a line."""


@attrs.frozen
class Outcome:
    """What came out of one demonstration."""

    rows: tuple[Row, ...]
    kills: int
    seconds: float

    @property
    def good(self) -> bool:
        """Nothing was lost and nothing refused."""
        return not any(row.troubled for row in self.rows)


def run_demo(chats: Sequence[Chat], place: Place, watcher: Watcher, *, runtimes: int, kills: int, seed: int) -> Outcome:
    """Play all chats and judge; raises `DemoFailed` where there is nothing to judge."""
    began = time.monotonic()
    place.make()
    plan = make_plan(chats, runtimes=runtimes, seed=seed)
    write_scripts(place, plan)
    names = runtime_names(runtimes)
    stage = Stage(place, dict(zip(names, map(len, plan.turns), strict=True)), watcher)
    try:
        killed = stage.play(kills)
    finally:
        stage.clear()
    logbooks = {name: read_logbook(place.log(name)) for name in [*names, UI]}
    return Outcome(tuple(judge(logbooks, read_back(place, logbooks))), killed, time.monotonic() - began)


def read_back(place: Place, logbooks: Logs) -> dict[str, Found | str]:
    """Every session that a logbook names, through a repository that has seen none of them."""
    ids = {entry.tried["session"] for entries in logbooks.values() for entry in entries}
    with SessionRepository.open(place.sessions) as repo:
        return {session_id: _found(repo, session_id) for session_id in sorted(ids)}


def _found(repo: SessionRepository, session_id: str) -> Found | str:
    """The session as it is stored, or why it is not here."""
    try:
        session = repo.try_load(session_id)
    except SessionError as error:
        return f"the session cannot be read: {error}"
    if session is None:
        return "the session is not there"
    return Found(
        messages=tuple((message.id, digest(message.to_dict())) for message in session.messages),
        title=session.title, title_source=session.title_source, pinned=session.pinned, tags=frozenset(session.tags),
        open_questions=frozenset(question.tool_call_id for question in session.pending_questions))


class Stage:
    """The processes of one demonstration, and how far each is."""

    def __init__(self, place: Place, turns: Mapping[str, int], watcher: Watcher) -> None:
        self._place, self._turns, self._watcher = place, turns, watcher
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._tails = {name: Tail(place.log(name)) for name in turns}
        self._pause = min(LONGEST_PAUSE_SECONDS, LEAST_SECONDS / max(1, *turns.values()))

    def play(self, kills: int) -> int:
        """Run to the end; gives the number of kills that were in time."""
        self._start(UI, "bamboo_sessions.demo.ui")
        for name in self._turns:
            self._start_runtime(name)
        killed = sum(self._kill(name, share) for name, share in self._victims(kills))
        self._wait_until(lambda: not any(self._running(name) for name in self._turns))
        self._place.curtain.touch()
        self._wait_until(lambda: not self._running(UI))
        return killed

    def clear(self) -> None:
        """No process outlives its demonstration."""
        for process in self._processes.values():
            process.kill()
            process.wait()

    def _start_runtime(self, name: str) -> None:
        self._start(name, "bamboo_sessions.demo.worker", name, f"{self._pause:.6f}")

    def _start(self, name: str, module: str, *arguments: str) -> None:
        with self._place.output(name).open("ab") as output:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", module, str(self._place.folder), *arguments],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)

    def _victims(self, kills: int) -> list[tuple[str, float]]:
        """Who is killed at which share of its script: another one each time, spread over the run."""
        busiest = sorted(self._turns, key=lambda name: -self._turns[name])
        return [(busiest[n % len(busiest)], (n + 1) / (kills + 1)) for n in range(kills)]

    def _kill(self, name: str, share: float) -> bool:
        """SIGKILL when the script is played so far, and a new start; False where it was through before."""
        tail, process = self._tails[name], self._processes[name]
        self._wait_until(lambda: tail.acked >= share * self._turns[name] or process.poll() is not None)
        self._wait_until(lambda: tail.read().trying or process.poll() is not None, pause=0.0)  # it lasts a millisecond
        time.sleep(random.uniform(0, KILL_WITHIN_SECONDS))
        process.kill()
        if process.wait() == 0:
            return False
        self._watcher.happened(f"{name} was killed after {tail.read().acked} of {self._turns[name]} turns and starts again")
        self._start_runtime(name)
        return True

    def _running(self, name: str) -> bool:
        status = self._processes[name].poll()
        if status not in (None, 0):
            said = self._place.output(name).read_text(errors="replace").strip().splitlines()
            raise DemoFailed(f"{name} ended with status {status}: {said[-1] if said else 'it said nothing'}\n"
                             f"what it printed: {self._place.output(name)}")
        return status is None

    def _wait_until(self, reached: Callable[[], bool], pause: float = POLL_SECONDS) -> None:
        total, before, since = sum(self._turns.values()), -1, time.monotonic()
        while not reached():
            done = sum(tail.read().acked for tail in self._tails.values())
            self._watcher.progress(done, total)
            if done != before:
                before, since = done, time.monotonic()
            elif time.monotonic() - since > STALL_SECONDS:
                raise DemoFailed(f"nothing was acknowledged for {STALL_SECONDS:.0f} s; see {self._place.folder}")
            for name in self._processes:
                self._running(name)
            time.sleep(pause)


class Tail:
    """Follows a logbook while it is written: how much is acknowledged, and whether something is being tried."""

    def __init__(self, path: Path) -> None:
        self._path, self._seen = path, 0
        self.acked = 0
        self.trying = False

    def read(self) -> Tail:
        """Look again; only whole lines count."""
        if not self._path.exists():
            return self
        with self._path.open("rb") as file:
            file.seek(self._seen)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._seen += len(whole)
        lines = whole.splitlines()
        self.acked += sum(line.startswith((b'{"ack"', b'{"fail"')) for line in lines)
        if lines:
            self.trying = lines[-1].startswith(b'{"try"')
        return self
