"""Texts that are unlike others: made to be slow or large for whoever takes them apart, damaged, or composed otherwise."""

from __future__ import annotations

import random
import time
import unicodedata

import pytest

from bamboo_sessions import JsonFileStorage, MemoryStorage, Session, search_words
from bamboo_sessions.search import Query, excerpt, said
from tests.support import bundle


def test_marks_in_the_wrong_order_do_not_stop_the_process():
    """Unicode's normal form sorts the marks of a letter, in a time that grows with the square of their number: eight times the marks
    may take ten times as long, not sixty. A message of 100,000 characters took ten seconds, in which no other thread ran."""
    def took(marks):
        began = time.perf_counter()
        search_words.terms(f"{marks}a" + "\u0315\u0300" * marks)
        Query.read("x").spans(f"{marks}b" + "\u0315\u0300" * marks)
        return time.perf_counter() - began

    took(10)
    few = min(took(1_000 + at) for at in range(3))
    assert took(8_000) < 20 * few + 0.02


@pytest.mark.parametrize("marks", ["\u0315\u0300", "\u0e48\u0e38", "\u0345\u0301"])
@pytest.mark.parametrize("letter", ["b", "한", "ก"])
def test_a_letter_with_many_marks_is_found(letter, marks):
    """By itself, and beside others: what is left of the marks is the same for an index and for the second look."""
    text = f"abc {letter}{marks * 500} def"
    for asked in ("abc def", f"{letter}{marks * 40}"):
        query = Query.read(asked)
        assert query.spans(text) is not None
        assert all(any(one.startswith(term) if begins else one == term for one in search_words.terms(text)) for term, begins in query.terms)


def test_what_is_remembered_of_words_is_bounded_by_their_length_too():
    """P12: four thousand words of 90,000 characters each, as a tool's output may have them, are not kept for ever."""
    search_words._parts.cache_clear()
    search_words._sign.cache_clear()
    for number in range(20):
        search_words.terms(f"é{number}" + "x" * 90_000)
        search_words.terms(chr(0x4E00 + number) + "\u0301" * 90_000)
    assert search_words._parts.cache_info().currsize < 20
    assert search_words._sign.cache_info().currsize < 20


@pytest.mark.parametrize(("first", "last"), [(0x4E00, 0x9F00), (0x20000, 0x2A000)])
def test_every_word_of_a_long_chinese_text_is_found(first, last):
    """Of one text the first 100,000 characters, whatever they are: an index that leaves some of them out hides them. And there are
    never more bytes than PostgreSQL takes."""
    dice = random.Random(1)
    text = "".join(chr(dice.randrange(first, last)) for _ in range(100_000))
    there = search_words.terms(text)
    assert there == {*map(str.__add__, text, text[1:]), text[-1]}
    assert Query.read(text[-6:]).spans(text) == [(99_994, 100_000)]
    assert sum(len(term.encode()) for term in there) < 2**20 - 1


def test_a_text_full_of_what_is_asked_for_is_shown_at_once():
    """Of 50,000 places those that can be in the excerpt are looked at, not all of them for each of its possible beginnings."""
    looks = []

    class Spans(list):
        def __iter__(self):
            looks.append(len(self))
            return super().__iter__()

        def __getitem__(self, at):
            return Spans(super().__getitem__(at)) if isinstance(at, slice) else super().__getitem__(at)

    text = "a " * 50_000
    snippet, marks = excerpt(text, Spans(Query.read("a").spans(text)))
    assert snippet == "a " * 79 + "a…"
    assert marks == tuple((at, at + 1) for at in range(0, 160, 2))
    assert sum(looks) < 100_000


def test_a_line_that_is_too_deep_for_any_stack_hides_no_other():
    """A damaged row, or one that somebody else wrote: neither an upgrade nor a search of others fails because of it."""
    assert said(b'{"id":"x","text":"' + b"[" * 200_000 + b'"}') is None


def test_a_letter_that_is_asked_for_as_a_word_and_in_a_run_has_to_be_there_as_both():
    """As an index has it: a vowel of Korean may be both."""
    query = Query.read("\u1161 \u314f")
    assert query.words == query.runs == {"\u1161"}
    assert query.spans("\u1161") is None
    assert query.spans("\u314f") is None
    assert query.spans("\u314f \u1161") == [(0, 1), (2, 3)]


@pytest.mark.parametrize("kind", ["memory", "json_files", "sqlite"])
@pytest.mark.parametrize(("title", "asked"), [("한글abc", "abc"), ("버전2", "2"), ("한글abc 그리고", "abc")])
def test_a_word_behind_decomposed_syllables_is_found(tmp_path, clock, kind, title, asked):
    """Korean as macOS writes file names, its syllables taken apart into their letters: however a text is composed, and whichever
    storage has it, the same words are found in it, those that no space parts too."""
    from bamboo_sessions.storages.sql.storage import SqlStorage  # noqa: PLC0415 - an extra

    storage = {"memory": MemoryStorage, "json_files": lambda: JsonFileStorage(tmp_path / "s"),
               "sqlite": lambda: SqlStorage(f"sqlite:///{tmp_path}/x.db")}[kind]()
    repo = bundle(storage, clock)
    repo.save(Session.new("composed", title=unicodedata.normalize("NFC", title), clock=clock))
    repo.save(Session.new("decomposed", title=unicodedata.normalize("NFD", title), clock=clock))
    assert sorted(hit.session.id for hit in repo.search(asked).items) == ["composed", "decomposed"]
    storage.close()
