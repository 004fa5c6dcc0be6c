"""No memory at the n-th allocation of one operation, for every n: what the interpreter's own tests do, done to a save.

`_testcapi.set_nomemory` makes the n-th allocation of the process fail, once. Each point is run in a forked
child, because code in C does not always survive it: a child that dies has met a crash point, and its store is judged like any
other. A child that lives judges itself: nothing is called damage that is merely short
of memory, no lock stays held, no descriptor stays open, the object keeps its changes and saves them once when it is told to.

    python -m tests.torture.memory                      every allocation of every operation
    python -m tests.torture.memory --point save/17      one of them
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter

import attrs

from bamboo_sessions import (
    CorruptSession,
    LockTimeout,
    Message,
    Session,
    SessionNotFound,
    SessionRepository,
    StorageUnavailable,
)
from tests.torture.errors import PATIENCE, Broken, Ledger, _descriptors, look, quickly
from tests.torture.scenarios_model import Change, apply

try:
    import _testcapi
except ImportError:
    _testcapi = None

WHY_NOT = "this interpreter has no _testcapi, which fails allocations"
ENOUGH = 40
"""An operation is through when it met no shortage that many times running: single allocations may be nobody's."""

PREPARED = [Change("create", "chat", "word 1"), Change("say", "chat", "word 2"), Change("ask", "chat", "call-1"),
            Change("create", "other", "word 3")]
PATIENCE_FOR_A_POINT = 5
LONG = "x" * 70_000


# -- the operations ------------------------------------------------------------------------------------------------------


@attrs.define
class Desk:
    """A repository that has the store open, and the copy that is about to be saved."""

    repo: SessionRepository
    session: Session | None = None

    def saved(self):
        self.repo.save(self.session)


def _copy(desk, text="new"):
    desk.session = desk.repo.try_load_merged("chat")
    desk.session.add_message(Message.user(text))


def _elsewhere(desk):
    """Another writer is faster: ours has to be merged."""
    _copy(desk)
    with SessionRepository.open(desk.repo.storage.root) as other:
        theirs = other.try_load("chat")
        theirs.add_message(Message.user("theirs"))
        other.save(theirs)


def _fresh(desk):
    desk.session = Session.new("made", metadata={"life": "new"})
    desk.session.add_message(Message.user("new"))


def _edit(desk):
    with desk.repo.edit("chat") as session:
        session.add_message(Message.user("new"))


def _read(desk):
    desk.repo.cache.invalidate("chat")
    seen = desk.repo.try_load("chat")
    assert [message.content for message in seen.messages] == ["word 1", "word 2"]


def _read_merged(desk):
    assert len(desk.repo.try_load_merged("chat").messages) == 3


@attrs.frozen
class Operation:
    """`prepare` is not struck, `do` is; `change` is what it means, made by `theirs` before."""

    do: object
    change: Change | None = None
    prepare: object = None
    before: Change | None = None


OPERATIONS = {
    "save": Operation(Desk.saved, Change("say", "chat", "new"), _copy),
    "create": Operation(Desk.saved, Change("create", "made", "new"), _fresh),
    "merge": Operation(Desk.saved, Change("say", "chat", "new"), _elsewhere, Change("say", "chat", "theirs")),
    "fold": Operation(Desk.saved, Change("say", "chat", LONG), lambda desk: _copy(desk, LONG)),
    "load": Operation(_read),
    "load_merged": Operation(_read_merged, None, _elsewhere, Change("say", "chat", "theirs")),
    "edit": Operation(_edit, Change("say", "chat", "new")),
    "answer": Operation(lambda desk: desk.repo.answer("chat", "call-1", "new"), Change("answer", "chat", "new", old="call-1")),
    "delete": Operation(lambda desk: desk.repo.delete("chat"), Change("delete", "chat")),
    "usage": Operation(lambda desk: desk.repo.append_token_usage_record("chat", json.dumps({"said": "new"})),
                       Change("usage", "chat", "new")),
}


# -- one point -------------------------------------------------------------------------------------------------------------


