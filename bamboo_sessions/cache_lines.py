"""A hook that keeps turns as JSON Lines: a folder a context, in it a file a session, in that a line a turn.

    root/<context>/<session>.jsonl        names as `_names` encodes them, which are never `=` (here: no context) or `=locks`
    root/<context>/<session>.jsonl.torn   what a writer that died left at the end of it, moved here by the next one
    root/=locks                           excludes processes from each other while one of them writes

A save writes what the value has more than the file. What is in the file and what is to be is compared byte by byte, so a
save that is repeated (after a failure of any kind) adds nothing twice. A value that is no continuation of the file replaces
it as a whole, by a rename, where this object read or wrote the file last; where somebody else did, it is refused: turns
would be lost that nobody here has seen.
"""

# Paths are plain strings, as in all of the file layer.
# ruff: noqa: PTH103, PTH112, PTH118, PTH120
from __future__ import annotations

import hashlib
import json
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike, fspath
from typing import Any, Final, Literal

import attrs
import structlog

from bamboo_sessions._files import APPEND, CHANGE, Files
from bamboo_sessions._locks import HAS_RANGE_LOCKS, FileLocks, KeyedLocks, ProcessLocks, RangeLocks
from bamboo_sessions._names import encode_name
from bamboo_sessions.errors import CorruptSession, InvalidValue, LockTimeout, Outcome, StorageUnavailable
from bamboo_sessions.ids import check_session_id

WAIT: Final = 30.0
SEEN: Final = 20_000  # files of which it is known what this object read or wrote last: more than a cache usually holds
_FOLDER, _FILE = 0o700, 0o600
_NO_NAME: Final = "="
_log = structlog.get_logger("bamboo_sessions")


@attrs.frozen
class _Content:
    """A file taken apart: whole lines, what they say, and the torn rest."""

    lines: bytes = b""
    turns: tuple[Any, ...] = ()
    torn: bytes = b""
    exists: bool = False

    @property
    def mark(self) -> tuple[int, int]:
        return len(self.lines), zlib.crc32(self.lines)


