"""Shows what becomes of a batch that is handed over once more, and how much one may ask."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from reflexd.config import Batches, Files
from reflexd.errors import FileNotFound, FilesFull, IdempotencyKeyReused, ModelNotFound, TooManyModels
from reflexd.service import batch_work
from reflexd.service.admission import Repeat
from reflexd.store.files import BLOCK_BYTES
from reflexd.store.keys import Key
from reflexd.store.store import Store
from tests.unit.batching import Appliance, request
from tests.unit.test_plans import version
from tests.unit.test_store import make_key

pytestmark = pytest.mark.anyio

ONCE = Repeat("once")
RETRIED = Repeat(None, retried=True)


@pytest.fixture
async def appliance(store: Store, tmp_path: Path) -> AsyncIterator[Appliance]:
    made = Appliance(store, tmp_path, Batches(lines=30, models=5))
    yield made
    await made.stop()


@pytest.fixture
async def key(store: Store) -> Key:
    return await make_key(store, "one")


def upload_of(*rows: list[str]) -> bytes:
    requests = [{"id": str(n), "model": names, "text": "a"} for n, names in enumerate(rows)]
    return json.dumps({"requests": requests}).encode()


async def test_what_is_sent_again_finds_its_batch_after_the_model_is_gone(appliance: Appliance, key: Key) -> None:
    appliance.store.models.add(version("m", 1, key.tenant_id))
    body = upload_of(["m"])
    named = await appliance.batches.upload(key, body, ONCE)
    plain = await appliance.batches.upload(key, body, Repeat())
    appliance.store.models.forget([f"{key.tenant_id}-m-1"])
    assert await appliance.batches.upload(key, body, ONCE) == named
    assert await appliance.batches.upload(key, body, RETRIED) == plain
    with pytest.raises(ModelNotFound):
        await appliance.batches.upload(key, body, Repeat())
    with pytest.raises(IdempotencyKeyReused):
        await appliance.batches.upload(key, upload_of(["m"], ["m"]), ONCE)
    assert {entry.name for entry in appliance.folder.iterdir()} == {named.id, plain.id}


async def test_what_is_sent_again_finds_its_batch_after_the_file_is_gone(appliance: Appliance, key: Key) -> None:
    made = await appliance.add_file(key, request("a", model="m", text="a"))
    body: dict[str, Any] = {"input_file_id": made.input_file_id, "endpoint": made.endpoint, "completion_window": "24h"}
    content = json.dumps(body).encode()
    named = await appliance.batches.create(key, content, ONCE)
    await appliance.files.delete(key, made.input_file_id or "", retried=False)
    assert await appliance.batches.create(key, content, ONCE) == named
    assert await appliance.batches.create(key, content, RETRIED) == named, "the latest of this body"
    with pytest.raises(FileNotFound):
        await appliance.batches.create(key, content, Repeat())


async def test_a_batch_has_room_for_its_output_beside_what_the_tenant_has(appliance: Appliance, key: Key) -> None:
    line = request("a", model="m", text="a")
    made = await appliance.add_file(key, line)
    assert made.input_file_id is not None
    body = {"input_file_id": made.input_file_id, "endpoint": made.endpoint, "completion_window": "24h"}
    for full in (Files(files_per_tenant=1), Files(tenant_bytes=2 * BLOCK_BYTES - 1)):
        appliance.uploads.limits = full
        with pytest.raises(FilesFull, match="With the batch's output your files would"):
            await appliance.batches.create(key, json.dumps(body).encode(), Repeat())
    assert await appliance.batches.create(key, json.dumps(body).encode(), RETRIED) == made, (
        "what was taken before is no new batch"
    )
    appliance.uploads.limits = Files(files_per_tenant=2, tenant_bytes=2 * BLOCK_BYTES)
    assert (await appliance.batches.create(key, json.dumps(body).encode(), Repeat())).id != made.id


# --- how many models ------------------------------------------------------------------------------------------------


async def test_the_rows_of_an_upload_name_so_many_models(appliance: Appliance, key: Key) -> None:
    for n in range(6):
        appliance.store.models.add(version(f"m{n}", 1, key.tenant_id))
    rows = [["m0", "m1"], ["m1", "m2"], ["m0"], ["m2", "m3", "m4"]]
    assert (await appliance.batches.upload(key, upload_of(*rows), Repeat())).total == 4
    with pytest.raises(TooManyModels) as refused:
        await appliance.batches.upload(key, upload_of(*rows, ["m0"], ["m4", "m5"]), Repeat())
    assert (refused.value.status, refused.value.param) == (400, "requests[5].model")


async def test_the_lines_of_a_file_name_so_many_models(appliance: Appliance, key: Key) -> None:
    appliance.store.models.add(version("known", 1, key.tenant_id))
    appliance.start()
    lines = [request(str(n), models=["known", f"unknown {n % 4}"], text="a") for n in range(9)]
    lines.append(request("refused anyway", models=[f"unknown {n}" for n in range(1_001)], text="a"))
    ended = await appliance.ended(await appliance.add_file(key, b"".join(lines)))
    assert (ended.status, ended.failed) == ("completed", 10)
    lines[3:3] = [b"\n", request("one too many", model="unknown", text="a")]
    ended = await appliance.ended(await appliance.add_file(key, b"".join(lines)))
    assert (ended.status, ended.failed) == ("failed", 0)
    assert ended.errors is not None
    (error,) = ended.errors
    assert (error.code, error.line, error.param) == ("too_many_models", 6, "body")
    assert "[batches] models" in error.message


async def test_an_unknown_name_is_looked_up_once_for_all_lines(
    appliance: Appliance, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_work, "CHECKED_LINES", 5)
    looked_up, really = list[str](), appliance.store.jobs.waiting

    async def waiting(tenant_id: str, name: str) -> bool:
        looked_up.append(name)
        return await really(tenant_id, name)

    monkeypatch.setattr(appliance.store.jobs, "waiting", waiting)
    lines = [request(str(n), model="nobody" if n % 2 else "else", text="a") for n in range(30)]
    appliance.start()
    ended = await appliance.ended(await appliance.add_file(key, b"".join(lines)))
    assert (ended.status, ended.failed) == ("completed", 30)
    assert sorted(looked_up) == ["else", "nobody"]


async def test_a_custom_id_of_an_earlier_line_is_refused(
    appliance: Appliance, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_work, "CHECKED_LINES", 2)
    ids = ["\u00e9" * 256, "a", "b", "\u00e9" * 256, "\u00e9" * 255]
    appliance.start()
    ended = await appliance.ended(await appliance.add_file(key, b"".join(request(each, model="m") for each in ids)))
    assert ended.errors is not None
    assert [(error.code, error.line) for error in ended.errors] == [("duplicate_custom_id", 4)]
    lone = b'{"custom_id":"\\ud800","method":"POST","url":"/v1/reflex/predict","body":{"model":"\\ud800"}}\n'
    ended = await appliance.ended(await appliance.add_file(key, lone))
    assert ended.errors is not None
    assert [error.code for error in ended.errors] == ["invalid_json_line"]
