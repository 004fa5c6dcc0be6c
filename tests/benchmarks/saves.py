"""Rows about saving: an append against the least that a disk can do for it, whole sessions against a careful rewrite.

The floor of an append is one `write` and one `fdatasync` of the same number of bytes to a file that grows. What is timed
is a turn as a runtime takes it: `session.add_message(message)` and `repo.save(session)`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson

from bamboo_sessions import Session
from bamboo_sessions._files import Files
from tests.benchmarks.rows import row
from tests.benchmarks.subjects import Lab, Subject
from tests.benchmarks.timing import Figure, Once, Rounds, interleave, single

_sync = getattr(os, "fdatasync", os.fsync)

# -- appends -------------------------------------------------------------------------------------------------------


def _turn(subject: Subject) -> Once:
    return single(subject.append, subject.next_message)


def _floor(lab: Lab, subject: Subject) -> Once:
    fd, data = lab.growing_file(), b"x" * (subject.line_size() - 1) + b"\n"

    def write(_: None) -> None:
        os.write(fd, data)
        _sync(fd)

    return single(write)


def _appends(lab: Lab, n: int, passes: int = 20) -> Rounds:
    subject = lab.subject(n)
    cases = {"save": _turn(subject), "floor": _floor(lab, subject)}
    return interleave(cases, lab.rounds(15), passes)


@row("append-save, p50", "write + fdatasync", 1.3, 1.1)
def append_save(lab: Lab, n: int) -> Figure:
    """One message more, durable."""
    return _appends(lab, n).ratio("save", "floor")


@row("append-save, N = 10,000, over its floor", "N = 10 over its own", 1.15, 1.05, sizes=(10_000,))
def append_save_flat(lab: Lab, n: int) -> Figure:
    """A turn costs what it says, not what the session holds."""
    long, short = lab.subject(n), lab.subject(10)
    cases = {"long": _turn(long), "floor of long": _floor(lab, long),
             "short": _turn(short), "floor of short": _floor(lab, short)}
    made = interleave(cases, lab.rounds(15), passes=20)
    return made.ratio_of_ratios(("long", "floor of long"), ("short", "floor of short"))


@row("append-save, p99, no fold", "the floor's p99", 1.5, 1.25, sizes=(1_000,))
def append_save_p99(lab: Lab, n: int) -> Figure:
    """The slowest of a hundred."""
    return _appends(lab, n, passes=60).tail_ratio("save", "floor", 0.99)


@row("append-save, mean, folds included", "write + fdatasync, mean", sizes=(10,))
def append_save_with_folds(lab: Lab, n: int) -> Figure:
    """A short session that goes on growing is written anew now and then."""
    subject = lab.subject(n)
    run = single(subject.append, subject.chats.message, times=100)
    fd, data = lab.growing_file(), b"x" * subject.line_size()
    floor = single(lambda _: (os.write(fd, data), _sync(fd)), times=100)
    return interleave({"save": run, "floor": floor}, lab.rounds(7)).ratio("save", "floor")


class _Counting(Files):
    """Counts the bytes that are written."""

    def __init__(self) -> None:
        self.written = 0

    def write_at(self, fd: int, data: bytes, offset: int) -> int:
        done = super().write_at(fd, data, offset)
        self.written += done
        return done


@row("bytes written by an append-save, less 200", "JSON of the message", 1.15)
def append_bytes(lab: Lab, n: int) -> Figure:
    """Counted where the storage calls the file system."""
    files = _Counting()
    subject = lab.subject(n, files=files)
    ratios = []
    for _ in range(15):
        message, before = subject.next_message(), files.written
        subject.append(message)
        ratios.append((files.written - before - 200) / len(orjson.dumps(message.to_dict())))
    return Figure.of(ratios)


@row("append-save, not synced", "os.write of the line", 20, 10, sizes=(1_000,))
def unsynced_save(lab: Lab, n: int) -> Figure:
    """`durability="process"`: what merging, locking, encoding and publishing cost by themselves."""
    subject = lab.subject(n, durability="process")
    fd, data = lab.growing_file(), b"x" * subject.line_size()
    cases = {"save": _turn(subject), "write": single(lambda _: os.write(fd, data))}
    return interleave(cases, lab.rounds(25), passes=20).ratio("save", "write")


@row("append-save while a thread spins on loads", "write + fdatasync while it spins", 1.5, 1.1, sizes=(1_000,))
def save_beside_spinner(lab: Lab, n: int) -> Figure:
    """Whoever flushes gives the interpreter away and gets it back after a switch interval (5 ms): a save may have to wait
    for that once, not at each of its calls. So has the baseline; on a busy machine the interval alone would be none."""
    subject = lab.subject(n)
    floor = _floor(lab, subject)
    with _spinning(lab.settled(n)):
        return interleave({"save": _turn(subject), "floor": floor}, lab.rounds(9), passes=9).ratio("save", "floor")


@contextmanager
def _spinning(subject: Subject) -> Iterator[None]:
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            subject.repo.load(subject.key)

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@row("append-save", "a row in SQLite (WAL, synchronous=FULL)", 0.8, 0.6)
def append_save_sqlite(lab: Lab, n: int) -> Figure:
    """The usual way to make a row durable."""
    subject, path = lab.subject(n), lab.new_path()
    base = sqlite3.connect(path, isolation_level=None)
    base.execute("pragma journal_mode=wal")
    base.execute("pragma synchronous=full")
    base.execute("create table messages (session text, seq integer, body blob, primary key (session, seq))")
    line, rows = b"x" * subject.line_size(), iter(range(10**9))
    base.executemany("insert into messages values ('chat', ?, ?)", [(next(rows), line) for _ in range(n)])
    insert = single(lambda _: base.execute("insert into messages values ('chat', ?, ?)", (next(rows), line)))
    try:
        return interleave({"save": _turn(subject), "insert": insert}, lab.rounds(9), passes=15).ratio("save", "insert")
    finally:
        base.close()


# -- whole sessions ------------------------------------------------------------------------------------------------


class Rewrite:
    """A careful whole rewrite: dumps, write, fsync, replace, fsync of the folder."""

    def __init__(self, lab: Lab, session: Session) -> None:
        self._plain, self._path = session.to_dict(), lab.new_path()

    def __call__(self, _: object = None) -> None:
        new = self._path.with_suffix(".new")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        _write_all(fd, orjson.dumps(self._plain))
        os.fsync(fd)
        os.close(fd)
        os.replace(new, self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


_REWRITE = "dumps + write + fsync + replace + fsync of the folder"


@row("a whole rewrite (" + _REWRITE + ")", "append-save", 10, sizes=(1_000,), at_least=True)
def rewrite(lab: Lab, n: int) -> Figure:
    """What most session stores do at every turn."""
    return _rewrite(lab, n, 7)


@row("a whole rewrite (the same)", "append-save", 100, sizes=(10_000,), at_least=True)
def rewrite_long(lab: Lab, n: int) -> Figure:
    """The same in a long conversation."""
    return _rewrite(lab, n, 5)


def _rewrite(lab: Lab, n: int, rounds: int) -> Figure:
    subject = lab.subject(n)
    cases = {"rewrite": single(Rewrite(lab, subject.held)), "save": _turn(subject)}
    return interleave(cases, lab.rounds(rounds), passes=3).ratio("rewrite", "save")


@row("first save of a session", _REWRITE, 3, 2, sizes=(10, 1_000))
def first_save(lab: Lab, n: int) -> Figure:
    """A folder and two files, each durable with its name, against one file; in a shard that is there."""
    subject = lab.subject(10)
    shard = Path(subject.journal).parents[1]
    names = (f"first-{number}" for number in range(10**9))
    ours = (name for name in names if Path(subject.storage._place(name).shard) == shard)
    save = single(subject.repo.save, lambda: lab.chats.session(next(ours), n))
    cases = {"save": save, "rewrite": single(Rewrite(lab, lab.chats.session("first", n)))}
    return interleave(cases, lab.rounds(9), passes=8 if n < 100 else 3).ratio("save", "rewrite")


@row("full save: the first message edited, mean of 4", _REWRITE, 1.5, 1.0, sizes=(1_000,))
def full_save(lab: Lab, n: int) -> Figure:
    """Everything has to be written again. Every second or so folds the journal; so a mean, not a median."""
    subject = lab.subject(n)

    def edit() -> Session:
        subject.held.replace_message(subject.held.messages[0].id, lab.chats.message())
        return subject.held

    cases = {"save": single(subject.repo.save, edit, times=4), "rewrite": single(Rewrite(lab, subject.held), times=4)}
    return interleave(cases, lab.rounds(9)).ratio("save", "rewrite")
