"""Shows that each kind of bad input gets an OpenAI-shaped error that names the field, and that nothing is written."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests import jobs
from tests.daemons import Daemon
from tests.integration.refusals import body, check_error, check_request_id, nothing_written
from tests.integration.wire import open_socket, read_answer
from tests.rows import TICKETS

CREATE = "/v1/fine_tuning/jobs"
PREDICT = "/v1/reflex/predict"
SURROGATE = "\ud800"
OTHERS = "ftjob-00000000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def trained(quiet: Daemon) -> Iterator[None]:
    """The model `tickets`."""
    with quiet.openai() as client:
        job = jobs.train(client, TICKETS, "tickets")
        yield
        jobs.delete(client, job.id)


@pytest.fixture(autouse=True)
def untouched(quiet: Daemon, trained: None) -> Iterator[None]:
    """After each test: nothing was written, and the process that got the bad input still answers."""
    with nothing_written(quiet):
        yield
    with quiet.http() as http:
        answer = http.post(PREDICT, json={"model": "tickets", "text": "I want my money back"})
    assert answer.json()["label"] == "billing"


def with_row(number: int, **change: object) -> list[dict[str, Any]]:
    """Return the tickets with one row changed."""
    rows: list[dict[str, Any]] = [dict(row) for row in TICKETS]
    rows[number] |= change
    return rows


def without(number: int, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [dict(row) for row in TICKETS]
    del rows[number][name]
    return rows


LONG = "x" * 257
# What is wrong: (body, param, a word of the message).
FIELDS: dict[str, tuple[bytes, str, str]] = {
    "row is no object": (body([*TICKETS, "text"]), "training_data[10]", "object"),
    "rows are no list": (b'{"training_data": {"text": "a", "label": "b"}}', "training_data", "array"),
    "rows are null": (b'{"training_data": null}', "training_data", "input"),
    "no input at all": (b"{}", "training_data", "input"),
    "no rows": (body([]), "training_data", "2 different labels"),
    "label is a number": (body(with_row(3, label=7)), "training_data[3].label", "str"),
    "label is null": (body(with_row(3, label=None)), "training_data[3].label", "needs label or labels"),
    "label and labels": (body(with_row(3, labels=["bug"])), "training_data[3].label", "both"),
    "labels is a string": (body([{"text": "t", "labels": "bug"}]), "training_data[0].labels", "array"),
    "a label of a row is a number": (body([{"text": "t", "labels": ["bug", 7]}]), "training_data[0].labels[1]", "str"),
    "a label of a row twice": (body([{"text": "t", "labels": ["a", "a"]}]), "training_data[0].labels[1]", "twice"),
    "text is a list": (body(with_row(9, text=["a"])), "training_data[9].text", "str"),
    "label is missing": (body(without(2, "label")), "training_data[2].label", "needs label or labels"),
    "text is missing": (body(without(2, "text")), "training_data[2].text", "text"),
    "one label": (body([{**row, "label": "one"} for row in TICKETS]), "training_data", "2 different labels"),
    "four rows of a label": (body(TICKETS[:9]), "training_data", "'bug' has 4"),
    "empty text": (body(with_row(4, text="")), "training_data[4].text", "empty"),
    "whitespace text": (body(with_row(4, text=" \t\n\u3000")), "training_data[4].text", "empty"),
    "NUL in a text": (body(with_row(4, text="a\0b")), "training_data[4].text", "NUL"),
    "empty label": (body(with_row(4, label="")), "training_data[4].label", "empty"),
    "whitespace label": (body(with_row(4, label="  ")), "training_data[4].label", "empty"),
    "label too long": (body(with_row(4, label=LONG)), "training_data[4].label", "257"),
    "NUL in a label": (body(with_row(4, label="a\0b")), "training_data[4].label", "control"),
    "newline in a label": (body(with_row(4, label="a\nb")), "training_data[4].label", "control"),
    "label not among labels": (body(TICKETS, labels=["billing", "other"]), "training_data[5].label", "labels"),
    "labels are a string": (body(TICKETS, labels="billing"), "labels", "array"),
    "labels hold a number": (body(TICKETS, labels=["billing", 1]), "labels[1]", "str"),
    "one label in labels": (body(TICKETS, labels=["billing"]), "labels", "2"),
    "a label twice": (body(TICKETS, labels=["bug", "billing", "bug"]), "labels", "twice"),
    "labels too long": (body(TICKETS, labels=["bug", LONG]), "labels[1]", "257"),
    "a label without rows": (body(TICKETS, labels=["bug", "billing", "x"]), "training_data", "'x' has 0"),
    "100,000 labels of a row": (
        body([*TICKETS[1:], {"text": "a", "labels": ["x"] * 100_000}]),
        "training_data[9].labels",
        "at most 1000",
    ),
    "seed is a string": (body(TICKETS, seed="7"), "seed", "int"),
    "seed is negative": (body(TICKETS, seed=-1), "seed", "0"),
    "seed is enormous": (body(TICKETS, seed=10**30), "seed", ""),
    "metadata holds a number": (body(TICKETS, metadata={"a": 1}), "metadata", "str"),
    "auto_train is a string": (body(TICKETS, auto_train="no"), "auto_train", "bool"),
    "model is a number": (body(TICKETS, model=5), "model", "str"),
    "model is unknown": (body(TICKETS, model="gpt-4o-mini"), "model", "model"),
    "suffix is a number": (body(TICKETS, suffix=5), "suffix", "str"),
    "suffix is empty": (body(TICKETS, suffix=""), "suffix", "1 to 64"),
    "suffix too long": (body(TICKETS, suffix="s" * 65), "suffix", "1 to 64"),
    "suffix with a slash": (body(TICKETS, suffix="a/b"), "suffix", "letters"),
    "suffix with a backslash": (body(TICKETS, suffix="a\\b"), "suffix", "letters"),
    "suffix climbs": (body(TICKETS, suffix="../../etc/passwd"), "suffix", "suffix"),
    "suffix is two dots": (body(TICKETS, suffix=".."), "suffix", "suffix"),
    "suffix with two dots": (body(TICKETS, suffix="a..b"), "suffix", "dots"),
    "suffix with NUL": (body(TICKETS, suffix="a\0b"), "suffix", "letters"),
    "suffix with a newline": (body(TICKETS, suffix="a\nb"), "suffix", "letters"),
    "suffix turns the writing round": (body(TICKETS, suffix="a\u202eb"), "suffix", "letters"),
    "suffix with an at sign": (body(TICKETS, suffix="a@2"), "suffix", "letters"),
    "suffix like a job": (body(TICKETS, suffix=OTHERS), "suffix", "ftjob-"),
    "suffix like a built-in": (body(TICKETS, suffix="Morph-reflex-v2"), "suffix", "morph-"),
    "another input too": (body(TICKETS, generate={"description": "x"}), "generate", "generate"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_bad_field_is_named(quiet: Daemon, name: str) -> None:
    given, param, word = FIELDS[name]
    with quiet.http() as http:
        answer = http.post(CREATE, content=given)
    found = answer.json()["error"]
    if name.startswith("metadata"):  # the decoder cannot tell which key of a map it was
        param = found["param"]
        assert param.startswith("metadata")
    code = "base_model_not_found" if name == "model is unknown" else found["code"] and "not_supported"
    assert word in check_error(quiet, answer, 400, code, param)


SURROGATES = {
    "training_data[4].text": body(with_row(4, text=f"a {SURROGATE} b")),
    "training_data[4].label": body(with_row(4, label=SURROGATE)),
    "suffix": body(TICKETS, suffix=f"a{SURROGATE}"),
    "model": body(TICKETS, model=SURROGATE),
    "labels": body(TICKETS, labels=["billing", SURROGATE]),
}


@pytest.mark.parametrize("param", SURROGATES)
def test_lone_surrogates_are_refused_by_name(quiet: Daemon, param: str) -> None:
    assert b"\\ud800" in SURROGATES[param], "the escape itself must go over the wire"
    with quiet.http() as http:
        answer = http.post(CREATE, content=SURROGATES[param])
    found = answer.json()["error"]
    assert str(found["param"]).startswith(param)
    check_error(quiet, answer, 400, found["code"], found["param"])


NO_JSON = {
    "nothing": b"",
    "a word": b"rows",
    "cut short": body(TICKETS)[:-2],
    "something after it": body(TICKETS) + b"}",
    "form data": b"training_data=1&model=2",
    "a byte order mark": b"\xef\xbb\xbf" + body(TICKETS),
    "UTF-16": body(TICKETS).decode().encode("utf-16"),
    "latin-1": '{"training_data": [], "suffix": "é"}'.encode("latin-1"),
    "a surrogate as bytes": body(TICKETS).replace(b"debited", b"\xed\xa0\x80"),
    "200,000 brackets": b'{"training_data": ' + b"[" * 200_000,
    "NaN": b'{"training_data": [], "seed": NaN}',
}


@pytest.mark.parametrize("name", NO_JSON)
def test_a_body_that_is_not_json(quiet: Daemon, name: str) -> None:
    with quiet.http() as http:
        answer = http.post(CREATE, content=NO_JSON[name], headers={"content-type": "application/json"})
        check_error(quiet, answer, 400, "invalid_json", answer.json()["error"]["param"])
        answer = http.post(PREDICT, content=NO_JSON[name], headers={"content-type": "application/json"})
        found = answer.json()["error"]  # a missing field may be told before the end of the body is looked at
        check_error(quiet, answer, 400, found["code"] and "invalid_json", found["param"])


@pytest.mark.parametrize("given", [b"null", b"[]", b"5", b'"text"', b"true"])
def test_json_that_is_no_object(quiet: Daemon, given: bytes) -> None:
    with quiet.http() as http:
        for path in (CREATE, PREDICT):
            assert "object" in check_error(quiet, http.post(path, content=given), 400, None, None)


PREDICT_FIELDS: dict[str, tuple[dict[str, Any], int, str | None, str]] = {
    "no text": ({"model": "tickets"}, 400, None, "text"),
    "text is a number": ({"model": "tickets", "text": 5}, 400, None, "text"),
    "text is null": ({"model": "tickets", "text": None}, 400, None, "text"),
    "empty text": ({"model": "tickets", "text": ""}, 400, None, "text"),
    "whitespace": ({"model": "tickets", "text": " \n\t"}, 400, None, "text"),
    "NUL": ({"model": "tickets", "text": "a\0b"}, 400, None, "text"),
    "lone surrogate": ({"model": "tickets", "text": SURROGATE}, 400, "invalid_json", "text"),
    "too many characters": ({"model": "tickets", "text": "x" * 400_001}, 400, "context_length_exceeded", "text"),
    "model is a list": ({"model": ["tickets"], "text": "a"}, 400, None, "model"),
    "model is null": ({"model": None, "text": "a"}, 400, None, "model"),
    "models is a string": ({"models": "tickets", "text": "a"}, 400, None, "models"),
    "models holds a number": ({"models": ["tickets", 1], "text": "a"}, 400, None, "models[1]"),
    "models is empty": ({"models": [], "text": "a"}, 400, None, "models"),
    "too many models": ({"models": ["tickets"] * 1_001, "text": "a"}, 400, None, "models"),
    "unknown model": ({"model": "nobody", "text": "a"}, 404, "model_not_found", "model"),
    "model is a path": ({"model": "../tickets", "text": "a"}, 404, "model_not_found", "model"),
    "model with NUL": ({"model": "tickets\0", "text": "a"}, 404, "model_not_found", "model"),
    "model is a surrogate": ({"model": SURROGATE, "text": "a"}, 400, "invalid_json", "model"),
    "unknown job id": ({"model": OTHERS, "text": "a"}, 404, "model_not_found", "model"),
}


@pytest.mark.parametrize("name", PREDICT_FIELDS)
def test_a_bad_field_of_predict_is_named(quiet: Daemon, name: str) -> None:
    given, status, code, param = PREDICT_FIELDS[name]
    with quiet.http() as http:
        check_error(quiet, http.post(PREDICT, content=json.dumps(given)), status, code, param)


UNROUTED = {
    "/": 404,
    "/v1": 404,
    "/v1/nope": 404,
    "/v1/fine_tuning/jobs/a/b/c": 404,
    "/v1/fine_tuning/jobs/..%2f..%2fetc%2fpasswd": 404,
    "/static/../../etc/passwd": 404,
}


@pytest.mark.parametrize("path", UNROUTED)
def test_an_unknown_route(quiet: Daemon, path: str) -> None:
    for key, method in itertools.product((None, ""), ("GET", "POST", "DELETE", "PUT")):
        with quiet.http(key) as http:
            check_error(quiet, http.request(method, path), 404, "unknown_url", None)


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", CREATE), ("PATCH", CREATE), ("GET", PREDICT), ("POST", "/v1/models"), ("POST", "/healthz")],
)
def test_a_wrong_method(quiet: Daemon, method: str, path: str) -> None:
    with quiet.http() as http:
        answer = http.request(method, path)
    check_error(quiet, answer, 405, "method_not_allowed", None)


def test_a_405_says_which_methods_there_are(quiet: Daemon) -> None:
    with quiet.http() as http:
        answer = http.put(CREATE)
    assert answer.status_code == 405
    assert {"GET", "POST"} <= set(answer.headers.get("allow", "").replace(" ", "").split(",")), "RFC 9110, 15.5.6"


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=101", "limit"), ("limit=ten", "limit"), ("limit=", "limit"), ("after=x", "after")],
)
def test_a_bad_query(quiet: Daemon, query: str, param: str) -> None:
    with quiet.http() as http:
        job_id = http.get(CREATE).json()["data"][0]["id"]
        for path in (CREATE, f"{CREATE}/{job_id}/events"):
            check_error(quiet, http.get(f"{path}?{query}"), 400, None, param)


NO_HTTP = {
    "a word": b"hello\r\n\r\n",
    "a TLS greeting": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
    "a header without a colon": b"GET /healthz HTTP/1.1\r\nHost x\r\n\r\n",
    "a length that is no number": b"POST /v1/reflex/predict HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n",
    "a chunk without a size": b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("name", NO_HTTP)
def test_bytes_that_are_no_http_request(quiet: Daemon, name: str) -> None:
    with open_socket(quiet) as connection:
        connection.sendall(NO_HTTP[name])
        answer = read_answer(connection)
    check_error(quiet, answer, answer.status_code, answer.json()["error"]["code"], None)
    assert 400 <= answer.status_code < 500


def test_an_unknown_job(quiet: Daemon) -> None:
    with quiet.http() as http:
        for job_id in (OTHERS, "ftjob-", "x", "%00", "%ff", "%ED%A0%80", "a" * 5_000):
            for method, tail in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/events")):
                answer = http.request(method, httpx2.URL(quiet.url, raw_path=f"{CREATE}/{job_id}{tail}".encode()))
                check_error(quiet, answer, 404, "job_not_found", None)


def test_every_response_has_a_request_id(quiet: Daemon) -> None:
    with quiet.http() as http:
        for path in ("/healthz", "/health", "/readyz", CREATE, "/v1/models", "/nope"):
            check_request_id(http.get(path))
        assert http.get("/healthz", headers={"x-request-id": "my-own.1"}).headers["x-request-id"] == "my-own.1"
        hostile = http.get("/healthz", headers={"x-request-id": "a b<script>"})
        check_request_id(hostile)
        assert "<" not in hostile.headers["x-request-id"]
