"""Decides how tests receive webhooks: a real HTTP server on loopback that answers as it is told and keeps what came."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from msgspec import Struct

from tests.daemons import wait_for


class Received(Struct, frozen=True):
    """One request as it came; header names are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


Answer = Callable[[BaseHTTPRequestHandler, Received], None]


def answering(status: int, **headers: str) -> Answer:
    """Return what answers every request with a status and these headers (`retry_after` is Retry-After)."""

    def answer(handler: BaseHTTPRequestHandler, _: Received) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("content-length", "0")
        handler.end_headers()

    return answer


class Receiver:
    """What has come so far, and how the next request is answered."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.received: list[Received] = []
        self.answer: Answer = answering(200)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def wait(self, count: int = 1, what: Callable[[Received], bool] = lambda _: True) -> list[Received]:
        """Return what has come that fits, once there are so many of it."""

        def look() -> list[Received]:
            found = [one for one in self.received if what(one)]
            return found if len(found) >= count else []

        return wait_for(look, f"{count} webhooks have come")


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run a receiver on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            one = Received(self.path, headers, body, time.time())
            receiver.received.append(one)
            try:
                receiver.answer(self, one)
            except OSError:  # the daemon has hung up, or was killed
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            """Write nothing: a daemon that was killed has left."""

    with Server(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
