"""Decides what unit tests of batches work with: their parts over an empty data directory, answering without models."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reflexd.config import Batches, Files, Limits
from reflexd.registry import batches
from reflexd.registry.blobs import Blobs
from reflexd.service.admission import Repeat
from reflexd.service.batch_runner import BatchRunner
from reflexd.service.batch_work import Workplace
from reflexd.service.batches import BatchService
from reflexd.service.files import FileService
from reflexd.service.plans import Plans
from reflexd.service.questions import Question, Questions
from reflexd.service.uploads import Uploads
from reflexd.store.batches import Batch
from reflexd.store.identifiers import new_id
from reflexd.store.keys import Key
from reflexd.store.store import Store

LIMITS = Limits()


class Answering:
    """Stands for the predictions: each row of a batch has the answer "good", and a fault may be set."""

    threads = 2

    def __init__(self, store: Store) -> None:
        self.questions = Questions(LIMITS)
        self.plans = Plans(store)
        self.asked: list[tuple[str, bytes]] = []
        self.fault: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def predict_waiting_rows(self, key_id: str, ids: Sequence[bytes], asked: Any, shape: Any) -> list[bytes]:
        await self._may(*((key_id, each) for each in ids))
        return [b'{"id":%b,"predictions":[]}' % each for each in ids]

    async def predict_waiting(self, key_id: str, question: Question) -> bytes:
        await self._may((key_id, question.asked[0].text.encode()))
        return b"{}"

    async def _may(self, *asked: tuple[str, bytes]) -> None:
        await self.gate.wait()
        await asyncio.sleep(0)
        if self.fault is not None:
            raise self.fault
        self.asked += asked


class Appliance:
    """The parts that batches need, over an empty data directory."""

    def __init__(self, store: Store, folder: Path, limits: Batches) -> None:
        for name in ("batches", "files"):
            (folder / name).mkdir()
        self.store, self.folder = store, folder / "batches"
        self.predictions: Any = Answering(store)
        self.files = FileService(store, Blobs(folder / "files"))
        self.uploads = Uploads(store, self.files, Files())
        self.batches = BatchService(store, self.predictions, self.uploads, self.folder, limits)
        self.now = time.time()
        self.place = Workplace(
            store=store,
            predictions=self.predictions,
            files=self.files,
            folder=self.folder,
            limits=limits,
            clock=lambda: self.now,
        )
        self._running: list[tuple[BatchRunner, asyncio.Task[None]]] = []

    def start(self) -> BatchRunner:
        runner = BatchRunner(self.place, pause_seconds=0.05)
        self._running.append((runner, asyncio.create_task(runner.run())))
        return runner

    async def stop(self) -> None:
        for runner, task in self._running:
            runner.stop()
            await task
        self._running.clear()

    async def add(self, key: Key, rows: int) -> Batch:
        """Store a batch of rows that name no model, as an upload leaves it."""
        now = int(self.now)
        batch = Batch(
            id=new_id("rbatch-"),
            tenant_id=key.tenant_id,
            key_id=key.id,
            kind="reflex",
            endpoint="/",
            options={"fields": None, "long_text": "error"},
            total=rows,
            created_at=now,
            expires_at=now + 60,
        )
        lines = [b'{"id":"%d","model":[],"text":"a"}' % n for n in range(rows)]
        batches.create(self.folder, batch.id, lines)
        stored = await self.store.batches.insert(batch, 1_000)
        assert stored is not None
        return stored

    async def add_file(self, key: Key, content: bytes, **more: Any) -> Batch:
        """Create a batch from a file."""
        incoming = self.files.blobs.new()
        incoming.write(content)
        file = await self.files.keep(key.tenant_id, "in.jsonl", "batch", incoming)
        body = {"input_file_id": file.id, "endpoint": "/v1/reflex/predict", "completion_window": "24h", **more}
        return await self.batches.create(key, json.dumps(body).encode(), Repeat())

    async def ended(self, batch: Batch) -> Batch:
        async with asyncio.timeout(30):
            while (found := await self.store.batches.get(batch.id)) is None or found.finished_at is None:
                await asyncio.sleep(0.01)
        return found

    def lines(self, batch: Batch) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / batch.id / "results.jsonl").read_bytes().splitlines()]


def request(custom_id: str, **body: Any) -> bytes:
    line = {"custom_id": custom_id, "method": "POST", "url": "/v1/reflex/predict", "body": body}
    return json.dumps(line).encode() + b"\n"
