"""Every state in which a power cut may leave a disk, worked out from what was asked of it.

What a completed sync covers is there. Of everything else that was asked before the cut, any part may be there:

- times of files, where they were set: each as if it were a write;
- bytes: each write that no sync of its file covers, in any combination; the last one perhaps *torn* - cut short at some
  byte or sector, or with its whole length but zeros, or garbage, in place of some of its bytes (the length reaches the
  disk before the data). Bytes that were durable before are never taken back: nobody overwrote them with others;
- names: on a **journalled** file system the changes of folders reach the disk in the order in which they were made, so
  that some number of the first of them is there, and a synced folder brings everything before with it. On the worst file
  system that **POSIX** allows, every change that no sync of its own folder covers is there or not by itself.

One change of names is atomic in both, a rename between two folders too (it counts as covered when either of them is
synced): `docs/explanation/durability.md` says that the library relies on that.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import chain, combinations
from typing import Any, Literal

import attrs

from tests.torture.states_trace import (
    ROOT,
    Acknowledged,
    Names,
    Old,
    Sync,
    SyncFolder,
    Timed,
    Trace,
    Truncate,
    Write,
    is_old,
)

Model = Literal["journalled", "posix"]
MODELS: tuple[Model, ...] = ("journalled", "posix")
SECTOR = 512
ALL_SUBSETS_OF = 7
"""Of so many uncertain operations, the newest, every combination is tried; of older ones: all, none, and each but one."""


# -- torn writes ---------------------------------------------------------------------------------------------------------


@attrs.frozen
class Torn:
    """Only these ranges of a write's bytes arrived, and the file was made so much of its length longer."""

    name: str
    ranges: tuple[tuple[int, int], ...]
    length: int
    garbage: bool = False


