"""From a path or URL to a storage; a backend is imported only when it is asked for."""

from __future__ import annotations

from os import PathLike, fspath
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from bamboo_sessions.clock import Clock
from bamboo_sessions.errors import InvalidValue
from bamboo_sessions.storages.protocol import Storage

_DATABASES: Final = ("sqlite", "postgresql", "postgres", "mariadb", "mysql")  # the last two are refused there, with the reason


def open_storage(where: str | PathLike[str], *, clock: Clock, **options: Any) -> Storage:
    """A path or `file://…`: JSON files in that folder (`options` as in `JsonFileStorage`); `memory://`: this process;
    `sqlite:///…`, `postgresql://…`: a database (`options` as in `SqlStorage`).

    Raises `InvalidValue` for a scheme that is not there, or not yet; `ImportError` where an extra is missing.
    """
    text = fspath(where)
    scheme = urlsplit(text).scheme if "://" in text else ""
    if scheme == "memory":
        from bamboo_sessions.storages.memory import MemoryStorage  # noqa: PLC0415 - only what is asked for

        return MemoryStorage(clock=clock, **options)
    if scheme.partition("+")[0] in _DATABASES:
        from bamboo_sessions.storages.sql import SqlStorage  # noqa: PLC0415 - an extra

        return SqlStorage(text, clock=clock, **options)
    if scheme not in ("", "file"):
        raise InvalidValue("storage URL", f"{scheme}:// is not there yet; use a path, file:///…, memory://, sqlite:///… or "
                           "postgresql://…")
    from bamboo_sessions.storages.json_files import JsonFileStorage  # noqa: PLC0415 - only what is asked for

    return JsonFileStorage(_path(text) if scheme else text, clock=clock, **options)


def _path(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise InvalidValue("storage URL", f"file:///path is needed, not {url!r}")
    return unquote(parts.path)
