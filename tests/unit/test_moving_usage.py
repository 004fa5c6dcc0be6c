"""Copying token usage with its session: every line arrives as often as it was written, whatever comes in between."""

from __future__ import annotations

import pytest

from bamboo_sessions import (
    JsonFileStorage,
    LayeredStorage,
    MemoryStorage,
    Message,
    Session,
    StorageUnavailable,
    copy_sessions,
)
from bamboo_sessions.storages.protocol import Record
from bamboo_sessions.testing import FailingStorage
from bamboo_sessions.testing.wrappers import Wrapping
from tests.support import bundle


def bills(*numbers):
    return [b'{"tokens":%d}' % number for number in numbers]


def filled(storage, clock, **lines_of):
    """A session for each name, with these lines of usage."""
    repo = bundle(storage, clock)
    for name, numbers in lines_of.items():
        repo.save(Session.new(name, clock=clock))
        for line in bills(*numbers):
            storage.append_usage(name, line)
    return repo


class Without(Wrapping):
    """A storage that lacks these methods."""

    def __init__(self, inner, *names):
        super().__init__(inner)
        self._lacks = names

    def __getattr__(self, name):
        if name == "_lacks" or name in self._lacks:
            raise AttributeError(name)
        return super().__getattr__(name)


def without_a_log():
    return Without(MemoryStorage(), "append_usage", "read_usage", "add_usage")


def birth_of(storage, session_id):
    record = storage.read(session_id)
    assert isinstance(record, Record)
    return record.head["birth"]


def usage(storage, session_id):
    return list(storage.read_usage(session_id, birth_of(storage, session_id)))


def test_usage_arrives_with_its_session(source, target, clock):
    """Each line once, equal lines as often as they were written, in order; a second run brings none."""
    filled(source, clock, a=[1, 2, 2, 3], b=[], c=[7])
    report = copy_sessions(source, target)
    assert (report.copied, report.usage_lines, report.settled, report.problems) == (3, 5, True, ())
    assert [usage(target, name) for name in "abc"] == [bills(1, 2, 2, 3), [], bills(7)]
    again = copy_sessions(source, target)
    assert (again.same, again.usage_lines, again.passes, again.problems) == (3, 0, 1, ())
    assert usage(target, "a") == bills(1, 2, 2, 3)


def test_lines_that_come_between_two_runs_are_brought(source, target, clock):
    """Also where the session itself did not change."""
    filled(source, clock, a=[1])
    copy_sessions(source, target)
    source.append_usage("a", b'{"tokens":1}')
    report = copy_sessions(source, target)
    assert (report.same, report.usage_lines) == (1, 1)
    assert usage(target, "a") == bills(1, 1)


def test_lines_that_come_during_a_run_are_brought_by_the_next_pass(source, target, clock):
    """A pass that brought a line is not the last one."""
    filled(source, clock, a=[1])
    late = iter(bills(2, 3))

    def meanwhile(done, total):
        if done == total:
            line = next(late, None)
            if line is not None:
                source.append_usage("a", line)

    report = copy_sessions(source, target, progress=meanwhile)
    assert (report.usage_lines, report.settled, report.passes) == (3, True, 4)
    assert usage(target, "a") == bills(1, 2, 3)


def test_lines_may_come_in_another_order_than_they_were_seen(target, clock):
    """A database shows a line that was begun earlier after one that was begun later: what is missing is what counts."""
    class ShowsLate(MemoryStorage):
        late = True

        def read_usage(self, session_id, birth):
            lines = super().read_usage(session_id, birth)
            return [lines[1]] if self.late else lines

    source = ShowsLate()
    filled(source, clock, a=[1, 2])
    copy_sessions(source, target)
    assert usage(target, "a") == bills(2)
    source.late = False
    report = copy_sessions(source, target)
    assert (report.usage_lines, report.problems) == (1, ())
    assert usage(target, "a") == bills(2, 1)


def test_an_answer_that_got_lost_brings_no_line_twice(source, clock):
    """The lines were added and nobody was told: the next look finds them."""
    filled(source, clock, a=[1, 2])
    target = FailingStorage(MemoryStorage())
    target.fail("add_usage", when="after")
    report = copy_sessions(source, target)
    assert (usage(target, "a"), report.problems) == (bills(1, 2), ())
    assert target.failed == 1


