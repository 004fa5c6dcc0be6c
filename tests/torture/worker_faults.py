"""Writers with one defect each, to show that what finds nothing in the real one would find something.

Each is the ordinary file layer with one order of things changed, the way that somebody in a hurry would write it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from unittest.mock import patch

import attrs

from bamboo_sessions._files import Files
from bamboo_sessions.storages.json_files import writer as writer_module
from bamboo_sessions.storages.json_files.graves import Graves
from bamboo_sessions.storages.json_files.storage import JsonFileStorage
from bamboo_sessions.storages.json_files.writer import Writer

Acknowledge = Callable[[int], None]


def _plainly(acknowledge: Acknowledge) -> Acknowledge:
    return acknowledge


def _early(acknowledge: Acknowledge) -> Acknowledge:
    """The next change is acknowledged together with this one, before it is made."""

    def both(number: int) -> None:
        acknowledge(number)
        acknowledge(number + 1)

    return both


class _RemovesFirst(Files):
    """Makes room for the new name before it takes it."""

    def rename(self, old: str, new: str) -> None:
        if os.path.isfile(new):
            os.unlink(new)
        super().rename(old, new)


class _WritesAnew(Files):
    """Truncates the file and writes all of it, where a line should go to its end."""

    def write_all(self, fd: int, data: bytes, offset: int) -> None:
        if offset:
            whole = os.pread(fd, offset, 0) + data
            os.ftruncate(fd, 0)
            super().write_all(fd, whole, 0)
        else:
            super().write_all(fd, data, offset)


class _WritesInPlace(Files):
    """Writes a new file under its final name at once."""

    def write_new(self, path: str, data: bytes, mode: int) -> None:
        super().write_new(path.removesuffix(".new"), data, mode)

    def rename(self, old: str, new: str) -> None:
        if old != new + ".new":
            super().rename(old, new)


@contextmanager
def _nothing_else() -> Iterator[None]:
    yield


@contextmanager
def _patched(owner: type, name: str, made: Callable[..., object]) -> Iterator[None]:
    with patch.object(owner, name, made):
        yield


def _created_in_place(self: Writer, place, commit):
    """The folder is made under its name and filled there."""
    head = writer_module._first_head(commit)
    if not self._reader.is_absent(place):
        return self._is_there(place, commit)
    self._make_shard(place)
    self._fill(place.folder, head, commit.change)
    return self._settled(place, head, commit.change)


def _cleared_in_place(self: Graves, place) -> None:
    """What the folder holds is removed where it stands."""
    self._files.remove_tree(place.folder)
    self._files.sync_dir(place.shard)


def _cut_too_far(self: Writer, place, stamp) -> None:
    """A torn tail takes the line before it along."""
    self._cut(place.journal, stamp.start)


def _removed_first(self: JsonFileStorage, place, *, expired) -> bool:
    """The tombstone comes when the session is gone."""
    birth = self._birth(place)
    self._graves.clear_away(place)
    self._graves.bury(place, birth, expired=expired)
    self._writer.forget(place.session_id)
    return True


@attrs.frozen
class Fault:
    """`scenario`: one in which it must be found; `kinds`: as what."""

    scenario: str
    kinds: tuple[str, ...]
    files: type[Files] | None = None
    acknowledging: Callable[[Acknowledge], Acknowledge] = _plainly
    within: Callable[[], AbstractContextManager[None]] = _nothing_else

    @contextmanager
    def at_work(self, ordinary: type[Files]) -> Iterator[Files]:
        """The file layer of a writer with this defect, on top of the scenario's own."""
        with self.within():
            yield ordinary() if self.files is None else type("Faulty", (self.files, ordinary), {})()


FAULTS = {
    "acknowledges_first": Fault("append", ("lost",), acknowledging=_early),
    "removes_the_old_name_first": Fault("fold", ("lost", "broken"), _RemovesFirst),
    "truncates_and_writes_anew": Fault("append", ("lost", "broken"), _WritesAnew),
    "writes_in_place": Fault("fold", ("lost", "broken"), _WritesInPlace),
    "creates_in_place": Fault("create", ("lost", "broken", "ghost"), within=lambda: _patched(Writer, "create", _created_in_place)),
    "deletes_in_place": Fault("delete", ("lost", "broken", "ghost"), within=lambda: _patched(Graves, "clear_away", _cleared_in_place)),
    "purges_before_it_is_noted": Fault("expire", ("broken",), within=lambda: _patched(JsonFileStorage, "_removed", _removed_first)),
    "cuts_off_too_much": Fault("recover", ("lost",), within=lambda: _patched(Writer, "_quarantine", _cut_too_far)),
}


