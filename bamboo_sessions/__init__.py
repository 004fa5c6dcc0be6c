"""Sessions of AI agents that merge instead of overwriting.

The map, from the ground up; imports only point down:

    words      models/  ids  errors  clock          what everything speaks of
    rules      merge  merge_messages  reconcile     pure decisions
               codec  listing  search
    tools      cache  _locks  _files                know keys and values, no sessions
    storages   storages/                            hold records, apply commits
    policy     locked_store  _holds                 lock, read, merge, commit, publish
    faces      repository  aio                      what people use
    edges      cli  demo/                           programs

Start at `SessionRepository.open`, `load` and `save` in `repository`, follow `save` into `locked_store`, and from there
into `reconcile.plan_save` and `merge.merge`.
"""

from importlib import import_module
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
    SessionExists,
    SessionExpired,
    SessionNotFound,
    StorageError,
    StorageUnavailable,
    UnsupportedFormat,
)
from bamboo_sessions.locked_store import LockedSessionStore, RuntimeSessionPersistence
from bamboo_sessions.manager import SessionManager
from bamboo_sessions.models import (
    Conflict,
    Finding,
    Message,
    PendingQuestion,
    Repair,
    Role,
    SaveResult,
    SearchHit,
    SearchPage,
    Session,
    SessionPage,
    SessionSummary,
    ToolCall,
)
from bamboo_sessions.moving import CopyProblem, CopyReport, copy_sessions
from bamboo_sessions.repository import SessionRepository
from bamboo_sessions.storages.json_files import JsonFileStorage
from bamboo_sessions.storages.layered import LayeredStats, LayeredStorage
from bamboo_sessions.storages.layers_above import LayerStats
from bamboo_sessions.storages.memory import MemoryStorage
from bamboo_sessions.storages.protocol import Storage

if TYPE_CHECKING:
    from bamboo_sessions.aio import AsyncSessionRepository
    from bamboo_sessions.storages.sql import SqlStorage

__all__ = [
    "AsyncSessionRepository",
    "CacheConfig",
    "CacheEntry",
    "CacheStats",
    "CapacityExceeded",
    "Clock",
    "Conflict",
    "CopyProblem",
    "CopyReport",
    "CorruptSession",
    "Finding",
    "InvalidMessage",
    "InvalidSessionId",
    "InvalidValue",
    "JsonFileStorage",
    "JsonLinesPersistence",
    "LayerStats",
    "LayeredStats",
    "LayeredStorage",
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
    "SearchHit",
    "SearchPage",
    "Session",
    "SessionCache",
    "SessionDeleted",
    "SessionError",
    "SessionExists",
    "SessionExpired",
    "SessionManager",
    "SessionNotFound",
    "SessionPage",
    "SessionRepository",
    "SessionSummary",
    "SqlStorage",
    "Storage",
    "StorageError",
    "StorageUnavailable",
    "SystemClock",
    "ToolCall",
    "UnsupportedFormat",
    "copy_sessions",
]


_ON_DEMAND = {"AsyncSessionRepository": "bamboo_sessions.aio", "SqlStorage": "bamboo_sessions.storages.sql"}


def __getattr__(name: str) -> Any:  # Any: as in every module's
    """What needs more than a plain install is imported when it is asked for: who has no event loop need not load anyio."""
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_ON_DEMAND[name]), name)
    except ImportError as error:
        if error.name is None or error.name.startswith(__name__):
            raise
        return _absent(name, error)


def _absent(name: str, error: ImportError) -> type[Storage]:
    """In its place: `from bamboo_sessions import *` must work without the extras, and using one says what to install."""

    def refuse(_class: object, *_args: object, **_options: object) -> object:
        raise ImportError(str(error), name=error.name)

    return type(name, (Storage,), {"__new__": refuse, "__doc__": str(error)})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
