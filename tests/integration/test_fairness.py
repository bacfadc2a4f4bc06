"""Shows that one key's batches do not hold up another key's requests, and that work for a caller who has left ends."""

from __future__ import annotations

import contextlib
import threading
import time
from statistics import median
from typing import Any

import httpx2
import pytest

from tests import jobs
from tests.daemons import Daemon, wait_for
from tests.rows import TICKETS

BATCH = "/v1/reflex/synchronous_predict_batch"
LONG = " ".join(f"word{n}" for n in range(8_000))


@pytest.fixture
def daemon(start_daemon: Any) -> Daemon:
    started: Daemon = start_daemon()
    with started.openai() as client:
        jobs.train(client, TICKETS, "tickets")
    return started


def cpu_seconds(daemon: Daemon) -> float:
    """Return the processor time that the daemon has used."""
    with open(f"/proc/{daemon.pid}/stat") as file:
        words = file.read().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / 100


def large(number: int) -> dict[str, Any]:
    """Return a batch that takes a minute."""
    rows = [{"id": str(n), "model": "tickets", "text": f"{number} {n} {LONG}"} for n in range(40)]
    return {"requests": rows, "long_text": "chunk", "fields": ["label"]}


def test_another_keys_request_waits_for_a_text_and_not_for_a_batch(daemon: Daemon) -> None:
    """The order is what counts: each lone request is answered before any of the batches that came before it."""
    other = daemon.create_key("other", "--tenant", "admin")
    done = threading.Event()

    def batch(number: int) -> None:
        with contextlib.suppress(httpx2.TransportError), daemon.http() as http:
            http.post(BATCH, json=large(number), timeout=20)
            done.set()

    batches = [threading.Thread(target=batch, args=(number,), daemon=True) for number in range(8)]
    before = cpu_seconds(daemon)
    for each in batches:
        each.start()
    wait_for(lambda: cpu_seconds(daemon) > before + 2, "the batches are being worked on")
    took = []
    with daemon.http(other) as http:
        for _ in range(20):
            began = time.monotonic()
            answer = http.post("/v1/reflex/predict", json={"model": "tickets", "text": "the app freezes"})
            assert answer.status_code == 200
            took.append(time.monotonic() - began)
    print(f"beside eight large batches of another key: {median(took) * 1e3:.0f} ms in the median")
    assert not done.is_set(), "no batch was ready before the lone requests"


def test_nobody_works_for_a_caller_who_has_left(daemon: Daemon) -> None:
    with daemon.http() as http, pytest.raises(httpx2.TimeoutException):
        http.post(BATCH, json=large(0), timeout=1.5)
    body = {"models": ["tickets"], "texts": [f"{n} {LONG}" for n in range(20)], "long_text": "chunk"}
    with daemon.http() as http, pytest.raises(httpx2.TimeoutException):
        http.post("/v1/reflex/predict", json=body, timeout=1.5)

    def rests() -> bool:
        used = cpu_seconds(daemon)
        time.sleep(1)
        return cpu_seconds(daemon) - used < 0.2

    wait_for(rests, "the daemon has nothing to do any more", 20)
    assert daemon.stop() == 0
