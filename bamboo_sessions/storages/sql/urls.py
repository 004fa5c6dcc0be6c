"""What a URL says, and how much of it may be shown."""

from __future__ import annotations

import re
from typing import Final

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from bamboo_sessions.errors import InvalidValue
from bamboo_sessions.storages.sql.settings import SETTINGS

_SEVERAL: Final = re.compile(r"(postgres[^:/?#]*://(?:[^@/?#]*@)?)([^@/?#]*,[^@/?#]*)(/[^?#]*)?(?:\?(.*))?", re.DOTALL)
_SECRET: Final = re.compile("password|secret|_key", re.IGNORECASE)
"""In the names of what libpq takes behind the question mark."""


def read_url(where: str | URL) -> URL:
    """The URL with the driver that is used here; raises `InvalidValue` for a database that is not tried."""
    try:
        url = make_url(_plain(where) if isinstance(where, str) else where)
    except (ArgumentError, ValueError) as error:
        raise InvalidValue("storage URL", "not one that SQLAlchemy understands") from error  # which may hold a password
    name = SETTINGS.get(url.drivername)
    if name is None:
        raise InvalidValue("storage URL", refusal(url.drivername))
    return name.checked(url.set(drivername=name.driver))


def _plain(where: str) -> str:
    """Several hosts stand in libpq's URLs side by side, and in SQLAlchemy's behind the question mark."""
    if found := _SEVERAL.fullmatch(where):
        begin, hosts, rest, query = found.groups()
        said = "&".join([*(f"host={host}" for host in hosts.split(",")), *([query] if query else [])])
        where = f"{begin}{rest or '/'}?{said}"
    return "postgresql" + where[len("postgres"):] if where.startswith("postgres://") else where


def refusal(driver: str) -> str:
    """Why a database is not one for sessions."""
    if driver.partition("+")[0] in ("mariadb", "mysql"):
        return (f"{driver}:// cannot keep sessions: they would be cut off at the server's max_allowed_packet (see the how-to about "
                "databases); use postgresql://… or sqlite:///…")
    return f"{driver}:// is not tried; there are {', '.join(sorted(SETTINGS))}"


def shown(url: URL) -> str:
    """For errors and logs: without a password, also where that stands behind the question mark."""
    return url.difference_update_query([name for name in url.query if _SECRET.search(name)]).render_as_string(hide_password=True)
