"""Every state that a power cut may leave, made and looked at: nothing that was acknowledged may be missing in any.

Each story is played once on a disk that writes everything down; from that follows what a cut at each point may leave
(`states_disk`). Each such state is laid out in memory, opened by a newcomer, and judged against what had been acknowledged
by then: the store opens; it holds what was acknowledged and, of the one change under way, all or nothing; a check finds no
damage; a second opening finds the same; every session that the story is about takes a save, and a third
opening finds that too; a copy of a
session that was deleted stays refused.

    python -m tests.torture.states                                            all of it, in two processes
    python -m tests.torture.states --story fold --model posix --point 37.112  one state
"""

from __future__ import annotations

import argparse
import gc
import os
import pickle
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import attrs
import structlog

from bamboo_sessions import Message, Session, SessionDeleted, SessionExpired, SessionRepository
from bamboo_sessions.testing.clock import ManualClock
from tests.torture import judge
from tests.torture.judge import Wrong
from tests.torture.judge_expiry import purged_later
from tests.torture.scenarios import Model as Store
from tests.torture.scenarios import Scenario, Settled, after
from tests.torture.states_disk import MODELS, Disk, Model, State
from tests.torture.states_faults import FAULTS, Fault
from tests.torture.states_trace import Acknowledged, Recorder, lay_out, recording, same_bytes
from tests.torture.states_work import stories

ROOT = Path(__file__).parents[2]
LEAST = 100_000
MOST_OF_ONE = 0.2
"""What part of all states one story may give."""
CHECKED_AGAIN = 8
"""Every state is checked as it is found; in one of so many what has expired is purged, and it is checked again after the saves,
which read it all anyway."""
_WORD = "a newcomer's word"
_NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
"""By which sessions expire: what the times of files are compared with cannot stand in the past. The same in all processes."""


# -- one story -----------------------------------------------------------------------------------------------------------


@attrs.define
class Played:
    """A story that was played once; `copies`: what somebody held, pickled, before it began."""

    story: Scenario
    disk: Disk
    before: Store
    copies: Mapping[str, bytes]
    found: dict[bytes, Store] = attrs.field(factory=dict)
    """What was in each state that was good."""


    def under_way(self, done: Sequence[int]) -> list[int]:
        """The change that was begun, perhaps, and not acknowledged."""
        return [number for number in [max(done, default=-1) + 1] if number < len(self.story.changes)]

    def may_be_lost(self, done: Sequence[int]) -> list[int]:
        """What was acknowledged and need not last: activity without a commit is not synced."""
        return [number for number in done if self.story.changes[number].kind in ("touch", "save_again")]

    @staticmethod
    def was_deleted(repo: SessionRepository, session: Session) -> bool:
        storage: Any = repo.storage
        return bool(storage.was_deleted(session.id, session.birth))


class Told:
    """Hears when a story begins, and what was acknowledged."""

    def ready(self) -> None:
        """Everything is prepared."""

    def acknowledged(self, number: int) -> None:
        """Of this change."""


def play(story: Scenario, seed: str, folder: Path, fault: Fault | None = None, told: Told | None = None) -> Played:
    """Play it in `folder`, and keep what was asked of the disk."""
    told = told or Told()
    fault = fault or Fault("", ())
    clock = ManualClock() if story.ttl is None else ManualClock(_NOW)
    story = attrs.evolve(story, options={**story.options, "clock": clock})
    with same_bytes(random.Random(seed).randbytes, clock.now):
        story.prepare(folder / "store")
        copies = _copies(folder / "store", story)
        recorder = Recorder(folder)
        files = fault.layer(recording(story.files, recorder))()

        def acknowledge(number: int) -> None:
            recorder.add(Acknowledged(number))
            told.acknowledged(number)

        told.ready()
        with fault.writing():
            story.run(folder / "store", acknowledge, files=files)
    return Played(story, Disk(recorder.trace, seed), story.before(), copies)


def _copies(store: Path, story: Scenario) -> dict[str, bytes]:
    """Held copies of the sessions that the story deletes."""
    chats = {change.chat for change in story.changes if change.kind in ("delete", "purge")} & story.before().keys()
    if not chats or story.damaged or story.wound is not None:
        return {}
    with closing(SessionRepository.open(store, **story.options)) as repo:
        return {chat: pickle.dumps(repo.try_load(chat)) for chat in sorted(chats)}


# -- one state -------------------------------------------------------------------------------------------------------------


def look(folder: str, played: Played, state: State) -> None:
    """Lay it out and judge it; raises `Wrong`. What was looked at before is not opened again: only more may be owed."""
    done = played.disk.acknowledged(state.cut)
    lost = played.may_be_lost(done)
    sure, perhaps = [number for number in done if number not in lost], [*lost, *played.under_way(done)]
    if state.digest in played.found:
        judge.matching(played.found[state.digest], played.before, played.story.changes, sure, perhaps)
        return
    lay_out(state.tree(), folder)
    try:
        again = state.digest[0] % CHECKED_AGAIN == 0
        played.found[state.digest] = judge_store(f"{folder}/store", played, sure, perhaps, again=again)
    except Wrong:
        raise
    except Exception as error:
        raise Wrong("broken", f"{type(error).__name__}: {error}") from error
    finally:
        shutil.rmtree(folder)


