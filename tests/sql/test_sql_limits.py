"""Texts that are longer than a database takes in one piece: an entry of an index, a value of an answer."""

from __future__ import annotations

import random
import sqlite3

import pytest
from sqlalchemy import create_engine, event

from bamboo_sessions import Message, Session, StorageError
from bamboo_sessions.storages.sql.storage import SqlStorage


def test_what_a_save_acknowledged_can_be_loaded_or_is_refused_at_the_save(tmp_path, bundle):
    """P1: also past the longest text that a database gives back, a gigabyte, which is played with a smaller one."""
    engine = create_engine(f"sqlite:///{tmp_path}/x.db")
    event.listen(engine, "connect", lambda connection, _record: connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000))
    storage = SqlStorage(engine, durability="process")
    repo, session, said = bundle(storage), Session.new("s"), 0
    try:
        while said < 30:
            session.add_message(Message.user("x" * 9_000))
            repo.save(session)
            said += 1
    except StorageError:
        pass
    assert len(bundle(storage).try_load("s").messages) == said
    storage.close()
    engine.dispose()


def text(length, low, high):
    dice = random.Random(1)  # of no pattern: PostgreSQL packs what repeats
    return "".join(chr(dice.randrange(low, high)) for _ in range(length))


WIDE, PLAIN = (0x20000, 0x2A000), (0x61, 0x7B)


@pytest.mark.parametrize(("name", "fields"), [
    ("s", {"context_id": text(3000, *PLAIN)}),
    ("s", {"parent_id": text(3000, *PLAIN)}),
    (text(512, *WIDE), {"parent_id": text(512, *WIDE)}),
], ids=["a long context", "a long parent", "two ids of the longest"])
def test_a_session_that_other_storages_take_is_saved(opened, bundle, name, fields):
    """P14: what cannot be kept is refused where it enters, and never at a save; each id here is one that a session may have."""
    bundle(opened()).save(Session.new(name, **fields))
    repo = bundle(opened())
    assert [item.id for item in repo.list(**fields).items] == [name]
