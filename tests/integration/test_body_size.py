"""Shows that a body over the limit is answered 413 while it still arrives, with memory flat, and a slow one 408."""

from __future__ import annotations

import gzip
import select
import socket
from pathlib import Path

import openai
import pytest

from tests import jobs
from tests.daemons import Daemon, wait_for
from tests.integration.conftest import BODY_LIMIT
from tests.integration.refusals import body, check_error, nothing_written
from tests.integration.wire import connect, read_answer
from tests.rows import TICKETS, made_up

PIECE = b"x" * 65_536
WANTED = 100 << 20
"""Bytes that a hostile client would send if it were let."""


def send_until_answered(connection: socket.socket, piece: bytes, every: float = 0) -> int:
    """Send pieces until an answer or a hang-up comes, at most WANTED bytes; return how many bytes were sent."""
    sent = 0
    while sent < WANTED and not select.select([connection], [], [], every)[0]:
        try:
            connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            break
        sent += len(piece)
    return sent


def peak_memory(daemon: Daemon) -> int:
    """Return the daemon's greatest resident size in bytes since `forget_peak`."""
    lines = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def forget_peak(daemon: Daemon) -> None:
    Path(f"/proc/{daemon.pid}/clear_refs").write_text("5")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.mark.parametrize("path", ["/v1/fine_tuning/jobs", "/v1/reflex/predict"])
@pytest.mark.parametrize("kind", ["declared", "without end"])
def test_413_comes_while_the_body_is_still_sent(quiet: Daemon, path: str, kind: str) -> None:
    header, piece = f"Content-Length: {WANTED}", PIECE
    if kind == "without end":
        header, piece = "Transfer-Encoding: chunked", chunk(PIECE)
    with nothing_written(quiet):
        for _ in range(3):
            with connect(quiet, path, header) as connection:
                sent = send_until_answered(connection, piece)
                answer = read_answer(connection)
            check_error(quiet, answer, 413, "request_too_large", None)
            assert sent < WANTED / 2, "the answer must not wait for the whole body"
            assert answer.headers["connection"] == "close", "the rest of the body must not be taken for a request"


def test_memory_stays_flat_under_100_mb_of_refused_bodies(quiet: Daemon) -> None:
    forget_peak(quiet)
    before = peak_memory(quiet)
    total = 0
    while total < WANTED:
        open_at_once = [connect(quiet, "/v1/fine_tuning/jobs", "Transfer-Encoding: chunked") for _ in range(10)]
        for connection in open_at_once:
            total += send_until_answered(connection, chunk(PIECE))
        for connection in open_at_once:
            assert read_answer(connection).status_code == 413
            connection.close()
    grown = peak_memory(quiet) - before
    print(f"{total / 1e6:.0f} MB sent, peak memory {before / 1e6:.0f} MB and {grown / 1e6:+.1f} MB")
    assert grown < 80e6


def test_the_sdk_sees_the_413_and_not_a_broken_connection(quiet: Daemon) -> None:
    rows = made_up(20_000, words=20)
    with quiet.openai(max_retries=0) as client, nothing_written(quiet):
        for _ in range(5):
            with pytest.raises(openai.APIStatusError) as refused:
                jobs.create(client, rows)
            assert (refused.value.status_code, refused.value.code) == (413, "request_too_large")


def test_without_a_key_a_large_body_is_not_even_read(quiet: Daemon) -> None:
    with connect(quiet, "/v1/fine_tuning/jobs", f"Content-Length: {WANTED}", key="nobody") as connection:
        answer = read_answer(connection)  # nothing of the body is sent
    check_error(quiet, answer, 401, "invalid_api_key", None)


def test_a_body_that_stops_arriving_is_answered_408(quiet: Daemon) -> None:
    with (
        nothing_written(quiet),
        connect(quiet, "/v1/fine_tuning/jobs", "Content-Length: 1000") as connection,
    ):
        connection.sendall(b'{"training_data": [')
        answer = read_answer(connection)
    check_error(quiet, answer, 408, "request_timeout", None)


