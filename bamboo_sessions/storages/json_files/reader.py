"""Reading without a lock: the journal, then the snapshot, then the journal's name once more.

A writer only ever appends to the journal, or replaces first the snapshot and then the journal (a fold, generation + 1).
So with the same journal under the name before and after, the pair is one of

- journal and snapshot of one generation: the state is the snapshot with the journal's changes;
- the snapshot one ahead: the fold is half done, and the snapshot alone already is the state;

and anything else means that the files were exchanged in between: look again. An unfinished last line belongs to a
writer at work (or to one that died) and is not there yet.
"""

from __future__ import annotations

import errno
import os
import stat as stat_bits
from collections.abc import Callable
from typing import Final, TypeVar

import attrs

from bamboo_sessions._files import READ, Files
from bamboo_sessions.codec import patch_in_place
from bamboo_sessions.storages.json_files import journal, lines, snapshot
from bamboo_sessions.storages.json_files.layout import Layout, Place, encode_id
from bamboo_sessions.storages.json_files.stamp import Stamp, is_settled, mark_of
from bamboo_sessions.storages.protocol import OPS_KEPT, Change, Delta, Head, Record

ATTEMPTS: Final = 100
TOP_AT_FIRST: Final = 16 * 1024
T = TypeVar("T")


class Damaged(Exception):
    """Stored bytes are wrong; `good` is the state up to them, if there is one."""

    def __init__(self, path: str, offset: int, reason: str, good: Record | None = None) -> None:
        self.path, self.offset, self.reason, self.good = path, offset, reason, good
        super().__init__(reason)


class _Moved(Exception):
    """The files were exchanged while they were being read."""


@attrs.frozen(slots=True)
class Listed:
    """A session as a listing shows it."""

    head: Head
    count: int
    stamp: Stamp


@attrs.frozen(slots=True)
class _Journal:
    """A journal as it was read: its `stat` from before the bytes, so that a later change cannot be missed."""

    stat: os.stat_result
    data: bytes
    header: journal.Header


