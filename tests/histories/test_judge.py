"""The judge finds what it is there for: each anomaly is planted in a history that it had found nothing in.

The history is told by hand, as a recorder writes it, so that every claim is about the judge alone.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.histories.excerpt import show
from tests.histories.history import history_of
from tests.histories.judge import judge
from tests.histories.verdict import group


def state(rev, *messages, birth="B1", title=None, source=None, version=0, pinned=False, tags=(), metadata=None, asked=(),
          updated=None):
    words = "\x1f".join(word if ":" in word else f"{word}:1" for word in messages)
    return [birth, rev, 1000 + rev if updated is None else updated, title, source, version, pinned, sorted(tags),
            metadata or {}, [list(question) for question in asked], "m0", words]


ASKED = ("T1", "ask-1", "which?")


class Log:
    """Operations of several people, one after the other, each a millisecond long."""

    def __init__(self):
        self.records, self.now, self.names = [], 0, 0

    def op(self, kind, out=None, outcome="ok", *, by="a", base=None, mine=None, rev=None, changed=None, value=None, tried=()):
        """Gives its name. `by` is the process and its repository; `base` names the operation that gave the copy."""
        self.names += 1
        name, begin = f"{by}.{self.names}", self.tick()
        record = {"i": name, "k": kind, "s": "s", "r": f"{by}/0", "t0": begin, "a": list(tried), "v": value}
        if base is not None:
            record["b"] = base
        if mine is not None:
            record["m"] = mine
        if kind in ("load", "load_merged"):
            self.records.append(record | {"t1": self.tick(), "o": outcome, "x": out})
            return name
        self.records.append(record)
        if outcome != "killed":
            rev = out[1] if rev is None and out is not None else rev
            self.records.append({"e": name, "t1": self.tick(), "o": outcome, "x": out, "rev": rev, "ch": changed})
        return name

    def save(self, base, mine, out, **options):
        return self.op("save", out, base=base, mine=mine, changed=options.pop("changed", True), **options)

    def tick(self):
        self.now += 500_000
        return self.now

    def found(self):
        return set(group(judge(history_of(self.records)).anomalies))


def begun(**says):
    """A session with two messages, of which everybody has a copy."""
    log = Log()
    log.save(None, state(0, "a.1m", "a.2m", **says), state(1, "a.1m", "a.2m", **says))
    return log, log.op("load", state(1, "a.1m", "a.2m", **says), by="a"), log.op("load", state(1, "a.1m", "a.2m", **says), by="b")


def test_a_history_without_anomalies_is_left_in_peace():
    """Two writers, a merge, an answer, an edit against a removal, a kill and a last look: all as the rules say."""
    log, a, b = begun(asked=[ASKED])
    log.save(b, state(1, "a.1m", "a.2m", "b.3m", "b.4m", asked=[ASKED]), state(2, "a.1m", "a.2m", "b.3m", "b.4m", asked=[ASKED]), by="b")
    merged = log.save(a, state(1, "a.2m", "a.5m", asked=[ASKED]), state(3, "a.2m", "b.3m", "b.4m", "a.5m", asked=[ASKED]))
    log.save(b, state(1, "a.1m:2", "a.2m", asked=[ASKED]), state(4, "a.1m:2", "a.2m", "b.3m", "b.4m", "a.5m", asked=[ASKED]), by="b")
    log.op("answer", by="b", value=["ask-1", "answer-b.6"], rev=5, changed=True)
    log.save(merged, state(3, "a.2m", "b.3m", "b.4m", "a.5m", "a.7m", asked=[ASKED]), None, outcome="killed")
    last = state(6, "a.1m:2", "a.2m", "b.3m", "b.4m", "a.5m", "=answer-b.6:0", "a.7m")
    log.op("load_merged", last, by="c")
    verdict = judge(history_of(log.records))
    assert verdict.anomalies == []
    assert (verdict.steps, verdict.loose, verdict.unknown) == (6, 1, 1)


def lost_append(log, a, b):
    log.save(b, state(1, "a.1m", "a.2m", "b.3m"), state(2, "a.1m", "a.2m", "b.3m"), by="b")
    log.save(a, state(1, "a.1m", "a.2m", "a.4m"), state(3, "a.1m", "a.2m", "b.3m"))


def overwritten(log, a, b):
    log.save(b, state(1, "a.1m", "a.2m", "b.3m"), state(2, "a.1m", "a.2m", "b.3m"), by="b")
    log.save(a, state(1, "a.1m", "a.2m", "a.4m"), state(3, "a.1m", "a.2m", "a.4m"))


def lost_at_the_end(log, a, b):
    """Everybody was told that it was stored, and the newcomer of the last look does not see it."""
    log.save(b, state(1, "a.1m", "a.2m", "b.3m"), state(2, "a.1m", "a.2m", "b.3m"), by="b")
    log.op("load_merged", state(1, "a.1m", "a.2m"), by="c")


def doubled(log, a, b):
    log.save(b, state(1, "a.1m", "a.2m", "b.3m"), state(2, "a.1m", "a.2m", "b.3m", "b.3m"), by="b")


def doubled_by_a_retry(log, a, b):
    """The answer to a save was lost, somebody removed what it had stored, and the second try brings it back."""
    tried = log.save(b, state(1, "a.1m", "a.2m", "b.3m"), None, outcome="unknown", by="b", changed=None)
    seen = log.op("load_merged", state(2, "a.1m", "a.2m", "b.3m"), by="a")
    log.save(seen, state(2, "a.1m", "a.2m"), state(3, "a.1m", "a.2m"))
    log.save(b, state(1, "a.1m", "a.2m", "b.3m"), state(4, "a.1m", "a.2m", "b.3m"), by="b", tried=[tried])


def reordered(log, a, b):
    log.save(b, state(1, "a.1m", "a.2m", "b.3m", "b.4m"), state(2, "a.1m", "a.2m", "b.4m", "b.3m"), by="b")


def places_changed(log, a, b):
    log.save(b, state(1, "a.1m", "a.2m", "b.3m"), state(2, "a.2m", "a.1m", "b.3m"), by="b")


def resurrected(log, a, b):
    log.save(b, state(1, "a.2m"), state(2, "a.2m"), by="b")
    log.save(a, state(1, "a.1m", "a.2m", "a.3m"), state(3, "a.1m", "a.2m", "a.3m"))


def torn_block(log, a, b):
    seen = log.save(b, state(1, "a.1m", "a.2m", "b.3m"), state(2, "a.1m", "a.2m", "b.3m"), by="b")
    assert seen
    log.save(a, state(1, "a.1m", "a.2m", "a.4m", "a.5m"), state(3, "a.1m", "a.2m", "a.4m", "b.3m", "a.5m"))


def half_a_save(log, a, b):
    """Somebody was killed while saving two messages, and one of them is there."""
    log.save(b, state(1, "a.1m", "a.2m", "b.3m", "b.4m"), None, outcome="killed", by="b")
    log.op("load_merged", state(2, "a.1m", "a.2m", "b.3m"), by="a")


def result_before_its_call(log, a, b):
    log.save(b, state(1, "a.1m", "a.2m", "b.3c", "b.4~b.3r"), state(2, "a.1m", "a.2m", "b.4~b.3r", "b.3c"), by="b")


def edit_lost(log, a, b):
    log.save(b, state(1, "a.1m:2", "a.2m"), state(2, "a.1m:2", "a.2m"), by="b")
    log.save(a, state(1, "a.1m", "a.2m", "a.3m"), state(3, "a.1m", "a.2m", "a.3m"))


def out_of_nowhere(log, a, b):
    log.save(b, state(1, "a.1m", "a.2m", "b.3m"), state(2, "a.1m", "a.2m", "b.3m", "z.9m"), by="b")


def look_behind(log, a, b):
    log.save(b, state(1, "a.1m", "a.2m", "b.3m"), state(2, "a.1m", "a.2m", "b.3m"), by="b")
    log.op("load_merged", state(1, "a.1m", "a.2m"), by="a")


def cache_behind(log, a, b):
    log.save(b, state(1, "a.1m", "a.2m", "b.3m"), state(2, "a.1m", "a.2m", "b.3m"), by="b")
    log.op("load", state(1, "a.1m", "a.2m"), by="b")


def load_behind_a_load(log, a, b):
    """Two loads through one cache, and the later one shows less."""
    log.save(a, state(1, "a.1m", "a.2m", "a.3m"), state(2, "a.1m", "a.2m", "a.3m"))
    log.op("load", state(2, "a.1m", "a.2m", "a.3m"), by="b")
    log.op("load", state(1, "a.1m", "a.2m"), by="b")


def front_came_last(log, a, b):
    """A copy of one object was saved; the object has a message in front of the one that both have."""
    log.save(a, state(1, "a.1m", "a.2m", "a.3m"), state(2, "a.1m", "a.2m", "a.3m"))
    log.save(a, state(1, "a.1m", "a.2m", "a.4m", "a.3m"), state(3, "a.1m", "a.2m", "a.3m", "a.4m"))


def title_lost(log, a, b):
    log.op("title", by="b", value=["mine", "user"], rev=2, changed=True)
    log.save(a, state(1, "a.1m", "a.2m", "a.3m"), state(3, "a.1m", "a.2m", "a.3m"))


def generated_over_user(log, a, b):
    log.op("title", by="b", value=["mine", "user"], rev=2, changed=True)
    log.save(a, state(1, "a.1m", "a.2m", title="made", source="generated"),
             state(3, "a.1m", "a.2m", title="made", source="generated", version=1))


def pin_lost(log, a, b):
    log.op("pin", by="b", value=True, rev=2, changed=True)
    log.save(a, state(1, "a.1m", "a.2m", "a.3m"), state(3, "a.1m", "a.2m", "a.3m", version=1))


def tag_lost(log, a, b):
    log.save(b, state(1, "a.1m", "a.2m", tags=["red"], version=1), state(2, "a.1m", "a.2m", tags=["red"], version=1), by="b")
    log.save(a, state(1, "a.1m", "a.2m", tags=["blue"], version=1), state(3, "a.1m", "a.2m", tags=["blue"], version=1))


def edit_overtaken(log, a, b):
    """Somebody else wrote between the first and the last step of an edit, which is one step for all others."""
    log.save(b, state(1, "a.1m", "a.2m", "b.3m"), state(2, "a.1m", "a.2m", "b.3m"), by="b")
    name = log.op("edit", state(3, "a.1m", "a.2m", "b.3m", "a.4m"))
    log.records.insert(-1, {"w": name, "x": [state(1, "a.1m", "a.2m"), state(1, "a.1m", "a.2m", "a.4m")]})


def key_lost(log, a, b):
    log.save(b, state(1, "a.1m", "a.2m", metadata={"k": 1}), state(2, "a.1m", "a.2m", metadata={"k": 1}), by="b")
    log.save(a, state(1, "a.1m", "a.2m", metadata={"l": 2}), state(3, "a.1m", "a.2m", metadata={"l": 2}))


def time_back(log, a, b):
    log.save(b, state(1, "a.1m", "a.2m", "b.3m"), state(2, "a.1m", "a.2m", "b.3m", updated=900), by="b")


def two_contents(log, a, b):
    log.save(b, state(1, "a.1m", "a.2m", "b.3m"), state(2, "a.1m", "a.2m", "b.3m"), by="b")
    log.op("load_merged", state(2, "a.1m", "a.2m", "b.3m:9"), by="a")


def committed_twice(log, a, b):
    log.save(b, state(1, "a.1m", "a.2m", "b.3m"), state(2, "a.1m", "a.2m", "b.3m"), by="b")
    log.save(a, state(1, "a.1m", "a.2m", "a.4m"), state(2, "a.1m", "a.2m", "a.4m"))


def back_after_a_delete(log, a, b):
    log.op("delete", by="b")
    log.op("load_merged", state(1, "a.1m", "a.2m"), by="a")


def saved_after_a_delete(log, a, b):
    log.op("delete", by="b")
    log.save(None, state(0, "b.3m", birth="B2"), state(1, "b.3m", birth="B2"), by="b")
    log.save(a, state(1, "a.1m", "a.2m", "a.4m"), state(2, "b.3m", "a.4m", birth="B2"))


def gone(log, a, b):
    log.op("load_merged", None, by="b")


def refused(log, a, b):
    log.op("save", base=a, mine=state(1, "a.1m", "a.2m", "a.3m"), outcome="deleted")


def one_replaced_another(log, a, b):
    log.save(None, state(0, "b.3m", birth="B2"), state(1, "b.3m", birth="B2"), by="b")


def kept_and_lost(log, a, b):
    log.op("save_and_cache", base=b, mine=state(1, "a.1m", "a.2m", "b.3m"), outcome="kept", by="b")
    log.records[-2]["r"] = "b/0"
    log.op("flush", by="b")
    log.records[-2]["s"] = ""
    log.op("load_merged", state(1, "a.1m", "a.2m"), by="c")


PLANTED = {
    lost_append: "an append was lost", overwritten: "a message was lost", doubled: "a message is there twice",
    doubled_by_a_retry: "removed and back again", reordered: "a writer's messages were re-ordered",
    places_changed: "two messages changed places", resurrected: "removed and back again", torn_block: "a block was torn",
    half_a_save: "half of a save was stored", result_before_its_call: "a writer's messages were re-ordered",
    edit_lost: "an edit was lost", out_of_nowhere: "a message came from nowhere",
    lost_at_the_end: "shown less than what was acknowledged before", look_behind: "shown less than what was acknowledged before",
    cache_behind: "a cache went backwards", load_behind_a_load: "a cache went backwards",
    front_came_last: "a writer's messages were re-ordered", title_lost: "a title was lost",
    generated_over_user: "a generated title stands where a person gave one", pin_lost: "a pin was lost", tag_lost: "a tag was lost",
    key_lost: "a metadata key was lost", time_back: "updated_at did not go forward",
    two_contents: "one revision shown with two contents", committed_twice: "one revision committed twice",
    back_after_a_delete: "resurrected after a delete",
    saved_after_a_delete: "a copy of an ended life was saved into another one", gone: "a session is gone and nobody deleted it",
    refused: "refused as deleted and nobody deleted it", one_replaced_another: "replaced and nobody deleted it",
    kept_and_lost: "kept, flushed and lost", edit_overtaken: "an edit was overtaken"}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_anomaly_is_found(plant):
    """The history before it is clean; with it, the judge names it, and shows who was there."""
    log, a, b = begun()
    assert log.found() == set()
    plant(log, a, b)
    assert PLANTED[plant] in log.found()
    told = [show(anomaly) for anomaly in judge(history_of(log.records)).anomalies]
    assert all("a.1 " in text or "b." in text or "a." in text for text in told)


def reopened(log, a, b):
    log.op("answer", by="b", value=["ask-1", "answer-b.9"], rev=2, changed=True)
    log.save(a, state(1, "a.1m", "a.2m", "a.3m", asked=[ASKED]), state(3, "a.1m", "a.2m", "=answer-b.9:0", "a.3m", asked=[ASKED]))


def answered_twice(log, a, b):
    log.op("answer", by="b", value=["ask-1", "answer-b.9"], rev=2, changed=True)
    log.op("answer", by="a", value=["ask-1", "answer-a.9"], rev=3, changed=True)
    log.op("load_merged", state(3, "a.1m", "a.2m", "=answer-b.9:0", "=answer-a.9:0"), by="c")


def question_lost(log, a, b):
    log.save(b, state(1, "a.1m", "a.2m", "b.3m", asked=[ASKED]), state(2, "a.1m", "a.2m", "b.3m"), by="b")


def not_to_be_answered(log, a, b):
    log.op("answer", by="b", value=["ask-1", "answer-b.9"], outcome="not open")
    log.op("load_merged", state(1, "a.1m", "a.2m", asked=[ASKED]), by="c")


def kept_open_and_answered(log, a, b):
    """An answer is in, and its question as well."""
    log.op("answer", by="b", value=["ask-1", "answer-b.9"], rev=2, changed=True)
    log.op("load_merged", state(2, "a.1m", "a.2m", "=answer-b.9:0", asked=[ASKED]), by="c")


ABOUT_QUESTIONS = {reopened: "a closed question is open again", answered_twice: "answered twice, or what nobody asked",
                   question_lost: "a question was lost", not_to_be_answered: "an open question could not be answered",
                   kept_open_and_answered: "a closed question is open again"}


@pytest.mark.parametrize("plant", ABOUT_QUESTIONS, ids=lambda plant: plant.__name__)
def test_an_anomaly_of_questions_is_found(plant):
    """P4: the same for a session in which something is asked."""
    log, a, b = begun(asked=[ASKED])
    assert log.found() == set()
    plant(log, a, b)
    assert ABOUT_QUESTIONS[plant] in log.found()


def test_the_judge_never_loads_the_package():
    """What it knows of the rules, it knows from the docs."""
    code = "import sys, tests.histories.judging; sys.exit(any(name.startswith('bamboo') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
