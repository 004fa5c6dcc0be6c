"""System calls that fail on purpose, inside this process: the n-th of a kind once, or from the n-th on.

The library's file layer is the module `_files` (and `_locks` for what goes past it), so the seam is put below its
methods: the names that those two modules call in `os` and `fcntl` are exchanged for ones that count. Each method's every
call can fail then (`sync_dir` is three), a write may be short, a `close` may fail after it closed. Nothing else in the
process is touched, and nothing at all while the faults are not armed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from unittest.mock import patch

from bamboo_sessions import _files, _locks

READS = frozenset({"lstat", "fstat", "pread", "listdir"})
CHANGES = frozenset({"mkdir", "chmod", "fchmod", "replace", "unlink", "utime", "rmtree", "pwrite", "write", "ftruncate"})
SYNCS = frozenset({"fsync", "fdatasync"})
CALLS = sorted(READS | CHANGES | SYNCS | {"open", "close", "fcntl"})


def _writes(args):
    return len(args) > 1 and bool(args[1] & (os.O_WRONLY | os.O_RDWR))


def _makes(args):
    return len(args) > 1 and bool(args[1] & os.O_CREAT) and not os.path.lexists(args[0])


# What each error may strike. SHORT is no error: a read or write does half of what it was asked, and says so.
STRIKES = {
    "EIO": lambda name, args: name != "fcntl",
    "ENOSPC": lambda name, args: name in SYNCS | {"mkdir", "replace", "pwrite", "write"} or (name == "open" and _makes(args)),
    "EMFILE": lambda name, args: name in ("open", "listdir"),
    "EROFS": lambda name, args: name in CHANGES or (name == "open" and _writes(args)),
    "EACCES": lambda name, args: name in ("open", "lstat", "listdir", "mkdir", "replace", "unlink", "utime", "rmtree"),
    "ENOLCK": lambda name, args: name == "fcntl",
    "SHORT": lambda name, args: name in ("pread", "pwrite", "write"),
}


class Faults:
    """Counts the calls that `error` can strike while armed; strikes at the `at`-th, or (`lasting`) from it on."""

    def __init__(self, error="EIO", at=0, *, lasting=False):
        self.error, self.at, self.lasting = error, at, lasting
        self.count = 0
        self.armed = False
        self.struck = []

    @contextmanager
    def installed(self):
        """The two modules call through here, until the end of the `with`."""
        calls = {name: self._counted(name, getattr(os, name)) for name in CALLS if hasattr(os, name)}
        namespace = SimpleNamespace(**{**vars(os), **calls})
        remove = SimpleNamespace(**{**vars(shutil), "rmtree": self._remove_tree})
        lock = SimpleNamespace(**{**vars(fcntl), "fcntl": self._counted("fcntl", fcntl.fcntl)})
        with ExitStack() as stack:
            for module in (_files, _locks):
                stack.enter_context(patch.object(module, "os", namespace))
            stack.enter_context(patch.object(_files, "shutil", remove))
            stack.enter_context(patch.object(_locks, "fcntl", lock))
            stack.enter_context(patch.object(_files.Files, "stat", staticmethod(calls["lstat"])))
            yield self

    @contextmanager
    def arming(self):
        """Only the calls made in this `with` count and fail."""
        before, self.armed = self.armed, True
        try:
            yield
        finally:
            self.armed = before

    def mend(self):
        """From now on everything works."""
        self.at, self.lasting = 0, False

    def _hits(self, name, args):
        if not self.armed or not STRIKES[self.error](name, args):
            return False
        self.count += 1
        hit = self.at > 0 and (self.count == self.at or (self.lasting and self.count > self.at))
        if hit:
            self.struck.append(name)
        return hit

    def _counted(self, name, real):
        def call(*args, **more):
            if not self._hits(name, args):
                return real(*args, **more)
            return self._struck(name, real, args)

        return call

    def _struck(self, name, real, args):
        if self.error == "SHORT" or (self.error == "ENOSPC" and self.lasting and name in ("pwrite", "write")):
            return self._short(name, real, args)
        if name == "close":
            real(*args)  # the kernel gives the number back whatever it answers
        raise OSError(_number(self.error), os.strerror(_number(self.error)), *_path(args))

    def _short(self, name, real, args):
        """A full disk takes what fits and says nothing; the next write is refused."""
        if name == "pread":
            return real(args[0], max(1, args[1] // 2), *args[2:])
        if len(args[1]) > 1:
            return real(args[0], args[1][: len(args[1]) // 2], *args[2:])
        if self.error == "SHORT":
            return real(*args)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _remove_tree(self, path, *, ignore_errors):
        if not self._hits("rmtree", (path,)):
            shutil.rmtree(path, ignore_errors=ignore_errors)


def _number(error):
    return getattr(errno, error)


def _path(args):
    return [arg for arg in args[:1] if isinstance(arg, str)]
