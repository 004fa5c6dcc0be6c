"""Records against a page: commits right and wrong, retries, deletions, and reads from every state that was ever known."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from bamboo_sessions.errors import RevisionConflict
from bamboo_sessions.storages.protocol import Commit, RecordStorage, Stamp
from bamboo_sessions.testing.harness import Power
from bamboo_sessions.testing.machines import StorageMachine
from bamboo_sessions.testing.scribe import Page, first, later

NAMES = ("a", "A")
KEYS = ("k1", "k2")

names = st.sampled_from(NAMES)
which = st.integers(0, 1)
values: st.SearchStrategy[Any] = st.sampled_from([None, 0, 1.5, "x", [], {"deep": [1]}, ""])
parts = st.fixed_dictionaries({}, optional={
    "set": st.dictionaries(st.sampled_from(KEYS), values, max_size=2),
    "unset": st.lists(st.sampled_from(KEYS), max_size=1)})
heads = st.fixed_dictionaries({}, optional={
    "set": st.fixed_dictionaries({}, optional={"title": st.sampled_from(["t", "ü"]), "newer_field": values}),
    "unset": st.lists(st.sampled_from(["title", "newer_field"]), max_size=1, unique=True),
    "in": st.fixed_dictionaries({"metadata": parts})})


class RecordMachine(StorageMachine):
    """See the module. Two objects where the storage can be opened twice, else one under two names."""

    def begin(self) -> None:
        """Nothing is there."""
        one = self.desk.records
        self.storages: list[RecordStorage] = [one, self._open() if self.desk.has(Power.REOPEN) else one]
        self.pages: dict[str, Page] = {}
        self.last: dict[str, Commit] = {}
        self.buried: set[tuple[str, str]] = set()
        self.known: list[tuple[str, str, Page, Stamp]] = []
        """(id, birth, state, stamp): what somebody may still hold."""
        self.numbers = count(1)

    def _open(self) -> RecordStorage:
        return self.desk.as_records(self.desk.open())

    def _word(self) -> str:
        return str(next(self.numbers))

    @rule(name=names, at=which, size=st.integers(0, 3))
    def create(self, name: str, at: int, size: int) -> None:
        """A first commit, or a refused one where somebody is there."""
        number = self._word()
        self._commit(at, first(name, *(self._word() for _ in range(size)), birth=f"birth {number}", op=f"op {number}"))

    @precondition(lambda self: self.pages)
    @rule(data=st.data(), at=which, size=st.integers(0, 3), head=heads)
    def change(self, data: Any, at: int, size: int, head: dict[str, Any]) -> None:
        """A commit against what is there."""
        name = data.draw(st.sampled_from(sorted(self.pages)))
        page = self.pages[name]
        keep = data.draw(st.integers(0, len(page.messages)))
        self._commit(at, later(name, page.head["revision"] + 1, keep, *(self._word() for _ in range(size)),
                               birth=page.head["birth"], op=f"op {self._word()}", head=head))

    @rule(name=names, at=which, off=st.sampled_from([-1, 1]), other_birth=st.booleans())
    def change_what_is_not_there(self, name: str, at: int, off: int, other_birth: bool) -> None:
        """A commit against another revision or birth is refused."""
        page = self.pages.get(name, Page({"birth": "never", "revision": 1}))
        revision = page.head["revision"] + (0 if other_birth else off) + 1
        birth = "never" if other_birth else page.head["birth"]
        self._commit(at, later(name, revision, 0, "wrong", birth=birth, op=f"op {self._word()}"))

    @precondition(lambda self: self.last)
    @rule(data=st.data(), at=which)
    def retry(self, data: Any, at: int) -> None:
        """The newest commit once more: no second time."""
        name = data.draw(st.sampled_from(sorted(self.last)))
        stamp = self.storages[at].commit(self.last[name])
        self._remember(name, stamp)

    @rule(name=names, at=which)
    def delete(self, name: str, at: int) -> None:
        """For good."""
        page = self.pages.pop(name, None)
        self.last.pop(name, None)
        if page is not None:
            self.buried.add((name, page.head["birth"]))
        assert self.storages[at].delete_record(name) is (page is not None)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), at=which)
    def follow(self, data: Any, at: int) -> None:
        """Whoever knew a state, of this life or an earlier one, learns what is there now."""
        name, birth, known, stamp = data.draw(st.sampled_from(self.known))
        page, answer = self.pages.get(name), self.storages[at].read(name, stamp)
        if page is None:
            assert answer is None
            return
        found = (known if birth == page.head["birth"] else Page()).as_seen(answer)
        assert found == page
        self._remember(name, getattr(answer, "stamp", stamp))

    @precondition(lambda self: self.desk.has(Power.REOPEN))
    @rule(at=which)
    def reopen(self, at: int) -> None:
        """Another object goes on."""
        self.storages[at].close()
        self.storages[at] = self._open()

    def _commit(self, at: int, commit: Commit) -> None:
        name, page = commit.session_id, self.pages.get(commit.session_id)
        there = None if page is None else (page.head["birth"], page.head["revision"])
        if there != commit.expected:
            with pytest.raises(RevisionConflict) as caught:
                self.storages[at].commit(commit)
            assert (caught.value.expected, caught.value.found) == (commit.expected, there)
            return
        stamp = self.storages[at].commit(commit)
        self.pages[name], self.last[name] = (page or Page()).after(commit.change), commit
        self._remember(name, stamp)

    def _remember(self, name: str, stamp: Stamp) -> None:
        page = self.pages[name]
        self.known.append((name, page.head["birth"], page, stamp))

    @invariant()
    def what_is_there_is_what_was_committed(self) -> None:
        """By every object, under every name; in the list; among the dead."""
        for storage in self.storages:
            for name in NAMES:
                page, answer = self.pages.get(name), storage.read(name)
                assert storage.exists(name) is (page is not None)
                assert answer is None if page is None else Page().as_seen(answer) == page
            listed = {head["id"]: (head, count) for head, count in storage.heads()}
            assert listed == {name: (page.head, len(page.messages)) for name, page in self.pages.items()}
            assert [pair for pair in self.buried if not storage.was_deleted(*pair)] == []
