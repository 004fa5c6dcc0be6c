"""The demonstration can fail: whatever was acknowledged and is not there again is found and named."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import attrs
import pytest

from bamboo_sessions import LockedSessionStore, MemoryStorage, Session, SessionCache, SessionRepository
from bamboo_sessions.demo import worker
from bamboo_sessions.demo.chats import SAMPLE, BadInput, Chat, read_chats
from bamboo_sessions.demo.judge import Found, Row, judge
from bamboo_sessions.demo.logbook import Entry, Logbook, digest, read_logbook
from bamboo_sessions.demo.plan import make_plan
from bamboo_sessions.demo.run import Tail, read_back, run_demo
from bamboo_sessions.demo.scripts import Place, read_turns, read_ui_script, write_scripts
from bamboo_sessions.demo.show import ROWS_SHOWN, choose


class TestJudge:
    """Two runtimes and a UI wrote one session; then something is taken away."""

    RESULT = "digest of the answer"
    LOGS = {
        "one": [
            Entry(0, {"do": "say", "session": "s", "title": "made up", "messages": [["0", "a"], ["1", "b"]], "asks": "q1"},
                  {"revision": 1, "merged": False, "conflicts": 0}),
            Entry(1, {"do": "say", "session": "s", "title": None, "messages": [["4", "e"]], "asks": None},
                  {"revision": 5, "merged": True, "conflicts": 1}),
        ],
        "two": [
            Entry(0, {"do": "say", "session": "s", "title": None, "messages": [["2", "c"]], "asks": "q2"},
                  {"revision": 2, "merged": True, "conflicts": 0}),
        ],
        "ui": [
            Entry(0, {"do": "title", "session": "s", "value": "First"}, {}),
            Entry(1, {"do": "title", "session": "s", "value": "Second"}, {}),
            Entry(2, {"do": "pinned", "session": "s", "value": True}, {}),
            Entry(3, {"do": "tag", "session": "s", "value": "work"}, {}),
            Entry(4, {"do": "answer", "session": "s", "tool_call_id": "q1", "result": RESULT}, {}),
        ],
    }
    FOUND = Found(
        messages=(("0", "a"), ("1", "b"), ("2", "c"), ("x", RESULT), ("4", "e")), title="Second", title_source="user",
        pinned=True, tags=frozenset({"work"}), open_questions=frozenset({"q2"}))

    def verdict(self, found: Found | str, logs: dict[str, list[Entry]] | None = None) -> Row:
        [row] = judge(self.LOGS if logs is None else logs, {"s": found})
        return row

    def test_a_session_that_is_all_there_is_clean(self):
        """The judge is not merely always angry."""
        assert self.verdict(self.FOUND) == Row("s", attempted=5, stored=5, lost=(), failed=(), merged=2, conflicts=1)

    @pytest.mark.parametrize(("change", "finding"), [
        ({"messages": FOUND.messages[1:]}, "message 0 of one is missing"),
        ({"messages": FOUND.messages[:-1]}, "message 4 of one is missing"),
        ({"messages": (("0", "a"), ("1", "B"), *FOUND.messages[2:])}, "message 1 of one says something else"),
        ({"messages": (("1", "b"), ("0", "a"), *FOUND.messages[2:])}, "message 1 of one stands before an earlier one"),
        ({"messages": (*FOUND.messages, ("y", "a"))}, "a message that nobody said is there (a)"),
        ({"messages": (*FOUND.messages, ("4", "e"))}, "message 4 is there 2 times"),
        ({"messages": (*FOUND.messages, ("y", RESULT))}, "a message that nobody said is there (digest o)"),
        ({"messages": (*FOUND.messages[:3], FOUND.messages[4])}, "an answer's tool result is missing (digest o)"),
        ({"title": "First"}, "the title is 'First' (user), acknowledged was 'Second' (user)"),
        ({"title": "made up", "title_source": "generated"}, "the title is 'made up' (generated)"),
        ({"title_source": "generated"}, "the title is 'Second' (generated)"),
        ({"title": None}, "the title is None"),
        ({"pinned": False}, "pinned is False, acknowledged was True"),
        ({"tags": frozenset()}, "tag 'work' is missing"),
        ({"open_questions": frozenset({"q1", "q2"})}, "question q1 was answered and is open again"),
        ({"open_questions": frozenset()}, "question q2 closed by itself"),
        ({"open_questions": frozenset({"q2", "q3"})}, "question q3 is open and nobody asked it"),
    ])
    def test_a_planted_loss_is_named(self, change: dict[str, object], finding: str):
        """One thing is wrong, and exactly that is said."""
        row = self.verdict(attrs.evolve(self.FOUND, **change))
        assert row.troubled
        [said] = row.lost
        assert said.startswith(finding)

    def test_an_older_message_behind_a_younger_one_is_out_of_order(self):
        """Each writer's own order is part of what it was acknowledged."""
        moved = attrs.evolve(self.FOUND, messages=(self.FOUND.messages[4], *self.FOUND.messages[:4]))
        assert self.verdict(moved).lost == ("message 4 of one stands before an earlier one",)

    def test_another_order_between_two_writers_is_no_loss(self):
        """Nobody was promised who of two comes first."""
        messages = self.FOUND.messages
        other = attrs.evolve(self.FOUND, messages=(messages[2], messages[0], messages[1], messages[4], messages[3]))
        assert self.verdict(other).lost == ()

    @pytest.mark.usefixtures("damage_on_purpose")
    def test_a_session_that_cannot_be_read_says_why(self, tmp_path: Path):
        """A damaged file ends no demonstration: it is its finding."""
        place = Place(tmp_path)
        place.make()
        with SessionRepository.open(place.sessions) as repo:
            repo.save(Session.new("s"))
        for file in place.sessions.rglob("session.json"):
            file.write_bytes(b"{}\n")
        [lost] = self.verdict(read_back(place, self.LOGS)["s"]).lost
        assert lost.startswith("the session cannot be read: session 's' is damaged")

    def test_a_session_that_is_gone_is_lost(self):
        """Nothing read back where something was acknowledged."""
        row = self.verdict("the session is not there")
        assert (row.lost, row.stored, row.attempted) == (("the session is not there",), 0, 5)

    @pytest.mark.parametrize("messages", [FOUND.messages, FOUND.messages[:-1]])
    def test_what_was_never_acknowledged_may_be_there_or_not(self, messages: tuple[tuple[str, str], ...]):
        """A process that dies between attempt and acknowledgement was promised nothing."""
        in_doubt = {**self.LOGS, "one": [self.LOGS["one"][0], attrs.evolve(self.LOGS["one"][1], acked=None)]}
        assert self.verdict(attrs.evolve(self.FOUND, messages=messages), in_doubt).lost == ()

    @pytest.mark.parametrize(("title", "lost"), [("First", 0), ("Second", 0), ("Zeroth", 1)])
    def test_an_edit_in_doubt_leaves_two_right_answers(self, title: str, lost: int):
        """The last acknowledged value may stand, or one that was tried after it; nothing else."""
        ui = [self.LOGS["ui"][0], attrs.evolve(self.LOGS["ui"][1], acked=None), *self.LOGS["ui"][2:]]
        row = self.verdict(attrs.evolve(self.FOUND, title=title), {**self.LOGS, "ui": ui})
        assert len(row.lost) == lost

    def test_a_refused_operation_is_trouble(self):
        """An error that a process met is shown, although nothing acknowledged was lost."""
        refused = {**self.LOGS, "two": [attrs.evolve(self.LOGS["two"][0], acked=None, failed="LockTimeout: held")]}
        row = self.verdict(self.FOUND, refused)
        assert (row.lost, row.failed, row.troubled) == ((), ("two: LockTimeout: held",), True)

    def test_a_question_answered_twice_is_found(self):
        """An answer is applied exactly once."""
        twice = [*self.LOGS["ui"], attrs.evolve(self.LOGS["ui"][4], number=5)]
        assert "question q1 took 2 answers" in self.verdict(self.FOUND, {**self.LOGS, "ui": twice}).lost


