"""What the tests share: storages of several kinds, and ways to stop two threads at chosen points.

Nothing here sleeps. A race is written down as an order of steps: either a step is *run inside* another one (`Steered`
calls it at a named point), or a thread is held at a point by a `Gate` until the test lets it go.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from copy import deepcopy

from bamboo_sessions import LockedSessionStore, SessionCache, SessionRepository, StorageUnavailable
from bamboo_sessions.models import Message, Session
from bamboo_sessions.storages.protocol import Storage
from bamboo_sessions.testing.clock import START, ManualClock  # noqa: F401 - START belongs to the clock, and tests ask here for both

PATIENCE = 20.0
"""Seconds until a step that never comes fails the test."""


# -- storages ----------------------------------------------------------------------------------------------------


class WholeSessions(Storage):
    """Somebody's own storage with three methods, which keeps sessions as they are."""

    def __init__(self):
        self.kept = {}
        self.fails = None

    def load_session(self, session_id):
        self._maybe_fail()
        return deepcopy(self.kept.get(session_id))

    def save_session(self, session):
        self._maybe_fail()
        self.kept[session.id] = session

    def delete_session(self, session_id):
        self._maybe_fail()
        return self.kept.pop(session_id, None) is not None

    def _maybe_fail(self):
        if self.fails is not None:
            raise self.fails


class ChatsOnly(Storage):
    """Somebody's own storage that keeps next to nothing: no birth, no revision, no message ids."""

    def __init__(self):
        self.rows = {}

    def load_session(self, session_id):
        row = self.rows.get(session_id)
        return None if row is None else Session.from_dict(deepcopy(row))

    def save_session(self, session):
        row = session.to_dict()
        for name in ("birth", "revision", "message_ids"):
            del row[name]
        self.rows[session.id] = row

    def delete_session(self, session_id):
        return self.rows.pop(session_id, None) is not None


class Steered:
    """A record storage, without a lock, in whose steps a test can have its say.

    Points, in the order of a save: "read" and "was read", "commit" and "was committed"; "delete" and "was deleted".
    What stands at a point is called once, unless it is put there with `always`; what it raises goes to the caller.
    """

    def __init__(self, inner):
        self.inner = inner
        self.calls = []
        self._once, self._always = {}, {}
        self._steering = threading.Lock()

    def at(self, point, do):
        self._once.setdefault(point, []).append(do)

    def always(self, point, do):
        self._always[point] = do

    def never_mind(self):
        self._once.clear()
        self._always.clear()

    def _pass(self, point, session_id):
        with self._steering:
            self.calls.append((point, session_id))
            waiting = self._once.get(point)
            do = waiting.pop(0) if waiting else self._always.get(point)
        if do is not None:
            do()

    @property
    def name(self):
        return self.inner.name

    @property
    def store_id(self):
        return self.inner.store_id

    def read(self, session_id, known=None):
        self._pass("read", session_id)
        answer = self.inner.read(session_id, known)
        self._pass("was read", session_id)
        return answer

    def commit(self, commit):
        self._pass("commit", commit.session_id)
        stamp = self.inner.commit(commit)
        self._pass("was committed", commit.session_id)
        return stamp

    def delete_record(self, session_id):
        self._pass("delete", session_id)
        there = self.inner.delete_record(session_id)
        self._pass("was deleted", session_id)
        return there

    def exists(self, session_id):
        return self.inner.exists(session_id)

    def was_deleted(self, session_id, birth):
        return self.inner.was_deleted(session_id, birth)

    def heads(self):
        return self.inner.heads()

    def close(self):
        self.inner.close()


class SteeredWithLock(Steered):
    """The same over a storage with a lock of its own."""

    def lock(self, session_id, timeout):
        return self.inner.lock(session_id, timeout)

    def append_usage(self, session_id, line):
        self.inner.append_usage(session_id, line)


def steered(storage):
    """Whichever of the two fits."""
    return SteeredWithLock(storage) if hasattr(storage, "lock") else Steered(storage)


def failing(outcome="not applied"):
    """To be put at a point of a `Steered`."""

    def fail():
        raise StorageUnavailable("test", outcome=outcome, reason="on purpose")

    return fail


applied_but_unknown = failing("unknown")
"""At "was committed": the change is stored and the caller is told that nobody knows."""


# -- repositories ------------------------------------------------------------------------------------------------


def bundle(storage, clock=None, *, cache=None, **options):
    """The three tiers by hand."""
    clock = clock or ManualClock()
    cache = SessionCache(clock=clock) if cache is None else cache
    return SessionRepository(cache, storage, LockedSessionStore(storage, clock=clock, **options), clock=clock)


def over(storage, clock):
    """The three tiers on any storage, whose reads and commits a test can stop: `storage` of the repository is a `Steered`."""
    return bundle(steered(LockedSessionStore(storage).records), clock)


def begin(repo, *words, **fields):
    """The session "s", saved with these messages."""
    session = Session.new("s", clock=repo._clock, **fields)
    session.messages = [Message.user(word) for word in words]
    repo.save(session)
    return session


def keep(repo, session, point="commit", fails=None):
    """`save_and_cache` on a `Steered` that fails once."""
    repo.storage.at(point, fails or failing())
    repo.save_and_cache(session)


def keep_more(repo, word):
    """A copy with one message more, kept in the cache as unsaved."""
    session = repo.load("s")
    session.add_message(Message.user(word))
    keep(repo, session)
    return session


def texts(session):
    return [message.content for message in session.messages]


def open_calls(session):
    return [question.tool_call_id for question in session.pending_questions]


def stored(storage, session_id):
    """What a newcomer sees: a repository of its own, with an empty cache."""
    return bundle(storage).try_load(session_id)


# -- threads -----------------------------------------------------------------------------------------------------


class Gate:
    """A point at which a thread stops: `reached` says that it is there, `open` lets it go on."""

    def __init__(self):
        self._reached, self._open = threading.Event(), threading.Event()

    def __call__(self):
        self._reached.set()
        assert self._open.wait(PATIENCE), "nobody opened the gate"

    def reached(self):
        assert self._reached.wait(PATIENCE), "nobody came to the gate"

    def open(self):
        self._open.set()


class Worker:
    """A thread with an answer: `result()` gives what the function gave, or raises what it raised."""

    def __init__(self, function, *args):
        self._answer = self._error = self.gate = None
        self._thread = threading.Thread(target=self._run, args=(function, args), daemon=True)
        self._thread.start()

    def _run(self, function, args):
        try:
            self._answer = function(*args)
        except BaseException as error:
            self._error = error

    def is_waiting(self):
        return self._thread.is_alive()

    def wait(self):
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "still running"

    def outcome(self):
        """"answered", or the name of what it raised."""
        self.wait()
        return "answered" if self._error is None else type(self._error).__name__

    def result(self):
        self.wait()
        if self._error is not None:
            raise self._error
        return self._answer


@contextmanager
def held(storage, point, function, *args):
    """`function` runs in a thread and is held at `point` of a `Steered` storage during the body."""
    gate = Gate()
    storage.at(point, gate)
    worker = Worker(function, *args)
    worker.gate = gate
    gate.reached()
    try:
        yield worker
    finally:
        gate.open()
