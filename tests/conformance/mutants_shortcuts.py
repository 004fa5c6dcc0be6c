"""Storages that guess in a wrong way, or make no room where they say so; see `mutants`."""

from __future__ import annotations

import threading
from collections import defaultdict
from contextlib import contextmanager, nullcontext

from bamboo_sessions import LayeredStorage, MemoryStorage, RevisionConflict, Session, StorageUnavailable
from bamboo_sessions.storages.protocol import UNCHANGED, Commit
from bamboo_sessions.testing import Power, StorageHarness
from tests.conformance.mutants import RECORDS, Layers, wrong

POWERS = RECORDS | {Power.ALONE, Power.LIKELY_STAMPS, Power.REOPEN}
KEPT = ("_kept", "_buried", "_evicted", "_lock", "_store_id")


class Together(MemoryStorage):
    """Right: several objects on one memory. A room is a lock a session, which everybody takes who changes it."""

    patience = 5.0

    def __init__(self, common):
        super().__init__()
        vars(self).update(common.setdefault("kept", {name: vars(self)[name] for name in KEPT}))
        self.locks = common.setdefault("locks", defaultdict(threading.Lock))
        self.mine = common.setdefault("mine", threading.local())
        self.met = {}
        self.is_closed = False

    # -- guesses

    def is_likely(self, session_id, stamp):
        own, newest = self.met.get(session_id, (0, None))
        return own > 1 and type(stamp) is type(newest) and stamp == newest

    def commit(self, commit):
        with self.turn(commit.session_id):
            own, _ = self.met.pop(commit.session_id, (0, None))
            stamp = super().commit(commit)
            self.met[commit.session_id] = own + 1, stamp
            return stamp

    def delete_record(self, session_id):
        with self.turn(session_id):
            self.met.pop(session_id, None)
            return super().delete_record(session_id)

    def close(self):
        self.is_closed = True

    # -- rooms

    @property
    def room(self):
        return getattr(self.mine, "room", None)

    def take(self, session_id):
        if not self.locks[session_id].acquire(timeout=self.patience):
            raise StorageUnavailable("wait", session_id=session_id, reason="somebody is alone with it")

    def leave(self):
        room, self.mine.room = self.room, None
        if room is not None:
            self.locks[room].release()

    @contextmanager
    def turn(self, session_id):
        if self.room == session_id:
            yield
            return
        self.leave()
        self.take(session_id)
        try:
            yield
        finally:
            self.locks[session_id].release()

    @contextmanager
    def alone(self, session_id):
        if self.room != session_id:
            self.leave()
            self.take(session_id)
            self.mine.room = session_id
        try:
            yield
        finally:
            if self.room == session_id:
                self.leave()


class Company(StorageHarness):
    """Objects of one class, those at one place together."""

    powers = POWERS

    def __init__(self, made=Together):
        self.made, self.common = made, defaultdict(dict)

    def open(self, place):
        return self.made(self.common[place])


def together(**methods):
    """A wrong one; each is `method(right, self, *args)`."""
    made = wrong(Together, **methods)
    made.patience = 0.4  # who waits for ever does so for a short while here
    return Company(made)


# -- guesses -----------------------------------------------------------------------------------------------------------


def never(right, self, session_id, stamp):
    return False


def whatever_was_its_own(right, self, session_id, stamp):
    """Older ones, too."""
    own, newest = self.met.get(session_id, (0, None))
    return own > 1 and type(stamp) is type(newest) and stamp.birth == newest.birth


def only_its_own_kind(right, self, session_id, stamp):
    own, newest = self.met[session_id]
    return own > 1 and stamp.op == newest.op


def by_equality(right, self, session_id, stamp):
    """Of nobody it knows nothing, and of nobody's stamp as well."""
    return self.met.get(session_id, (2, None))[1] == stamp


def makes_who_is_not_there(right, self, session_id, stamp):
    if session_id == "nobody" and session_id not in self._kept:
        self.save_session(Session.new(session_id))
    return right(session_id, stamp)


