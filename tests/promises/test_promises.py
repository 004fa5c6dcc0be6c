"""The fourteen promises, one test each at least, named after it: what a promise means, as a program.

Deeper tests of each stand in the other folders; `docs/explanation/promises.md` tells where.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from bamboo_sessions import (
    CorruptSession,
    JsonFileStorage,
    LockedSessionStore,
    MemoryStorage,
    Message,
    QuestionNotOpen,
    Session,
    SessionCache,
    SessionDeleted,
    SessionRepository,
    UnsupportedFormat,
)
from bamboo_sessions._files import Files
from bamboo_sessions.storages.protocol import Record
from tests.support import ManualClock


@pytest.fixture(params=["memory", "json files"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return MemoryStorage() if request.param == "memory" else JsonFileStorage(tmp_path / "store")


def repository(storage: Any, **options: Any) -> SessionRepository:
    """Another worker on the same storage: a cache and a store of its own."""
    return SessionRepository(SessionCache(), storage, LockedSessionStore(storage, **options), **options)


def saved(repo: SessionRepository, *texts: str) -> Session:
    session = Session.new("s", model="m")
    for text in texts:
        session.add_message(Message.user(text))
    repo.save(session)
    return session


def texts(session: Session | None) -> list[Any]:
    assert session is not None
    return [message.content for message in session.messages]


def test_p1_what_save_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """A process that is killed right after `save` returned leaves the change behind."""
    program = (
        "import os, signal, sys\n"
        "from bamboo_sessions import *\n"
        "repo = SessionRepository.open(sys.argv[1])\n"
        "session = Session.new('s')\n"
        "for text in 'ab':\n"
        "    session.add_message(Message.user(text))\n"
        "    repo.save(session)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "store")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert texts(SessionRepository.open(tmp_path / "store").load("s")) == ["a", "b"]


def test_p1_a_save_returns_after_the_bytes_are_synced(tmp_path: Path) -> None:
    """The last thing that happens to the journal before `save` returns is a sync that covers the last write."""
    seen: list[str] = []

    class Watched(Files):
        def write_at(self, fd: int, data: bytes, offset: int) -> int:
            seen.append("write")
            return super().write_at(fd, data, offset)

        def sync(self, fd: int) -> None:
            super().sync(fd)
            seen.append("sync")

    repo = repository(JsonFileStorage(tmp_path / "store", files=Watched()))
    session = saved(repo, "a")
    session.add_message(Message.user("b"))
    seen.clear()
    repo.save(session)
    assert seen == ["write", "sync"]


def test_p2_no_acknowledged_change_is_lost_to_another_writer(storage: Any) -> None:
    """Additions, edits, removals, metadata, a question and a title of two writers with old copies are all there."""
    one, two = repository(storage), repository(storage)
    first = saved(one, "kept", "edited by A", "removed by B")
    ids = [message.id for message in first.messages]
    a, b = one.try_load_merged("s"), two.try_load_merged("s")
    assert a is not None
    assert b is not None
    a.replace_message(ids[1], Message.user("edited"))
    a.metadata["a"] = {"n": 1}
    a.add_message(Message.user("from A"))
    b.remove_message(ids[2])
    b.metadata["b"] = [2]
    b.title = "Title"
    b.set_pending_question("call", "Really?")
    b.add_message(Message.user("from B"))
    one.save(a)
    two.save(b)
    found = repository(storage).load("s")
    assert found is not None
    assert texts(found) == ["kept", "edited", "from A", "from B"]
    assert (found.metadata, found.title) == ({"a": {"n": 1}, "b": [2]}, "Title")
    assert [question.tool_call_id for question in found.pending_questions] == ["call"]


def asking(storage: Any) -> tuple[SessionRepository, Session, datetime]:
    """A storage that asks something, a cached-to-be copy that does not, and the age of the stored one."""
    repo = repository(storage)
    session = Session.new("s")
    session.set_pending_question("call", "Really?")
    storage.save_session(session)
    memory = storage.load_session("s")
    age = memory.updated_at
    memory.clear_pending_question("call")
    return repo, memory, age


def test_p3_memory_that_is_newer_and_answered_stays(storage: Any) -> None:
    """Memory strictly newer with the question answered, storage still asking: the answered copy, cache included."""
    repo, memory, age = asking(storage)
    memory.updated_at = age + timedelta(seconds=1)
    repo.cache.insert("s", memory)
    found, held = repo.load_merged("s"), repo.cache.get("s")
    assert found is not None
    assert held is not None
    assert (found.pending_question, held.pending_question) == (None, None)


def test_p3_a_question_that_memory_lost_comes_back(storage: Any) -> None:
    """Of the same age, storage still asking, memory not: the question is back in the result and in the cache."""
    repo, memory, age = asking(storage)
    memory.updated_at = age
    repo.cache.insert("s", memory)
    found, held = repo.load_merged("s"), repo.cache.get("s")
    assert found is not None
    assert held is not None
    for copy in (found, held):
        assert copy.pending_question is not None
        assert copy.pending_question.question == "Really?"


def test_p3_a_late_look_never_takes_the_cache_back(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that looked before a save, and arrives after it, leaves the newer copy in the cache."""
    repo, look = repository(storage), LockedSessionStore.look
    session = saved(repo, "a")
    repository(storage).update("s", lambda other: other.add_message(Message.user("b")))

    def late_look(store: LockedSessionStore, *asked: Any) -> Any:
        monkeypatch.setattr(LockedSessionStore, "look", look)
        found = look(store, *asked)
        session.add_message(Message.user("c"))
        repo.save(session)
        return found

    monkeypatch.setattr(LockedSessionStore, "look", late_look)
    assert texts(repo.try_load_merged("s")) == ["a", "b", "c"]
    assert texts(repo.cache.get("s")) == ["a", "b", "c"]


