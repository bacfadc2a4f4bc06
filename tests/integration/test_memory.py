"""Shows that large creates cost memory by their own size and not by a multiple of it, however many come at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.daemons import Daemon, wait_for
from tests.integration.test_body_size import forget_peak, peak_memory
from tests.integration.wire import connect, read_answer

CREATE = "/v1/fine_tuning/jobs"


def rows(count: int, chars: int) -> bytes:
    """Return a create request of so many rows, each text so many characters."""
    filler = "x" * (chars - 12)
    given = [{"text": f"{n:05} {'cat' if n % 2 else 'dog'} {filler}", "label": str(n % 2)} for n in range(count)]
    return json.dumps({"training_data": given}).encode()


@pytest.fixture
def held(start_daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon of its own, which starts no job: what grows is the request's."""
    return start_daemon(REFLEXD_TRAINING__HOLD="true")


@pytest.mark.parametrize("chars", [100, 1_500])
def test_20000_rows_in_one_create(held: Daemon, chars: int) -> None:
    body = rows(20_000, chars)
    with held.http() as http:
        assert http.post(CREATE, content=rows(20_000, 40)).status_code == 200  # what the first one imports stays out
        forget_peak(held)
        before = peak_memory(held)
        job = http.post(CREATE, content=body).json()
        assert (job["trained_examples"], job["labels"]) == (20_000, ["0", "1"])
    grown = peak_memory(held) - before
    print(f"20,000 rows, {len(body) / 1e6:.1f} MB: peak memory {before / 1e6:.0f} MB and {grown / 1e6:+.1f} MB")
    assert grown < 4 * len(body) + 32e6


def test_what_all_bodies_take_is_bounded(start_daemon: Callable[..., Daemon]) -> None:
    limit = 8 << 20
    daemon = start_daemon(
        REFLEXD_TRAINING__HOLD="true",
        REFLEXD_HTTP__BODIES_BYTES=str(2 * limit),
        REFLEXD_HTTP__MAX_BODY_BYTES=str(limit),
        REFLEXD_HTTP__BODY_TIMEOUT_SECONDS="150",
    )
    head, held = [f"Content-Length: {limit}", "Connection: close"], []
    first, second = daemon.create_key("first"), daemon.create_key("second")
    try:
        for key in (first, second):  # two requests that have sent all but their last byte fill the room
            connection = connect(daemon, CREATE, *head, key=key)
            connection.sendall(b" " * (limit - 1))
            held.append(connection)
        with daemon.http() as http:

            def refused() -> bool:
                answer = http.post(CREATE, content=rows(1_000, 100))
                assert answer.status_code in (200, 429)
                assert answer.status_code == 200 or int(answer.headers["retry-after"]) > 0
                return answer.status_code == 429

            wait_for(refused, "what the two have sent is counted", 60)
            with connect(daemon, CREATE, *head, key=first) as greedy:
                greedy.sendall(b" " * 100_000)
                assert read_answer(greedy).status_code == 429, "one key has its share"
            assert http.get(CREATE).status_code == 200, "a request without a body needs no room"
            assert http.post(CREATE, content=rows(100, 100)).status_code == 200, "nor does a small one"
            for connection in held:
                connection.sendall(b" ")
                assert read_answer(connection).status_code == 400
            with ThreadPoolExecutor(4) as pool:
                sent = list(pool.map(lambda _: http.post(CREATE, content=rows(1_000, 100)).status_code, range(8)))
            assert sent == [200] * 8, "all of it is given back"
    finally:
        for connection in held:
            connection.close()
