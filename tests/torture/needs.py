"""What a method needs of the machine, how to get it, and what follows where it is not there.

A developer's machine may lack a tool, or the right to use it: then a test skips, and says why. In CI a skip would read as
"all is well", so there `BAMBOO_SESSIONS_TORTURE=required` makes it a failure.

    python -m tests.torture.needs             what is missing, one line each
    python -m tests.torture.needs packages    the Debian packages that have it
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import attrs
import pytest

REQUIRED = os.environ.get("BAMBOO_SESSIONS_TORTURE") == "required"


@attrs.frozen
class Need:
    """One thing; `is_there` tries it, for a tool that is installed may still be forbidden."""

    what: str
    is_there: Callable[[], bool]
    otherwise: str
    tool: str = ""
    package: str = ""
    """The Debian package that has the tool."""


def _strace() -> bool:
    """Installed, allowed to trace, and able to strike: before its first `mkdir`, the tool dies."""
    if sys.platform != "linux" or shutil.which("strace") is None:
        return False
    ran = subprocess.run(["strace", "-f", "-o", os.devnull, "-e", "trace=?mkdir,?mkdirat", "-e", "inject=?mkdir:signal=KILL",
                          "-e", "inject=?mkdirat:signal=KILL", "mkdir", "/nonexistent/nowhere"], capture_output=True, check=False)
    return ran.returncode in (-9, 137)


def _root() -> bool:
    return os.name == "posix" and os.geteuid() == 0


@cache
def _mount() -> bool:
    """Root in name only (a container without the capability) cannot."""
    if not _root() or shutil.which("mount") is None:
        return False
    ran = subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    return ran.returncode == 0


def _fuse() -> bool:
    return os.path.exists("/dev/fuse") and shutil.which("fusermount3") is not None and find_spec("mfusepy") is not None


NEEDS = {
    "strace": Need("strace, and the right to trace", cache(_strace), "install strace, and allow ptrace where in a container",
                   "strace", "strace"),
    "root": Need("root", _root, "run as root"),
    "mount": Need("the right to mount", _mount, "run as root, with CAP_SYS_ADMIN where in a container", "mount", "mount"),
    "ext4": Need("mkfs.ext4", lambda: shutil.which("mkfs.ext4") is not None, "install e2fsprogs", "mkfs.ext4", "e2fsprogs"),
    "xfs": Need("mkfs.xfs", lambda: shutil.which("mkfs.xfs") is not None, "install xfsprogs", "mkfs.xfs", "xfsprogs"),
    "fuse": Need("FUSE 3, and mfusepy", _fuse, "install fuse3 and `pip install mfusepy`", "fusermount3", "fuse3"),
    "fork": Need("fork", lambda: hasattr(os, "fork"), "run on Linux or macOS"),
}


def needs(*names: str) -> None:
    """Go on where all of them are there."""
    missing = [NEEDS[name] for name in names if not NEEDS[name].is_there()]
    if not missing:
        return
    reason = "; ".join(f"needs {need.what}: {need.otherwise}" for need in missing)
    if REQUIRED:
        pytest.fail(f"{reason}; a skip is not enough here (BAMBOO_SESSIONS_TORTURE=required)", pytrace=False)
    pytest.skip(reason)


def main() -> None:
    missing = [need for need in NEEDS.values() if not need.is_there()]
    if sys.argv[1:] == ["packages"]:
        print(*sorted({need.package for need in missing if need.tool and shutil.which(need.tool) is None}))
        return
    for need in missing:
        print(f"missing: {need.what} ({need.otherwise}); the tests that need it skip")


if __name__ == "__main__":
    main()