def test_p4_a_question_is_answered_exactly_once_and_stays_closed(storage: Any) -> None:
    """The second answer is told so, and a copy that still has the question open does not open it again."""
    repo, other = repository(storage), repository(storage)
    runtime = Session.new("s")
    runtime.set_pending_question("call", "Really?")
    repo.save(runtime)
    other.answer("s", "call", "yes")
    with pytest.raises(QuestionNotOpen):
        repo.answer("s", "call", "no")
    runtime.add_message(Message.assistant("meanwhile"))
    repo.save(runtime)
    found = other.try_load_merged("s")
    assert found is not None
    assert found.pending_question is None
    assert texts(found) == ["yes", "meanwhile"]


def test_p5_what_people_edit_survives_runtimes_with_older_copies(storage: Any) -> None:
    """Title, pin and tags stay through a save from a copy that never saw them; a generated title does not replace one."""
    repo = repository(storage)
    runtime = saved(repo, "a")
    repo.set_title("s", "Mine")
    repo.set_pinned("s", True)
    repo.add_tags("s", "x")
    runtime.set_title("Generated", source="generated")
    runtime.add_message(Message.assistant("b"))
    repo.save(runtime)
    assert (runtime.title, runtime.pinned, runtime.tags) == ("Mine", True, {"x"})
    repo.set_title("s", "Generated again", source="generated")
    found = repository(storage).load("s")
    assert found is not None
    assert (found.title, found.title_source) == ("Mine", "user")


def test_p6_a_loaded_copy_is_the_callers_own(storage: Any) -> None:
    """Changing it, nested values included, changes nobody else's copy."""
    repo = repository(storage)
    session = Session.new("s", metadata={"nested": {"list": [1]}})
    session.add_message({"role": "user", "content": [{"type": "text", "text": "x"}]})
    repo.save(session)
    mine = repo.load("s")
    assert mine is not None
    mine.metadata["nested"]["list"].append(2)
    mine.messages[0].to_dict()["content"][0]["text"] = "changed"
    mine.add_message(Message.user("y"))
    mine.title = "t"
    for other in (repo.load("s"), session, repository(storage).load("s")):
        assert other is not None
        assert other.metadata == {"nested": {"list": [1]}}
        assert [message.to_dict() for message in other.messages] == [
            {"role": "user", "content": [{"type": "text", "text": "x"}]}]
        assert other.title is None


