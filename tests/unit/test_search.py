"""What a word is, what a query finds in a text, and what is shown of it; the reference storage against a naive model."""

from __future__ import annotations

import html
import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bamboo_sessions import (
    AsyncSessionRepository,
    InvalidValue,
    LayeredStorage,
    MemoryStorage,
    Message,
    Session,
    SessionRepository,
    StorageUnavailable,
)
from bamboo_sessions.search import LONGEST_QUERY, Query, excerpt, said
from bamboo_sessions.search_words import LONGEST, SEARCHED, terms
from bamboo_sessions.storages.protocol import has_search
from bamboo_sessions.testing.search import walked
from tests.search_model import Asked, Chats, Text
from tests.support import WholeSessions, bundle

# -- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "expected"), [
    ("Hello, snake_case: don't! 3.14", {"hello", "snake", "case", "don", "t", "3", "14"}),
    ("Zürich ZU\u0308RICH ÉCOLE", {"zurich", "ecole"}), ("Straße STRASSE", {"strasse"}), ("ΣΊΣΥΦΟΣ σίσυφος", {"σισυφοσ"}),
    ("\uff21\uff22\uff23\u3000ⅷ ½", {"abc", "viii", "1", "2"}), ("co\u00adoperate nai\u0308ve", {"cooperate", "naive"}),
    ("東京都", {"東京", "京都", "都"}), ("猫", {"猫"}), ("Python入門", {"python", "入門", "門"}), ("ガｶﾞ", {"ガガ", "ガ"}),
    ("Hi—there (naïve),数据;x\u0301 \u0301y", {"hi", "there", "naive", "数据", "据", "x", "y"}),
    ("서울에서", {"서울", "울에", "에서", "서"}), ("कि की", {"कि", "की"}), ("a\0b\ud800c", {"a", "b", "c"}), ("", set()), ("!? _ \n", set())])
def test_a_text_is_taken_apart(text, expected):
    """Runs of letters and digits, folded; each two neighbours where no spaces part words."""
    assert terms(text) == expected


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(), max_size=40))
def test_a_term_needs_no_quotes(text):
    """Whatever a text is made of: no space, no quote, no sign of a query language, nothing that ASCII knows but letters and
    digits; never longer than a database takes."""
    for term in terms(text):
        assert term
        assert len(term) <= LONGEST
        assert not any(c.isspace() or (c.isascii() and not c.isalnum()) or unicodedata.category(c)[0] in "CPSZ" for c in term), ascii(term)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30), st.text(max_size=12), st.booleans())
def test_an_index_names_whatever_is_found(text, words, prefix):
    """All that a second look finds has the terms that an index is asked for."""
    try:
        query = Query.read(words, prefix=prefix)
    except InvalidValue:
        return
    for inside in (text, f"{text} {words} {text}", f"{text}{words}{text}"):
        if query.spans(inside) is not None:
            there = terms(inside)
            assert all(any(one.startswith(term) for one in there) if begins else term in there for term, begins in query.terms)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30).filter(lambda text: any(c.isalnum() and c.isascii() for c in text)))
def test_a_text_is_found_by_itself(text):
    """However odd."""
    assert Query.read(text).spans(text)


# -- queries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_what_is_found_is_what_a_naive_look_finds(seed):
    """In texts that are put together of known words."""
    dice, found = random.Random(seed), 0
    for _ in range(500):
        text, asked = Text(dice), Asked(dice)
        spans = Query.read(asked.text, prefix=asked.prefix).spans(text.text)
        assert (spans is not None) == asked.finds(text), (asked.text, text.text)
        found += spans is not None
    assert found > 20


@pytest.mark.parametrize("words", ["", "   ", "?!", "\0", "\ud800", "***", '""', None, 7, ["a"], "a" * (LONGEST_QUERY + 1)])
def test_a_query_without_a_word_is_refused(words):
    """InvalidValue: an empty page would look like an answer."""
    with pytest.raises(InvalidValue):
        Query.read(words)


@pytest.mark.parametrize(("words", "text", "shown"), [
    ("fox", "The FOX, a fox.", "The [FOX], a [fox]."), ("京都", "東京都に", "東[京都]に"), ("東京都", "東京と京都", None),
    ("cafe", "un café", "un [café]"), ("cafe", "un cafe\u0301!", "un [cafe\u0301]!"), ("a b", "b\na", "[b] [a]"),
    ("猫", "黒猫と猫", "黒[猫]と[猫]"), ("fox", "foxes", None), ("ⅷ", "VIII", "[VIII]"), ("都 東京", "東京都", "[東京][都]"),
    ("fox", "a\0fox\x1b[1m\ud800", "a [fox] [1m\ufffd")])
def test_the_words_are_marked_where_they_stand(words, text, shown):
    """In the text as it was written, on one line; None where they are not all there."""
    spans = Query.read(words).spans(text)
    assert (None if spans is None else _shown(*excerpt(text, spans))) == shown


def _shown(snippet, marks):
    for begin, end in reversed(marks):
        snippet = f"{snippet[:begin]}[{snippet[begin:end]}]{snippet[end:]}"
    return snippet


