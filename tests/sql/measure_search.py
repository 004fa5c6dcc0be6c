"""How long searches take among 100,000 sessions of ten messages each, and what the index costs a save:
`python -m tests.sql.measure_search [sqlite] [postgresql] [saves]`.

Not a test: what it tells depends on the machine.
"""

from __future__ import annotations

import random
import statistics
import time
from itertools import accumulate

import orjson

from bamboo_sessions import Message, Session, SessionRepository
from bamboo_sessions.filters import Filter
from bamboo_sessions.search import Query
from bamboo_sessions.storages.sql import SqlStorage, storage
from bamboo_sessions.storages.sql.schema import metadata
from bamboo_sessions.storages.sql.states import columns, packed_head
from bamboo_sessions.storages.sql.texts import head_terms, line_terms, namespace_term, packed
from tests.sql.measure_lists import SESSIONS, heads, run_each, took

MESSAGES, WORDS, BATCH = 10, 30, 2000
VOCABULARY = [f"word{number}" for number in range(20_000)]
WEIGHTS = list(accumulate(1 / (number + 5) for number in range(len(VOCABULARY))))
SPECIAL = {"needle": 5, "seldom": 2_000, "often": 50_000, "mostly": 600_000}
"""Words that are in so many of the messages."""
ASKED = [("needle", {}), ("seldom", {}), ("often", {}), ("mostly", {}), ("mostly often", {}), ("mostly seldom", {}), ("needle mostly", {}),
         ("often", {"tags": ["rare"]}), ("often", {"metadata": {"customer.n": 4711}}), ("mostly", {"model": "model-3"}), ("nowhere", {}), ("word77 word99 word150", {}), ("word0", {})]


def lines(dice):
    """Encoded messages, without end."""
    total = SESSIONS * MESSAGES
    number = 0
    while True:
        words = dice.choices(VOCABULARY, cum_weights=WEIGHTS, k=WORDS)
        words += [word for word, count in SPECIAL.items() if dice.random() < count / total]
        yield orjson.dumps({"id": f"{number:016}", "m": {"role": "user" if number % 2 else "assistant", "content": " ".join(words)}})
        number += 1


def fill(store):
    """Rows as commits would leave them, in a fraction of the time."""
    whose, dice, there = namespace_term(""), random.Random(3), metadata.tables
    said = lines(dice)
    rest = {"namespace": "", "op": "o", "ops": '["o"]', "messages": MESSAGES, "rewrites": 0, "activity": 1}
    made = {name: [] for name in ("bamboo_session", "bamboo_message", "bamboo_text")}
    with store._open.engine.connect().execution_options(isolation_level="SERIALIZABLE") as connection:
        for count, head in enumerate(heads(dice), 1):
            of = {"namespace": "", "id": head["id"]}
            made["bamboo_session"].append(
                {**rest, **{name: head[name] for name in ("id", "birth", "revision")}, "head": packed_head(head), **columns(head)})
            made["bamboo_text"].append({**of, "seq": -1, "words": packed(head_terms("", head), whose)})
            for at in range(MESSAGES):
                line = next(said)
                made["bamboo_message"].append({**of, "seq": at, "line": line.decode()})
                made["bamboo_text"].append({**of, "seq": at, "words": packed(line_terms(line), whose)})
            if count % BATCH == 0:
                for name, rows in made.items():
                    connection.execute(there[name].insert(), rows)
                    rows.clear()
        connection.commit()
    with store._open.engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE")


def measure(url):
    store = SqlStorage(url, durability="process")
    began = time.perf_counter()
    fill(store)
    print(f"{store.name:12} filled in {time.perf_counter() - began:.0f} s", flush=True)
    for words, fields in ASKED:
        query, wanted = Query.read(words), Filter(**fields)
        page = store.search(query, wanted, 20)
        print(f"{store.name:12} {took(lambda: store.search(query, wanted, 20))}  {words} {fields or ''} "  # noqa: B023 - called at once
              f"{len(page.items)}{'+' if page.next_cursor else ''} found", flush=True)
    query = Query.read("wor", prefix=True)
    print(f"{store.name:12} {took(lambda: store.search(query, Filter(), 20))}  wor…", flush=True)
    for tag in ("work", "rare"):
        print(f"{store.name:12} {took(lambda: store.page(Filter(tags=[tag]), 50))}  list, {tag}", flush=True)  # noqa: B023 - called at once
    store.close()


def saves(url):
    """Append-saves with the index and, in turn, without it."""
    repo, dice, real = SessionRepository.open(url, create=True), random.Random(5), storage.rows_of
    session, took_each = Session.new("s"), {"with": [], "without": []}
    repo.save(session)
    for number in range(600):
        for way, times in took_each.items():
            storage.rows_of = real if way == "with" else lambda *_: []
            session.add_message(Message.user(" ".join(dice.choices(VOCABULARY, cum_weights=WEIGHTS, k=200))))
            began = time.perf_counter()
            repo.save(session)
            if number >= 50:
                times.append((time.perf_counter() - began) * 1e6)
    storage.rows_of = real
    middle = {way: statistics.median(each) for way, each in took_each.items()}
    print(f"{repo.storage.name:12} append-save {middle['with']:.0f} µs, {middle['without']:.0f} µs without the index: "
          f"{middle['with'] / middle['without']:.2f}; 99 of 100 below {statistics.quantiles(took_each['with'], n=100)[98]:.0f} µs")
    repo.close()


if __name__ == "__main__":
    run_each(measure, saves)
