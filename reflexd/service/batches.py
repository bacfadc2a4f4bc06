"""Decides what handing over, following, ending and fetching a batch means for its row and its folder.

The rows are durable before the batch's row commits, and the runner (batch_runner.py) does the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Annotated, Literal
from weakref import WeakValueDictionary

import msgspec
from msgspec import Meta, Struct

from reflexd.config import Batches
from reflexd.errors import (
    BatchNotCancellable,
    BatchNotFound,
    BatchNotReady,
    FileNotFound,
    InvalidFile,
    InvalidRequest,
    RateLimited,
    StorageFull,
    TooManyModels,
)
from reflexd.registry import batches
from reflexd.schemas.batches import ENDPOINT
from reflexd.service.admission import MAX_IDEMPOTENCY_KEY, Metadata, Repeat
from reflexd.service.batch_rows import Upload, read_upload
from reflexd.service.decoding import decode
from reflexd.service.predictions import PredictionService
from reflexd.service.questions import shape_of
from reflexd.service.uploads import Uploads
from reflexd.store.batches import Batch, Kind
from reflexd.store.files import File
from reflexd.store.identifiers import new_id
from reflexd.store.keys import Key
from reflexd.store.store import Store

CHECKED_IN_THREAD_BYTES = 100_000
WINDOW_SECONDS = 86_400
"""After which a batch of OpenAI's kind expires; no other window can be asked for."""
PATIENCE_SECONDS = 7 * 86_400
"""After which one of ours does, which promises no time."""


