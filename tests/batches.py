"""Decides how tests hand over batches, wait for their end, and get their files in and out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx2
import openai

from tests.daemons import Daemon, wait_for

UPLOADS = "/v1/reflex/asynchronous_batches"
ENDED = ("completed", "failed", "cancelled", "expired")

Row = dict[str, Any]


def rows_of(count: int, model: str = "tickets", words: int = 1) -> list[Row]:
    """Return rows of different texts with `words` more words each."""
    more = " ".join(f"word{n}" for n in range(words))
    return [{"id": f"row-{n}", "model": [model], "text": f"the app crashes in case {n} {more}"} for n in range(count)]


def upload(http: httpx2.Client, rows: Sequence[Row], **more: Any) -> str:
    """Hand over rows and return the batch's id."""
    answer = http.post(f"{UPLOADS}/upload", json={"requests": list(rows), **more})
    assert answer.status_code == 200, answer.text
    batch_id: str = answer.json()["id"]
    return batch_id


def status(http: httpx2.Client, batch_id: str) -> Row:
    """Return a batch's status object."""
    answer = http.get(f"{UPLOADS}/{batch_id}")
    assert answer.status_code == 200, answer.text
    found: Row = answer.json()
    return found


def wait_for_end(http: httpx2.Client, batch_id: str, *wanted: str) -> Row:
    """Wait until a batch has ended, in one of these statuses (default: completed)."""
    found: Row = wait_for(
        lambda: (seen := status(http, batch_id))["status"] in ENDED and seen, f"{batch_id} has ended", 240
    )
    assert found["status"] in (wanted or ("completed",)), found
    return found


def wait_until_some_are_done(daemon: Daemon, batch_id: str, lines: int = 200) -> None:
    """Wait until so many rows of a batch are done."""
    wait_for(lambda: len(done_lines(daemon, batch_id)) >= lines, f"{lines} rows of {batch_id} are done")


def done_lines(daemon: Daemon, batch_id: str) -> list[bytes]:
    """Return the whole lines of a batch's results as they lie on the disk."""
    path = daemon.data_dir / "batches" / batch_id / "results.jsonl"
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1].splitlines()


def results(http: httpx2.Client, batch_id: str) -> list[Row]:
    """Return the results of a batch that has ended."""
    answer = http.get(f"{UPLOADS}/{batch_id}/results")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body.keys() == {"object", "results"}
    assert body["object"] == "reflex.batch.results"
    found: list[Row] = body["results"]
    return found


def line(custom_id: str, **body: Any) -> Row:
    """Return a line of an input file."""
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/reflex/predict", "body": body}


def jsonl(lines: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


def wait_for_batch(client: openai.OpenAI, batch_id: str, *wanted: str) -> openai.types.Batch:
    """Wait until a batch of /v1/batches has ended, in one of these statuses (default: completed)."""
    found = wait_for(
        lambda: (seen := client.batches.retrieve(batch_id)).status in ENDED and seen, f"{batch_id} has ended", 240
    )
    assert found.status in (wanted or ("completed",)), found
    return found


def put_file(client: openai.OpenAI, content: bytes, purpose: Any = "batch") -> str:
    """Upload a file and return its id."""
    return client.files.create(file=("requests.jsonl", content), purpose=purpose).id


def read_file(client: openai.OpenAI, file_id: str | None) -> list[Row]:
    """Return the lines of a file that a batch has made."""
    assert file_id is not None
    return [json.loads(each) for each in client.files.content(file_id).read().splitlines()]
