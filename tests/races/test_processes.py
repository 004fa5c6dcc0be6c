"""Real processes on one folder: held copies, repositories that were forked, and one person who edits beside them.

This file is also the program that those processes run; each answers with one line of JSON, its last.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import traceback
import warnings
from pathlib import Path

import pytest

from bamboo_sessions import Message, Session, SessionRepository

CHAT = "shared"
WRITERS = ("w0", "w1", "w2", "w3")
APPENDS = 50
EDITS = 24


# -- what the processes do ---------------------------------------------------------------------------------------


def said(name, number):
    return Message.user(f"{name} says {number}", id=f"{name}-{number}")


def append_from_a_held_copy(repo, name):
    """Loads once and goes on saving that one object, however much the others wrote meanwhile."""
    session = repo.load(CHAT)
    for number in range(APPENDS):
        session.add_message(said(name, number))
        repo.save(session)
    return {"appended": APPENDS}


def append_by_update(repo, name):
    """Lets the repository run the change on the newest state."""
    for number in range(APPENDS):
        repo.update(CHAT, lambda session, number=number: session.add_message(said(name, number)))
    return {"appended": APPENDS}


def edit(repo, name):
    """Renames and pins, asks from a held copy, and answers every second question."""
    held, still_open = repo.load(CHAT), []
    for number in range(EDITS):
        title, pinned = f"title {number}", number % 2 == 0
        repo.set_title(CHAT, title)
        repo.set_pinned(CHAT, pinned)
        held.set_pending_question(tool_call_id=f"q{number}", tool_name="ask_user", question=f"really {number}?")
        repo.save(held)
        if number % 2:
            repo.answer(CHAT, f"q{number}", f"yes {number}")
        else:
            still_open.append(f"q{number}")
    return {"title": title, "pinned": pinned, "open": still_open}


def fork_and_append(repo, name):
    """Forks four writers off a repository that was used, while another thread of it is in the middle of saves."""
    held, stop = repo.load(CHAT), threading.Event()
    busy = threading.Thread(target=keep_saving, args=(repo, stop))
    busy.start()
    while repo.load("beside") is None:
        os.sched_yield()
    children = [fork(append_what_was_held, repo, held, writer) for writer in WRITERS]
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    stop.set()
    busy.join()
    append_what_was_held(repo, held, "parent")
    return {"statuses": statuses}


def keep_saving(repo, stop):
    session, number = repo.load_or_create("beside"), 0
    while not stop.is_set():
        session.add_message(said("busy", number))
        repo.save(session)
        number += 1


def append_what_was_held(repo, held, name):
    # The session that the other thread was saving: whatever lock it held at the fork must not be held here for ever.
    repo.update("beside", lambda session: session.add_message(said(name, "beside")))
    for number in range(APPENDS // 2):
        held.add_message(said(name, number))
        repo.save(held)


def fork(work, *args):
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # 3.12 on: a fork beside threads
        child = os.fork()
    if child:
        return child
    try:
        work(*args)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main(task, root, name):
    with SessionRepository.open(root) as repo:
        print("ready", flush=True)
        sys.stdin.readline()
        print(json.dumps(globals()[task](repo, name)), flush=True)


# -- what is claimed ---------------------------------------------------------------------------------------------


def run(root, tasks):
    """All tasks at once, each in a process of its own that waits for the others before it starts; their answers."""
    command = [sys.executable, "-W", "error", __file__]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    running = [subprocess.Popen([*command, task, str(root), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, env=env) for task, name in tasks]
    try:
        for process in running:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
        for process in running:
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [process.communicate(timeout=50) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert [(process.returncode, errors) for process, (_, errors) in zip(running, answers, strict=True)] == (
        [(0, "")] * len(running))
    assert not [line for output, _ in answers for line in output.splitlines()[:-1]], "a log line: somebody was warned"
    return [json.loads(output) for output, _ in answers]


def started(root):
    """A folder with the session that everybody is going to share."""
    with SessionRepository.open(root) as repo:
        session = Session.new(CHAT, model="m")
        session.add_message(Message.user("the first", id="first"))
        repo.save(session)
    return root


def written(session, name):
    return [message.id for message in session.messages if message.id.startswith(f"{name}-")]


@pytest.mark.parametrize("task", ["append_from_a_held_copy", "append_by_update"])
def test_four_processes_and_an_editor_lose_nothing(tmp_path, task):
    """200 of 200 messages, each writer's in its order, the last title and pin, exactly the unanswered questions."""
    answers = run(started(tmp_path / "store"), [*((task, name) for name in WRITERS), ("edit", "editor")])
    last = answers[-1]
    with SessionRepository.open(tmp_path / "store") as repo:
        session = repo.load(CHAT)
    for name in WRITERS:
        assert written(session, name) == [f"{name}-{number}" for number in range(APPENDS)]
    answered = [f"q{number}" for number in range(1, EDITS, 2)]
    assert [message.tool_call_id for message in session.messages if message.role == "tool"] == answered
    assert len(session.messages) == 1 + len(WRITERS) * APPENDS + len(answered)
    assert session.messages[0].id == "first"
    assert (session.title, session.title_source, session.title_version) == (last["title"], "user", EDITS)
    assert session.pinned is last["pinned"] is False
    assert [question.tool_call_id for question in session.pending_questions] == last["open"]
    # every save changed something, and nothing was committed twice
    assert session.revision == 1 + len(WRITERS) * APPENDS + EDITS * 3 + len(answered)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_repository_that_was_used_can_be_forked(tmp_path):
    """Children go on with the repository and the copy that they inherited, though a thread was saving at the fork."""
    [answer] = run(started(tmp_path / "store"), [("fork_and_append", "parent")])
    assert answer["statuses"] == [0, 0, 0, 0]
    with SessionRepository.open(tmp_path / "store") as repo:
        session, beside = repo.load(CHAT), repo.load("beside")
    for name in (*WRITERS, "parent"):
        assert written(session, name) == [f"{name}-{number}" for number in range(APPENDS // 2)]
        assert written(beside, name) == [f"{name}-beside"]
    assert len(session.messages) == 1 + 5 * (APPENDS // 2)
    busy = written(beside, "busy")
    assert busy == [f"busy-{number}" for number in range(len(busy))]
    assert len(beside.messages) == len(busy) + 5


if __name__ == "__main__":
    main(*sys.argv[1:])
