"""Rows about memory, and about the asynchronous face."""

from __future__ import annotations

import asyncio
import gc
import importlib
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import orjson

from tests.benchmarks.rows import NotHere, row
from tests.benchmarks.subjects import Chats, Lab, Subject
from tests.benchmarks.timing import Figure, Once, Rounds, interleave

# -- memory --------------------------------------------------------------------------------------------------------


@row("memory per cached message, 1.4 kB", "its JSON bytes", 1.7, 1.1, sizes=(1_000,))
def memory(lab: Lab, n: int) -> Figure:
    """What a cold load leaves in the cache."""
    return _memory(Subject(lab.new_path(), n, lab.chats), look=False)


@row("memory per cached message, 0.4 kB", "its JSON bytes", 2.8, 1.1, sizes=(1_000,))
def memory_small(lab: Lab, n: int) -> Figure:
    """Small ones, where what surrounds the text counts for more."""
    return _memory(Subject(lab.new_path(), n, Chats(250)), look=False)


@row("memory per cached message, after all were read", "its JSON bytes", sizes=(1_000,))
def memory_read(lab: Lab, n: int) -> Figure:
    """Decoded messages are kept by those who share them."""
    return _memory(Subject(lab.new_path(), n, lab.chats), look=True)


def _memory(subject: Subject, *, look: bool) -> Figure:
    json_size = sum(len(orjson.dumps(message.to_dict())) for message in subject.held.messages)
    fresh = subject.another()
    fresh.exists(subject.key)
    gc.collect()
    tracemalloc.start()
    try:
        session = fresh.load(subject.key)
        assert session is not None
        if look:
            for message in session.messages:
                assert message.content is not None
        del session
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        fresh.close()
        subject.repo.close()
    return Figure.of([held / json_size])


# -- asyncio -------------------------------------------------------------------------------------------------------


@row("awaited warm load", "the sync one", 1.5, 1.25)
def awaited_load(lab: Lab, n: int) -> Figure:
    """Answered on the event loop."""
    return _awaited(lab, n).ratio("awaited", "sync")


@row("warm load through asyncio.to_thread", "awaited warm load", 50, sizes=(1_000,), at_least=True)
def awaited_hop(lab: Lab, n: int) -> Figure:
    """What every load would cost that is answered in a thread."""
    return _awaited(lab, n).ratio("to_thread", "awaited")


def _awaited(lab: Lab, n: int) -> Rounds:
    subject = lab.settled(n)
    face = _async_face(subject)
    with asyncio.Runner() as runner:

        def timed(many: Callable[[int], Any], number: int) -> Once:
            return lambda: runner.run(many(number)) / number

        async def awaited(number: int) -> int:
            load, key = face.load, subject.key
            began = time.perf_counter_ns()
            for _ in range(number):
                await load(key)
            return time.perf_counter_ns() - began

        async def sync(number: int) -> int:
            load, key = subject.repo.load, subject.key
            began = time.perf_counter_ns()
            for _ in range(number):
                load(key)
            return time.perf_counter_ns() - began

        async def hopping(number: int) -> int:
            load, key = subject.repo.load, subject.key
            began = time.perf_counter_ns()
            for _ in range(number):
                await asyncio.to_thread(load, key)
            return time.perf_counter_ns() - began

        cases = {"awaited": timed(awaited, 5000), "sync": timed(sync, 5000), "to_thread": timed(hopping, 50)}
        return interleave(cases, lab.rounds(25))


def _async_face(subject: Subject) -> Any:
    try:
        aio = importlib.import_module("bamboo_sessions.aio")
        return aio.AsyncSessionRepository(subject.repo)
    except (ImportError, AttributeError) as error:
        raise NotHere(f"no asynchronous face: {error}") from error
