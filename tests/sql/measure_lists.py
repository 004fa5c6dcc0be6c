"""How long a page of a list takes among 100,000 sessions, and a save of metadata:
`python -m tests.sql.measure_lists [sqlite] [postgresql] [saves]`.

Not a test: what it tells depends on the machine. That a page is one statement along an index is held by `test_sql_queries`.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta

from bamboo_sessions import Message, Session, SessionRepository
from bamboo_sessions.filters import Filter
from bamboo_sessions.storages.sql import SqlStorage, upgrade
from bamboo_sessions.storages.sql.schema import session, text
from bamboo_sessions.storages.sql.states import columns, packed_head
from bamboo_sessions.storages.sql.texts import head_terms, namespace_term, packed
from tests import servers

SESSIONS, PAGE, ROUNDS = 100_000, 50, 41
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
FILTERS = [{"model": "model-3"}, {"context_id": "ctx-77"}, {"parent_id": "chat-5"}, {"pinned": True}, {"has_open_question": True},
           {"tags": ["work"]}, {"tags": ["rare"]}, {"metadata": {"customer.plan": "pro"}}, {"metadata": {"customer.plan": "free"}},
           {"metadata": {"customer.n": 4711}}, {"metadata": {"customer.n": -1}}, {"metadata": {"customer.n": 4710, "customer.plan": "pro"}},
           {"metadata": {"customer.team": 7}}, {"metadata": {"customer.team": 7}, "tags": ["work"]}]


def heads(dice):
    """Sessions of a year, changed in another order than made."""
    for n in range(SESSIONS):
        created = BEGIN + timedelta(seconds=300 * n)
        changed = created + timedelta(seconds=dice.randrange(10_000_000))
        tags = ["rare"] if n % 50_000 == 7 else ["red", "work"] if n % 20 == 0 else None
        yield {"id": f"chat-{n}", "birth": "b" * 16, "revision": 5, "created_at": stored(created), "updated_at": stored(changed),
               "title": f"About the matter number {n} and some words", "model": f"model-{n % 5}", "context_id": f"ctx-{n % 10_000}",
               "metadata": {"customer": {"plan": "free" if n % 10 else "pro", "n": n, "team": n % 500}, "note": "v" * 100},
               **({"tags": tags} if tags else {}), **({"pinned": True} if n % 1000 == 0 else {}),
               **({"parent_id": f"chat-{n % 97}"} if n % 100 == 0 else {})}


def stored(moment):
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def fill(storage):
    """Rows as commits would leave them, in a fraction of the time."""
    rest = {"namespace": storage.namespace, "op": "o", "ops": '["o"]', "messages": 7, "rewrites": 0, "activity": 1}
    made = list(heads(random.Random(3)))
    rows = [{**rest, **{name: head[name] for name in ("id", "birth", "revision")}, "head": packed_head(head), **columns(head)} for head in made]
    whose = namespace_term(storage.namespace)
    titles = [{"namespace": storage.namespace, "id": head["id"], "seq": -1, "words": packed(head_terms(storage.namespace, head), whose)}
              for head in made]
    with storage._open.engine.connect().execution_options(isolation_level="SERIALIZABLE") as connection:
        for start in range(0, SESSIONS, 5000):
            connection.execute(session.insert(), rows[start : start + 5000])
            connection.execute(text.insert(), titles[start : start + 5000])
        connection.commit()
    with storage._open.engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE")


def took(ask):
    """The middle of several, in milliseconds."""
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        ask()
        times.append((time.perf_counter() - begin) * 1000)
    return f"{statistics.median(times):8.2f} ms"


def measure(url):
    storage = SqlStorage(url, durability="process")
    fill(storage)
    for order in ("newest", "oldest", "created"):
        wanted, cursor = Filter(order=order), None
        for _ in range(999):
            cursor = storage.page(wanted, PAGE, cursor).next_cursor
        print(f"{storage.name:12} {order:8} page 1 {took(lambda: storage.page(wanted, PAGE))}"  # noqa: B023 - called at once
              f"   page 1,000 {took(lambda: storage.page(wanted, PAGE, cursor))}")  # noqa: B023 - called at once
    for fields in FILTERS:
        wanted = Filter(**fields)
        print(f"{storage.name:12} {took(lambda: storage.page(wanted, PAGE))}  {fields}")  # noqa: B023 - called at once
    storage.close()


def saves(url):
    """Of sessions with so many values in their metadata: one that adds a message, one that changes a value."""
    repo = SessionRepository.open(url, create=True)
    for count in (3, 30, 250):
        one = Session.new(f"s-{count}", title="About some words", metadata={f"key-{n}": f"value-{n}" for n in range(count)})
        repo.save(one)
        took_each = {"append": [], "change": []}
        for number in range(800):
            for way, times in took_each.items():
                if way == "append":
                    one.add_message(Message.user("A few words"))
                else:
                    one.metadata["key-1"] = f"value-{number}-{way}"
                began = time.perf_counter()
                repo.save(one)
                if number >= 50:
                    times.append((time.perf_counter() - began) * 1e6)
        print(f"{repo.storage.name:12} {count:4} values", *(
            f"  {way} {statistics.median(times):.0f} µs, 99 of 100 below {statistics.quantiles(times, n=100)[98]:.0f}"
            for way, times in took_each.items()), flush=True)
    repo.close()


def run_each(measure, saves):
    """What the command line asks for, or both, in a new store of each kind."""
    kinds = sys.argv[1:] or ["sqlite", "postgresql", "saves"]
    for kind in [one for one in kinds if one != "saves"] or ["sqlite", "postgresql"]:
        for run in ([saves] if kinds == ["saves"] else [measure, saves] if "saves" in kinds else [measure]):
            with tempfile.TemporaryDirectory() as folder:
                place = f"sqlite:///{folder}/sessions.db" if kind == "sqlite" else servers.new_database()
                upgrade(place)
                run(place)


if __name__ == "__main__":
    run_each(measure, saves)
