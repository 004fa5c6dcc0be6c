"""Whether the store's folder is shared with other hosts: where it is, locks and "nothing has changed" may not hold.

A warning and no refusal: a folder that one host alone uses works on most of them, and a file system that is not known here
may be a good one. What is at stake is told once, when the store is opened. Linux says what is mounted where; other systems
are not asked.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Final

import structlog

_SHARED: Final = re.compile(r"nfs4?|cifs|smb3|smbfs|9p|virtiofs|vboxsf|fuse\.vmhgfs-fuse|prl_fs|ceph|lustre|gpfs|glusterfs"
                            r"|beegfs|afs|davfs|fuse|fuse\..*")
_LOCAL: Final = frozenset({"fuse.fuse-overlayfs", "fuse.bindfs", "fuse.mergerfs", "fuse.lxcfs"})
"""In user space, and of this host alone."""
_OCTAL: Final = re.compile(r"\\([0-7]{3})")

_log = structlog.get_logger(__name__)


def warn_of_shared(root: str) -> None:
    """Log one warning where the folder lies on a file system that other hosts may use as well."""
    kind = kind_of(os.path.realpath(root), _mountinfo())
    if is_shared(kind):
        _log.warning("the store is on a file system that other hosts may share: with writers on several of them, or after a "
                     "loss of the connection, acknowledged changes can be lost", path=root, kind=kind)


def is_shared(kind: str | None) -> bool:
    """Whether a file system of this kind may be reached from several hosts."""
    return kind is not None and kind not in _LOCAL and _SHARED.fullmatch(kind) is not None


def kind_of(path: str, mountinfo: str) -> str | None:
    """The type of the file system that `path` lies on, by the text of `proc(5)`'s mountinfo; None where it does not tell."""
    found, longest = None, -1
    for line in mountinfo.splitlines():
        before, _, behind = line.partition(" - ")
        fields, kinds = before.split(), behind.split()
        if len(fields) < 5 or not kinds:
            continue
        point = _OCTAL.sub(lambda code: chr(int(code[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:  # of two on one point, the later one hides the other
            found, longest = kinds[0], len(point)
    return found


def _mountinfo() -> str:
    with suppress(OSError), open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
    return ""
