"""Values of metadata that few sessions have: looked up in the index, never missed, and paid for by those who change them."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from itertools import combinations_with_replacement
from uuid import uuid4

import pytest

from bamboo_sessions import Session
from bamboo_sessions._json import loads
from bamboo_sessions.filters import Filter, same_json
from bamboo_sessions.models.values import pack
from bamboo_sessions.search import Query
from bamboo_sessions.storages.sql import metadata_terms, queries, texts
from bamboo_sessions.storages.sql.metadata_terms import asked_terms, terms_of
from bamboo_sessions.storages.sql.storage import SqlStorage
from bamboo_sessions.testing.scribe import first, later
from tests.sql.test_sql_queries import VALUES, model, text, walked
from tests.sql.test_sql_storage import counted
from tests.support import ManualClock


def ids(storage, limit=100, **wanted):
    return [item.id for item in storage.page(Filter(**wanted), limit).items]


def stored(metadata):
    """As a head keeps it."""
    return {key: loads(pack(value, key)) for key, value in metadata.items()}


def words_of(storage, session_id):
    """The terms of the row of its title."""
    with storage._open.cursor("look") as cursor:
        mark = "?" if storage.name == "sqlite" else "%s"
        cursor.execute(f"SELECT words FROM bamboo_text WHERE namespace = {mark} AND id = {mark} AND seq = -1",
                       (storage.namespace, session_id))
        rows = cursor.fetchall()
    return {word.strip("'") for row in rows for word in row[0].split()}


# -- terms ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["at the top", "within"])
def test_values_that_are_the_same_have_one_term(where):
    """Of every two values: a filter for the one asks for nothing that a session with the other has not; and for two that differ
    it does, where they are no lists, no objects and no numbers that JSON has not."""
    told_apart = 0
    for one, other in combinations_with_replacement(VALUES, 2):
        for wanted, there in ((one, other), (other, one)):
            metadata, path = ({"k": there}, "k") if where == "at the top" else ({"o": {"k": there}}, "o.k")
            asked = set(asked_terms("", Filter(metadata={path: wanted}).metadata))
            has = asked <= terms_of("", stored(metadata))
            assert has or not same_json(wanted, there), f"{wanted!r} is {there!r}"
            told_apart += not has
    assert told_apart > 600


@pytest.mark.parametrize("wanted", [{"a": {"b": 1, "c": {"d": "x"}}, "e": 2.0}, {"e": 2}, {"a.b": 1.0}, {"a.c": {"d": "x"}}, {"a.c.d": "x"}])
def test_an_object_is_asked_for_by_what_is_in_it(wanted):
    """Also among others."""
    metadata = {"a": {"b": 1, "c": {"d": "x"}}, "e": 2, "f": [1], "g": {}}
    asked = asked_terms("", Filter(metadata=wanted).metadata)
    assert asked
    assert set(asked) <= terms_of("", metadata)
    assert not set(asked) <= terms_of("other", metadata)


def test_values_that_look_alike_have_terms_of_their_own():
    """What one would take for the other in another language."""
    alike = [True, 1, "1", "True", "true", False, 0, "", None, "None", "null", 1.5, "1.5", "#1", 10, "s"]
    assert len({frozenset(terms_of("", {"k": value})) for value in alike}) == len(alike)


@pytest.mark.parametrize("wanted", [{"k": []}, {"k": [1, "x"]}, {"k": {}}, {"k": {"l": [1]}}, {}])
def test_lists_are_not_asked_for(wanted):
    """An empty object neither."""
    assert asked_terms("", Filter(metadata=wanted).metadata) == []


def test_a_path_is_its_keys():
    """A dot, a NUL or the end of a key belong where they are."""
    there = [{"a": {"b": 1}}, {"a.b": 1}, {"a\0b": 1}, {"ab": 1}, {"b": {"a": 1}}, {"a": {"b": {"": 1}}}, {"": {"a": {"b": 1}}}]
    assert len({frozenset(terms_of("", metadata)) for metadata in there}) == len(there)


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_each_value_is_found_by_itself(storage, value):
    """At the top and within, written and asked for as it is."""
    storage.commit(first("s", metadata=stored({"k": value, "o": {"k": value}})))
    storage.commit(first("other", metadata={"k": "another", "o": {"k": "another"}}))
    assert ids(storage, metadata={"k": value}) == ids(storage, metadata={"o.k": value, "k": value}) == ["s"]


# -- bounds --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{f"k{n}": n for n in range(300)}, {"k": {f"k{n}": [] for n in range(300)}}, {"k": {"l": {str(n): {} for n in range(300)}}},
                                  {f"k{n}": {"l": {"m": n}} for n in range(100)}, {"k": [10**30, *["v" * 50] * 100]}])
def test_a_session_with_more_than_is_named_is_found(storage, more):
    """By a value of its own, and not by others; in the index it has a term that says so, and none of its values."""
    storage.commit(first("much", "w", metadata=stored({"id": "c-1", **more})))
    storage.commit(first("other", "w", metadata={"id": "c-1"}))
    storage.commit(later("other", 2, 1, head={"set": {"updated_at": text(10**8)}}))
    assert ids(storage, metadata={"id": "c-1"}) == ["other", "much"]
    assert ids(storage, metadata={"id": "c-2"}) == []
    assert len(words_of(storage, "much")) == 2
    assert metadata_terms.more_term(storage.namespace) in words_of(storage, "much")


def test_as_many_as_are_named_are_named(storage):
    """256 values, objects included; one more is too many, and one less names them all again."""
    many = {f"k{n}": n for n in range(metadata_terms.MOST)}
    storage.commit(first("s", metadata=many))
    assert len(words_of(storage, "s")) == metadata_terms.MOST + 1
    storage.commit(later("s", 2, 0, head={"in": {"metadata": {"set": {"one": "more"}}}}))
    assert len(words_of(storage, "s")) == 2
    storage.commit(later("s", 3, 0, head={"in": {"metadata": {"unset": ["k0"]}}}))
    assert len(words_of(storage, "s")) == metadata_terms.MOST + 1
    assert ids(storage, metadata={"one": "more"}) == ["s"]


def test_a_filter_may_want_more_than_is_asked_for(storage):
    """An object with five hundred values in it, and as many paths: the session that has them, and not the one that lacks the last."""
    deep = {f"k{n}": n for n in range(500)}
    few = {f"k{n}": n for n in range(100)}
    storage.commit(first("all", metadata={"deep": deep, **few}))
    storage.commit(first("less", metadata={**few, "deep": {**deep, "k499": 0}}))
    storage.commit(first("few", metadata=few))
    storage.commit(first("fewer", metadata={**few, "k99": 0}))
    assert ids(storage, metadata={"deep": deep}) == ["all"]
    assert sorted(ids(storage, metadata=few)) == ["all", "few", "less"]
    assert ids(storage, tags=[f"t{n}" for n in range(300)]) == []
    assert len(asked_terms("", Filter(metadata={**few, "deep": deep}).metadata)) == metadata_terms.ASKED


# -- which saves pay -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "rows"), [
    ({}, 0), ({"set": {"pinned": True, "updated_at": text(9)}}, 0), ({"in": {"questions": {"set": {"t": {"question": "?"}}}}}, 0),
    ({"unset": ["model"]}, 0), ({"in": {"metadata": {"set": {"id": 7}}}}, 1), ({"in": {"metadata": {"unset": ["id"]}}}, 1),
    ({"set": {"metadata": {"id": 7}}}, 1), ({"unset": ["metadata"]}, 1), ({"set": {"title": "U"}}, 1)])
def test_only_what_changes_names_is_named_anew(storage, monkeypatch, change, rows):
    """A turn that only appends sends what it always sent."""
    storage.commit(first("s", "w", "w", title="T", model="m", metadata={"id": 1, "o": {"k": 2}}))
    made, real = [], texts.packed
    monkeypatch.setattr(texts, "packed", lambda *args: made.append(args) or real(*args))
    with counted(storage) as sent:
        storage.commit(later("s", 2, 2, "fox", head=change))
    assert len(made) == 1 + rows
    whole = ["BEGIN", "UPDATE", "INSERT", *["DELETE"] * rows, "INSERT", "COMMIT"]
    assert sent == (["WITH"] if storage.name == "postgresql" else whole)


def test_the_terms_are_those_of_the_newest_state(storage):
    """Set, changed, unset, thrown away, and after what was there before a deletion."""
    key, heads = ("k",), [{"in": {"metadata": {"set": {"k": 1}}}}, {"in": {"metadata": {"set": {"k": {"l": 1}}}}},
                          {"in": {"metadata": {"unset": ["k"]}}}, {"set": {"metadata": {"k": 2}}}, {"unset": ["metadata"]}]
    expected = [{1}, {"l"}, set(), {2}, set()]
    storage.commit(first("s", "w", title="T"))
    for number, (head, there) in enumerate(zip(heads, expected, strict=True), 2):
        storage.commit(later("s", number, 0 if number == 4 else 1, "w", head=head))
        found = {name for name, value in ((1, 1), (2, 2), ("l", {"l": 1})) if ids(storage, metadata={key: value})}
        assert found == there
    storage.commit(later("s", 7, 0, head={"set": {"metadata": {"k": 1}}}))
    storage.delete_record("s")
    assert ids(storage, metadata={"k": 1}) == []
    storage.commit(first("s", birth="b" * 16, metadata={"k": 2}))
    assert [ids(storage, metadata={"k": value}) for value in (1, 2)] == [[], ["s"]]
    if storage.name == "sqlite":
        with storage._open.cursor("look") as cursor:
            cursor.execute("INSERT INTO bamboo_words (bamboo_words) VALUES ('integrity-check')")


def test_a_merge_names_what_it_makes(storage, bundle):
    """Two that set different keys of one session, the second without having seen the first."""
    one, other = bundle(storage), bundle(storage)
    one.save(Session.new("s", metadata={"a": 0, "b": 0}))
    mine, theirs = one.load("s"), other.load("s")
    mine.metadata["a"] = 1
    one.save(mine)
    theirs.metadata["b"] = {"c": 2}
    other.save(theirs)
    assert [item.id for item in one.list(metadata={"a": 1, "b.c": 2}).items] == ["s"]
    assert one.list(metadata={"a": 0}).items == one.list(metadata={"b": 0}).items == ()


# -- who is seen, and how ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("look_the_same", [False, True])
def test_no_lookup_crosses_a_namespace(url, opened, monkeypatch, look_the_same):
    """Where the index takes them for one as well: the columns decide."""
    if look_the_same:
        monkeypatch.setattr(metadata_terms, "_root", lambda namespace: b"")
    base = url if url.startswith("sqlite") else url.partition("&namespace=")[0].partition("?namespace=")[0]
    one, other = opened(base, namespace=uuid4().hex), opened(base, namespace=uuid4().hex)
    one.commit(first("mine", metadata={"k": 1}))
    one.commit(first("same", metadata={"k": 2}))
    other.commit(first("theirs", metadata={"k": 1}))
    other.commit(first("same", metadata={"k": 1}))
    assert (ids(one, metadata={"k": 1}), sorted(ids(other, metadata={"k": 1}))) == (["mine"], ["same", "theirs"])
    assert words_of(one, "mine").isdisjoint(words_of(other, "theirs")) != look_the_same


def test_sessions_whose_time_ran_out_are_not_looked_up(opened):
    """Pinned ones stay."""
    clock = ManualClock()
    storage = opened(ttl=timedelta(minutes=1), clock=clock)
    storage.commit(first("old", metadata={"k": 1}))
    storage.commit(first("pinned", metadata={"k": 1}, pinned=True))
    clock.forward(minutes=2)
    storage.commit(first("new", metadata={"k": 1}))
    assert sorted(ids(storage, metadata={"k": 1})) == ["new", "pinned"]


@pytest.mark.parametrize("order", ["newest", "oldest", "created"])
def test_pages_of_a_lookup_stay_right_while_others_write(storage, monkeypatch, order):
    """Each page is the one that a look at every head gives; whether a page is looked up or gone through may change between two."""
    wanted = Filter(metadata={"o.k": 1}, tags=["red"], order=order)
    for number in range(12):
        storage.commit(first(f"s{number:02}", created_at=text(-number), updated_at=text(number), tags=["red"] if number % 4 else [],
                             metadata={"o": {"k": 1 if number % 3 else 2}}))
    monkeypatch.setattr(queries, "_FREQUENT_FOR", 0)
    shown, cursor, other = [], None, None
    for turn in range(30):
        monkeypatch.setattr(queries, "RARE", 1000 if turn % 2 else -1)
        answer, expected = storage.page(wanted, 2, cursor), model(storage, wanted, 2, other)
        assert answer.items == expected.items
        shown += [item.id for item in answer.items]
        cursor, other = answer.next_cursor, expected.next_cursor
        assert (cursor is None) == (other is None)
        if cursor is None:
            break
        if turn < 3:
            change = {"set": {"updated_at": text(100 + turn)}, "in": {"metadata": {"set": {"n": turn}}}}
            storage.commit(later(f"s{turn * 3 + 1:02}", 2, 0, head=change))
    assert set(shown) == {f"s{number:02}" for number in range(12) if number % 4 and number % 3}


LOOKED_UP = [{"metadata": {"id": "c-2"}}, {"metadata": {"id": "c-2", "o.k": 2}, "tags": ["red"]}, {"metadata": {"o": {"k": 2}}}]


@pytest.mark.parametrize("fields", LOOKED_UP, ids=str)
def test_a_rare_value_is_looked_up(empty_url, monkeypatch, fields):
    """In an index, among the heads of three thousand sessions: as each database plans the statement that was sent, in every order."""
    storage, made, real = SqlStorage(empty_url, create=True, durability="process"), [], queries.compiled
    for number in range(4):
        storage.commit(first(f"s{number}", tags=["red"], metadata={"id": f"c-{number}", "o": {"k": number}}))
    others(storage, 3000)
    monkeypatch.setattr(queries, "compiled", lambda *args: made.append(real(*args)) or made[-1])
    for order in ("newest", "oldest", "created"):
        wanted = Filter(order=order, **fields)
        assert [item.id for item in storage.page(wanted, 100).items] == ["s2"]
        plan = planned(storage, made[-1].text, wanted)
        if storage.name == "sqlite":
            assert any("VIRTUAL TABLE INDEX" in line for line in plan), plan
            assert any("SEARCH bamboo_session" in line and "id=?" in line for line in plan), plan
        else:
            assert any("Bitmap Index Scan on bamboo_text_words" in line for line in plan), plan
            assert any("Index Scan using bamboo_session_pkey" in line for line in plan), plan
        whole = [line for line in plan if "newest" in line or "SCAN bamboo_session" in line or "Seq Scan on bamboo_session" in line]
        assert len(whole) == (order == "created"), "for the newest change of all"
    storage.close()


def others(storage, count):
    """As many copies of `s1` in other words, and the statistics that go with them."""
    postgres = storage.name == "postgresql"
    name = f"'x' || {'CAST(i.n AS text)' if postgres else 'i.n'}"
    words = f"CAST({name} || ' common' AS tsvector)" if postgres else f"{name} || ' common'"
    numbers = f"WITH RECURSIVE i (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < {count}) SELECT"
    with storage._open.engine.connect() as connection:
        columns = [row[0] for row in connection.exec_driver_sql("SELECT * FROM bamboo_session LIMIT 0").cursor.description]
        copied = ", ".join(name if column == "id" else column for column in columns)
        for into, what in ((f"bamboo_session ({', '.join(columns)})", copied),
                           ("bamboo_text (namespace, id, seq, words)", f"namespace, {name}, -1, {words}")):
            connection.exec_driver_sql(f"INSERT INTO {into} {numbers} {what} FROM bamboo_session, i WHERE id = 's1'")
        connection.exec_driver_sql("ANALYZE")


def planned(storage, asked, wanted):
    words = texts.match_head(storage.namespace, wanted, postgres=storage.name == "postgresql")
    values = {**queries.asked_of(wanted).values, "k_namespace": storage.namespace, "k_rare": words, "k_limit": 101}
    if storage.name == "sqlite":
        with sqlite3.connect(str(storage._open.engine.url.database)) as connection:
            return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {asked}", ["x"] * asked.count("?"))]
    with storage._open.cursor("plan") as cursor:
        cursor.execute(f"EXPLAIN {asked}", values)
        return [row[0] for row in cursor.fetchall()]


def test_how_frequent_something_is_is_not_asked_each_time(opened, monkeypatch):
    """Of what many have, once in ten minutes; of what few have, whenever it is asked for. The sessions are the same."""
    monkeypatch.setattr(queries, "RARE", 3)
    clock = ManualClock()
    storage = opened(clock=clock)
    for number in range(5):
        storage.commit(first(f"s{number}", updated_at=text(number), metadata={"plan": "free", "n": number}))
    asked = []
    for wanted, minutes in (({"plan": "free"}, 0), ({"plan": "free"}, 9), ({"plan": "free"}, 2), ({"n": 2}, 0), ({"n": 2}, 0)):
        clock.forward(minutes=minutes)
        with counted(storage) as sent:
            assert ids(storage, metadata=wanted) == (["s2"] if "n" in wanted else ["s4", "s3", "s2", "s1", "s0"])
        asked.append(len(sent))
    assert asked == [3, 1, 2, 2, 2]  # with the first one, whether there is an index


@pytest.mark.parametrize("wanted", [{"k": [1]}, {"k": {}}, {"k": {"l": []}}])
def test_what_has_no_term_is_gone_for(storage, wanted):
    """As ever, in one statement."""
    storage.commit(first("s", metadata=wanted))
    storage.commit(first("other", metadata={"k": 1}))
    storage.page(Filter(metadata=wanted), 5)
    with counted(storage) as sent:
        assert ids(storage, metadata=wanted) == ["s"]
    assert sent == ["SELECT"]


def test_a_search_looks_them_up_as_well(opened, monkeypatch):
    """What is everywhere, among the few sessions with a value; the same as without."""
    storage = opened()
    for number in range(20):
        storage.commit(first(f"s{number}", "fox", updated_at=text(number), metadata={"id": number % 7}))
    wanted, real, made = Filter(metadata={"id": 3}), queries.compiled, []
    monkeypatch.setattr("bamboo_sessions.storages.sql.searching.compiled", lambda *args: made.append(args) or real(*args))
    found = [(one.session.id, one.index) for one in storage.search(Query.read("fox"), wanted, 9).items]
    assert found == [("s17", 0), ("s10", 0), ("s3", 0)]
    assert {shape[4] for _, shape, _ in made} == {True}
    monkeypatch.setattr(queries, "RARE", -1)
    assert [(one.session.id, one.index) for one in storage.search(Query.read("fox"), wanted, 9).items] == found


def test_an_sqlite_without_fts5_goes_through_the_heads(tmp_path, monkeypatch):
    """And finds the same."""
    monkeypatch.setattr(texts, "_FTS5", ())
    storage = SqlStorage(f"sqlite:///{tmp_path}/a.db", durability="process")
    storage.commit(first("s", metadata={"k": 1}))
    storage.commit(first("other", metadata={"k": 2}))
    storage.commit(later("other", 2, 0, head={"in": {"metadata": {"set": {"k": 1}}}}))
    assert sorted(ids(storage, metadata={"k": 1.0})) == ["other", "s"]
    assert [item for items in walked(storage.page, Filter(metadata={"k": 2}), 1) for item in items] == []
    storage.close()


@pytest.mark.parametrize("head", ["[" * 1000, "[" * 990 + "1" + "]" * 990, "[" * 450 + "1" + "]" * 450, "no json", "1" * 5000, '{"a": ' * 100 + "1" + "}" * 100])
def test_whatever_a_head_keeps_as_text_can_be_committed(storage, head):
    """A save never fails because of what is looked up; nor does a list because of what no version wrote."""
    storage.commit(first("s", metadata={"k": {"$json": head}, "id": 1}))
    assert ids(storage, metadata={"id": 1}) == ["s"]
    assert ids(storage, metadata={"k": 5}) == []
