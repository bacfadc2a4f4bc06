"""Shows how the runner works on batches, and what it makes of trouble: a restart, a full disk, a fault, a late hour."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from reflexd.config import Batches
from reflexd.errors import StorageFull
from reflexd.registry import batches
from reflexd.registry.data_directory import DataDirectory
from reflexd.service import batch_runner, batch_work
from reflexd.service.questions import Question
from reflexd.startup import recover
from reflexd.store.keys import Key
from reflexd.store.store import Store
from tests.unit.batching import Appliance, request
from tests.unit.test_plans import version
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


async def test_a_stopped_batch_goes_on_with_its_next_row(appliance: Appliance, key: Key) -> None:
    batch = await appliance.add(key, 500)
    appliance.start()
    while len(appliance.predictions.asked) < 50:
        await asyncio.sleep(0)
    await appliance.stop()
    done = len(appliance.lines(batch))
    assert 50 <= done < 500
    with (appliance.folder / batch.id / "results.jsonl").open("ab") as file:
        file.write(b'{"id":"torn')
    appliance.start()
    ended = await appliance.ended(batch)
    assert (ended.status, ended.completed, ended.failed) == ("completed", 500, 0)
    assert [line["id"] for line in appliance.lines(batch)] == [str(n) for n in range(500)]
    assert [row for _, row in appliance.predictions.asked] == [b'"%d"' % n for n in range(500)], "each row once"


async def test_keys_take_turns_and_so_do_the_batches_of_one(
    store: Store, appliance: Appliance, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_runner, "WORKERS", 1)
    monkeypatch.setattr(batch_work, "CHUNK_ROWS", 1)
    monkeypatch.setattr(batch_work, "FIRST_CHUNK_ROWS", 1)
    other = await make_key(store, "two")
    mine = [await appliance.add(key, 20) for _ in range(3)]
    theirs = await appliance.add(other, 20)
    appliance.start()
    await appliance.ended(theirs)
    turns = [key_id for key_id, _ in appliance.predictions.asked]
    done = Counter(turns[: len(turns) - turns[::-1].index(other.id)])
    assert done[other.id] == 20
    assert 15 <= done[key.id] <= 25, "a key's three batches have the turns of one"
    lines = [len(appliance.lines(batch)) for batch in mine]
    assert max(lines) - min(lines) <= 5, lines
    for batch in mine:
        await appliance.ended(batch)


async def test_a_full_disk_makes_batches_wait(appliance: Appliance, key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    fdatasync = batches.os.fdatasync

    def full(handle: int) -> None:
        tried.append(handle)
        if len(tried) in (2, 3):
            raise OSError(28, "No space left on device")
        fdatasync(handle)

    monkeypatch.setattr(batches.os, "fdatasync", full)
    batch = await appliance.add(key, 100)
    appliance.start()
    ended = await appliance.ended(batch)
    assert (ended.status, ended.completed) == ("completed", 100)
    assert [line["id"] for line in appliance.lines(batch)] == [str(n) for n in range(100)]


async def test_what_passes_makes_batches_wait_and_a_fault_ends_the_one(appliance: Appliance, key: Key) -> None:
    batch = await appliance.add(key, 10)
    appliance.predictions.fault = StorageFull()
    appliance.start()
    await asyncio.sleep(0.2)
    running = await appliance.store.batches.get(batch.id)
    assert running is not None
    assert running.status == "in_progress"
    appliance.predictions.fault = None
    assert (await appliance.ended(batch)).status == "completed"

    appliance.predictions.fault = ZeroDivisionError()
    failed = await appliance.ended(await appliance.add(key, 10))
    assert failed.status == "failed"
    assert failed.errors is not None
    assert [error.code for error in failed.errors] == ["internal_error"]
    appliance.predictions.fault = None
    assert (await appliance.ended(await appliance.add(key, 10))).status == "completed", "the others go on"

    await appliance.stop()
    lost = await appliance.add(key, 10)
    batches.discard(appliance.folder, lost.id)
    appliance.start()
    assert (await appliance.ended(lost)).status == "failed"
    await asyncio.sleep(0)
    assert REGISTRY.get_sample_value("reflexd_batches_unfinished") == 0


async def test_a_batch_expires_with_what_is_done(
    appliance: Appliance, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_work, "FIRST_CHUNK_ROWS", 4)
    monkeypatch.setattr(batch_work, "CHUNK_ROWS", 4)
    appliance.store.models.add(version("m", 1, key.tenant_id))
    bad = request("bad", model="nobody", text="a")
    made = await appliance.add_file(key, b"".join([bad, *(request(str(n), text="a", model="m") for n in range(20))]))
    asked = appliance.predictions.asked

    async def late(key_id: str, question: Question) -> bytes:
        asked.append((key_id, question.asked[0].text.encode()))
        if len(asked) == 10:
            appliance.now += 90_000
        return b"{}"

    appliance.predictions.predict_waiting = late
    appliance.start()
    ended = await appliance.ended(made)
    assert (ended.status, ended.total, ended.completed, ended.failed) == ("expired", 21, 11, 1)
    made_files = (ended.output_file_id, ended.error_file_id)
    files = [await appliance.files.get(key, each or "") for each in made_files]
    assert [file.purpose for file in files] == ["batch_output"] * 2
    assert [file.expires_at for file in files] == [int(appliance.now) + 30 * 86_400] * 2
    output, errors = (appliance.files.content(file).read_bytes().splitlines() for file in files)
    assert [json.loads(line)["custom_id"] for line in output] == [str(n) for n in range(11)]
    assert [json.loads(line)["custom_id"] for line in errors] == ["bad"]


async def test_an_expired_or_cancelled_batch_ends_before_its_turn(appliance: Appliance, key: Key) -> None:
    appliance.predictions.gate.clear()
    made = [await appliance.add(key, 100) for _ in range(12)]
    appliance.start()
    await asyncio.sleep(0.1)
    assert await appliance.store.batches.cancel(made[11].id) is not None
    appliance.predictions.gate.set()
    first = await appliance.ended(made[11])
    assert first.status == "cancelled"
    assert {(await appliance.ended(batch)).status for batch in made[:11]} == {"completed"}


async def test_an_input_file_has_so_many_lines(appliance: Appliance, key: Key) -> None:
    appliance.start()
    ended = await appliance.ended(await appliance.add_file(key, b"".join(request(str(n)) for n in range(31))))
    assert ended.status == "failed"
    assert ended.errors is not None
    assert [error.code for error in ended.errors] == ["too_many_tasks"]


async def test_an_input_file_has_so_many_blank_lines(appliance: Appliance, key: Key) -> None:
    good, most = request("a", model="m", text="a"), batches.MOST_BLANK_LINES
    appliance.start()
    blank = b"\n" * (most // 2)
    ended = await appliance.ended(await appliance.add_file(key, blank + good + b" " + blank + good[:-1]))
    assert ended.errors is not None
    assert [(error.code, error.line) for error in ended.errors] == [("duplicate_custom_id", most + 2)]
    ended = await appliance.ended(await appliance.add_file(key, blank + good + blank + b"\r\n" * 9 + b"no row\n"))
    assert (ended.status, ended.total) == ("failed", 0)
    assert ended.errors is not None
    assert [(error.code, error.line) for error in ended.errors] == [("too_many_blank_lines", most + 2)]


async def test_the_files_of_a_batch_are_not_made_twice(
    appliance: Appliance, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends, really = [], appliance.store.batches.end

    async def refused(*given: Any, **named: Any) -> Any:
        ends.append(given)
        if len(ends) == 1:
            raise StorageFull
        return await really(*given, **named)

    monkeypatch.setattr(appliance.store.batches, "end", refused)
    expiry = {"anchor": "created_at", "seconds": 3600}
    made = await appliance.add_file(key, request("a", model="m", text="a"), output_expires_after=expiry)
    appliance.start()
    ended = await appliance.ended(made)
    assert len(ends) == 2
    assert (ended.status, ended.output_file_id, ended.failed) == ("completed", None, 1), "the model is unknown"
    found, _ = await appliance.store.files.page(key.tenant_id, 9, None, "asc", ["batch_output"])
    assert [(file.id, file.expires_at) for file in found] == [(ended.error_file_id, int(appliance.now) + 3600)]


async def test_an_ended_batch_leaves_only_what_is_read(appliance: Appliance, key: Key) -> None:
    appliance.start()
    rows, requests = await appliance.add(key, 3), await appliance.add_file(key, request("a", model="m", text="a"))
    refused = await appliance.add_file(key, b"{}")
    assert (await appliance.ended(rows)).status == "completed"
    assert (await appliance.ended(requests)).error_file_id is not None
    assert (await appliance.ended(refused)).status == "failed"
    broken = await appliance.add(key, 3)
    appliance.predictions.fault = ZeroDivisionError()
    assert (await appliance.ended(broken)).status == "failed"
    await appliance.stop()
    left = {(path.parent.name, path.name) for path in appliance.folder.glob("*/*")}
    assert left == {(batch.id, "results.jsonl") for batch in (rows, refused, broken)}
    assert len(appliance.lines(rows)) == 3


async def test_what_a_killed_daemon_left_of_ended_batches_goes_at_the_next_start(
    store: Store, appliance: Appliance, key: Key, tmp_path: Path
) -> None:
    rows, waiting = await appliance.add(key, 3), await appliance.add(key, 3)
    copied, broken = [await appliance.add_file(key, request("a", model="m", text="a")) for _ in range(2)]
    for batch in (rows, copied, broken):
        (appliance.folder / batch.id / "results.jsonl").touch()
    await store.batches.end(rows.id, "completed")
    await store.batches.end(copied.id, "completed", output_file_id="file-1")
    await store.batches.end(broken.id, "failed")
    directory = DataDirectory(tmp_path)
    for folder in (directory.models, directory.runs, directory.backbones):
        folder.mkdir()
    await recover(store, directory)
    left = {(path.parent.name, path.name) for path in appliance.folder.glob("*/*")}
    assert left == {(rows.id, "results.jsonl"), (broken.id, "results.jsonl"), (waiting.id, "input.jsonl")}
    assert not (appliance.folder / copied.id).exists()


async def test_batches_that_ended_long_ago_are_forgotten(
    store: Store, appliance: Appliance, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    appliance.start()
    old, running = await appliance.add(key, 3), await appliance.add(key, 3)
    await appliance.ended(old)
    await appliance.ended(running)
    await appliance.batches.forget_old()
    assert await store.batches.ids() == {old.id, running.id}
    later = time.time() + 31 * 86_400
    fresh = await appliance.add(key, 3)
    await appliance.stop()
    monkeypatch.setattr(time, "time", lambda: later)
    await appliance.batches.forget_old()
    left = await store.batches.ids()
    assert left <= {fresh.id}
    assert {entry.name for entry in appliance.folder.iterdir()} == left
