"""What a URL says, and what of it is shown."""

from __future__ import annotations

import stat

import pytest
import structlog
from sqlalchemy import URL, create_engine, make_url

from bamboo_sessions import InvalidValue, Session, StorageUnavailable
from bamboo_sessions.storages.sql import upgrade
from bamboo_sessions.storages.sql.storage import SqlStorage
from tests import servers


def test_two_namespaces_in_a_url_are_not_a_third_one(tmp_path):
    """InvalidValue: `?namespace=a&namespace=b` is neither, and least of all the tenant called "ab"."""
    with pytest.raises(InvalidValue):
        SqlStorage(f"sqlite:///{tmp_path}/x.db?namespace=a&namespace=b").close()


def test_a_time_limit_in_the_url_is_the_one_that_counts(tmp_path):
    """What the driver is told is told where the URL does not say otherwise."""
    storage = SqlStorage(f"sqlite:///{tmp_path}/x.db?timeout=5")
    with storage._open.cursor("test") as cursor:
        assert cursor.execute("PRAGMA busy_timeout").fetchone()[0] == 5000
    storage.close()


@pytest.mark.parametrize("query", ["timeout=soon", "uri=true&mode=ro", "timeout=1&timeout=2"])
def test_what_cannot_be_behind_the_question_mark_is_refused(tmp_path, query):
    """InvalidValue, where the driver would fail with an error of its own, or write into a file called "x.db?mode=ro"."""
    with pytest.raises(InvalidValue, match="storage URL"):
        SqlStorage(f"sqlite:///{tmp_path}/x.db?{query}").close()
    assert list(tmp_path.iterdir()) == []


def test_a_name_with_nul_in_it_is_refused(tmp_path):
    """InvalidValue: to SQLite a name ends there."""
    with pytest.raises(InvalidValue, match="NUL"):
        SqlStorage(URL.create("sqlite", database=f"{tmp_path}/x\0.db")).close()


@pytest.mark.parametrize("name", ["a b.db", "a?b.db", "a#b.db", "a%41.db", "\u00fc\U0001f642.db"])
def test_a_file_has_the_name_that_it_was_given(tmp_path, name):
    """It is opened by a URI, in which some characters mean something."""
    url = URL.create("sqlite", database=str(tmp_path / name))
    upgrade(url)
    assert {path.name.removesuffix("-wal").removesuffix("-shm") for path in tmp_path.iterdir()} == {name}


def test_a_link_to_a_file_that_is_not_there_yet_leads_to_it(tmp_path):
    """The tables are made where it points to, in a file that only its owner may read."""
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    upgrade(f"sqlite:///{tmp_path}/link.db")
    assert stat.S_IMODE((tmp_path / "real.db").stat().st_mode) == 0o600


def test_a_file_that_is_not_there_is_not_made_where_nobody_asked_for_it(tmp_path):
    """create=False: StorageUnavailable and nothing on the disk, least of all a file that everybody may read and that a later opening
    takes as it is."""
    with pytest.raises(StorageUnavailable):
        SqlStorage(f"sqlite:///{tmp_path}/typo.db", create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_somebody_took_away_does_not_come_back_empty(tmp_path):
    """StorageUnavailable from the next connection on, and nothing on the disk."""
    storage = SqlStorage(f"sqlite:///{tmp_path}/x.db")
    storage.save_session(Session.new("s"))
    for path in tmp_path.iterdir():
        path.unlink()
    storage._open.start_anew()
    with pytest.raises(StorageUnavailable):
        storage.exists("s")
    assert list(tmp_path.iterdir()) == []
    storage.close()


def test_an_engine_of_a_file_that_is_not_there_does_not_make_it_either(tmp_path):
    """create=False with an engine: StorageUnavailable and nothing on the disk."""
    with pytest.raises(StorageUnavailable):
        SqlStorage(create_engine(f"sqlite:///{tmp_path}/typo.db"), create=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", ["user=ann&password=s3cret", "sslpassword=s3cret", "user=ann&user=bob&password=s3cret&password=s3cret"])
def test_a_password_behind_the_question_mark_is_a_password_too(given):
    """libpq takes it there, and psycopg does: it is in no error and in no log."""
    with pytest.raises(StorageUnavailable) as caught:
        SqlStorage(f"postgresql://127.0.0.1:1/db?{given}&connect_timeout=2")
    assert "s3cret" not in f"{caught.value} {caught.value.path} {caught.value.__cause__}"


def test_a_password_is_not_in_a_log_either():
    """The warnings about a server's settings name the store."""
    url = make_url(servers.database()).update_query_dict({"password": "s3cret"})
    with structlog.testing.capture_logs() as told:
        SqlStorage(url, namespace="told").close()
    assert [entry["event"] for entry in told if "fsync" in entry["event"]]
    assert "s3cret" not in str(told)
