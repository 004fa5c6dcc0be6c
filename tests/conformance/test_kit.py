"""The kit itself: what it offers, what it says where something is missing, and that its doubles do what they are named for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bamboo_sessions.testing as kit
from bamboo_sessions import (
    JsonFileStorage,
    LockTimeout,
    MemoryStorage,
    Message,
    RevisionConflict,
    Session,
    SessionDeleted,
    SessionRepository,
    StorageUnavailable,
)
from bamboo_sessions.filters import Filter
from bamboo_sessions.search import Query
from bamboo_sessions.storages.protocol import (
    UNCHANGED,
    Change,
    Commit,
    Delta,
    Record,
    has_locks,
    has_usage_log,
    keeps_records,
)
from bamboo_sessions.testing.elsewhere import Elsewhere
from bamboo_sessions.testing.samples import same_json
from bamboo_sessions.testing.scribe import first, later, line
from tests.conformance import harnesses, test_storages_here, test_third_party_example
from tests.conformance.mutants_shortcuts import Together
from tests.support import Gate, WholeSessions, Worker, bundle, stored, texts

ROOT = Path(__file__).parents[2]


# -- the face ----------------------------------------------------------------------------------------------------


def test_the_public_names_are_sorted_and_there():
    """A list that somebody looks after, as at the root."""
    assert kit.__all__ == sorted(set(kit.__all__))
    assert [name for name in kit.__all__ if not hasattr(kit, name)] == []


def test_a_third_party_needs_less_than_forty_lines():
    """The storage included, in the example that the docs show."""
    assert len(Path(test_third_party_example.__file__).read_text().splitlines()) < 40


def test_contracts_follow_the_claim():
    """What is not claimed is not collected; its documented refusal is instead."""
    whole, memory = test_storages_here.TestWholeSessions, test_storages_here.TestMemory
    assert whole.test_keep_and_append is whole.test_usage_is_appended is memory.test_a_lock_is_of_one_session is None
    assert callable(whole.test_without_a_usage_log_appending_is_refused)
    assert memory.test_without_a_usage_log_appending_is_refused is None
    assert callable(memory.test_usage_is_appended)


@pytest.mark.parametrize("missing", ["pytest", "hypothesis"])
def test_a_missing_extra_names_the_command(missing):
    """At the import of the kit; the package itself does without."""
    program = f"""
import sys
sys.modules[{missing!r}] = None
import bamboo_sessions
try:
    import bamboo_sessions.testing
except ImportError as error:
    print(error)"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.strip() == f'bamboo_sessions.testing needs {missing}: pip install "bamboo-sessions[testing]"'


A_STRANGER = """
from bamboo_sessions import MemoryStorage
from bamboo_sessions.testing import *

class Drops(MemoryStorage):
    def save_session(self, session):
        session.pinned = False
        super().save_session(session)

class Mine(StorageHarness):
    def open(self, place):
        return Drops()

class TestMine(StorageContract):
    harness = Mine()
"""


def test_a_stranger_sees_why(tmp_path):
    """In a project of his own: the failed assertion shows its values, and what he did not claim is reported by name."""
    (tmp_path / "test_mine.py").write_text(A_STRANGER)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-k", "whole or power", "."]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path,
                         env={**os.environ, "PYTHONPATH": str(ROOT)})
    failed = {word.rpartition("::")[2] for word in ran.stdout.split() if word.startswith("test_mine.py::")}
    assert failed == {"test_a_session_comes_back_whole", "test_every_power_that_is_there_is_claimed"}, ran.stdout
    assert "'pinned': (True, False)" in ran.stdout
    assert "there and not claimed: identity, listing, records, search, usage" in ran.stdout


def test_a_harness_that_other_processes_cannot_import_is_named(tmp_path):
    """Rather than a test that hangs."""

    class Inside(harnesses.JsonFilesProcess):
        pass

    with kit.Desk(Inside(), tmp_path) as desk, pytest.raises(AssertionError, match="top level of a module"):
        Elsewhere(desk, say_hello)


def say_hello(storage, line):
    line.say(type(storage).__name__)
    raise KeyError("hello")


@pytest.mark.parametrize(("harness", "name"), [(harnesses.JsonFilesProcess(), "JsonFileStorage"), (harnesses.Memory(), "MemoryStorage")])
def test_what_fails_elsewhere_fails_here(tmp_path, harness, name):
    """In a process or in a thread, with its traceback."""
    with kit.Desk(harness, tmp_path) as desk, Elsewhere(desk, say_hello) as other:
        assert other.hear() == name
        with pytest.raises(AssertionError, match="KeyError: 'hello'"):
            other.result()


