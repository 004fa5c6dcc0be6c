"""An error at every system call of every scenario: is it told in the right words, and is the word kept?

A point is one run of a scenario in which the n-th call that an error can strike fails, once or from then on. While the
run goes on, a ledger keeps the states that the store may be in: one as long as everything is acknowledged or was said to
be "not applied"; two after an "unknown". After each failure, and at the end, the store is read by another object and must
show one of them; a state that was seen is never taken back. Then the failed change is made once more, with the same
session object where there is one (`retry`), or never again (`abandon`). At the end the disk is mended: both the object
that met the error and a fresh one must be able to write, no descriptor may be left open, and `check` must find nothing.

    python -m tests.torture.errors                          all points of a sample, spread over the processors
    python -m tests.torture.errors --point append/EIO/7/once/retry    one of them
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import attrs
import structlog

from bamboo_sessions import CorruptSession, JsonFileStorage, SessionExpired, SessionNotFound, StorageUnavailable
from bamboo_sessions.storages.json_files import locking
from tests.torture.faults import STRIKES, Faults
from tests.torture.scenarios import Pointless, Writers, scenarios, usage_lines
from tests.torture.scenarios_expiry import AGES, age_of, is_hidden
from tests.torture.scenarios_model import Change, after, half_of

PATIENCE = 0.5
"""Seconds that a writer waits for a lock: nobody else holds one here."""
FEW = 100
"""States of a store that are made at once."""


class Broken(AssertionError):
    """What a point found."""


@attrs.frozen
class Point:
    """One run, by name."""

    scenario: str
    error: str
    at: int
    lasting: bool
    retry: bool
    seed: str = "1"

    def __str__(self):
        return (f"{self.scenario}/{self.error}/{self.at}/{'lasting' if self.lasting else 'once'}/"
                f"{'retry' if self.retry else 'abandon'}")

    @property
    def command(self):
        return f"python -m tests.torture.errors --seed {self.seed} --point {self}"

    @classmethod
    def parse(cls, text, seed="1"):
        scenario, error, at, lasting, retry = text.split("/")
        return cls(scenario, error, int(at), lasting == "lasting", retry == "retry", str(seed))


# -- what a store holds ----------------------------------------------------------------------------------------------


def look(folder):
    """The store as another process would find it, in the words of `scenarios_model.apply`."""
    if not all(os.path.exists(os.path.join(folder, name)) for name in ("store.json", "sessions", "new", "trash")):
        return {}  # half made; to open it would be to make the rest
    storage, model = JsonFileStorage(folder), {}
    try:
        for name in _chats(folder):
            try:
                session = storage.load_session(name)
            except CorruptSession:
                model[name] = {"damaged": True}
                continue
            model[name] = {
                "life": session.metadata["life"], "messages": [message.content for message in session.messages],
                "title": session.title, "open": [question.tool_call_id for question in session.pending_questions],
                "usage": usage_lines(folder, name), "time": age_of(folder, name), "revision": session.revision}
    finally:
        storage.close()
    return model


def _chats(folder):
    """By the folders' names: what a listing leaves out would not be missed."""
    return sorted(os.path.basename(path) for path in map(str, Path(folder).glob("sessions/*/*")) if os.path.isdir(path))


def same(seen, state):
    """Whether a store that looks like this is in that state."""
    return seen.keys() == state.keys() and all(_same_chat(seen[chat], state[chat]) for chat in seen)


def _same_chat(seen, state):
    if seen.get("damaged") or state.get("damaged"):
        return bool(seen.get("damaged")) == bool(state.get("damaged"))
    if AGES.index(seen["time"]) < AGES.index(state["time"]):  # what failed may have been activity all the same
        return False
    return all(seen[key] == state[key] for key in ("life", "messages", "title", "open", "usage")) and (
        None in (seen["revision"], state["revision"]) or seen["revision"] == state["revision"])


class States:
    """Made one by one, when somebody asks for them: each change of unknown end makes them twice as many, a million after
    twenty, and it is nearly always the first one that a store shows."""

    def __init__(self, make, count):
        self._make, self._count = make, count

    def __iter__(self):
        return iter(self._make())

    def __len__(self):
        return self._count

    def __getitem__(self, at):
        return next(islice(self, at, None))

    @classmethod
    def of(cls, *parts):
        """One part after the other."""
        return cls(lambda: chain(*parts), sum(map(len, parts)))

    @classmethod
    def but_the_first(cls, states, count):
        """Few are made at once: to pass over the same ones anew for each that follows costs more."""
        if count == 0:
            return states
        left = cls(lambda: islice(states, count, None), len(states) - count)
        return left if len(left) > FEW else list(left)


