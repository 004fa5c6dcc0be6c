"""Lists of a database against a look at every head, which is their model; and what a page asks for."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bamboo_sessions import InvalidValue, LayeredStorage, MemoryStorage, StorageUnavailable
from bamboo_sessions._json import loads
from bamboo_sessions.filters import Filter
from bamboo_sessions.listing import page
from bamboo_sessions.models.values import pack
from bamboo_sessions.storages.protocol import has_queries
from bamboo_sessions.storages.sql import queries
from bamboo_sessions.storages.sql.statements import Statement
from bamboo_sessions.storages.sql.storage import SqlStorage
from bamboo_sessions.testing.scribe import first, later
from tests.sql.test_sql_storage import counted, raw
from tests.support import ManualClock

NUL, OTHER = "a\0b", "a\ufffdb"


def moment(second):
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)


def text(second):
    return moment(second).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# -- any heads, any filters ----------------------------------------------------------------------------------------

words = st.sampled_from(["m", "é", NUL, OTHER, "user", 'q"\\', "%", ""])
tags = st.lists(words, max_size=3, unique=True).map(sorted)
numbers = st.sampled_from([0, -0.0, 1, 1.0, 10, 1.5, 0.1, 1e-7, 10**15, 1e15, 1e16, 10**16, 2**60, 1e300, -1, -1.0, 2**64 - 1, 2**53 + 1])
scalars = st.one_of(words, numbers, st.booleans(), st.none())
values = st.recursive(scalars, lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(words, inner, max_size=2)),
                      max_leaves=4)
as_text = st.sampled_from([{"$json": '{"m": "\\ud800"}'}, {"$json": "1" + "0" * 30}, {"$json": "NaN"}, {"$json": "no"}])
metadata = st.dictionaries(words, st.one_of(values, as_text), max_size=3)
seconds = st.integers(0, 5)


@st.composite
def heads(draw):
    maybe = {"model": words, "provider": words, "context_id": words, "parent_id": words, "tags": tags, "metadata": metadata,
             "pinned": st.just(True), "archived": st.booleans(), "questions": st.just({"t": {"question": "?"}}),
             "title": words}
    fields = {name: draw(value) for name, value in maybe.items() if draw(st.booleans())}
    return {"created_at": text(draw(seconds)), "updated_at": text(draw(seconds)), **fields}


@st.composite
def filters(draw):
    paths = st.one_of(words.filter(bool).filter(lambda word: "." not in word), st.tuples(words), st.tuples(words, words))
    flag, times = st.booleans(), seconds.map(moment)
    maybe = {"model": words, "provider": words, "context_id": words, "parent_id": words, "pinned": flag, "archived": flag,
             "tag": words, "has_open_question": flag, "tags": tags, "updated_after": times, "updated_before": times,
             "metadata": st.dictionaries(paths, st.one_of(values, st.just(10**30), st.just(float("nan"))), max_size=2)}
    names = draw(st.sets(st.sampled_from(sorted(maybe)), max_size=2))
    return Filter(**{name: draw(maybe[name]) for name in names}, order=draw(st.sampled_from(["newest", "oldest", "created"])))


@pytest.mark.parametrize(("batch", "rare"), [(1, -1), (1000, 1000)])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(heads(), max_size=8), st.lists(filters(), min_size=1, max_size=6), st.integers(1, 5))
def test_a_database_lists_what_a_look_at_every_head_lists(url, batch, rare, kept, asked, limit):
    """The same sessions on the same pages, whatever the heads say and whatever is asked; looked up where that is possible, and gone
    through row by row. The model is `Filter.takes` and `page` in plain Python."""
    storage = SqlStorage(f"{url.partition('namespace=')[0].rstrip('?&')}{'&' if '?' in url.partition('namespace=')[0] else '?'}"
                         f"namespace={uuid4().hex}", durability="process")
    try:
        for number, fields in enumerate(kept):
            storage.commit(first(f"s{number}", "w", **fields))
        before = queries._BATCH, queries.RARE
        queries._BATCH, queries.RARE = batch, rare
        try:
            for wanted in asked:
                assert walked(storage.page, wanted, limit) == walked(lambda *args: model(storage, *args), wanted, limit)
        finally:
            queries._BATCH, queries.RARE = before
    finally:
        storage.close()


VALUES = ["", "a", NUL, OTHER, "\ud800", 'q"\\', None, True, False, 0, 0.0, -0.0, 1, 1.0, -1, 10, 1.5, 0.25, 1e-7, 10**15, 1e15, 1e16,
          10**16, 2**53 + 1, 2**64 - 1, 2**70, float(2**70), 1e300, float("nan"), float("inf"), [], [1], {}, {"k": 1}, {"k": [1.0]}]


@pytest.mark.parametrize("rare", [-1, 1000])
def test_a_value_is_found_in_every_form_that_it_is_written_in(storage, monkeypatch, rare):
    """Each value, alone and within another one, kept as JSON or as text, is found by each value that it equals, and by no other;
    looked up, and by going through the heads."""
    monkeypatch.setattr(queries, "RARE", rare)
    for number, value in enumerate(VALUES):
        storage.commit(first(f"s{number}", "w", metadata={"k": loads(pack(value, "k")), "o": loads(pack({"k": value}, "o"))}))
    found = 0
    for value in VALUES:
        for path in ("k", "o.k", ("k",)):
            wanted = Filter(metadata={path: value})
            expected = {head["id"] for head, _ in storage.heads() if wanted.takes(head)}
            assert {item.id for item in storage.page(wanted, 100).items} == expected, f"asked for {value!r} at {path}"
            found += len(expected)
    assert found > 3 * len(VALUES), "each is found by itself at least"


def model(storage, wanted, limit, cursor):
    return page(storage.heads(), limit, cursor, wanted)


def walked(ask, wanted, limit):
    found, cursor = [], None
    while True:
        answer = ask(wanted, limit, cursor)
        found.append(answer.items)
        cursor = answer.next_cursor
        if cursor is None:
            return found


# -- while others write -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["newest", "oldest", "created"])
@pytest.mark.parametrize("limit", [1, 3])
def test_pages_stay_right_while_others_write(storage, order, limit):
    """Of ten sessions each third is changed and a new one is made with every page: what is not changed comes once, the rest at
    least once; and each page is the one that a look at every head gives."""
    for number in range(10):
        storage.commit(first(f"s{number}", "w", updated_at=text(number), created_at=text(-number), pinned=True))
    storage.commit(first("other", "w", updated_at=text(4)))
    shown, cursor, writes, wanted, other = [], None, 0, Filter(pinned=True, order=order), None
    while True:
        answer, expected = storage.page(wanted, limit, cursor), model(storage, wanted, limit, other)
        assert answer.items == expected.items
        shown += [item.id for item in answer.items]
        cursor, other = answer.next_cursor, expected.next_cursor
        assert (cursor is None) == (other is None)
        if cursor is None:
            break
        if writes < 4:
            name, now = f"s{writes * 3}", text(100 + writes)
            storage.commit(later(name, 2, 1, head={"set": {"updated_at": now}}))
            storage.commit(first(f"new{writes}", "w", updated_at=now, created_at=now, pinned=True))
            writes += 1
    assert set(shown) == {*(f"s{number}" for number in range(10)), *(f"new{number}" for number in range(writes))}
    changed = {f"s{number * 3}" for number in range(writes)}
    unchanged = {f"s{number}" for number in range(10)} - changed
    assert [shown.count(name) for name in unchanged] == [1] * len(unchanged)


def test_what_changes_between_the_statements_of_one_page_is_not_lost(storage, monkeypatch):
    """Where rows do not pass, a page takes several statements; a session that moves above them in between comes at the end."""
    monkeypatch.setattr(queries, "_BATCH", 1)
    monkeypatch.setattr(queries, "RARE", -1)
    for number in range(4):
        storage.commit(first(f"s{number}", "w", updated_at=text(number), metadata={"k": "v"} if number == 0 else {"j": {"k": "v"}}))
    ask, statements = storage._asked, []

    def asked(*args):
        found = ask(*args)
        statements.append(1)
        if len(statements) == 2:  # the first one asks how rare the value is
            storage.commit(later("s0", 2, 1, head={"set": {"updated_at": text(50)}}))
        return found

    storage._asked = asked
    assert [item.id for item in storage.page(Filter(metadata={"k": "v"}), 1).items] == ["s0"]
    assert len(statements) > 2


# -- what a page asks ---------------------------------------------------------------------------------------------------

FILTERS = [{}, {"model": "m"}, {"context_id": "c"}, {"parent_id": "p"}, {"pinned": True}, {"has_open_question": True},
           {"tags": ["t"]}, {"metadata": {"k": 1}}, {"updated_before": moment(3)}]


def filled(storage):
    for number in range(8):
        storage.commit(first(f"s{number}", "w", updated_at=text(number), created_at=text(number), model="m", context_id="c",
                             parent_id="p", pinned=True, questions={"t": {}}, tags=["t"], metadata={"k": 1}))


@pytest.mark.parametrize("order", ["newest", "oldest", "created"])
@pytest.mark.parametrize("fields", FILTERS, ids=str)
def test_a_page_is_one_statement(storage, order, fields):
    """The first, and one in the middle; before a page by tags or metadata one that asks how rare they are."""
    filled(storage)
    wanted = Filter(**fields, order=order)
    storage.page(wanted, 2)
    with counted(storage) as sent:
        cursor = storage.page(wanted, 2).next_cursor
        if cursor is not None:
            storage.page(wanted, 2, cursor)
    assert sent == ["SELECT"] * (1 if cursor is None else 2) * (1 if {"tags", "metadata"}.isdisjoint(fields) else 2)


@pytest.mark.parametrize(("fields", "order", "index"), [
    ({}, "newest", "newest"), ({}, "oldest", "newest"), ({}, "created", "created"), ({"context_id": "c"}, "newest", "context_id"),
    ({"parent_id": "p"}, "oldest", "parent_id"), ({"pinned": True}, "newest", "pinned"),
    ({"has_open_question": True}, "newest", "questions")])
def test_a_page_walks_along_an_index_and_sorts_nothing(opened, tmp_path, fields, order, index):
    """As SQLite plans it; the statement of a middle page."""
    storage = opened(f"sqlite:///{tmp_path}/plans.db")
    filled(storage)
    asked, plans = queries.asked_of(Filter(**fields, order=order)), []
    page = queries._page((asked.shape, (order, True, True), False, False), postgres=False)
    statement = Statement(page, storage._open.engine.dialect)
    values = {**asked.values, "k_namespace": "", "k_limit": 3, "k_low_at": text(4), "k_low_id": "s", "k_high_at": text(9),
              "k_high_id": "s"}
    with storage._open.cursor("plan") as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {statement.text}", statement._bound(values))
        plans = [row[3] for row in cursor.fetchall()]
    walks = [plan for plan in plans if "bamboo_session" in plan]
    assert f"bamboo_session_{index} " in walks[0]
    assert all(plan.startswith("SEARCH") for plan in walks)
    assert not [plan for plan in plans if "B-TREE" in plan]


def test_statements_are_compiled_once_a_shape(storage, monkeypatch):
    """Values are no part of it; and what is kept of them is bounded."""
    monkeypatch.setattr(queries, "_compiled", {})
    monkeypatch.setattr(queries, "_SHAPES", 4)
    filled(storage)
    for number in range(20):
        storage.page(Filter(model=f"m{number}", metadata={"k": [number]}), 2)
    assert len(queries._compiled) == 1
    for number in range(8):
        storage.page(Filter(metadata={f"k{n}": "v" for n in range(number)}), 2)
        assert len(queries._compiled) <= 4


# -- who is seen ---------------------------------------------------------------------------------------------------------


def test_no_list_crosses_a_namespace(url, opened):
    """Neither by a filter nor by the cursor of a neighbour."""
    plain, _, mine = url.partition("namespace=")
    other = opened(plain.rstrip("?&"), namespace=f"{mine}other")
    storage = opened()
    filled(storage)
    other.commit(first("theirs", "w", updated_at=text(4)))
    cursor = storage.page(Filter(), 2).next_cursor
    assert [item.id for item in other.page(Filter(), 5).items] == ["theirs"]
    assert [item.id for item in other.page(Filter(), 5, cursor).items] == ["theirs"]


@pytest.mark.parametrize("order", ["newest", "oldest", "created"])
def test_expired_sessions_are_left_out(opened, order):
    """By the storage's clock, on each page; pinned ones and those with a question stay."""
    clock = ManualClock()
    storage = opened(ttl=timedelta(minutes=1), clock=clock)
    storage.commit(first("old", "w"))
    storage.commit(first("pinned", "w", pinned=True))
    storage.commit(first("asks", "w", questions={"t": {}}))
    clock.forward(minutes=2)
    storage.commit(first("new", "w"))
    found = [item.id for items in walked(storage.page, Filter(order=order), 1) for item in items]
    assert sorted(found) == ["asks", "new", "pinned"]