def prepared(folder):
    """The store that every point begins with, made by hand so that this module needs no writers."""
    with SessionRepository.open(folder) as repo:
        session = Session.new("chat", metadata={"life": "word 1"})
        session.add_message(Message.user("word 1"))
        repo.save(session)
        session.add_message(Message.user("word 2"))
        repo.save(session)
        session.set_pending_question(tool_call_id="call-1", tool_name="ask", question="Which?", options=["a", "b"])
        repo.save(session)
        other = Session.new("other", metadata={"life": "word 3"})
        other.add_message(Message.user("word 3"))
        repo.save(other)
    return folder


def states_before(operation):
    model = {}
    for change in (*PREPARED, *([operation.before] if operation.before else [])):
        apply(model, change)
    return model


def run(operation, folder, at):
    """Whether the shortage was felt; raises `Broken` for what must not be."""
    desk, ledger = Desk(SessionRepository.open(folder, lock_timeout=PATIENCE)), Ledger(states_before(operation))
    desk.repo.try_load_merged("chat")
    desk.repo.set_title("other", "warm")  # descriptors and tables that are made once
    ledger.states[0]["other"] |= {"title": "warm", "revision": 2}
    if operation.prepare:
        operation.prepare(desk)
    ledger.begin()
    descriptors = _descriptors()
    outcome = _struck(operation, desk, at)
    if outcome == "done":
        if operation.change:
            ledger.done(operation.change)
    elif outcome == "unknown" and operation.change:
        ledger.perhaps(operation.change)
    ledger.confirm(look(folder), f"after {outcome}")
    if _descriptors() > descriptors:
        raise Broken(f"{_descriptors() - descriptors} descriptors were left open")
    if outcome != "done":
        _again(operation, desk, ledger, folder)
    _usable(desk.repo, ledger, folder)
    desk.repo.close()
    return outcome != "done"


def _struck(operation, desk, at):
    _testcapi.set_nomemory(at, at + 1)
    try:
        operation.do(desk)
    except (MemoryError, SystemError, RuntimeError):  # code in C makes all of these of it
        _testcapi.remove_mem_hooks()
        return "unknown"  # it carries no outcome
    except StorageUnavailable as error:
        _testcapi.remove_mem_hooks()
        return error.outcome
    except (CorruptSession, SessionNotFound, LockTimeout) as error:
        _testcapi.remove_mem_hooks()
        raise Broken(f"a shortage of memory is told as {error!r}") from error
    finally:
        _testcapi.remove_mem_hooks()
    return "done"


def _again(operation, desk, ledger, folder):
    """The same object once more, where there is one; else unless it proved applied."""
    if operation.change is None:
        operation.do(desk)
        return
    if operation.do is not Desk.saved and ledger.shows(look(folder), operation.change):
        return
    if operation.do is Desk.saved:
        assert desk.session.messages[-1].content == operation.change.text or operation.before, "the object lost its change"
    operation.do(desk)
    ledger.done(operation.change)
    ledger.confirm(look(folder), "after it was tried again")


def _usable(repo, ledger, folder):
    """Within the time that a lock is waited for."""
    for chat in list(ledger.states[0]):
        ledger.begin()
        with repo.edit(chat) as session:
            session.add_message(Message.user("last words"))
        repo.append_token_usage_record(chat, json.dumps({"said": "last bill"}))
        ledger.done(Change("say", chat, "last words"))
        ledger.begin()
        ledger.done(Change("usage", chat, "last bill"))
    ledger.confirm(look(folder), "after last words")
    damage = [str(found) for found in repo.check() if found.severity == "damage"]
    if damage:
        raise Broken(f"check finds {damage}")


def judged(operation, folder):
    """Of a store whose process died: one of the two states, and it goes on."""
    ledger = Ledger(states_before(operation))
    ledger.states[0]["other"] |= {"title": "warm", "revision": 2}
    ledger.begin()
    if operation.change:
        ledger.perhaps(operation.change)
    ledger.confirm(look(folder), "after the process died")
    with SessionRepository.open(folder, lock_timeout=PATIENCE) as repo:
        _usable(repo, ledger, folder)


