"""Decides the routes of batches: /v1/reflex/asynchronous_batches and /v1/batches."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Controller, Response, get, post
from litestar.params import Parameter
from litestar.response import Stream

from reflexd.api.batch_objects import batch_page, openai_batch, reflex_batch
from reflexd.schemas.batches import Batch, ReflexBatch, UploadedResults
from reflexd.schemas.openai import Page
from reflexd.service.admission import Repeat
from reflexd.service.batches import BatchService
from reflexd.store.keys import Key

Limit = Annotated[int, Parameter(ge=1, le=100)]
IdempotencyKey = Annotated[str | None, Parameter(header="Idempotency-Key")]


class AsynchronousBatchController(Controller):
    """Batches of rows that come in the request."""

    path = "/v1/reflex/asynchronous_batches"
    opt = {"scope": "predict"}  # noqa: RUF012 - Litestar reads it from the class

    @post("/upload", status_code=200)
    async def upload(
        self,
        body: bytes,
        key: Key,
        batches: BatchService,
        retried: bool,
        idempotency_key: IdempotencyKey = None,
    ) -> ReflexBatch:
        """Take rows to classify later; a batch that the same request has made before is returned instead."""
        return reflex_batch(await batches.upload(key, body, Repeat(idempotency_key, retried)))

    @get("/{batch_id:str}")
    async def retrieve(self, batch_id: str, key: Key, batches: BatchService) -> ReflexBatch:
        """Show one batch."""
        return reflex_batch(await batches.get(key, batch_id, "reflex"))

    @get("/{batch_id:str}/results")
    async def results(self, batch_id: str, key: Key, batches: BatchService) -> Response[UploadedResults]:
        """Return what came of a batch's rows, once it has ended."""
        size, pieces = await batches.results(key, batch_id)
        # With its length, so that an answer that breaks off does not pass for a whole one.
        answer: Any = Stream(pieces, media_type="application/json", headers={"content-length": str(size)})
        streamed: Response[UploadedResults] = answer
        return streamed

    @post("/{batch_id:str}/cancel", status_code=200)
    async def cancel(self, batch_id: str, key: Key, batches: BatchService, retried: bool) -> ReflexBatch:
        """End a batch that has not ended; the rows that are done keep their results."""
        return reflex_batch(await batches.cancel(key, batch_id, "reflex", retried=retried))


class BatchController(Controller):
    """Batches of requests that come in a file."""

    path = "/v1/batches"
    opt = {"scope": "predict"}  # noqa: RUF012 - Litestar reads it from the class

    @post(status_code=200)
    async def create(
        self,
        body: bytes,
        key: Key,
        batches: BatchService,
        retried: bool,
        idempotency_key: IdempotencyKey = None,
    ) -> Batch:
        """Create a batch from a file; one that the same request has made before is returned instead."""
        return openai_batch(await batches.create(key, body, Repeat(idempotency_key, retried)))

    @get()
    async def page(self, key: Key, batches: BatchService, limit: Limit = 20, after: str | None = None) -> Page[Batch]:
        """List the tenant's batches, newest first."""
        return batch_page(*await batches.page(key, "openai", limit, after))

    @get("/{batch_id:str}")
    async def retrieve(self, batch_id: str, key: Key, batches: BatchService) -> Batch:
        """Show one batch."""
        return openai_batch(await batches.get(key, batch_id, "openai"))

    @post("/{batch_id:str}/cancel", status_code=200)
    async def cancel(self, batch_id: str, key: Key, batches: BatchService, retried: bool) -> Batch:
        """End a batch whose requests are not done; those that are leave their answers in the output file."""
        return openai_batch(await batches.cancel(key, batch_id, "openai", retried=retried))
