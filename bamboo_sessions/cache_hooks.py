"""Where a cache keeps what it holds: the hook that it loads from and saves to, called while it holds no lock of its own."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

V = TypeVar("V")


class PersistenceHook(Protocol[V]):
    """Somebody's store behind a `SessionCache`, in four calls, made on the threads of those who use the cache.

    `save`, `delete` and `on_evict` of one id never run at the same time; a `load` may run beside them, and what it read
    too early is not cached. A hook may `get`, `peek` and `insert` into the cache that called it; what waits for a session
    (`update`, `with_mut`, `save`, `remove`, a load) raises `RuntimeError` there. What a hook raises reaches the caller of
    `get_or_load`, `save`, `flush` and `remove` as it is.
    """

    def load(self, session_id: str, context_id: str) -> V | None:
        """The value, or None where there is none; raise where that cannot be told."""

    def save(self, session_id: str, context_id: str, value: V) -> object:
        """Keep the value, which is the cache's own: not to be modified. It counts as saved when this returns."""

    def delete(self, session_id: str, context_id: str) -> object:
        """Forget it; nothing where it is not there."""

    def on_evict(self, session_id: str, context_id: str) -> object:
        """It leaves the cache for want of room or because its time is over.

        The last chance for unsaved changes: they were just given to `save`, and `peek` still shows them unless their time
        is over. If this raises, they stay in the cache and are saved again later. Of an entry without any it is said
        afterwards, and what it raises is logged.
        """


class NoPersistence(Generic[V]):
    """Nothing is kept anywhere else, and nothing is unsaved: what is evicted is gone."""

    def load(self, session_id: str, context_id: str) -> V | None:
        """None: there is nothing behind the cache."""
        return None

    def save(self, session_id: str, context_id: str, value: V) -> None:
        """Nothing to do."""

    def delete(self, session_id: str, context_id: str) -> None:
        """Nothing to do."""

    def on_evict(self, session_id: str, context_id: str) -> None:
        """Nothing to do: what leaves is gone."""
