"""`usage.jsonl`: token usage as a runtime reports it, one line of JSON after another, beside the session it belongs to."""

from __future__ import annotations

import errno

from bamboo_sessions._files import APPEND, Files
from bamboo_sessions.storages.json_files.layout import Place, usage_in


class Usage:
    """Appends to the usage logs of a store. The caller holds the log's lock; the session's is not needed."""

    def __init__(self, files: Files, mode: int) -> None:
        self._files, self._mode = files, mode

    def append(self, place: Place, line: bytes) -> None:
        """Durable on return. Never makes the session's folder."""
        fd = self._files.open(usage_in(place.folder), APPEND, self._mode)
        try:
            size = self._files.fstat(fd).st_size
            if not size and self._mode & 0o077:
                self._files.set_mode(fd, self._mode)
            self._append(fd, size, line)
        finally:
            self._files.close(fd)
        if not size:
            self._files.sync_dir(place.folder)

    def _append(self, fd: int, size: int, line: bytes) -> None:
        """A line that a crash left unfinished is ended first and kept: it may be all there is of a bill."""
        torn = size > 0 and self._files.read_at(fd, 1, size - 1) != b"\n"
        data = b"\n" + line + b"\n" if torn else line + b"\n"
        try:
            if self._files.append(fd, data) != len(data):
                raise OSError(errno.ENOSPC, "the line was written in part")
            self._files.sync(fd)
        except BaseException:
            self._files.truncate(fd, size)
            raise