class TestPlan:
    """The sample, dealt to four."""

    CHATS = read_chats([SAMPLE])
    PLAN = make_plan(CHATS, runtimes=4, seed=7)
    TURNS = [turn for hand in PLAN.turns for turn in hand]

    def test_every_message_is_said_once_or_is_an_answer(self):
        """Nothing of the recording falls under the table."""
        said = Counter((turn.session, name) for turn in self.TURNS for name, _ in turn.messages)
        asked = {(turn.session, turn.question.tool_call_id) for turn in self.TURNS
                 if turn.question is not None and turn.question.is_result and turn.question.answer is not None}
        expected = [(chat.id, str(n)) for chat in self.CHATS for n, message in enumerate(chat.messages)
                    if (chat.id, message.get("tool_call_id")) not in asked]
        assert said == Counter(expected)

    def test_each_hand_keeps_the_order_of_the_recording(self):
        """A writer's own order is the recording's, so that the judge has something to hold it against."""
        for hand in self.PLAN.turns:
            for chat in self.CHATS:
                places = [int(name) for turn in hand if turn.session == chat.id for name, _ in turn.messages]
                assert places == sorted(places)

    def test_every_session_has_several_writers(self):
        """Otherwise there would be nothing to merge."""
        for chat in self.CHATS:
            assert sum(any(turn.session == chat.id for turn in hand) for hand in self.PLAN.turns) >= 2

    def test_questions_are_asked_some_answered_some_not(self):
        """Both kinds have a promise to keep."""
        questions = [turn.question for turn in self.TURNS if turn.question is not None]
        assert {question.answer is None for question in questions} == {True, False}
        assert {question.is_result for question in questions} == {True, False}

    def test_the_same_seed_gives_the_same_plan(self):
        """A run that lost something can be run again."""
        assert make_plan(self.CHATS, runtimes=4, seed=7) == self.PLAN
        assert make_plan(self.CHATS, runtimes=4, seed=8) != self.PLAN

    def test_scripts_say_what_the_plan_says(self, tmp_path: Path):
        """What a process reads is what was planned for it."""
        place = Place(tmp_path)
        place.make()
        write_scripts(place, self.PLAN)
        for number, hand in enumerate(self.PLAN.turns, start=1):
            assert tuple(read_turns(place.script(f"runtime-{number}"))) == hand
        assert read_ui_script(place.script("ui")) == (list(self.PLAN.edits), self.PLAN.answers)


