"""How long a page of a list takes among 100,000 sessions: `python -m tests.sql.measure_lists [sqlite] [postgresql]`.

Not a test: what it tells depends on the machine. That a page is one statement along an index is held by `test_sql_queries`.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta

from bamboo_sessions.filters import Filter
from bamboo_sessions.storages.sql import SqlStorage, upgrade
from bamboo_sessions.storages.sql.schema import session
from bamboo_sessions.storages.sql.states import columns, packed_head
from tests import servers

SESSIONS, PAGE, ROUNDS = 100_000, 50, 41
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
FILTERS = [{"model": "model-3"}, {"context_id": "ctx-77"}, {"parent_id": "chat-5"}, {"pinned": True}, {"has_open_question": True},
           {"tags": ["work"]}, {"tags": ["rare"]}, {"metadata": {"customer.plan": "pro"}}, {"metadata": {"customer.n": 4711}}]


def heads(dice):
    """Sessions of a year, changed in another order than made."""
    for n in range(SESSIONS):
        created = BEGIN + timedelta(seconds=300 * n)
        changed = created + timedelta(seconds=dice.randrange(10_000_000))
        tags = ["rare"] if n % 50_000 == 7 else ["red", "work"] if n % 20 == 0 else None
        yield {"id": f"chat-{n}", "birth": "b" * 16, "revision": 5, "created_at": stored(created), "updated_at": stored(changed),
               "title": f"About the matter number {n} and some words", "model": f"model-{n % 5}", "context_id": f"ctx-{n % 10_000}",
               "metadata": {"customer": {"plan": "free" if n % 10 else "pro", "n": n}, "note": "v" * 100},
               **({"tags": tags} if tags else {}), **({"pinned": True} if n % 1000 == 0 else {}),
               **({"parent_id": f"chat-{n % 97}"} if n % 100 == 0 else {})}


def stored(moment):
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def fill(storage):
    """Rows as commits would leave them, in a fraction of the time."""
    rest = {"namespace": storage.namespace, "op": "o", "ops": '["o"]', "messages": 7, "rewrites": 0, "activity": 1}
    rows = [{**rest, **{name: head[name] for name in ("id", "birth", "revision")}, "head": packed_head(head), **columns(head)}
            for head in heads(random.Random(3))]
    with storage._open.engine.connect().execution_options(isolation_level="SERIALIZABLE") as connection:
        for start in range(0, SESSIONS, 5000):
            connection.execute(session.insert(), rows[start : start + 5000])
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
              f"   page 1,000 {took(lambda: storage.page(wanted, PAGE, cursor))}")  # noqa: B023
    for fields in FILTERS:
        wanted = Filter(**fields)
        print(f"{storage.name:12} {took(lambda: storage.page(wanted, PAGE))}  {fields}")  # noqa: B023
    storage.close()


if __name__ == "__main__":
    kinds = sys.argv[1:] or ["sqlite", "postgresql"]
    if "sqlite" in kinds:
        with tempfile.TemporaryDirectory() as folder:
            measure(f"sqlite:///{folder}/sessions.db")
    if "postgresql" in kinds:
        empty = servers.new_database()
        upgrade(empty)
        measure(empty)
