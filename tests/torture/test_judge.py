"""The judge itself: what is right passes, and each way of being wrong is called by its name."""

from __future__ import annotations

import os

import attrs
import pytest

from bamboo_sessions import Message, SessionRepository
from tests.torture.judge import Survivor, Wrong, judge
from tests.torture.needs import NEEDS, needs
from tests.torture.scenarios import scenarios
from tests.torture.scenarios_model import Change, after
from tests.torture.scenarios_wounds import folder_of

NAMES = tuple(scenarios())


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def appended(store):
    """A finished run of "append", to be tampered with."""
    scenario = scenarios()["append"]
    scenario.prepare(store)
    scenario.run(store, lambda _: None)
    return scenario


def every(scenario):
    return range(len(scenario.changes))


def judged(store, scenario, done, perhaps=(), **more):
    return judge(store, scenario.before(), scenario.changes, done, perhaps, options=scenario.options, ttl=scenario.ttl, **more)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_nobody_disturbed_is_right(store, name, damage_on_purpose):
    """Every scenario acknowledges its changes in order, and leaves what its words mean."""
    scenario, done = scenarios()[name], []
    scenario.prepare(store)
    survivor = Survivor.of(store, scenario.options) if scenario.prepared and scenario.wound is None else None
    scenario.run(store, done.append)
    assert done == list(every(scenario))
    assert judged(store, scenario, done, survivor=survivor) == after(scenario.before(), scenario.changes)


@pytest.mark.parametrize("name", NAMES)
def test_a_scenario_follows_from_its_seed(name):
    """The same seed tells the same story, another seed another one."""
    assert scenarios(7)[name].changes == scenarios(7)[name].changes
    assert scenarios(7)[name] != scenarios(8)[name]


def test_a_change_in_doubt_may_be_there_or_not(store, appended):
    """Both are right, and the judge says which."""
    last = len(appended.changes) - 1
    found = judged(store, appended, range(last), [last])
    assert found == after(appended.before(), appended.changes)


def test_a_change_in_doubt_that_is_not_there_is_right_too(store):
    """Nothing of it was written."""
    scenario = scenarios()["append"]
    scenario.prepare(store)
    assert judged(store, scenario, [], [0]) == scenario.before()


def test_an_acknowledged_change_that_is_missing_is_lost(store, appended):
    """The last one was taken back behind everybody's back."""
    with SessionRepository.open(store) as repo:
        session = repo.load("chat")
        session.remove_message(session.messages[-1].id)
        repo.save(session)
    with pytest.raises(Wrong, match="lost") as caught:
        judged(store, appended, every(appended))
    assert caught.value.kind == "lost"


def test_a_session_that_is_gone_is_lost(store, appended):
    """And the judge names it."""
    with SessionRepository.open(store) as repo:
        repo.delete("chat")
    with pytest.raises(Wrong, match="'chat' is gone") as caught:
        judged(store, appended, every(appended))
    assert caught.value.kind == "lost"


@pytest.mark.parametrize("word", ["a word that nobody said", "twice"])
def test_what_nobody_said_or_said_once_only_is_a_ghost(store, appended, word):
    """A change that was never begun, or one that came twice."""
    said = appended.changes[-1].text if word == "twice" else word
    with SessionRepository.open(store) as repo:
        session = repo.load("chat")
        session.add_message(Message.user(said))
        repo.save(session)
    with pytest.raises(Wrong) as caught:
        judged(store, appended, every(appended))
    assert caught.value.kind == "ghost"


def test_changes_in_another_order_are_found(store, appended):
    """The last two acknowledged changes stand the wrong way round."""
    *first, one, other = appended.changes
    swapped = attrs.evolve(appended, changes=(*first, other, one))
    with pytest.raises(Wrong):
        judged(store, swapped, every(swapped))


def test_a_change_that_was_refused_and_came_all_the_same_is_a_ghost(store, appended):
    """Neither acknowledged nor in doubt, and there."""
    with pytest.raises(Wrong) as caught:
        judged(store, appended, range(len(appended.changes) - 1))
    assert caught.value.kind == "ghost"


def test_damage_is_broken(store, appended, damage_on_purpose):
    """A byte of an acknowledged line was flipped."""
    journal = folder_of(store, "chat") / "journal.jsonl"
    data = bytearray(journal.read_bytes())
    data[len(data) // 2] ^= 1
    journal.write_bytes(bytes(data))
    with pytest.raises(Wrong) as caught:
        judged(store, appended, every(appended))
    assert caught.value.kind == "broken"


def test_a_store_that_does_not_open_is_broken(store, appended, damage_on_purpose):
    """Its id is gone."""
    os.unlink(store / "store.json")
    with pytest.raises(Wrong) as caught:
        judged(store, appended, every(appended))
    assert caught.value.kind == "broken"


def test_an_old_copy_that_brings_a_deleted_session_back_is_found(store):
    """As from a store that has forgotten which life its session had: the id was taken anew, under the old birth."""
    scenario = scenarios()["append"]
    scenario.prepare(store)
    survivor = Survivor.of(store, scenario.options)
    deleted = attrs.evolve(scenario, changes=(Change("delete", "chat"), Change("create", "chat", "another life")))
    with SessionRepository.open(store) as repo:
        session = repo.load("chat")  # the same life goes on, in the disguise of a new one
        session.replace_messages([Message.user("another life")])
        session.metadata["life"] = "another life"
        repo.save(session)
    with pytest.raises(Wrong) as caught:
        judged(store, deleted, [0, 1], survivor=survivor)
    assert caught.value.kind == "ghost"


def test_too_much_doubt_is_refused(store, appended):
    """Where everything may be, nothing is judged."""
    with pytest.raises(Wrong, match="too many states"):
        judged(store, appended, [], range(13))


def test_what_a_machine_lacks_is_skipped_with_a_reason_or_fails_where_that_is_asked(monkeypatch):
    """The reason says what to do about it."""
    lacking = attrs.evolve(NEEDS["strace"], is_there=lambda: False)
    monkeypatch.setitem(NEEDS, "strace", lacking)
    monkeypatch.setattr("tests.torture.needs.REQUIRED", False)
    with pytest.raises(pytest.skip.Exception, match="install strace"):
        needs("strace")
    monkeypatch.setattr("tests.torture.needs.REQUIRED", True)
    with pytest.raises(pytest.fail.Exception, match="a skip is not enough here"):
        needs("strace")
