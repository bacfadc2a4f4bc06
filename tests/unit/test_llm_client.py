"""Shows that each request to the LLM is answered once, over outages, time-outs, a kill and nonsense."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from reflexd.engine.llm.client import Client
from reflexd.errors import JobFailure
from reflexd.hookspecs import LLMAnswer, LLMRequest
from reflexd.schemas.worker import LLMAccess

Answer = Callable[[dict[str, Any]], tuple[int, object]]


class Server(ThreadingHTTPServer):
    """A server that answers as it is told; a fake for an LLM that breaks on command."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer: Answer, port: int = 0) -> None:
        self.answer = answer
        self.asked: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Server)
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert self.path == "/v1/completions"
        if self.headers["authorization"] != "Bearer the-key":
            status, said = 401, object_error("bad key")
        else:
            self.server.asked.append(body)
            status, said = self.server.answer(body)
        content = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(answer: Answer, port: int = 0) -> Iterator[Server]:
    server = Server(answer, port)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def object_error(message: str) -> object:
    return {"error": {"message": message, "code": None}}


def echo(body: dict[str, Any]) -> tuple[int, object]:
    return 200, {"id": "cmpl-1", "choices": [{"text": body["prompt"].upper()}]}


def test_a_seed_is_kept_from_a_server_that_it_would_end(tmp_path: Path) -> None:
    asked = [LLMRequest("a", {"prompt": "x", "seed": 5})]
    with serving(echo) as server:
        list(client(server, tmp_path).batch("with", asked))
        list(client(server, tmp_path, seeds=False).batch("without", asked))
    assert [body.get("seed") for body in server.asked] == [5, None]


def client(server: Server, folder: Path, key: str = "the-key", **change: float) -> Client:
    given: dict[str, Any] = {"answer_seconds": 5.0, "patience_seconds": 20.0, **change}
    access = LLMAccess(
        url=f"http://127.0.0.1:{server.server_port}/v1", key=key, model="the-model", concurrency=4, **given
    )
    return Client(access, folder, threading.Event())


def requests(count: int) -> Iterator[LLMRequest]:
    for number in range(count):
        yield LLMRequest(f"r{number}", {"prompt": f"text {number}"})


def texts(answers: list[LLMAnswer]) -> list[str]:
    return [answer.body["choices"][0]["text"] for answer in answers]


def test_answers_come_in_order_and_are_kept_as_a_batch_s_output(tmp_path: Path) -> None:
    def slow_at_first(body: dict[str, Any]) -> tuple[int, object]:
        time.sleep(0.2 if body["prompt"] == "text 0" else 0)
        return echo(body)

    with serving(slow_at_first) as server:
        found = list(client(server, tmp_path).batch("some-name", requests(40)))
    assert texts(found) == [f"TEXT {n}" for n in range(40)]
    assert {body["model"] for body in server.asked} == {"the-model"}
    lines = [json.loads(line) for line in (tmp_path / "llm-some-name.jsonl").read_text().splitlines()]
    assert sorted(line["custom_id"] for line in lines) == sorted(f"r{n}" for n in range(40))
    assert {tuple(line) for line in lines} == {("id", "custom_id", "response", "error")}
    assert {line["response"]["status_code"] for line in lines} == {200}


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    with serving(echo) as server:
        answers = client(server, tmp_path).batch("n", requests(40))
        first = [next(answers) for _ in range(10)]
        answers.close()  # type: ignore[attr-defined]
        path = tmp_path / "llm-n.jsonl"
        kept = path.read_bytes()
        torn = kept[: kept.rindex(b"\n", 0, -1) + 30]  # a kill in the middle of the last line
        path.write_bytes(torn)
        known = {json.loads(line)["custom_id"] for line in torn.splitlines()[:-1]}
        assert len(known) >= 9
        server.asked.clear()
        again = list(client(server, tmp_path).batch("n", requests(40)))
    assert again[:10] == first
    assert texts(again) == [f"TEXT {n}" for n in range(40)]
    assert {body["prompt"] for body in server.asked} == {f"text {n}" for n in range(40) if f"r{n}" not in known}


def test_a_server_that_is_started_again_is_waited_for(tmp_path: Path) -> None:
    with serving(echo) as first:
        port, answers = first.server_port, client(first, tmp_path).batch("n", requests(60))
        found = [next(answers)]

    def later() -> None:
        time.sleep(1.0)
        with serving(echo, port):
            ended.wait()

    ended = threading.Event()
    thread = threading.Thread(target=later)
    thread.start()
    found += list(answers)
    ended.set()
    thread.join()
    assert texts(found) == [f"TEXT {n}" for n in range(60)]


def test_a_server_that_stays_away_fails_the_job(tmp_path: Path) -> None:
    with serving(echo) as server:
        asking = client(server, tmp_path, patience_seconds=0.5)
    with pytest.raises(JobFailure) as caught:
        list(asking.batch("n", requests(3)))
    assert caught.value.code == "llm_unavailable"


def test_one_that_hangs_is_asked_three_times(tmp_path: Path) -> None:
    ended = threading.Event()

    def hang(body: dict[str, Any]) -> tuple[int, object]:
        ended.wait(10)
        return echo(body)

    with serving(hang) as server:
        with pytest.raises(JobFailure) as caught:
            list(client(server, tmp_path, answer_seconds=0.2).batch("n", requests(1)))
        ended.set()
    assert (caught.value.code, len(server.asked)) == ("llm_timeout", 3)


def test_one_request_that_breaks_it_is_told_and_the_others_are_answered(tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, object]:
        if body["prompt"] == "text 1":
            return 500, b"<html>"
        if body["prompt"] == "text 2":
            return 400, object_error("the prompt is too long")
        return echo(body)

    with serving(answer) as server:
        found = list(client(server, tmp_path).batch("n", requests(4)))
        kept = list(client(server, tmp_path).batch("n", requests(4)))
    assert [one.error for one in found] == [None, "<html>", "the prompt is too long", None]
    assert kept == found
    assert [body["prompt"] for body in server.asked].count("text 1") == 3


def test_nonsense_is_no_answer(tmp_path: Path) -> None:
    said = iter([b"nonsense", b'["a list"]', b"\xff\xfe", b""])

    def babble(body: dict[str, Any]) -> tuple[int, object]:
        return 200, next(said, None) or json.dumps(echo(body)[1]).encode()

    with serving(babble) as server:
        found = list(client(server, tmp_path).batch("n", requests(2)))
    assert texts(found) == ["TEXT 0", "TEXT 1"]


def test_another_server_on_its_port_is_not_believed(tmp_path: Path) -> None:
    with serving(echo) as server, pytest.raises(JobFailure) as caught:
        list(client(server, tmp_path, key="another").batch("n", requests(3)))
    assert caught.value.code == "llm_refused"
    assert "bad key" in caught.value.message


@pytest.mark.parametrize("name", ["", "../n", "a b", "N", "n" * 65])
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    with serving(echo) as server, pytest.raises(ValueError, match="a batch's name"):
        list(client(server, tmp_path).batch(name, requests(1)))
    assert list(tmp_path.iterdir()) == []
