"""A conversation's messages as an immutable sequence whose copies cost nothing.

`Messages` is (backing list, how many of it) + (tail list, how many of that). A snapshot shares both, so a load copies
nothing however long the session is. The backing holds only what was committed: a caller's unsaved additions go to a
tail of its own, and dropping them leaves nothing behind. That two sequences share a backing *proves* their common
prefix, so a merge looks only at what was added since: O(delta), not O(N).

What a storage read stands in the backing as the lines it read. A `Message` is made of a line when somebody first asks
for it, and takes the line's place: whoever asks later, in whichever copy, gets the same object.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NoReturn, cast, overload

from bamboo_sessions.models.message import Message


class Backing:
    """A list that only grows, with the one step that must be atomic: "append behind the first `at`, if they are all"."""

    __slots__ = ("_indexed", "_lines", "_places", "items", "lock")

    def __init__(self, items: list[Message] | list[bytes] | list[Message | bytes], lines: int = 0) -> None:
        self.items = cast("list[Message | bytes]", items)
        self._lines = lines
        """Behind the first so many, every item is a message already. Only ever gets smaller."""
        self._places: dict[str, int] = {}
        self._indexed = 0
        # Guards the compare-and-extend of `items`, the exchange of a line for its message, and the index. Reading what is
        # a message needs no lock: nothing moves, and no message is ever replaced.
        self.lock = threading.Lock()

    def between(self, start: int, stop: int) -> list[Message]:
        """The messages from `start` up to `stop`, in a list of the caller's own."""
        if start < self._lines:
            with self.lock:
                self._make(start, min(stop, self._lines))
        return cast("list[Message]", self.items[start:stop])

    def first(self, n: int) -> Iterator[Message]:
        """The first `n` messages, one by one."""
        if self._lines:
            with self.lock:
                self._make(0, min(n, self._lines))
        return cast("Iterator[Message]", islice(self.items, n))

    def _make(self, start: int, stop: int) -> None:
        """Exchange lines for their messages; the caller holds the lock, or two threads would make two of one."""
        made = [Message.from_line(item) if type(item) is bytes else item for item in self.items[start:stop]]
        self.items[start:stop] = made
        if stop >= self._lines > start:
            self._lines = start  # after the exchange: a reader without the lock believes this number

    def extend_from(self, at: int, new: Sequence[Message]) -> bool:
        """Grow so that `new` stands behind the first `at`; False where other messages stand there already.

        Two readers that catch up with one commit bring the same messages: the second one finds them in place.
        """
        with self.lock:
            there = self.items[at : at + len(new)]
            if there and not all(map(_is_same, there, new)):
                return False
            self.items += new[len(there) :] if there else new
            return True

    def place_of(self, message_id: str) -> int | None:
        """Where the message of this id stands. The index is made when first asked for and grows with the list: all copies
        of a session share it, so that a message with an id of its own costs the same in a long conversation."""
        with self.lock:
            self._make(0, self._lines)
            for place in range(self._indexed, len(self.items)):
                self._places[cast("Message", self.items[place]).id] = place
            self._indexed = len(self.items)
            return self._places.get(message_id)

    def __reduce__(self) -> tuple[object, ...]:
        lines = self._lines  # before the items: those may have become messages since, not the other way round
        return Backing, (self.items[:], lines)


def _is_same(there: Message | bytes, new: Message) -> bool:
    return there == new.line if isinstance(there, bytes) else there.same_as(new)