def test_usage_that_cannot_be_written_is_named(source, clock):
    """The session is there, its usage is not, and the report says so."""
    filled(source, clock, a=[1], b=[])
    target = FailingStorage(MemoryStorage())
    target.fail("add_usage", times=100)
    report = copy_sessions(source, target)
    assert [(problem.session_id, "usage" in problem.why) for problem in report.problems] == [("a", True)]


def test_two_runs_at_once_bring_no_line_twice(source, target, clock):
    """Another run adds the line between this one's look and its writing."""
    filled(source, clock, a=[1, 2])

    class Overtaken(FailingStorage):
        overtaken = False

        def _call(self, name, call, *args):
            if name == "add_usage" and not self.overtaken:
                self.overtaken = True
                copy_sessions(source, target)
            return super()._call(name, call, *args)

    slow = Overtaken(target)
    report = copy_sessions(source, slow)
    assert slow.overtaken
    assert (usage(target, "a"), report.problems, report.settled) == (bills(1, 2), (), True)


def test_a_log_that_was_written_to_in_the_target_is_left_alone(source, target, clock):
    """Equal lines of both houses could not be told apart; it is named, and nothing of it is changed."""
    filled(source, clock, a=[1])
    copy_sessions(source, target)
    target.append_usage("a", b'{"tokens":9}')
    source.append_usage("a", b'{"tokens":2}')
    report = copy_sessions(source, target)
    assert [(problem.session_id, "1 of its own" in problem.why) for problem in report.problems] == [("a", True)]
    assert usage(target, "a") == bills(1, 9)


def test_usage_of_a_session_that_stands_differently_stays_away(source, target, clock):
    """Another birth of the same id has a log of its own."""
    filled(source, clock, a=[1])
    filled(target, clock, a=[5])
    report = copy_sessions(source, target)
    assert [problem.session_id for problem in report.problems] == ["a"]
    assert usage(target, "a") == bills(5)


def test_usage_of_a_session_that_is_made_anew_meanwhile_is_not_the_old_ones(source, target, clock):
    """Deleted and made again with other lines while the target has the first one: the log of neither is mixed."""
    repo = filled(source, clock, a=[1])
    copy_sessions(source, target)
    repo.delete("a")
    filled(source, clock, a=[2])
    report = copy_sessions(source, target)
    assert [problem.session_id for problem in report.problems] == ["a"]
    assert usage(target, "a") == bills(1)


def test_a_session_that_is_deleted_meanwhile_is_no_problem(source, target, clock):
    """Its log went with it: that the target has lines of it still is what a copy is."""
    repo = filled(source, clock, a=[1], b=[2])
    copy_sessions(source, target)
    report = copy_sessions(source, target, progress=lambda done, total: repo.delete("b"))
    assert report.problems == ()
    assert usage(target, "b") == bills(2)


def test_a_target_without_a_usage_log_is_said(source, clock):
    """How many lines of how many sessions stay behind; the sessions themselves are copied."""
    filled(source, clock, a=[1, 2], b=[3], c=[])
    target = without_a_log()
    report = copy_sessions(source, target)
    assert (report.copied, report.usage_lines) == (3, 0)
    assert [(problem.session_id, problem.why) for problem in report.problems] == [
        ("", "3 lines of token usage of 2 sessions stay behind: the target keeps no usage log, or none that can be read back")]
    bare = MemoryStorage()
    filled(bare, clock, a=[])
    assert copy_sessions(bare, without_a_log()).problems == (), "no line stays behind"


def test_a_log_that_cannot_be_read_back_is_said(target, clock):
    """A source that takes usage and does not give it back may hold some: nobody can know."""
    source = Without(MemoryStorage(), "read_usage", "add_usage")
    filled(source, clock, a=[1])
    report = copy_sessions(source, target)
    assert report.copied == 1
    assert [(problem.session_id, "read_usage" in problem.why) for problem in report.problems] == [("", True)]
    assert copy_sessions(without_a_log(), target).problems == (), "who keeps no log has nothing to bring"


def test_what_the_target_makes_of_a_log_is_looked_at(source, clock):
    """A target that loses a line of several is found out."""
    class Loses(MemoryStorage):
        def add_usage(self, session_id, birth, lines, after):
            return super().add_usage(session_id, birth, lines[:-1], after)

    filled(source, clock, a=[1, 2])
    report = copy_sessions(source, Loses(), passes=1)
    assert [(problem.session_id, "read back" in problem.why) for problem in report.problems] == [("a", True)]