def test_a_body_that_drips_is_answered_408(quiet: Daemon) -> None:
    header = "Transfer-Encoding: chunked"
    with nothing_written(quiet), connect(quiet, "/v1/fine_tuning/jobs", header) as connection:
        send_until_answered(connection, chunk(b" "), every=0.1)
        answer = read_answer(connection)
    check_error(quiet, answer, 408, "request_timeout", None)


@pytest.mark.parametrize(("key", "status"), [("nobody", 401), (None, 413)])
def test_a_refused_body_that_drips_on_is_not_waited_for(quiet: Daemon, key: str | None, status: int) -> None:
    with connect(quiet, "/v1/fine_tuning/jobs", f"Content-Length: {WANTED}", key=key) as connection:
        send_until_answered(connection, b" ", every=0.1)
        assert read_answer(connection).status_code == status  # it reads on until the daemon has closed


def test_chunks_of_one_byte_cost_no_memory_and_keep_nobody_waiting(quiet: Daemon) -> None:
    forget_peak(quiet)
    before = peak_memory(quiet)
    with quiet.http() as http, connect(quiet, "/v1/fine_tuning/jobs", "Transfer-Encoding: chunked") as connection:
        sent, pieces = 0, chunk(b" ") * 10_000
        while sent < 3_000_000 * len(chunk(b" ")) and not select.select([connection], [], [], 0)[0]:
            try:
                connection.sendall(pieces)
            except (BrokenPipeError, ConnectionResetError):
                break
            sent += len(pieces)
            assert http.get("/v1/models").status_code == 200
        answer = read_answer(connection)
    code = answer.json()["error"]["code"]
    assert (answer.status_code, code) in ((413, "request_too_large"), (408, "request_timeout"))
    grown = peak_memory(quiet) - before
    print(f"{sent / 1e6:.0f} MB of chunks of one byte: {answer.status_code}, peak memory {grown / 1e6:+.1f} MB")
    assert grown < 64e6


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP", "identity, gzip", "x"])
def test_an_encoded_body_is_refused_unread(quiet: Daemon, encoding: str) -> None:
    with quiet.http() as http, nothing_written(quiet):
        for path in ("/v1/fine_tuning/jobs", "/v1/reflex/predict"):
            answer = http.post(path, content=gzip.compress(body(TICKETS)), headers={"content-encoding": encoding})
            check_error(quiet, answer, 415, "unsupported_encoding", None)
            assert answer.headers["accept-encoding"] == "identity"


def test_a_body_that_is_said_to_be_as_it_is_is_read(quiet: Daemon) -> None:
    with quiet.http() as http:
        for encoding in ("identity", "Identity", ""):
            answer = http.post("/v1/reflex/predict", content=b"{", headers={"content-encoding": encoding})
            check_error(quiet, answer, 400, "invalid_json", None)


def test_the_limit_itself_is_still_taken(quiet: Daemon) -> None:
    given = body(TICKETS)
    padded = given[:-1] + b" " * (BODY_LIMIT - len(given)) + b"}"
    assert len(padded) == BODY_LIMIT
    with quiet.http() as http, quiet.openai() as client:
        answer = http.post("/v1/fine_tuning/jobs", content=padded)
        assert answer.status_code == 200
        jobs.wait_for_status(client, answer.json()["id"], "succeeded")
        with nothing_written(quiet):
            refused = http.post("/v1/fine_tuning/jobs", content=padded + b" ")
            check_error(quiet, refused, 413, "request_too_large", None)


def test_what_is_just_allowed_is_accepted(quiet: Daemon) -> None:
    with quiet.openai() as client:
        many = jobs.create(client, made_up(20_000, words=1))
        assert many.model_extra["trained_examples"] == 20_000
        jobs.delete(client, many.id)
        wait_for(lambda: many.id not in quiet.runs(), "the deleted job's rows are gone")
        longest = "x" * 256
        rows = [{**row, "label": longest} if row["label"] == "bug" else row for row in TICKETS]
        done = jobs.train(client, rows, "s" * 64)
        assert done.model_extra["labels"] == ["billing", longest]
        assert jobs.predict(client, "s" * 64, "the app freezes")["label"] == longest
