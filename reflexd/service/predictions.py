"""Decides how a predict request is answered: names resolved in memory, back-pressure, the union answer object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
from msgspec import UNSET, Struct

from reflexd.engine.dataset import text_problem
from reflexd.engine.predictor import Predictor, Scores
from reflexd.errors import (
    BodyTooLarge,
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    ModelUnusable,
    RateLimited,
    ReflexError,
    Unavailable,
)
from reflexd.registry.artifacts import DamagedArtifact
from reflexd.schemas.reflex import ClassScore, Prediction, Predictions, PredictRequest
from reflexd.service.decoding import decode
from reflexd.store.keys import Key
from reflexd.store.models import ModelVersion
from reflexd.store.store import Store

MAX_MODELS = 1_000
BYTES_PER_CHAR = 12
"""A character outside the basic plane can be written as two escapes of six bytes."""

log = structlog.get_logger(__name__)


class PredictLimits(Struct, frozen=True, kw_only=True):
    """How much may be classified or waiting at once, in all and for one key; and how long a text may be."""

    queue: int
    concurrent_per_key: int
    text_chars: int


class PredictionService:
    """Answers predict requests; touches no database unless a name is unknown."""

    def __init__(self, store: Store, limits: PredictLimits) -> None:
        self._store = store
        self._limits = limits
        self._waiting: Counter[str] = Counter()
        self._in_flight = 0
        self.predictor: Predictor | None = None
        """Set once the encoder is loaded; until then requests are answered 503."""

    async def predict(self, key: Key, body: bytes) -> Prediction | Predictions:
        """Classify one text with one model or with several; raises the contract's errors."""
        if len(body) > BYTES_PER_CHAR * self._limits.text_chars + MAX_MODELS * 1_000:
            raise BodyTooLarge(f"The text can have {self._limits.text_chars} characters at most", param="text")
        request = decode(body, PredictRequest)
        if (request.model is UNSET) == (request.models is UNSET):
            raise InvalidRequest("Give either model or models", param="model")
        if problem := text_problem(request.text, self._limits.text_chars):
            too_long = len(request.text) > self._limits.text_chars
            raise (ContextLengthExceeded if too_long else InvalidRequest)(problem, param="text")
        names = [request.model] if isinstance(request.model, str) else request.models
        assert isinstance(names, list)
        if not 1 <= len(names) <= MAX_MODELS:
            raise InvalidRequest(f"models must name 1 to {MAX_MODELS} models", param="models")
        versions = [await self._resolve(key, name) for name in names]
        predictor = self.predictor
        if predictor is None:
            raise Unavailable("The sentence encoder is still being loaded: try again in a moment")
        with self._place(key):
            try:
                (scores,), milliseconds = await predictor.classify([(request.text, [v.id for v in versions])])
            except DamagedArtifact as error:
                if any(version.id not in self._store.models for version in versions):
                    raise ModelNotFound(param="model") from error  # it was deleted while this request waited
                log.error("model unusable", models=[v.id for v in versions], why=str(error))
                raise ModelUnusable from error
        if isinstance(scores, ReflexError):
            raise scores
        self.forget([version.id for version in versions if version.id not in self._store.models])
        answers = [_answer(*pair, milliseconds) for pair in zip(versions, scores, strict=True)]
        if request.models is UNSET:
            return answers[0]
        return Predictions(predictions=answers, inference_time_ms=round(milliseconds, 3))

    def forget(self, model_ids: Sequence[str]) -> None:
        """Let go of deleted models."""
        if self.predictor is not None:
            self.predictor.forget(model_ids)

    async def _resolve(self, key: Key, name: str) -> ModelVersion:
        version = self._store.models.resolve(key.tenant_id, name)
        if version is None:
            if await self._store.jobs.waiting(key.tenant_id, name):
                raise ModelNotReady(param="model")
            raise ModelNotFound(param="model")
        return version

    @contextmanager
    def _place(self, key: Key) -> Iterator[None]:
        if self._in_flight >= self._limits.queue:
            raise RateLimited("The daemon has as many predictions waiting as it holds: try again in a moment")
        if self._waiting[key.id] >= self._limits.concurrent_per_key:
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


def _answer(version: ModelVersion, scores: Scores, milliseconds: float) -> Prediction:
    best = max(range(len(scores.labels)), key=scores.probabilities.__getitem__)
    return Prediction(
        model=version.name,
        version=version.version,
        label=scores.labels[best],
        confidence=scores.probabilities[best],
        mode=scores.mode,
        classes=[
            ClassScore(label, score, number == best)
            for number, (label, score) in enumerate(zip(scores.labels, scores.probabilities, strict=True))
        ],
        all_scores=scores.probabilities,
        scores=dict(zip(scores.labels, scores.probabilities, strict=True)),
        labels=scores.labels,
        inference_time_ms=round(milliseconds, 3),
    )