def test_p7_a_reader_sees_whole_revisions_and_waits_for_nobody(tmp_path: Path) -> None:
    """While another repository holds the session's lock, a reader gets the last committed revision at once."""
    writer, reader = SessionRepository.open(tmp_path / "store"), SessionRepository.open(tmp_path / "store")
    saved(writer, "a")
    with writer.edit("s") as session:
        session.add_message(Message.user("b"))
        session.title = "t"
        seen = reader.try_load_merged("s")
        assert seen is not None
        assert (texts(seen), seen.title) == (["a"], None)
    seen = reader.try_load_merged("s")
    assert seen is not None
    assert (texts(seen), seen.title) == (["a", "b"], "t")


def files_of(root: Path) -> tuple[Path, Path]:
    [journal] = root.glob("sessions/*/*/journal.jsonl")
    return journal.with_name("session.json"), journal


def test_p8_a_torn_tail_is_cut_and_kept_aside(tmp_path: Path) -> None:
    """Half a line that was never acknowledged is ignored by readers and moved to quarantine by the next writer."""
    session = saved(SessionRepository.open(tmp_path), "a")
    _, journal = files_of(tmp_path)
    with journal.open("ab") as file:
        file.write(b'{"crc":"0123')
    repo = SessionRepository.open(tmp_path)
    assert texts(repo.try_load("s")) == ["a"]
    session.add_message(Message.user("b"))
    repo.save(session)
    assert texts(SessionRepository.open(tmp_path).try_load("s")) == ["a", "b"]
    assert [p.read_bytes() for p in journal.parent.glob("quarantine/*")] == [b'{"crc":"0123']


@pytest.mark.usefixtures("damage_on_purpose")
def test_p8_other_damage_is_reported_and_nothing_is_overwritten(tmp_path: Path) -> None:
    """A flipped byte before a valid line raises `CorruptSession` with its place; load, save and files stay honest."""
    repo = SessionRepository.open(tmp_path)
    session = saved(repo, "a")
    for text in "bc":
        session.add_message(Message.user(text))
        repo.save(session)
    _, journal = files_of(tmp_path)
    data = journal.read_bytes()
    at = data.index(b'"content":"b"')
    damaged = data[:at] + b"X" + data[at + 1 :]
    journal.write_bytes(damaged)
    fresh = SessionRepository.open(tmp_path)
    with pytest.raises(CorruptSession) as caught:
        fresh.try_load("s")
    assert caught.value.path == str(journal)
    assert data.rfind(b"\n", 0, at) < caught.value.offset <= at
    assert texts(caught.value.last_good) == ["a"]
    with pytest.raises(CorruptSession):
        fresh.save(Session.new("s"))
    assert fresh.load("s") is None
    assert journal.read_bytes() == damaged


def test_p8_a_head_that_no_version_writes_is_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record whose checksums are right around something else is reported as damage, not as a programmer's error."""
    storage = MemoryStorage()
    saved(repository(storage), "a")
    for broken in ({"updated_at": "yesterday"}, {"questions": 7}, {"tags": 5}):
        record = MemoryStorage.read(storage, "s")
        assert isinstance(record, Record)
        record.head.update(broken)
        monkeypatch.setattr(storage, "read", lambda *asked, answer=record: answer)
        with pytest.raises(CorruptSession):
            repository(storage).try_load("s")