class TestSample:
    def test_it_shows_the_kinds_of_messages_there_are(self):
        """Tools, several at once, no content, empty content, parts, an old form, questions to the user, three scripts."""
        messages = [message for chat in read_chats([SAMPLE]) for message in chat.messages]
        text = SAMPLE.read_text(encoding="utf-8")
        assert any(len(message.get("tool_calls", ())) >= 2 for message in messages)
        assert {None, ""} <= {message["content"] for message in messages if not isinstance(message["content"], list)}
        assert any(isinstance(message["content"], list) for message in messages)
        assert {"system", "user", "assistant", "tool", "function"} == {message["role"] for message in messages}
        assert "AskUserQuestion" in text
        assert all(any(low <= letter <= high for letter in text) for low, high in ("֐׿", "؀ۿ", "一鿿", "😀🙏"))


class TestChats:
    @pytest.mark.parametrize(("line", "why"), [
        (b'{"id": "a", "messages": [', "not a line of JSON"),
        (b"\xff\xfe", "not a line of JSON"),
        (b"[1, 2]", 'an object with "id" and a list "messages" is needed'),
        (b'{"id": "a", "messages": "hello"}', 'an object with "id" and a list "messages" is needed'),
        (b'{"messages": []}', "invalid session id"),
        (b'{"id": "", "messages": []}', "invalid session id"),
        (b'{"id": "a", "messages": ["hello"]}', "a dict is needed"),
        (b'{"id": "first", "messages": []}', "was used before"),
    ])
    def test_a_bad_line_is_named_by_file_and_number(self, tmp_path: Path, line: bytes, why: str):
        """Somebody with ten thousand lines has to find the one."""
        file = tmp_path / "chats.jsonl"
        file.write_bytes(b'{"id": "first", "messages": [{"role": "user", "content": "hi"}]}\n\n' + line + b"\n")
        with pytest.raises(BadInput) as caught:
            read_chats([file])
        assert str(caught.value).startswith(f"{file}, line 3: ")
        assert why in str(caught.value)

    def test_a_file_that_is_not_there_is_named(self, tmp_path: Path):
        """Not a traceback."""
        with pytest.raises(BadInput, match=r"nowhere\.jsonl: No such file"):
            read_chats([tmp_path / "nowhere.jsonl"])

    @pytest.mark.parametrize("content", [None, b"", b'{"id": "a", "messages": []}\n'])
    def test_nothing_to_replay_is_an_error(self, tmp_path: Path, content: bytes | None):
        """A demonstration of nothing would lose nothing."""
        if content is not None:
            (tmp_path / "chats.jsonl").write_bytes(content)
        with pytest.raises(BadInput):
            read_chats([tmp_path])

    def test_a_folder_stands_for_its_files(self, tmp_path: Path):
        """In the order of their names; CRLF and a byte order mark do no harm."""
        for name, start in (("b", b""), ("a", b"\xef\xbb\xbf")):
            chat = json.dumps({"id": name, "messages": [{"role": "user", "content": "a\u2028b"}]}, ensure_ascii=False)
            (tmp_path / f"{name}.jsonl").write_bytes(start + chat.encode() + b"\r\n")
        (tmp_path / "notes.txt").write_text("not a chat")
        hello = ({"role": "user", "content": "a\u2028b"},)
        assert read_chats([tmp_path]) == [Chat("a", hello), Chat("b", hello)]

    @pytest.mark.skipif("BAMBOO_SESSIONS_DATA" not in os.environ, reason="BAMBOO_SESSIONS_DATA names no recordings")
    def test_the_recordings_can_be_read_and_dealt(self):
        """Real conversations have variants that nobody would think of."""
        chats = read_chats([Path(os.environ["BAMBOO_SESSIONS_DATA"])])
        plan = make_plan(chats, runtimes=4, seed=7)
        said = sum(len(turn.messages) for hand in plan.turns for turn in hand)
        answers = sum(question.is_result for of_one in plan.answers.values() for question in of_one.values())
        assert said + answers == sum(len(chat.messages) for chat in chats)


