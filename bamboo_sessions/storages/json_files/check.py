"""Checking a store while others write in it: look without a lock, and look again under it before saying anything.

What a lock-free look finds may be a writer's half-written line, a fold between its two renames, or a session that is just
being deleted. So whatever looks wrong is looked at once more while nobody can write, and only what still stands there is a
finding. A healthy session costs two files' reading and no lock. One session is in memory at a time.
"""

from __future__ import annotations

import errno
import os
import stat as stat_bits
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final

import attrs

from bamboo_sessions._files import READ, Files
from bamboo_sessions._json import loads
from bamboo_sessions.errors import LockTimeout, SessionNotFound, StorageError, StorageUnavailable
from bamboo_sessions.models.findings import Finding
from bamboo_sessions.storages.json_files import lines
from bamboo_sessions.storages.json_files.audit import Problem, audit
from bamboo_sessions.storages.json_files.layout import (
    Layout,
    Place,
    decode_id,
    graves_in,
    journal_in,
    quarantine_in,
    shard_of,
    snapshot_in,
    usage_in,
)
from bamboo_sessions.storages.json_files.store import LEFT_ALONE_NS, read_store_id

Progress = Callable[[int, int], object]
"""Told (sessions looked at, sessions there) as a check goes on."""

_ROOT: Final = frozenset({"store.json", "store.json.lock", "locks", "locks.d", "sessions", "new", "trash", "index"})
_FOLDER: Final = frozenset({"session.json", "journal.jsonl", "usage.jsonl", "active", "quarantine"})
_HALF_WRITTEN: Final = frozenset({"session.json.new", "journal.jsonl.new", "deleted.jsonl.new", "store.json.new"})
_FOR_GOOD: Final = frozenset({"quarantined", "unknown-name"})
"""No writer at work looks like these: they need no second look."""


@attrs.frozen(slots=True)
class Locks:
    """How a check comes to be alone with what it looks at again; each waits for a finite time (`LockTimeout`)."""

    session: Callable[[Place], AbstractContextManager[None]]
    beside: Callable[[str, str], AbstractContextManager[None]]
    """By (name, session id): the locks of usage logs and tombstones. Nothing is locked within one."""


