"""What an error of a connection can mean, beside that a statement was refused."""

from __future__ import annotations

from bamboo_sessions.errors import StorageUnavailable


class ConnectionLost(StorageUnavailable):
    """The connection broke, or gave no answer in time; what was under way may have been carried out."""


class ReadOnlyServer(StorageUnavailable):
    """The server takes no changes: a replica that nobody promoted, or one that was the primary. Nothing was applied."""


def said(error: BaseException) -> str:
    """The driver's own words; SQLAlchemy adds links and statements to them."""
    own = getattr(error, "orig", None) or error
    return f"{type(own).__name__}: {str(own).strip()}"
