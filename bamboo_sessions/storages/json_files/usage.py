"""`usage.jsonl`: token usage as a runtime reports it, one line of JSON after another, beside the session it belongs to."""

from __future__ import annotations

import errno
from typing import Never

from bamboo_sessions._files import APPEND, Files
from bamboo_sessions.errors import StorageUnavailable
from bamboo_sessions.storages.json_files.layout import Place, usage_in


class Usage:
    """Appends to the usage logs of a store. The caller holds the log's lock; the session's is not needed."""

    def __init__(self, files: Files, mode: int) -> None:
        self._files, self._mode = files, mode
        self._doubtful: set[str] = set()
        """Folders whose log may end in a line that is in the page cache alone: the disk may have zeros in its place, and
        not even its line break, so that the next line has to bring one."""

    def lines(self, place: Place) -> list[bytes]:
        """Those that are whole: what no line break ends somebody may be writing just now, or never came to write."""
        try:
            return [line for line in self._files.read_whole(usage_in(place.folder)).split(b"\n")[:-1] if line]
        except FileNotFoundError:
            return []

    def append(self, place: Place, line: bytes) -> None:
        """One line, or several with line breaks between them. Durable on return. Never makes the session's folder."""
        fd = self._files.open(usage_in(place.folder), APPEND, self._mode)
        try:
            size = self._files.fstat(fd).st_size
            if not size and self._mode & 0o077:
                self._files.set_mode(fd, self._mode)
            doubt = place.folder in self._doubtful
            torn = size > 0 and (doubt or self._files.read_at(fd, 1, size - 1) != b"\n")
            self._doubtful.add(place.folder)
            try:
                self._append(fd, b"\n" + line + b"\n" if torn else line + b"\n")
                if doubt or not size:
                    self._files.sync_dir(place.folder)
            except BaseException as error:  # noqa: BLE001 - an interrupt must not leave a line either; it is raised again
                self._undo(place, fd, size, error, doubt)
            self._doubtful.discard(place.folder)
        finally:
            try:  # noqa: SIM105 - suppress() would take memory, and leave the file open where there is none
                self._files.close(fd)
            except OSError:  # what was synced is stored, and what was undone is not, whatever `close` says
                pass

    def _append(self, fd: int, data: bytes) -> None:
        """`data` begins with the end of a line that a crash left unfinished: it is kept, being all there is of a bill."""
        if self._files.append(fd, data) != len(data):
            raise OSError(errno.ENOSPC, "the line was written in part")
        self._files.sync(fd)

    def _undo(self, place: Place, fd: int, size: int, error: BaseException, doubt: bool) -> Never:
        """A bill carries no operation id: whoever hears "not applied" sends it again, so that has to be true."""
        try:
            self._files.truncate(fd, size)
            self._files.sync(fd)
            if not doubt:
                self._doubtful.discard(place.folder)
        except OSError:
            if isinstance(error, OSError):
                raise StorageUnavailable("append usage", session_id=place.session_id, outcome="unknown", path=place.folder,
                                         reason=error.strerror or str(error)) from error
        raise error
