"""`JsonFileStorage`: a folder a session, a journal that is appended to, a snapshot that can be read with any editor.

The face of this package. It stands on `base` (the folder, and what its errors mean), `locking` (who may write) and
`expiring` (what is there, and for how long). Reading is in `reader`, writing in `writer`, deleting in `graves`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from os import PathLike
from typing import Literal

from bamboo_sessions._files import Files
from bamboo_sessions._locks import _after_fork
from bamboo_sessions.clock import SYSTEM_CLOCK, Clock
from bamboo_sessions.codec import check_usage
from bamboo_sessions.errors import SessionNotFound
from bamboo_sessions.listing import summary_of
from bamboo_sessions.models import SessionSummary
from bamboo_sessions.models.findings import Finding, Repair
from bamboo_sessions.storages.expiry import checked_ttl
from bamboo_sessions.storages.json_files.activity import Activity
from bamboo_sessions.storages.json_files.check import Checker, Locks, Progress
from bamboo_sessions.storages.json_files.graves import Graves
from bamboo_sessions.storages.json_files.layout import Place
from bamboo_sessions.storages.json_files.listing import Listing
from bamboo_sessions.storages.json_files.reader import Damaged, Reader
from bamboo_sessions.storages.json_files.repair import Repairer
from bamboo_sessions.storages.json_files.searching import Searching
from bamboo_sessions.storages.json_files.stamp import Stamp, still
from bamboo_sessions.storages.json_files.tips import Tips
from bamboo_sessions.storages.json_files.usage import Usage
from bamboo_sessions.storages.json_files.writer import Writer
from bamboo_sessions.storages.protocol import UNCHANGED, Commit, Delta, Record, Unchanged
from bamboo_sessions.storages.protocol import Stamp as AnyStamp


class JsonFileStorage(Searching):
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
        self._ttl = checked_ttl(ttl)
        super().__init__(root, durability, mode, clock, files or Files())
        self._make_locks(portable_locks)
        self._assemble()
        _after_fork(self)

    def _assemble(self) -> None:
        self._reader = Reader(self._files, self._layout)
        self._tips = Tips()
        self._writer = Writer(self._files, self._layout, self._reader, self._tips, self._mode)
        self._graves = Graves(self._files, self._layout, self._mode)
        self._usage = Usage(self._files, self._mode)
        self._listing = Listing(self._files, self._layout, self._reader)
        self._activity = None if self._ttl is None else Activity(self._files, self._reader, self.clock, self._mode, self._ttl)

    def _forked(self) -> None:
        super()._forked()
        self._tips = self._writer._tips = Tips()

    # -- what it is ----------------------------------------------------------------------------------------------

    @property
    def tails_cut(self) -> int:
        """How many torn tails this object has moved to a quarantine folder."""
        return self._writer.tails_cut

    def close(self) -> None:
        self._let_go_of_index()
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

    def get_metadata(self, session_id: str) -> SessionSummary:
        """See `RecordBacked`; of the snapshot only the first line is read."""
        place = self._place(session_id)
        try:
            listed = None if self._is_over(session_id) else self._reader.listed(place)
        except Damaged as damage:
            self._corrupt(place, damage)
        except OSError as error:
            self._fail("read", place, error)
        if listed is None:
            raise self._absent(session_id)
        return summary_of(listed.head, listed.count)

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

    def read_usage(self, session_id: str, birth: str) -> Sequence[bytes]:
        """See `UsageReads`. A birth never comes back, so that what lies between two looks at it is of that birth."""
        place = self._place(session_id)
        try:
            if not self._is_of(place, birth):
                return ()
            lines = self._usage.lines(place)
            return lines if self._is_of(place, birth) else ()
        except Damaged as damage:
            self._corrupt(place, damage)
        except OSError as error:
            self._fail("read usage", place, error)

    def add_usage(self, session_id: str, birth: str, lines: Sequence[bytes], after: int) -> bool:
        """See `UsageReads`. The session's lock keeps it from being deleted meanwhile, the log's keeps others from appending."""
        place = self._place(session_id)
        for line in lines:
            check_usage(line)
        with self._writing(place), self._other_lock(f"usage/{session_id}", session_id):
            try:
                if not self._is_of(place, birth) or len(self._usage.lines(place)) != after:
                    return False
                if lines:
                    self._usage.append(place, b"\n".join(lines))
                return True
            except Damaged as damage:
                self._corrupt(place, damage)
            except OSError as error:
                self._fail("add usage", place, error)

    def _is_of(self, place: Place, birth: str) -> bool:
        listed = self._reader.listed(place)
        return listed is not None and listed.head.get("birth", "") == birth

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
