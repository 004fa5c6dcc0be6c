"""Storages that search in a wrong way; see `mutants`."""

from __future__ import annotations

import attrs
import orjson

from bamboo_sessions import MemoryStorage
from bamboo_sessions.filters import Filter
from bamboo_sessions.search import page
from bamboo_sessions.testing import Power, StorageHarness
from tests.conformance.mutants import RECORDS, wrong
from tests.conformance.mutants_expiry import AroundExpiring


def searching(search, **methods):
    """`search(right, self, query, wanted, limit, cursor)`."""
    return AroundExpiring(wrong(search=search, **methods), RECORDS | {Power.EXPIRY})


def forgets_accents(right, self, query, wanted, limit, cursor=None):
    """Finds only what is written without any."""
    found = right(query, wanted, limit, cursor)
    return attrs.evolve(found, items=tuple(hit for hit in found.items if hit.snippet.isascii()))


def any_word(right, self, query, wanted, limit, cursor=None):
    """One of them will do."""
    first = next(iter(sorted(query.words)), None)
    return right(query if first is None else attrs.evolve(query, words=frozenset([first])), wanted, limit, cursor)


def what_was_first_said(right, self, query, wanted, limit, cursor=None):
    """An index that is made once a message, by its id, and never again."""
    index = self.__dict__.setdefault("index", {})
    with_first = []
    for kept in self._kept.values():
        lines = [index.setdefault(line.partition(b",")[0], line) if number == 0 else line for number, line in enumerate(kept.messages)]
        with_first.append((kept.head, lines))
    return page(with_first, query, wanted, limit, cursor)


def titles_that_stay(right, self, query, wanted, limit, cursor=None):
    """The first one that each session had."""
    titles = self.__dict__.setdefault("titles", {})
    there = [({**kept.head, "title": titles.setdefault(kept.head["id"], kept.head.get("title"))}, kept.messages) for kept in self._kept.values()]
    return page(there, query, wanted, limit, cursor)


def without_marks(right, self, query, wanted, limit, cursor=None):
    found = right(query, wanted, limit, cursor)
    return attrs.evolve(found, items=tuple(attrs.evolve(hit, marks=()) for hit in found.items))


def pages_that_overlap(right, self, query, wanted, limit, cursor=None):
    """The last place of a page comes again on the next one."""
    found = right(query, wanted, limit + 1, cursor)
    return found if found.next_cursor is None else attrs.evolve(right(query, wanted, limit, cursor), next_cursor=found.next_cursor)


def whatever_the_filter(right, self, query, wanted, limit, cursor=None):
    return right(query, Filter(), limit, cursor)


def as_a_language(right, self, query, wanted, limit, cursor=None):
    """Words of a query language are taken for one."""
    return right(attrs.evolve(query, words=query.words - {"or", "and", "not", "near"} or query.words), wanted, limit, cursor)


def whole_lines(right, self, query, wanted, limit, cursor=None):
    """Whatever is stored is searched, keys and ids included."""
    there = [(kept.head, [b'{"id":"i","m":{"role":"user","content":%b}}' % orjson.dumps(line.decode()) for line in kept.messages])
             for kept in self._kept.values()]
    return page(there, query, wanted, limit, cursor)


def expired_or_not(right, self, query, wanted, limit, cursor=None):
    return page([(kept.head, kept.messages) for kept in self._kept.values()], query, wanted, limit, cursor)


class OneForAll(MemoryStorage):
    """Each has sessions of its own, and a search goes through those of all."""

    everybody: list = []

    def __init__(self):
        super().__init__()
        self.everybody.append(self)

    def search(self, query, wanted, limit, cursor=None):
        there = [(kept.head, kept.messages) for one in self.everybody for kept in one._kept.values()]
        return page(there, query, wanted, limit, cursor)


class Neighbours(StorageHarness):
    powers = RECORDS

    def open(self, place):
        OneForAll.everybody.clear()
        return OneForAll()

    def open_beside(self, place):
        return OneForAll()
