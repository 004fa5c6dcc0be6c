"""A child process starts with free locks, whatever other threads were doing when it was forked."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from datetime import timedelta

import pytest

from bamboo_sessions import LayeredStorage, MemoryStorage, Session
from tests.support import Gate, bundle

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
HOUR = timedelta(hours=1)


def exit_code_of_child(function):
    """0 where it returned; a child that hangs is ended."""
    pid = os.fork()
    if not pid:
        signal.alarm(10)
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


@contextmanager
def layers(clock):
    last = MemoryStorage(ttl=HOUR, clock=clock)
    layered = LayeredStorage([MemoryStorage(clock=clock), last], clock=clock)
    repo = bundle(layered, clock)
    repo.save(Session.new("s", clock=clock))
    yield repo, layered, last


@pytest.mark.parametrize("whose", ["lifetimes", "its own lifetimes", "memory", "layers", "a layer above"])
def test_a_lock_that_was_held_at_the_fork_is_free_in_the_child(clock, whose):
    """The thread that would release it is not there."""
    with layers(clock) as (repo, layered, last):
        lock = {"lifetimes": repo.persistence.lifetimes._noting, "its own lifetimes": layered._lifetimes._noting,
                "memory": last._lock, "layers": layered._turning, "a layer above": layered._above[0]._lock}[whose]

        def work():
            repo.set_title("s", "title")
            assert repo.load("s").title == "title"
            layered._turn("an error")
            layered.stats()

        with lock:
            assert exit_code_of_child(work) == 0


def test_a_child_can_close_what_was_cleaning_up_at_the_fork(clock):
    """No pass runs in the child, so none has to be waited for."""
    gate, storage = Gate(), MemoryStorage(ttl=HOUR)
    expired = storage.expired
    storage.expired = lambda: gate() or expired()
    repo = bundle(storage)
    repo.start_cleanup(timedelta(milliseconds=1))
    gate.reached()
    try:
        assert exit_code_of_child(repo.close) == 0
    finally:
        gate.open()
        repo.close()
