"""kill -9 of writers at random moments, a few hundred times, while they share sessions.

A zygote imports everything once and forks the writers, so that a kill and the new start cost some milliseconds. A
writer notes each acknowledgement in a file of its own (appended, synced) *after* `save` returned: whatever is in that
file was promised. This file is also the program of the zygote.

BAMBOO_SESSIONS_SEED repeats the moments of a run as far as a machine repeats anything; BAMBOO_SESSIONS_KILLS asks for
more kills than the default.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest

from bamboo_sessions import Message, SessionRepository

KILLS = int(os.environ.get("BAMBOO_SESSIONS_KILLS", "300"))
WRITERS = ("w0", "w1", "w2")
SHARED = ("chat-0", "chat-1", "chat-2")


# -- a writer ----------------------------------------------------------------------------------------------------


class Writer:
    """Says one thing after the other in the shared sessions, from copies that it holds, until it is killed."""

    def __init__(self, root, name, seed):
        self.name, self.dice = name, random.Random(seed)
        self.repo = SessionRepository.open(root)
        self.acked = os.open(acks_of(root, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.held = {chat: self.repo.load_or_create(chat) for chat in SHARED}
        self.next = {chat: 1 + max(numbers_of(session, name), default=-1) for chat, session in self.held.items()}

    def run(self):
        while True:
            if self.dice.random() < 0.1:
                self.begin_a_session()
            else:
                self.say(self.dice.choice(SHARED))

    def say(self, chat):
        session, number = self.held[chat], self.next[chat]
        for _ in range(self.dice.choice((1, 1, 3))):
            # No two messages say the same: two first saves of one session take equal beginnings for one transcript.
            text = f"{self.name} {number} " + "x" * self.dice.choice((10, 300, 4000))
            session.add_message(Message.user(text, id=f"{self.name}/{number}"))
            number += 1
        session.metadata[self.name] = {"said": number}
        self.repo.save(session)
        self.ack({"chat": chat, "numbers": [self.next[chat], number]})
        self.next[chat] = number

    def begin_a_session(self):
        chat = f"{self.name}-{os.getpid()}-{self.dice.getrandbits(40)}"
        session = self.repo.load_or_create(chat)
        session.add_message(Message.user("hello", id=f"{self.name}/0"))
        self.repo.save(session)
        self.ack({"chat": chat, "numbers": [0, 1]})

    def ack(self, fact):
        line = (json.dumps(fact) + "\n").encode()
        assert os.write(self.acked, line) == len(line)
        os.fsync(self.acked)


def acks_of(root, name):
    return f"{root}.acked-by-{name}"


def numbers_of(session, name):
    said = (message.id.split("/") for message in session.messages)
    return [int(number) for by, number in said if by == name]


# -- the zygote --------------------------------------------------------------------------------------------------


def zygote(root, seed):
    """Answers each name on stdin by killing the writer of that name, if any, and starting a new one."""
    pids, started = {}, 0
    for line in sys.stdin:
        name, started = line.strip(), started + 1
        status = end(pids.pop(name)) if name in pids else -signal.SIGKILL
        if status != -signal.SIGKILL:
            sys.exit(f"{name} ended by itself with status {status}")
        pids[name] = os.fork()
        if not pids[name]:
            write_until_killed(root, name, f"{seed} {started}")
        print(pids[name], flush=True)
    for pid in pids.values():
        end(pid)


def end(pid):
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def write_until_killed(root, name, seed):
    try:
        os.close(0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the log may say that a torn tail was cut: as it should
        Writer(root, name, seed).run()
    except BaseException:
        traceback.print_exc()
    os._exit(1)


# -- what is claimed ---------------------------------------------------------------------------------------------


def kill_at_random(root, seed):
    """KILLS times: wait a moment, kill one writer and start it again at once."""
    dice = random.Random(seed)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, __file__, str(root), seed], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    with process:
        for name in [*WRITERS, *dice.choices(WRITERS, k=KILLS)]:
            time.sleep(dice.uniform(0, 0.06) ** 1.2)
            try:
                process.stdin.write(f"{name}\n")
                process.stdin.flush()
            except BrokenPipeError:
                break
            if not process.stdout.readline().strip().isdigit():
                break
        said, errors = process.communicate(timeout=20)
    assert (process.returncode, said) == (0, ""), errors


def acknowledged(root):
    """(writer, chat) -> the numbers that were promised, in order; a line that the kill cut short promises nothing."""
    promised = {}
    for name in WRITERS:
        for line in Path(acks_of(root, name)).read_bytes().split(b"\n")[:-1]:
            fact = json.loads(line)
            promised.setdefault((name, fact["chat"]), []).extend(range(*fact["numbers"]))
    return promised


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_what_was_acknowledged_survives_hundreds_of_kills(tmp_path):
    """Everything promised is there once and in its writer's order, and the store goes on working."""
    seed = os.environ.get("BAMBOO_SESSIONS_SEED") or str(random.SystemRandom().getrandbits(32))
    print(f"BAMBOO_SESSIONS_SEED={seed}")
    root = tmp_path / "store"
    kill_at_random(root, seed)
    promised = acknowledged(root)
    assert sum(map(len, promised.values())) > KILLS, "too few saves: this shows nothing"
    with SessionRepository.open(root) as repo:
        for (name, chat), numbers in promised.items():
            session = repo.try_load(chat)
            assert session is not None, f"{chat} was acknowledged and is gone"
            stored = numbers_of(session, name)
            # No number is given twice, so that a writer's own are 0, 1, 2, … without a gap: what it said in doubt and
            # found again after a restart was not said again.
            assert stored == list(range(len(stored)))
            assert set(numbers) <= set(stored)
            if chat in SHARED:
                assert session.metadata[name]["said"] == len(stored)
        assert all(len({m.id for m in repo.load(chat).messages}) == len(repo.load(chat).messages) for chat in SHARED)
        go_on(repo)
    with SessionRepository.open(root) as again:
        assert {chat: again.load(chat).messages[-1].content for chat in SHARED} == dict.fromkeys(SHARED, "afterwards")


def go_on(repo):
    for chat in SHARED:
        session = repo.load(chat)
        session.add_message(Message.user("afterwards"))
        assert repo.save(session).changed


if __name__ == "__main__":
    zygote(*sys.argv[1:])
