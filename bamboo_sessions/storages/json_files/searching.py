"""Searches of files: an index says where to look, and the sessions that it names are read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from bamboo_sessions.errors import StorageError
from bamboo_sessions.filters import Filter
from bamboo_sessions.models.hits import SearchPage
from bamboo_sessions.search import Found, Query, Spot, cut, in_session, title_of
from bamboo_sessions.storages.json_files.expiring import Expiring
from bamboo_sessions.storages.json_files.words import State, WordIndex
from bamboo_sessions.storages.protocol import Head, Record
from bamboo_sessions.storages.records import leave_out


class Searching(Expiring):
    """The power `Search`."""

    _words: WordIndex | None = None

    def search(self, query: Query, wanted: Filter, limit: int, cursor: str | None = None) -> SearchPage:
        """See `Search`. The first search after many changes reads what was changed; the first of all reads everything."""
        after = Spot.read(cursor, limit)
        heads = {head["id"]: head for head, _ in self.heads()}
        states = {name: (head["birth"], head["revision"]) for name, head in heads.items()}
        found = self._index().places(states, self._for_the_index, query.terms)
        return cut(list(self._looked_at(query, wanted, limit, after, found, heads)), limit)

    def _let_go_of_index(self) -> None:
        if self._words is not None:
            self._words.close()

    def _index(self) -> WordIndex:
        if self._words is None:
            self._words = WordIndex(os.path.join(self.root, "index", "search.sqlite"), self.store_id, self._mode)
        return self._words

    def _for_the_index(self, session_id: str) -> tuple[State, str, Sequence[bytes]] | None:
        record = self._readable(session_id)
        if record is None:
            return None
        return (record.head["birth"], record.head["revision"]), title_of(record.head), record.messages

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
        """In the order of the heads; what was changed since they were read is looked at as it was listed, or not at all."""
        count = 0
        for name in sorted((name for name in places if name in heads), key=lambda name: _stand(heads[name]), reverse=True):
            head = heads[name]
            if not self._takes(wanted, head) or (after is not None and _stand(head) > (after.updated_at, after.session_id)):
                continue
            record = self._readable(name)
            if record is None or (record.head["birth"], record.head["updated_at"]) != (head["birth"], head["updated_at"]):
                continue  # it is at the top by now, where a new search finds it
            for one in in_session(query, record.head, record.messages, after, leave_out, places[name]):
                yield one
                count += 1
            if count > limit:
                return

    def _takes(self, wanted: Filter, head: Head) -> bool:
        try:
            return wanted.takes(head)
        except (KeyError, TypeError) as error:
            leave_out(str(head.get("id")), error)
            return False


def _stand(head: dict[str, Any]) -> tuple[str, str]:
    return head["updated_at"], head["id"]
