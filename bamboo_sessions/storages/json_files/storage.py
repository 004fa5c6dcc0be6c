"""`JsonFileStorage`: a folder a session, a journal that is appended to, a snapshot that can be read with any editor.

The face of this package: it finds the session's place, takes the locks, and turns what the file system says into the
library's errors. Reading is in `reader`, writing in `writer`, deleting in `graves`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from functools import lru_cache
from os import PathLike
from threading import TIMEOUT_MAX
from types import TracebackType
from typing import Final, Literal, Never

import structlog

from bamboo_sessions._files import Files
from bamboo_sessions._locks import HAS_RANGE_LOCKS, FileLocks, KeyedLocks, ProcessLocks, RangeLocks, _after_fork
from bamboo_sessions.clock import SYSTEM_CLOCK, Clock, real_monotonic
from bamboo_sessions.codec import check_usage
from bamboo_sessions.errors import (
    CorruptSession,
    LockTimeout,
    Outcome,
    SessionNotFound,
    StorageError,
    StorageUnavailable,
)
from bamboo_sessions.ids import check_session_id
from bamboo_sessions.listing import summary_of
from bamboo_sessions.models import Session, SessionSummary
from bamboo_sessions.models.findings import Finding, Repair
from bamboo_sessions.storages.expiry import NONE_LEFT, checked_ttl, later_ttl
from bamboo_sessions.storages.json_files import snapshot
from bamboo_sessions.storages.json_files.activity import Activity
from bamboo_sessions.storages.json_files.check import Checker, Locks, Progress
from bamboo_sessions.storages.json_files.graves import Graves
from bamboo_sessions.storages.json_files.layout import Layout, Place, number_of
from bamboo_sessions.storages.json_files.listing import Listing
from bamboo_sessions.storages.json_files.mounts import warn_of_shared
from bamboo_sessions.storages.json_files.reader import Damaged, Reader
from bamboo_sessions.storages.json_files.repair import Repairer
from bamboo_sessions.storages.json_files.stamp import Stamp, still
from bamboo_sessions.storages.json_files.store import make_folders, open_store, sweep
from bamboo_sessions.storages.json_files.tips import Tips
from bamboo_sessions.storages.json_files.usage import Usage
from bamboo_sessions.storages.json_files.writer import Writer, folder_mode
from bamboo_sessions.storages.protocol import UNCHANGED, Commit, Delta, Head, Record, Unchanged
from bamboo_sessions.storages.protocol import Stamp as AnyStamp
from bamboo_sessions.storages.records import RecordBacked

OWN_WAIT: Final = 30.0
"""Seconds that a commit waits where its caller did not take the lock before."""

_log = structlog.get_logger(__name__)


class _Lock:
    """One hold of one session's lock, for threads and processes alike."""

    __slots__ = ("_place", "_storage", "_timeout", "_token")

    def __init__(self, storage: JsonFileStorage, place: Place, timeout: float) -> None:
        self._storage, self._place, self._timeout = storage, place, timeout
        self._token: object | None = None

    def __enter__(self) -> None:
        self._token = self._storage._take(self._place, self._timeout)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._storage._let_go(self._place, self._token)


class _Writing:
    """Alone with the session's files, whether or not the caller took `lock`; for whom it is taken otherwise."""

    __slots__ = ("_busy", "_lock", "_place", "_storage")

    def __init__(self, storage: JsonFileStorage, place: Place) -> None:
        self._storage, self._place = storage, place
        self._lock: _Lock | None = None
        self._busy: object | None = None

    def __enter__(self) -> None:
        storage, session_id = self._storage, self._place.session_id
        self._busy = storage._busy.acquire(session_id, OWN_WAIT)
        if self._busy is None:
            raise LockTimeout(session_id, OWN_WAIT)
        if session_id in storage._held:
            return
        storage._busy.release(session_id, self._busy)  # never wait for a lock while holding this
        lock = _Lock(storage, self._place, OWN_WAIT)
        lock.__enter__()
        self._lock = lock
        try:
            self._busy = storage._busy.acquire(session_id, TIMEOUT_MAX)
        except BaseException:
            lock.__exit__(None, None, None)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            self._storage._busy.release(self._place.session_id, self._busy)
        finally:
            if self._lock is not None:
                self._lock.__exit__(kind, error, trace)