class OutputExpiry(Struct, kw_only=True):
    """How long the files that a batch makes are kept, from when they are made."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=3600, le=2_592_000)]


class CreateBatch(Struct, kw_only=True):
    """Body of POST /v1/batches."""

    input_file_id: str
    endpoint: Literal["/v1/reflex/predict"]
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: OutputExpiry | None = None


class Admitted(Struct, frozen=True):
    """A batch that may be stored."""

    batch: Batch
    pins: dict[str, str]
    """For each model that its rows name the id of a version, where they have been read."""
    write: Callable[[], None]
    """Writes its rows; raises OSError."""


class BatchService:
    """Batches of tenants."""

    def __init__(
        self, store: Store, predictions: PredictionService, uploads: Uploads, folder: Path, limits: Batches
    ) -> None:
        self._store = store
        self._predictions = predictions
        self._uploads, self._files = uploads, uploads.files
        self._folder = folder
        self._limits = limits
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def upload(self, key: Key, body: bytes, repeat: Repeat) -> Batch:
        """Take rows that come in the request; raises the contract's errors, naming the field.

        A sending that repeats an earlier one returns the batch that one made.
        """
        questions, large = self._predictions.questions, len(body) > CHECKED_IN_THREAD_BYTES

        async def admit(new: Batch) -> Admitted:
            given = (
                await asyncio.to_thread(read_upload, body, questions, self._limits.rows)
                if large
                else read_upload(body, questions, self._limits.rows)
            )
            options = {"fields": given.request.fields, "long_text": given.request.long_text}
            batch = msgspec.structs.replace(new, options=options, total=len(given.lines))
            pins = await self._pin(key, given)
            return Admitted(batch, pins, lambda: batches.create(self._folder, batch.id, given.lines))

        new = self._new(key, "reflex", "rbatch-", PATIENCE_SECONDS, "/v1/reflex/asynchronous_batches")
        return await self._take(new, body, repeat, admit)

    async def create(self, key: Key, body: bytes, repeat: Repeat) -> Batch:
        """Take the requests of an uploaded file; what is wrong with its lines is told by the batch.

        Its output is made whatever the tenant has by then: only the next batch is refused, with FilesFull.
        """

        async def admit(new: Batch) -> Admitted:
            request = decode(body, CreateBatch)
            file = await self._input(key, request.input_file_id)
            await self._uploads.check_output(key.tenant_id)
            expiry = request.output_expires_after
            batch = msgspec.structs.replace(
                new,
                input_file_id=file.id,
                metadata=request.metadata,
                output_seconds=None if expiry is None else expiry.seconds,
            )
            blobs = self._files.blobs
            return Admitted(batch, {}, lambda: batches.create_linked(self._folder, batch.id, blobs, file.sha256))

        return await self._take(self._new(key, "openai", "batch_", WINDOW_SECONDS, ENDPOINT), body, repeat, admit)

    async def get(self, key: Key, batch_id: str, kind: Kind) -> Batch:
        """Return a batch of the key's tenant."""
        batch = await self._store.batches.get(batch_id, key.tenant_id, kind)
        if batch is None:
            raise BatchNotFound
        return batch

    async def page(self, key: Key, kind: Kind, limit: int, after: str | None) -> tuple[list[Batch], bool]:
        """Return batches of the key's tenant, newest first, created before `after`; and whether more follow."""
        before = None
        if after is not None:
            cursor = await self._store.batches.get(after, key.tenant_id, kind)
            if cursor is None:
                raise InvalidRequest("after is not the id of a batch of yours", param="after")
            before = cursor.seq
        return await self._store.batches.page(key.tenant_id, kind, limit, before)

    async def cancel(self, key: Key, batch_id: str, kind: Kind, *, retried: bool) -> Batch:
        """Ask for the end of a batch; the rows that are done keep their answers. Asking again is no error."""
        batch = await self.get(key, batch_id, kind)
        cancelling = await self._store.batches.cancel(batch.id)
        if cancelling is None:
            now = await self.get(key, batch_id, kind)
            if now.status == "cancelling" or (retried and now.status == "cancelled"):
                return now
            raise BatchNotCancellable
        return cancelling

    async def results(self, key: Key, batch_id: str) -> tuple[int, AsyncIterator[bytes]]:
        """Return the results of a batch that has ended, as JSON: how many bytes, and these piece by piece."""
        batch = await self.get(key, batch_id, "reflex")
        if batch.finished_at is None:
            raise BatchNotReady
        opening, closing = b'{"object":"reflex.batch.results","results":[', b"]}"
        file, size = await asyncio.to_thread(batches.open_results, self._folder / batch.id)

        async def pieces() -> AsyncIterator[bytes]:
            with file:
                yield opening
                parts = batches.joined(file, size)
                while (part := await asyncio.to_thread(next, parts, None)) is not None:
                    yield part
                yield closing

        return len(opening) + max(0, size - 1) + len(closing), pieces()

    async def forget_old(self) -> None:
        """Remove the batches that ended longer than [batches] keep_days ago; their output files have their own time."""
        gone = await self._store.batches.forget_ended(int(time.time()) - self._limits.keep_days * 86_400)
        for batch_id in gone:
            await asyncio.to_thread(batches.discard, self._folder, batch_id)

    async def _take(
        self, new: Batch, body: bytes, repeat: Repeat, admit: Callable[[Batch], Awaitable[Admitted]]
    ) -> Batch:
        """Store what `admit` makes of a new batch, after its rows; one that the same request has made stands for it."""
        token = repeat.idempotency_key
        if token is not None and not 1 <= len(token) <= MAX_IDEMPOTENCY_KEY:
            raise InvalidRequest(
                f"Idempotency-Key must have 1 to {MAX_IDEMPOTENCY_KEY} characters", param="Idempotency-Key"
            )
        large = len(body) > CHECKED_IN_THREAD_BYTES
        sha256 = await asyncio.to_thread(_sha256, body) if large else _sha256(body)
        # In the order of arrival: the retry of a request that is still being admitted must find its batch.
        async with self._turns.setdefault((new.key_id, token or sha256), asyncio.Lock()):
            new = msgspec.structs.replace(new, idempotency_key=token, body_sha256=sha256)
            # First of all: what the request names may have been deleted since it made its batch.
            if earlier := await self._store.batches.earlier(new, repeat.retried):
                return earlier
            admitted = await admit(new)
            batch = admitted.batch
            try:
                await asyncio.to_thread(admitted.write)
            except FileNotFoundError as error:
                raise FileNotFound(param="input_file_id") from error  # it was deleted just now
            except OSError as error:
                raise StorageFull from error
            stored = None
            try:
                most = self._limits.unfinished_per_key
                stored = await self._store.batches.insert(batch, most, pins=admitted.pins, retried=repeat.retried)
            finally:
                if stored is None or stored.id != batch.id:
                    await self._discard_unless_stored(batch.id)
        if stored is None:
            raise RateLimited(f"This API key already has {self._limits.unfinished_per_key} batches that have not ended")
        return stored

    async def _discard_unless_stored(self, batch_id: str) -> None:
        with contextlib.suppress(OSError, StorageFull):  # what stays behind is swept at the next start
            if await self._store.batches.status(batch_id) is None:
                await asyncio.to_thread(batches.discard, self._folder, batch_id)

    async def _pin(self, key: Key, given: Upload) -> dict[str, str]:
        """Return for each named model the id of the version that it means now; raises what names none."""
        shape = shape_of(given.request.fields, given.request.long_text)
        pins: dict[str, str] = {}
        sizes: dict[str, int] = {}
        for names, number in given.models.items():
            for name in names:
                if name not in pins:
                    param = f"requests[{number}].model"
                    if len(pins) >= self._limits.models:
                        raise TooManyModels(param=param)
                    version = await self._predictions.plans.resolve(key.tenant_id, name, param)
                    pins[name], sizes[name] = version.id, shape.size(version)
            self._predictions.questions.check_values(sum(sizes[name] for name in names))
            await asyncio.sleep(0)  # of ten thousand rows each may name a thousand: others need not wait for all
        return pins

    async def _input(self, key: Key, file_id: str) -> File:
        try:
            file = await self._files.get(key, file_id)
        except FileNotFound as error:
            raise FileNotFound(param="input_file_id") from error
        if file.purpose != "batch":
            raise InvalidFile("The file's purpose must be batch", param="input_file_id")
        return file

    @staticmethod
    def _new(key: Key, kind: Kind, prefix: str, seconds: int, endpoint: str) -> Batch:
        now = int(time.time())
        return Batch(
            id=new_id(prefix),
            tenant_id=key.tenant_id,
            key_id=key.id,
            kind=kind,
            endpoint=endpoint,
            created_at=now,
            expires_at=now + seconds,
        )


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
