"""Where sessions are kept. `protocol` is the contract, every other file one way to fulfil it."""

from bamboo_sessions.storages.protocol import RecordStorage, SessionLocks, Storage, UsageLog

__all__ = ["RecordStorage", "SessionLocks", "Storage", "UsageLog"]
