"""Decides how a serving benchmark loads an HTTP server: a process of its own, with as little work a request as can be.

One client after the other for a lone request's latency, some clients in a closed loop for the throughput, and a fixed
arrival rate for everything about tails: a request is timed from the moment it was due, whether or not the server kept
up, so that a queue cannot hide (coordinated omission).
"""

from __future__ import annotations

import resource
import selectors
import socket
import time
from collections import Counter
from typing import Any

import numpy as np

from benchmarks.process import serve

DRAIN_SECONDS = 60.0
"""How long answers are waited for after the last request was due."""


class Client:
    """One keep-alive connection with at most one request under way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=DRAIN_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = 0.0
        self._got = b""
        self._whole = 0

    def receive(self) -> int | None:
        """Take what has come; return the status once the answer is whole. Raises ConnectionError for a lost one."""
        part = self.socket.recv(1 << 20)
        if not part:
            raise ConnectionError
        self._got += part
        if not self._whole:
            end = self._got.find(b"\r\n\r\n")
            if end < 0:
                return None
            head = self._got[:end].lower()
            at = head.index(b"content-length:") + len(b"content-length:")
            self._whole = end + 4 + int(head[at:].split(b"\r\n", 1)[0])
        if len(self._got) < self._whole:
            return None
        status = int(self._got[9:12])
        self._got, self._whole = b"", 0
        return status


class Target:
    """A server, the requests that are sent to it in turn, and what answers came."""

    def __init__(self, port: int, key: str, path: str, bodies: list[str]) -> None:
        self.port = port
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n"
        self.requests = [
            f"{head}Content-Type: application/json\r\nContent-Length: {len(body.encode())}\r\n\r\n{body}".encode()
            for body in bodies
        ]

    def answers(self) -> bool:
        """Return whether the server answers at all."""
        try:
            self.lone(1)
        except (OSError, RuntimeError):
            return False
        return True

    def lone(self, times: int) -> list[float]:
        """Return the seconds from the first byte sent to the last byte received, one request after the other."""
        client, took = Client(self.port), []
        for number in range(times):
            request = self.requests[number % len(self.requests)]
            started = time.perf_counter()
            client.socket.sendall(request)
            status = None
            while status is None:
                status = client.receive()
            took.append(time.perf_counter() - started)
            if status != 200:
                raise RuntimeError(f"answered {status}")
        client.socket.close()
        return took

    def closed(self, clients: int, count: int) -> float:
        """Send `count` requests by so many clients, each when its last one is answered; return the seconds it took."""
        selector, left, done = selectors.DefaultSelector(), iter(range(count)), 0
        opened = [Client(self.port) for _ in range(min(clients, count))]
        started = time.perf_counter()
        for client in opened:
            selector.register(client.socket, selectors.EVENT_READ, client)
            client.socket.sendall(self.requests[next(left) % len(self.requests)])
        while done < count:
            for key, _ in selector.select(DRAIN_SECONDS):
                status = key.data.receive()
                if status is None:
                    continue
                if status != 200:
                    raise RuntimeError(f"answered {status}")
                done += 1
                if (number := next(left, None)) is not None:
                    key.data.socket.sendall(self.requests[number % len(self.requests)])
        took = time.perf_counter() - started
        for client in opened:
            client.socket.close()
        return took

    def open(self, rate: float, seconds: float, connections: int, seed: int) -> dict[str, Any]:
        """Send requests at random times at this rate on the connection that has rested longest; a busy one waits.

        Returns each answer's status and seconds since it was due, those that never came, and how late requests left.
        """
        gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds))
        resting = [Client(self.port) for _ in range(connections)]
        selector = selectors.DefaultSelector()
        for client in resting:
            selector.register(client.socket, selectors.EVENT_READ, client)
        due = (time.perf_counter() + 0.05 + np.cumsum(gaps)).tolist()
        answers: list[tuple[int, float]] = []
        sent = lost = 0
        late: list[float] = []
        while len(answers) + lost < len(due):
            now = time.perf_counter()
            while sent < len(due) and due[sent] <= now and resting:
                client = resting.pop(0)
                client.due = due[sent]
                late.append(now - due[sent])
                client.socket.sendall(self.requests[sent % len(self.requests)])
                sent += 1
            if now > due[-1] + DRAIN_SECONDS:
                break
            wait = max(0.0, due[sent] - time.perf_counter()) if sent < len(due) and resting else 1.0
            for key, _ in selector.select(wait):
                try:
                    status = key.data.receive()
                except ConnectionError:
                    selector.unregister(key.data.socket)
                    lost += key.data.due > 0
                    continue
                if status is not None:
                    answers.append((status, time.perf_counter() - key.data.due))
                    key.data.due = 0.0
                    resting.append(key.data)
        for client in [key.data for key in selector.get_map().values()]:
            client.socket.close()
        return {"answers": answers, "never": len(due) - len(answers), "late": float(np.quantile(late, 0.99))}

    def at_once(self, connections: int) -> dict[str, Any]:
        """Open so many connections, send one request on each at the same moment, and return the answers' statuses."""
        clients = [Client(self.port) for _ in range(connections)]
        selector, statuses, took = selectors.DefaultSelector(), Counter[str](), []
        for client in clients:
            selector.register(client.socket, selectors.EVENT_READ, client)
        started = time.perf_counter()
        for number, client in enumerate(clients):
            client.due = time.perf_counter()
            client.socket.sendall(self.requests[number % len(self.requests)])
        while sum(statuses.values()) < connections and time.perf_counter() - started < DRAIN_SECONDS:
            for key, _ in selector.select(1.0):
                try:
                    status = key.data.receive()
                except ConnectionError:
                    status = 0
                if status is not None:
                    statuses[str(status)] += 1
                    took.append((status, time.perf_counter() - key.data.due))
                    selector.unregister(key.data.socket)
        for client in clients:
            client.socket.close()
        return {"statuses": dict(statuses), "answers": took, "seconds": time.perf_counter() - started}


_targets: dict[str, Target] = {}


def _answer(do: str, target: str, **given: Any) -> Any:
    if do == "target":
        _targets[target] = Target(**given)
        return None
    return getattr(_targets[target], do)(**given)


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    serve(_answer)