class Reader:
    """Turns the two files of a session into records, changes and listings. Keeps nothing."""

    def __init__(self, files: Files, layout: Layout) -> None:
        self._files, self._layout = files, layout

    # -- whole ---------------------------------------------------------------------------------------------------

    def record(self, place: Place) -> Record | None:
        """The committed state, or None where there is no such session."""
        return self._consistent(place, self._record_once)

    def listed(self, place: Place) -> Listed | None:
        """The same without its messages: only the snapshot's first line is read."""
        return self._consistent(place, self._listed_once)

    def _consistent(self, place: Place, read_once: Callable[[Place], T]) -> T | None:
        for _ in range(ATTEMPTS):
            try:
                return read_once(place)
            except _Moved:
                continue
            except FileNotFoundError as error:
                if self.is_absent(place):
                    return None
                missing = error
            if self._is_missing_a_file(place):
                raise Damaged(str(missing.filename or place.folder), 0, "the file is missing")
        raise OSError(errno.EBUSY, f"the files were exchanged {ATTEMPTS} times while they were being read", place.folder)

    def is_absent(self, place: Place) -> bool:
        """Only a missing folder in a store that is there is absence; everything else is a failure."""
        for folder in (place.shard, place.folder):
            try:
                mode = self._files.stat(folder).st_mode
            except FileNotFoundError:
                self._files.stat(self._layout.store)
                self._files.stat(self._layout.sessions)
                return True
            if not stat_bits.S_ISDIR(mode):
                raise OSError(errno.ENOTDIR, "not a folder (symbolic links are not followed)", folder)
        return False

    def _is_missing_a_file(self, place: Place) -> bool:
        """The folder is there. A file that is there now was merely exchanged at the wrong moment."""
        try:
            self._files.stat(place.journal)
            self._files.stat(place.snapshot)
        except FileNotFoundError:
            return not self.is_absent(place)
        return False

    def _record_once(self, place: Place) -> Record:
        read, snap_stat, snap_data = self._both(place, self._whole)
        try:
            snap = snapshot.decode(snap_data, place.snapshot)
        except snapshot.Damage as damage:
            raise Damaged(place.snapshot, damage.offset, damage.reason, _up_to(damage)) from damage
        _check_id(place, snap.head)
        found = _follow(place, read, snap.head, snap.generation, len(snap.messages), snap.head["revision"])
        messages, ops = _grown(snap, found.steps)
        head = _patched(snap.head, found.steps)
        if found.fatal:
            raise Damaged(place.journal, found.end, found.damage, Record(head, messages, ops, None))
        ahead = snap.generation != read.header.generation
        return Record(head, messages, ops, self._stamp(place, read, head, ops[-1], found, snap_stat, ahead))

    def _listed_once(self, place: Place) -> Listed:
        read, snap_stat, snap_data = self._both(place, self._first_line)
        try:
            top = snapshot.decode_top(snap_data, place.snapshot)
        except snapshot.Damage as damage:
            raise Damaged(place.snapshot, damage.offset, damage.reason) from damage
        _check_id(place, top.head)
        found = _follow(place, read, top.head, top.generation, top.count, top.head["revision"])
        if found.fatal:
            raise Damaged(place.journal, found.end, found.damage)
        head = _patched(top.head, found.steps)
        ahead = top.generation != read.header.generation
        op = found.steps[-1][1] if found.steps else ""
        return Listed(head, found.count, self._stamp(place, read, head, op, found, snap_stat, ahead))

    def _both(self, place: Place, read_snapshot: Callable[[int, os.stat_result], bytes]
              ) -> tuple[_Journal, os.stat_result, bytes]:
        if self.is_absent(place):
            raise FileNotFoundError(errno.ENOENT, "no such session", place.folder)
        fd = self._files.open(place.journal, READ)
        try:  # open until the end: an inode in use is not given to the next journal, so equal numbers mean the same file
            stat = self._files.fstat(fd)
            data = self._files.read_at(fd, stat.st_size, 0)
            snap_stat, snap_data = self._read(place.snapshot, read_snapshot)
            if self._files.stat(place.journal).st_ino != stat.st_ino:
                raise _Moved
        finally:
            self._files.close(fd)
        return _Journal(stat, data, self._header(place, data)), snap_stat, snap_data

    def _read(self, path: str, read: Callable[[int, os.stat_result], bytes]) -> tuple[os.stat_result, bytes]:
        fd = self._files.open(path, READ)
        try:
            stat = self._files.fstat(fd)
            return stat, read(fd, stat)
        finally:
            self._files.close(fd)

    def _whole(self, fd: int, stat: os.stat_result) -> bytes:
        return self._files.read_at(fd, stat.st_size, 0)

    def _first_line(self, fd: int, stat: os.stat_result) -> bytes:
        data = self._files.read_at(fd, min(TOP_AT_FIRST, stat.st_size), 0)
        return data if b"\n" in data else self._whole(fd, stat)

    def _header(self, place: Place, data: bytes) -> journal.Header:
        try:
            return journal.read_header(data, place.journal)
        except ValueError as error:
            # Never a torn tail: a journal gets its name when its first line is durable.
            raise Damaged(place.journal, 0, str(error), self._snapshot_alone(place)) from error

    def _snapshot_alone(self, place: Place) -> Record | None:
        try:
            snap = snapshot.decode(self._files.read_whole(place.snapshot), place.snapshot)
        except (OSError, snapshot.Damage):
            return None
        return Record(snap.head, snap.messages, snap.ops, None)

    def _stamp(self, place: Place, read: _Journal, head: Head, op: str, found: journal.Scan,
               snap_stat: os.stat_result, ahead: bool) -> Stamp:
        stat, header = read.stat, read.header
        trusted = is_settled(stat, self._files.wall_ns())  # one ahead: finishing the fold replaces the journal
        return Stamp(place.journal, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, trusted,
                     head["birth"], header.generation, head["revision"], op, found.count, found.crc, found.start,
                     found.end, mark_of(snap_stat), ahead)

    # -- what is new ---------------------------------------------------------------------------------------------

    def since(self, known: Stamp, stat: os.stat_result | None = None) -> Delta | None:
        """What the journal says behind the line that `known` names; None where that line is no longer there.

        A line that follows names the checksum of the line before it, and that one is chained to the journal's first
        line: so it is found neither in another journal that was given the same inode number, nor behind a line that took
        an undone one's place. Where nothing follows, the known line itself is read again.

        `stat`: what the caller just saw under the journal's name. Whatever took the name since, only this journal has
        such a line; and what is older than the bytes cannot hide a later change.
        """
        fd = self._files.open(known.path, READ)
        try:
            stat = stat or self._files.fstat(fd)
            if stat.st_ino != known.ino or stat.st_size < known.end:
                return None
            data = self._files.read_at(fd, stat.st_size - known.end, known.end)
            found = journal.scan(data, known.end, known.crc, known.start, known.revision, known.count)
            if found.fatal or not (found.steps or self._ends_in(fd, known)):
                return None
        finally:
            self._files.close(fd)
        return Delta(tuple(found.changes), self._moved_on(known, stat, found))

    def _ends_in(self, fd: int, known: Stamp) -> bool:
        line = self._files.read_at(fd, known.end - known.start, known.start)
        return lines.checksum(line[:-1]) == known.crc and line.endswith(b"\n")

    def _moved_on(self, known: Stamp, stat: os.stat_result, found: journal.Scan) -> Stamp:
        revision, op, birth = known.revision, known.op, known.birth
        for revision, op, _, _, change in found.steps:  # noqa: B007 - the last ones count
            birth = change.get("set", {}).get("birth", birth)
        trusted = is_settled(stat, self._files.wall_ns())
        return Stamp(known.path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, trusted, birth,
                     known.generation, revision, op, found.count, found.crc, found.start, found.end, known.base,
                     known.ahead)


