"""Storages whose sessions expire in a wrong way; see `mutants`."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

from bamboo_sessions import MemoryStorage, SessionNotFound
from bamboo_sessions.testing import Power
from tests.conformance.mutants import RECORDS, Around, wrong


class AroundExpiring(Around):
    """A wrong memory storage that is given a time to live."""

    def open_expiring(self, place, ttl, clock):
        return self.made(ttl=ttl, clock=clock)


def expiring(**methods):
    return AroundExpiring(wrong(**methods), RECORDS | {Power.EXPIRY})


def only_what_is_shown(right, self, session_id, known=None):
    return right(session_id, known) if MemoryStorage.exists(self, session_id) else None


def commit_without_a_new_time(right, self, commit):
    """The session stays as old as it was."""
    before = self._kept.get(commit.session_id)
    active = before and before.active
    stamp = right(commit)
    self._kept[commit.session_id].active = active or self._kept[commit.session_id].active
    return stamp


def touch_that_commits(right, self, session_id):
    right(session_id)
    self._kept[session_id].head["revision"] += 1


def touch_for_anybody(right, self, session_id):
    if session_id in self._kept:
        right(session_id)


def touch_to_the_letter(right, self, session_id):
    """Also where the clock has jumped back."""
    right(session_id)
    self._kept[session_id].active = self.clock.now()


def touch_after_its_answer(right, self, session_id):
    if session_id not in self._kept:
        raise SessionNotFound(session_id)
    threading.Timer(0.005, lambda: session_id in self._kept and right(session_id)).start()


def left_whatever_the_head(right, self, session_id):
    kept = self._kept.get(session_id)
    return None if kept is None else self.ttl - (self.clock.now() - kept.active)


def left_as_once_seen(right, self, session_id):
    """Once expired, expired for good."""
    seen, left = vars(self).setdefault("over", set()), right(session_id)
    if left is not None and left <= timedelta(0):
        seen.add(session_id)
    return timedelta(0) if session_id in seen else left


def purge_without_a_look(right, self, session_id):
    with self._lock:
        return self._bury(session_id, expired=True)


def purge_that_deletes(right, self, session_id):
    left = self.time_left(session_id)
    return left is not None and left <= timedelta(0) and self.delete_record(session_id)


def purge_that_looks_first(right, self, session_id):
    """And removes a moment later, whatever happened in between."""
    left = self.time_left(session_id)
    if left is None or left > timedelta(0):
        return False
    time.sleep(0.002)
    return purge_without_a_look(right, self, session_id)


def heads_of_all(right, self):
    return iter([(kept.head, len(kept.messages)) for kept in self._kept.values()])
