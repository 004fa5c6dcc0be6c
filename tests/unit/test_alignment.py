"""Handing a history back: what is known stays itself, so that a framework that does it every turn changes nothing."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from time import process_time

import pytest

from bamboo_sessions.errors import InvalidMessage
from bamboo_sessions.models import Message, Session


class Standing:
    """A clock that a test moves by hand."""

    def __init__(self):
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self):
        return self.time


def session_of(*chats):
    session = Session.new("s", clock=Standing())
    for chat in chats:
        session.add_message({"role": "user", "content": chat} if isinstance(chat, str) else chat)
    session._clock.time = datetime(2026, 1, 2, tzinfo=UTC)
    return session


def chats(session):
    return [message.to_dict() for message in session.messages]


def ids(session):
    return [message.id for message in session.messages]


def handed(session, texts):
    """Hand `texts` back as fresh messages; gives, for each message now there, where it stood before (None: new)."""
    before = ids(session)
    session.replace_messages([Message.user(text) for text in texts])
    assert [message.content for message in session.messages] == list(texts)
    return [before.index(i) if i in before else None for i in ids(session)]


@pytest.mark.parametrize("way", [
    lambda s: list(s.messages), lambda s: s.messages, lambda s: [m.to_dict() for m in s.messages],
    lambda s: [Message.from_dict(m.to_dict()) for m in s.messages],
    lambda s: [Message.from_line(m.line) for m in s.messages],
    lambda s: (dict(reversed(m.to_dict().items())) for m in s.messages),
])
def test_the_same_history_back_changes_nothing(way):
    """Not the messages, not an id, not `updated_at`; in whatever shape it comes."""
    session = session_of("ok", "ok", "a", {"role": "user", "n": math.nan}, "ok", {"role": "user", "n": 2**70})
    before, when, messages = ids(session), session.updated_at, session.messages
    session.replace_messages(way(session))
    assert ids(session) == before
    assert session.updated_at == when
    assert session.messages is messages


def test_a_longer_history_is_an_append():
    """Old ids stay, the committed part stays shared, the new ones come behind."""
    session = session_of("a", "b")
    before = session.messages
    assert handed(session, ["a", "b", "c", "d"]) == [0, 1, None, None]
    assert session.messages.shared_with(before) == 2
    assert session.updated_at == datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(("old", "new", "where"), [
    ("abc", "aXc", [0, None, 2]),
    ("abc", "Xabc", [None, 0, 1, 2]),
    ("abc", "bc", [1, 2]),
    ("abc", "ab", [0, 1]),
    ("abc", "", []),
    ("abc", "acb", None),
    ("ok", "okok", [0, 1, None, None]),
    ("xx", "xxx", [0, 1, None]),
    ("xxx", "xx", [0, 1]),
    ("xyx", "xx", None),
    ("", "ab", [None, None]),
    ("abcdef", "Sdef", [None, 3, 4, 5]),
    ("abcdef", "aXcdYf", [0, None, 2, 3, None, 5]),
])
def test_fresh_messages_are_told_by_content_in_order(old, new, where):
    """Each known one at most once and never in a crossed order; the rest is new."""
    session = session_of(*old)
    found = handed(session, new)
    assert where is None or found == where
    known = [i for i in found if i is not None]
    assert known == sorted(set(known))
    assert all(old[i] == new[found.index(i)] for i in known)


def test_an_id_beats_content():
    """A new message that says the same as one that comes itself further on is new, and nothing is refused."""
    session = session_of("ok", "b")
    first, second = session.messages
    session.messages = [Message.user("ok"), *session.messages]
    assert ids(session)[1:] == [first.id, second.id]
    assert ids(session)[0] not in (first.id, second.id)


def test_messages_moved_by_id_stay_themselves():
    """Another order of the same messages is a re-order, not deletions and additions."""
    session = session_of("a", "b", "c")
    a, b, c = session.messages
    session.messages = [c, a, b]
    assert ids(session) == [c.id, a.id, b.id]


def test_an_edit_by_id_is_an_edit():
    """The id stays, the content is the new one."""
    session = session_of("a", "b", "c")
    a, b, c = session.messages
    session.messages = [a, Message.user("B", id=b.id), c]
    assert ids(session) == [a.id, b.id, c.id]
    assert [m.content for m in session.messages] == ["a", "B", "c"]


@pytest.mark.parametrize(("was", "now"), [(1, True), (1, 1.0), (0.0, -0.0), (None, math.nan), (math.nan, None)])
@pytest.mark.parametrize("front", ["same", "other"])
def test_a_change_that_python_calls_equal_is_still_a_change(was, now, front):
    """`1 == True`, and orjson writes NaN as null: neither may swallow what was handed in."""
    session = session_of("same", {"role": "tool", "n": was})
    session.replace_messages([{"role": "user", "content": front}, {"role": "tool", "n": now}])
    assert repr(chats(session)[1]["n"]) == repr(now)


def test_a_repeated_id_is_refused_and_nothing_has_changed():
    """Also that of a fresh message given twice; afterwards each is still usable as before."""
    session = session_of("a", "b")
    before, when = session.messages, session.updated_at
    fresh = Message.user("c")
    for bad in ([*before, before[0]], [fresh, fresh], [*before, Message.user("z", id=before[1].id)]):
        with pytest.raises(InvalidMessage):
            session.replace_messages(bad)
        assert session.messages is before
        assert session.updated_at == when
    other = session_of("x", "c")
    known = ids(other)
    other.replace_messages([fresh])
    assert ids(other) == known[1:]


def test_a_bad_message_among_good_ones_changes_nothing():
    """All are read before the first one is taken."""
    session = session_of("a")
    before, when = session.messages, session.updated_at
    with pytest.raises(InvalidMessage):
        session.messages = [Message.user("b"), {"role": "user", "content": {1, 2}}]
    assert session.messages is before
    assert session.updated_at == when


def test_a_long_history_of_repeated_words_is_aligned_in_reasonable_time():
    """Cutting the front off 20,000 equal messages must not compare each with each."""
    session = session_of()
    session.replace_messages([Message.user("ok") for _ in range(20_000)])
    kept = ids(session)[10_000:]
    start = process_time()
    session.replace_messages([Message.system("summary"), *(Message.user("ok") for _ in range(10_000))])
    assert ids(session)[1:] == kept
    assert process_time() - start < 5  # each with each takes minutes
