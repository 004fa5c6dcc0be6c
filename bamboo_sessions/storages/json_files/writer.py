"""Writing, under the session's lock: one line appended and synced, or a new pair of files.

What may go wrong in between, and who puts it right:

- killed while appending: the next writer finds an unfinished last line and moves it to `quarantine/`;
- an error while appending: the same writer cuts the line off again; failing that, the session takes no more commits
  here until both files were written anew (new inodes: a failed sync says nothing about pages of the old ones);
- killed while folding: the snapshot is one generation ahead; the next writer finishes with a new journal;
- a sync error in *another* process may have left its last line in the page cache but not on disk, where no later sync
  would look for it: before its first line behind somebody else's, a writer writes that last line again in place.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Final, Never

import attrs
import structlog

from bamboo_sessions._files import CHANGE, Files
from bamboo_sessions.codec import patch_json
from bamboo_sessions.errors import Outcome, RevisionConflict, StorageUnavailable
from bamboo_sessions.ids import new_token
from bamboo_sessions.storages.json_files import journal, lines, snapshot
from bamboo_sessions.storages.json_files.layout import Layout, Place, quarantine_in
from bamboo_sessions.storages.json_files.reader import Reader, born
from bamboo_sessions.storages.json_files.stamp import Stamp, is_settled, mark_of, still
from bamboo_sessions.storages.json_files.tips import Tip, Tips
from bamboo_sessions.storages.protocol import Change, Commit, Head, Record

FOLD_AT: Final = 64 * 1024
FOLD_RATIO: Final = 2
"""With a journal of at most twice the snapshot, the next snapshot is at most three halves of the journal: every byte
said is written at most two and a half times."""
TAILS_KEPT: Final = 100

_log = structlog.get_logger(__name__)


class Writer:
    """Applies commits to the two files of a session. The caller holds the session's lock, in and across processes."""

    def __init__(self, files: Files, layout: Layout, reader: Reader, tips: Tips, mode: int) -> None:
        self._files, self._layout, self._reader, self._tips = files, layout, reader, tips
        self._mode, self._folder_mode = mode, folder_mode(mode)
        self._refused: set[str] = set()
        """Sessions whose files may hold what was never durable; written anew before their next commit."""
        self._fold_from: dict[str, int] = {}
        """After a failed fold: the length at which to try again."""
        self._shards: set[str] = set()
        """Shard folders whose names are durable; at most 256."""
        self.tails_cut = 0

    # -- append --------------------------------------------------------------------------------------------------

    def append(self, place: Place, commit: Commit) -> Stamp:
        change = commit.change
        fd, tip = self._ready(place, commit)
        try:
            if change.op == tip.stamp.op:
                return self._once_more(place, tip)
            _check(commit, tip.stamp)
            stamp = self._write(place, fd, tip, change)
        finally:
            try:  # noqa: SIM105 - suppress() would take memory, and leave the file open where there is none
                self._files.close(fd)
            except OSError:  # what was synced is stored, and what was undone is not, whatever `close` says
                pass
        if stamp.end > max(FOLD_AT, FOLD_RATIO * stamp.base[1]):
            return self._folded(place, stamp)
        return stamp

    def _write(self, place: Place, fd: int, tip: Tip, change: Change) -> Stamp:
        files, last = self._files, tip.stamp
        line, crc = journal.change_line(change, last.crc)
        at, data = last.end, line
        if not tip.own:
            at, data = last.start, files.read_at(fd, last.end - last.start, last.start) + line
            if last.start == 0:  # a fold's journal without a line yet: its name may not be durable, and ours would go with it
                files.sync_dir(place.folder)
        self._refused.add(place.session_id)  # until it is known what became of the line: memory may end anywhere here
        try:
            files.write_all(fd, data, at)
            files.sync(fd)
            stat = files.fstat(fd)
            if stat.st_size != at + len(data):
                raise OSError(errno.EIO, "the journal has another length than what was written")
        except BaseException as error:  # noqa: BLE001 - an interrupt must not leave half a line either; it is raised again
            self._undo(place, last, error)
        count, birth = change.keep + len(change.add), born(change, last.birth)
        stamp = Stamp(last.path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns,
                      is_settled(stat, files.wall_ns()), birth, last.generation, change.revision, change.op, count,
                      crc, last.end, stat.st_size, last.base, ahead=False)
        self._tips.wrote(place.session_id, stamp)
        self._refused.discard(place.session_id)
        return stamp

    def _undo(self, place: Place, last: Stamp, error: BaseException) -> Never:
        """Cut the line off again, through a handle of its own: the one whose sync failed has nothing more to say."""
        self._tips.drop(place.session_id)
        outcome: Outcome = "not applied"
        try:
            self._cut(place.journal, last.end)
            self._refused.discard(place.session_id)
        except OSError:
            outcome = "unknown"
        if not isinstance(error, OSError):
            raise error
        raise StorageUnavailable("commit", session_id=place.session_id, outcome=outcome, path=place.journal,
                                 reason=error.strerror or str(error)) from error

    def _cut(self, path: str, size: int) -> None:
        fd = self._files.open(path, CHANGE)
        try:
            self._files.truncate(fd, size)
            self._files.sync(fd)
        finally:
            self._files.close(fd)

    def settle(self, place: Place) -> None:
        """Make durable what a commit of unknown outcome may have left, before anybody is told that it is there: a retry
        that finds its own line would have nothing to write, and that line was never synced."""
        if place.session_id in self._refused and not self._reader.is_absent(place):
            self._renew(place)

    def _once_more(self, place: Place, tip: Tip) -> Stamp:
        """The commit is there already. Whoever wrote it may have failed to sync it, so it is made durable again."""
        if tip.own:
            return tip.stamp
        return self._renew(place)

    # -- before an append ----------------------------------------------------------------------------------------

    def _ready(self, place: Place, commit: Commit) -> tuple[int, Tip]:
        """The journal, open, and its true tip: nothing behind it, no fold unfinished, fit to be appended to."""
        for _ in range(5):
            tip = self._tips.get(place.session_id)
            if tip is not None and place.session_id not in self._refused:
                fd = self._open(place, commit)
                try:
                    if self._is_tip(place, fd, tip):
                        return fd, tip
                except BaseException:
                    self._files.close(fd)
                    raise
                self._files.close(fd)
            self._prepare(place, commit)
        raise OSError(errno.EBUSY, "the journal changes under the session's lock", place.journal)

    def _open(self, place: Place, commit: Commit) -> int:
        try:
            return self._files.open(place.journal, CHANGE)
        except FileNotFoundError:
            if self._reader.is_absent(place):
                self._tips.drop(place.session_id)
                raise RevisionConflict(place.session_id, commit.expected, None) from None
            raise

    def _is_tip(self, place: Place, fd: int, tip: Tip) -> bool:
        """Whether the journal still ends in this line. Its checksum is read even where the times agree: within one
        tick they would agree as well for a line of equal length that replaced an undone one."""
        stamp = tip.stamp
        if stamp.end != stamp.size or stamp.ahead or not still(stamp, self._files.fstat(fd)):
            return False
        if self._files.read_at(fd, lines.BODY, stamp.start) != b'{"crc":"%08x",' % stamp.crc:
            return False
        # Behind our own last line nobody can have folded: a fold follows an append. Behind another's, it may have
        # died with the snapshot already exchanged, and a line appended to the old journal would never be read.
        return tip.own or mark_of(self._files.stat(place.snapshot)) == stamp.base

    def _prepare(self, place: Place, commit: Commit) -> None:
        """One step towards a journal that can be appended to; what it finds and mends, the next look confirms."""
        if place.session_id in self._refused:
            self._renew(place)
            return
        stamp = self._moved_tip(place)
        if stamp is None:
            record = self._reader.record(place)
            if record is None:
                self._tips.drop(place.session_id)
                raise RevisionConflict(place.session_id, commit.expected, None)
            stamp = _stamp_of(record)
            if stamp.ahead:
                self._files.sync_dir(place.folder)  # whoever exchanged the snapshot died before making its name durable
                self._finish(place, record)
                return
        if stamp.end < stamp.size:
            self._quarantine(place, stamp)
        else:
            self._tips.saw(place.session_id, stamp)

    def _moved_tip(self, place: Place) -> Stamp | None:
        """The tip as it is now, by way of what was appended since; None where only a whole read can tell."""
        tip = self._tips.get(place.session_id)
        try:
            if tip is None or tip.stamp.ahead or mark_of(self._files.stat(place.snapshot)) != tip.stamp.base:
                return None
            delta = self._reader.since(tip.stamp)
        except FileNotFoundError:
            return None
        if delta is None:
            return None
        assert isinstance(delta.stamp, Stamp)
        return delta.stamp

    def _quarantine(self, place: Place, stamp: Stamp) -> None:
        """Keep what is cut: it was never acknowledged, but it may be all that is left of somebody's last words."""
        folder = quarantine_in(place.folder)
        name = os.path.join(folder, f"{stamp.revision}-{stamp.end}-{new_token()}.tail")
        data = self._files.read_whole(place.journal)[stamp.end :]
        try:
            self._files.mkdir(folder, self._folder_mode)
            self._files.sync_dir(place.folder)
        except FileExistsError:
            self._forget_oldest(folder)
        self._files.write_new(name, data, self._mode)
        self._files.sync_dir(folder)
        self._cut(place.journal, stamp.end)
        self.tails_cut += 1
        _log.warning("torn tail cut", session_id=place.session_id, path=place.journal, offset=stamp.end,
                     bytes=len(data), kept_in=name)

    def _forget_oldest(self, folder: str) -> None:
        names = [name for name in self._files.listdir(folder) if name.endswith(".tail")]  # never what a repair kept
        if len(names) >= TAILS_KEPT:
            by_age = sorted(names, key=lambda name: self._files.stat(os.path.join(folder, name)).st_mtime_ns)
            for name in by_age[: len(names) - TAILS_KEPT + 1]:
                self._files.unlink(os.path.join(folder, name))

    # -- new files -----------------------------------------------------------------------------------------------

    def _folded(self, place: Place, stamp: Stamp) -> Stamp:
        """The commit is durable already: a fold that fails is tried again later, never reported to its caller."""
        if stamp.end < self._fold_from.get(place.session_id, 0):
            return stamp
        try:
            return self._fold(place)
        except Exception as error:  # noqa: BLE001 - whatever it was, the commit stands
            self._tips.drop(place.session_id)  # the snapshot may be one ahead now
            self._fold_from[place.session_id] = stamp.end + max(FOLD_AT, stamp.end // 4)
            _log.warning("fold failed", session_id=place.session_id, path=place.folder, error=str(error))
            return attrs.evolve(stamp, trusted=False)

    def _fold(self, place: Place) -> Stamp:
        """First the snapshot, then the journal; each durable before the next begins."""
        record = self._whole(place)
        stamp = _stamp_of(record)
        if stamp.ahead:
            return self._finish(place, record)
        data = snapshot.encode(record.head, record.messages, record.ops, stamp.generation + 1)
        self._replace(place, place.snapshot, data)
        return self._finish(place, record)

    def _finish(self, place: Place, record: Record) -> Stamp:
        """The second half of a fold: the new snapshot has its name, the journal is still the old one."""
        generation = _stamp_of(record).generation + 1
        self._replace(place, place.journal, journal.header_line(record.head["birth"], generation, record.head["revision"]))
        self._fold_from.pop(place.session_id, None)
        return self._own(place, record.head, generation, record.ops[-1], len(record.messages))

    def _renew(self, place: Place) -> Stamp:
        """Both files on new inodes and every name durable, whatever happened before."""
        self._refused.add(place.session_id)  # until all of it is through
        self._spoil(place)
        made = self._fold(place)  # where it only finishes another's: that snapshot was synced before it got its name
        self._files.sync_dir(place.shard)
        self._files.sync_dir(self._layout.sessions)
        self._refused.discard(place.session_id)
        return made

    def rewrite(self, place: Place, head: Head, messages: list[bytes], ops: list[str], generation: int) -> Stamp:
        """This state and no other in new files, whatever the old ones say: for a repair, which has kept those."""
        self._refused.add(place.session_id)  # until all of it is through
        self._tips.drop(place.session_id)
        with suppress(FileNotFoundError):
            self._spoil(place)
        self._replace(place, place.snapshot, snapshot.encode(head, messages, ops, generation))
        self._replace(place, place.journal, journal.header_line(head["birth"], generation, head["revision"]))
        self._files.sync_dir(place.shard)
        made = self._own(place, head, generation, ops[-1], len(messages))
        self._refused.discard(place.session_id)
        self._fold_from.pop(place.session_id, None)
        return made

    def _whole(self, place: Place) -> Record:
        record = self._reader.record(place)
        if record is None:
            raise FileNotFoundError(errno.ENOENT, "the session vanished under its lock", place.folder)
        return record

    def _spoil(self, place: Place) -> None:
        """A byte behind the end: any other process that believes to know this journal now reads it again, and sees the
        new snapshot even if we die before the new journal has its name."""
        fd = self._files.open(place.journal, CHANGE)
        try:
            self._files.write_all(fd, b"\0", self._files.fstat(fd).st_size)
        finally:
            self._files.close(fd)

    def _replace(self, place: Place, path: str, data: bytes) -> None:
        self._files.write_new(path + ".new", data, self._mode)
        self._files.rename(path + ".new", path)
        self._files.sync_dir(place.folder)

    def _own(self, place: Place, head: Head, generation: int, op: str, count: int) -> Stamp:
        """The stamp of a journal without changes that this object just wrote."""
        stat, base = self._files.stat(place.journal), self._files.stat(place.snapshot)
        line = journal.header_line(head["birth"], generation, head["revision"])
        stamp = Stamp(place.journal, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns,
                      is_settled(stat, self._files.wall_ns()), head["birth"], generation, head["revision"], op, count,
                      int(line[8:16], 16), 0, len(line), mark_of(base), ahead=False)
        self._tips.wrote(place.session_id, stamp)
        return stamp

    # -- create --------------------------------------------------------------------------------------------------

    def create(self, place: Place, commit: Commit) -> Stamp:
        """The whole folder is made aside and gets its name in one step: a session is there with its files or not."""
        head = _first_head(commit)
        if not self._reader.is_absent(place):
            return self._is_there(place, commit)
        aside = os.path.join(self._layout.new, new_token())
        try:
            self._fill(aside, head, commit.change)
            self._make_shard(place)
            self._files.rename(aside, place.folder)
        except BaseException:
            self._files.remove_tree(aside)
            raise
        return self._settled(place, head, commit.change)

    def _is_there(self, place: Place, commit: Commit) -> Stamp:
        record = self._reader.record(place)
        if record is not None and record.ops[-1] == commit.change.op:
            tip = self._tips.get(place.session_id)
            is_own = tip is not None and tip.own and tip.stamp.op == commit.change.op
            return _stamp_of(record) if is_own and place.session_id not in self._refused else self._renew(place)
        found = None if record is None else (record.head["birth"], record.head["revision"])
        raise RevisionConflict(place.session_id, None, found)

    def _fill(self, folder: str, head: Head, change: Change) -> None:
        self._files.mkdir(folder, self._folder_mode)
        whole = snapshot.encode(head, change.add, [change.op], 0)
        self._files.write_new(os.path.join(folder, "session.json"), whole, self._mode)
        first = journal.header_line(head["birth"], 0, head["revision"])
        self._files.write_new(os.path.join(folder, "journal.jsonl"), first, self._mode)
        self._files.sync_dir(folder)

    def _make_shard(self, place: Place) -> None:
        if place.shard in self._shards:
            return
        if not self._shards:  # whoever made the store may have failed, or died, before its own names were durable
            self._files.sync_dir(self._layout.root)
        with suppress(FileExistsError):
            self._files.mkdir(place.shard, self._folder_mode)
        self._files.sync_dir(self._layout.sessions)  # also where another process made it: its own sync may be to come
        self._shards.add(place.shard)

    def _settled(self, place: Place, head: Head, change: Change) -> Stamp:
        """It has its name; what fails now leaves open whether it keeps it."""
        try:
            self._files.sync_dir(place.shard)
            return self._own(place, head, 0, change.op, len(change.add))
        except OSError as error:
            self._refused.add(place.session_id)
            raise StorageUnavailable("create", session_id=place.session_id, outcome="unknown", path=place.shard,
                                     reason=error.strerror or str(error)) from error

    def outcome(self, session_id: str) -> Outcome:
        """What a failure means for the commit that met it: a refused session may hold it from an attempt before."""
        return "unknown" if session_id in self._refused else "not applied"

    def forget(self, session_id: str) -> None:
        """The session is gone."""
        self._tips.drop(session_id)
        self._refused.discard(session_id)
        self._fold_from.pop(session_id, None)


def folder_mode(mode: int) -> int:
    """Who may read a file may enter the folder."""
    return mode | (mode & 0o444) >> 2


def _stamp_of(record: Record) -> Stamp:
    assert isinstance(record.stamp, Stamp)
    return record.stamp


def _check(commit: Commit, last: Stamp) -> None:
    change = commit.change
    if commit.expected != (last.birth, last.revision):
        raise RevisionConflict(commit.session_id, commit.expected, (last.birth, last.revision))
    if change.revision <= last.revision:
        raise ValueError(f"revision {change.revision} does not follow {last.revision}")
    if not 0 <= change.keep <= last.count:
        raise ValueError(f"cannot keep {change.keep} of {last.count} messages")


def _first_head(commit: Commit) -> Head:
    change = commit.change
    head = {**patch_json({}, change.head), "revision": change.revision}
    if change.keep:
        raise ValueError(f"cannot keep {change.keep} of 0 messages")
    if head.get("id") != commit.session_id or not isinstance(head.get("birth"), str) or change.revision < 1:
        raise ValueError("a first commit must carry the session's id, a birth and a revision above 0")
    return head
