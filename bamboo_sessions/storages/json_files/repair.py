"""Repairing one session: keep the damaged files, then write what is left of them as a new state.

Under the session's lock, in this order, and each step durable before the next:

1. the files are copied, byte for byte, into `quarantine/`;
2. a byte is put behind the journal's end, so that no process that believes to know it appends another line;
3. the new snapshot gets its name, then the new journal: as in a fold.

Killed before 3, everything is as damaged as it was; killed in the middle of 3, the new snapshot alone already is the
state, or the pair is still found damaged and repaired again, from a snapshot that has everything.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import attrs
import structlog

from bamboo_sessions._files import Files
from bamboo_sessions.errors import CorruptSession, UnsupportedFormat
from bamboo_sessions.ids import new_token
from bamboo_sessions.models.findings import Finding, Repair
from bamboo_sessions.models.times import to_text
from bamboo_sessions.storages.json_files import journal, remains, snapshot
from bamboo_sessions.storages.json_files.audit import audit
from bamboo_sessions.storages.json_files.layout import Place, quarantine_in
from bamboo_sessions.storages.json_files.salvage import Salvaged, finish, salvage
from bamboo_sessions.storages.json_files.writer import Writer, folder_mode

_BEYOND: Final = {
    "symlink": "put the file itself in the place of the link",
    "not-a-folder": "move away what stands there",
    "wrong-place": "move the folder to where it belongs",
}
"""What is to be done about damage that no rewriting of files mends."""
_FILES: Final = ("session.json", "session.json.new", "journal.jsonl")
_log = structlog.get_logger(__name__)


@attrs.frozen(slots=True)
class _Left:
    """The remains of both files, and the head to go on from."""

    snap: remains.SnapshotRemains
    log: remains.JournalRemains | None
    head: dict[str, Any]
    note: str = ""


class Repairer:
    """Repairs sessions of one store. The caller holds the session's lock."""

    def __init__(self, files: Files, writer: Writer, mode: int) -> None:
        self._files, self._writer, self._mode = files, writer, mode

    def repair(self, place: Place, found: list[Finding], now: datetime) -> Repair:
        """`found`: what a check said, under the same lock."""
        damage = tuple(one for one in found if one.severity == "damage")
        if not damage:
            return Repair(place.session_id, changed=False, revision=None, found=tuple(found))
        for one in damage:
            if one.kind in _BEYOND:
                raise CorruptSession(place.session_id, path=one.path, offset=one.offset,
                                     reason=f"{one.what}; repair cannot mend that: {_BEYOND[one.kind]}")
        data = {name: self._read(os.path.join(place.folder, name)) for name in _FILES}
        left = _left(place, data, now)
        state = salvage(left.head, left.snap, left.log, now)
        return self._written(place, tuple(found), data, left, state)

    def _written(self, place: Place, found: tuple[Finding, ...], data: dict[str, bytes | None], left: _Left,
                 state: Salvaged) -> Repair:
        head, messages, ops = finish(state)
        generation = 1 + max(left.snap.generation, left.log.header.generation if left.log and left.log.header else 0)
        _prove(place, head, messages, ops, generation)
        kept_in = self._quarantine(place, data, state.revision)
        self._writer.rewrite(place, head, messages, ops, generation)
        _log.warning("session repaired", session_id=place.session_id, revision=head["revision"], quarantined=kept_in)
        not_usable = (*([left.note] if left.note else []), *state.not_usable)
        return Repair(place.session_id, True, head["revision"], found, tuple(state.kept), not_usable, tuple(kept_in))

    def _read(self, path: str) -> bytes | None:
        try:
            return self._files.read_whole(path)
        except FileNotFoundError:
            return None

    # -- quarantine ----------------------------------------------------------------------------------------------

    def _quarantine(self, place: Place, data: dict[str, bytes | None], revision: int) -> list[str]:
        """A copy of each file under a name of its own: when, at which revision, what. Never over another one."""
        folder = quarantine_in(place.folder)
        with suppress(FileExistsError):
            self._files.mkdir(folder, folder_mode(self._mode))
        self._files.sync_dir(place.folder)
        when = datetime.fromtimestamp(self._files.wall_ns() / 10**9, UTC)
        stem = f"{when:%Y%m%dT%H%M%SZ}-{revision}-{new_token()}"
        return [self._copy(folder, f"{stem}.{name}", name, there) for name, there in data.items() if there is not None]

    def _copy(self, folder: str, name: str, suffix: str, data: bytes) -> str:
        """A repair that was killed behind this step left the same copy: one is enough."""
        path = self._same_in(folder, suffix, data)
        if path is None:
            path = os.path.join(folder, name)
            self._files.write_new(path + ".new", data, self._mode)
            self._files.rename(path + ".new", path)
        self._files.sync_dir(folder)
        return path

    def _same_in(self, folder: str, suffix: str, data: bytes) -> str | None:
        for name in self._files.listdir(folder):
            path = os.path.join(folder, name)
            if name.endswith(f".{suffix}") and not name.endswith(f".{suffix}.new") and (
                    self._files.stat(path).st_size == len(data)) and self._files.read_whole(path) == data:
                return path
        return None


