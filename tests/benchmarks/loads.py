"""Rows about loading: from the cache, from the file, and reconciled with what others wrote."""

from __future__ import annotations

import copy
import itertools
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import orjson

from bamboo_sessions import LayeredStorage, MemoryStorage, SessionCache
from tests.benchmarks.rows import row
from tests.benchmarks.subjects import Lab, Subject
from tests.benchmarks.timing import Figure, Once, interleave, loop, single

# -- from the cache ------------------------------------------------------------------------------------------------


def _dict_get() -> Once:
    return loop("get(key)", get={"chat-0": object()}.get, key="chat-0")


def _warm(subject: Subject) -> Once:
    return loop("repo.load(key)", repo=subject.repo, key=subject.key)


@row("warm load", "dict.get", 40, 20)
def warm_load(lab: Lab, n: int) -> Figure:
    """The session is in the cache."""
    cases = {"load": _warm(lab.settled(n)), "dict.get": _dict_get()}
    return interleave(cases, lab.rounds(25)).ratio("load", "dict.get")


@row("warm load, N = 10,000", "N = 10", 1.15, 1.05, sizes=(10_000,))
def warm_load_flat(lab: Lab, n: int) -> Figure:
    """Nothing that a load does depends on the length."""
    cases = {"long": _warm(lab.settled(n)), "short": _warm(lab.settled(10))}
    return interleave(cases, lab.rounds(31)).ratio("long", "short")


@row("warm load, 4 threads", "1 thread", 1.15, 1.05, sizes=(1_000,))
def warm_load_threads(lab: Lab, n: int) -> Figure:
    """Wall time of a load, over all threads: a second core gives nothing under the GIL, but nothing may be lost."""
    subject = lab.settled(n)
    load, key = subject.repo.load, subject.key
    cases = {"four": _threads(load, key, 4), "one": _threads(load, key, 1)}
    return interleave(cases, lab.rounds(25)).ratio("four", "one")


