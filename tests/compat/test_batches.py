"""Shows that the SDK's batches work in strict mode, from the input file to the lines of the output and error files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from tests import jobs
from tests.batches import (
    jsonl,
    line,
    put_file,
    read_file,
    wait_for_batch,
    wait_until_some_are_done,
)
from tests.daemons import Daemon
from tests.rows import TICKETS

ENDPOINT: Any = "/v1/reflex/predict"
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[openai.OpenAI]:
    """A strict client in a tenant of its own, with the classifier `tickets`."""
    with daemon.openai(daemon.create_key("sdk-batches")) as client:
        job = jobs.train(client, TICKETS, "tickets")
        yield client
        jobs.delete(client, job.id)


def create(client: openai.OpenAI, file_id: str, **more: Any) -> openai.types.Batch:
    return client.batches.create(input_file_id=file_id, endpoint=ENDPOINT, completion_window="24h", **more)


def test_answers_come_in_one_file_and_refusals_in_another(daemon: Daemon, client: openai.OpenAI) -> None:
    texts = [f"the app crashes in case {n}" for n in range(90)]
    lines = [line(f"c-{n}", model="tickets", text=text) for n, text in enumerate(texts)]
    lines[10:10] = [
        line("several", models=["tickets", "tickets@1"], texts=["a", "b"], fields=["label"]),
        line("unknown", model="nobody", text="a"),
        line("empty", model="tickets", text=""),
        line("empties", model="tickets", texts=["a", ""]),
        line("nothing"),
        {**line("text"), "body": "no object"},
    ]
    file_id = put_file(client, jsonl(lines[:5]) + b"\n  \n" + jsonl(lines[5:]).rstrip(b"\n"))
    made = create(client, file_id, metadata={"team": "support"})
    assert (made.object, made.status, made.endpoint, made.input_file_id) == ("batch", "validating", ENDPOINT, file_id)
    assert made.request_counts is not None
    assert made.request_counts.total == 0
    assert made.expires_at == made.created_at + 86_400

    batch = wait_for_batch(client, made.id)
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 96, "completed": 91, "failed": 5}
    assert batch.metadata == {"team": "support"}
    assert None not in (batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    assert (batch.errors, batch.failed_at, batch.cancelled_at) == (None, None, None)

    output = {each["custom_id"]: each for each in read_file(client, batch.output_file_id)}
    refused = {each["custom_id"]: each for each in read_file(client, batch.error_file_id)}
    assert output.keys() | refused.keys() == {each["custom_id"] for each in lines}
    assert len({each["id"] for each in (*output.values(), *refused.values())}) == 96
    for each in (*output.values(), *refused.values()):
        assert each.keys() == {"id", "custom_id", "response", "error"}
        assert each["id"].startswith("batch_req_")
        assert each["response"]["request_id"].startswith("req_")
        assert each["error"] is None
    for n, text in enumerate(texts):
        response, alone = output[f"c-{n}"]["response"], jobs.predict(client, "tickets", text)
        assert response["status_code"] == 200
        assert list(response["body"]) == list(alone)
        assert response["body"]["label"] == alone["label"]
        assert response["body"]["all_scores"] == pytest.approx(alone["all_scores"], abs=1e-4)
    several = output["several"]["response"]["body"]
    assert len(several["predictions"]) == 4
    told = {
        name: (each["response"]["status_code"], each["response"]["body"]["error"]) for name, each in refused.items()
    }
    assert {name: (status, error["param"], error["code"]) for name, (status, error) in told.items()} == {
        "unknown": (404, "model", "model_not_found"),
        "empty": (400, "text", None),
        "empties": (400, "texts[1]", None),
        "nothing": (400, "model", None),
        "text": (400, None, None),
    }


def test_a_file_that_is_none_of_requests_fails_with_its_lines(daemon: Daemon, client: openai.OpenAI) -> None:
    good = line("a", model="tickets", text="a")
    content = jsonl([good, {**good, "custom_id": "b", "method": "GET"}]) + b"{no json\n\n"
    content += jsonl(
        [good, {**good, "custom_id": "c", "url": "/v1/responses"}, {**good, "custom_id": ""}, {"custom_id": "d"}]
    )
    batch = wait_for_batch(client, create(client, put_file(client, content)).id, "failed")
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(error.line, error.code, error.param) for error in batch.errors.data] == [
        (2, "invalid_method", "method"),
        (3, "invalid_json_line", None),
        (5, "duplicate_custom_id", "custom_id"),
        (6, "invalid_url", "url"),
        (7, "invalid_value", "custom_id"),
        (8, "missing_required_parameter", "method"),
    ]
    assert all(error.message for error in batch.errors.data)
    assert batch.failed_at is not None
    assert (batch.output_file_id, batch.error_file_id) == (None, None)

    empty = wait_for_batch(client, create(client, put_file(client, b"\n")).id, "failed")
    assert empty.errors is not None
    assert [error.code for error in empty.errors.data or ()] == ["empty_file"]
    many = put_file(client, b"{}\n" * 5_000)
    told = wait_for_batch(client, create(client, many).id, "failed").errors
    assert told is not None
    assert len(told.data or ()) == 100


def test_lists_page(daemon: Daemon) -> None:
    with daemon.openai(daemon.create_key("paging-batches")) as client:
        file_id = put_file(client, b"{}\n")
        made = [create(client, file_id).id for _ in range(5)]
        for batch_id in made:
            wait_for_batch(client, batch_id, "failed")
        first = client.batches.list(limit=2)
        assert [batch.id for batch in first.data] == made[:2:-1]
        assert first.has_more
        assert [batch.id for batch in client.batches.list(limit=2)] == made[::-1], "all pages"
        last = client.batches.list(limit=2, after=made[1])
        assert [batch.id for batch in last.data] == made[:1]
        assert not last.has_more
        with pytest.raises(openai.BadRequestError) as refused:
            client.batches.list(after="batch_x")
        assert refused.value.param == "after"


def test_what_cannot_become_a_batch_is_refused(daemon: Daemon, client: openai.OpenAI) -> None:
    file_id = put_file(client, jsonl([line("a", model="tickets", text="a")]))
    other = put_file(client, jsonl([line("b", model="tickets", text="a")]), purpose="fine-tune")
    good = {"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h"}
    refused: list[tuple[dict[str, Any], int, str | None, str]] = [
        ({"endpoint": "/v1/responses"}, 400, None, "endpoint"),
        ({"completion_window": "1h"}, 400, None, "completion_window"),
        ({"input_file_id": "file-nobodys"}, 404, "file_not_found", "input_file_id"),
        ({"input_file_id": other}, 400, "invalid_file", "input_file_id"),
        ({"metadata": {"a": 5}}, 400, None, "metadata[...]"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 60}}, 400, None, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, 400, None, "output_expires_after.anchor"),
    ]
    with daemon.http(client.api_key) as http, daemon.http(daemon.create_key("no-files-of-mine")) as stranger:
        for change, status, code, param in refused:
            answer = http.post("/v1/batches", json={**good, **change})
            assert answer.status_code == status, answer.text
            assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, param)
        unknown, foreign = (
            stranger.post("/v1/batches", json={**good, "input_file_id": each}).json() for each in ("file-x", file_id)
        )
        assert foreign == unknown


def test_a_batch_keeps_its_requests_when_the_file_is_deleted_and_can_be_cancelled(
    daemon: Daemon, client: openai.OpenAI
) -> None:
    lines = [line(f"c-{n}", model="tickets", text=f"the app crashes in case {n}") for n in range(20_000)]
    file_id = put_file(client, jsonl(lines))
    made = create(client, file_id, output_expires_after={"anchor": "created_at", "seconds": 3600})
    client.files.delete(file_id)
    wait_until_some_are_done(daemon, made.id, 300)
    running = client.batches.retrieve(made.id)
    assert running.status == "in_progress"
    assert running.request_counts is not None
    assert running.request_counts.total == 20_000

    cancelling = client.batches.cancel(made.id)
    assert cancelling.status in ("cancelling", "cancelled")
    batch = wait_for_batch(client, made.id, "cancelled")
    output = read_file(client, batch.output_file_id)
    assert 300 <= len(output) < 20_000
    assert [each["custom_id"] for each in output] == [f"c-{n}" for n in range(len(output))]
    assert batch.request_counts is not None
    assert batch.request_counts.completed == len(output)
    assert batch.error_file_id is None
    assert None not in (batch.cancelling_at, batch.cancelled_at)
    with pytest.raises(openai.BadRequestError) as refused:
        client.batches.cancel(made.id)
    assert refused.value.code == "batch_not_cancellable"


def test_another_tenants_batch_is_like_none(daemon: Daemon, client: openai.OpenAI) -> None:
    file_id = put_file(client, b"{}\n")
    batch_id = create(client, file_id).id
    wait_for_batch(client, batch_id, "failed")
    with daemon.http(daemon.create_key("no-batches-of-mine")) as stranger:
        for path in ("", "/cancel"):
            method = "POST" if path else "GET"
            known, unknown = (
                stranger.request(method, f"/v1/batches/{each}{path}") for each in (batch_id, "batch_nobodys")
            )
            assert (known.status_code, known.content) == (unknown.status_code, unknown.content)
            assert known.json()["error"]["code"] == "batch_not_found"
        uploaded = stranger.get(f"/v1/reflex/asynchronous_batches/{batch_id}")
        assert uploaded.status_code == 404
    with daemon.http(client.api_key) as http:
        assert http.get(f"/v1/reflex/asynchronous_batches/{batch_id}").status_code == 404, "it is of the other kind"


def test_the_sdk_sends_a_create_again_without_making_a_second_batch(daemon: Daemon, client: openai.OpenAI) -> None:
    file_id = put_file(client, jsonl([line("once", model="tickets", text="a")]))
    lost: list[httpx2.Response] = []

    def lose_the_first(response: httpx2.Response) -> None:
        if response.request.method == "POST" and not lost:
            response.read()
            lost.append(response)
            raise httpx2.ReadError("the answer was lost")

    flaky = httpx2.Client(event_hooks={"response": [lose_the_first]}, timeout=60)
    with daemon.openai(client.api_key, http_client=flaky) as again:
        made = create(again, file_id)
    assert lost[0].json()["id"] == made.id
    assert [batch.id for batch in client.batches.list(limit=1).data] == [made.id]
    wait_for_batch(client, made.id)