def test_half_a_line_that_a_crash_left_is_named_and_the_rest_is_copied(tmp_path, target, clock):
    """It was never acknowledged, and it is all there is of a bill: it is not dropped in silence, nor does it stop others."""
    source = JsonFileStorage(tmp_path / "from")
    filled(source, clock, a=[1])
    [log] = (tmp_path / "from").rglob("usage.jsonl")
    log.write_bytes(log.read_bytes() + b'{"tok')
    source = JsonFileStorage(tmp_path / "from")
    source.append_usage("a", b'{"tokens":2}')
    report = copy_sessions(source, target)
    assert usage(target, "a") == bills(1, 2)
    assert [(problem.session_id, "1 line" in problem.why) for problem in report.problems] == [("a", True)]


def test_half_a_line_in_the_target_is_no_line_of_its_own(tmp_path, source, clock):
    """A copy that was killed in the middle of a line: the next one brings that line whole."""
    filled(source, clock, a=[1, 2])
    copy_sessions(source, JsonFileStorage(tmp_path / "torn"))
    [log] = (tmp_path / "torn").rglob("usage.jsonl")
    log.write_bytes(log.read_bytes()[:-4])
    target = JsonFileStorage(tmp_path / "torn")
    report = copy_sessions(source, target)
    assert (report.usage_lines, report.problems) == (1, ())
    assert [line for line in usage(target, "a") if line.endswith(b"}")] == bills(1, 2)


def test_one_write_for_many_lines(tmp_path, clock):
    """A log of many lines is brought in one step, not one flush a line."""
    source, target = MemoryStorage(), FailingStorage(JsonFileStorage(tmp_path / "to"))
    calls = []
    filled(source, clock, a=range(300))

    class Counted(FailingStorage):
        def _call(self, name, call, *args):
            calls.append(name)
            return super()._call(name, call, *args)

    copy_sessions(source, Counted(target))
    assert calls.count("add_usage") == 1
    assert "append_usage" not in calls
    assert usage(target, "a") == bills(*range(300))


def test_a_copy_under_the_targets_lock_does_not_wait_for_itself(tmp_path, clock):
    """Adding lines excludes a deletion: inside the lock that the copy holds already, and on its own."""
    storage = JsonFileStorage(tmp_path / "s")
    filled(storage, clock, a=[1])
    birth = birth_of(storage, "a")
    with storage.lock("a", 1.0):
        assert storage.add_usage("a", birth, bills(2), 1) is True
    assert storage.add_usage("a", birth, bills(3), 2) is True
    assert usage(storage, "a") == bills(1, 2, 3)


def test_a_reader_never_sees_half_a_line(tmp_path, clock):
    """What another process is in the middle of appending is not there yet."""
    storage = JsonFileStorage(tmp_path / "s")
    filled(storage, clock, a=[1])
    [log] = (tmp_path / "s").rglob("usage.jsonl")
    log.write_bytes(log.read_bytes() + b'{"tokens"')
    assert usage(storage, "a") == bills(1)


def test_a_store_that_went_away_is_no_empty_log(tmp_path, clock):
    """A failure is not absence: an unmounted disk must not look like a session without usage."""
    storage = JsonFileStorage(tmp_path / "s")
    filled(storage, clock, a=[1])
    birth = birth_of(storage, "a")
    (tmp_path / "s").rename(tmp_path / "elsewhere")
    with pytest.raises(StorageUnavailable):
        storage.read_usage("a", birth)
    with pytest.raises(StorageUnavailable):
        storage.add_usage("a", birth, bills(1), 0)


def test_usage_goes_through_layers(tmp_path, clock):
    """The last layer keeps the log."""
    source = LayeredStorage([MemoryStorage(), JsonFileStorage(tmp_path / "last")])
    repo = filled(source, clock, a=[1])
    repo.update("a", lambda session: session.add_message(Message.user("x")))
    target = LayeredStorage([MemoryStorage(), MemoryStorage()])
    assert copy_sessions(source, target).usage_lines == 1
    assert usage(target, "a") == bills(1)
