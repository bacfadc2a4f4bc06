"""Shows that a predict request is answered alike whether it skips the framework or not, and that both count."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx2
import msgspec
import pytest

from tests import jobs
from tests.daemons import Daemon
from tests.integration.wire import connect, open_socket, read_answer
from tests.rows import TICKETS

PATH = "/v1/reflex/predict"
NOT_PLAIN = {"x-request-id": "mine"}
TEXT = "I was billed twice"


@pytest.fixture(scope="module")
def trained(daemon: Daemon) -> Daemon:
    with daemon.openai() as client:
        jobs.train(client, TICKETS, "hot")
    return daemon


def ask(daemon: Daemon, body: object, key: str | None = None, **headers: str) -> httpx2.Response:
    bearer = {"authorization": f"Bearer {daemon.admin_key if key is None else key}"}
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return httpx2.post(f"{daemon.url}{PATH}", content=content, headers=bearer | headers, timeout=60)


BODIES = {
    "one": {"model": "hot", "text": TEXT},
    "several": {"models": ["hot", "hot"], "texts": [TEXT, "It crashes"]},
    "fields": {"model": "hot", "text": TEXT, "fields": ["label", "index"]},
    "unknown model": {"model": "nonesuch", "text": TEXT},
    "no text": {"model": "hot"},
    "two kinds": {"model": "hot", "models": ["hot"], "text": TEXT},
    "too long": {"model": "hot", "text": "word " * 2_000},
    "in windows": {"model": "hot", "text": "word " * 2_000, "long_text": "chunk"},
    "no JSON": b"{",
    "empty": b"",
    "no object": b"[]",
    "surrogate": b'{"model": "hot", "text": "\\ud800"}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_both_ways_answer_alike(trained: Daemon, body: object) -> None:
    plain, other = ask(trained, body), ask(trained, body, **NOT_PLAIN)
    assert other.headers["x-request-id"] == "mine"
    assert re.fullmatch("req_[0-9a-f]{24}", plain.headers["x-request-id"])
    assert plain.status_code == other.status_code
    without_time = [re.sub(rb'"inference_time_ms":[0-9.]+', b"", answer.content) for answer in (plain, other)]
    assert without_time[0] == without_time[1]
    names = [{name for name in answer.headers if name != "date"} for answer in (plain, other)]
    assert names[0] == names[1]
    assert plain.headers["content-type"] == other.headers["content-type"]


def test_keys_hosts_and_methods_are_checked_on_both(trained: Daemon, new_key: Callable[[], str]) -> None:
    body = BODIES["one"]
    for headers in ({}, NOT_PLAIN):
        assert ask(trained, body, key="rfx_wrong", **headers).status_code == 401
        assert ask(trained, body, key=new_key(), **headers).status_code == 404, "another tenant's model"
        assert ask(trained, body, host="evil.example", **headers).status_code == 421
        assert ask(trained, body, origin="http://evil.example", **headers).status_code == 403
        assert httpx2.get(f"{trained.url}{PATH}", headers=headers).status_code == 405


def test_a_connection_goes_on_after_an_answer_and_answers_what_was_sent_ahead(trained: Daemon) -> None:
    body = msgspec.json.encode(BODIES["one"])
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {trained.admin_key}\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n".encode()
    with open_socket(trained) as connection:
        connection.sendall((request + b"\r\n" + body) * 3 + request + b"Connection: close\r\n\r\n" + body)
        content = b""
        while part := connection.recv(65_536):
            content += part
    assert content.count(b"HTTP/1.1 200 OK\r\n") == 4
    assert content.count(b'"model":"hot"') == 4
    assert content.count(b"connection: close") == 1


def test_a_body_that_never_comes_is_a_timeout(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(REFLEXD_HTTP__BODY_TIMEOUT_SECONDS="0.5")
    with connect(daemon, PATH, "Content-Length: 100") as connection:
        connection.sendall(b'{"model"')
        answer = read_answer(connection)
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "request_timeout")
    assert answer.headers["connection"] == "close"


def test_metrics_are_for_the_operator_and_count_what_was_asked(trained: Daemon, key: str) -> None:
    def metrics(secret: str) -> httpx2.Response:
        return httpx2.get(f"{trained.url}/metrics", headers={"authorization": f"Bearer {secret}"})

    def value(name: str) -> float:
        found = re.search(rf"^{re.escape(name)} ([0-9.e+]+)$", metrics(trained.admin_key).text, re.MULTILINE)
        assert found, name
        return float(found[1])

    assert metrics("rfx_none").status_code == 401
    assert metrics(key).status_code == 403
    assert metrics(trained.admin_key).headers["content-type"].startswith("text/plain")
    before = value("reflexd_predict_texts_count"), value("reflexd_predict_texts_sum")
    ask(trained, BODIES["one"])
    ask(trained, BODIES["several"])
    assert value("reflexd_predict_texts_count") - before[0] == 2
    assert value("reflexd_predict_texts_sum") - before[1] == 3
    assert value('reflexd_predict_seconds_count{stage="compute"}') == before[0] + 2
    assert value("reflexd_predict_waiting") == 0
    assert value("reflexd_resident_models") >= 1
    assert value("reflexd_resident_bytes") > 4_000
    assert "hot" not in metrics(trained.admin_key).text, "no name of a model"