@pytest.mark.parametrize(("one", "other", "same"), [
    (float("nan"), float("nan"), True), (1, True, False), (1, 1.0, False), (0.0, -0.0, False), ([1, {"a": None}], [1, {"a": None}], True),
    ({"a": [1]}, {"a": [1, 2]}, False), ({"a": 1}, {"b": 1}, False), ("1", 1, False), (None, False, False), ([], {}, False)])
def test_json_is_compared_to_the_letter(one, other, same):
    """NaN is NaN; 1, 1.0 and True are three things."""
    assert same_json(one, other) is same_json([other], [one]) is same


# -- the doubles -------------------------------------------------------------------------------------------------


def test_a_slow_storage_waits_by_its_clock(clock):
    """Before the calls that are named, and not otherwise; the powers are those of what it stands around."""
    slow = kit.SlowStorage(MemoryStorage(), 2.5, clock=clock, only=frozenset({"commit"}))
    repo = bundle(slow, clock)
    repo.save(Session.new("s"))
    repo.try_load("s")
    assert clock.seconds == 2.5
    assert (keeps_records(slow), has_usage_log(slow), has_locks(slow)) == (True, True, False)


def test_a_failing_storage_fails_where_it_is_told():
    """After so many, so many times, with the error that was given; then it is well again."""
    failing = kit.FailingStorage(MemoryStorage())
    failing.fail("read", skip=1, times=2, error=OSError("full"))
    outcomes = []
    for _ in range(5):
        try:
            outcomes.append(failing.read("s"))
        except OSError as error:
            outcomes.append(str(error))
    assert (outcomes, failing.failed) == ([None, "full", "full", None, None], 2)
    failing.fail("read", times=10)
    failing.recover()
    assert failing.read("s") is None
    with pytest.raises(ValueError, match="no call of a storage"):
        failing.fail("reed")


def test_room_can_be_refused():
    """As every other call can; nobody is kept out by a room that nobody got."""
    company = {}
    failing = kit.FailingStorage(Together(company))
    failing.fail("alone")
    with pytest.raises(StorageUnavailable), failing.alone("s"):
        pytest.fail("there is no room")
    with failing.alone("s"):
        pass
    Together(company).commit(first("s", "a"))
    assert failing.exists("s")


@pytest.mark.parametrize(("when", "outcome", "applied"), [("before", "not applied", False), ("after", "unknown", True)])
def test_a_failed_commit_is_applied_or_not(when, outcome, applied):
    """An error says which; "after" is an answer that was lost."""
    failing = kit.FailingStorage(MemoryStorage())
    failing.fail("commit", when=when)
    with pytest.raises(StorageUnavailable) as caught:
        failing.commit(first("s", "w"))
    assert (caught.value.outcome, failing.exists("s")) == (outcome, applied)


def test_a_forgetful_storage_forgets():
    """Stamps, unless told otherwise: a reader who knows the state gets the whole record; then ops, then the dead."""
    inner = MemoryStorage()
    commits = [first("s", "a"), later("s", 2, 1, "b")]
    stamps = [inner.commit(commit) for commit in commits]
    assert inner.read("s", stamps[1]) is UNCHANGED
    assert isinstance(inner.read("s", stamps[0]), Delta)
    for known in stamps:
        answer = kit.ForgetfulStorage(inner).read("s", known)
        assert isinstance(answer, Record)
        assert (answer.ops, answer.stamp == stamps[1]) == (("op-1", "op-2"), False)
    forgetful = kit.ForgetfulStorage(inner, forgets={"ops", "deletions"})
    assert (forgetful.read("s").ops, forgetful.read("s", stamps[1])) == ((), UNCHANGED)
    forgetful.delete_record("s")
    assert (inner.was_deleted("s", "birthbirthbirth0"), forgetful.was_deleted("s", "birthbirthbirth0")) == (True, False)
    with pytest.raises(TypeError, match="keeps no records"):
        kit.ForgetfulStorage(WholeSessions())


def test_saves_merge_over_a_storage_that_forgets_everything(clock):
    """Nothing is lost and nothing doubled: what was known helps, and is not needed."""
    inner = kit.ForgetfulStorage(MemoryStorage(), forgets={"stamps", "ops", "deletions"})
    one, other = bundle(inner, clock), bundle(inner, clock)
    mine = Session.new("s")
    one.save(mine)
    yours = other.load("s")
    for number in range(3):
        mine.add_message(Message.user(f"mine {number}"))
        yours.add_message(Message.user(f"yours {number}"))
        one.save(mine)
        other.save(yours)
    assert sorted(texts(stored(inner, "s"))) == [f"{who} {n}" for who in ("mine", "yours") for n in range(3)]
    other.delete("s")
    with pytest.raises(SessionDeleted):
        one.save(mine)


# -- the strict ones ---------------------------------------------------------------------------------------------