@pytest.mark.parametrize("damage", ["no json", '{"id":"bad"}', "[]", "\\"])
@pytest.mark.parametrize("fields", FILTERS, ids=str)
def test_a_damaged_head_hides_no_other(storage, damage, fields):
    """Whatever is asked for: PostgreSQL's own JSON would refuse the whole statement."""
    filled(storage)
    raw(storage, "UPDATE bamboo_session SET head = ? WHERE id = ? AND namespace = ?", damage, "s2", storage.namespace)
    found = {item.id for items in walked(storage.page, Filter(**fields), 3) for item in items}
    assert found - {"s2"} == ({"s0", "s1"} if "updated_before" in fields else {f"s{n}" for n in range(8)} - {"s2"})


def test_a_repository_asks_the_storage(storage, bundle):
    """It looks at no heads where the storage can seek; and `list_sessions` does the same."""
    assert has_queries(storage)
    filled(storage)
    repo = bundle(storage)
    with counted(storage) as sent:
        assert [item.id for item in repo.list(2, model="m", order="oldest").items] == ["s0", "s1"]
        assert [item.id for item in storage.list_sessions(2).items] == ["s7", "s6"]
    assert sent == ["SELECT", "SELECT"]


def test_layers_over_a_database_ask_the_database(storage):
    """A list is the last layer's, and so is the power to find it."""
    filled(storage)
    layered = LayeredStorage([MemoryStorage(), storage])
    assert has_queries(layered)
    assert not has_queries(LayeredStorage([storage, MemoryStorage()]))
    with counted(storage) as sent:
        assert [item.id for item in layered.list_sessions(2).items] == ["s7", "s6"]
    assert sent == ["SELECT"]


