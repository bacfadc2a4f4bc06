"""Decides how slow clients are made, in a process of their own: silent ones, and ones that drip a head or a body.

A connection that the daemon closes is opened again at the next drop, so that their number stays what was asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.process import serve

DROP_SECONDS = 1.0


class SlowClients:
    """As many slow connections to one daemon as are asked for, a third of each kind."""

    def __init__(self, port: int, key: str) -> None:
        host = f"Host: 127.0.0.1:{port}\r\n"
        body = f"POST /v1/reflex/predict HTTP/1.1\r\n{host}Authorization: Bearer {key}\r\nContent-Length: 9999\r\n\r\n"
        self._port = port
        self._starts = (b"", f"GET /v1/models HTTP/1.1\r\n{host}X-Slow: ".encode(), body.encode())
        self._connections: list[socket.socket] = []
        self._lock = threading.Lock()
        self._renewed = 0
        threading.Thread(target=self._drip, daemon=True).start()

    def hold(self, count: int) -> dict[str, Any]:
        """Open or close connections until there are `count`; return how many were renewed since the last call."""
        with self._lock:
            while len(self._connections) > count:
                self._connections.pop().close()
            while len(self._connections) < count:
                self._connections.append(self._connect(len(self._connections)))
            renewed, self._renewed = self._renewed, 0
        return {"renewed": renewed}

    def _connect(self, number: int) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=60)
        connection.sendall(self._starts[number % 3])
        connection.setblocking(False)
        return connection

    def _drip(self) -> None:
        while True:
            time.sleep(DROP_SECONDS)
            with self._lock:
                for number in self._closed():
                    self._connections[number].close()
                    self._connections[number] = self._connect(number)
                    self._renewed += 1

    def _closed(self) -> Iterator[int]:
        """Send a byte on each connection that is not silent, and yield the numbers of those that were closed."""
        for number, connection in enumerate(self._connections):
            with contextlib.suppress(BlockingIOError):
                try:
                    if connection.recv(65_536):
                        continue  # the farewell; the end comes with the next drop
                except ConnectionError:
                    pass
                yield number
                continue
            if number % 3:
                with contextlib.suppress(OSError):
                    connection.send(b"x")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("key")
    given = parser.parse_args()
    serve(SlowClients(given.port, given.key).hold)
