"""The judge of a torture run: follows the log, looks at sessions while others write, and at all when all are dead.

It knows nothing but the log and what the store's public face gives. While the run goes on it is one more reader that
takes no lock: it reads the log's length, a session, the log's length again, and holds the one against the other.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from bamboo_sessions import JsonFileStorage, Message, SessionNotFound, SessionRepository
from bamboo_sessions.storages.json_files.layout import Layout, quarantine_in, usage_in
from tests.torture.kills_facts import Facts
from tests.torture.kills_lives import ROOMS, SESSIONS
from tests.torture.kills_log import LogReader, what_is_seen
from tests.torture.kills_order import Op, Order

ENOUGH = 10
"""Findings of one rule after which more say nothing new."""


class Judge:
    """Follows one run."""

    def __init__(self, root: str, log: str) -> None:
        self.root, self.log_path, self.log = root, log, LogReader(log)
        self.wrong: dict[str, list[str]] = {}
        self.counts: Counter[str] = Counter()
        self.ops: dict[str, Op] = {}
        self.working: dict[str, Op] = {}
        """By life: what it has begun."""
        self.acked_ids: set[str] = set()
        """Operation ids of acknowledged commits."""
        self.facts = {name: Facts(partial(self.note, name)) for name in SESSIONS}
        self.order = {name: Order(partial(self.note, name)) for name in SESSIONS}
        self._handlers: dict[str, Callable[[int, int, dict[str, Any]], None]] = {
            "try": self._tried, "ack": self._acked, "no": self._refused, "look": self._looked, "dead": self._died,
            "wrong": self._was_wrong}

    def note(self, session_id: str, rule: str, what: str) -> None:
        found = self.wrong.setdefault(rule, [])
        if len(found) < ENOUGH:
            found.append(f"{session_id}: {what}")

    # -- the log -----------------------------------------------------------------------------------------------------

    def follow(self) -> None:
        for start, end, record in self.log.news():
            self._handlers[record["k"]](start, end, record)

    def _tried(self, start: int, end: int, record: dict[str, Any]) -> None:
        op = self.ops[record["o"]] = Op(record["o"], record["s"], start, record)
        self.working[record["life"]] = op
        self.facts[op.session_id].tried(op)
        if "birth" in record:
            self.order[op.session_id].offered.add(record["birth"])
        if "delete" in record:
            self.order[op.session_id].deletes.append(op)
        self.counts["tries"] += 1

    def _acked(self, start: int, end: int, record: dict[str, Any]) -> None:
        op = self.ops[record["o"]]
        op.state, op.end, op.birth = "acked", end, record.get("b")
        order = self.order[op.session_id]
        self.counts["acks"] += 1
        self.counts.update(record.get("new", {}))
        if op.birth is not None:
            op.revision, op.changed = record["r"], record["ch"]
            seen = {key: record[key] for key in ("f", "n", "u") if key in record}
            order.shown(op.birth, op.revision, op.start, end, seen, op.name)
            order.committed(op)
            self.acked_ids.add(record.get("op", ""))
        elif "delete" in op.facts:
            op.facts["there"] = record["there"]
            self.counts["deletes"] += record["there"]
            order.absent(op.start, end, op.name)
        self.facts[op.session_id].settled(op)

    def _refused(self, start: int, end: int, record: dict[str, Any]) -> None:
        op = self.ops[record["o"]]
        op.state, op.end = "refused", end
        self.counts[record["why"]] += 1
        order = self.order[op.session_id]
        if record["why"] == "SessionDeleted":
            order.over(record["b"], end, f"{op.name}, refused with SessionDeleted,")
        elif record["why"] == "SessionNotFound":
            order.absent(op.start, end, f"{op.name}, refused with SessionNotFound,")

    def _looked(self, start: int, end: int, record: dict[str, Any]) -> None:
        order, who = self.order[record["s"]], f"{record['life']}, looking ({record['way']}),"
        self.counts["looks"] += record["c"]
        if record["b"] is None:
            order.absent(record["at"], end, who)
        else:
            seen = {key: record[key] for key in ("f", "n", "u") if key in record}
            order.shown(record["b"], record["r"], record["at"], end, seen, who)

    def _died(self, start: int, end: int, record: dict[str, Any]) -> None:
        op = self.working.pop(record["life"], None)
        if op is not None and op.state == "open":
            op.state, op.end = "unknown", end
            self.counts["in doubt"] += 1
            self.facts[op.session_id].settled(op)

    def _was_wrong(self, start: int, end: int, record: dict[str, Any]) -> None:
        self.note(record.get("s", "?"), record["rule"], f"{record['life']}: {record['what']}")

    # -- while it goes on --------------------------------------------------------------------------------------------

    def look_in(self, dice: random.Random, storage: JsonFileStorage) -> None:
        """One session as it is now, held against what is known of it; now and then, whether its files are sound."""
        session_id = dice.choice(SESSIONS)
        start = os.stat(self.log_path).st_size
        session = storage.load_session(session_id)
        end = os.stat(self.log_path).st_size + 1  # no record marks this moment: whoever begins at this length may be earlier
        self.follow()
        self.counts["looks"] += 1
        if session is None:
            self.order[session_id].absent(start, end, "the judge")
            return
        self.order[session_id].shown(session.birth, session.revision, start, end, what_is_seen(session), "the judge")
        self.facts[session_id].check(session, start, end)
        if dice.random() < 0.2:
            self._check_files(storage, session_id, session.birth)

    def _check_files(self, storage: JsonFileStorage, session_id: str, birth: str) -> None:
        start, lines = os.stat(self.log_path).st_size, self._usage_lines(session_id)
        end, after = os.stat(self.log_path).st_size, storage.load_session(session_id)
        self.follow()
        if after is not None and after.birth == birth:  # else they may be another life's
            self._check_usage(session_id, birth, lines, start, end)
        try:
            for found in storage.check(session_id):
                if found.severity == "damage":
                    self.note(session_id, "damage", f"while others write: {found}")
        except SessionNotFound:
            pass

    # -- when all are dead -------------------------------------------------------------------------------------------

    def look_at_everything(self) -> None:
        """All lives are over, and the log says so."""
        self.follow()
        storage = JsonFileStorage(self.root)
        for found in storage.check():
            if found.severity == "damage":
                self.note(found.session_id or "?", "damage", str(found))
            self.counts[found.kind] += 1
        for session_id in SESSIONS:
            self._look_at(session_id, storage)
        self._go_on()

    def _look_at(self, session_id: str, storage: JsonFileStorage) -> None:
        now = os.stat(self.log_path).st_size
        session = storage.load_session(session_id)
        order = self.order[session_id]
        if session is None:
            order.absent(now, now, "the judge, at the end,")
            return
        order.shown(session.birth, session.revision, now, now, what_is_seen(session), "the judge, at the end,")
        self.facts[session_id].check(session, now, now)
        self.counts["messages"] += len(session.messages)
        lines = self._usage_lines(session_id)
        self.counts["usage lines"] += sum(map(bool, lines))
        self._check_usage(session_id, session.birth, lines, now, now)
        self._check_tails(session_id)

    def _usage_lines(self, session_id: str) -> list[bytes]:
        try:
            return Path(usage_in(Layout(self.root).place(session_id).folder)).read_bytes().split(b"\n")
        except FileNotFoundError:
            return []

    def _check_usage(self, session_id: str, birth: str, lines: list[bytes], start: int, end: int) -> None:
        """Each record is a whole line; what is not one is the torn beginning of a record that nobody acknowledged."""
        tried = self.facts[session_id].usage
        there, torn = self._read_usage(session_id, lines)
        if torn > sum(op.state in ("unknown", "open") and op.start < end for op in tried.values()):
            self.note(session_id, "usage", f"{torn} torn lines, more than were left in doubt")
        for token, count in there.items():
            if count > 1 or token not in tried or not tried[token].may_be_there:
                self.note(session_id, "usage", f"{token} is there {count} times")
        known = self.order[session_id].births[birth].first_end
        for token, op in tried.items():
            if op.is_acked_by(start) and op.start >= known and token not in there:
                self.note(session_id, "lost", f"usage record {token} was acknowledged and is not there")

    def _read_usage(self, session_id: str, lines: list[bytes]) -> tuple[Counter[str], int]:
        there: Counter[str] = Counter()
        torn = 0
        for line in filter(None, lines):
            try:
                there[orjson.loads(line)["token"]] += 1
            except ValueError:
                torn += 1
                if not b'{"token":"w'.startswith(line[:11]):
                    self.note(session_id, "usage", f"a line that nobody wrote: {line[:60]!r}")
        return there, torn

    def _check_tails(self, session_id: str) -> None:
        """What was cut off belongs to nobody to whom it was promised."""
        for path in Path(quarantine_in(Layout(self.root).place(session_id).folder)).glob("*.tail"):
            self.counts["tails kept"] += 1
            for op in re.findall(rb'"op":"([^"]+)"', path.read_bytes()):
                if op.decode() in self.acked_ids:
                    self.note(session_id, "lost", f"{path.name} was cut off and holds {op.decode()}, acknowledged")

    def _go_on(self) -> None:
        """A store that survived takes another change, and another opening."""
        with SessionRepository.open(self.root) as repo:
            for session_id in ROOMS:
                session = repo.load_or_create(session_id)
                session.add_message(Message.user("afterwards"))
                repo.save(session)
        with SessionRepository.open(self.root) as repo:
            for session_id in ROOMS:
                session = repo.try_load(session_id)
                if session is None or session.messages[-1].content != "afterwards":
                    self.note(session_id, "lost", "what was said afterwards")

    def verdict(self) -> dict[str, Any]:
        return {"counts": {**self.counts, "torn records": self.log.torn}, "wrong": self.wrong}


def sit(root: str, log: str, seed: int, tell: Callable[[dict[str, Any]], None], is_over: Callable[[], bool]) -> None:
    """The judge's own process: `tell` a verdict every now and then, and the last one when the run `is_over`."""
    judge, dice, storage = Judge(root, log), random.Random(f"judge {seed}"), JsonFileStorage(root)
    rounds = 0
    while not is_over():
        judge.follow()
        judge.look_in(dice, storage)
        rounds += 1
        time.sleep(0.004)  # two cores are enough for everybody: the judge must not take one of them
        if judge.wrong or rounds % 25 == 0:
            tell(judge.verdict())
    judge.look_at_everything()
    tell({**judge.verdict(), "final": True})
