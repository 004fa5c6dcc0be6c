"""The table that helps to choose: the same work on files, SQLite and PostgreSQL, taking turns.

Turns are taken operation by operation, so that a burst of load hits all three; what counts is the middle of all. The
figures are one machine's; which is faster, and by about how much, is what carries over.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import orjson

from bamboo_sessions import JsonFileStorage, LockedSessionStore, Message, SessionCache, SessionRepository
from bamboo_sessions.storages.sql import SqlStorage, schema
from tests.benchmarks.houses import House, houses
from tests.benchmarks.subjects import Chats, bench_folder
from tests.benchmarks.timing import Once, interleave, loop, single

PAGE, FEW, MANY = 50, 10_000, 100_000
PROCESSES, SECONDS = 4, 0.6

Cells = dict[str, str]


@attrs.define
class Line:
    """One row of the table: what was done, and each house's figure."""

    what: str
    cells: Cells


class Lab:
    """The houses, and repositories over them that everybody may use."""

    def __init__(self, there: list[House], *, quick: bool) -> None:
        self.houses, self.quick, self.chats = there, quick, Chats()
        self.repos = {house.name: house.repository("main") for house in there}
        self._numbers = itertools.count()

    def rounds(self, usual: int) -> int:
        return 2 if self.quick else usual

    def size(self, usual: int) -> int:
        return usual // 100 if self.quick else usual

    def new_id(self) -> str:
        return f"chat-{next(self._numbers)}"

    def stored(self, repo: SessionRepository, n: int) -> str:
        """A session of n messages."""
        key = self.new_id()
        repo.save(self.chats.session(key, n))
        return key

    def measured(self, cases: Callable[[House, SessionRepository], Once], rounds: int, passes: int = 5) -> dict[str, list[float]]:
        """Each house's times, shortest first."""
        made = {house.name: cases(house, self.repos[house.name]) for house in self.houses}
        os.sync()  # what was written before must not be flushed in the middle of this
        return _every(made, self.rounds(rounds), passes)

    def close(self) -> None:
        for repo in self.repos.values():
            repo.close()


def _every(cases: dict[str, Once], rounds: int, passes: int = 1) -> dict[str, list[float]]:
    return {name: sorted(times) for name, times in interleave(cases, rounds, passes).every.items()}


def at(times: dict[str, list[float]], share: float = 0.5) -> Cells:
    """Each house's median, or another percentile."""
    return {name: taken(every[int(share * (len(every) - 1))]) for name, every in times.items()}