def test_p9_deleted_stays_deleted(storage: Any) -> None:
    """A save of an old copy raises, also when the id was made anew, and the new session is untouched."""
    repo, other = repository(storage), repository(storage)
    old = saved(repo, "a")
    assert other.delete("s")
    with pytest.raises(SessionDeleted):
        repo.save(old)
    assert repo.load("s") is None
    again = Session.new("s")
    other.save(again)
    with pytest.raises(SessionDeleted):
        repo.save(old)
    found = repo.try_load_merged("s")
    assert found is not None
    assert (found.birth, texts(found)) == (again.birth, [])


def test_p9_a_sibling_that_was_never_saved_begins_a_life_of_its_own(storage: Any) -> None:
    """A copy of a new session, saved after its sibling was saved and deleted, does not bring the sibling's copies back."""
    repo, other = repository(storage), repository(storage)
    one = Session.new("s")
    one.add_message(Message.user("kept"))
    two = deepcopy(one)
    repo.save(one)
    held = repo.load("s")
    assert held is not None
    assert repo.delete("s")
    other.save(two)
    assert two.birth != held.birth
    held.add_message(Message.user("ghost"))
    with pytest.raises(SessionDeleted):
        repo.save(held)
    assert texts(repository(storage).load("s")) == ["kept"]


def test_p9_a_copy_of_another_store_is_imported(storage: Any) -> None:
    """What was committed elsewhere is no deleted session here: it is a first save."""
    session = saved(repository(MemoryStorage()), "a")
    assert repository(storage).save(session).revision == 1
    assert texts(repository(storage).load("s")) == ["a"]


def test_p10_updated_at_goes_forward_whatever_the_clocks_say(storage: Any) -> None:
    """A clock that jumps back and a host that is behind still give each revision a later time."""
    here, there = ManualClock(), ManualClock(datetime(2025, 1, 1, tzinfo=UTC))
    one, two = repository(storage, clock=here), repository(storage, clock=there)
    session = saved(one, "a")
    times = [session.updated_at]
    for repo, jump in ((one, -3600), (two, 0), (one, -86400), (two, 60)):
        here.jump(seconds=jump)
        copy = repo.try_load_merged("s")
        assert copy is not None
        copy.add_message(Message.user("x"))
        repo.save(copy)
        times.append(copy.updated_at)
    assert times == sorted(set(times))


def test_p11_one_session_never_waits_for_another(tmp_path: Path) -> None:
    """While one session is held by an edit, saves and loads of another one, and cached loads of the first, go through."""
    repo = SessionRepository.open(tmp_path, lock_timeout=0.2)
    saved(repo, "a")
    repo.save(Session.new("other"))
    with repo.edit("s"):
        done: list[object] = []

        def work() -> None:
            done.append(repo.set_title("other", "t").changed)
            done.append(texts(repo.load("s")))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(10)
        assert done == [True, ["a"]]


def test_p12_nothing_grows_with_the_ids_that_were_seen(tmp_path: Path) -> None:
    """After many sessions the lock tables are empty, the cache is at its bound and no descriptor is left open."""
    repo = SessionRepository.open(tmp_path, cache=SessionCache(10), durability="process")
    repo.save(Session.new("first"))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for number in range(200):
        repo.save(Session.new(f"s{number}"))
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert (after, len(repo.persistence._holds), repo.stats().size) == (before, 0, 10)
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} <= {"locks", "store.json", "store.json.lock"}


def test_p13_unknown_fields_survive_load_merge_and_save(tmp_path: Path) -> None:
    """What a newer version wrote into a session, a message or a question comes through a merge unchanged."""
    session = Session.from_dict({
        "id": "s", "future": {"deep": [1]}, "messages": [{"role": "user", "content": "a", "mood": "new"}],
        "questions": [{"tool_call_id": "c", "token": "t", "question": "?", "deadline": 5}]})
    one, two = SessionRepository.open(tmp_path), SessionRepository.open(tmp_path)
    one.save(session)
    a, b = one.try_load_merged("s"), two.try_load_merged("s")
    assert a is not None
    assert b is not None
    a.add_message(Message.user("b"))
    b.title = "t"
    one.save(a)
    two.save(b)
    found = SessionRepository.open(tmp_path).load("s")
    assert found is not None
    plain = found.to_dict()
    assert (plain["future"], plain["messages"][0]["mood"], plain["questions"][0]["deadline"]) == ({"deep": [1]}, "new", 5)


