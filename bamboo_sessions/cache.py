"""A concurrent cache of sessions, or of anything else, with an optional place behind it where the values are kept.

How entries are found, ordered and dropped is in `_lru`: a hit takes no lock, and nothing there waits for a disk. When the
hook is called, and what happens where it fails, is in `cache_saving`. This is the face: what people call, and changes that
exclude each other.

Lock order: a turn and a body of one key (`cache_turns`), then the cache's own lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Generic, Self

from bamboo_sessions.cache_cleanup import Cleaner
from bamboo_sessions.cache_entries import (
    DROP,
    KEEP,
    CacheConfig,
    Cached,
    CacheEntry,
    CacheStats,
    Held,
    Put,
    Snapshot,
    Ticket,
    V,
    Verdict,
    isolated,
)
from bamboo_sessions.cache_hooks import NoPersistence, PersistenceHook
from bamboo_sessions.cache_saving import UNSAVED, Hooked
from bamboo_sessions.clock import SYSTEM_CLOCK, Clock
from bamboo_sessions.errors import SessionNotFound

__all__ = ["DROP", "KEEP", "CacheConfig", "CacheEntry", "CacheStats", "Cached", "NoPersistence", "PersistenceHook", "Put",
           "SessionCache", "Snapshot", "Ticket", "Verdict"]



class _Change(Generic[V]):
    """A change under way: the entry that it began with, and the value to be."""

    __slots__ = ("entry", "ticket", "value")

    def __init__(self, entry: Held[V], ticket: Ticket) -> None:
        self.entry, self.ticket, self.value = entry, ticket, entry.copied()


class SessionCache(Hooked[V]):
    """At most `max_sessions` values by key; with `ttl`, each for that long after its last access.

    `SessionCache(1000, timedelta(hours=1))`, or with a `CacheConfig` in place of both. A hit takes no lock and waits for
    nobody. Values that have a `snapshot()` are copied on their way in and out; others are handed through as they are.
    """

    def __init__(self, max_sessions: int | CacheConfig = 10_000, ttl: timedelta | None = None,
                 hook: PersistenceHook[V] | None = None, *, clock: Clock = SYSTEM_CLOCK) -> None:
        if isinstance(max_sessions, CacheConfig):
            if ttl is not None:
                raise ValueError("a CacheConfig says the ttl too: give one of them")
            config = max_sessions
        else:
            config = CacheConfig(max_sessions, ttl)
        super().__init__(config, NoPersistence[V]() if hook is None else hook, clock)
        self._cleaner: Cleaner | None = None

    @classmethod
    def from_config(cls, config: CacheConfig, hook: PersistenceHook[V] | None = None, *,
                    clock: Clock = SYSTEM_CLOCK) -> Self:
        """The same as `SessionCache(config, hook=hook, clock=clock)`."""
        return cls(config, hook=hook, clock=clock)

    # -- looking on ----------------------------------------------------------------------------------------------

    def peek(self, key: str) -> V | None:
        """The value, or None; counts neither as use nor as access."""
        entry = self._visible(key)
        return None if entry is None else entry.copied()

    def peek_entry(self, key: str) -> CacheEntry[V] | None:
        """The value with what is known about it, or None; counts neither as use nor as access."""
        entry = self._visible(key)
        return None if entry is None else entry.shown(entry.copied())

    def peek_context_id(self, key: str) -> str | None:
        """The context that the entry was cached for, or None; counts neither as use nor as access."""
        entry = self._visible(key)
        return None if entry is None else entry.context_id

    def contains(self, key: str) -> bool:
        """Whether `get` would find it; counts neither as use nor as access."""
        return self._visible(key) is not None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.contains(key)

    def list_cached(self) -> list[str]:
        """The keys that `get` would find, in no promised order."""
        now = self._now()
        with self._lock:
            return [key for key, entry in self._entries.items() if not self._is_over(entry, now)]

    def for_each(self, look: Callable[[str, V], object]) -> None:
        """`look(key, value)` with each value that `get` would find, in no promised order; neither use nor access.

        No lock is held meanwhile: what comes or goes during the walk may be seen or not.
        """
        for key in self.list_cached():
            entry = self._visible(key)
            if entry is not None:
                look(key, entry.copied())

    # -- inserting and removing ----------------------------------------------------------------------------------

    def insert(self, key: str, value: V, context_id: str = "", *, saved: bool = False) -> bool:
        """Cache the value, whatever is there, an unsaved one included. False: a saved one found no room.

        `saved`: the hook has it already. Waits for a change of the same key (`update`, `with_mut`) to end. Raises
        `CapacityExceeded` where the hook fails to save what is in the way; the value is not cached then.
        """
        entry = self._entry(value, None if saved or self._limit is None else UNSAVED, context_id)
        with self._lock:
            changing = key in self._turns.changing
            if not changing:
                if key in self._tickets:
                    self._void(key)
                placed, _gone = self._place(key, entry)
        if changing:
            with self._turns.between_bodies(key), self._lock:
                placed, _gone = self._published(key, entry)
        if self._limit is None:
            return True
        while not placed and entry.unsaved is not None:
            self._free_one(key)
            with self._lock:
                placed, _gone = self._published(key, entry)
        self._settle()
        return placed

    def _published(self, key: str, entry: Held[V]) -> tuple[bool, list[Held[V]]]:
        if key in self._tickets:
            self._void(key)
        return self._place(key, entry)

    def remove(self, key: str, context_id: str | None = None) -> bool:
        """Remove it from the hook, then drop the entry, an unsaved one too: the caller names it. True: it was cached.

        `context_id`: for what is not cached. What the hook raises reaches the caller, and nothing has changed here then.
        """
        if not self._persists:
            return self.invalidate(key)
        with self._turns.turn(key):
            with self._lock:
                self._void(key, gone=True)
                entry = self._entries.get(key)
            self._hook.delete(key, entry.context_id if entry is not None else context_id or "")
            with self._lock:
                self._void(key, gone=True)  # of loads that began since, and may have read what was not deleted yet
                now = self._entries.get(key)
                # An insert does not wait for the hook: one that came meanwhile is newer than this removal.
                if now is entry or (now is not None and now.unsaved is None):
                    _gone = self._unlink(key)
        return entry is not None and not self._is_over(entry, self._now())

    def invalidate(self, key: str) -> bool:
        """Drop the entry from this cache and from nowhere else, an unsaved one too. True where there was one."""
        if key in self._turns.changing:
            with self._turns.between_bodies(key):
                return self._dropped(key)
        return self._dropped(key)

    # -- changing ------------------------------------------------------------------------------------------------

    @contextmanager
    def with_ref(self, key: str) -> Iterator[V]:
        """`with cache.with_ref(key) as value:` the cached value itself, to read only; nobody changes it meanwhile.

        Counts as use. Raises `SessionNotFound` where `get` would find nothing, and `LockTimeout`. As in `with_mut`, the body
        should be short.
        """
        now = self._now()
        with self._turns.body(key):
            with self._lock:
                entry, _gone = self._used(key, now)
            if entry is None:
                raise SessionNotFound(key)
            yield entry.value

    @contextmanager
    def with_mut(self, key: str) -> Iterator[V]:
        """`with cache.with_mut(key) as value:` change the value in place; it is cached, as unsaved, when the body ends.

        Others that change, save or insert this key wait meanwhile; readers, and whoever works on other keys, do not. The
        body should be short and do no I/O; in it, anything that would wait for a key raises `RuntimeError`. An exception
        leaves a value with `snapshot` as it was; one that cannot be copied is taken to have changed. Raises
        `SessionNotFound` where `get` would find nothing (`get_or_load` first), and `LockTimeout`.
        """
        with self._changing(key) as change:
            yield change.value

    def update(self, key: str, change: Callable[[V], V | None]) -> V:
        """`change(value)` gives the new value, or None where it changed the one it was given; otherwise like `with_mut`."""
        with self._changing(key) as under_way:
            made = change(under_way.value)
            if made is not None:
                under_way.value = made
        return isolated(under_way.value)

    @contextmanager
    def _changing(self, key: str) -> Iterator[_Change[V]]:
        with self._turns.body(key):
            change = self._begun(key)
            try:
                yield change
            except BaseException:
                if change.entry.copy is None:
                    self._publish(key, change, change.entry.value)
                raise
            else:
                self._publish(key, change, change.value)
            finally:
                self.release(change.ticket)
        self._settle()

    def _begun(self, key: str) -> _Change[V]:
        now, ticket = self._now(), Ticket(key)
        with self._lock:
            entry, _gone = self._used(key, now)
            if entry is None:
                raise SessionNotFound(key)
            self._tickets.setdefault(key, []).append(ticket)
        return _Change(entry, ticket)

    def _publish(self, key: str, change: _Change[V], value: V) -> None:
        """Past the limit if need be: an entry that was evicted during its change comes back with it."""
        entry = self._entry(value, UNSAVED, change.entry.context_id)
        with self._lock:
            held = self._entries.get(key)
            if held is None and change.ticket.void:
                return  # everything was cleared meanwhile, this as well
            if not self._persists:
                entry.unsaved = (held or change.entry).unsaved
            self._void(key)
            _, _gone = self._place(key, entry, forced=True)

    # -- time, and the end ---------------------------------------------------------------------------------------

    def cleanup_expired(self) -> int:
        """Drop what has expired and say how many; unsaved entries are saved first, or stay where that fails."""
        return self._dropped_late() + self._settle()

    def start_cleanup(self, interval: timedelta = timedelta(minutes=1)) -> None:
        """Call `cleanup_expired` every `interval` on a thread of its own, until `close`; again: at another interval.

        The thread keeps neither the process nor the cache alive. A forked child has none until it calls this itself.
        """
        self.stop_cleanup()
        self._cleaner = Cleaner(self, interval, self._clock)

    def stop_cleanup(self) -> None:
        """No pass runs after this; harmless where none was started."""
        cleaner, self._cleaner = self._cleaner, None
        if cleaner is not None:
            cleaner.stop()

    def close(self) -> None:
        """Stop the clean-up and save what is unsaved; raises what the hook raises. The cache can be used all the same."""
        self.stop_cleanup()
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def stats(self) -> CacheStats:
        """All counters, of one moment.

        Hits are the ticks that nobody else drew: counting them one by one would need the lock, or lose some.
        """
        with self._lock:
            hits = next(self._ticks) - self._placed
            self._placed += 1
            size = len(self._entries)
            return CacheStats(size, self._capacity, 0 if self._ttl is None else size, hits, self._misses, self._evictions,
                              self._expirations, self._loaded, self._load_failures, len(self._unsaved), self._hook_failures)

    def _forked(self) -> None:
        super()._forked()
        self._cleaner = None
