"""When a cache calls its hook: loads that many callers share, saves, and the way of an unsaved value out of the cache.

With a hook, a value that it has not saved is *unsaved*, and no room is made at its expense: it leaves when `save` and
`on_evict` both went well, by the hand of whoever needed the room and while that one holds no lock of the cache. An insert
therefore places first and settles afterwards, so that the size may exceed `max_sessions` for a moment; where the hook
fails, for longer, by a tenth of it (and by one at least). Beyond that an insert tries once to make room first. Where that
fails too, a clean value is not cached and an unsaved one is refused with `CapacityExceeded`. An insert that is made within
a change or a call of the hook does no I/O at all; what it leaves undone is done by the next call.

An unsaved value whose time is over is held and not shown. A load of it saves it first, and then asks the hook.

Calls of the hook hold the turn of their key, a `load` holds nothing, and none of them the cache's lock.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Generic

import structlog

from bamboo_sessions._lru import Lru
from bamboo_sessions.cache_entries import CacheConfig, Ticket, V, isolated
from bamboo_sessions.cache_hooks import NoPersistence, PersistenceHook
from bamboo_sessions.cache_turns import KeyTurns
from bamboo_sessions.clock import Clock
from bamboo_sessions.errors import CapacityExceeded

UNSAVED: Final = "unsaved"  # the cache's own token: entries are compared by identity, so one word does for all
_log = structlog.get_logger("bamboo_sessions")


class Load(Ticket, Generic[V]):
    """One call of the hook that many wait for; void, it takes in nobody else, since what it reads may be too old."""

    __slots__ = ("done", "error", "settled", "value")

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.done, self.settled = threading.Event(), False
        self.value: V | None = None
        self.error: Exception | None = None


class Hooked(Lru[V]):
    """An `Lru` with a hook behind it, or with none: then nothing here does anything."""

    def __init__(self, config: CacheConfig, hook: PersistenceHook[V], clock: Clock) -> None:
        kind: type[object] = type(hook)  # a subclass that overrides some of it is a hook like any other
        self._hook, self._persists = hook, kind is not NoPersistence
        tenth = max(1, config.max_sessions // 10)
        super().__init__(config, clock, config.max_sessions + tenth if self._persists else None)
        self._turns = KeyTurns()
        self._leaving: set[str] = set()  # what is just being saved in order to leave, and so is in nobody's way
        self._loads: dict[str, Load[V]] = {}  # guarded by _lock, as are the counters
        self._loaded = self._load_failures = self._hook_failures = 0

    # -- loading -------------------------------------------------------------------------------------------------

    def get_or_load(self, key: str, context_id: str = "") -> V | None:
        """The cached value, or what the hook has; None where that has none.

        However many callers miss a key at once, the hook is asked once, and callers of other keys do not wait. What it
        raises reaches all who waited for that answer. A value that was replaced or removed while it was being read is given
        to those who asked before that, and is not cached.
        """
        value = self.get(key)
        return value if value is not None or not self._persists else self._load(key, context_id)

    def _load(self, key: str, context_id: str) -> V | None:
        with self._turns.noted(key):  # it may wait, and the hook is called
            while True:
                found, load, first = self._join(key)
                if load is None:
                    return found
                if first:
                    break
                load.done.wait()
                if load.error is not None:
                    raise load.error
                if load.settled:
                    return None if load.value is None else isolated(load.value)
                # Whoever was reading was interrupted, which is no answer: another one reads.
            self._read(load, context_id)
        self._settle()
        return None if load.value is None else isolated(load.value)

    def _join(self, key: str) -> tuple[V | None, Load[V] | None, bool]:
        """What somebody cached meanwhile, or the load to wait for, or one of our own to be done."""
        now = self._now()
        with self._lock:
            entry, _gone = self._live(key, now)
            if entry is None or self._is_over(entry, now):
                load = self._loads.get(key)
                first = load is None or load.void
                if load is None or first:
                    load = self._loads[key] = Load(key)
                    self._tickets.setdefault(key, []).append(load)
                return None, load, first
            entry.deadline, entry.tick = self._deadline(now), next(self._ticks)
            self._placed += 1  # the miss was counted: this is no hit besides
        return entry.copied(), None, False

    def _read(self, load: Load[V], context_id: str) -> None:
        try:
            with self._lock:
                self._loaded += 1
            self._save_expired(load.key)
            load.value = self._hook.load(load.key, context_id)
            if load.value is not None:
                self.fill(load, load.value, context_id)
            load.settled = True
        except Exception as error:
            load.error = error
            with self._lock:
                self._load_failures += 1
            raise
        finally:
            self.release(load)
            with self._lock:
                if self._loads.get(load.key) is load:
                    del self._loads[load.key]
            load.done.set()

    def _save_expired(self, key: str) -> None:
        """What is over its time is not shown, and what of it is unsaved must be in the hook before that is asked."""
        entry = self._entries.get(key)
        if entry is not None and self._is_over(entry, self._now()):
            with self._turns.turn_within(key):
                self._leave(key)

    # -- saving --------------------------------------------------------------------------------------------------

    def save(self, key: str) -> bool:
        """Give the cached value to the hook, also one that counts as saved: it may have been changed behind our back.

        False where nothing is cached (what was evicted was saved then), or there is no hook. Raises what the hook raises.
        """
        if not self._persists:
            return False
        with self._turns.turn(key):
            entry = self._entries.get(key)
            if entry is None:
                return False
            self._hook.save(key, entry.context_id, entry.value)
            with self._lock:
                if self._entries.get(key) is entry:
                    entry.unsaved = None
                    self._unmark(key)
                    _gone = self._make_room(self._capacity)
        self._settle()
        return True

    def flush(self) -> None:
        """Save everything unsaved; raises the first error after trying all. Without a hook that is the owner's business."""
        errors: list[Exception] = []
        for key in self.unsaved_ids() if self._persists else ():
            try:
                self.save(key)
            except Exception as error:  # noqa: BLE001 - whatever a hook raises; the first is raised again
                errors.append(error)
        if errors:
            raise errors[0]

    # -- what evictions leave to the hook: called while this thread holds nothing ----------------------------------

    def _settle(self) -> int:
        """Tell the hook of what left, and save what has to leave: how many did. Leaves off where the hook fails."""
        gone = 0
        if not self._persists or self._turns.within is not None:
            return gone
        if len(self._entries) > self._capacity:  # whoever was in the way, and busy or failing, is so again
            with self._lock:
                _gone = self._make_room(self._capacity)
        while self._left and self._tell_left():
            pass
        while (key := self.overdue()) is not None:
            if self._is_in_the_way(key):
                left = self._evicted(key)
                if left is False:
                    break
                gone += left is True
        return gone

    def _tell_left(self) -> bool:
        """False where somebody is busy with that key: it is told later."""
        try:
            key, context_id = self._left.popleft()
        except IndexError:  # another thread was faster
            return True
        with self._turns.free_turn(key) as mine:
            if not mine:
                self._left.append((key, context_id))
                return False
            with self._guarded(key):
                self._hook.on_evict(key, context_id)
        return True

    def _is_in_the_way(self, key: str) -> bool:
        entry = self._entries.get(key)
        return entry is not None and (len(self._entries) - len(self._leaving) > self._capacity
                                      or self._is_over(entry, self._now()))

    def _evicted(self, key: str) -> bool | None:
        """Whether it left; None: somebody else is busy with it, and it will be come upon again."""
        with self._turns.free_turn(key) as mine:
            if not mine:
                return None
            with self._guarded(key) as well:
                self._leave(key)
                well.append(True)
        return bool(well)

    def _free_one(self, wanted: str) -> None:
        """Make room for one more; raises `CapacityExceeded` where the hook fails. Waits only where others are busy with
        every single one that could leave."""
        for key in self.unsaved_ids() if self._turns.within is None else ():
            left = self._evicted(key)
            if left is not None:
                break
        else:
            left = self._turns.within is None and self._evicted_after_all()
        if not left:
            raise CapacityExceeded(wanted, self._capacity)

    def _evicted_after_all(self) -> bool:
        key = next(iter(self.unsaved_ids()), None)
        if key is None:
            return True  # others have made room
        with self._turns.turn(key), self._guarded(key) as well:
            self._leave(key)
            well.append(True)
        return bool(well)

    def _leave(self, key: str) -> None:
        """Save, say farewell, drop; within a turn. It is shown until then: a load would find the hook's older value."""
        entry = self._entries.get(key)
        if entry is None:
            return
        late = self._is_over(entry, self._now())
        self._leaving.add(key)
        try:
            if entry.unsaved is not None:
                self._hook.save(key, entry.context_id, entry.value)
            self._hook.on_evict(key, entry.context_id)
        finally:
            self._leaving.discard(key)
        with self._lock:
            if self._entries.get(key) is entry:  # else it was replaced meanwhile, and the new one is not saved
                _gone = self._unlink(key)
                self._expirations += late
                self._evictions += not late

    @contextmanager
    def _guarded(self, key: str) -> Iterator[list[bool]]:
        """A failure of the hook concerns nobody who happens to need room: logged, counted, tried again later."""
        try:
            yield []
        except Exception as error:  # noqa: BLE001 - whatever a hook raises
            with self._lock:
                self._hook_failures += 1
            _log.warning("hook failed at an eviction", session_id=key, error=repr(error))

    def _forked(self) -> None:
        super()._forked()
        self._loads, self._turns, self._leaving = {}, KeyTurns(), set()
