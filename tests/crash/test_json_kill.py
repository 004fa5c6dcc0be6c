"""Processes that write sessions and are killed at any moment; readers that take no lock meanwhile.

The judge is what the writers acknowledged: each writes the number of a change into its pipe after `commit` returned.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

from bamboo_sessions.storages.json_files import JsonFileStorage
from bamboo_sessions.storages.protocol import Delta, Record
from tests.unit.json_kit import first

WRITER = """
import os, signal, sys
import bamboo_sessions.storages.json_files.writer as writer
from bamboo_sessions.storages.json_files import JsonFileStorage
from bamboo_sessions.storages.protocol import Change, Commit
writer.FOLD_AT = 4000
root = sys.argv[1]

def child(name, out, rounds):
    store = JsonFileStorage(root, durability="process")
    record, number = None, 0
    while number < rounds:
        with store.lock("s", 30):
            record = store.read("s")
            revision, count = record.head["revision"] + 1, len(record.messages)
            if revision % 50 == 0:  # an edit: rewrite the last three
                keep, add = count - 3, list(record.messages[-3:])
            else:
                keep, add = count, []
            line = b'{"id":"%s-%d","m":{}}' % (name.encode(), number)
            change = Change(revision, f"{name}-{number}", keep, [*add, line], {"set": {"n": revision}})
            store.commit(Commit("s", (record.head["birth"], revision - 1), change))
        os.write(out, b"%d\\n" % number)
        number += 1

signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
# Forks a child per line on stdin, which costs milliseconds where a fresh interpreter costs a quarter of a second.
for line in sys.stdin:
    name, out, rounds = line.split()
    pid = os.fork()
    if not pid:
        fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            child(name, fd, int(rounds))
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(pid, flush=True)
"""


class Zygote:
    """A process with everything imported that forks writers on demand."""

    def __init__(self, root):
        self.process = subprocess.Popen([sys.executable, "-c", WRITER, str(root)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def writer(self, name, out, rounds=10**9):
        self.process.stdin.write(f"{name} {out} {rounds}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def _acknowledged(path):
    """The numbers a writer acknowledged; a line in flight when it was killed counts only when whole."""
    data = path.read_bytes() if path.exists() else b""
    return len(data[: data.rfind(b"\n") + 1].split(b"\n")) - 1


def test_two_hundred_kills_lose_nothing(tmp_path):
    """Two writers at a time on one session, one killed every few milliseconds in mid-work, torn tails and half-done
    folds among them: every acknowledged change is there, each writer's in order, at most one more each."""
    root, random_ = tmp_path / "store", random.Random(7)
    store = JsonFileStorage(root, durability="process")
    store.commit(first("s"))
    zygote, kills, living, names = Zygote(root), 0, [], []
    deadline = time.monotonic() + 15
    while kills < 200 and time.monotonic() < deadline:
        while len(living) < 2:
            name = f"w{len(names)}"
            names.append(name)
            living.append(zygote.writer(name, tmp_path / name))
        time.sleep(random_.uniform(0.001, 0.025))
        os.kill(living.pop(random_.randrange(2)), signal.SIGKILL)
        kills += 1
    for pid in living:
        os.kill(pid, signal.SIGKILL)
    zygote.close()
    assert kills >= 100
    texts = [json.loads(line)["id"] for line in JsonFileStorage(root).read("s").messages]
    total = 0
    for name in names:
        mine = [int(text.split("-")[1]) for text in texts if text.split("-")[0] == name]
        acknowledged = _acknowledged(tmp_path / name)
        assert mine == list(range(len(mine)))
        assert acknowledged <= len(mine) <= acknowledged + 1
        total += acknowledged
    assert total > kills


def test_readers_without_a_lock_see_whole_revisions_that_never_go_back(tmp_path):
    """Two processes write with folds while two threads read, one always whole and one by stamp: what they see is one
    revision with exactly its messages, and never an older one than before."""
    root = tmp_path / "store"
    JsonFileStorage(root, durability="process").commit(first("s"))
    zygote, stop, wrong, seen = Zygote(root), threading.Event(), [], []

    def read(by_stamp):
        storage, revision, count, stamp = JsonFileStorage(root), 0, 0, None
        while not stop.is_set():
            answer = storage.read("s", stamp if by_stamp else None)
            if isinstance(answer, Record):
                now, count = answer.head["revision"], len(answer.messages)
                told = answer.head.get("n", 1)
            elif isinstance(answer, Delta):
                now = told = revision
                for change in answer.changes:
                    now, told, count = change.revision, change.head["set"]["n"], change.keep + len(change.add)
            else:
                continue
            stamp = answer.stamp
            # Each revision adds one message: its number is told by the journal, by the head, and by the length.
            if not (now == told == count + 1 and now >= revision):
                wrong.append((by_stamp, revision, now, told, count))
            revision = now
            seen.append(now)

    threads = [threading.Thread(target=read, args=(by_stamp,)) for by_stamp in (False, True)]
    for thread in threads:
        thread.start()
    pids = [zygote.writer(name, tmp_path / name, 400) for name in ("x", "y")]
    deadline = time.monotonic() + 30
    while sum(_acknowledged(tmp_path / name) for name in ("x", "y")) < 800 and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    zygote.close()
    assert len(pids) == 2
    assert wrong == []
    assert len(set(seen)) > 20
    texts = [json.loads(line)["id"] for line in JsonFileStorage(root).read("s").messages]
    assert sorted(texts) == sorted(f"{name}-{number}" for name in ("x", "y") for number in range(400))
