"""Traffic over repositories that have one thing wrong: the judge finds it, and finds nothing where nothing is wrong.

One thread plays all the parts in turn, with copies that are held for long, so that a run of some hundred operations is
the same every time and still has two of everything at once.
"""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
import structlog

from bamboo_sessions import SessionRepository, merge, merge_messages, reconcile
from bamboo_sessions.models.state import changed
from bamboo_sessions.storages.json_files import activity
from bamboo_sessions.storages.memory import MemoryStorage
from tests.histories.factories import FACTORIES
from tests.histories.history import read_history
from tests.histories.judge import judge
from tests.histories.making import Plan, _last_look
from tests.histories.recorder import Pen, Recorder
from tests.histories.traffic import Actor
from tests.histories.verdict import group


@pytest.fixture(autouse=True)
def _quiet():
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


class Done:
    """How much was done, by one thread."""

    def __init__(self):
        self.steps = 0

    def total(self):
        return self.steps


def traffic(place, kind="memory", steps=300, seed=3, first=1):
    """What several people did, as the judge sees it, from the session of that number on; every sixth one's storage fails."""
    place.mkdir(exist_ok=True)
    factory, done, plan = FACTORIES[kind](place), Done(), Plan(seed, kind, span=150)
    recorder = Recorder(place / "all.log", "all")
    repos = [factory.open(), factory.open()]
    actors = [Actor(factory, repos, Pen(recorder, n), f"all.{n}", f"{seed}/{n}", lambda: first + done.steps // plan.span) for n in range(3)]
    dice = random.Random(seed)
    while done.steps < steps:
        dice.choice(actors).step()
        done.steps += 1
    _last_look(plan, place, factory, done, first)
    for repo in repos:
        repo.persistence.records.close()
    return judge(read_history(place))


@pytest.mark.parametrize("kind", FACTORIES)
def test_nothing_is_found_where_nothing_is_wrong(kind, tmp_path):
    """Every factory: a run without anomalies, in which nearly everything could be judged to the letter."""
    verdict = traffic(tmp_path, kind, steps=320, first=5)
    assert verdict.anomalies == []
    assert verdict.steps > 100
    assert verdict.loose < verdict.steps / 2
    assert verdict.unknown > 0


# -- one thing wrong ---------------------------------------------------------------------------------------------


def last_writer_wins(patch):
    """What is stored is thrown away for what is saved."""
    patch.setattr(reconcile, "merge", lambda base, mine, theirs: merge.Merged(mine))


def forgets_additions(patch):
    """What I added beside somebody else's addition is dropped."""
    patch.setattr(merge_messages, "_append_block", lambda placed, block, guests, before: placed)


def turns_blocks_round(patch):
    real = merge_messages._append_block
    patch.setattr(merge_messages, "_append_block", lambda placed, block, guests, before: real(placed, block[::-1], guests, before))


def ignores_removals(patch):
    """A message that one side removed comes back with the other."""
    patch.setattr(merge_messages, "_one_sided", lambda before, mine, theirs, which, note: mine or theirs)


def tells_no_cache(patch):
    """A save is stored, and the cache of the same repository goes on with what it had."""
    patch.setattr(SessionRepository, "committed", lambda repo, base, saver, ticket=None: None)


def never_looks(patch):
    """`load_merged` gives the cached copy, whatever is stored."""
    patch.setattr(SessionRepository, "_current", lambda repo, session_id: repo.cache.get(session_id))


def knows_no_graves(patch):
    """A copy of a deleted session is saved as if nothing had happened."""
    patch.setattr(reconcile, "is_deleted", lambda origin, stored, store, *, buried: False)
    patch.setattr(MemoryStorage, "_is_buried", lambda storage, commit: False)  # a storage that asks at the commit would refuse


def prefers_machines(patch):
    """The later title wins, whoever gave it."""
    patch.setattr(merge, "_title", lambda base, mine, theirs, newer, note: merge._title_of(
        mine if mine.title != base.title else theirs, mine, theirs))


def opens_again(patch):
    """Whatever is open in either copy is open."""

    def union(base, mine, theirs, note):
        open_now = {q.token: q for q in (*theirs.questions, *mine.questions)}
        return {"questions": tuple(open_now.values()), "closed_questions": theirs.closed_questions}

    patch.setattr(merge, "_questions", union)


def forgets_pins(patch):
    patch.setattr(merge, "_edited", lambda name, base, mine, theirs, newer, note: getattr(mine, name))


def forgets_keys(patch):
    patch.setattr(merge, "_per_key", lambda name, base, mine, theirs, note: getattr(mine, name))


def lets_time_stand(patch):
    real = reconcile._next_head

    def standing(made, before, now, birth):
        head = real(made, before, now, birth)
        return head if before is None else changed(head, updated_at=before.updated_at - timedelta(seconds=1))

    patch.setattr(reconcile, "_next_head", standing)


def lies_now_and_then(patch):
    """One commit in forty is acknowledged and not stored."""
    real, count = MemoryStorage.commit, iter(range(10**6))

    def commit(storage, change):
        stamp = real(storage, change)
        if next(count) % 40 == 39:
            storage._kept[change.session_id].messages[-1:] = []
        return stamp

    patch.setattr(MemoryStorage, "commit", commit)


WRONG = {
    last_writer_wins: "a message was lost", forgets_additions: "an append was lost",
    turns_blocks_round: "a writer's messages were re-ordered", ignores_removals: "removed and back again",
    tells_no_cache: "a cache went backwards", never_looks: "shown less than what was acknowledged before",
    knows_no_graves: "a copy of an ended life was saved into another one",
    prefers_machines: "a generated title stands where a person gave one", opens_again: "a closed question is open again",
    forgets_pins: "a pin was lost", forgets_keys: "a metadata key was lost", lets_time_stand: "updated_at did not go forward",
    lies_now_and_then: "one revision shown with two contents"}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_a_wrong_repository_is_found_out(wrong, tmp_path, monkeypatch):
    """What one line of the library can do wrong shows in a history of some hundred operations, under its name."""
    wrong(monkeypatch)
    found = (group(traffic(tmp_path / str(seed), seed=seed).anomalies) for seed in range(40))
    assert any(WRONG[wrong] in what for what in found)


# -- one thing wrong where sessions expire ------------------------------------------------------------------------


def notes_nothing(patch):
    """No activity is noted but commits: a touch, or a save of nothing, is acknowledged for nothing."""
    patch.setattr(activity.Activity, "renew", lambda self, place: None)


def lets_pins_expire(patch):
    """A pinned session has a time like any other."""
    patch.setattr(activity, "is_spared", lambda head: False)
    patch.setattr("bamboo_sessions.storages.expiry.is_spared", lambda head: False)


def counts_too_slowly(patch):
    """A thousand times the time goes by before anything expires."""
    real = activity.Activity._idle
    patch.setattr(activity.Activity, "_idle", lambda self, place: real(self, place) / 1000)


WRONG_ABOUT_TIME = {lets_pins_expire: "expired and was pinned or asked", counts_too_slowly: "shown long after it had expired",
                    notes_nothing: "expired before its time"}


@pytest.mark.parametrize("wrong", WRONG_ABOUT_TIME, ids=lambda wrong: wrong.__name__)
def test_a_storage_that_is_wrong_about_time_is_found_out(wrong, tmp_path, monkeypatch):
    """The same in a history of some thousand operations."""
    wrong(monkeypatch)
    found = (group(traffic(tmp_path / str(seed), "json-expiring", seed=seed, steps=2500).anomalies) for seed in range(6))
    assert any(WRONG_ABOUT_TIME[wrong] in what for what in found)