@lru_cache(4096)
def tears(at: int, size: int, salt: int) -> tuple[Torn, ...]:
    """The ways in which a write of so many bytes at this offset may be torn, each once."""
    first, last = -at % SECTOR or SECTOR, size - (at + size) % SECTOR
    anywhere = random.Random(f"{at}/{size}/{salt}").randrange(1, size) if size > 1 else 1
    cuts = sorted({cut for cut in (1, size // 2, size - 1, first, last, anywhere) if 0 < cut < size})
    found = [Torn(f"cut at {cut}", ((0, cut),), cut) for cut in cuts]
    found += [Torn(f"zeros from {cut}", ((0, cut),), size) for cut in cuts]
    found += [Torn("zeros", (), size), Torn("garbage", (), size, garbage=True)]
    if first < size:
        found.append(Torn("first sector missing", ((first, size),), size))
    if first < last < size:
        found.append(Torn("middle missing", ((0, first), (last, size)), size))
    return tuple(found)


def _torn(content: bytes, write: Write, torn: Torn) -> bytes:
    made = bytearray(content)
    end = write.at + torn.length
    if end > len(made):
        more = end - len(made)
        made += random.Random(more).randbytes(more) if torn.garbage else bytes(more)
    for begin, stop in torn.ranges:
        made[write.at + begin : write.at + stop] = write.data[begin:stop]
    return bytes(made)


def _written(content: bytes, operation: Write | Truncate) -> bytes:
    if isinstance(operation, Truncate):
        return content[: operation.size].ljust(operation.size, b"\0")
    whole = content.ljust(operation.at, b"\0")  # a hole, where an earlier write was lost
    return whole[: operation.at] + operation.data + whole[operation.at + len(operation.data) :]


# -- what is certain, and what is not --------------------------------------------------------------------------------------


@attrs.frozen
class State:
    """What is on the disk: `tree`, told apart by `digest`; `number`: the how-manieth state that the cut may leave."""

    cut: int
    number: int
    model: Model
    told: str
    digest: bytes
    _disk: Disk
    _choice: frozenset[int]
    _tear: tuple[int, Torn] | None

    def tree(self) -> Any:
        return self._disk._tree(ROOT, self._choice, self._tear)


class Disk:
    """Goes through a trace, and tells at each point what a cut there may leave."""

    def __init__(self, trace: Trace, seed: int | str = 1) -> None:
        self.trace, self.operations, self.seed = trace, trace.operations, seed
        self._of: dict[int, list[int]] = {}
        """Object -> the operations on it, by number."""
        for number, operation in enumerate(self.operations):
            for touched in _objects(operation):
                self._of.setdefault(touched, []).append(number)
        self._known: dict[Any, tuple[Any, bytes]] = {}

    def cuts(self) -> list[int]:
        """Numbers of operations after which new states come, or the same ones with more that is owed; -1: before all."""
        return [-1, *(number for number, operation in enumerate(self.operations)
                      if not isinstance(operation, (Sync, SyncFolder)))]

    def acknowledged(self, cut: int) -> list[int]:
        return [one.number for one in self.operations[: cut + 1] if isinstance(one, Acknowledged)]

    def states(self, cut: int, models: Iterable[Model] = MODELS) -> Iterator[State]:
        """Every state once; those that a journalled file system may leave first."""
        self._known.clear()
        seen: set[bytes] = set()
        for model in models:
            certain, doubts = self._certain(cut, model)
            for number, (choice, tear) in enumerate(self._choices(doubts, model)):
                chosen = frozenset(certain | choice)
                digest = self._digest(chosen, tear)
                if digest not in seen:
                    seen.add(digest)
                    yield State(cut, number, model, self._told(doubts, choice, tear), digest, self, chosen, tear)

    def _told(self, doubts: Sequence[int], choice: frozenset[int], tear: tuple[int, Torn] | None) -> str:
        lost = [self._short(number) for number in doubts if number not in choice]
        torn = [f"{self._short(tear[0])} torn: {tear[1].name}"] if tear else []
        return "; ".join([f"lost: {', '.join(lost)}"] * bool(lost) + torn) or "nothing lost"

    def _short(self, number: int) -> str:
        operation = self.operations[number]
        if isinstance(operation, Write):
            return f"#{number} write of {len(operation.data)} bytes at {operation.at}"
        if isinstance(operation, Names):
            return f"#{number} " + " and ".join(f"{name} {'gone' if it is None else 'named'}" for _, name, it in operation.entries)
        return f"#{number} {operation}"

    def _certain(self, cut: int, model: Model) -> tuple[set[int], list[int]]:
        """(what is on the disk for sure, what may be)."""
        certain, synced = set[int](), dict[int, int]()
        for number in range(cut, -1, -1):
            operation = self.operations[number]
            if isinstance(operation, Sync):
                synced[operation.file] = number
            elif isinstance(operation, SyncFolder):
                synced[operation.folder] = number
            elif any(touched in synced for touched in _objects(operation)) or (isinstance(operation, Timed) and operation.passed):
                certain.add(number)
        names = [number for number in range(cut + 1) if isinstance(self.operations[number], Names)]
        if model == "journalled":
            last = max((number for number in names if number in certain), default=-1)
            certain |= {number for number in names if number < last}
        certain |= self._moot(names, certain)
        doubts = [number for number in range(cut + 1) if number not in certain and _objects(self.operations[number])
                  and not isinstance(self.operations[number], (Sync, SyncFolder))]
        return certain, doubts

    def _moot(self, names: Sequence[int], certain: set[int]) -> set[int]:
        """Changes of entries that were certainly changed again later: whether they were made makes no difference."""
        settled, moot = set[tuple[int, str]](), set[int]()
        for number in reversed(names):
            operation = self.operations[number]
            assert isinstance(operation, Names)
            touched = {(folder, name) for folder, name, _ in operation.entries}
            if number in certain:
                settled |= touched
            elif touched <= settled:
                moot.add(number)
        return moot

    def _choices(self, doubts: list[int], model: Model) -> Iterator[tuple[frozenset[int], tuple[int, Torn] | None]]:
        """(those of the doubtful that happened, and one of them that is torn)."""
        for chosen in self._subsets(doubts, model):
            yield frozenset(chosen), None
        everything = frozenset(doubts)
        for number in doubts[-ALL_SUBSETS_OF:]:
            operation = self.operations[number]
            if isinstance(operation, Write) and operation.data:
                around = [everything, frozenset(one for one in doubts if one <= number), frozenset([number])]
                around += [everything - {one} for one in doubts[-ALL_SUBSETS_OF:] if one != number]
                for choice in dict.fromkeys(one for one in around if self._in_order(one, doubts, model)):
                    for torn in tears(operation.at, len(operation.data), number):
                        yield choice, (number, torn)

    def _subsets(self, doubts: list[int], model: Model) -> Iterator[Sequence[int]]:
        old, new = doubts[:-ALL_SUBSETS_OF], doubts[-ALL_SUBSETS_OF:]
        newer = list(chain.from_iterable(combinations(new, size) for size in range(len(new), -1, -1)))
        older = dict.fromkeys([tuple(old), (), *(tuple(one for one in old if one != without) for without in old)])
        for number, some in enumerate(older):
            for rest in newer if number < 2 else [tuple(new), ()]:
                choice = (*some, *rest)
                if self._in_order(choice, doubts, model):
                    yield choice

    def _in_order(self, choice: Iterable[int], doubts: Sequence[int], model: Model) -> bool:
        if model == "posix":
            return True
        chosen = set(choice)
        names = [number in chosen for number in doubts if isinstance(self.operations[number], Names)]
        return names == sorted(names, reverse=True)

    # -- what is there then ----------------------------------------------------------------------------------------------

    def _content(self, thing: int, choice: frozenset[int], tear: tuple[int, Torn] | None) -> tuple[Any, bytes]:
        """(a file's bytes or a folder's entries, a digest of them)."""
        numbers = tuple(number for number in self._of.get(thing, ()) if number in choice)
        tear = tear if tear is not None and tear[0] in numbers else None
        key = (thing, numbers, tear)
        if key not in self._known:
            self._known[key] = self._built(thing, numbers, tear)
        return self._known[key]

    def _built(self, thing: int, numbers: Sequence[int], tear: tuple[int, Torn] | None) -> tuple[Any, bytes]:
        content: Any = self.trace.objects.get(thing)
        if thing in self.trace.folders:
            content = dict(content or {})
            for number in numbers:
                for folder, name, named in self.operations[number].entries:  # type: ignore[union-attr]
                    if folder == thing:
                        content.pop(name, None) if named is None else content.__setitem__(name, named)
            return content, b""
        content, ns = content or b"", self.trace.times.get(thing)
        for number in numbers:
            operation: Any = self.operations[number]
            if isinstance(operation, Timed):
                ns = operation.ns if is_old(operation.ns) else None
                continue
            ns = None
            content = _torn(content, operation, tear[1]) if tear and tear[0] == number else _written(content, operation)
        digest = blake2b(content, digest_size=12).digest()
        if ns is None:
            return content, digest
        old = Old(content)
        old.ns = ns
        return old, digest + b"%d" % (ns // 10**9 // 3600)

    def _digest(self, choice: frozenset[int], tear: tuple[int, Torn] | None) -> bytes:
        told: list[bytes] = []
        self._walk(ROOT, choice, tear, told)
        return blake2b(b"\0".join(told), digest_size=12).digest()

    def _walk(self, folder: int, choice: frozenset[int], tear: tuple[int, Torn] | None, told: list[bytes]) -> None:
        entries, _ = self._content(folder, choice, tear)
        for name in sorted(entries):
            content, digest = self._content(entries[name], choice, tear)
            if isinstance(content, dict):
                told.append(b"(" + name.encode())
                self._walk(entries[name], choice, tear, told)
                told.append(b")")
            else:
                told += [name.encode(), digest]

    def _tree(self, folder: int, choice: frozenset[int], tear: tuple[int, Torn] | None) -> Any:
        entries, _ = self._content(folder, choice, tear)
        made = {}
        for name, number in entries.items():
            content, _ = self._content(number, choice, tear)
            made[name] = self._tree(number, choice, tear) if isinstance(content, dict) else content
        return made


def _objects(operation: Any) -> tuple[int, ...]:
    if isinstance(operation, (Write, Truncate, Sync, Timed)):
        return (operation.file,)
    if isinstance(operation, Names):
        return tuple({folder: None for folder, _, _ in operation.entries})
    if isinstance(operation, SyncFolder):
        return (operation.folder,)
    return ()
