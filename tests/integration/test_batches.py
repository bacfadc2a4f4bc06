"""Shows that a batch of rows is answered as single requests are, whole and in order, whatever happens meanwhile."""

from __future__ import annotations

import json
import signal
import statistics
import time
from collections.abc import Callable, Iterator

import httpx2
import openai
import pytest

from tests import jobs
from tests.batches import (
    UPLOADS,
    done_lines,
    jsonl,
    line,
    put_file,
    results,
    rows_of,
    status,
    upload,
    wait_for_batch,
    wait_for_end,
    wait_until_some_are_done,
)
from tests.daemons import Daemon, wait_for
from tests.integration.refusals import check_error, nothing_written
from tests.rows import TICKETS

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def http(quiet: Daemon) -> Iterator[httpx2.Client]:
    """A client in a tenant of its own, with the classifier `tickets`."""
    key = quiet.create_key("batches")
    with quiet.openai(key) as client, quiet.http(key) as http:
        job = jobs.train(client, TICKETS, "tickets")
        yield http
        jobs.delete(client, job.id)


# --- what is answered -----------------------------------------------------------------------------------------------


def test_each_row_is_answered_as_by_itself_and_in_its_place(http: httpx2.Client) -> None:
    rows = rows_of(300)
    bad = {"row-3": "", "row-70": None, "row-140": 5, "row-299": "x" * 500_000}
    for row in rows:
        row["text"] = bad.get(row["id"], row["text"])
    del rows[200]["text"]
    bad["row-200"] = None
    batch_id = upload(http, rows)
    ended = wait_for_end(http, batch_id)
    found = results(http, batch_id)
    assert ended["request_counts"] == {"total": 300, "completed": 295, "failed": 5}
    assert ended["created_at"] <= ended["in_progress_at"] <= ended["completed_at"]
    assert [result["id"] for result in found] == [row["id"] for row in rows]
    for row, result in zip(rows, found, strict=True):
        if row["id"] in bad:
            assert result.keys() == {"id", "error"}
            assert result["error"]["type"] == "invalid_request_error"
            assert result["error"]["param"] == "text"
            continue
        (said,) = result["predictions"]
        alone = http.post("/v1/reflex/predict", json={"model": "tickets", "text": row["text"]}).json()
        assert list(said) == list(alone)
        assert (said["label"], said["labels"], said["version"]) == (alone["label"], alone["labels"], alone["version"])
        assert said["all_scores"] == pytest.approx(alone["all_scores"], abs=1e-4)
    assert found[299]["error"]["code"] == "context_length_exceeded"


def test_rows_may_name_several_models_and_choose_what_they_are_told(http: httpx2.Client) -> None:
    rows = [{"id": 'a "quoted" id \\ é', "model": ["tickets", "tickets@1"], "text": "the app\n\ncrashes é \U0001f600"}]
    batch_id = upload(http, rows, fields=["label", "windows"], long_text="chunk")
    wait_for_end(http, batch_id)
    said = {"label": "bug", "windows": 1}
    assert results(http, batch_id) == [{"id": rows[0]["id"], "predictions": [said, said]}]


def test_what_is_wrong_with_a_model_or_an_id_refuses_the_whole(quiet: Daemon, http: httpx2.Client) -> None:
    body = {"training_data": TICKETS, "suffix": "not-yet", "auto_train": False}
    waiting = "/v1/fine_tuning/jobs/" + http.post("/v1/fine_tuning/jobs", json=body).json()["id"]
    wait_for(lambda: http.get(waiting).json()["status"] == "prepared", "it rests")
    good, text = {"id": "a", "model": ["tickets"], "text": "a"}, {"text": "a"}
    refused = [
        ([good, {"id": "b", "model": "tickets", **text}], 400, None, "requests[1].model"),
        ([good, {"id": "b", **text}], 400, None, "requests[1].model"),
        ([good, {"id": "b", "model": [], **text}], 400, None, "requests[1].model"),
        ([good, {"id": "b", "model": ["tickets", 5], **text}], 400, None, "requests[1].model[1]"),
        ([good, {"model": ["tickets"], **text}], 400, None, "requests[1].id"),
        ([good, good], 400, None, "requests[1].id"),
        ([], 400, None, "requests"),
        ([good, {"id": "b", "model": ["nobody"], **text}], 404, "model_not_found", "requests[1].model"),
        ([good, {"id": "b", "model": ["not-yet"], **text}], 409, "model_not_ready", "requests[1].model"),
    ]
    with nothing_written(quiet):
        for rows, code, word, param in refused:
            answer = http.post(f"{UPLOADS}/upload", json={"requests": rows})
            check_error(quiet, answer, code, word, param)
    http.delete(waiting)