def judge_store(folder: str, played: Played, done: Sequence[int], perhaps: Sequence[int], *, again: bool = True) -> Store:
    """What was found. Three openings, and saves between the last two; raises `Wrong`. `again`: check after the saves too."""
    changes, before = played.story.changes, played.before
    touched = {change.chat for change in changes if change.chat}
    chats = touched | before.keys()
    options = {**played.story.options, "durability": "process", "files": Settled()}
    with closing(SessionRepository.open(folder, **options)) as repo:
        found = judge.matching(judge.observe(repo, folder, chats), before, changes, done, perhaps)
        judge._undamaged(repo, {chat for chat, session in found.items() if session.get("damaged")})
    owed = after(found, ())
    expired = {change.chat for change in changes if change.kind == "purge"}
    if played.story.ttl is not None and again:
        expired |= {*purged_later(folder, owed, played.story.ttl, options, renewing=len(done) % 2 == 1)}
    with closing(SessionRepository.open(folder, **options)) as repo:
        second = {chat: seen for chat in sorted(chats) if (seen := judge._seen(repo, folder, chat)) is not None}
        if not judge.same(second, owed):
            raise Wrong("moving", f"a second opening gives another state: {judge._blame(second, [owed])[1]}")
        _refuse_copies(repo, played, owed, expired)
        _go_on(repo, owed, [chat for chat in owed if chat in touched] or list(owed)[:1])
    with closing(SessionRepository.open(folder, **options)) as repo:
        seen = judge.observe(repo, folder, chats | owed.keys())
        if not judge.same(seen, owed):
            raise Wrong(*judge._blame(seen, [owed]))
        if again:
            judge._undamaged(repo)
    return found


def _refuse_copies(repo: SessionRepository, played: Played, there: Store, expired: Collection[str]) -> None:
    for chat, pickled in played.copies.items():
        life = played.before[chat]["life"]
        if chat in there and there[chat]["life"] == life:
            continue
        session: Session = pickle.loads(pickled)
        if not played.was_deleted(repo, session):
            raise Wrong("ghost", f"nobody remembers that {chat!r} was deleted: a copy of it from before its first save may end there")
        session.add_message(Message.user("a word that comes too late"))
        try:
            repo.save(session)
        except (SessionDeleted, SessionExpired) as error:
            if isinstance(error, SessionExpired) != (chat in expired):
                raise
            continue
        raise Wrong("ghost", f"a copy of the deleted session {chat!r} was saved")


def _go_on(repo: SessionRepository, owed: Store, chats: Sequence[str]) -> None:
    """Save in these, or in a new one where there are none."""
    for chat in chats or ["afterwards"]:
        if owed.get(chat, {}).get("damaged"):
            repo.repair(chat)
            owed[chat] |= {"damaged": False, "revision": None}
        session = repo.load_or_create(chat, metadata={"life": "later"})
        session.add_message(Message.user(_WORD))
        repo.save(session)
        judge._expect_word(owed, chat, _WORD)


# -- all states of a story -------------------------------------------------------------------------------------------------


@attrs.define
class Tally:
    """What was looked at, and what was wrong: (kind, command, why)."""

    name: str
    states: set[bytes] = attrs.field(factory=set)
    """Digests of what was on the disk."""
    cpu: float = 0.0
    judged: int = 0
    """Some states were judged more than once: against what was owed before and after an acknowledgement."""
    cuts: int = 0
    operations: int = 0
    wrong: list[tuple[str, str, str]] = attrs.field(factory=list)

    def __str__(self) -> str:
        kinds = dict(Counter(kind for kind, _, _ in self.wrong))
        told = [f"{self.name}: {self.operations} operations, {self.cuts} cuts, {len(self.states)} states, {len(self.wrong)} wrong {kinds or ''}"]
        for kind, command, why in self.wrong[:2]:
            told.append(f"{kind}: {why}\n  reproduce: {command}")
        return "\n".join(told)


def command(name: str, seed: str, state: State, fault: str | None = None) -> str:
    """What looks at this one state alone."""
    defect = f" --fault {fault}" if fault else ""
    return (f"{sys.executable} -m tests.torture.states --seed {seed} --story '{name}'{defect} --model {state.model} "
            f"--point {state.cut}.{state.number}")