def _threads(load: Callable[[str], object], key: str, threads: int, loads: int = 80_000) -> Once:
    def work(start: threading.Barrier) -> None:
        start.wait()
        for _ in range(loads // threads):
            load(key)

    def once() -> float:
        start = threading.Barrier(threads + 1)
        workers = [threading.Thread(target=work, args=(start,)) for _ in range(threads)]
        for worker in workers:
            worker.start()
        start.wait()
        began = time.perf_counter_ns()
        for worker in workers:
            worker.join()
        return (time.perf_counter_ns() - began) / loads

    return once


@row("load, add a message, len, drop it", "dict.get", 55, 40)
def load_append_drop(lab: Lab, n: int) -> Figure:
    """What a reader does who only tries something out: it must leave nothing behind for the next one."""
    subject = lab.settled(n)
    again = loop("s = repo.load(key); s.add_message(m); len(s.messages)", repo=subject.repo, key=subject.key,
                 m=lab.chats.message())
    cases = {"load": again, "dict.get": _dict_get()}
    return interleave(cases, lab.rounds(25)).ratio("load", "dict.get")


@row("copy.deepcopy of the same as dicts", "warm load", 200, sizes=(10,), at_least=True)
def deepcopy_short(lab: Lab, n: int) -> Figure:
    """What an isolated copy costs where it is made by copying."""
    return _deepcopy(lab, n, 15)


@row("copy.deepcopy of the same as dicts", "warm load", 20_000, sizes=(1_000,), at_least=True)
def deepcopy_long(lab: Lab, n: int) -> Figure:
    """The same for a session of a thousand messages."""
    return _deepcopy(lab, n, 7)


def _deepcopy(lab: Lab, n: int, rounds: int) -> Figure:
    subject = lab.settled(n)
    plain = subject.held.to_dict()
    cases = {"deepcopy": loop("deepcopy(plain)", deepcopy=copy.deepcopy, plain=plain), "load": _warm(subject)}
    return interleave(cases, lab.rounds(rounds)).ratio("deepcopy", "load")


@row("a hit of the cache alone (LRU, no TTL)", "dict.get", 12, 8, sizes=(1_000,))
def cache_hit(lab: Lab, n: int) -> Figure:
    """A value that needs no copying, among n others."""
    return _cache_hit(lab, n, SessionCache(2 * n))


@row("a hit of the cache alone (LRU, TTL)", "dict.get", 12, 8, sizes=(1_000,))
def cache_hit_ttl(lab: Lab, n: int) -> Figure:
    """The same where each hit renews the time to live, which takes a look at the clock."""
    return _cache_hit(lab, n, SessionCache(2 * n, timedelta(hours=1)))


def _cache_hit(lab: Lab, n: int, cache: SessionCache[object]) -> Figure:
    cases = {"get": loop("get(key)", get=_filled(cache, n).get, key="chat-0"), "dict.get": _dict_get()}
    return interleave(cases, lab.rounds(25)).ratio("get", "dict.get")


def _filled(cache: SessionCache[object], n: int) -> SessionCache[object]:
    for number in range(n):
        cache.insert(f"chat-{number}", object())
    return cache


@row("a hit of the cache alone (LRU, TTL), 4 threads", "1 thread", 1.15, 1.05, sizes=(1_000,))
def cache_hit_threads(lab: Lab, n: int) -> Figure:
    """Nobody waits for anybody: a lock would make this 6."""
    get = _filled(SessionCache(2 * n, timedelta(hours=1)), n).get
    cases = {"four": _threads(get, "chat-0", 4), "one": _threads(get, "chat-0", 1)}
    return interleave(cases, lab.rounds(25)).ratio("four", "one")


@row("an insert into a full cache (LRU, TTL)", "dict.get", 80, 60, sizes=(1_000,))
def cache_insert_full(lab: Lab, n: int) -> Figure:
    """A new key each time, so that each makes another one go."""
    cache = _filled(SessionCache(n, timedelta(hours=1)), n)
    keys = [f"other-{number}" for number in range(3 * n)]  # thrice the capacity: each has long gone when it comes again
    cases = {"insert": loop("insert(next_key(), value)", insert=cache.insert, next_key=itertools.cycle(keys).__next__,
                            value=object()), "dict.get": _dict_get()}
    return interleave(cases, lab.rounds(25)).ratio("insert", "dict.get")


# -- from layers ---------------------------------------------------------------------------------------------------


@row("a plain hit in layers, memory over JSON files", "the same of that memory alone", 1.3, 1.15)
def layered_hit(lab: Lab, n: int) -> Figure:
    """What it costs to know that a copy may be served, beside reading it."""
    below, above, alone = lab.settled(n), MemoryStorage(), MemoryStorage()
    layered = LayeredStorage([above, below.storage])
    layered.load_session(below.key)
    copy = layered.load_session(below.key)
    assert copy is not None
    alone.save_session(copy)
    cases = {"layers": loop("load(key)", load=layered.load_session, key=below.key),
             "memory": loop("load(key)", load=alone.load_session, key=below.key)}
    return interleave(cases, lab.rounds(25)).ratio("layers", "memory")


# -- from the file -------------------------------------------------------------------------------------------------


@row("cold load from the file", "orjson.loads of the same bytes", 1.6, 0.6, sizes=(1_000,))
def cold_load(lab: Lab, n: int) -> Figure:
    """To a session with every checksum looked at; its messages are decoded when somebody looks at them."""
    return _cold(lab, n, "load(key)")


@row("cold load from the file, N = 10", "orjson.loads of the same bytes", 5, 3.5, sizes=(10,))
def cold_load_short(lab: Lab, n: int) -> Figure:
    """The price of opening two files shows only where there is little in them."""
    return _cold(lab, n, "load(key)")


@row("cold load, then every message read", "orjson.loads of the same bytes", sizes=(1_000,))
def cold_load_all_read(lab: Lab, n: int) -> Figure:
    """What decoding on access puts off, for who wants all of it."""
    return _cold(lab, n, "[m.content for m in load(key).messages]")


def _cold(lab: Lab, n: int, look: str) -> Figure:
    """The last two messages stand in the journal, as they usually do."""
    subject = lab.subject(n - 2)
    for _ in range(2):
        subject.append(lab.chats.message())
    body = _as_one_document(subject)
    cold = loop(f"forget(key); {look}", forget=subject.repo.cache.invalidate, load=subject.repo.load, key=subject.key)
    cases = {"cold": cold, "loads": loop("loads(body)", loads=orjson.loads, body=body)}
    return interleave(cases, lab.rounds(25)).ratio("cold", "loads")


def _as_one_document(subject: Subject) -> bytes:
    snapshot, journal = (Path(path).read_bytes() for path in (subject.snapshot, subject.journal))
    return b"[" + b",".join([snapshot, *journal.splitlines()]) + b"]"


# -- reconciled ----------------------------------------------------------------------------------------------------


@row("load_merged, nothing changed", "os.stat", 2.0, 1.6)
def load_merged_unchanged(lab: Lab, n: int) -> Figure:
    """One look at the file is the least that can tell."""
    subject = lab.settled(n)
    merged = loop("repo.load_merged(key)", repo=subject.repo, key=subject.key)
    cases = {"load_merged": merged, "stat": loop("stat(path)", stat=os.stat, path=subject.journal)}
    return interleave(cases, lab.rounds(25)).ratio("load_merged", "stat")


@row("load_merged, one message added elsewhere", "os.stat", 10, 6)
def load_merged_one_more(lab: Lab, n: int) -> Figure:
    """Another writer's turn, of which only that line is read."""
    subject = lab.subject(n, durability="process")
    other = Elsewhere(subject)
    merged = single(lambda _: subject.repo.load_merged(subject.key), other.turn)
    cases = {"load_merged": merged, "stat": single(lambda _: os.stat(subject.journal), other.turn)}
    return interleave(cases, lab.rounds(15), passes=20).ratio("load_merged", "stat")


class Elsewhere:
    """A second repository that takes turns in the subject's session, as another process would."""

    def __init__(self, subject: Subject) -> None:
        self._subject, self._repo = subject, subject.another(durability="process")
        self._key = ""

    def turn(self) -> None:
        """Whatever is timed next finds one message more than the subject has seen; warm, as after any other work."""
        message = self._subject.next_message()
        if self._key != self._subject.key:
            self._key = self._subject.key
        else:
            self._subject.repo.load_merged(self._key)
        self._repo.update(self._key, lambda session: session.add_message(message))
        os.stat(self._subject.journal)
