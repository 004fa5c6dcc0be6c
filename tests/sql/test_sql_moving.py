"""Moving into a database and out of it: sessions and their usage, while writers go on."""

from __future__ import annotations

from uuid import uuid4

from bamboo_sessions import JsonFileStorage, Message, Session, copy_sessions
from bamboo_sessions.storages.protocol import Record
from tests.support import Worker


def whole(storage, session_id):
    record = storage.read(session_id)
    assert isinstance(record, Record)
    return record.head, tuple(record.messages), tuple(storage.read_usage(session_id, record.head["birth"]))


def test_files_to_a_database_and_back(tmp_path, storage, bundle):
    """Heads, messages and usage are what they were, to the byte, after both ways."""
    files, again = JsonFileStorage(tmp_path / "from"), JsonFileStorage(tmp_path / "to")
    repo = bundle(files)
    for number in range(5):
        session = Session.new(f"s/{number}", title="é")
        session.messages = [Message.user(f"\u2028 {n}") for n in range(number)]
        repo.save(session)
        for n in range(number):
            files.append_usage(session.id, b'{"tokens":%d,"t":"\xc3\xa9"}' % (n // 2))
    for source, target in ((files, storage), (storage, again)):
        report = copy_sessions(source, target)
        assert (report.copied, report.usage_lines, report.settled, report.problems) == (5, 10, True, ())
        assert copy_sessions(source, target).same == 5
    assert all(whole(files, f"s/{n}") == whole(again, f"s/{n}") == whole(storage, f"s/{n}") for n in range(5))


def test_lines_are_not_added_beside_one_that_is_under_way(opened, bundle):
    """Somebody's line is written and not committed yet: adding waits for it, and then finds more than it named."""
    log, other = opened(), opened()
    bundle(log).save(Session.new("s"))
    birth = log.read("s").head["birth"]
    with other._changing("append usage", "s") as cursor:
        assert other._open.statements.append_usage.run(cursor, {**other._key("s"), "v_line": "1"}) == 1
        adding = Worker(log.add_usage, "s", birth, [b"2"], 0)
        adding._thread.join(0.3)  # who does not wait is through by now
    assert adding.result() is False
    assert list(log.read_usage("s", birth)) == [b"1"]
    assert log.add_usage("s", birth, [b"2"], 1) is True


def test_two_namespaces_have_logs_of_their_own(url, opened, bundle):
    """One id and one birth in both: a copy within a database reaches the other namespace only."""
    one, two = opened(), opened(f"{url.partition('namespace=')[0].rstrip('?&')}", namespace=uuid4().hex)
    bundle(one).save(Session.new("s"))
    one.append_usage("s", b"1")
    assert copy_sessions(one, two).usage_lines == 1
    two.append_usage("s", b"2")
    birth = one.read("s").head["birth"]
    assert (list(one.read_usage("s", birth)), list(two.read_usage("s", birth))) == ([b"1"], [b"1", b"2"])
