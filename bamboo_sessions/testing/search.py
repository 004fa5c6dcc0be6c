"""Finding words: what is committed is found, what is gone is not, and what a user writes is words and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from bamboo_sessions.errors import InvalidValue, StorageUnavailable
from bamboo_sessions.models import Message, Session
from bamboo_sessions.models.hits import SearchHit
from bamboo_sessions.repository import SessionRepository
from bamboo_sessions.testing.clock import ManualClock
from bamboo_sessions.testing.harness import Desk, Power, needs
from bamboo_sessions.testing.plain import back_door

Place = tuple[str, int | None]


@needs(without=Power.SEARCH)
class NoSearchContract:
    """The documented refusal."""

    def test_without_an_index_a_search_is_refused(self, desk: Desk) -> None:
        """StorageUnavailable, not an empty page."""
        repo = desk.repository()
        repo.save(_said("one", "fox"))
        with pytest.raises(StorageUnavailable):
            repo.search("fox")


@needs(Power.RECORDS, Power.SEARCH)
class SearchContract:
    """`search`."""

    def test_words_are_found_in_titles_and_messages(self, desk: Desk) -> None:
        """All of a query's words in one of them, whatever their case and accents; the newest session first, by every object."""
        repo = desk.repository()
        repo.save(_said("old", "the quick brown fox", "a dog", "Fox, DOG & cat", title="Nothing"))
        repo.save(_said("new", "Zürich", ["東京都に住む", "fox"], title="A Fox's title"))
        for asker in (repo, desk.repository()):
            for words, expected in _ASKED:
                assert _places(asker, words) == expected, f"asked for {words!r}"
            assert _places(asker, "qui", prefix=True) == [("old", 0)]

    def test_a_search_follows_what_is_committed(self, desk: Desk) -> None:
        """Messages that are added, edited, removed; titles that change; sessions that are deleted and made anew."""
        repo, asker = desk.repository(), desk.repository()
        session = _said("s", "one fox", "two", title="fox")
        repo.save(session)
        assert _places(asker, "fox") == [("s", None), ("s", 0)]
        session.add_message(Message.user("another fox"))
        repo.save(session)
        assert _places(asker, "fox") == [("s", None), ("s", 0), ("s", 2)]
        session.replace_message(session.messages[0].id, Message.user("a cat"))
        repo.save(session)
        assert (_places(asker, "fox"), _places(asker, "cat")) == ([("s", None), ("s", 2)], [("s", 0)])
        session.remove_message(session.messages[1].id)
        repo.save(session)
        assert _places(asker, "fox") == [("s", None), ("s", 1)]
        repo.set_title("s", "dog")
        assert (_places(asker, "fox"), _places(asker, "dog")) == ([("s", 1)], [("s", None)])
        repo.set_title("s", None)
        repo.delete("s")
        assert [_places(asker, word) for word in ("fox", "cat", "dog")] == [[], [], []]
        repo.save(_said("s", "cat"))
        assert [_places(asker, word) for word in ("fox", "cat", "dog")] == [[], [("s", 0)], []]

    def test_a_hit_shows_the_words(self, desk: Desk) -> None:
        """Where it is, who said it, and a short text around the words, which are marked."""
        repo, session = desk.repository(), _said("s", "hi", "word " * 300 + "the red\nFox\0 jumps " + "word " * 300, title="Red fox")
        repo.save(session)
        title, message = walked(desk.repository(), "fox red")
        assert (title.index, title.message_id, title.role, title.highlighted("[", "]")) == (None, None, None, "[Red] [fox]")
        assert (message.index, message.role, message.session.id, message.session.title) == (1, "user", "s", "Red fox")
        assert message.session.message_count == 2
        if desk.has(Power.IDENTITY):
            assert message.message_id == session.messages[1].id
        assert len(message.snippet) < 250
        assert "[red] [Fox]  jumps" in message.highlighted("[", "]")

    def test_a_search_comes_in_pages_and_is_filtered(self, desk: Desk) -> None:
        """Every place once, in order, whatever the size of a page; of sessions that pass the filter."""
        repo = desk.repository()
        for number in range(7):
            session = _said(f"s{number}", *["fox", "dog", "fox"][: number % 4], title="fox" if number % 2 else None)
            session.pinned, session.tags = number % 3 == 0, frozenset({f"t{number % 2}"})
            repo.save(session)
        every = [(f"s{n}", at) for n in range(6, -1, -1) for at in (*([None] if n % 2 else []), *[0, 2][: (n % 4 + 1) // 2])]
        for limit in (1, 2, 3, 50):
            assert _places(repo, "fox", limit) == every
        assert _places(repo, "fox", 2, pinned=True) == [(name, at) for name, at in every if name in ("s0", "s3", "s6")]
        assert _places(repo, "fox", 2, tags=["t1"]) == [(name, at) for name, at in every if name in ("s1", "s3", "s5")]
        for bad in ({"limit": 0}, {"cursor": "no"}, {"cursor": "bm8="}):
            with pytest.raises(InvalidValue):
                repo.search("fox", **bad)

    @pytest.mark.parametrize("words", ['"fox"', "fox*", "fox OR cat", "NOT fox", "fox AND", "fox NEAR cat", "-fox", "title:fox", "'fox' & !cat | x", "fox:*",
                                       "^fox", "(fox", "fox\\", "fox\0", "\ud800fox", "%fox_", "{fox}", "fox; DROP TABLE", "<-> fox"])
    def test_what_a_user_writes_is_words(self, desk: Desk, words: str) -> None:
        """No sign and no word of a query language means anything: what is found is what has those words."""
        repo = desk.repository()
        repo.save(_said("s", "the fox", f"all of it: {words}"))
        assert _places(repo, words) == ([("s", 0), ("s", 1)] if _only_fox(words) else [("s", 1)])

    def test_instructions_and_envelopes_are_not_searched(self, desk: Desk) -> None:
        """Only what was said: no system message, no name, no id, no argument of a tool, no metadata."""
        repo, session = desk.repository(), Session.new("fox")
        session.metadata["fox"] = "fox"
        session.add_message(Message.system("fox"))
        call = {"id": "fox", "type": "function", "function": {"name": "fox", "arguments": '{"fox": 1}'}}
        session.add_message(Message.assistant(None, name="fox", tool_calls=[call]))
        session.add_message(Message.tool_result("fox", "a cat"))
        repo.save(session)
        assert [_places(repo, word) for word in ("fox", "role", "content", "cat")] == [[], [], [], [("fox", 2)]]

    @needs(Power.EXPIRY)
    def test_an_expired_session_is_not_found(self, desk: Desk) -> None:
        """Nor is it once it was purged."""
        clock = ManualClock(datetime.now(UTC))  # a storage may go by the times of files
        repo = desk.repository(desk.open_expiring(timedelta(hours=1), clock), clock)
        repo.save(_said("old", "fox", title="fox"))
        clock.forward(hours=2)
        repo.save(_said("new", "fox"))
        assert _places(repo, "fox") == [("new", 0)]
        repo.purge_expired()
        assert _places(repo, "fox") == [("new", 0)]

    def test_no_search_sees_a_neighbour(self, desk: Desk) -> None:
        """Where one place keeps the sessions of several, each finds its own."""
        back_door(desk, "open_beside")
        beside = desk.harness.open_beside(desk.place)
        try:
            one, other = desk.repository(), desk.repository(beside)
            one.save(_said("s", "fox mine"))
            other.save(_said("s", "fox theirs"))
            assert [_places(one, word) for word in ("fox", "mine", "theirs")] == [[("s", 0)], [("s", 0)], []]
            assert [_places(other, word) for word in ("fox", "mine", "theirs")] == [[("s", 0)], [], [("s", 0)]]
        finally:
            beside.close()


_ASKED: Final[Sequence[tuple[str, list[Place]]]] = (
    ("fox", [("new", None), ("new", 1), ("old", 0), ("old", 2)]), ("FOX dog", [("old", 2)]), ("dog fox cat", [("old", 2)]),
    ("zurich", [("new", 0)]), ("ZÜRICH", [("new", 0)]), ("東京", [("new", 1)]), ("京都 fox", [("new", 1)]), ("東都", []), ("qui", []),
    ("nothing", [("old", None)]), ("title quick", []), ("s title a", [("new", None)]))
"""What is asked for, and where it is."""


def _said(session_id: str, *contents: str | list[Any], title: str | None = None) -> Session:
    session = Session.new(session_id)
    session.title = title
    for content in contents:
        parts = content if isinstance(content, str) else [{"type": "text", "text": part} for part in content]
        session.add_message(Message.user(parts))
    return session


def walked(repo: SessionRepository, words: str, limit: int = 50, **options: Any) -> list[SearchHit]:
    """Every hit of a search, page by page."""
    found: list[SearchHit] = []
    cursor = None
    while True:
        page = repo.search(words, limit, cursor, **options)
        assert len(page.items) <= limit
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


def _places(repo: SessionRepository, words: str, limit: int = 50, **options: Any) -> list[Place]:
    return [(hit.session.id, hit.index) for hit in walked(repo, words, limit, **options)]


def _only_fox(words: str) -> bool:
    return "".join(sign if sign.isalpha() else " " for sign in words).split() == ["fox"]
