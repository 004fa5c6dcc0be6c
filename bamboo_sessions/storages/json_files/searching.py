"""Searches of files: an index says where to look, and the sessions that it names are read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from bamboo_sessions.errors import StorageError
from bamboo_sessions.filters import Filter
from bamboo_sessions.models.hits import SearchPage
from bamboo_sessions.search import TITLE, Found, Query, Spot, cut, in_session, stand, title_of
from bamboo_sessions.storages.json_files.expiring import Expiring
from bamboo_sessions.storages.json_files.words import WordIndex
from bamboo_sessions.storages.json_files.words_file import WordsFile
from bamboo_sessions.storages.protocol import Head, Record
from bamboo_sessions.storages.records import leave_out


class Searching(Expiring):
    """The power `Search`."""

    _words: WordIndex | None = None

    def search(self, query: Query, wanted: Filter, limit: int, cursor: str | None = None) -> SearchPage:
        """See `Search`. The first search after many changes reads what was changed; the first of all reads everything."""
        after = Spot.read(cursor, limit)
        heads = self._listed_heads()
        states = {name: _state_of(head) for name, head in heads.items()}
        found = self._index().places(states, self._for_the_index, query.terms)
        return cut(list(self._looked_at(query, wanted, limit, after, found, heads)), limit)

    def _listed_heads(self) -> dict[str, Head]:
        """By id, as they are now; those that can be put in order."""
        found = {}
        for head, _ in self.heads():
            if isinstance(head.get("updated_at"), str):
                found[head["id"]] = head
            else:
                leave_out(str(head.get("id")), TypeError("its last change is no text"))
        return found

    def _let_go_of_index(self) -> None:
        if self._words is not None:
            self._words.close()

    def _index(self) -> WordIndex:
        if self._words is None:
            path = os.path.join(self.root, "index", "search.sqlite")
            alone = partial(self._other_lock, "index", "")
            file = WordsFile(path, self.store_id, self._mode, alone, self._files.wall_ns)
            self._words = WordIndex(file, self._is_gone)
        return self._words

    def _for_the_index(self, session_id: str) -> tuple[str, str, Sequence[bytes]] | None:
        record = self._readable(session_id)
        return None if record is None else (_state_of(record.head), title_of(record.head), record.messages)

    def _is_gone(self, session_id: str) -> bool:
        """Whether there certainly is none, be it one that is not listed: nobody's id, or no folder."""
        try:
            return self._reader.is_absent(self._place(session_id))
        except OSError:
            return False
        except (ValueError, TypeError):
            return True

    def _readable(self, session_id: str) -> Record | None:
        """One that is damaged, or went meanwhile, is found by nobody, and hides no other."""
        try:
            answer = self.read(session_id)
        except StorageError as error:
            leave_out(session_id, error)
            return None
        return answer if isinstance(answer, Record) else None

    def _looked_at(self, query: Query, wanted: Filter, limit: int, after: Spot | None, places: dict[str, list[int]],
                   heads: dict[str, Head]) -> Iterator[Found]:
        """In the order of the heads, where each was when they were listed. What was changed since is looked at as it is now, all
        of it: it is at the top by now, but one that is changed all the time would be found by no search."""
        count = 0
        for name in sorted((name for name in places if name in heads), key=lambda name: stand(heads[name]), reverse=True):
            head = heads[name]
            if not self._takes(wanted, head) or (after is not None and stand(head) > (after.updated_at, after.session_id)):
                continue
            record = self._readable(name)
            if record is None or not self._takes(wanted, record.head):
                continue
            same = _state_of(record.head) == _state_of(head)
            at = _behind(after, head, places[name] if same else range(TITLE, len(record.messages)))
            for spot, one in in_session(query, record.head, record.messages, None, leave_out, at):
                yield Spot(head["updated_at"], name, spot.at), one
                count += 1
            if count > limit:
                return

    def _takes(self, wanted: Filter, head: Head) -> bool:
        try:
            return wanted.takes(head)
        except (KeyError, TypeError) as error:
            leave_out(str(head.get("id")), error)
            return False


def _state_of(head: Head) -> str:
    """What differs whenever the words do. The revision alone is not enough: behind a backup that was put back it comes again."""
    return f"{head.get('birth')} {head.get('revision')} {head.get('updated_at')}"


def _behind(after: Spot | None, head: Head, places: Iterable[int]) -> Iterable[int]:
    """Those of a session that no page has shown yet."""
    if after is None or stand(head) != (after.updated_at, after.session_id):
        return places
    return [at for at in places if at > after.at]