def step(**other):
    """A commit to a session "s" of one message at revision 1, wrong in one way."""
    fields = {"revision": 2, "op": "op-2", "keep": 1, "add": [line("b")], "head": {}} | other
    return Commit("s", ("birthbirthbirth0", 1), Change(**fields))


@pytest.mark.parametrize(("commit", "complaint"), [
    (step(keep=2), "keep 2 of 1"), (step(keep=-1), "keep -1"), (step(revision=1), "revision 1 after 1"),
    (step(add=[bytearray(line("b"))]), "bytearray"), (step(add=[b'{"a":\n1}']), "one line"), (step(add=[b"[]"]), "one JSON object"),
    (step(head={"set": {"tags": {"a"}}}), "plain JSON"), (step(head={"set": {"tags": ("a",)}}), "plain JSON"),
    (step(head={"set": {1: 2}}), "plain JSON")])
def test_a_strict_storage_looks_at_commits(commit, complaint):
    """What another storage would forgive, or break on later."""
    storage = kit.StrictStorage()
    storage.commit(first("s", "a"))
    with pytest.raises(kit.Misuse, match=complaint):
        storage.commit(commit)
    storage.commit(step())
    with pytest.raises(RevisionConflict):
        storage.commit(step(op="op-3"))
    with pytest.raises(kit.Misuse, match="second time"):
        storage.commit(Commit("s", ("birthbirthbirth0", 2), Change(3, "op-1", 2, [], {})))


@pytest.mark.parametrize("call", [lambda s: s.read("s"), lambda s: s.commit(first("s")), lambda s: s.exists("s"), lambda s: s.heads(),
                                  lambda s: s.delete_record("s"), lambda s: s.append_usage("s", b"1"), lambda s: s.read_usage("s", "b"),
                                  lambda s: s.add_usage("s", "b", [], 0), lambda s: s.load_session("s"),
                                  lambda s: s.search(Query.read("fox"), Filter(), 1)])
def test_a_strict_storage_is_not_used_after_close(call):
    """Neither read nor written."""
    storage = kit.StrictStorage()
    storage.close()
    with pytest.raises(kit.Misuse, match="after close"):
        call(storage)


def test_a_strict_storage_wants_its_lock_held():
    """By whoever commits or deletes; the three plain methods take it themselves."""
    storage = kit.StrictLockingStorage()
    for change in (lambda: storage.commit(first("s", "a")), lambda: storage.delete_record("s")):
        with pytest.raises(kit.Misuse, match="without its lock"):
            change()
    with storage.lock("s", 1.0):
        storage.commit(first("s", "a"))
        with pytest.raises(LockTimeout), storage.lock("s", 0.01):
            pass
        with pytest.raises(kit.Misuse, match="without its lock"):
            storage.commit(first("t", "a"))
    storage.save_session(storage.load_session("s"))
    assert storage.delete_session("s") is True


def test_a_strict_storage_wants_one_writer_at_a_time(monkeypatch):
    """Also of those who hold the lock together."""
    storage, gate = kit.StrictLockingStorage(), Gate()
    check = storage._check
    monkeypatch.setattr(storage, "_check", lambda commit: (gate(), check(commit)))
    with storage.lock("s", 1.0):
        worker = Worker(storage.commit, first("s", "a"))
        gate.reached()
        with pytest.raises(kit.Misuse, match="two threads"):
            storage.delete_record("s")
        gate.open()
        worker.result()


def test_a_strict_storage_notices_io_within_a_publish():
    """A publisher that asks the storage would do so under the session's lock."""
    storage = kit.StrictStorage()
    repo = bundle(storage)

    class Curious(SessionRepository):
        def committed(self, base, saver, ticket=None):
            self.storage.exists(base.state.head.id)

    curious = Curious(repo.cache, storage, repo.persistence)
    with pytest.raises(kit.Misuse, match=r"Curious\.committed"):
        repo.save(Session.new("s"))
    assert curious.storage is storage


def test_a_strict_storage_shares_nothing():
    """Neither what it was handed nor what it gives out leads inside."""
    storage, commit = kit.StrictStorage(), first("s", "a", metadata={"k": [1]})
    storage.commit(commit)
    commit.change.head["set"]["metadata"]["k"].append(2)
    storage.read("s").head["metadata"]["k"].append(3)
    next(storage.heads())[0]["metadata"]["k"].append(4)
    assert storage.read("s").head["metadata"] == {"k": [1]}


def test_wrappers_can_be_looked_through(tmp_path):
    """What they do not change is that of what they stand around, attributes included."""
    inner = JsonFileStorage(tmp_path)
    wrapper = kit.Wrapping(kit.FailingStorage(inner))
    assert (wrapper.root, wrapper.store_id, wrapper.name) == (inner.root, inner.store_id, "json_files")
    assert not hasattr(kit.Wrapping(MemoryStorage()), "lock")
    assert json.loads(Path(inner.root, "store.json").read_text())