class TestLogbook:
    def test_half_a_line_at_the_end_is_cut_and_the_next_one_is_whole(self, tmp_path: Path):
        """That is how a process that is killed leaves it."""
        path = tmp_path / "log.jsonl"
        with Logbook(path) as log:
            log.tried(0, do="say", session="s")
            log.acked(0, revision=1)
        path.write_bytes(path.read_bytes() + b'{"try": 1, "do": "sa')
        assert read_logbook(path) == [Entry(0, {"do": "say", "session": "s"}, {"revision": 1})]
        with Logbook(path) as log:
            assert [entry.number for entry in log.entries] == [0]
            log.tried(1, do="say", session="s")
            log.failed(1, ValueError("no"))
        assert read_logbook(path)[1] == Entry(1, {"do": "say", "session": "s"}, None, "ValueError: no")

    def test_a_tail_counts_whole_lines_and_knows_what_is_being_tried(self, tmp_path: Path):
        """The kill waits for an attempt that is not acknowledged yet."""
        path = tmp_path / "log.jsonl"
        tail = Tail(path)
        assert (tail.read().acked, tail.trying) == (0, False)
        with Logbook(path) as log:
            log.tried(0, do="say", session="s")
            assert (tail.read().acked, tail.trying) == (0, True)
            log.acked(0, revision=1)
            assert (tail.read().acked, tail.trying) == (1, False)

    def test_the_order_of_keys_says_nothing(self):
        """Two chat forms that are equal have one digest, and two that are not have two."""
        assert digest({"role": "user", "content": "a"}) == digest({"content": "a", "role": "user"})
        assert digest({"role": "user", "content": "a"}) != digest({"role": "user", "content": "b"})
        assert digest({"n": 1}) != digest({"n": True})


