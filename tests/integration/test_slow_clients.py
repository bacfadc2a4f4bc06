"""Shows that hundreds of clients which send next to nothing are all let go, while another one is served as ever.

The latencies are printed and not judged: a benchmark does that.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests import jobs
from tests.daemons import DEADLINE, Daemon, wait_for
from tests.integration.wire import open_socket
from tests.rows import TICKETS

CONNECTIONS = 501
BEGUN_HEAD = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
KINDS = ("silent", "head", "body")


def open_files(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


class SlowClients:
    """A third of them silent, a third dripping a head, a third dripping a body, until the daemon has closed them."""

    def __init__(self, daemon: Daemon, count: int) -> None:
        head = f"POST /v1/reflex/predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {daemon.admin_key}\r\n"
        starts = (b"", BEGUN_HEAD, head.encode() + b"Content-Length: 100000\r\n\r\n")
        self.answers: Counter[tuple[str, bytes]] = Counter()
        """How many connections of a kind were closed with this status line (b"": without a word)."""
        self._open: dict[socket.socket, str] = {}
        self._said: dict[socket.socket, bytes] = {}
        for number in range(count):
            connection = open_socket(daemon)
            connection.sendall(starts[number % 3])
            connection.setblocking(False)
            self._open[connection] = KINDS[number % 3]
            self._said[connection] = b""
        self._thread = threading.Thread(target=self._drip)
        self._thread.start()

    def all_closed(self) -> bool:
        return not self._thread.is_alive()

    def _drip(self) -> None:
        """Send one byte a second on each that is not silent, and read what the daemon says."""
        end = time.monotonic() + DEADLINE
        with selectors.DefaultSelector() as selector:
            for connection in self._open:
                selector.register(connection, selectors.EVENT_READ)
            next_drop = time.monotonic()
            while self._open and time.monotonic() < end:
                for key, _ in selector.select(0.05):
                    assert isinstance(key.fileobj, socket.socket)
                    self._read(selector, key.fileobj)
                if time.monotonic() >= next_drop:
                    next_drop += 1
                    for connection, kind in self._open.items():
                        if kind != "silent":
                            self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed: the next read says so
            connection.send(b"x")

    def _read(self, selector: selectors.BaseSelector, connection: socket.socket) -> None:
        try:
            part = connection.recv(65_536)
        except ConnectionResetError:  # a drop crossed the daemon's farewell
            part = b""
        self._said[connection] += part
        if not part:
            selector.unregister(connection)
            self.answers[self._open.pop(connection), self._said[connection].split(b"\r\n")[0]] += 1
            connection.close()


def test_slow_clients_are_let_go_while_others_are_served(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(
        REFLEXD_HTTP__HEAD_TIMEOUT_SECONDS="3",
        REFLEXD_HTTP__BODY_TIMEOUT_SECONDS="4",
        REFLEXD_TRAINING__WARM_CHILDREN="0",
    )
    with daemon.openai() as client:
        jobs.train(client, TICKETS, "tickets")
    with daemon.http() as http:
        latencies: dict[str, list[float]] = {"before": [], "during": []}

        def predict(when: str) -> None:
            started = time.perf_counter()
            answer = http.post("/v1/reflex/predict", json={"model": "tickets", "text": "the app freezes"})
            latencies[when].append(time.perf_counter() - started)
            assert (answer.status_code, answer.json()["label"]) == (200, "bug")

        for _ in range(100):
            predict("before")
        files = open_files(daemon)
        slow = SlowClients(daemon, CONNECTIONS)
        wait_for(lambda: open_files(daemon) > files, "the daemon holds slow connections")
        while not slow.all_closed():
            predict("during")
        for when, taken in latencies.items():
            print(f"{when}: median {statistics.median(taken) * 1e3:.2f} ms of {len(taken)} predictions")
        print(dict(slow.answers))
        wait_for(lambda: open_files(daemon) <= files, "the daemon has closed what it had opened")

    each = CONNECTIONS // 3
    assert slow.answers["silent", b""] == each
    for kind in ("head", "body"):
        # A reset can swallow the answer where the client was sending at that very moment.
        answered, cut = slow.answers[kind, b"HTTP/1.1 408 Request Timeout"], slow.answers[kind, b""]
        assert answered + cut == each
        assert answered > each // 2


def test_the_daemon_may_open_as_many_files_as_the_system_lets_it(quiet: Daemon) -> None:
    limits = Path(f"/proc/{quiet.pid}/limits").read_text().splitlines()
    soft, hard = next(line.split()[3:5] for line in limits if line.startswith("Max open files"))
    assert soft == hard
