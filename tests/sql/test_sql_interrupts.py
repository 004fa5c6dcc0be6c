"""Control-C in the middle of a save: what was held is let go of, wherever it comes."""

from __future__ import annotations

import gc
import sqlite3
import sys
import threading

import pytest
from sqlalchemy import create_engine

from bamboo_sessions import Message, Session, StorageUnavailable
from bamboo_sessions.storages.sql.storage import SqlStorage


def talked(name, turns=3):
    session = Session.new(name)
    for turn in range(turns):
        session.add_message(Message.user(f"turn {turn}"))
    return session


def test_an_interrupted_save_does_not_lock_the_file_for_everybody(tmp_path, bundle):
    """An interactive shell keeps the last traceback, and with it the cursor: a connection that is closed while a statement of its
    lives on keeps its transaction, and no process can write any more."""
    storage = SqlStorage(f"sqlite:///{tmp_path}/x.db", durability="process")
    storage.save_session(Session.new("other"))
    inner = storage._open.statements.add

    def interrupted(*args):
        inner(*args)
        raise KeyboardInterrupt

    storage._open.statements.add = interrupted
    try:
        with pytest.raises(KeyboardInterrupt) as kept:
            bundle(storage).save(talked("s"))
    finally:
        del storage._open.statements.add
    other = sqlite3.connect(tmp_path / "x.db", timeout=0.1, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("ROLLBACK")
    other.close()
    assert kept.value.__traceback__ is not None
    storage.close()


def test_an_interrupted_look_keeps_nobody_from_emptying_the_log(tmp_path):
    """The same for a read: what it has begun to read ends with it, or the file that is written ahead grows for ever."""
    storage = SqlStorage(f"sqlite:///{tmp_path}/x.db", durability="process")
    storage.save_session(talked("s"))
    with pytest.raises(KeyboardInterrupt) as kept, storage._open.cursor("test") as cursor:
        cursor.execute("SELECT seq FROM bamboo_message")
        cursor.fetchone()
        raise KeyboardInterrupt
    other = sqlite3.connect(tmp_path / "x.db", timeout=0, isolation_level=None)
    other.execute("DELETE FROM bamboo_text")
    assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0  # 1: somebody reads
    other.close()
    assert kept.value.__traceback__ is not None
    storage.close()


@pytest.mark.skipif(sys.gettrace() is not None, reason="somebody else traces")
def test_an_interrupt_at_any_line_leaves_an_engine_as_its_owner_made_it(tmp_path):
    """No connection of his comes back in autocommit: his rollback is one. Nor does one go missing."""
    engine = create_engine(f"sqlite:///{tmp_path}/x.db", pool_size=1, max_overflow=0, pool_timeout=0)
    storage = SqlStorage(engine, durability="process")
    with engine.begin() as mine:
        mine.exec_driver_sql("CREATE TABLE mine (x)")
    spoilt, met = [], 0
    for number in range(1, 1000):
        at = InterruptAt(number)
        sys.settrace(at)
        try:
            storage.exists("s")
        except KeyboardInterrupt:
            met += 1
        finally:
            sys.settrace(None)
        if at.where is None:
            break
        with engine.connect() as mine:
            mine.exec_driver_sql("INSERT INTO mine VALUES (1)")
            mine.rollback()
            if mine.exec_driver_sql("SELECT count(*) FROM mine").scalar() or level(mine) != 2:
                spoilt.append(at.where)
    storage.close()
    engine.dispose()
    assert spoilt == []
    assert met > 20


def level(connection):
    return connection.exec_driver_sql("PRAGMA synchronous").scalar()


class InterruptAt:
    """A trace function that raises at one line of the files that use connections."""

    def __init__(self, number):
        self.left, self.where = number, None

    def __call__(self, frame, event, arg):
        return self.line if frame.f_code.co_filename.endswith(("sql/using.py", "sql/database.py")) else None

    def line(self, frame, event, arg):
        if event == "line":
            self.left -= 1
            if self.left == 0:
                self.where = f"{frame.f_code.co_filename.rsplit('/', 1)[1]}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self.line


@pytest.mark.skipif(sys.gettrace() is not None, reason="somebody else traces")
@pytest.mark.parametrize("alone", [False, True], ids=["a save", "a session that is held"])
def test_an_interrupt_at_any_line_leaves_the_writers_their_lock(tmp_path, bundle, monkeypatch, alone):
    """Wherever it comes in the use of a connection, neither the next writer of this process waits for nobody, nor another one."""
    monkeypatch.setattr("bamboo_sessions.storages.sql.database.WAIT", 0.2)
    storage = SqlStorage(f"sqlite:///{tmp_path}/x.db?timeout=0.1", durability="process")
    other = sqlite3.connect(tmp_path / "x.db", timeout=0, isolation_level=None)
    repo, stuck, missed = bundle(storage), [], 0

    def used(name):
        if not alone:
            repo.save(talked(name, 1))
            return
        with storage.alone(name):
            storage.exists(name)

    gc.freeze()  # what was there before needs no looking through each time
    for number in range(1, 1000):
        at = InterruptAt(number)
        sys.settrace(at)
        try:
            used(f"s{number}")
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        if at.where is None:
            break
        missed += 1
        gc.collect()  # what the traceback kept is another test's business
        if complaint := refused(storage, other):
            stuck.append((at.where, complaint))
    gc.unfreeze()
    other.close()
    storage.close()
    assert stuck == []
    assert missed > 30


def refused(storage, other):
    """What another thread is told, and another process."""
    said = []

    def save():
        try:
            storage.save_session(talked("next", 1))
        except StorageUnavailable as error:
            said.append(error.reason)

    writer = threading.Thread(target=save)
    writer.start()
    writer.join()
    try:
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        said.append(str(error))
    return said
