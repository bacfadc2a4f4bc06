"""Decides how one batch is worked on: step by step, each of which leaves behind all that the next one needs.

A step checks some lines of an input file, or answers some rows and appends what came of them, or ends the batch. What
is done stands in the batch's folder, and the database hears of it up to a second later. So whatever ends the daemon,
the next one goes on with the next row: none is answered twice, and none is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import msgspec
from msgspec import Struct

from reflexd import observability
from reflexd.config import Batches
from reflexd.errors import ModelNotFound, ModelNotReady, ReflexError, TooManyModels
from reflexd.registry.batches import BatchInput, BatchResults, Line, split_results, tidy
from reflexd.registry.blobs import Incoming
from reflexd.service.batch_rows import GivenLine, WaitingRow, check_lines, digest, read_line
from reflexd.service.files import FileService
from reflexd.service.plans import Asked, PinnedPlans
from reflexd.service.predictions import PredictionService
from reflexd.service.questions import Question, shape_of
from reflexd.service.rendering import encode
from reflexd.store.batches import Batch, BatchError, End
from reflexd.store.identifiers import new_id
from reflexd.store.store import Store

CHUNK_ROWS = 64
FIRST_CHUNK_ROWS = 8
"""The first chunk shows how large the answers are."""
CHUNK_BYTES = 4 << 20
"""Of the rows of a chunk, and of its answers: larger ones make the next chunk smaller."""
CHUNK_VALUES = CHUNK_BYTES // 32
"""Of the answers of a chunk of several rows: known before they are made, when a later row may ask a thousand models."""
CHECKED_LINES = 1_000
COUNT_EVERY_SECONDS = 1.0
ERRORS_TOLD = 100
OUTPUT_SECONDS = 30 * 86_400
"""How long the files that a batch makes are kept where the request does not say it."""
UNAVAILABLE = 503
"""Status of what is no fault of a request, and passes: the daemon stops, or the disk is full."""

_decode_row = msgspec.json.Decoder(WaitingRow).decode


class Workplace(Struct, frozen=True, kw_only=True):
    """What the work on batches needs."""

    store: Store
    predictions: PredictionService
    files: FileService
    folder: Path
    """With a folder for each batch."""
    limits: Batches
    clock: Callable[[], float]

    async def tidy(self, ended: Batch | None) -> None:
        """Remove what nobody reads of a batch that has just ended."""
        if ended is not None:
            with contextlib.suppress(OSError):  # what stays behind is removed at the next start
                await asyncio.to_thread(tidy, self.folder, ended.id, copied=ended.copied)


class BatchWork:
    """The work on one batch; `step` is called until it says that nothing is left, and `close` at last."""

    def __init__(
        self, place: Workplace, batch: Batch, given: BatchInput, results: BatchResults, pins: Mapping[str, str]
    ) -> None:
        self._place = place
        self._batch = batch
        self._input, self._results = given, results
        self._plans = PinnedPlans(place.store.models, pins)
        self._chunk_rows = FIRST_CHUNK_ROWS
        self._next: list[Line] = []
        """Lines that were read and are not answered."""
        self._checked, self._seen, self._errors = 0, set[bytes](), list[BatchError]()
        """How many lines, the digests of their custom_ids, and what is wrong with them."""
        self._pins, self._unknown = dict[str, str](), set[bytes]()
        """For each model that they name the id of its version; of names that mean none, which may be long, digests."""
        self._counted_at = 0.0
        self._places = asyncio.Semaphore(2 * place.predictions.threads)
        """For requests under way: enough to keep the predictor busy, and no more than a batch of rows has, or about."""

    @classmethod
    async def open(cls, place: Workplace, batch: Batch) -> BatchWork:
        """Open a batch's files, and go to the first row that is not done; raises OSError."""
        return await asyncio.to_thread(cls._open, place, batch, await place.store.batches.pins(batch.id))

    @classmethod
    def _open(cls, place: Workplace, batch: Batch, pins: Mapping[str, str]) -> BatchWork:
        given = _input(place, batch)
        try:
            results = BatchResults(place.folder / batch.id)
            given.skip(results.done)
        except BaseException:
            given.close()
            raise
        return cls(place, batch, given, results, pins)

    def close(self) -> None:
        """Close the files."""
        self._input.close()
        self._results.close()

    async def step(self) -> bool:
        """Do some of the work; return whether the batch has ended. Raises ReflexError 503 for what may pass."""
        status = await self._place.store.batches.status(self._batch.id)
        if status == "cancelling":
            await self._end("cancelled")
        elif status not in ("queued", "in_progress", "finalizing"):  # it is gone, or has ended
            return True
        elif status != "finalizing" and self._place.clock() >= self._batch.expires_at:
            await self._end("expired")
        elif status == "queued":
            return await self._begin()
        else:
            return await self._answer_some()
        return True

    async def fail(self, error: BatchError) -> None:
        """End the batch with what is done, because it cannot go on."""
        await self._end("failed", [error])

    # --- before the first row ---------------------------------------------------------------------------------------

    async def _begin(self) -> bool:
        """Start a queued batch; one of a file only after all of its lines are checked. Return whether it has ended."""
        batch, store = self._batch, self._place.store
        if batch.kind == "reflex":
            await store.batches.begin(batch.id, batch.total)
            return False
        lines = await asyncio.to_thread(self._input.take, CHECKED_LINES, CHUNK_BYTES)
        self._checked += len(lines)
        most_names = self._place.predictions.questions.most_models
        errors, names = await asyncio.to_thread(check_lines, lines, self._seen, most_names)
        self._errors += errors
        most = self._place.limits.lines
        if self._checked > most:
            self._errors.insert(0, BatchError("too_many_tasks", f"A batch can have {most} requests at most"))
        elif lines and len(self._errors) < ERRORS_TOLD:
            if (line := await self._pin(names)) is None:
                return False
            self._errors.append(BatchError(TooManyModels.code, TooManyModels().message, line, "body"))
        elif not self._checked:
            self._errors.append(BatchError("empty_file", "The input file holds no request"))
        if self._errors:
            await self._end("failed", self._errors[:ERRORS_TOLD])
            return True
        await store.batches.begin(batch.id, self._checked, self._pins)
        self._plans = PinnedPlans(store.models, self._pins)
        self._seen.clear()
        self._unknown.clear()
        self._input.close()
        self._input = await asyncio.to_thread(_input, self._place, batch)
        return False

    async def _pin(self, names: Mapping[str, int]) -> int | None:
        """Keep what these names mean now; return the line of the first that is one too many."""
        for name, line in names.items():
            if name in self._pins or (known := digest(name)) in self._unknown:
                continue
            if len(self._pins) + len(self._unknown) >= self._place.limits.models:
                return line
            try:
                version = await self._place.predictions.plans.resolve(self._batch.tenant_id, name)
                self._pins[name] = version.id
            except ModelNotReady:
                self._pins[name] = ""
            except ModelNotFound:
                self._unknown.add(known)
        return None

    # --- the rows ---------------------------------------------------------------------------------------------------

    async def _answer_some(self) -> bool:
        """Answer some rows and keep what came of them, or end the batch; return whether it has ended."""
        if not self._next:
            self._next = await asyncio.to_thread(self._input.take, self._chunk_rows, CHUNK_BYTES)
        if not self._next:
            await self._end("completed")
            return True
        answer = self._answer_rows if self._batch.kind == "reflex" else self._answer_requests
        answers = await answer(self._next[: self._chunk_rows])
        left = self._place.limits.output_bytes - self._results.bytes
        fitting = sum(size <= left for size in accumulate(len(answer) + 1 for answer in answers))
        good, bad = self._results.completed, self._results.failed
        await asyncio.to_thread(self._results.append, answers[:fitting])
        self._next = self._next[fitting:]
        observability.BATCH_ROWS.labels("completed").inc(self._results.completed - good)
        observability.BATCH_ROWS.labels("failed").inc(self._results.failed - bad)
        if fitting < len(answers):
            await self._end("failed", [self._too_large(self._next[0].number)])
            return True
        large = sum(map(len, answers)) > CHUNK_BYTES
        self._chunk_rows = max(1, len(answers) // 2) if large else min(CHUNK_ROWS, self._chunk_rows * 2)
        now = asyncio.get_running_loop().time()
        if now - self._counted_at >= COUNT_EVERY_SECONDS:
            self._counted_at = now
            await self._place.store.batches.count(self._batch.id, self._results.completed, self._results.failed)
        return False

    def _too_large(self, line: int) -> BatchError:
        most = self._place.limits.output_bytes
        said = f"The answers would have more than {most} bytes ([batches] output_bytes): those before this one are kept"
        if self._batch.kind == "reflex":
            return BatchError("output_too_large", said, param=f"requests[{line - 1}]")
        return BatchError("output_too_large", said, line)

    async def _answer_rows(self, lines: Sequence[Line]) -> list[bytes]:
        """Return the answers to as many of these rows as make a chunk, at least one."""
        batch, options = self._batch, self._batch.options
        shape = shape_of(options["fields"], options["long_text"])
        asked: list[Asked | ReflexError] = []
        ids, values = list[bytes](), 0
        for line in lines:
            row = _decode_row(line.content)
            given: Asked | ReflexError | None = row.problem()
            if given is None:
                try:
                    given = Asked(row.text, await self._plans.find(batch.tenant_id, tuple(row.model), shape))
                    values += given.plan.values
                except ModelNotFound as error:  # it was deleted meanwhile
                    given = error
            if asked and values > CHUNK_VALUES:
                break
            asked.append(given)
            ids.append(encode(row.id))
        return await self._place.predictions.predict_waiting_rows(batch.key_id, ids, asked, shape)

    async def _answer_requests(self, lines: Sequence[Line]) -> list[bytes]:
        """Return the answers to as many of these requests as make a chunk, at least one.

        They are asked at once: one request alone would not keep the predictor's threads busy.
        """
        asked: list[tuple[GivenLine, Question | ReflexError]] = []
        values = 0
        for line in lines:
            request = read_line(line)
            given = await self._question(request)
            values += given.values if isinstance(given, Question) else 0
            if asked and values > CHUNK_VALUES:
                break
            asked.append((request, given))
            await asyncio.sleep(0)  # a request may be megabytes: others need not wait for all
        answering = (self._answer_request(request, given) for request, given in asked)
        answers = await asyncio.gather(*answering, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return [answer for answer in answers if isinstance(answer, bytes)]

    async def _question(self, request: GivenLine) -> Question | ReflexError:
        questions, body = self._place.predictions.questions, memoryview(request.body)
        try:
            return await questions.read(body, self._batch.tenant_id, self._plans)
        except ReflexError as error:
            return error

    async def _answer_request(self, request: GivenLine, asked: Question | ReflexError) -> bytes:
        status = b"200"
        try:
            if isinstance(asked, ReflexError):
                raise asked
            async with self._places:
                body = await self._place.predictions.predict_waiting(self._batch.key_id, asked)
        except ReflexError as error:
            if error.status == UNAVAILABLE:
                raise
            status, body = b"%d" % error.status, encode(error.body())
        return b"".join(
            (
                b'{"id":',
                encode(new_id("batch_req_")),
                b',"custom_id":',
                encode(request.custom_id),
                b',"response":{"status_code":',
                status,
                b',"request_id":"req_%b","body":' % secrets.token_hex(12).encode(),
                body,
                b'},"error":null}',
            )
        )

    # --- the end ----------------------------------------------------------------------------------------------------

    async def _end(self, end: End, errors: Sequence[BatchError] | None = None) -> None:
        """End the batch; one of a file leaves its answers in a file, and what failed in another."""
        batch, store, results = self._batch, self._place.store, self._results
        output = error = None
        if batch.kind == "openai":
            if end == "completed":
                await store.batches.finalize(batch.id)
            if results.done:
                output, error = await self._make_files()
        ended = await store.batches.end(
            batch.id,
            end,
            completed=results.completed,
            failed=results.failed,
            output_file_id=output,
            error_file_id=error,
            errors=errors,
        )
        await self._place.tidy(ended)

    async def _make_files(self) -> tuple[str | None, str | None]:
        """Return the ids of the files with the answers and with what failed; None where there is nothing of a kind."""
        folder, blobs = self._place.folder / self._batch.id, self._place.files.blobs
        output, errors = blobs.new(), blobs.new()
        try:
            await asyncio.to_thread(split_results, folder, output, errors)
            return await self._keep(output, "output"), await self._keep(errors, "errors")
        finally:
            output.discard()
            errors.discard()

    async def _keep(self, incoming: Incoming, what: str) -> str | None:
        if not incoming.bytes:
            return None
        batch, place = self._batch, self._place
        name = f"{batch.id}_{what}.jsonl"
        # An end that was cut off right here has made it already, of as many rows or of fewer.
        if made := await place.store.files.named(batch.tenant_id, name, "batch_output"):
            if made.sha256 == incoming.sha256 and not made.expired:
                return made.id
            await place.files.withdraw(made)
        expires_at = int(place.clock()) + (batch.output_seconds or OUTPUT_SECONDS)
        file = await place.files.keep(batch.tenant_id, name, "batch_output", incoming, expires_at)
        return file.id


def _input(place: Workplace, batch: Batch) -> BatchInput:
    return BatchInput(place.folder / batch.id, place.predictions.questions.most_bytes + CHUNK_BYTES)
