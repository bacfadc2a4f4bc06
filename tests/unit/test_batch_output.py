"""Shows that a batch's answers have a bound: all of them together, and those that are made at once."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reflexd.config import Batches
from reflexd.errors import StorageFull
from reflexd.service import batch_work
from reflexd.service.admission import Repeat
from reflexd.service.batch_work import CHUNK_VALUES, FIRST_CHUNK_ROWS
from reflexd.service.questions import Question
from reflexd.store.keys import Key
from reflexd.store.store import Store
from tests.unit.batching import Appliance, request
from tests.unit.test_plans import version
from tests.unit.test_store import make_key

pytestmark = pytest.mark.anyio

BOUND = 1_024


@pytest.fixture
async def appliance(store: Store, tmp_path: Path) -> AsyncIterator[Appliance]:
    made = Appliance(store, tmp_path, Batches(output_bytes=BOUND))
    yield made
    await made.stop()


@pytest.fixture
async def key(store: Store) -> Key:
    return await make_key(store, "one")


async def test_rows_are_answered_until_the_answers_are_too_large(appliance: Appliance, key: Key) -> None:
    batch = await appliance.add(key, 200)
    appliance.start()
    ended = await appliance.ended(batch)
    lines = appliance.lines(batch)
    assert (ended.status, ended.total, ended.completed, ended.failed) == ("failed", 200, len(lines), 0)
    assert [line["id"] for line in lines] == [str(n) for n in range(len(lines))]
    assert ended.errors is not None
    (error,) = ended.errors
    assert (error.code, error.line, error.param) == ("output_too_large", None, f"requests[{len(lines)}]")
    assert "[batches] output_bytes" in error.message
    kept = (appliance.folder / batch.id / "results.jsonl").stat().st_size
    assert BOUND - len(b'{"id":"99","predictions":[]}\n') < kept <= BOUND, "as many as fit"
    size, pieces = await appliance.batches.results(key, batch.id)
    answer = b"".join([piece async for piece in pieces])
    assert len(answer) == size
    assert len(json.loads(answer)["results"]) == len(lines)


async def test_the_answers_of_requests_that_fit_are_in_the_output_file(
    appliance: Appliance, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    appliance.store.models.add(version("m", 1, key.tenant_id))
    ends, really = [], appliance.store.batches.end

    async def refused(*given: Any, **named: Any) -> Any:
        ends.append(given)
        if len(ends) == 1:
            raise StorageFull
        return await really(*given, **named)

    monkeypatch.setattr(appliance.store.batches, "end", refused)
    batch = await appliance.add_file(key, b"\n" + b"".join(request(str(n), model="m", text="a") for n in range(50)))
    appliance.start()
    ended = await appliance.ended(batch)
    assert len(ends) == 2, "the second time with what was kept the first time"
    assert (ended.status, ended.error_file_id) == ("failed", None)
    output = await appliance.files.get(key, ended.output_file_id or "")
    lines = [json.loads(line) for line in appliance.files.content(output).read_bytes().splitlines()]
    assert 0 < output.bytes <= BOUND
    assert [line["custom_id"] for line in lines] == [str(n) for n in range(ended.completed)]
    assert ended.errors is not None
    assert [(error.code, error.line) for error in ended.errors] == [("output_too_large", ended.completed + 2)]


async def test_what_is_answered_at_once_has_so_many_values(store: Store, tmp_path: Path, key: Key) -> None:
    appliance = Appliance(store, tmp_path, Batches())
    many = msgspec.structs.replace(version("many", 1, key.tenant_id), labels=[str(n) for n in range(1_000)])
    store.models.add(many)
    chunks: dict[tuple[str, int], list[int]] = defaultdict(list)
    """The values of each answer that was asked for after so many were done."""

    async def answer_rows(key_id: str, ids: Sequence[bytes], asked: Sequence[Any], shape: Any) -> list[bytes]:
        chunks[rows.id, len(appliance.lines(rows))] += [each.plan.values for each in asked]
        return [b'{"id":%b,"predictions":[]}' % each for each in ids]

    async def answer(key_id: str, question: Question) -> bytes:
        chunks[requests.id, len(appliance.lines(requests))].append(question.values)
        return b"{}"

    appliance.predictions.predict_waiting_rows, appliance.predictions.predict_waiting = answer_rows, answer
    asked = [["many"]] * 20 + [["many"] * 40] * 3 + [["many"] * 10] * 20
    given = [{"id": str(n), "model": names, "text": "a"} for n, names in enumerate(asked)]
    rows = await appliance.batches.upload(key, json.dumps({"requests": given}).encode(), Repeat())
    lines = [request(str(n), models=names, texts=["a"]) for n, names in enumerate(asked)]
    requests = await appliance.add_file(key, b"".join(lines))
    appliance.start()
    assert (await appliance.ended(rows)).completed == (await appliance.ended(requests)).completed == len(asked)
    await appliance.stop()
    for batch in (rows, requests):
        values = [made for (batch_id, _), made in chunks.items() if batch_id == batch.id]
        assert [each for made in values for each in made] == [(8 + 4_000) * len(names) for names in asked]
        assert max(sum(made) for made in values if len(made) > 1) <= CHUNK_VALUES
        assert sum(len(made) == 1 for made in values) >= 3, "a row that alone has more is answered alone"
        assert max(map(len, values)) >= 8, "small ones are answered together"


async def test_a_file_that_an_end_made_of_fewer_rows_is_replaced(
    appliance: Appliance, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    appliance.store.models.add(version("m", 1, key.tenant_id))

    async def refused(*given: Any, **named: Any) -> Any:
        raise StorageFull

    real = appliance.store.batches.end
    monkeypatch.setattr(appliance.store.batches, "end", refused)
    batch = await appliance.add_file(key, b"".join(request(str(n), model="m", text="a") for n in range(50)))
    appliance.start()
    async with asyncio.timeout(30):
        while not (found := await appliance.store.files.page(key.tenant_id, 9, None, "asc", ["batch_output"]))[0]:
            await asyncio.sleep(0.01)
    ((earlier,), _) = found
    await appliance.stop()
    monkeypatch.setattr(appliance.store.batches, "end", real)
    appliance.place = msgspec.structs.replace(appliance.place, limits=Batches(output_bytes=1 << 20))
    appliance.start()
    ended = await appliance.ended(batch)
    assert (ended.status, ended.completed) == ("completed", 50)
    found = await appliance.store.files.page(key.tenant_id, 9, None, "asc", ["batch_output"])
    ((file,), _) = found
    assert file.id == ended.output_file_id
    assert file.id != earlier.id
    assert len(appliance.files.content(file).read_bytes().splitlines()) == 50
    assert not appliance.files.content(earlier).exists()


@pytest.mark.parametrize("files", [True, False], ids=["files", "no files"])
async def test_a_batch_that_a_fault_ends_keeps_its_answers(
    store: Store, tmp_path: Path, key: Key, monkeypatch: pytest.MonkeyPatch, files: bool
) -> None:
    appliance = Appliance(store, tmp_path, Batches())
    store.models.add(version("m", 1, key.tenant_id))

    async def answer(key_id: str, question: Question) -> bytes:
        if question.asked[0].text == "20":
            raise ZeroDivisionError
        return b"{}"

    def split(*given: Any) -> None:
        raise ZeroDivisionError

    appliance.predictions.predict_waiting = answer
    if not files:
        monkeypatch.setattr(batch_work, "split_results", split)
    appliance.start()
    lines = [request("bad", model="nobody", text="a"), *(request(str(n), model="m", text=str(n)) for n in range(50))]
    ended = await appliance.ended(await appliance.add_file(key, b"".join(lines)))
    assert (ended.status, ended.total) == ("failed", 51)
    assert ended.errors is not None
    assert [error.code for error in ended.errors] == ["internal_error"]
    assert (ended.output_file_id is not None, ended.error_file_id is not None) == (files, files)
    if files:
        output = await appliance.files.get(key, ended.output_file_id or "")
        kept = [json.loads(line)["custom_id"] for line in appliance.files.content(output).read_bytes().splitlines()]
        assert kept == [str(n) for n in range(ended.completed)]
        assert (ended.completed, ended.failed) == (FIRST_CHUNK_ROWS - 1, 1)
    await appliance.stop()
