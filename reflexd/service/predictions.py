"""Decides how predict requests and rows of batches are answered: limits and back-pressure for those that wait."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, TypeVar

import structlog
from msgspec import Struct

from reflexd import observability
from reflexd.config import Limits
from reflexd.engine.backbone import BackboneMissing
from reflexd.engine.panel import Scores
from reflexd.engine.predictor import Outcome, Predictor, Row
from reflexd.errors import BodyTooLarge, ModelNotFound, ModelUnusable, RateLimited, ReflexError, Unavailable
from reflexd.registry.artifacts import DamagedArtifact
from reflexd.schemas.reflex import BatchRequest
from reflexd.service.decoding import decode
from reflexd.service.plans import Asked, Plans
from reflexd.service.questions import Question, Questions, enveloped, row_results
from reflexd.service.rendering import Shape, encode
from reflexd.store.keys import Key
from reflexd.store.store import Store

BULK_TEXTS = 16
"""A request for more texts than this gives way to smaller ones."""

log = structlog.get_logger(__name__)
T = TypeVar("T")


class PredictLimits(Struct, frozen=True, kw_only=True):
    """How much may be classified or waiting at once, in all and for one key; and what one request may hold."""

    queue: int
    concurrent_per_key: int
    batch_bytes: int
    content: Limits


class PredictionService:
    """Answers predict requests; touches no database unless a name is unknown or means a default Reflex.

    Rows of batches that wait on disk are answered too. Nobody waits for them, so they take no place among the requests
    and give way to all of them.
    """

    def __init__(self, store: Store, limits: PredictLimits) -> None:
        self._store = store
        self._limits = limits
        self._waiting: Counter[str] = Counter()
        self._in_flight = 0
        self.questions = Questions(limits.content)
        self.plans = Plans(store)
        self.predictor: Predictor | None = None
        """Set once the encoder is loaded; until then requests are answered 503."""
        observability.PREDICT_WAITING.set_function(lambda: self._in_flight)

    @property
    def threads(self) -> int:
        """How many texts are read at once."""
        return self.predictor.threads if self.predictor is not None else 1

    async def predict(self, key: Key, body: bytes) -> bytes:
        """Classify texts with models, each with each, and return the answer as JSON: a Prediction, or Predictions.

        Raises the contract's errors, naming the field.
        """
        question = await self.questions.read(body, key.tenant_id, self.plans)
        bulk = len(question.asked) > BULK_TEXTS
        with self._place(key):
            return await self._classify(key.id, question.asked, question.shape, question.answer, bulk=bulk)

    async def predict_batch(self, key: Key, body: bytes) -> bytes:
        """Classify rows that name a text and its models each, and return BatchResults as JSON.

        What is wrong with one row is told in its place; a model that is unknown or not ready refuses the whole request.
        """
        if len(body) > self._limits.batch_bytes:
            raise BodyTooLarge(f"A batch can have {self._limits.batch_bytes} bytes at most: send it in parts")
        request = decode(body, BatchRequest)
        asked, shape = await self.questions.read_rows(request, key.tenant_id, self.plans)
        ids = [encode(row.id) for row in request.requests]

        def conclude(found: Sequence[Scores | ReflexError], milliseconds: float) -> bytes:
            results = row_results(ids, asked, found, milliseconds)
            return enveloped(b"reflex.batch.results", b"results", results, milliseconds)

        with self._place(key):
            return await self._classify(key.id, _good(asked), shape, conclude, bulk=True)

    async def predict_waiting(self, key_id: str, question: Question) -> bytes:
        """Answer a predict request that waited on disk, in the turns of a key."""
        return await self._classify(key_id, question.asked, question.shape, question.answer, bulk=True)

    async def predict_waiting_rows(
        self, key_id: str, ids: Sequence[bytes], asked: Sequence[Asked | ReflexError], shape: Shape
    ) -> list[bytes]:
        """Return a BatchResult, as one line of JSON, for each row of a batch that waited on disk.

        `ids` are the rows' as JSON. A model that cannot be used or is gone is an error of the rows that ask it.
        """

        def conclude(found: Sequence[Scores | ReflexError], milliseconds: float) -> list[bytes]:
            return row_results(ids, asked, found, milliseconds)

        with contextlib.suppress(ModelNotFound, ModelUnusable):
            return await self._classify(key_id, _good(asked), shape, conclude, bulk=True)
        # One of the models fails them all: each list of models by itself then.
        results: dict[int, bytes] = {}
        for models in {row.plan.ids if isinstance(row, Asked) else () for row in asked}:
            places = [n for n, row in enumerate(asked) if models == (row.plan.ids if isinstance(row, Asked) else ())]
            part, part_ids = [asked[n] for n in places], [ids[n] for n in places]

            def conclude_part(
                found: Sequence[Scores | ReflexError],
                milliseconds: float,
                part: Sequence[Asked | ReflexError] = part,
                part_ids: Sequence[bytes] = part_ids,
            ) -> list[bytes]:
                return row_results(part_ids, part, found, milliseconds)

            try:
                made = await self._classify(key_id, _good(part), shape, conclude_part, bulk=True)
            except (ModelNotFound, ModelUnusable) as error:
                made = row_results(part_ids, [error] * len(part), [], 0.0)
            results.update(zip(places, made, strict=True))
        return [results[number] for number in range(len(asked))]

    def forget(self, model_ids: Sequence[str]) -> None:
        """Let go of deleted models."""
        if self.predictor is not None:
            self.predictor.residents.forget(model_ids)

    async def _classify(
        self,
        key_id: str,
        rows: Sequence[Asked],
        shape: Shape,
        conclude: Callable[[Sequence[Scores | ReflexError], float], T],
        *,
        bulk: bool,
    ) -> T:
        """Return what `conclude` makes of what came of each row, and of the milliseconds that computing took."""
        predictor = self.predictor
        if predictor is None:
            raise Unavailable("The sentence encoder is still being loaded: try again in a moment")

        def concluded(outcome: Outcome) -> T:
            return conclude(outcome.rows, outcome.computed * 1e3)

        given: list[Row] = [(row.text, row.plan.ids) for row in rows]
        asked = {model for plan in {id(row.plan): row.plan for row in rows}.values() for model in plan.ids}
        try:
            return await predictor.classify(given, concluded, key=key_id, bulk=bulk, chunk=shape.windowed)
        except DamagedArtifact as error:
            self._explain(error, sorted(asked))
        finally:  # what was deleted meanwhile may have been read again
            if gone := [model for model in asked if model not in self._store.models]:
                self.forget(gone)

    def _explain(self, error: DamagedArtifact, models: Sequence[str]) -> NoReturn:
        if any(model not in self._store.models for model in models):
            raise ModelNotFound(param="model") from error  # it was deleted while this request waited
        log.error("model unusable", models=models, why=str(error))
        if isinstance(error, BackboneMissing):
            raise ModelUnusable(f"This model cannot be used: {error}") from error
        raise ModelUnusable from error

    @contextmanager
    def _place(self, key: Key) -> Iterator[None]:
        if self._in_flight >= self._limits.queue:
            observability.PREDICT_REFUSED.labels("all").inc()
            raise RateLimited("The daemon has as many predictions waiting as it holds: try again in a moment")
        if self._waiting[key.id] >= self._limits.concurrent_per_key:
            observability.PREDICT_REFUSED.labels("key").inc()
            raise RateLimited("This API key has as many predictions waiting as it may: try again in a moment")
        self._in_flight += 1
        self._waiting[key.id] += 1
        try:
            yield
        finally:
            self._in_flight -= 1
            self._waiting[key.id] -= 1
            if not self._waiting[key.id]:
                del self._waiting[key.id]


def _good(asked: Sequence[Asked | ReflexError]) -> list[Asked]:
    return [row for row in asked if isinstance(row, Asked)]