def _follow(place: Place, read: _Journal, head: Head, generation: int, count: int, revision: int) -> journal.Scan:
    """The journal's changes behind this snapshot; none where the snapshot already contains them."""
    header = read.header
    if header.birth != head["birth"] or generation not in (header.generation, header.generation + 1):
        raise Damaged(place.journal, 0, f"birth and generation {header.birth}/{header.generation} of the journal do not "
                                        f"belong to {head['birth']}/{generation} of the snapshot")
    if generation == header.generation and header.revision != revision:
        raise Damaged(place.journal, 0, f"it follows revision {header.revision}, the snapshot has {revision}")
    if generation != header.generation:
        # A journal of the generation before: nothing in it is new, and nothing is ever appended to it.
        return journal.Scan([], header.crc, 0, header.end, count)
    return journal.scan(read.data, header.end, header.crc, 0, revision, count, header.end)


def _check_id(place: Place, head: Head) -> None:
    """A place without an id was found by listing: then the id must belong to the folder's name."""
    found = head.get("id")
    if found != place.session_id and (place.session_id or encode_id(found or "") != os.path.basename(place.folder)):
        raise Damaged(place.snapshot, 0, f"it holds the session {found!r}")


def born(change: Change, birth: str) -> str:
    """The birth after this change: a plain save puts one session in the place of another."""
    made: str = change.head.get("set", {}).get("birth", birth)
    return made


def _patched(head: Head, steps: list[journal.Step]) -> Head:
    """The head after these steps; it was decoded for this reading, so it is changed in place."""
    for step in steps:
        patch_in_place(head, step[4])
    if steps:
        head["revision"] = steps[-1][0]
    return head


def _grown(snap: snapshot.Snapshot, steps: list[journal.Step]) -> tuple[list[bytes], tuple[str, ...]]:
    """(messages, operation ids) after these steps."""
    messages = snap.messages
    for _, _, keep, added, _ in steps:
        del messages[keep:]
        messages += added
    return messages, (*snap.ops, *(step[1] for step in steps[-OPS_KEPT:]))[-OPS_KEPT:]


def _up_to(damage: snapshot.Damage) -> Record | None:
    good = damage.good
    return None if good is None else Record(good.head, good.messages, good.ops, None)
