"""Pages of summaries that stay right while others write."""

from __future__ import annotations

import random
from base64 import urlsafe_b64encode

import pytest

from bamboo_sessions import InvalidValue
from bamboo_sessions.filters import Filter
from bamboo_sessions.listing import page

ALL = Filter()


def at(second):
    return f"2026-01-01T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}.000000Z"


def head(session_id, second, **fields):
    made = {"id": session_id, "birth": "b", "revision": 1, "created_at": at(0), "updated_at": at(second)} | fields
    return made, 3


def ids(answer):
    return [item.id for item in answer.items]


def pages(heads, limit, meanwhile=lambda heads, number: None, wanted=ALL):
    """All pages, with something happening between them."""
    cursor, made = None, []
    while True:
        answer = page(heads, limit, cursor, wanted)
        made.append(ids(answer))
        cursor = answer.next_cursor
        if cursor is None:
            return made
        meanwhile(heads, len(made))


def test_newest_first_in_pages():
    """Every session once, the last page without a cursor, also where it is exactly full."""
    heads = [head(f"s{second}", second) for second in range(6)]
    random.Random(1).shuffle(heads)
    assert pages(heads, 4) == [["s5", "s4", "s3", "s2"], ["s1", "s0"]]
    assert pages(heads, 3) == [["s5", "s4", "s3"], ["s2", "s1", "s0"]]
    assert pages(heads, 6) == [["s5", "s4", "s3", "s2", "s1", "s0"]]
    assert pages([], 3) == [[]]


def test_equal_times_are_told_apart_by_id():
    """None is lost at the border of a page."""
    heads = [head(f"s{number}", 7) for number in range(5)]
    assert pages(heads, 2) == [["s4", "s3"], ["s2", "s1"], ["s0"]]


def test_a_session_that_moves_to_the_top_is_not_lost():
    """One that had not been shown yet is changed between two pages: it comes at the end."""
    heads = [head(f"s{second}", second) for second in range(6)]

    def touch(heads, number):
        if number == 1:
            heads[0] = head("s0", 100)

    assert pages(heads, 3, touch) == [["s5", "s4", "s3"], ["s0", "s2", "s1"]]


@pytest.mark.parametrize(("order", "expected"), [
    ("newest", ["c", "a", "d", "b"]), ("oldest", ["b", "d", "a", "c"]), ("created", ["d", "c", "b", "a"])])
@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_orders(order, expected, limit):
    """By the last change, or by creation; the pages together are the whole."""
    heads = [head("a", 7, created_at=at(1)), head("b", 4, created_at=at(2)), head("c", 9, created_at=at(3)),
             head("d", 5, created_at=at(3))]
    found = pages(heads, limit, wanted=Filter(order=order))
    assert [name for some in found for name in some] == expected
    assert [len(some) for some in found[:-1]] == [limit] * (len(found) - 1)


@pytest.mark.parametrize("order", ["newest", "oldest", "created"])
@pytest.mark.parametrize("seed", range(20))
def test_while_others_write_nothing_unchanged_is_lost_or_repeated(seed, order):
    """Those that pass all the while come exactly once where they are not changed, at least once where they are or are new; so
    do those that a change makes pass."""
    dice = random.Random(seed)
    heads = [head(f"s{number:02}", number, created_at=at(dice.randrange(30)), pinned=dice.random() < 0.7) for number in range(30)]
    before = [made for made, _ in heads]
    passing, touched, clock = {made["id"] for made in before if made["pinned"]}, set(), [1000]

    def write(heads, number):
        if number > 40:
            return
        for _ in range(dice.randrange(3)):
            clock[0] += 1
            index = dice.randrange(len(heads) + 1)
            name = heads[index][0]["id"] if index < len(heads) else f"n{clock[0]}"
            touched.add(name)
            created = heads[index][0]["created_at"] if index < len(heads) else at(clock[0])
            heads[index : index + 1] = [head(name, clock[0], created_at=created, pinned=True)]

    found = pages(heads, dice.randint(1, 7), write, Filter(pinned=True, order=order))
    shown = [session_id for answer in found for session_id in answer]
    assert set(shown) == passing | touched
    assert [shown.count(name) for name in passing - touched] == [1] * len(passing - touched)


