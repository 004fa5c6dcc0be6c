"""The file layer with one thing left out each, on switches: an error test that finds none of them would find nothing."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from unittest.mock import patch

from bamboo_sessions._locks import RangeLocks, _set_range, _spelled
from bamboo_sessions.errors import StorageUnavailable
from bamboo_sessions.storages.json_files.graves import Graves
from bamboo_sessions.storages.json_files.storage import JsonFileStorage
from bamboo_sessions.storages.json_files.tips import Tip
from bamboo_sessions.storages.json_files.usage import Usage
from bamboo_sessions.storages.json_files.writer import Writer
from tests.torture.disks import Forgetful


def _one_write(self, fd, data):
    self._files.append(fd, data)
    self._files.sync(fd)


_sync = Forgetful.sync


def _swallowed(self, fd):
    with suppress(OSError):
        _sync(self, fd)


def _synced_again(self, fd):
    try:
        _sync(self, fd)
    except OSError:
        _sync(self, fd)


def _not_undone(self, place, last, error):
    raise StorageUnavailable("commit", session_id=place.session_id, path=place.journal) from error


def _released_late(self, number):
    _set_range(self._fd, _spelled(number).unlock)
    self._used.pop(number, None)


def _not_settled(self, place):
    self._refused.discard(place.session_id)


def _bill_not_undone(self, place, fd, size, error, doubt):
    raise error


def _bare(self, action, place, error, outcome="not applied"):
    raise error


def _removed_unsynced(self, place):
    """Answers that there is nothing, and lets a power cut say otherwise."""


def _switch(owner, name, wrong):
    @contextmanager
    def on():
        with patch.object(owner, name, wrong):
            yield

    return on


def _appended_anyway(self, place, fd, tip, change):
    """Nothing is rewritten and no name is synced, whoever wrote the line before."""
    return _write(self, place, fd, Tip(tip.stamp, own=True), change)


_write = Writer._write

def _purged_in_silence(self, session_id):
    """What cannot be removed is said to be."""
    with suppress(StorageUnavailable):
        _purge(self, session_id)
    return True


_purge = JsonFileStorage.purge_record

MUTANTS = {
    # name: (how to switch it on, a module of points that must find it, those points' arguments)
    "unlooped short write": (_switch(Usage, "_append", _one_write), "errors", ("usage", "SHORT")),
    "undo left out": (_switch(Writer, "_undo", _not_undone), "errors", ("append", "EIO")),
    "bill not undone": (_switch(Usage, "_undo", _bill_not_undone), "errors", ("usage", "EIO")),
    "bare OSError": (_switch(JsonFileStorage, "_fail", _bare), "errors", ("append", "EMFILE")),
    "unlock may fail": (_switch(RangeLocks, "release", _released_late), "errors", ("append", "ENOLCK")),
    "purge that never fails": (_switch(JsonFileStorage, "purge_record", _purged_in_silence), "errors", ("expire", "ENOLCK")),
    "sync error swallowed": (_switch(Forgetful, "sync", _swallowed), "forgetful", ("append",)),
    "sync tried again": (_switch(Forgetful, "sync", _synced_again), "forgetful", ("append",)),
    "retry told from a line that was never synced": (_switch(Writer, "settle", _not_settled), "forgetful", ("append",)),
    "appends behind what was never synced": (_switch(Writer, "_write", _appended_anyway), "forgetful", ("fold",)),
    "removal not confirmed": (_switch(Graves, "confirm", _removed_unsynced), "forgetful", ("delete",)),
}
