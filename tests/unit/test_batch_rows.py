"""Shows how a batch's row lives, and how its folder tells which of its rows are done."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from reflexd.config import Batches
from reflexd.errors import IdempotencyKeyReused, InvalidRequest
from reflexd.registry import batches
from reflexd.registry.batches import BatchInput, BatchResults
from reflexd.service.batch_rows import read_upload
from reflexd.service.questions import Questions
from reflexd.store.batches import Batch
from reflexd.store.identifiers import new_id
from reflexd.store.keys import Key
from reflexd.store.store import Store
from tests.unit.batching import LIMITS, Appliance
from tests.unit.test_store import make_key

pytestmark = pytest.mark.anyio


@pytest.fixture
async def appliance(store: Store, tmp_path: Path) -> AsyncIterator[Appliance]:
    made = Appliance(store, tmp_path, Batches(lines=30))
    yield made
    await made.stop()


@pytest.fixture
async def key(store: Store) -> Key:
    return await make_key(store, "one")


# --- the row --------------------------------------------------------------------------------------------------------


async def test_a_status_that_says_the_end_never_changes(store: Store, appliance: Appliance, key: Key) -> None:
    batch = await appliance.add(key, 3)
    await store.batches.begin(batch.id, 3, {"a": "b"})
    cancelling = await store.batches.cancel(batch.id)
    assert cancelling is not None
    assert cancelling.status == "cancelling"
    assert await store.batches.cancel(batch.id) is None
    ended = await store.batches.end(batch.id, "completed", completed=3, failed=0)
    assert ended is not None
    assert ended.status == "cancelled", "it was to be cancelled while its last rows were done"
    assert await store.batches.end(batch.id, "failed", completed=0, failed=0) is None
    await store.batches.count(batch.id, 1, 1)
    await store.batches.begin(batch.id, 9, {})
    assert await store.batches.get(batch.id) == ended


async def test_what_shows_a_batch_reads_no_pins(store: Store, appliance: Appliance, key: Key) -> None:
    batch = await appliance.add(key, 3)
    pins = {f"model-{n}": f"version-{n}" for n in range(1_000)}
    await store.batches.begin(batch.id, 3, pins)
    assert await store.batches.pins(batch.id) == pins
    await store.database.write(lambda tx: tx.run("UPDATE batches SET pins = 'unreadable'"))
    shown = await appliance.batches.get(key, batch.id, "reflex")
    assert shown.status == "in_progress"
    assert await appliance.batches.page(key, "reflex", 9, None) == ([shown], False)
    await store.batches.count(batch.id, 2, 1)
    assert (await appliance.batches.cancel(key, batch.id, "reflex", retried=False)).completed == 2
    assert await store.batches.end(batch.id, "completed") is not None


async def test_the_end_is_told_in_its_own_transaction(store: Store, appliance: Appliance, key: Key) -> None:
    async def subscribe(tx: Any) -> None:
        columns = "id, tenant_id, name, url, event_types, created_at, updated_at"
        wanted = '["batch.completed", "batch.failed"]'
        values = ("whe_1", key.tenant_id, "n", "https://hooks.test/", wanted, 1, 1)
        await tx.run(f"INSERT INTO webhook_endpoints ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    await store.database.write(subscribe)
    for end in ("completed", "failed", "expired"):
        batch = await appliance.add(key, 3)
        await store.batches.end(batch.id, end, completed=2, failed=1)
    told = await store.database.rows("SELECT event_type, object_id, body FROM deliveries ORDER BY seq")
    assert [row["event_type"] for row in told] == ["batch.completed", "batch.failed"]
    data = json.loads(told[0]["body"])["data"]
    assert data["id"] == told[0]["object_id"]
    assert (data["object"], data["status"]) == ("reflex.batch", "completed")
    assert data["request_counts"] == {"total": 3, "completed": 2, "failed": 1}


async def test_a_request_that_is_sent_again_finds_its_batch(store: Store, appliance: Appliance, key: Key) -> None:
    def sent(**given: Any) -> Batch:
        fields = {"id": new_id("rbatch-"), "created_at": int(time.time()), "expires_at": 0, "kind": "reflex", **given}
        return Batch(tenant_id=key.tenant_id, key_id=key.id, endpoint="/", **fields)

    first = await store.batches.insert(sent(body_sha256="x"), 9)
    assert first is not None
    assert await store.batches.insert(sent(body_sha256="x"), 9, retried=True) == first
    assert await store.batches.earlier(sent(body_sha256="y"), True) is None
    assert await store.batches.earlier(sent(body_sha256="x", kind="openai"), True) is None
    assert await store.batches.earlier(sent(body_sha256="x"), False) is None
    named = await store.batches.insert(sent(body_sha256="x", idempotency_key="k"), 9)
    assert named is not None
    assert named != first
    assert await store.batches.insert(sent(body_sha256="x", idempotency_key="k"), 9) == named
    with pytest.raises(IdempotencyKeyReused):
        await store.batches.earlier(sent(body_sha256="y", idempotency_key="k"), False)
    assert await store.batches.insert(sent(), 2) is None, "two have not ended"


# --- the folder -----------------------------------------------------------------------------------------------------


def test_a_torn_line_is_cut_off_and_whole_ones_are_counted(tmp_path: Path) -> None:
    good, bad = b'{"id":"a \\"predictions\\"","predictions":[]}', b'{"id":"b","error":{"message":"predictions"}}'
    answered = b'{"id":"1","custom_id":"c\\\\","response":{"status_code":200,"body":{}},"error":null}'
    refused = b'{"id":"1","custom_id":"c","response":{"status_code":400,"body":{}},"error":null}'
    whole = b"".join(line + b"\n" for line in (good, bad, answered, refused))
    for torn in (good[:-1], b"\0" * 9 + good + b"\n" + bad + b"\n"):
        (tmp_path / "results.jsonl").write_bytes(whole + torn)
        results = BatchResults(tmp_path)
        assert (results.completed, results.failed) == (2, 2)
        assert (tmp_path / "results.jsonl").read_bytes() == whole
    results.append([good, bad])
    results.close()
    assert (results.completed, results.failed) == (3, 3)
    file, size = batches.open_results(tmp_path)
    with file:
        found = json.loads(b"[" + b"".join(batches.joined(file, size)) + b"]")
    assert [each["id"] for each in found] == ['a "predictions"', "b", "1", "1", 'a "predictions"', "b"]


def test_input_lines_are_taken_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "input.jsonl").write_bytes(b"\n1\n  \r\n22\n" + b"3" * 600_000 + b"\n4\n\n5")
    given = BatchInput(tmp_path, most_line_bytes=10)
    assert [(line.number, line.content) for line in given.take(2, 99)] == [(2, b"1"), (4, b"22")]
    (large,) = given.take(1, 99)
    assert (large.number, large.content, large.too_long) == (5, b"", True)
    assert [(line.number, line.content) for line in given.take(9, 1)] == [(6, b"4")], "no more than one byte"
    assert [(line.number, line.content) for line in given.take(9, 99)] == [(8, b"5")]
    assert given.take(9, 99) == []
    given.close()
    again = BatchInput(tmp_path, most_line_bytes=10)
    again.skip(3)
    assert [line.number for line in again.take(9, 99)] == [6, 8]
    again.close()


def test_an_upload_names_the_row_that_is_wrong() -> None:
    rows = [{"id": str(n), "model": ["m"], "text": "a"} for n in range(5)]
    odd = {"id": "\u00e9" * 256, "model": ["m", "n"], "text": 5}
    taken = read_upload(json.dumps({"requests": [*rows, odd]}).encode(), Questions(LIMITS), 9)
    assert taken.models == {("m",): 0, ("m", "n"): 5}
    assert [b'"error"' in line for line in taken.lines] == [False] * 5 + [True]
    for wrong, param in (
        ({"id": "3", "model": ["m"]}, "requests[5].id"),
        ({"id": "6", "model": "m"}, "requests[5].model"),
        ({"id": "6"}, "requests[5].model"),
        ({"model": ["m"]}, "requests[5].id"),
        ({"id": "\u00e9" * 257, "model": ["m"], "text": "a"}, "requests[5].id"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            read_upload(json.dumps({"requests": [*rows, wrong]}).encode(), Questions(LIMITS), 9)
        assert refused.value.param == param
    with pytest.raises(InvalidRequest) as refused:
        read_upload(json.dumps({"requests": rows}).encode(), Questions(LIMITS), 4)
    assert refused.value.param == "requests"