def test_the_last_word_may_be_a_beginning():
    """Where that is asked for, and no other one may be."""
    assert Query.read("the fo", prefix=True).spans("the foxes") == [(0, 3), (4, 9)]
    assert Query.read("th fox", prefix=True).spans("the foxes") is None
    assert Query.read("fo").spans("foxes") is None
    assert Query.read("fox 猫", prefix=True).spans("foxes 猫") is None


def test_an_excerpt_is_short_and_shows_most_of_the_words():
    """Of a long text the part that has most of them, from the beginning of a word to the end of one."""
    text = "fox " + "filler " * 500 + "the fox met another fox here " + "filler " * 500
    snippet, marks = excerpt(text, Query.read("fox").spans(text))
    assert len(snippet) < 200
    assert [snippet[begin:end] for begin, end in marks] == ["fox", "fox"]
    assert snippet.startswith("…filler ")
    assert snippet.endswith(" filler…")
    long = "w" * 5000
    snippet, marks = excerpt(f"a {long} b", Query.read("w" * 900).spans("a " + "w" * 900))
    assert len(snippet) < 200


def test_no_more_of_a_text_is_searched_than_an_index_keeps():
    """What is behind it is not found by any storage."""
    assert Query.read("fox").spans("x " * (SEARCHED // 2) + "fox") is None
    assert "fox" not in terms("x " * (SEARCHED // 2) + "fox")
    assert Query.read("fox").spans("x " * (SEARCHED // 2 - 2) + "fox") is not None


@pytest.mark.parametrize(("chat", "text"), [
    ({"role": "user", "content": "fox"}, "fox"), ({"role": "tool", "content": "fox", "tool_call_id": "c"}, "fox"),
    ({"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "url": "b"}, "c"]}, "a\nc"),
    ({"role": "system", "content": "fox"}, None), ({"role": "developer", "content": "fox"}, None), ({"role": "user", "content": None}, None),
    ({"role": "user", "content": ""}, None), ({"role": "assistant", "tool_calls": [{"id": "fox"}]}, None),
    ({"role": "user", "content": "fox \ud800\0", "n": float("nan")}, "fox \ud800\0")])
def test_what_was_said_is_searched(chat, text):
    """Text of the conversation, in whatever form a message is kept; neither keys nor ids nor instructions."""
    message = Message.from_dict(chat)
    heard = said(message.line)
    assert (heard.text if heard else None) == text
    if heard:
        assert (heard.role, heard.message_id) == (chat["role"], message.id)


# -- repositories --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_reference_finds_what_a_naive_look_finds(seed):
    """The same places in the same order, page by page, whatever was said, edited and removed before."""
    repo, dice, found = SessionRepository.open("memory://"), random.Random(seed), 0
    chats = Chats(repo, dice)
    for _ in range(6):
        for _ in range(12):
            chats.step()
        for _ in range(20):
            asked, tag = Asked(dice), dice.choice([None, None, None, "wörk"])
            fields = {} if tag is None else {"tags": [tag]}
            hits = walked(repo, asked.text, dice.choice([1, 2, 50]), prefix=asked.prefix, **fields)
            assert [(one.session.id, one.index) for one in hits] == chats.expected(asked, tag), f"asked for {asked.text!r}"
            found += len(hits)
    assert found > 40


def test_a_hit_says_where_and_can_be_shown():
    """Session, place, who said it, and a snippet that is safe to show once it is escaped."""
    repo, session = SessionRepository.open("memory://"), Session.new("s")
    session.title = "A <b>fox</b>"
    session.add_message(Message.user("hi"))
    session.add_message(Message.assistant("the <i>Fox</i> & co"))
    repo.save(session)
    title, said_so = repo.search("fox").items
    assert (title.session.id, title.index, title.message_id, title.role) == ("s", None, None, None)
    assert (said_so.index, said_so.message_id, said_so.role, said_so.session.message_count) == (1, session.messages[1].id, "assistant", 2)
    assert title.highlighted("<mark>", "</mark>", html.escape) == "A &lt;b&gt;<mark>fox</mark>&lt;/b&gt;"
    assert said_so.highlighted() == "the <i>**Fox**</i> & co"


def test_what_is_not_saved_is_not_found():
    """A search is of what is committed."""
    repo, session = SessionRepository.open("memory://"), Session.new("s")
    session.add_message(Message.user("fox"))
    assert repo.search("fox").items == ()
    repo.save(session)
    session.add_message(Message.user("fox"))
    assert [one.index for one in repo.search("fox").items] == [0]


def test_a_storage_that_cannot_search_says_so():
    """StorageUnavailable, not an empty page; layers can where their last one can."""
    repo = bundle(WholeSessions())
    with pytest.raises(StorageUnavailable, match="index of words"):
        repo.search("fox")
    assert has_search(LayeredStorage([MemoryStorage(), MemoryStorage()]))
    assert not has_search(LayeredStorage([MemoryStorage(), WholeSessions()]))


@pytest.mark.anyio
async def test_the_async_face_searches():
    """The same hits."""
    async with AsyncSessionRepository.open("memory://") as repo:
        session = Session.new("s")
        session.add_message(Message.user("fox"))
        await repo.save(session)
        page = await repo.search("fo", 5, prefix=True, pinned=False)
        assert [(one.session.id, one.index) for one in page.items] == [("s", 0)]
        assert (await repo.search("fox", pinned=True)).items == ()