def once(right, self, session_id, stamp):
    """Asking takes it away."""
    answer = right(session_id, stamp)
    self.met.pop(session_id, None)
    return answer


def by_a_look(right, self, session_id, stamp):
    if self.is_closed:
        raise StorageUnavailable("look", session_id=session_id, reason="it was closed")
    return self.read(session_id, stamp) is UNCHANGED


def commit_as_guessed(right, self, commit):
    """Where it guessed that all is as it was, it does not compare."""
    own, newest = self.met.get(commit.session_id, (0, None))
    if own > 1 and (newest.birth, newest.revision) == commit.expected:
        kept = self._kept.get(commit.session_id)
        there = None if kept is None else (kept.stamp.birth, kept.stamp.revision)
        return right(Commit(commit.session_id, there, commit.change))
    return right(commit)


def commit_and_go_on_guessing(right, self, commit):
    """A refusal teaches it nothing."""
    met = self.met.get(commit.session_id)
    try:
        return right(commit)
    except RevisionConflict:
        self.met[commit.session_id] = met
        raise


class Unclaimed(MemoryStorage):
    """Says that nothing is likely, and does not say that it says so."""

    def is_likely(self, session_id, stamp):
        return False


# -- rooms -------------------------------------------------------------------------------------------------------------


def no_room(right, self, session_id):
    return nullcontext()


@contextmanager
def of_the_object(right, self, session_id):
    """Every thread of the object that is alone is alone."""
    if getattr(self, "holder", None) is None:
        self.take(session_id)
        self.holder = session_id
    try:
        yield
    finally:
        if self.holder == session_id:
            self.holder = None
            self.locks[session_id].release()


def turn_of_the_object(right, self, session_id):
    return nullcontext() if getattr(self, "holder", None) == session_id else right(session_id)


def delete_without_a_turn(right, self, session_id):
    self.met.pop(session_id, None)
    return MemoryStorage.delete_record(self, session_id)


@contextmanager
def kept_after_a_failure(right, self, session_id):
    self.leave()
    self.take(session_id)
    self.mine.room = session_id
    yield
    self.leave()


@contextmanager
def says_nothing_of_a_failure(right, self, session_id):
    try:
        with right(session_id):
            yield
    except KeyError:
        pass


@contextmanager
def commits_what_was_left(right, self, session_id):
    """Leaving makes a revision."""
    with right(session_id):
        yield
        if session_id in self._kept:
            self._kept[session_id].head["revision"] += 1


@contextmanager
def takes_back_after_a_failure(right, self, session_id):
    """All that was done within, also what was acknowledged."""
    with right(session_id):
        kept = self._kept.get(session_id)
        before = kept and (kept.head, list(kept.messages), kept.stamp, kept.ops)
        try:
            yield
        except KeyError:
            kept.head, kept.messages, kept.stamp, kept.ops = before
            raise


@contextmanager
def of_somebody(right, self, session_id):
    """Somebody has to be there to be alone with."""
    if session_id not in self._kept:
        self.save_session(Session.new(session_id))
    with right(session_id):
        yield


@contextmanager
def once_a_thread(right, self, session_id):
    """Who is in already waits for himself."""
    self.take(session_id)
    before, self.mine.room = self.room, session_id
    try:
        yield
    finally:
        self.mine.room = before
        self.locks[session_id].release()


@contextmanager
def turn_beside_the_room(right, self, session_id):
    """What is held is held while it waits for another one."""
    if self.room == session_id:
        yield
        return
    self.take(session_id)
    try:
        yield
    finally:
        self.locks[session_id].release()


def read_as_before(right, self, session_id, known=None):
    """Within, nothing has changed."""
    return UNCHANGED if known is not None and self.room == session_id else right(session_id, known)


class SaysItMakesRoom(LayeredStorage):
    """Whatever is below."""

    def alone(self, session_id):
        return nullcontext()


class OverNobodysRoom(Layers):
    powers = Layers.powers | {Power.ALONE}
