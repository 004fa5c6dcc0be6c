"""Sessions of AI agents that merge instead of overwriting.

The map, from the ground up; imports only point down:

    words      models/  ids  errors  clock          what everything speaks of
    rules      merge  merge_messages  reconcile     pure decisions
               codec  listing
    tools      cache  _locks  _files                know keys and values, no sessions
    storages   storages/                            hold records, apply commits
    policy     locked_store  _holds                 lock, read, merge, commit, publish
    faces      repository  aio                      what people use
    edges      cli  demo/                           programs

Start at `SessionRepository.open`, `load` and `save` in `repository`, follow `save` into `locked_store`, and from there
into `reconcile.plan_save` and `merge.merge`.
"""

from typing import TYPE_CHECKING, Any

from bamboo_sessions.cache import (
    CacheConfig,
    CacheEntry,
    CacheStats,
    NoPersistence,
    PersistenceHook,
    SessionCache,
)
from bamboo_sessions.cache_lines import JsonLinesPersistence
from bamboo_sessions.clock import Clock, SystemClock
from bamboo_sessions.errors import (
    CapacityExceeded,
    CorruptSession,
    InvalidMessage,
    InvalidSessionId,
    InvalidValue,
    LockTimeout,
    QuestionNotOpen,
    RevisionConflict,
    SessionDeleted,
    SessionError,
    SessionExpired,
    SessionNotFound,
    StorageError,
    StorageUnavailable,
    UnsupportedFormat,
)
from bamboo_sessions.locked_store import LockedSessionStore, RuntimeSessionPersistence
from bamboo_sessions.models import (
    Conflict,
    Finding,
    Message,
    PendingQuestion,
    Repair,
    Role,
    SaveResult,
    Session,
    SessionPage,
    SessionSummary,
    ToolCall,
)
from bamboo_sessions.repository import SessionRepository
from bamboo_sessions.storages.json_files import JsonFileStorage
from bamboo_sessions.storages.memory import MemoryStorage
from bamboo_sessions.storages.protocol import Storage

if TYPE_CHECKING:
    from bamboo_sessions.aio import AsyncSessionRepository

__all__ = [
    "AsyncSessionRepository",
    "CacheConfig",
    "CacheEntry",
    "CacheStats",
    "CapacityExceeded",
    "Clock",
    "Conflict",
    "CorruptSession",
    "Finding",
    "InvalidMessage",
    "InvalidSessionId",
    "InvalidValue",
    "JsonFileStorage",
    "JsonLinesPersistence",
    "LockTimeout",
    "LockedSessionStore",
    "MemoryStorage",
    "Message",
    "NoPersistence",
    "PendingQuestion",
    "PersistenceHook",
    "QuestionNotOpen",
    "Repair",
    "RevisionConflict",
    "Role",
    "RuntimeSessionPersistence",
    "SaveResult",
    "Session",
    "SessionCache",
    "SessionDeleted",
    "SessionError",
    "SessionExpired",
    "SessionNotFound",
    "SessionPage",
    "SessionRepository",
    "SessionSummary",
    "Storage",
    "StorageError",
    "StorageUnavailable",
    "SystemClock",
    "ToolCall",
    "UnsupportedFormat",
]


def __getattr__(name: str) -> Any:  # Any: as in every module's
    """The async face is imported when it is asked for: a program without an event loop need not load anyio."""
    if name != "AsyncSessionRepository":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bamboo_sessions.aio import AsyncSessionRepository  # noqa: PLC0415

    return AsyncSessionRepository


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