def test_results_are_a_409_before_the_end_and_no_retry(quiet: Daemon, http: httpx2.Client) -> None:
    batch_id = upload(http, rows_of(10_000))
    sent: list[httpx2.Request] = []
    counting = httpx2.Client(event_hooks={"request": [sent.append]}, timeout=60)
    key = http.headers["authorization"].removeprefix("Bearer ")
    with quiet.openai(key, http_client=counting) as client, pytest.raises(openai.ConflictError) as refused:
        client.get(f"/reflex/asynchronous_batches/{batch_id}/results", cast_to=object)
    assert refused.value.code == "batch_not_ready"
    assert len(sent) == 1, "the SDK does not wait through its retries"

    took = []
    while len(done_lines(quiet, batch_id)) < 500:
        began = time.monotonic()
        answer = http.post("/v1/reflex/predict", json={"model": "tickets", "text": "the app crashes"})
        took.append(time.monotonic() - began)
        assert answer.status_code == 200, "a batch takes no place in the queue of requests"
    assert statistics.median(took) < 1, "a request does not wait for the batch"

    cancelled = http.post(f"{UPLOADS}/{batch_id}/cancel").json()
    assert cancelled["status"] == "cancelling"
    ended = wait_for_end(http, batch_id, "cancelled")
    found = results(http, batch_id)
    assert [result["id"] for result in found] == [f"row-{n}" for n in range(len(found))]
    assert 500 <= len(found) < 10_000
    assert ended["request_counts"] == {"total": 10_000, "completed": len(found), "failed": 0}
    check_error(quiet, http.post(f"{UPLOADS}/{batch_id}/cancel"), 400, "batch_not_cancellable", None)
    again = http.post(f"{UPLOADS}/{batch_id}/cancel", headers={"x-stainless-retry-count": "1"})
    assert (again.status_code, again.json()) == (200, ended)


def test_what_is_sent_again_makes_no_second_batch(http: httpx2.Client) -> None:
    body = {"requests": rows_of(3)}

    def send(body: object, **headers: str) -> httpx2.Response:
        return http.post(f"{UPLOADS}/upload", json=body, headers={n.replace("_", "-"): v for n, v in headers.items()})

    first = send(body).json()["id"]
    assert send(body, x_stainless_retry_count="1").json()["id"] == first
    assert send(body).json()["id"] != first
    named = send(body, idempotency_key="once").json()["id"]
    assert send(body, idempotency_key="once").json()["id"] == named != first
    reused = send({"requests": rows_of(4)}, idempotency_key="once")
    assert (reused.status_code, reused.json()["error"]["code"]) == (400, "idempotency_key_reused")


# --- what happens meanwhile -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_batch_goes_on_where_the_daemon_was_ended(start_daemon: Callable[..., Daemon], number: int) -> None:
    daemon = start_daemon()
    with daemon.openai() as client:
        jobs.train(client, TICKETS, "tickets")
    count = 10_000 if number == signal.SIGKILL else 4_000
    rows = rows_of(count)
    lines = jsonl([line(row["id"], model="tickets", text=row["text"]) for row in rows])
    with daemon.http() as http, daemon.openai() as client:
        batch_id = upload(http, rows)
        body = {"input_file_id": put_file(client, lines), "endpoint": "/v1/reflex/predict"}
        of_file = http.post("/v1/batches", json={**body, "completion_window": "24h"}).json()["id"]
        for each in (batch_id, of_file):
            wait_until_some_are_done(daemon, each)
        daemon.signal(number)
        assert daemon.ended() == (0 if number == signal.SIGTERM else -number)
    before, before_of_file = done_lines(daemon, batch_id), done_lines(daemon, of_file)
    assert 200 <= len(before) < count
    assert 200 <= len(before_of_file) < count
    daemon.start()
    with daemon.http() as http, daemon.openai() as client:
        ended = wait_for_end(http, batch_id)
        found = results(http, batch_id)
        output = client.files.content(wait_for_batch(client, of_file).output_file_id or "").read().splitlines()
    assert [json.loads(each)["custom_id"] for each in output] == [row["id"] for row in rows]
    assert output[: len(before_of_file)] == before_of_file
    assert ended["request_counts"] == {"total": count, "completed": count, "failed": 0}
    assert [result["id"] for result in found] == [row["id"] for row in rows], "none is lost, none stands there twice"
    assert done_lines(daemon, batch_id)[: len(before)] == before, "what was done is not done again"