class TestRestart:
    """A runtime that was killed goes on where it was, whatever its last attempt came to."""

    CHAT = Chat("s", tuple({"role": "user", "content": f"message {number}"} for number in range(6)))

    def play(self, storage: MemoryStorage, path: Path, turns: int) -> None:
        [hand] = make_plan([self.CHAT], runtimes=1, seed=1).turns
        repo = SessionRepository(SessionCache(), storage, LockedSessionStore(storage))
        with Logbook(path) as log:
            worker.Runtime(repo, log, pause_seconds=0).play(list(hand[:turns]))

    @pytest.mark.parametrize("stored", [True, False])
    def test_nothing_is_said_twice_and_nothing_left_out(self, tmp_path: Path, stored: bool):
        """Killed behind its attempt: the commit was made and not acknowledged, or was not made."""
        storage, path = MemoryStorage(), tmp_path / "log.jsonl"
        self.play(storage, path, turns=4 if stored else 3)
        lines = path.read_bytes().splitlines(keepends=True)
        if stored:
            path.write_bytes(b"".join(lines[:-1]))
        else:
            tried = {"try": 3, "do": "say", "session": "s", "title": None, "messages": [["3", "-"]], "asks": None}
            path.write_bytes(b"".join(lines) + json.dumps(tried).encode() + b"\n")
        self.play(storage, path, turns=6)
        session = storage.load_session("s")
        assert session is not None
        assert [message.content for message in session.messages] == [f"message {number}" for number in range(6)]
        assert [entry.acked is not None for entry in read_logbook(path)] == [True] * 6


class Quiet:
    """A watcher that remembers what happened."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def progress(self, done: int, total: int) -> None:
        assert done <= total

    def happened(self, what: str) -> None:
        self.said.append(what)


class TestRun:
    def test_processes_share_sessions_one_is_killed_and_nothing_is_lost(self, tmp_path: Path):
        """The whole of it, on half of the sample; and then a session is taken away, and that is found."""
        place, watcher, chats = Place(tmp_path / "demo"), Quiet(), read_chats([SAMPLE])[:6]
        outcome = run_demo(chats, place, watcher, runtimes=3, kills=2, seed=1)
        assert [row.lost + row.failed for row in outcome.rows] == [()] * 6
        assert sum(row.stored for row in outcome.rows) == sum(len(chat.messages) for chat in chats)
        assert sum(row.merged for row in outcome.rows) > 0
        assert (outcome.kills, len(watcher.said)) == (2, 2)

        logbooks = {path.stem: read_logbook(path) for path in (place.folder / "logbooks").iterdir()}
        with SessionRepository.open(place.sessions) as repo:
            repo.delete(chats[0].id)
            behind = repo.load(chats[1].id)
            behind.remove_message("0")
            repo.save(behind)
        after = {row.session: row.lost for row in judge(logbooks, read_back(place, logbooks))}
        assert after.pop(chats[0].id) == ("the session is not there",)
        assert len(after[chats[1].id]) == 1
        assert after.pop(chats[1].id)[0].startswith("message 0 of runtime-")
        assert set(after.values()) == {()}
        shutil.rmtree(place.folder)


def test_a_long_table_shows_trouble_first_and_then_the_busiest():
    """Ten thousand sessions fit a screen, and the one that matters is on it."""
    rows = [Row(f"s{number}", number, number, (), (), 0, 0) for number in range(100)]
    rows[3] = attrs.evolve(rows[3], lost=("message 0 is missing",))
    shown = [row.session for row in choose(rows)]
    assert len(shown) == ROWS_SHOWN
    assert shown[:3] == ["s3", "s99", "s98"]
