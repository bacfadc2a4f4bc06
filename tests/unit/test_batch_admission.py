"""Shows what becomes of a batch that is handed over once more, and how much one may ask."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from reflexd.config import Batches
from reflexd.errors import FileNotFound, IdempotencyKeyReused, ModelNotFound
from reflexd.service.admission import Repeat
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
    made = Appliance(store, tmp_path, Batches(lines=30))
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
    await appliance.files.delete(key, made.input_file_id or "")
    assert await appliance.batches.create(key, content, ONCE) == named
    assert await appliance.batches.create(key, content, RETRIED) == named, "the latest of this body"
    with pytest.raises(FileNotFound):
        await appliance.batches.create(key, content, Repeat())