def test_a_batch_keeps_its_models_through_a_retraining_and_outlives_a_deletion(
    start_daemon: Callable[..., Daemon],
) -> None:
    daemon = start_daemon()
    with daemon.openai() as client, daemon.http() as http:
        jobs.train(client, TICKETS, "tickets")
        jobs.train(client, TICKETS, "doomed")
        rows = rows_of(10_000)
        for row in rows[1::2]:
            row["model"] = ["doomed"]
        batch_id = upload(http, rows)
        wait_until_some_are_done(daemon, batch_id)
        jobs.train(client, TICKETS, "tickets")
        assert client.models.delete("doomed").deleted
        assert status(http, batch_id)["status"] == "in_progress", "all of this was meanwhile"
        ended = wait_for_end(http, batch_id)
        found = results(http, batch_id)
        assert jobs.predict(client, "tickets", "a")["version"] == 2
    assert {result["predictions"][0]["version"] for result in found[::2]} == {1}
    gone = ["error" in result for result in found[1::2]]
    assert gone == sorted(gone)
    assert {result["error"]["code"] for result in found[1::2] if "error" in result} == {"model_not_found"}
    assert ended["request_counts"] == {"total": 10_000, "completed": 10_000 - sum(gone), "failed": sum(gone)}
    assert 0 < sum(gone) < 5_000


def test_a_batch_has_so_many_models_and_bytes_of_answers(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(REFLEXD_BATCHES__OUTPUT_BYTES="20000", REFLEXD_BATCHES__MODELS="2")
    rows = rows_of(500)
    with daemon.openai() as client, daemon.http() as http:
        jobs.train(client, TICKETS, "tickets")
        rows[100]["model"] = ["tickets@1", "tickets"]
        batch_id = upload(http, rows)
        ended = wait_for_end(http, batch_id, "failed")
        found = results(http, batch_id)
        assert 20 < len(found) < 200
        assert [result["id"] for result in found] == [row["id"] for row in rows[: len(found)]]
        assert ended["request_counts"] == {"total": 500, "completed": len(found), "failed": 0}
        (problem,) = ended["errors"]["data"]
        assert (problem["code"], problem["param"]) == ("output_too_large", f"requests[{len(found)}]")
        rows[300]["model"] = ["tickets", "nobody"]
        refused = http.post(f"{UPLOADS}/upload", json={"requests": rows})
        check_error(daemon, refused, 400, "too_many_models", "requests[300].model")
        lines = [line(row["id"], models=row["model"], text=row["text"]) for row in rows]
        body = {"input_file_id": put_file(client, jsonl(lines)), "endpoint": "/v1/reflex/predict"}
        of_file = http.post("/v1/batches", json={**body, "completion_window": "24h"}).json()["id"]
        told = wait_for_batch(client, of_file, "failed").errors
    assert told is not None
    assert [(error.code, error.line) for error in told.data or ()] == [("too_many_models", 301)]
    assert daemon.stop() == 0
    assert not list((daemon.data_dir / "batches").glob("*/input.jsonl"))


def test_a_key_has_so_many_batches_and_old_folders_are_put_aside(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(REFLEXD_BATCHES__UNFINISHED_PER_KEY="2", REFLEXD_BATCHES__ROWS="10000")
    with daemon.openai() as client:
        jobs.train(client, TICKETS, "tickets")
    with daemon.http() as http:
        kept = [upload(http, rows_of(5_000)), upload(http, rows_of(5_000, words=2))]
        refused = http.post(f"{UPLOADS}/upload", json={"requests": rows_of(1)})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
        assert daemon.batches() == set(kept)
        too_many = http.post(f"{UPLOADS}/upload", json={"requests": rows_of(10_001)})
        assert (too_many.status_code, too_many.json()["error"]["param"]) == (400, "requests")
        for batch_id in kept:  # they share the time
            wait_until_some_are_done(daemon, batch_id, 64)
        assert {status(http, batch_id)["status"] for batch_id in kept} == {"in_progress"}
        for batch_id in kept:
            http.post(f"{UPLOADS}/{batch_id}/cancel")
            wait_for_end(http, batch_id, "cancelled")
    (daemon.data_dir / "batches" / "rbatch-orphan").mkdir()
    assert daemon.stop() == 0
    daemon.start()
    assert daemon.batches() == set(kept)