# -- what to go on from ------------------------------------------------------------------------------------------


def _left(place: Place, data: dict[str, bytes | None], now: datetime) -> _Left:
    snap_data, journal_data = data["session.json"], data["journal.jsonl"]
    snap = remains.SnapshotRemains() if snap_data is None else remains.of_snapshot(snap_data, place.snapshot)
    log = None if journal_data is None else remains.of_journal(journal_data, place.journal)
    birth = _birth(place, snap, log, snap_data or b"", journal_data or b"")
    snap = _newer(place, snap, birth, data["session.json.new"])
    if snap.vouched and snap.head is not None:
        return _Left(snap, log, snap.head)
    note = "" if snap_data is not None else "the snapshot, which is missing"
    certain = {"id": place.session_id, "birth": birth, "revision": max(1, _revision(snap, log))}
    made = snap.head if snap.head is not None else _least_head(log, now)
    return _Left(snap, log, {**made, **certain}, note)


def _revision(snap: remains.SnapshotRemains, log: remains.JournalRemains | None) -> int:
    """Of a snapshot whose head nothing vouches for. Were it taken as too high, changes would pass for known already; as too
    low, changes that are in it would be made once more."""
    pieces = [] if log is None else [piece.change for piece in log.pieces if piece.change is not None]
    for change in pieces:
        if snap.ops and change.op == snap.ops[-1]:
            return change.revision  # a fold was cut short: the snapshot ends with this very commit
    if log is not None and log.header is not None:
        return log.header.revision
    if pieces:
        return pieces[0].revision - 1
    return 0 if snap.head is None else int(snap.head["revision"])


def _birth(place: Place, snap: remains.SnapshotRemains, log: remains.JournalRemains | None, *data: bytes) -> str:
    """Whoever holds a copy of this session knows it by its birth: under another one, every copy would pass for one of a
    deleted session. So it is never made up."""
    if snap.vouched and snap.head is not None:
        return str(snap.head["birth"])
    if log is not None and log.header is not None:
        return log.header.birth
    births = remains.births_in(*(one.split(b"\n", 1)[0] for one in data))
    if len(births) == 1:
        return births.pop()
    raise CorruptSession(place.session_id, path=place.folder, offset=0, reason=(
        "which life of the session this is (its birth) can be read in neither file, so nothing was changed and nothing was "
        "moved; put session.json back from a backup, then repair again: the journal's changes are still used"))


def _newer(place: Place, snap: remains.SnapshotRemains, birth: str, data: bytes | None) -> remains.SnapshotRemains:
    """A fold that was killed before it exchanged the snapshot left a whole one, newer than the damaged one."""
    if snap.whole or data is None:
        return snap
    try:
        new = remains.of_snapshot(data, place.snapshot + ".new")
    except UnsupportedFormat:
        return snap
    if not new.whole or new.head is None or new.head["birth"] != birth or new.head["id"] != place.session_id:
        return snap
    return new if snap.head is None or new.head["revision"] >= snap.head["revision"] else snap


def _least_head(log: remains.JournalRemains | None, now: datetime) -> dict[str, Any]:
    """Two times, which a head must have; the changes of the journal then say more."""
    changes = [] if log is None else [piece.change.head for piece in log.pieces if piece.change is not None]
    times = [when for change in changes if type(when := change.get("set", {}).get("updated_at")) is str]
    when = min(times, default=to_text(now))
    return {"created_at": when, "updated_at": when}


def _prove(place: Place, head: dict[str, Any], messages: list[bytes], ops: list[str], generation: int) -> None:
    """Audit what is about to be written, while nothing has been."""
    first = journal.header_line(head["birth"], generation, head["revision"])
    problems = audit(place, snapshot.encode(head, messages, ops, generation), first)
    if problems:
        one = problems[0]
        raise CorruptSession(place.session_id, path=place.folder, offset=0, reason=(
            f"what is left of it makes no session ({one.what}); nothing was changed"))