def taken(ns: float) -> str:
    """Three digits, which is more than they are worth."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if ns >= size:
            return f"{float(f'{ns / size:.3g}'):g} {unit}"
    return f"{ns:.0f} ns"


# -- saving and loading ------------------------------------------------------------------------------------------


def saving(lab: Lab) -> Iterator[Line]:
    for n in (10, 1_000):
        sessions = {name: repo.try_load(lab.stored(repo, n)) for name, repo in lab.repos.items()}

        def append(house: House, repo: SessionRepository, held: dict[str, Any] = sessions) -> Once:
            session = held[house.name]

            def turn(message: Message) -> None:
                session.add_message(message)
                repo.save(session)

            return single(turn, lab.chats.message)

        times = lab.measured(append, 20, 10)
        for share, word in ((0.5, "p50"), (0.99, "p99")):
            yield Line(f"a turn appended and saved, N = {n:,}, {word}", at(times, share))
    for n in (1, 1_000):
        what = f"first save of a session, N = {n:,}"
        times = lab.measured(lambda _, repo, n=n: single(repo.save, lambda: lab.chats.session(lab.new_id(), n)),
                             20 if n == 1 else 3)
        yield Line(what, at(times))


def loading(lab: Lab) -> Iterator[Line]:
    keys = {name: lab.stored(repo, 1_000) for name, repo in lab.repos.items()}
    time.sleep(0.05)  # until a file's times are old enough to be trusted

    def cold(house: House, repo: SessionRepository) -> Once:
        return single(repo.load, lambda: (repo.cache.invalidate(keys[house.name]), keys[house.name])[1])

    def call(method: str) -> Callable[[House, SessionRepository], Once]:
        return lambda house, repo: loop(f"{method}(key)", **{method: getattr(repo, method), "key": keys[house.name]})

    yield Line("cold load, N = 1,000", at(lab.measured(cold, 8)))
    yield Line("warm load, N = 1,000", at(lab.measured(call("load"), 3)))
    yield Line("`load_merged`, nothing changed", at(lab.measured(call("load_merged"), 3)))
    others = {house.name: house.repository("main") for house in lab.houses}

    def after_another(house: House, repo: SessionRepository) -> Once:
        def elsewhere() -> str:
            others[house.name].update(keys[house.name], lambda session: session.add_message(lab.chats.message()))
            return keys[house.name]

        return single(repo.load_merged, elsewhere)

    yield Line("`load_merged`, a message came from elsewhere", at(lab.measured(after_another, 8)))
    for other in others.values():
        other.close()


# -- lists -------------------------------------------------------------------------------------------------------


def listing(lab: Lab) -> Iterator[Line]:
    for count in (lab.size(FEW), lab.size(MANY)):
        there = [house for house in lab.houses if count < lab.size(MANY) or house.name != "JSON files"]
        opened = {house.name: [house.open(f"of-{count}", durability="process")] for house in there}
        for storages in opened.values():
            _fill(storages[0], count, lab.chats)

        def anew(house: House, count: int = count, opened: dict[str, list[Any]] = opened) -> Any:
            opened[house.name].append(house.open(f"of-{count}", durability="process"))
            return opened[house.name][-1]

        def page(storage: Any) -> object:
            return storage.list_sessions(PAGE)

        if count == lab.size(FEW):
            firsts = {house.name: single(page, lambda house=house: anew(house)) for house in there}
            yield Line(f"the first page of {PAGE} that a process asks for, of {count:,} sessions", at(_every(firsts, lab.rounds(3))))
        nexts = {name: single(page, lambda storages=storages: storages[0]) for name, storages in opened.items()}
        yield Line(f"another page of {PAGE}, of {count:,} sessions", at(_every(nexts, lab.rounds(25))))
        for storage in itertools.chain(*opened.values()):
            storage.close()


def _fill(storage: Any, count: int, chats: Chats) -> None:
    """By saves into files; into tables by copies of one row that a save has made, since nothing else is looked at."""
    if not isinstance(storage, SqlStorage):
        for number in range(count):
            storage.save_session(chats.session(f"s{number}", 1))
        return
    storage.save_session(chats.session("s0", 1))
    # The only place here that knows the tables; lists read this one alone.
    with storage._open.engine.connect().execution_options(isolation_level="SERIALIZABLE") as connection:
        table = schema.session
        mine = table.c.namespace == storage.namespace
        row = dict(connection.execute(table.select().where(mine)).mappings().one())
        rows = [_another(row, number) for number in range(1, count)]
        for start in range(0, len(rows), 5_000):
            connection.execute(table.insert(), rows[start : start + 5_000])
        connection.commit()
        connection.exec_driver_sql("ANALYZE")


def _another(row: dict[str, Any], number: int) -> dict[str, Any]:
    """Changed in another order than made."""
    changed = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number * 7919 % 10_000_000)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    head = orjson.loads(row["head"]) | {"id": f"s{number}", "updated_at": changed}
    return {**row, "id": f"s{number}", "updated_at": changed, "head": orjson.dumps(head).decode()}


# -- writers -----------------------------------------------------------------------------------------------------


def writing(lab: Lab) -> Iterator[Line]:
    """Each process has a repository of its own; saves a second, all together."""
    places = {house.name: _place(house) for house in lab.houses}
    turns = [(name, shared) for _ in range(lab.rounds(5)) for shared in (False, True) for name in places]
    counts = _raced(places, turns, 0.1 if lab.quick else SECONDS)
    for shared, which in ((False, "to a session each"), (True, "to one session")):
        rates = {name: statistics.median(rate for turn, rate in zip(turns, counts, strict=True) if turn == (name, shared))
                 for name in places}
        yield Line(f"saves a second, {PROCESSES} processes {which}",
                   {name: f"{float(f'{rate:.2g}'):,.0f}" for name, rate in rates.items()})


def _place(house: House) -> str:
    storage = house.open("race")
    place = storage.root if house.name == "JSON files" else storage._open.engine.url.render_as_string(hide_password=False)
    storage.close()
    return str(place)


def _raced(places: dict[str, str], turns: list[tuple[str, bool]], seconds: float) -> list[float]:
    """The rate of each turn."""
    context = multiprocessing.get_context("spawn")
    ready, counts = context.Barrier(PROCESSES), context.Queue()
    who = [context.Process(target=_writer, args=(places, turns, number, seconds, ready, counts)) for number in range(PROCESSES)]
    for one in who:
        one.start()
    done = [counts.get(timeout=150) for _ in who]
    for one in who:
        one.join()
    return [sum(each) / seconds for each in zip(*done, strict=True)]


def _writer(places: dict[str, str], turns: list[tuple[str, bool]], number: int, seconds: float, ready: Any, counts: Any) -> None:
    storages = {name: JsonFileStorage(place) if name == "JSON files" else SqlStorage(place, namespace="race")
                for name, place in places.items()}
    repos = {name: SessionRepository(SessionCache(), storage, LockedSessionStore(storage)) for name, storage in storages.items()}
    chats = [Chats(seed=number).chat() for _ in range(100)]
    counts.put([_saves(repos[name], f"{'same' if shared else number}-{turn}", chats, seconds, ready)
                for turn, (name, shared) in enumerate(turns)])
    for repo in repos.values():
        repo.close()


def _saves(repo: SessionRepository, key: str, chats: list[dict[str, Any]], seconds: float, ready: Any) -> int:
    """How many there were; each is of a new message."""
    done, session = 0, repo.load_or_create(key)
    ready.wait(60)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        session.add_message(Message.from_dict(chats[done % len(chats)]))
        repo.save(session)
        done += 1
    return done


# -- space -------------------------------------------------------------------------------------------------------


def space(lab: Lab) -> Iterator[Line]:
    count, cells = lab.size(300), {}
    sessions = [lab.chats.session(f"space-{number}", 20) for number in range(count)]
    plain = sum(len(orjson.dumps(session.to_dict())) for session in sessions)
    for house in lab.houses:
        repo = house.repository("space")
        before = house.size()
        for session in sessions:
            repo.save(session.snapshot())
        repo.close()
        cells[house.name] = f"{(house.size() - before) / count / 1024:.0f} kB"
    yield Line(f"on the disk a session of 20 messages, {plain / count / 1024:.0f} kB as JSON", cells)


# -- the table ---------------------------------------------------------------------------------------------------


def table(lines: list[Line], names: list[str]) -> str:
    """For a page of the docs."""
    rows = [("", *names), ("---", *["---:"] * len(names)), *((line.what, *(line.cells.get(name, "not tried") for name in names))
                                                         for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def run(*, quick: bool) -> int:
    began, load = time.monotonic(), _load()
    lines: list[Line] = []
    with bench_folder() as name, houses(Path(name)) as (there, about):
        lab = Lab(there, quick=quick)
        try:
            flush = _flush(Path(name))
            for part in (saving, loading, space, writing, listing):
                for line in part(lab):
                    lines.append(line)
                    print(f"{time.monotonic() - began:5.0f} s  {line.what}", file=sys.stderr, flush=True)
        finally:
            lab.close()
        print(table(lines, [house.name for house in there]))
    print(f"\n{os.cpu_count()} cores, {platform.system()} {platform.release()}, CPython {platform.python_version()}, {about}. "
          f"`write` and `fdatasync` of 1.4 kB take {flush} here. Load average {load} before, {_load()} after.")
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    return 0


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def _flush(folder: Path) -> str:
    fd = os.open(folder / "flush", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        once = single(lambda data: (os.write(fd, data), os.fdatasync(fd)), lambda: b"x" * 1400)
        return taken(statistics.median(once() for _ in range(200)))
    finally:
        os.close(fd)