class Ledger:
    """The states that a store may be in, in the order in which it can have come to them."""

    def __init__(self, model):
        self.states = [after(model, [])]
        self.before = self.states
        """As they were when the change was first tried, however often it is tried again."""

    def begin(self):
        self.before = self.states

    def done(self, change, *, in_doubt=False):
        """`in_doubt`: something failed on the way, so that what has expired may have been taken for what has not, and kept."""
        joined = self._with(attrs.evolve(change, kind="join")) if in_doubt and half_of(change) else []
        self.states = States.of(self._with(change), joined)

    def perhaps(self, change):
        self.states = States.of(self.before, self._halfway(change), self._with(change))

    def not_applied(self, change):
        """Who creates what has expired may have purged it."""
        self.states = States.of(self.states, self._halfway(change))

    def _halfway(self, change):
        half = half_of(change)
        return [] if half is None else [state for state in self._with(half) if state not in self.before]

    def _with(self, change):
        before = self.before
        return States(lambda: (after(state, [change]) for state in before), len(before))

    def confirm(self, seen, when):
        """A state that somebody saw is not taken back: nothing before it is possible any more."""
        for at, state in enumerate(self.states):
            if same(seen, state):
                self.states = States.but_the_first(self.states, at)
                self.before = States.but_the_first(self.before, at % len(self.before))
                return
        raise Broken(f"{when}: {_difference(seen, self.states[0])}; {len(self.states)} states would have been right")

    def shows(self, seen, change):
        """Whether the change is there already."""
        return any(same(seen, made) for made in self._with(change)) and not any(same(seen, old) for old in self.before)


def _difference(seen, state):
    for chat in sorted(seen.keys() | state.keys()):
        if chat not in seen or chat not in state:
            return f"session {chat!r} is {'missing' if chat in state else 'there'}"
        if not _same_chat(seen[chat], state[chat]):
            return f"session {chat!r} holds {_short(seen[chat])}, not {_short(state[chat])}"
    return "nothing differs"


def _short(chat):
    if chat.get("damaged"):
        return "damage"
    return {key: [word[:12] for word in value] if isinstance(value, list) else value and str(value)[:12]
            for key, value in chat.items()}


# -- one run -----------------------------------------------------------------------------------------------------------


class _Remembering:
    """A repository that notes which object it was last asked to save."""

    def __init__(self, repo, writers):
        self._repo, self._writers = repo, writers

    def __getattr__(self, name):
        return getattr(self._repo, name)

    def save(self, session):
        self._writers.tried = session
        return self._repo.save(session)

    def save_and_cache(self, session):
        self._writers.kept = True
        return self._repo.save_and_cache(session)


class Stubborn(Writers):
    """Writers that make a failed change again as a user would: by saving the same object once more."""

    tried = None
    kept = False

    def _repo(self, by):
        return _Remembering(super()._repo(by), self)

    def make(self, change):
        self.tried, self.kept = None, False
        super().make(change)

    def again(self, change):
        repo = self._repo(change.by)
        if self.kept:
            repo.flush()
        elif self.tried is not None:
            with suppress(SessionExpired) if change.kind == "late" else nullcontext():
                repo.save(self.tried)
            if change.kind in ("say_held", "late"):
                self.held[change.by, change.chat] = self.tried
        else:
            super().make(change)