# -- all of them -------------------------------------------------------------------------------------------------------------


@attrs.define
class Report:
    """How many points were tried, felt, or killed the process; and what was wrong."""

    tried: Counter = attrs.Factory(Counter)
    felt: Counter = attrs.Factory(Counter)
    died: Counter = attrs.Factory(Counter)
    failures: list = attrs.Factory(list)

    def lines(self):
        yield f"{self.tried.total()} allocations failed: {dict(self.tried)}"
        yield f"{self.felt.total()} told to the caller, {self.died.total()} ended the process: {dict(self.died)}"
        for name, at, why in self.failures[:40]:
            yield f"FAILED {why}\n    python -m tests.torture.memory --point {name}/{at}"
        yield f"{len(self.failures)} failures"


class Sweep:
    """One operation. Every point has a child of its own, forked from one that has made the operation once: what is
    imported, cached and looked up at first use is there, so that the n-th allocation is the same one every time."""

    def __init__(self, name, folder, report, every=1):
        self.name, self.operation, self.report, self.every = name, OPERATIONS[name], report, every
        self.folder, self.ready = folder, prepared(os.path.join(folder, f"ready-{name}"))
        gc.disable()
        warm = self.point(10**9)
        assert not warm["why"], warm

    def all(self, first=1):
        at, calm = first, 0
        while calm * self.every < ENOUGH:
            said = self.tried(at)
            calm = 0 if said["felt"] else calm + 1
            at += self.every

    def tried(self, at):
        said, status = self._in_child(at)
        if said is None:
            self.report.died[self.name] += 1
            said = {"felt": True, "why": self._after_death(at, status)}
        else:
            self.report.felt[self.name] += said["felt"]
        self.report.tried[self.name] += 1
        if said["why"]:
            self.report.failures.append((self.name, at, said["why"]))
        return said

    def _in_child(self, at):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.close(reading)
                faulthandler.disable()  # deaths are expected, and told by the parent
                signal.alarm(PATIENCE_FOR_A_POINT)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what the interpreter says of errors it cannot raise
                os.write(writing, json.dumps(self.point(at)).encode())
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            answer = pipe.read()
        _, status = os.waitpid(child, 0)
        return (json.loads(answer) if answer else None), status

    def _store(self, at):
        made = os.path.join(self.folder, f"{self.name}-{at:010}")
        shutil.copytree(self.ready, made)
        return made

    def point(self, at):
        folder, felt, why = self._store(at), True, ""
        try:
            felt = run(self.operation, folder, at)
        except BaseException as error:  # whatever it is: it is what the library did
            where = traceback.extract_tb(error.__traceback__)[-1]
            why = f"{type(error).__name__}: {error} ({os.path.basename(where.filename)}:{where.lineno})"
        shutil.rmtree(folder)
        return {"felt": felt, "why": why}

    def _after_death(self, at, status):
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
            return f"it hung for {PATIENCE_FOR_A_POINT} s"
        folder = os.path.join(self.folder, f"{self.name}-{at:010}")
        try:
            judged(self.operation, folder)
        except Exception as error:
            return f"the process died ({status}): {type(error).__name__}: {error}"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return ""


def sweep(names=None, every=1):
    """All points of these operations; `every`: only each so many-th allocation."""
    report = Report()
    shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="memory-", dir=shared) as folder, quickly():
        for name in names or OPERATIONS:
            Sweep(name, folder, report, every).all()
    return report


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.torture.memory")
    parser.add_argument("--operation", action="append", choices=sorted(OPERATIONS))
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--point")
    given = parser.parse_args()
    if _testcapi is None:
        print(f"skipped: {WHY_NOT}")
        return 0
    if given.point:
        name, _, at = given.point.partition("/")
        with tempfile.TemporaryDirectory() as folder, quickly():
            said = Sweep(name, folder, Report()).tried(int(at))
        print(said["why"] or "right")
        return 1 if said["why"] else 0
    began = time.perf_counter()
    report = sweep(given.operation, given.every)
    print(*report.lines(), f"{time.perf_counter() - began:.1f} s", sep="\n")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