class JsonLinesPersistence:
    """A `PersistenceHook[list[Any]]` below `root`, for several processes; a turn is anything that JSON can carry.

    `durability="full"`: what was saved survives a power cut; "process": a crash of the process only. Raises
    `StorageUnavailable`, `LockTimeout`, and `InvalidValue` for what JSON cannot carry; `CorruptSession` for a damaged line
    that has whole ones behind it.
    """

    def __init__(self, root: str | PathLike[str], *, durability: Literal["full", "process"] = "full",
                 files: Files | None = None) -> None:
        if durability not in ("full", "process"):
            raise ValueError(f"durability is 'full' or 'process', not {durability!r}")
        files = Files() if files is None else files
        self.root = fspath(root)
        self._files = files if durability == "full" else files.without_syncs()
        self._here: KeyedLocks[str] = KeyedLocks()
        locks = os.path.join(self.root, "=locks")
        self._across: ProcessLocks = RangeLocks(locks, _FILE) if HAS_RANGE_LOCKS else FileLocks(locks + ".d", _FILE)
        self._seen: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._doubtful: set[str] = set()  # a write or sync of them failed: what the disk has is not what a read shows
        self._guard = threading.Lock()  # guards the two above

    # -- the hook ------------------------------------------------------------------------------------------------

    def load(self, session_id: str, context_id: str) -> list[Any] | None:
        """The turns, None where there is no file. Takes no lock: a line that is being written is not there yet."""
        path = self.path(session_id, context_id)
        with self._translated("load", session_id, path):
            found = self._read(session_id, path)
        self._note(path, found.mark)
        return list(found.turns) if found.exists else None

    def save(self, session_id: str, context_id: str, value: list[Any]) -> None:
        """Add the turns that the file has not; durable when this returns."""
        wanted, path = _encoded(value), self.path(session_id, context_id)
        with self._translated("save", session_id, path, "unknown"), self._alone(session_id, path):
            found = self._read(session_id, path)
            continued = wanted.startswith(found.lines)
            if not continued and self._seen.get(path) != found.mark:
                raise StorageUnavailable("save", session_id=session_id, path=path, reason="the file has turns that "
                                         "somebody else wrote, and this value does not go on from them")
            try:
                self._write(path, found, wanted, whole=not continued)
            except BaseException:
                with self._guard:
                    self._doubtful.add(path)
                raise
            self._note(path, _Content(wanted).mark)

    def delete(self, session_id: str, context_id: str) -> None:
        """Remove the session's file, and what was set aside from it."""
        path = self.path(session_id, context_id)
        if not os.path.lexists(os.path.dirname(path)):
            return
        with self._translated("delete", session_id, path, "unknown"), self._alone(session_id, path):
            for name in (path, path + ".torn"):
                with suppress(FileNotFoundError):
                    self._files.unlink(name)
            self._files.sync_dir(os.path.dirname(path))
            with self._guard:
                self._seen.pop(path, None)
                self._doubtful.discard(path)

    def on_evict(self, session_id: str, context_id: str) -> None:
        """Nothing: `save` was there before."""

    def path(self, session_id: str, context_id: str) -> str:
        """Where the session's turns are. Raises `InvalidSessionId` for what cannot be a name of either kind."""
        folder = encode_name(check_session_id(context_id)) if context_id else _NO_NAME
        return os.path.join(self.root, folder, encode_name(check_session_id(session_id)) + ".jsonl")

    # -- files ---------------------------------------------------------------------------------------------------

    def _read(self, session_id: str, path: str) -> _Content:
        try:
            data = self._files.read_whole(path)
        except FileNotFoundError:
            return _Content()
        return _parsed(data, session_id, path)

    def _write(self, path: str, found: _Content, wanted: bytes, *, whole: bool) -> None:
        if found.torn:
            self._set_aside(path, found.torn)
        if whole or not found.exists or path in self._doubtful:
            self._replace(path, wanted)
            return
        fd = self._files.open(path, CHANGE)
        try:
            if found.torn:
                self._files.truncate(fd, len(found.lines))
            if added := wanted[len(found.lines):]:
                self._files.write_all(fd, added, len(found.lines))
            self._files.sync(fd)  # with nothing added too: a dead writer may have written it and not come to its sync
        finally:
            self._files.close(fd)

    def _replace(self, path: str, data: bytes) -> None:
        """Also after a failed sync, which cannot be repeated: the kernel has forgotten which pages it did not write."""
        self._files.write_new(path + ".new", data, _FILE)
        self._files.rename(path + ".new", path)
        self._files.sync_dir(os.path.dirname(path))
        with self._guard:
            self._doubtful.discard(path)

    def _set_aside(self, path: str, torn: bytes) -> None:
        _log.warning("torn end of a file set aside", path=path, size=len(torn))
        fd = self._files.open(path + ".torn", APPEND, _FILE)
        try:
            self._files.write_all(fd, torn + b"\n", self._files.fstat(fd).st_size)
            self._files.sync(fd)
        finally:
            self._files.close(fd)

    def _make_folder(self, folder: str) -> None:
        if os.path.isdir(folder):
            return
        os.makedirs(self.root if HAS_RANGE_LOCKS else os.path.join(self.root, "=locks.d"), _FOLDER, exist_ok=True)
        with suppress(FileExistsError):
            self._files.mkdir(folder, _FOLDER)
        self._files.sync_dir(self.root)

    # -- who, when, and what went wrong --------------------------------------------------------------------------

    @contextmanager
    def _alone(self, session_id: str, path: str) -> Iterator[None]:
        """One writer of a file at a time, among threads and then among processes."""
        self._make_folder(os.path.dirname(path))
        number = int.from_bytes(hashlib.sha256(path[len(self.root):].encode()).digest()[:8], "big") >> 2
        token = self._here.acquire(path, WAIT)
        if token is None:
            raise LockTimeout(session_id, WAIT)
        try:
            if not self._across.acquire(number, WAIT):
                raise LockTimeout(session_id, WAIT)
            try:
                yield
            finally:
                self._across.release(number)
        finally:
            self._here.release(path, token)

    def _note(self, path: str, mark: tuple[int, int]) -> None:
        with self._guard:
            self._seen[path] = mark
            self._seen.move_to_end(path)
            if len(self._seen) > SEEN:
                self._seen.popitem(last=False)

    @contextmanager
    def _translated(self, action: str, session_id: str, path: str, outcome: Outcome = "not applied") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageUnavailable(action, session_id=session_id, path=path, outcome=outcome,
                                     reason=error.strerror or str(error)) from error


def _parsed(data: bytes, session_id: str, path: str) -> _Content:
    """Damage with nothing whole behind it is what a dead writer left; any other damage is not to be written over."""
    turns: list[Any] = []
    end, torn_at = 0, -1
    for line in data.split(b"\n")[:-1]:
        try:
            turn = json.loads(line)
        except ValueError:
            torn_at = end if torn_at < 0 else torn_at
        else:
            if torn_at >= 0:
                raise CorruptSession(session_id, path=path, offset=torn_at, reason="a line that is no JSON, before whole ones")
            turns.append(turn)
        end += len(line) + 1
    whole = end if torn_at < 0 else torn_at
    return _Content(data[:whole], tuple(turns), data[whole:], exists=True)


def _encoded(turns: list[Any]) -> bytes:
    if not isinstance(turns, list | tuple):
        raise InvalidValue("turns", f"a list is needed, not {type(turns).__name__}")
    return b"".join(_line(number, turn) for number, turn in enumerate(turns))


def _line(number: int, turn: object) -> bytes:
    """The standard library's JSON: it carries long integers and lone surrogates, and can be told to refuse NaN."""
    try:
        text = json.dumps(turn, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        try:
            return text.encode() + b"\n"
        except UnicodeEncodeError:
            return json.dumps(turn, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidValue(f"turn {number}", str(error)) from error