class Run:
    """One scenario on a store of its own, with faults that were installed before."""

    def __init__(self, scenario, folder, faults, *, retry):
        self.scenario, self.folder, self.faults, self.retry = scenario, folder, faults, retry
        self.ledger = Ledger(scenario.before())
        self.writers = Stubborn(folder, {**scenario.of_writers, "files": scenario.files(), "lock_timeout": PATIENCE})
        self.told = Counter()

    def all(self):
        descriptors = _descriptors()
        for change in self.scenario.changes:
            self._change(change)
        self.faults.mend()
        self._still_usable()
        self.writers.close()
        leaked = _descriptors() - descriptors
        if leaked:
            raise Broken(f"{leaked} descriptors were left open")

    def _change(self, change):
        self.ledger.begin()
        outcome = self._tried(self.writers.make, change)
        if outcome == "done":
            return
        self._looked(f"after a failed {change.kind}")
        if not self.retry:
            return
        if self.faults.lasting and self._once_more(change) == "done":
            return
        self.faults.mend()
        outcome = self._once_more(change)
        if outcome != "done":
            raise Broken(f"{change.kind} still fails ({outcome}) after the cause has gone")

    def _once_more(self, change):
        seen = look(self.folder)
        anew = self.writers.tried is None and not self.writers.kept
        if anew and self.ledger.shows(seen, change):
            return "done"  # made by hand, it would be made twice
        outcome = self._tried(self.writers.again, change)
        self._looked(f"after {change.kind} was tried again ({outcome})")
        return outcome

    def _tried(self, make, change):
        """What the caller is told; anything but the documented kinds is a finding."""
        struck = len(self.faults.struck)
        try:
            with self.faults.arming():
                make(change)
        except StorageUnavailable as error:
            self.told[error.outcome] += 1
            if error.outcome != "not applied" or self.writers.kept or change.kind == "purge":  # one that cannot list on may have purged
                self.ledger.perhaps(change)
            else:
                self.ledger.not_applied(change)
            return error.outcome
        except (SessionNotFound, Pointless):
            if all(change.chat in state for state in self.ledger.states) and change.kind not in ("edit", "remove", "answer", "late", "save_again"):
                raise
            if change.kind == "delete":  # "there is none" is an acknowledgement too
                self.ledger.states = [state for state in self.ledger.states if change.chat not in state]
            return "done"
        except CorruptSession:
            if not any(state.get(change.chat, {}).get("damaged") for state in self.ledger.states):
                raise
            return "not applied"
        self.ledger.done(change, in_doubt=len(self.faults.struck) > struck)
        return "done"

    def _looked(self, when):
        self.ledger.confirm(look(self.folder), when)

    def _still_usable(self):
        """By the object that met the error, and by one that knows nothing of it."""
        self._looked("at the end")
        expired = [chat for chat, held in self.ledger.states[0].items() if is_hidden(held)]
        if expired:
            self._expect(self.writers, Change("purge", expired[0]))
        for chat, held in list(self.ledger.states[0].items()):
            if not held.get("damaged"):
                self._expect(self.writers, Change("say", chat, "last words of the same object"))
        fresh = Stubborn(self.folder, {**self.scenario.options, "lock_timeout": PATIENCE})
        for chat, held in list(self.ledger.states[0].items()):
            if not held.get("damaged"):
                self._expect(fresh, Change("say", chat, "last words of a fresh one"))
                self._expect(fresh, Change("usage", chat, "last bill"))
        self._expect(fresh, Change("create", "made-at-the-end", "first words"))
        fresh.close()
        self._looked("after last words")
        self._checked()

    def _expect(self, writers, change):
        self.ledger.begin()
        writers.make(change)
        self.ledger.done(change)

    def _checked(self):
        storage = JsonFileStorage(self.folder)
        damaged = {chat for chat, held in self.ledger.states[0].items() if held.get("damaged")}
        found = [str(finding) for finding in storage.check()
                 if finding.severity == "damage" and finding.session_id not in damaged]
        storage.close()
        if found:
            raise Broken(f"check finds {found}")


def _descriptors():
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