def try_all(name: str, seed: str = "1", *, fault: str | None = None, models: Iterable[Model] = MODELS,
            seen: set[tuple[bytes, int]] | None = None, point: tuple[int, int] | None = None, stop_after: int = 20) -> Tally:
    """Every state of one story; of `seen`, (digest, what was owed), not again. `point`: only that one."""
    planted, tally, seen = FAULTS[fault] if fault else None, Tally(name), set() if seen is None else seen
    models = tuple(models)
    with _folder() as base, (planted or Fault("", ())).reading():
        (base / "played").mkdir()
        played = play(stories(seed)[name], seed, base / "played", planted)
        tally.operations, cuts = len(played.disk.operations), played.disk.cuts()
        for cut in cuts if point is None else [point[0]]:
            tally.cuts += 1
            owed = hash((name, len(played.disk.acknowledged(cut))))
            for state in played.disk.states(cut, models):
                if (state.digest, owed) in seen or (point is not None and state.number != point[1]):
                    continue
                seen.add((state.digest, owed))
                tally.states.add(state.digest)
                tally.judged += 1
                _try(str(base / "state"), played, state, tally, lambda state: command(name, seed, state, fault))
                if len(tally.wrong) >= stop_after:
                    return tally
    return tally


def _try(folder: str, played: Played, state: State, tally: Tally, told: Any) -> None:
    try:
        look(folder, played, state)
    except Wrong as error:
        tally.wrong.append((error.kind, told(state), f"{error}\n  cut behind operation {state.cut}: {state.told}"))


@contextmanager
def _folder() -> Iterator[Path]:
    """In memory where there is such a place: nothing here needs to last."""
    path = tempfile.mkdtemp(prefix="crash-states-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    try:
        yield Path(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


# -- all stories -----------------------------------------------------------------------------------------------------------


_seen: set[tuple[bytes, int]] = set()  # of this process


def _prepare_process() -> None:
    quiet()
    gc.disable()
    gc.freeze()


def quiet() -> None:
    """A torn tail that was cut is what is looked for, not news."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


def _one(job: tuple[str, str]) -> Tally:
    name, seed = job
    began = time.process_time()
    tally = try_all(name, seed, seen=_seen)
    gc.collect()
    tally.cpu = time.process_time() - began
    return tally


def try_everything(seed: str = "1", processes: int = 2, names: Sequence[str] | None = None) -> Iterator[Tally]:
    """Every story, the long ones first; a tally for each, in the order in which they end."""
    names = list(stories(seed)) if names is None else names
    with ProcessPoolExecutor(processes, get_context("fork"), initializer=_prepare_process) as pool:
        yield from pool.map(_one, [(name, seed) for name in names])


@attrs.define
class Sum:
    """All tallies together."""

    states: set[bytes] = attrs.field(factory=set)
    judged: int = 0
    stories: int = 0
    cpu: float = 0.0
    most: tuple[int, str] = (0, "")
    wrong: list[tuple[str, str, str]] = attrs.field(factory=list)
    began: float = attrs.field(factory=time.monotonic)

    def add(self, tally: Tally) -> None:
        new = tally.states - self.states
        self.states |= new
        self.judged += tally.judged
        self.stories += 1
        self.cpu += tally.cpu
        self.most = max(self.most, (len(new), tally.name))
        self.wrong += tally.wrong

    def shortfall(self) -> str:
        """Why this is not enough, or nothing."""
        if len(self.states) < LEAST:
            return f"{len(self.states)} distinct states are fewer than {LEAST}"
        if self.most[0] > MOST_OF_ONE * len(self.states):
            return f"{self.most[1]} alone gives {self.most[0]} of {len(self.states)} states"
        return ""

    def __str__(self) -> str:
        took = time.monotonic() - self.began
        return (f"{self.stories} stories, {len(self.states):,} distinct states, {self.judged:,} judged, at most {self.most[0]:,} "
                f"of one story ({self.most[1]}), {len(self.wrong)} wrong; {took:.0f} s, {self.cpu:.0f} s of processors, "
                f"{self.cpu / max(1, self.judged) * 1e3:.2f} ms each")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.torture.states", description="Judge what power cuts may leave.")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--story", help="this one alone")
    parser.add_argument("--fault", choices=FAULTS, help="with this defect")
    parser.add_argument("--model", choices=MODELS, help="only what such a file system leaves")
    parser.add_argument("--point", help="one state: operation.number")
    parser.add_argument("--processes", type=int, default=2)
    told = parser.parse_args()
    quiet()
    sys.exit(_alone(told) if told.story else _everything(told))


def _alone(told: argparse.Namespace) -> int:
    point = tuple(int(part) for part in told.point.split(".")) if told.point else None
    tally = try_all(told.story, told.seed, fault=told.fault, models=[told.model] if told.model else MODELS, point=point)  # type: ignore[arg-type]
    print(tally)
    return 1 if tally.wrong else 0


def _everything(told: argparse.Namespace) -> int:
    total, shown = Sum(), 0.0
    for tally in try_everything(told.seed, told.processes):
        total.add(tally)
        if tally.wrong:
            print(tally, flush=True)
        if time.monotonic() > shown + 5:
            print(total, flush=True)
            shown = time.monotonic()
    print(total, total.shortfall(), sep="\n")
    return 1 if total.wrong or total.shortfall() else 0


if __name__ == "__main__":
    main()