class Messages(Sequence[Message]):
    """What `session.messages` gives: a snapshot that equals a list; `+` and slices give lists; it cannot be changed."""

    __slots__ = ("_backing", "_m", "_n", "_tail")

    def __init__(self, backing: Backing, n: int, tail: Backing | None = None, m: int = 0) -> None:
        self._backing, self._n, self._tail, self._m = backing, n, tail, m

    @classmethod
    def of(cls, messages: Iterable[Message]) -> Messages:
        """A sequence with a backing of its own."""
        items = list(messages)
        return cls(Backing(items), len(items))

    @classmethod
    def of_lines(cls, lines: Iterable[bytes]) -> Messages:
        """The same from the lines that a storage kept; each becomes a message when it is first looked at."""
        items = list(lines)
        return cls(Backing(items, len(items)), len(items))

    # -- growing, each giving a new sequence ---------------------------------------------------------------------

    def appended(self, *new: Message) -> Messages:
        """With `new` at the end, in the tail: O(len(new)) unless another copy of this tail went another way first."""
        tail, m = self._tail, self._m
        if tail is None or not tail.extend_from(m, new):
            tail = Backing([*(tail.between(0, m) if tail is not None else ()), *new])
        return Messages(self._backing, self._n, tail, m + len(new))

    def committed(self, keep: int, added: Sequence[Message]) -> Messages:
        """The first `keep` of this and `added`, as committed state: shared with this one's backing where that can be.

        Called once `added` is durable; never before, because every copy of the session shares the backing.
        """
        if self._tail is None and keep == self._n and self._backing.extend_from(keep, added):
            return Messages(self._backing, keep + len(added))
        return Messages.of(chain(islice(self, keep), added))

    def kept(self, k: int) -> Messages:
        """The first `k`, sharing what is shared."""
        if k <= self._n:
            return Messages(self._backing, k)
        return Messages(self._backing, self._n, self._tail, k - self._n)

    def shared_with(self, other: Messages) -> int:
        """How many leading messages are the same by construction, without looking at any."""
        if self._backing is not other._backing:
            return 0
        n = min(self._n, other._n)
        if self._n == other._n and self._tail is not None and self._tail is other._tail:
            return n + min(self._m, other._m)
        return n

    def same_as(self, other: Messages) -> bool:
        """The same messages under the same ids, by the stored bytes; looks only behind what they share."""
        k = self.shared_with(other)
        return len(self) == len(other) and all(map(Message.same_as, self[k:], other[k:]))

    def index_of(self, message_id: str) -> int:
        """Where the message of this id stands, counted from the front; -1 where it is not."""
        place = self._backing.place_of(message_id)
        if place is not None and place < self._n:
            return place
        place = None if self._tail is None else self._tail.place_of(message_id)
        return self._n + place if place is not None and place < self._m else -1

    # -- the sequence --------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._n + self._m

    def __iter__(self) -> Iterator[Message]:
        head = self._backing.first(self._n)
        return chain(head, self._tail.first(self._m)) if self._tail is not None else head

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> list[Message]: ...
    def __getitem__(self, index: int | slice) -> Message | list[Message]:
        if isinstance(index, slice):
            return self._slice(index)
        n = self._n
        i = index + n + self._m if index < 0 else index
        if 0 <= i < n:
            item = self._backing.items[i]
            return self._backing.between(i, i + 1)[0] if isinstance(item, bytes) else item
        if self._tail is None or not n <= i < n + self._m:
            raise IndexError(f"message {index} of {n + self._m}")
        return self._tail.between(i - n, i - n + 1)[0]

    def _slice(self, index: slice) -> list[Message]:
        start, stop, step = index.indices(len(self))
        n = self._n
        if step == 1 and start >= n:  # the usual "what is new" must not walk a long prefix
            return self._tail.between(start - n, max(stop - n, 0)) if self._tail is not None else []
        if step == 1 and stop <= n:
            return self._backing.between(start, stop)
        return [self[i] for i in range(start, stop, step)]

    def __add__(self, other: Iterable[Message]) -> list[Message]:
        return [*self, *other]

    def __radd__(self, other: Iterable[Message]) -> list[Message]:
        return [*other, *self]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Messages | list | tuple):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal to a list, so unhashable like one

    def __copy__(self) -> Messages:
        return self

    def __deepcopy__(self, memo: object) -> Messages:
        return self

    def __repr__(self) -> str:
        return f"<{len(self)} messages>" if len(self) > 3 else repr(list(self))

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("session.messages is a snapshot: use session.add_message, replace_message, remove_message, "
                        "or assign session.messages = […]")

    append = extend = insert = pop = remove = clear = sort = reverse = _refuse
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
