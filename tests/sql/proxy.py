"""A proxy with faults between a client and PostgreSQL.

    with FaultProxy(url) as proxy:
        storage = SqlStorage(proxy.url)
        proxy.fault = "lose reply"       # the server carries it out, the client never hears of it

Faults: "refuse" (no new connections, and the open ones break), "reset" (at the next request), "black hole" (takes all and
says nothing), "lose reply" (at the next reply the connection closes), "torn reply" (half of it, then closed), "slow" (`delay`
seconds each way; what was under way arrives, also where the client has left). A fault that breaks a connection befalls one
connection and is then over; the others last until they are taken back.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from pathlib import Path

from sqlalchemy import make_url

ONCE = ("reset", "lose reply", "torn reply")


class FaultProxy:
    def __init__(self, url):
        self._target = make_url(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        query = {name: value for name, value in self._target.query.items() if name != "host"}
        there = self._target.set(host="127.0.0.1", port=port, query={**query, "sslmode": "disable", "gssencmode": "disable"})
        self.url = there.render_as_string(hide_password=False)
        self.fault = None
        self.delay = 0.05
        self.skip = 0  # so many are let through before a fault that strikes once: replies, or for "reset" requests
        self.met = 0
        self.forwarded_late = 0
        self._open = set()
        self._guard = threading.Lock()  # guards the taking of a fault that is over once it was met
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._listener.close()
        self.cut()

    def point_at(self, url):
        """Send new connections there, and break those that are open."""
        self._target = make_url(url)
        self.cut()

    def cut(self):
        """Break every open connection."""
        for end in list(self._open):
            self._break(end)

    def _break(self, end):
        self._open.discard(end)
        try:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        end.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.fault == "refuse":
                self._break(client)
                continue
            try:
                server = self._connected()
            except OSError:  # nobody there
                self._break(client)
                continue
            self._open |= {client, server}
            threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()

    def _connected(self):
        folder = self._target.query.get("host")
        if not folder:
            return socket.create_connection((self._target.host, self._target.port or 5432))
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(Path(folder) / f".s.PGSQL.{self._target.port or 5432}"))
        return server

    def _taken(self, *names):
        """The fault, where it is one of these; over then, if it is one that strikes once."""
        with self._guard:
            fault = self.fault
            if fault not in names:
                return None
            if fault in ONCE and self.skip:
                self.skip -= 1
                return None
            self.met += 1
            if fault in ONCE:
                self.fault = None
            return fault

    def _pump(self, source, target, is_reply):
        try:
            while data := source.recv(65536):
                fault = self._taken("black hole", "slow", *(("lose reply", "torn reply") if is_reply else ("reset", "refuse")))
                if fault == "black hole":
                    continue
                if fault == "slow":
                    time.sleep(self.delay)
                    target.sendall(data)
                    self.forwarded_late += 1
                    continue
                if fault == "torn reply":
                    target.sendall(data[: len(data) // 2])
                    break
                if fault:
                    break
                target.sendall(data)
        except OSError:
            pass
        self._break(source)
        self._break(target)