class Checker:
    """Looks through one store."""

    def __init__(self, files: Files, layout: Layout, store_id: str, locks: Locks) -> None:
        self._files, self._layout, self._store_id, self._locks = files, layout, store_id, locks

    # -- the store -----------------------------------------------------------------------------------------------

    def everything(self, progress: Progress | None = None) -> Iterator[Finding]:
        """All findings of the store, session by session."""
        yield from self._store_file()
        yield from self._root()
        shards = [os.path.join(self._layout.sessions, name) for name in sorted(self._listed(self._layout.sessions))]
        total = sum(len(self._sessions(shard)) for shard in shards) if progress is not None else 0
        done = 0
        for shard in shards:
            yield from self._shard(shard)
            for name in self._sessions(shard):
                yield from self.session_at(shard, name)
                done += 1
                if progress is not None:
                    progress(done, max(done, total))

    def one(self, session_id: str, place: Place) -> Iterator[Finding]:
        """All findings of one session; raises `SessionNotFound` where there is none."""
        if not self._is_there(place.folder):
            raise SessionNotFound(session_id)
        return self.session_at(place.shard, os.path.basename(place.folder))

    def _store_file(self) -> Iterator[Finding]:
        path = self._layout.store
        try:
            found = read_store_id(self._files, self._layout)
        except FileNotFoundError:
            yield self._of_store(path, "store-damaged", "store.json is missing; restore it from a backup")
        except StorageError as error:
            yield self._of_store(path, "store-damaged", str(error))
        except OSError as error:
            yield self._of_store(path, "store-damaged", f"store.json cannot be read: {error.strerror}")
        else:
            if found != self._store_id:
                yield self._of_store(path, "store-damaged", f"the store id changed from {self._store_id!r} to {found!r} since "
                                     "it was opened: saves of older copies would pass for those of another store")

    def _of_store(self, path: str, kind: str, what: str, *, harmless: bool = False, offset: int = 0) -> Finding:
        return Finding(None, path, offset, kind, what, None, "leftover" if harmless else "damage")

    def _root(self) -> Iterator[Finding]:
        for name in sorted(self._listed(self._layout.root)):
            path = os.path.join(self._layout.root, name)
            if name in _HALF_WRITTEN:
                yield self._of_store(path, "unfinished-write", "a file whose writer died before giving it its name",
                                     harmless=True)
            elif name not in _ROOT:
                yield self._of_store(path, "unknown-name", "nothing of a store has this name", harmless=True)
            elif self._is_link(path):
                yield self._of_store(path, "symlink", "a symbolic link inside the store; none is followed")
        yield from self._aside(self._layout.new, "half-made")
        yield from self._aside(self._layout.trash, "half-removed")

    def _aside(self, folder: str, kind: str) -> Iterator[Finding]:
        """What is being made or removed. Whatever is young may belong to somebody at work."""
        before = self._files.wall_ns() - LEFT_ALONE_NS
        for name in sorted(self._listed(folder)):
            path = os.path.join(folder, name)
            try:
                stat = self._files.stat(path)
            except FileNotFoundError:
                continue
            if max(stat.st_mtime_ns, stat.st_ctime_ns if kind == "half-removed" else 0) < before:
                yield self._of_store(path, kind, "left by a process that died; swept when a store is opened", harmless=True)

    # -- one of its 256 folders ----------------------------------------------------------------------------------

    def _shard(self, shard: str) -> Iterator[Finding]:
        name = os.path.basename(shard)
        if self._is_link(shard):
            yield self._of_store(shard, "symlink", "a symbolic link inside the store; none is followed")
            return
        if not (len(name) == 2 and set(name) <= set("0123456789abcdef") and self._is_folder(shard)):
            yield self._of_store(shard, "unknown-name", "nothing of a store has this name", harmless=True)
            return
        for inner in sorted(self._listed(shard)):
            if "." in inner and inner not in ("deleted.jsonl", *_HALF_WRITTEN):
                yield self._of_store(os.path.join(shard, inner), "unknown-name", "nothing of a store has this name",
                                     harmless=True)
        yield from self._twice(lambda: self._graves(shard), lambda: self._locks.beside(f"deleted/{name}", ""))

    def _sessions(self, shard: str) -> list[str]:
        """No session's name has a dot."""
        if not self._is_folder(shard):
            return []
        return sorted(name for name in self._listed(shard) if "." not in name)

    def _graves(self, shard: str) -> list[Finding]:
        path, found = graves_in(shard), []
        if self._is_there(path + ".new"):
            found.append(self._of_store(path + ".new", "unfinished-write", "a file whose writer died before giving it its name",
                                        harmless=True))
        if self._is_link(path):
            return [*found, self._of_store(path, "symlink", "a symbolic link inside the store; none is followed")]
        try:
            data = self._files.read_whole(path)
        except FileNotFoundError:
            return found
        return [*found, *self._grave_lines(path, data, os.path.basename(shard))]

    def _grave_lines(self, path: str, data: bytes, shard: str) -> Iterator[Finding]:
        """A line that a dying writer left unfinished is never a whole object, and there may be others behind it. A power cut
        may leave the length before the bytes: zeros, or at the end anything at all, but no line break that would end it."""
        begin, tail = 0, _tail(data)
        for line in data.split(b"\n"):
            if lines.checksum(line) >= 0:
                if shard_of(_id_in(line)) != shard:
                    yield self._of_store(path, "wrong-place", f"it names the session {_id_in(line)!r} of another folder",
                                         offset=begin)
            elif begin >= tail or b"\0" in line or (line.startswith(lines.START[: len(line)]) and not _is_json(line)):
                if line:
                    yield self._of_store(path, "torn-line", "an unfinished line, never acknowledged", harmless=True, offset=begin)
            else:
                yield self._of_store(path, "tombstone-damaged", "a tombstone does not agree with its checksum", offset=begin)
            begin += len(line) + 1

    # -- one session ---------------------------------------------------------------------------------------------

    def session_at(self, shard: str, name: str) -> Iterator[Finding]:
        """The findings of the session in this folder; none where it is gone."""
        folder = os.path.join(shard, name)
        place = Place("", 0, shard, folder, snapshot_in(folder), journal_in(folder))
        session_id = decode_id(name) or self._id_inside(place)
        known = attrs.evolve(place, session_id=session_id or "")
        yield from self._twice(lambda: self._session(known), lambda: self._alone_with(known))
        if session_id is not None:
            yield from self._twice(lambda: self._usage(known), lambda: self._locks.beside(f"usage/{session_id}", session_id))

    def _alone_with(self, place: Place) -> AbstractContextManager[None]:
        """A session whose id nobody can tell has no lock either; nobody writes to what cannot be read."""
        home = self._layout.place(place.session_id) if place.session_id else None
        return self._locks.session(home if home is not None else place)

    def _id_inside(self, place: Place) -> str | None:
        """Where the folder's name was cut."""
        try:
            found = loads(self._files.read_whole(place.snapshot).split(b"\n", 1)[0][:-1] + b"}")["head"]["id"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if type(found) is str and found and "\0" not in found else None

    def _session(self, place: Place) -> list[Finding]:
        try:
            names = self._files.listdir(place.folder) if self._is_folder(place.folder) else None
            if names is None:
                return self._no_folder(place)
            found = [*self._names(place, names), *self._quarantine(place, names)]
            problems = [] if any(one.kind == "symlink" for one in found) else audit(place, *self._pair(place))
        except FileNotFoundError:
            if not self._is_there(place.folder):
                return []
            raise
        if not self._is_there(place.folder):  # deleted between two of the looks
            return []
        return [*(_finding(place, problem) for problem in problems), *found]

    def _no_folder(self, place: Place) -> list[Finding]:
        if not self._is_there(place.folder):
            return []
        if self._is_link(place.folder):
            return [_finding(place, Problem(place.folder, 0, "symlink", "a symbolic link inside the store; none is followed"))]
        return [_finding(place, Problem(place.folder, 0, "not-a-folder", "something else stands where a session's folder "
                                        "belongs"))]

    def _names(self, place: Place, names: list[str]) -> Iterator[Finding]:
        for name in sorted(names):
            path = os.path.join(place.folder, name)
            if name in _FOLDER:
                if self._is_link(path):
                    yield _finding(place, Problem(path, 0, "symlink", "a symbolic link inside the store; none is followed"))
            elif name in _HALF_WRITTEN:
                yield _finding(place, Problem(path, 0, "unfinished-write", "a file whose writer died before giving it its name",
                                              severity="leftover"))
            else:
                yield _finding(place, Problem(path, 0, "unknown-name", "nothing of a session has this name",
                                              severity="leftover"))

    def _quarantine(self, place: Place, names: list[str]) -> Iterator[Finding]:
        path = quarantine_in(place.folder)
        if "quarantine" in names and self._is_folder(path):
            kept = len(self._files.listdir(path))
            if kept:
                yield _finding(place, Problem(path, 0, "quarantined", f"{kept} files of what could not be used are kept here",
                                              severity="leftover"))

    def _pair(self, place: Place) -> tuple[bytes | None, bytes | None]:
        """(snapshot, journal), the journal read first, as readers do. What a fold in between makes of them, the second look
        puts right."""
        journal_data = self._read(place.journal)
        return self._read(place.snapshot), journal_data

    def _read(self, path: str) -> bytes | None:
        try:
            fd = self._files.open(path, READ)
        except FileNotFoundError:
            return None
        try:
            return self._files.read_at(fd, self._files.fstat(fd).st_size, 0)
        finally:
            self._files.close(fd)

    def _usage(self, place: Place) -> list[Finding]:
        path = usage_in(place.folder)
        try:
            data = self._files.read_whole(path)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            if error.errno == errno.ELOOP or self._is_link(path):
                return []  # told with the session's files
            raise
        return list(_usage_lines(place, path, data))

    # -- looking -------------------------------------------------------------------------------------------------

    def _twice(self, look: Callable[[], list[Finding]], alone: Callable[[], AbstractContextManager[None]]) -> list[Finding]:
        """What is still there when nobody can be writing."""
        found = self._looked(look)
        if all(one.kind in _FOR_GOOD for one in found):
            return found
        try:
            with alone():
                return self._looked(look)
        except LockTimeout as error:
            return [attrs.evolve(one, kind="unsure", severity="leftover", what=f"{error}; without the lock it seems: {one.what}")
                    for one in found if one.kind not in _FOR_GOOD]
        except StorageUnavailable:  # the lock file cannot be opened: a store that may only be read has no writers here
            return self._looked(look)

    def _looked(self, look: Callable[[], list[Finding]]) -> list[Finding]:
        try:
            return look()
        except OSError as error:
            raise StorageUnavailable("check", path=os.fsdecode(error.filename or self._layout.root),
                                     reason=error.strerror or str(error)) from error

    def _listed(self, folder: str) -> list[str]:
        try:
            return self._files.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _mode(self, path: str) -> int:
        try:
            return self._files.stat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def _is_there(self, path: str) -> bool:
        return self._mode(path) != 0

    def _is_link(self, path: str) -> bool:
        return stat_bits.S_ISLNK(self._mode(path))

    def _is_folder(self, path: str) -> bool:
        return stat_bits.S_ISDIR(self._mode(path))


def _finding(place: Place, problem: Problem) -> Finding:
    return Finding(place.session_id or None, problem.path, problem.offset, problem.kind, problem.what, problem.since,
                   problem.severity)


def _usage_lines(place: Place, path: str, data: bytes) -> Iterator[Finding]:
    begin = 0
    for line in data.split(b"\n"):
        if line and not _is_json(line):
            # There is no checksum that would tell a dead writer's half of a line from damage; it was kept on purpose.
            yield _finding(place, Problem(path, begin, "torn-usage", "a line of token usage is no JSON: not finished by its "
                                          "writer, or damaged", severity="leftover"))
        begin += len(line) + 1


def _tail(data: bytes) -> int:
    """Where that begins which no line break ends, with all that is not valid before it; the length where there is none."""
    if data.endswith(b"\n"):
        return len(data)
    begin = len(data) - len(data.rpartition(b"\n")[2])
    while begin > 0:
        line = data[:begin - 1].rpartition(b"\n")[2]
        if lines.checksum(line) >= 0:
            break
        begin -= len(line) + 1
    return begin


def _is_json(line: bytes) -> bool:
    try:
        loads(line)
    except ValueError:
        return False
    return True


def _id_in(line: bytes) -> str:
    return str(loads(line).get("id"))
