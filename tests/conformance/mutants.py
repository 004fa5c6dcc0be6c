"""Storages that are wrong in one way each, and harnesses that open them: what the kit has to notice."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections import defaultdict
from contextlib import contextmanager, suppress

from bamboo_sessions import (
    JsonFileStorage,
    LayeredStorage,
    LockTimeout,
    MemoryStorage,
    RevisionConflict,
    Session,
    SessionPage,
    Storage,
)
from bamboo_sessions.filters import Filter
from bamboo_sessions.listing import page
from bamboo_sessions.storages.protocol import UNCHANGED, Change, Commit, Delta, Record
from bamboo_sessions.testing import FailingStorage, Power, StorageHarness, StrictLockingStorage
from tests.conformance.harnesses import IN_MEMORY, JsonFilesProcess, LayeredJsonFiles, LayeredMemory

RECORDS = IN_MEMORY | {Power.IDENTITY}


class Around(StorageHarness):
    """Any class, with any claim."""

    def __init__(self, made, powers=frozenset()):
        self.made, self.powers = made, powers
        self.shrinks, self.examples = False, 60  # ends with the first run that fails

    def open(self, place):
        return self.made()

    def peek(self, storage, place, session_id):
        kept = storage.kept.get(session_id)
        return None if kept is None else kept.encode()

    def damage(self, storage, place, session_id):
        storage.kept[session_id] = "no json"

    def usage_lines(self, storage, place, session_id):
        return list(storage._kept[session_id].usage)


# -- three methods -----------------------------------------------------------------------------------------------


class Kept(Storage):
    """Right: sessions as JSON text. A mutant has its say where a form is stored."""

    def __init__(self):
        self.kept = {}

    def changed(self, form, before):
        return form

    def load_session(self, session_id):
        text = self.kept.get(session_id)
        return None if text is None else Session.from_dict(json.loads(text))

    def save_session(self, session):
        before = self.kept.get(session.id)
        form = self.changed(session.to_dict(), None if before is None else json.loads(before))
        self.kept[session.id] = json.dumps(form)

    def delete_session(self, session_id):
        return self.kept.pop(session_id, None) is not None


def changing(change):
    """A mutant that stores `change(form, before)`."""
    return type("Changing", (Kept,), {"changed": lambda self, form, before: change(form, before)})


def without(name, empty):
    return changing(lambda form, before: {**form, name: empty})


def rounded(form, before):
    return {**form, "updated_at": form["updated_at"][:19] + "Z"}


def as_other_json_libraries_do(form, before):
    """NaN becomes null, long integers become floats."""
    return json.loads(json.dumps(form).replace("NaN", "null").replace(str(2**70), str(float(2**70))))


class AbsenceIsAnError(Kept):
    def load_session(self, session_id):
        return Session.from_dict(json.loads(self.kept[session_id]))


class DeletesAnything(Kept):
    def delete_session(self, session_id):
        self.kept.pop(session_id, None)
        return True


class DeletesNothing(Kept):
    def delete_session(self, session_id):
        return session_id in self.kept


class KeepsMessagesOfTheDead(Kept):
    def __init__(self):
        super().__init__()
        self.dead = {}

    def delete_session(self, session_id):
        if session_id in self.kept:
            self.dead[session_id] = json.loads(self.kept[session_id])["messages"]
        return super().delete_session(session_id)

    def changed(self, form, before):
        old = self.dead.pop(form["id"], [])
        return {**form, "messages": old + form["messages"], "message_ids": None}


class EmptyIsAbsent(Kept):
    def load_session(self, session_id):
        session = super().load_session(session_id)
        return session if session is not None and session.messages else None


class FoldsCase(Kept):
    def load_session(self, session_id):
        return super().load_session(session_id.lower())

    def save_session(self, session):
        super().save_session(session)
        self.kept[session.id.lower()] = self.kept.pop(session.id)

    def delete_session(self, session_id):
        return super().delete_session(session_id.lower())


class OfOneThread(Kept):
    """As a database connection may be."""

    def __init__(self):
        super().__init__()
        self.connection = sqlite3.connect(":memory:")

    def save_session(self, session):
        self.connection.execute("SELECT 1")
        super().save_session(session)

    def close(self):
        self.connection.close()


class ClosesOnce(Kept):
    def __init__(self):
        super().__init__()
        self.open = True

    def close(self):
        if not self.open:
            raise ValueError("closed already")
        self.open = False


class LooksLeaveTraces(Kept):
    def load_session(self, session_id):
        self.kept.setdefault(session_id, "null")
        text = self.kept[session_id]
        return None if text == "null" else Session.from_dict(json.loads(text))

    def delete_session(self, session_id):
        return self.kept.pop(session_id, "null") != "null"


class WritesBehind(Kept):
    """What was saved is stored with the next save."""

    def __init__(self):
        super().__init__()
        self.late = {}

    def save_session(self, session):
        self.kept |= self.late
        self.late = {session.id: json.dumps(session.to_dict())}

    def load_session(self, session_id):
        text = self.late.get(session_id, self.kept.get(session_id))
        return None if text is None else Session.from_dict(json.loads(text))


class DamageIsAbsence(Kept):
    def load_session(self, session_id):
        with suppress(ValueError):
            return super().load_session(session_id)

    def save_session(self, session):
        self.kept[session.id] = json.dumps(session.to_dict())


class WritesAtClose(StorageHarness):
    """A place that has everything once its object was closed, and nothing before."""

    powers = frozenset({Power.IDENTITY, Power.REOPEN})

    def open(self, place):
        class AtClose(Kept):
            def close(self):
                (place / "all.json").write_text(json.dumps(self.kept))

        storage = AtClose()
        if (place / "all.json").exists():
            storage.kept = json.loads((place / "all.json").read_text())
        return storage


# -- records -----------------------------------------------------------------------------------------------------


def wrong(base=MemoryStorage, **methods):
    """A record storage with other methods; each is `method(right, self, *args)`, where `right` is the right one."""
    return type("Wrong", (base,), {name: _instead(getattr(base, name), method) for name, method in methods.items()})


def _instead(right, method):
    return lambda self, *args: method(lambda *a: right(self, *a), self, *args)


def expecting(expects, **change):
    """Commits as if the caller had expected something else."""

    def commit(right, self, commit):
        kept = self._kept.get(commit.session_id)
        there = None if kept is None else (kept.stamp.birth, kept.stamp.revision)
        return right(Commit(commit.session_id, expects(commit.expected, there), commit.change))

    return wrong(commit=commit)


def by_birth_alone(expected, there):
    return there if expected and there and expected[0] == there[0] else expected


def by_revision_alone(expected, there):
    return there if expected and there and expected[1] == there[1] else expected


def altering(**other):
    """Commits another change than the one that was handed in."""

    def commit(right, self, commit):
        old = commit.change
        made = {name: fn(old) for name, fn in other.items()}
        fields = {name: getattr(old, name) for name in ("revision", "op", "keep", "add", "head")}
        return right(Commit(commit.session_id, commit.expected, Change(**{**fields, **made})))

    return wrong(commit=commit)


def always_unchanged(right, self, session_id, known=None):
    answer = right(session_id, known)
    return UNCHANGED if known is not None and answer is not None else answer


def with_gaps(right, self, session_id, known=None):
    answer = right(session_id, known)
    return Delta(answer.changes[-1:], answer.stamp) if isinstance(answer, Delta) else answer


def known_by_revision(right, self, session_id, known=None):
    """Takes a stamp for current where the revision is the same."""
    answer = right(session_id)
    same = answer is not None and answer.head["revision"] == getattr(known, "revision", None)
    return UNCHANGED if same else answer


def few_ops(right, self, session_id, known=None):
    answer = right(session_id)
    return answer and Record(answer.head, answer.messages, answer.ops[-8:], answer.stamp)


class GivesItsOwn(MemoryStorage):
    def read(self, session_id, known=None):
        kept = self._kept.get(session_id)
        return None if kept is None else Record(kept.head, kept.messages, kept.ops, kept.stamp)


class KeepsWhatItIsHanded(MemoryStorage):
    def commit(self, commit):
        stamp = super().commit(commit)
        kept = self._kept[commit.session_id]
        for name in commit.change.head.get("set", {}):
            kept.head[name] = commit.change.head["set"][name]
        if not commit.change.keep:
            kept.messages = commit.change.add
        return stamp


class ChecksThenActs(MemoryStorage):
    """What is compared and what is replaced may not be the same."""

    def commit(self, commit):
        there = self._kept.get(commit.session_id)
        found = None if there is None else (there.stamp.birth, there.stamp.revision)
        if found != commit.expected and not (there and there.stamp.op == commit.change.op):
            raise RevisionConflict(commit.session_id, commit.expected, found)
        time.sleep(0.001)
        with self._lock:
            now = self._kept.get(commit.session_id)
            expected = None if now is None else (now.stamp.birth, now.stamp.revision)
        return super().commit(Commit(commit.session_id, expected, commit.change))


class ChecksThenBrings(ChecksThenActs):
    """And brings back what was deleted in between."""

    def __init__(self):
        super().__init__()
        self.last = {}

    def commit(self, commit):
        stamp = super().commit(commit)
        self.last[commit.session_id] = self._kept.get(commit.session_id)
        return stamp

    def delete_record(self, session_id):
        was_there = super().delete_record(session_id)
        if session_id in self.last:
            self._kept[session_id] = self.last[session_id]
        return was_there


class ReadsInTwoSteps(MemoryStorage):
    def read(self, session_id, known=None):
        before = super().read(session_id)
        time.sleep(0.001)
        after = super().read(session_id)
        return before and after and Record(before.head, after.messages, before.ops, object())


class ForgetsALittle(MemoryStorage):
    """Every other look misses the newest message."""

    looks = 0

    def read(self, session_id, known=None):
        self.looks += 1
        answer = super().read(session_id)
        if answer is None or self.looks % 2:
            return answer
        return Record(answer.head, answer.messages[:-1], answer.ops, object())


class OtherNames(MemoryStorage):
    @property
    def store_id(self):
        return os.urandom(8).hex()


class SharesItsName(MemoryStorage):
    store_id = "store"


# -- records on disk ---------------------------------------------------------------------------------------------


class OnDisk(JsonFilesProcess):
    """A wrong storage below a folder; the name travels to other processes, the class does not have to."""

    def __init__(self, name):
        self.name = name

    def open(self, place):
        return globals()[self.name](place, durability="process")


class ForgetsTheDead(JsonFileStorage):
    def was_deleted(self, session_id, birth):
        return session_id in vars(self).get("dead", ()) and super().was_deleted(session_id, birth)

    def delete_record(self, session_id):
        vars(self).setdefault("dead", set()).add(session_id)
        return super().delete_record(session_id)


class SeesItsOwnOnly(JsonFileStorage):
    """Answers from what this object read or wrote last."""

    def read(self, session_id, known=None):
        seen = vars(self).setdefault("seen", {})
        if session_id not in seen:
            seen[session_id] = super().read(session_id)
        return seen[session_id]

    def commit(self, commit):
        stamp = super().commit(commit)
        vars(self).setdefault("seen", {}).pop(commit.session_id, None)
        return stamp


class AllOrNothing(JsonFileStorage):
    """One damaged session hides the others."""

    def heads(self):
        for _, _, files in os.walk(self.root):
            if "session.json" in files:
                for name in ("a", "broken", "z"):
                    self.load_session(name)
        return super().heads()


class ListsAnything(MemoryStorage):
    """Finds the pages itself, and forgets what was asked for."""

    def page(self, wanted, limit, cursor=None):
        return page(self.heads(), limit, cursor, Filter(order=wanted.order))


class CountsPages(MemoryStorage):
    """A cursor that is a number of sessions: whatever moves meanwhile moves the others."""

    def page(self, wanted, limit, cursor=None):
        start = int(cursor or 0)
        items = page(self.heads(), start + limit + 1, None, wanted).items[start:]
        return SessionPage(items[:limit], str(start + limit) if len(items) > limit else None)


class CallsEverythingCurrent(JsonFileStorage):
    def is_current(self, stamp):
        return True


class HoldsLess(JsonFileStorage):
    """Under the lock, the newest message is missing from what is read."""

    def read_held(self, session_id, known=None):
        answer = super().read(session_id)
        return answer and Record(answer.head, answer.messages[:-1], answer.ops, answer.stamp)


class Marker(JsonFileStorage):
    """Locks by a file that exists while it is held: whoever dies keeps it."""

    @contextmanager
    def lock(self, session_id, timeout):
        path = os.path.join(self.root, "marker-" + session_id.encode().hex()[:100])
        until = time.monotonic() + min(timeout, 1)
        while True:
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL))
                break
            except FileExistsError:
                if time.monotonic() >= until:
                    raise LockTimeout(session_id, timeout) from None
                time.sleep(0.005)
        try:
            yield
        finally:
            os.unlink(path)


# -- locks -------------------------------------------------------------------------------------------------------


def locking(lock):
    """A memory storage with that method."""
    return type("Locking", (MemoryStorage,), {"lock": contextmanager(lock)})


def locks_nothing(self, session_id, timeout):
    yield


def _theirs(self, name):
    return vars(self).setdefault("locks", defaultdict(threading.Lock))[name]


def _held(lock, session_id, timeout):
    if not lock.acquire(timeout=timeout):
        raise LockTimeout(session_id, timeout)


def one_for_all(self, session_id, timeout):
    _held(_theirs(self, ""), session_id, timeout)
    try:
        yield
    finally:
        _theirs(self, "").release()


def never_waits(self, session_id, timeout):
    _held(_theirs(self, session_id), session_id, 0)
    try:
        yield
    finally:
        _theirs(self, session_id).release()


def keeps_it_after_a_failure(self, session_id, timeout):
    _held(_theirs(self, session_id), session_id, min(timeout, 0.2))
    yield
    _theirs(self, session_id).release()


def makes_a_session(self, session_id, timeout):
    if session_id not in self._kept:
        self.save_session(Session.new(session_id))
    yield


def added_anywhere(self, name, lines):
    """Whatever is there already, and whosever it is."""
    self._kept[name].usage.extend(lines) if name in self._kept else None
    return name in self._kept


def added_one_by_one(right, self, name, birth, lines, after):
    """As far as it goes."""
    return all(right(name, birth, [line], after + number) for number, line in enumerate(lines))


class UsageTakesTheLock(StrictLockingStorage):
    def append_usage(self, session_id, line):
        with self.lock(session_id, 0.1):
            super().append_usage(session_id, line)


# -- layers ------------------------------------------------------------------------------------------------------


class BelievesCopies(LayeredStorage):
    """Serves whatever the first layer holds, confirmed or not."""

    def read_plain(self, session_id):
        copy = self._above[0].anything(session_id)
        return super().read_plain(session_id) if copy is None else copy


class LosesTrack(LayeredStorage):
    """What a reader is told by the last layer is not remembered."""

    def __init__(self, layers):
        super().__init__(layers)
        self._copies.learn = lambda ticket, asked, answer: None


class WritesBelowOnly(LayeredStorage):
    """And goes on serving what was there."""

    def commit(self, commit):
        return self._last.commit(commit)


class DeletesBelowOnly(LayeredStorage):
    def delete_record(self, session_id):
        return self._last.delete_record(session_id)


class StampsOfItsOwn(LayeredStorage):
    """The first layer's stamp is handed out; the last one cannot know it, and takes it for one of its own."""

    def read_plain(self, session_id):
        record = super().read_plain(session_id)
        return record and Record(record.head, record.messages, record.ops, "here")

    def read(self, session_id, known=None):
        return UNCHANGED if known == "here" else super().read(session_id, known)


class Layers(LayeredMemory):
    def __init__(self, layered_class):
        self.layered_class, self.shrinks, self.examples = layered_class, False, 60


class LayersWithAGap(Layers):
    """The upper one misses a commit."""

    def layers(self):
        above = FailingStorage(MemoryStorage())
        above.fail("commit", skip=1)
        return [above, MemoryStorage()]


class LayersOnDisk(LayeredJsonFiles):
    def __init__(self, layered_class):
        self.layered_class = layered_class
