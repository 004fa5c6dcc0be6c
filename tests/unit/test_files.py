"""The file-system seam: short calls are repeated, links are not followed, a short file does not count."""

import errno
import os

import pytest

from bamboo_sessions import _files
from bamboo_sessions._files import CHANGE, CREATE, READ, Files


class Short(Files):
    """Writes three bytes at a time, and no more than `room` in all."""

    def __init__(self, room=10**9):
        self.room = room

    def write_at(self, fd, data, offset):
        size = min(3, self.room, len(data))
        if data and not size:
            raise OSError(errno.ENOSPC, "full")
        self.room -= size
        return super().write_at(fd, data[:size], offset)


def test_short_writes_are_continued(tmp_path):
    """All bytes arrive, in their places."""
    Short().write_new(str(tmp_path / "f"), b"0123456789", 0o600)
    assert (tmp_path / "f").read_bytes() == b"0123456789"


def test_a_full_disk_is_an_error_not_a_short_file(tmp_path):
    """The write that no longer fits raises."""
    with pytest.raises(OSError, match="full"):
        Short(room=7).write_new(str(tmp_path / "f"), b"0123456789", 0o600)


def test_a_file_that_came_out_short_does_not_count(tmp_path):
    """Whatever the writes said: the length is compared before anybody renames the file."""

    class Lying(Files):
        def write_at(self, fd, data, offset):
            super().write_at(fd, data[:4], offset)
            return len(data)

    with pytest.raises(OSError, match="shorter"):
        Lying().write_new(str(tmp_path / "f"), b"0123456789", 0o600)


def test_short_reads_are_continued(tmp_path, monkeypatch):
    """A read that gives less than there is is repeated; the end of the file ends it."""
    (tmp_path / "f").write_bytes(b"0123456789")
    whole = os.pread
    monkeypatch.setattr(_files.os, "pread", lambda fd, size, offset: whole(fd, min(size, 3), offset))
    files = Files()
    fd = files.open(str(tmp_path / "f"), READ)
    assert files.read_at(fd, 8, 1) == b"12345678"
    assert files.read_at(fd, 100, 7) == b"789"
    files.close(fd)


@pytest.mark.parametrize("flags", [READ, CHANGE, CREATE])
def test_links_are_not_followed(tmp_path, flags):
    """Neither for reading nor for writing."""
    (tmp_path / "target").write_bytes(b"kept")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError):
        Files().open(str(tmp_path / "link"), flags)
    assert (tmp_path / "target").read_bytes() == b"kept"


def test_a_fifo_does_not_hang_a_reader(tmp_path):
    """Opening one for reading would wait for a writer for ever."""
    os.mkfifo(tmp_path / "f")
    os.close(Files().open(str(tmp_path / "f"), READ))


def test_descriptors_are_closed_on_exec(tmp_path):
    """A child that executes something else holds no file of ours."""
    files = Files()
    fd = files.open(str(tmp_path / "f"), CREATE)
    assert not os.get_inheritable(fd)
    files.close(fd)


def test_syncs_can_be_left_out(tmp_path, monkeypatch):
    """`without_syncs` calls no sync at all, and leaves the original as it was."""
    called = []
    monkeypatch.setattr(_files, "_sync", lambda fd, names=False: called.append(names))
    files = Files()
    for each, expected in ((files.without_syncs(), []), (files, [False, True])):
        each.write_new(str(tmp_path / "f"), b"x", 0o600)
        each.sync_dir(str(tmp_path))
        assert called == expected


def test_the_clock_of_files_cannot_be_frozen(tmp_path):
    """It is compared with modification times, which no test freezes."""
    freezegun = pytest.importorskip("freezegun")
    with freezegun.freeze_time("2001-01-01"):
        now = Files().wall_ns()
        (tmp_path / "f").write_bytes(b"x")
        assert abs(now - (tmp_path / "f").stat().st_mtime_ns) < 10**10