@pytest.mark.usefixtures("damage_on_purpose")
def test_p13_a_newer_format_is_refused(tmp_path: Path) -> None:
    """Files of a newer version are not read, and not written over."""
    saved(SessionRepository.open(tmp_path), "a")
    snapshot, _ = files_of(tmp_path)
    newer = snapshot.read_bytes().replace(b'"format":1', b'"format":2', 1)
    snapshot.write_bytes(newer)
    fresh = SessionRepository.open(tmp_path)
    with pytest.raises(UnsupportedFormat):
        fresh.try_load("s")
    with pytest.raises(UnsupportedFormat):
        fresh.save(Session.new("s"))
    assert snapshot.read_bytes() == newer


def odd_chats() -> list[dict[str, Any]]:
    deep: dict[str, Any] = {}
    inner = deep
    for _ in range(850):
        inner["x"] = inner = {}
    return [
        {"role": "user", "content": "hi", "id": "their own id"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": "f", "arguments": {"a": [1, None]}}]},
        {"role": "tool", "content": "", "tool_call_ids": ["c"]},
        {"role": "function", "name": "f", "content": "{}"},
        {"role": "user", "content": "lone \ud83d surrogate", "big": 2**70, "low": -(2**65)},
        {"content": [{"type": "image", "image": {"url": "data:,x"}}]},
        {"role": "user", "content": deep},
    ]


def test_p14_messages_come_back_as_they_were_given(storage: Any) -> None:
    """Every chat form there is, and what `json` carries and orjson does not, through a save and another repository."""
    chats = odd_chats()
    session = Session.new("s")
    for chat in chats:
        session.add_message(Message.from_dict(chat))
    repository(storage).save(session)
    found = repository(storage).load("s")
    assert found is not None
    assert [message.to_dict() for message in found.messages[:-1]] == chats[:-1]
    assert json.dumps([list(message.to_dict()) for message in found.messages]) == json.dumps([list(c) for c in chats])
    assert depth_of(found.messages[-1].to_dict()["content"]) == 850


def test_p14_nan_is_kept(storage: Any) -> None:
    """NaN and the infinities are values of `json`, and orjson alone would write null."""
    session = Session.new("s")
    session.add_message({"role": "user", "content": "x", "score": math.nan, "limit": -math.inf})
    repository(storage).save(session)
    found = repository(storage).load("s")
    assert found is not None
    chat = found.messages[0].to_dict()
    assert math.isnan(chat["score"])
    assert chat["limit"] == -math.inf


def depth_of(value: Any) -> int:
    depth = 0
    while value:
        value, depth = value["x"], depth + 1
    return depth


def test_the_page_names_tests_that_are_there() -> None:
    """Each promise has a line in the page, and each test that the page names exists."""
    root = Path(__file__).parent.parent.parent
    page = (root / "docs" / "explanation" / "promises.md").read_text()
    named = {word.strip("`,.") for word in page.split() if word.startswith("`test_")}
    there = {line.split("(")[0].removeprefix("async ").removeprefix("def ").strip()
             for path in (root / "tests").rglob("*.py") for line in map(str.strip, path.read_text().splitlines())
             if line.startswith(("def test_", "async def test_"))}
    there |= {path.stem for path in (root / "tests").rglob("test_*.py")}
    missing = {name for name in named if name.split("::")[-1].removesuffix(".py") not in there}
    assert missing == set()
    assert [number for number in range(1, 15) if f"| P{number} |" not in page] == []
    assert orjson.dumps(sorted(named)) != b"[]"