def test_new_sessions_come_at_least_once():
    """One made between two pages is in a later one."""
    heads = [head(f"s{second}", second) for second in range(4)]
    shown = pages(heads, 2, lambda heads, number: heads.append(head("new", 50)) if number == 1 else None)
    assert sum(page.count("new") for page in shown) == 1


@pytest.mark.parametrize(("wanted", "expected"), [
    ({}, {"a", "b", "c"}), ({"model": "m"}, {"a"}), ({"provider": "p"}, {"b"}), ({"context_id": "c"}, {"b"}),
    ({"parent_id": "a"}, {"c"}), ({"pinned": True}, {"a"}), ({"pinned": False}, {"b", "c"}), ({"archived": True}, {"c"}),
    ({"archived": False}, {"a", "b"}), ({"tag": "t"}, {"b"}), ({"has_open_question": True}, {"c"}),
    ({"has_open_question": False}, {"a", "b"}), ({"model": "m", "pinned": False}, set()),
])
def test_filters(wanted, expected):
    """Each one narrows, several together."""
    heads = [head("a", 1, model="m", pinned=True), head("b", 2, provider="p", context_id="c", tags=["t"]),
             head("c", 3, parent_id="a", archived=True, questions={"token": {}})]
    assert set(ids(page(heads, 10, None, Filter(**wanted)))) == expected


def test_summaries_say_what_a_list_shows():
    """All of it from the head alone."""
    (item,) = page([head("a", 1, title="t", title_source="user", tags=["x"], questions={"token": {}}, model="m")], 1, None,
                   ALL).items
    assert (item.title, item.title_source, item.tags, item.open_questions, item.model) == ("t", "user", {"x"}, 1, "m")
    assert (item.message_count, item.revision, item.updated_at.isoformat()) == (3, 1, "2026-01-01T00:00:01+00:00")


@pytest.mark.parametrize("cursor", ["", "x", "é", "!!!!", urlsafe_b64encode(b"[1,2,3,4]").decode(),
                                    urlsafe_b64encode(b'["a","b"]').decode(), urlsafe_b64encode(b"{}").decode(),
                                    urlsafe_b64encode(b"7").decode()])
def test_a_cursor_that_no_list_gave_is_refused(cursor):
    """InvalidValue, whatever is wrong with it."""
    with pytest.raises(InvalidValue):
        page([head("a", 1)], 1, cursor, ALL)


@pytest.mark.parametrize(("given", "read"), [("newest", "oldest"), ("oldest", "created"), ("created", "newest")])
def test_a_cursor_of_another_order_is_refused(given, read):
    """InvalidValue: its places mean something else there."""
    heads = [head("a", 1), head("b", 2)]
    cursor = page(heads, 1, None, Filter(order=given)).next_cursor
    with pytest.raises(InvalidValue):
        page(heads, 1, cursor, Filter(order=read))


@pytest.mark.parametrize("limit", [0, -1])
def test_a_page_of_nothing_is_refused(limit):
    """InvalidValue: it would never come to an end."""
    with pytest.raises(InvalidValue):
        page([], limit, None, ALL)


def test_a_head_that_cannot_be_read_hides_no_other():
    """It is left out and named; the rest of the page is there."""
    named = []
    heads = [head("one", 1), head("bad", 5, created_at="yesterday"), head("two", 9), head("worse", 5, updated_at=7),
             ({"id": "worst"}, 0)]
    found = page(heads, 10, None, ALL, lambda session_id, _error: named.append(session_id))
    assert ids(found) == ["two", "one"]
    assert sorted(named) == ["bad", "worse", "worst"]
