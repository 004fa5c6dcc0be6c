"""A store on a file system that other hosts may share is opened with a warning."""

import pytest
from structlog.testing import capture_logs

from bamboo_sessions.storages.json_files import JsonFileStorage, mounts

MOUNTS = r"""22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:21 / /proc rw,nosuid - proc proc rw
30 22 0:40 / /srv/share rw,relatime shared:7 - nfs4 server:/export rw,vers=4.2
31 30 8:16 / /srv/share/local rw,relatime - xfs /dev/sdb rw
32 22 0:41 / /srv/two\040words rw,relatime - cifs //server/share rw
33 22 0:42 / /mnt/a rw - ext4 /dev/sdc rw
34 22 0:43 / /mnt/a rw - fuse.sshfs host:/ rw
35 22 0:44 / /mnt/over rw - fuse.fuse-overlayfs fuse-overlayfs rw
"""


@pytest.mark.parametrize(("path", "kind", "shared"), [
    ("/home/store", "ext4", False),
    ("/srv/share", "nfs4", True),
    ("/srv/share/sessions", "nfs4", True),
    ("/srv/shared", "ext4", False),  # a name that merely begins like it
    ("/srv/share/local/sessions", "xfs", False),
    ("/srv/two words/sessions", "cifs", True),
    ("/mnt/a/store", "fuse.sshfs", True),  # the later mount hides the other
    ("/mnt/over/store", "fuse.fuse-overlayfs", False),
])
def test_a_path_has_the_kind_of_the_innermost_mount(path, kind, shared):
    """The longest mount point above it says which file system it is."""
    assert mounts.kind_of(path, MOUNTS) == kind
    assert mounts.is_shared(kind) is shared


def test_where_nothing_is_told_nothing_is_known():
    """Another system, or a line of another form: no kind, and no warning."""
    assert mounts.kind_of("/home/store", "") is None
    assert mounts.kind_of("/home/store", "something else\n1 2 3 - \n") is None
    assert not mounts.is_shared(None)


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "fuse", "fuse.s3fs"])
def test_kinds_that_hosts_share(kind):
    """Each is warned of."""
    assert mounts.is_shared(kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk", "apfs"])
def test_kinds_of_one_host(kind):
    """None of them is."""
    assert not mounts.is_shared(kind)


def opened(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(mounts, "_mountinfo", lambda: f"1 0 0:1 / / rw - {kind} source rw\n")
    with capture_logs() as logs:
        JsonFileStorage(tmp_path / "store").close()
    return [(log["log_level"], log["kind"]) for log in logs]


def test_opening_a_store_that_is_shared_warns_once_and_works(tmp_path, monkeypatch):
    """One warning that names the kind; the store is made all the same."""
    assert opened(tmp_path, monkeypatch, "nfs4") == [("warning", "nfs4")]
    assert (tmp_path / "store" / "store.json").exists()


def test_opening_a_store_of_this_host_says_nothing(tmp_path, monkeypatch):
    """No warning where there is nothing to warn of."""
    assert opened(tmp_path, monkeypatch, "ext4") == []
