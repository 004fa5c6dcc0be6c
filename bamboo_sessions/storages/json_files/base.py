"""A store's folder, opened: where each session has its place, and what an error of the file system means to a caller."""

from __future__ import annotations

import os
from functools import lru_cache
from os import PathLike
from typing import Never

import structlog

from bamboo_sessions._files import Files
from bamboo_sessions.clock import Clock
from bamboo_sessions.errors import CorruptSession, Outcome, StorageUnavailable
from bamboo_sessions.ids import check_session_id
from bamboo_sessions.models import Session
from bamboo_sessions.storages.json_files.layout import Layout, Place
from bamboo_sessions.storages.json_files.mounts import warn_of_shared
from bamboo_sessions.storages.json_files.reader import Damaged
from bamboo_sessions.storages.json_files.store import make_folders, open_store, sweep
from bamboo_sessions.storages.json_files.writer import folder_mode
from bamboo_sessions.storages.records import RecordBacked

_log = structlog.get_logger(__name__)


class Folder(RecordBacked):
    """The folder that a storage is in."""

    def __init__(self, root: str | PathLike[str], durability: str, mode: int, clock: Clock, files: Files) -> None:
        self.clock = clock
        self.durability = durability
        self._mode = mode
        self._files = files if durability == "full" else files.without_syncs()
        self._layout = Layout(os.path.abspath(root))
        self._place = lru_cache(maxsize=4096)(self._place_of)
        self._open()

    def _open(self) -> None:
        try:
            self._store_id = open_store(self._files, self._layout, self._mode, folder_mode(self._mode))
            if os.access(self._layout.root, os.W_OK):
                make_folders(self._files, self._layout, folder_mode(self._mode))
        except OSError as error:
            self._fail("open", None, error)
        warn_of_shared(self._layout.root)
        sweep(self._files, self._layout)

    def _place_of(self, session_id: str) -> Place:
        return self._layout.place(check_session_id(session_id))

    @property
    def name(self) -> str:
        return "json_files"

    @property
    def store_id(self) -> str:
        return self._store_id

    @property
    def root(self) -> str:
        """The store's folder, as an absolute path."""
        return self._layout.root

    def __repr__(self) -> str:
        return f"JsonFileStorage({self.root!r})"

    # -- errors --------------------------------------------------------------------------------------------------

    def _corrupt(self, place: Place, damage: Damaged) -> Never:
        raise CorruptSession(place.session_id, path=damage.path, offset=damage.offset, reason=damage.reason,
                             last_good=self._last_good(damage), mendable=True) from damage

    def _last_good(self, damage: Damaged) -> Session | None:
        """What can still be read is a bonus: failing to build it must not hide where the damage is."""
        try:
            return None if damage.good is None else self._session_of(damage.good)
        except Exception as error:  # noqa: BLE001 - see above
            _log.warning("last good state not readable", path=damage.path, error=str(error))
            return None

    def _fail(self, action: str, place: Place | None, error: OSError, outcome: Outcome = "not applied") -> Never:
        path = error.filename or (self.root if place is None else place.folder)
        raise StorageUnavailable(action, session_id=None if place is None else place.session_id, path=os.fsdecode(path),
                                 outcome=outcome, reason=error.strerror or str(error)) from error