class Stage:
    """Where points are run: a folder in memory where there is one, and each scenario's store made ready once."""

    def __init__(self, seed):
        self.scenarios = scenarios(seed)
        shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self._folder = tempfile.TemporaryDirectory(prefix="errors-", dir=shared)
        self._count = 0

    def close(self):
        self._folder.cleanup()

    def ready(self, name):
        ready = os.path.join(self._folder.name, f"ready-{name}")
        if not os.path.isdir(ready):
            os.mkdir(ready)
            self.scenarios[name].prepare(ready)
        return ready

    def fresh(self, name):
        ready = self.ready(name)
        self._count += 1
        made = os.path.join(self._folder.name, f"run-{self._count}")
        shutil.copytree(ready, made)
        return made

    def run(self, name, faults, *, retry=True):
        """Run it; what the callers were told."""
        folder = self.fresh(name)
        try:
            with faults.installed():
                run = Run(self.scenarios[name], folder, faults, retry=retry)
                run.all()
            return run.told
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def calls(self, name, error):
        """How many calls of a scenario an error can strike."""
        faults = Faults(error)
        self.run(name, faults)
        return faults.count

    def failure(self, point):
        """(why the point fails or "", what callers were told)."""
        faults = Faults(point.error, point.at, lasting=point.lasting)
        try:
            told = self.run(point.scenario, faults, retry=point.retry)
        except Exception as error:  # whatever it is: it is what the library did
            where = traceback.extract_tb(error.__traceback__)[-1]
            return f"{type(error).__name__}: {error} ({os.path.basename(where.filename)}:{where.lineno}) {faults.struck[:3]}", Counter()
        return ("" if faults.struck else "the fault never struck"), told


@contextmanager
def quickly():
    """Locks that nobody holds are waited for in vain at once; a thousand expected warnings are not printed."""
    quiet = structlog.make_filtering_bound_logger(50)
    before = structlog.get_config()
    structlog.configure(wrapper_class=quiet)
    try:
        with ExitStack() as stack:
            stack.enter_context(patch.object(locking, "OWN_WAIT", PATIENCE))
            yield
    finally:
        structlog.configure(**before)


# -- many runs -----------------------------------------------------------------------------------------------------------

NO_ABANDON = {"keep"}
"""Its failed changes stay in the cache, to be saved with the next."""


def points(stage, seed, most, names=None, errors=None):
    """A sample of at most `most` points a scenario: spread over errors and calls, different with each seed."""
    dice, chosen = random.Random(f"{seed}/points"), []
    for name in names or stage.scenarios:
        mine = [Point(name, error, at, lasting, retry, str(seed))
                for error in errors or STRIKES for at in range(1, stage.calls(name, error) + 1)
                for lasting in (False, True) for retry in ((True,) if name in NO_ABANDON else (True, False))]
        chosen += dice.sample(mine, min(most, len(mine)))
    return chosen


@attrs.define
class Report:
    """What many points came to."""

    tried: Counter = attrs.Factory(Counter)
    errors: Counter = attrs.Factory(Counter)
    told: Counter = attrs.Factory(Counter)
    failures: list = attrs.Factory(list)

    def add(self, point, why, told):
        self.tried[point.scenario] += 1
        self.errors[point.error] += 1
        self.told += told
        if why:
            self.failures.append((point, why))

    def lines(self):
        yield f"{self.tried.total()} points: {dict(self.tried)}"
        yield f"errors: {dict(self.errors)}; callers were told: {dict(self.told)}"
        for point, why in self.failures[:40]:
            yield f"FAILED {why}\n    {point.command}"
        yield f"{len(self.failures)} failures"


def _many(given):
    stage = Stage(given[0].seed)
    try:
        with quickly():
            return [(point, *stage.failure(point)) for point in given]
    finally:
        stage.close()


def run_all(seed, most, workers=2, names=None, errors=None):
    stage = Stage(seed)
    with quickly():
        chosen = points(stage, seed, most, names, errors)
    stage.close()
    chosen.sort(key=lambda point: point.scenario)
    pieces = [chosen[start : start + 100] for start in range(0, len(chosen), 100)]
    report = Report()
    with get_context("fork").Pool(workers) as pool:
        for answers in pool.imap_unordered(_many, pieces):
            for answer in answers:
                report.add(*answer)
    return report


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.torture.errors")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--most", type=int, default=400, help="points a scenario")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scenario", action="append")
    parser.add_argument("--error", action="append", choices=sorted(STRIKES))
    parser.add_argument("--point", help="run this one alone")
    given = parser.parse_args()
    if given.point:
        stage = Stage(given.seed)
        with quickly():
            why, told = stage.failure(Point.parse(given.point, given.seed))
        stage.close()
        print(why or f"right; told {dict(told)}")
        return 1 if why else 0
    began = time.perf_counter()
    report = run_all(given.seed, given.most, given.workers, given.scenario, given.error)
    print(*report.lines(), sep="\n")
    print(f"{time.perf_counter() - began:.1f} s")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