class JsonFileStorage(RecordBacked):
    """Sessions as JSON files below one folder, for any number of processes on one machine.

    `durability="full"`: what is acknowledged survives a power cut. "process": it survives a crash of the process only.
    `mode` is that of the files; folders get the matching right to enter. `portable_locks` uses one lock file a session
    held, as is done anyway where the kernel has no open file description locks. `ttl`: how long a session is kept after its
    last activity (see `Expiry`); not kept with the store, so every process that opens it says its own.
    """

    def __init__(self, root: str | PathLike[str], *, durability: Literal["full", "process"] = "full",
                 mode: int = 0o600, clock: Clock = SYSTEM_CLOCK, portable_locks: bool = False,
                 files: Files | None = None, ttl: timedelta | None = None) -> None:
        if durability not in ("full", "process"):
            raise ValueError(f"durability is 'full' or 'process', not {durability!r}")
        self.clock = clock
        self.durability = durability
        self._mode, self._ttl = mode, checked_ttl(ttl)
        self._files = files or Files()
        if durability == "process":
            self._files = self._files.without_syncs()
        self._layout = Layout(os.path.abspath(root))
        self._open()
        self._assemble(portable_locks or not HAS_RANGE_LOCKS)

    def _open(self) -> None:
        try:
            self._store_id = open_store(self._files, self._layout, self._mode, folder_mode(self._mode))
            if os.access(self._layout.root, os.W_OK):
                make_folders(self._files, self._layout, folder_mode(self._mode))
        except OSError as error:
            self._fail("open", None, error)
        warn_of_shared(self._layout.root)
        sweep(self._files, self._layout)

    def _assemble(self, portable: bool) -> None:
        self._place = lru_cache(maxsize=4096)(self._place_of)
        self._reader = Reader(self._files, self._layout)
        self._tips = Tips()
        self._writer = Writer(self._files, self._layout, self._reader, self._tips, self._mode)
        self._graves = Graves(self._files, self._layout, self._mode)
        self._usage = Usage(self._files, self._mode)
        self._listing = Listing(self._files, self._layout, self._reader)
        self._activity = None if self._ttl is None else Activity(self._files, self._reader, self.clock, self._mode, self._ttl)
        self._outer: KeyedLocks[str] = KeyedLocks()  # held by `lock`: the order of threads before that of processes
        self._busy: KeyedLocks[str] = KeyedLocks()  # held while files are written, by whoever does it; see _writing
        self._held: set[str] = set()  # ids whose process lock this object holds; each changed by its holder alone
        self._locks = _process_locks(self._layout, self._mode, portable)
        _after_fork(self)

    def _place_of(self, session_id: str) -> Place:
        return self._layout.place(check_session_id(session_id))

    def _forked(self) -> None:
        self._held = set()
        self._tips = self._writer._tips = Tips()

    # -- what it is ----------------------------------------------------------------------------------------------

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

    @property
    def tails_cut(self) -> int:
        """How many torn tails this object has moved to a quarantine folder."""
        return self._writer.tails_cut

    def __repr__(self) -> str:
        return f"JsonFileStorage({self.root!r})"

    def close(self) -> None:
        self._locks.close()

    # -- reading -------------------------------------------------------------------------------------------------

    def read(self, session_id: str, known: AnyStamp | None = None) -> Record | Delta | Unchanged | None:
        place = self._place(session_id)
        if type(known) is not Stamp or known.path != place.journal:
            return self._read_whole(place)
        try:
            stat = self._files.stat(known.path)
            if known.trusted and still(known, stat):
                return UNCHANGED
            return self._read_since(place, known, stat)
        except FileNotFoundError:
            return self._read_whole(place)
        except OSError as error:
            self._fail("read", place, error)

    def is_current(self, stamp: AnyStamp) -> bool:
        # The whole price of an unchanged `load_merged`, so written out: what `still` says, without its call.
        if type(stamp) is not Stamp or not stamp.trusted:
            return False
        try:
            stat = self._files.stat(stamp.path)
        except OSError:
            return False
        return (stat.st_size == stamp.size and stat.st_mtime_ns == stamp.mtime_ns and stat.st_ctime_ns == stamp.ctime_ns
                and stat.st_ino == stamp.ino)

    def read_held(self, session_id: str, known: AnyStamp | None = None) -> Record | Delta | Unchanged | None:
        """Nobody else writes now. A journal that ends with the line that this object wrote last, and was acknowledged,
        needs no second look however young its times are; `commit` compares that line's checksum all the same."""
        if self._writer.outcome(session_id) == "unknown":
            self._settle(self._place(session_id))
        tip = self._tips.get(session_id)
        if tip is not None and tip.own and tip.stamp is known:
            with suppress(OSError):  # then the read says what is wrong
                if still(tip.stamp, self._files.stat(tip.stamp.path)):
                    return UNCHANGED
        return self.read(session_id, known)

    def _settle(self, place: Place) -> None:
        with self._writing(place):
            try:
                self._writer.settle(place)
            except Damaged as damage:
                self._corrupt(place, damage)
            except OSError as error:
                self._fail("settle", place, error, "unknown")

    def _read_since(self, place: Place, known: Stamp, stat: os.stat_result) -> Record | Delta | None:
        delta = None if known.ahead else self._reader.since(known, stat)
        if delta is None:
            return self._read_whole(place)
        assert isinstance(delta.stamp, Stamp)
        self._tips.saw(place.session_id, delta.stamp)
        return delta

    def _read_whole(self, place: Place) -> Record | None:
        try:
            record = self._reader.record(place)
        except Damaged as damage:
            self._corrupt(place, damage)
        except OSError as error:
            self._fail("read", place, error)
        if record is not None:
            assert isinstance(record.stamp, Stamp)
            self._tips.saw(place.session_id, record.stamp)
        return record

    def exists(self, session_id: str) -> bool:
        place = self._place(session_id)
        try:
            return not self._reader.is_absent(place) and not self._is_over(session_id)
        except OSError as error:
            self._fail("look up", place, error)

    def get_metadata(self, session_id: str) -> SessionSummary:
        """See `RecordBacked`; of the snapshot only the first line is read."""
        place = self._place(session_id)
        try:
            listed = self._reader.listed(place)
        except Damaged as damage:
            self._corrupt(place, damage)
        except OSError as error:
            self._fail("read", place, error)
        if listed is None or self._is_over(session_id):
            raise self._absent(session_id)
        return summary_of(listed.head, listed.count)

    def heads(self) -> Iterator[tuple[Head, int]]:
        return self._heads(expired=False)

    def _heads(self, *, expired: bool) -> Iterator[tuple[Head, int]]:
        """Of the sessions whose time has run out, or of the others."""
        activity = self._activity
        try:
            for head, count in self._listing.heads():
                if (activity is not None and activity.has_expired(self._place(head["id"]), head)) is expired:
                    yield head, count
        except OSError as error:
            raise StorageUnavailable("list", path=self.root, reason=error.strerror or str(error)) from error

    # -- writing -------------------------------------------------------------------------------------------------

    def commit(self, commit: Commit) -> Stamp:
        place = self._place(commit.session_id)
        with self._writing(place):
            try:
                create = commit.expected is None
                stamp = self._writer.create(place, commit) if create else self._writer.append(place, commit)
                if self._activity is not None:
                    self._activity.renew_after_commit(place)
                return stamp
            except Damaged as damage:
                self._corrupt(place, damage)
            except OSError as error:
                self._fail("commit", place, error, self._writer.outcome(place.session_id))

    def delete_record(self, session_id: str) -> bool:
        place = self._place(session_id)
        with self._writing(place):
            return self._removed(place, expired=False)

    def _removed(self, place: Place, *, expired: bool) -> bool:
        """Remove the session's folder; who holds the lock has to say why it goes."""
        try:
            if self._reader.is_absent(place):
                self._graves.confirm(place)
                return False
            birth = self._birth(place)
            if birth is not None:
                with self._shard_lock(place):
                    self._graves.bury(place, birth, expired=expired)
            self._graves.clear_away(place)
        except OSError as error:
            outcome: Outcome = "not applied" if os.path.lexists(place.folder) else "unknown"
            raise StorageUnavailable("delete", session_id=place.session_id, outcome=outcome, path=place.folder,
                                     reason=error.strerror or str(error)) from error
        self._writer.forget(place.session_id)
        return True

    def was_deleted(self, session_id: str, birth: str) -> bool:
        place = self._place(session_id)
        try:
            return self._graves.remembers(place, birth) and self._birth(place) != birth
        except OSError as error:
            self._fail("look up", place, error)

    def _birth(self, place: Place) -> str | None:
        """Of the session that is there. One that cannot be read at all can still be deleted, but leaves no tombstone."""
        try:
            listed = self._reader.listed(place)
        except Damaged as damage:
            _log.warning("birth not readable", session_id=place.session_id, path=place.folder, error=str(damage))
            return self._birth_alone(place)
        if listed is None:
            return None
        birth: str = listed.head["birth"]
        return birth

    def _birth_alone(self, place: Place) -> str | None:
        try:
            top = snapshot.decode_top(self._files.read_whole(place.snapshot), place.snapshot)
        except (OSError, StorageError, snapshot.Damage):
            return None
        birth: str = top.head["birth"]
        return birth

    # -- time to live --------------------------------------------------------------------------------------------

    @property
    def ttl(self) -> timedelta | None:
        return self._ttl

    def expire_after(self, ttl: timedelta) -> None:
        self._ttl = later_ttl(self._ttl, ttl)
        self._activity = Activity(self._files, self._reader, self.clock, self._mode, self._ttl)

    def time_left(self, session_id: str) -> timedelta | None:
        place = self._place(session_id)
        try:
            return None if self._activity is None else self._activity.left(place)
        except OSError as error:
            self._fail("look up", place, error)

    def touch(self, session_id: str) -> None:
        place = self._place(session_id)
        with self._writing(place):  # a purge that looked before this may not remove after it
            try:
                if self._reader.is_absent(place):
                    raise SessionNotFound(session_id)
                if self._activity is not None:
                    self._activity.renew(place)
            except OSError as error:
                self._fail("touch", place, error)

    def expired(self) -> Iterator[str]:
        return iter(()) if self._activity is None else (head["id"] for head, _ in self._heads(expired=True))

    def purge_record(self, session_id: str) -> bool:
        place = self._place(session_id)
        with self._writing(place):
            left = self.time_left(session_id)
            return left is not None and left <= NONE_LEFT and self._removed(place, expired=True)

    def was_expired(self, session_id: str, birth: str | None = None) -> bool:
        place = self._place(session_id)
        try:
            if not self._graves.remembers_expired(place, birth):
                return False
            return self._reader.is_absent(place) if birth is None else self._birth(place) != birth
        except OSError as error:
            self._fail("look up", place, error)

    # -- usage ---------------------------------------------------------------------------------------------------

    def append_usage(self, session_id: str, line: bytes) -> None:
        place = self._place(session_id)
        check_usage(line)
        with self._other_lock(f"usage/{session_id}", session_id):
            try:
                if self._reader.is_absent(place):
                    raise SessionNotFound(session_id)
                self._usage.append(place, line)
            except FileNotFoundError as error:
                if not os.path.lexists(place.folder) and os.path.lexists(self._layout.store):
                    raise SessionNotFound(session_id) from error
                self._fail("append usage", place, error)
            except OSError as error:
                self._fail("append usage", place, error)

    # -- check and repair ----------------------------------------------------------------------------------------

    def check(self, session_id: str | None = None, *, progress: Progress | None = None) -> Iterator[Finding]:
        """What is not as it should be on disk, of one session or of all; see `Checks`."""
        checker = self._checker(self._writing)
        if session_id is None:
            return checker.everything(progress)
        return checker.one(session_id, self._place(session_id))

    def _checker(self, alone: Callable[[Place], AbstractContextManager[None]]) -> Checker:
        return Checker(self._files, self._layout, self._store_id, Locks(alone, self._other_lock))

    def repair(self, session_id: str) -> Repair:
        """Make a damaged session whole from what is left of it; see `Checks`."""
        place = self._place(session_id)
        with self._writing(place):
            try:
                found = list(self._checker(lambda _: nullcontext()).one(session_id, place))
                return Repairer(self._files, self._writer, self._mode).repair(place, found, self.clock.now())
            except OSError as error:
                self._fail("repair", place, error, self._writer.outcome(session_id))

    # -- locks ---------------------------------------------------------------------------------------------------

    def lock(self, session_id: str, timeout: float) -> AbstractContextManager[None]:
        return _Lock(self, self._place(session_id), timeout)

    def _take(self, place: Place, timeout: float) -> object:
        begun = real_monotonic()
        token = self._outer.acquire(place.session_id, timeout)
        if token is None:
            raise LockTimeout(place.session_id, timeout)
        try:
            self._lock_process(place.session_id, place.number, timeout - (real_monotonic() - begun), timeout)
            self._held.add(place.session_id)
        except BaseException:  # an interrupt may come when the lock is already ours; releasing what is not does no harm
            self._held.discard(place.session_id)
            with suppress(OSError):
                self._locks.release(place.number)
            self._outer.release(place.session_id, token)
            raise
        return token

    def _let_go(self, place: Place, token: object | None) -> None:
        """Not before a commit that relied on this hold without owning it (another thread's) is through. It looks at
        `_held` after it entered `_busy`; we look at `_busy` after we left `_held`: one of us sees the other."""
        session_id = place.session_id
        try:  # each step is taken whatever becomes of the one before: an interrupt, or no memory for a wait
            if session_id in self._held:
                self._held.discard(session_id)
                try:
                    if session_id in self._busy:
                        self._busy.release(session_id, self._busy.acquire(session_id, TIMEOUT_MAX))
                finally:
                    self._locks.release(place.number)
        finally:
            self._outer.release(session_id, token)

    def _writing(self, place: Place) -> _Writing:
        return _Writing(self, place)

    def _lock_process(self, session_id: str, number: int, left: float, timeout: float) -> None:
        try:
            taken = self._locks.acquire(number, left)
        except OSError as error:
            raise StorageUnavailable("lock", session_id=session_id, path=self._layout.locks,
                                     reason=error.strerror or str(error)) from error
        if not taken:
            raise LockTimeout(session_id, timeout)

    @contextmanager
    def _other_lock(self, name: str, session_id: str) -> Iterator[None]:
        """A lock beside the sessions', for files that have writers of their own. Nothing is locked within it."""
        key, number = "\0" + name, number_of(name)
        token = self._outer.acquire(key, OWN_WAIT)
        if token is None:
            raise LockTimeout(session_id, OWN_WAIT)
        try:
            self._lock_process(session_id, number, OWN_WAIT, OWN_WAIT)
            try:
                yield
            finally:
                self._locks.release(number)
        finally:
            self._outer.release(key, token)

    def _shard_lock(self, place: Place) -> AbstractContextManager[None]:
        return self._other_lock(f"deleted/{os.path.basename(place.shard)}", place.session_id)

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


def _process_locks(layout: Layout, mode: int, portable: bool) -> ProcessLocks:
    if not portable:
        return RangeLocks(layout.locks, mode)
    folder = layout.locks + ".d"
    if os.access(layout.root, os.W_OK):
        os.makedirs(folder, folder_mode(mode), exist_ok=True)
    return FileLocks(folder, mode)