@pytest.mark.parametrize(("limit", "cursor"), [(0, None), (1, "x"), (1, "WyJuZXdlc3QiLFsiXHUwMDAwIiwiIl0sWyIiLCIiXV0=")])
def test_what_no_list_gave_is_refused(storage, limit, cursor):
    """InvalidValue, and not whatever the database says to it: a cursor with NUL in it, too."""
    with pytest.raises(InvalidValue):
        storage.page(Filter(), limit, cursor)


def test_a_limit_beyond_every_number_of_rows(storage):
    """All of it on one page."""
    filled(storage)
    assert len(storage.page(Filter(), 10**30).items) == 8


def test_the_longest_names_there_are_have_room_in_an_index(opened, url):
    """Of no pattern that could be packed; and two that begin alike are not taken for one another."""
    dice = random.Random(1)
    session_id, parent, context = ("".join(chr(dice.randrange(0x20000, 0x2A000)) for _ in range(512)) for _ in range(3))
    base = url if url.startswith("sqlite") else url.partition("&namespace=")[0].partition("?namespace=")[0]
    storage = opened(base, namespace="".join(chr(dice.randrange(0x20000, 0x2A000)) for _ in range(32)))
    fields = {"parent_id": parent, "context_id": context, "model": parent * 9, "provider": context * 9}
    storage.commit(first(session_id, "w", pinned=True, questions={"t": {}}, **fields))
    storage.commit(first("other", "w", **{name: value + "x" for name, value in fields.items()}))
    for name, value in fields.items():
        for asked, expected in ((value, [session_id]), (value + "x", ["other"]), (value[:100], [])):
            assert [item.id for item in storage.page(Filter(**{name: asked}), 9).items] == expected
    storage.delete_record(session_id)


def test_a_closed_storage_lists_nothing(storage):
    """StorageUnavailable, not an empty page."""
    storage.close()
    with pytest.raises(StorageUnavailable):
        storage.page(Filter(), 5)
