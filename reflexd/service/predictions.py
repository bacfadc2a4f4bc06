"""Decides how a predict request is answered: names resolved in memory, limits, back-pressure, the union answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn
from weakref import WeakValueDictionary

import structlog
from msgspec import UNSET, Struct

from reflexd.config import Limits
from reflexd.engine.backbone import BackboneMissing
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
from reflexd.schemas.reflex import (
    BatchRequest,
    BatchResult,
    BatchResults,
    ClassScore,
    GivenRow,
    LongText,
    Prediction,
    Predictions,
    PredictRequest,
)
from reflexd.service.decoding import decode, decode_field
from reflexd.store.keys import Key
from reflexd.store.models import ModelVersion
from reflexd.store.store import Store

BYTES_PER_CHAR = 12
"""A character outside the basic plane can be written as two escapes of six bytes."""
BYTES_PER_NAME = 1_000
PLAIN_VALUES = 8
PER_LABEL = ("classes", "all_scores", "scores", "labels")
SLICE_VALUES = 20_000
"""Values after which making an answer lets others have their turn: about 10 ms."""

log = structlog.get_logger(__name__)


class PredictLimits(Struct, frozen=True, kw_only=True):
    """How much may be classified or waiting at once, in all and for one key; and what one request may hold."""

    queue: int
    concurrent_per_key: int
    batch_bytes: int
    content: Limits


class Asked(Struct, frozen=True):
    """One text and the versions to ask about it."""

    text: str
    versions: list[ModelVersion]


class Shape(Struct, frozen=True):
    """What the predictions of an answer hold."""

    fields: frozenset[str] | None
    indexed: bool = False
    windowed: bool = False

    def wants(self, field: str) -> bool:
        """Whether the caller gets this field."""
        return self.fields is None or field in self.fields

    def size(self, version: ModelVersion) -> int:
        """Return how many values a prediction of this model holds, roughly: some, and those of each label."""
        return PLAIN_VALUES + len(version.labels) * sum(map(self.wants, PER_LABEL))


class PredictionService:
    """Answers predict requests; touches no database unless a name is unknown or means a default Reflex."""

    def __init__(self, store: Store, limits: PredictLimits) -> None:
        self._store = store
        self._limits = limits
        self._waiting: Counter[str] = Counter()
        self._in_flight = 0
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self.predictor: Predictor | None = None
        """Set once the encoder is loaded; until then requests are answered 503."""

    async def predict(self, key: Key, body: bytes) -> Prediction | Predictions:
        """Classify texts with models: each with each; raises the contract's errors, naming the field."""
        limits = self._limits.content
        if len(body) > BYTES_PER_CHAR * limits.text_chars + limits.models * BYTES_PER_NAME:
            raise BodyTooLarge(f"A text can have {limits.text_chars} characters at most", param="text")
        request = decode(body, PredictRequest)
        if (request.model is UNSET) == (request.models is UNSET):
            raise InvalidRequest("Give either model or models", param="model")
        if (request.text is UNSET) == (request.texts is UNSET):
            raise InvalidRequest("Give either text or texts", param="text")
        names = [request.model] if isinstance(request.model, str) else request.models
        texts = [request.text] if isinstance(request.text, str) else request.texts
        assert isinstance(names, list)
        assert isinstance(texts, list)
        _check_count(names, limits.models, "models")
        _check_count(texts, limits.texts, "texts")
        places = ["text"] if request.texts is UNSET else [f"texts[{number}]" for number in range(len(texts))]
        for text, place in zip(texts, places, strict=True):
            if error := self._text_error(text):
                raise _at(error, place)
        versions = [await self._resolve(key, name) for name in names]
        shape = _shape(request.fields, request.long_text, indexed=request.texts is not UNSET)
        scores, milliseconds = await self._classify(key, [Asked(t, versions) for t in texts], shape)
        answers: list[Prediction] = []
        maker = Maker(shape, milliseconds)
        for index, found in enumerate(scores):
            if isinstance(found, ReflexError):
                raise _at(found, places[index])
            answers += await maker.predictions(versions, found, index)
        if request.models is UNSET and request.texts is UNSET:
            return answers[0]
        return Predictions(predictions=answers, inference_time_ms=round(milliseconds, 3))

    async def predict_batch(self, key: Key, body: bytes) -> BatchResults:
        """Classify rows that name a text and its models each; what is wrong with one row is told in its place.

        A model that is unknown or not ready refuses the whole request.
        """
        if len(body) > self._limits.batch_bytes:
            raise BodyTooLarge(f"A batch can have {self._limits.batch_bytes} bytes at most: send it in parts")
        request = decode(body, BatchRequest)
        _check_count(request.requests, self._limits.content.texts, "requests")
        asked: list[Asked | ReflexError] = []
        known: dict[str, ModelVersion] = {}
        for number, given_row in enumerate(request.requests):
            try:
                names = _names(given_row)
                _check_count(names, self._limits.content.models, "model")
            except InvalidRequest as error:
                asked.append(error)
                continue
            for name in names:  # before the text is looked at: an unknown model refuses the whole request
                if name not in known:
                    known[name] = await self._resolve(key, name, f"requests[{number}].model")
            try:
                asked.append(Asked(self._text(given_row), [known[name] for name in names]))
            except InvalidRequest as error:
                asked.append(error)
        good = [row for row in asked if isinstance(row, Asked)]
        shape = _shape(request.fields, request.long_text)
        scores, milliseconds = await self._classify(key, good, shape)
        found, maker = iter(scores), Maker(shape, milliseconds)
        results = []
        for row_id, given in zip((row.id for row in request.requests), asked, strict=True):
            outcome = next(found) if isinstance(given, Asked) else given
            if isinstance(given, Asked) and not isinstance(outcome, ReflexError):
                answers = await maker.predictions(given.versions, outcome)
                results.append(BatchResult(id=row_id, predictions=answers))
            elif isinstance(outcome, ReflexError):
                results.append(BatchResult(id=row_id, error=outcome.body()["error"]))
        return BatchResults(results=results, inference_time_ms=round(milliseconds, 3))

    def forget(self, model_ids: Sequence[str]) -> None:
        """Let go of deleted models."""
        if self.predictor is not None:
            self.predictor.forget(model_ids)

    def _text(self, given: GivenRow) -> str:
        """Return the text of a row of a batch; raises InvalidRequest for what is none."""
        if given.text is UNSET:
            raise InvalidRequest("The row has no text", param="text")
        text: str = decode_field("text", given.text, str)
        if error := self._text_error(text):
            raise error
        return text

    def _text_error(self, text: str) -> InvalidRequest | None:
        longest = self._limits.content.text_chars
        problem = text_problem(text, longest)
        if problem is None:
            return None
        return (ContextLengthExceeded if len(text) > longest else InvalidRequest)(problem, param="text")

    async def _classify(
        self, key: Key, rows: Sequence[Asked], shape: Shape
    ) -> tuple[list[list[Scores] | ReflexError], float]:
        """Return what came of each row, and the milliseconds that computing took."""
        held, most = sum(shape.size(v) for row in rows for v in row.versions), self._limits.content.answer_values
        if held > most:
            raise InvalidRequest(
                f"The answer would hold {held} values; at most {most} are allowed: send it in parts, or ask for less "
                "of each prediction by `fields`"
            )
        predictor = self.predictor
        if predictor is None:
            raise Unavailable("The sentence encoder is still being loaded: try again in a moment")
        versions = [version for row in rows for version in row.versions]
        with self._place(key):
            try:
                found = await predictor.classify(
                    [(row.text, [version.id for version in row.versions]) for row in rows],
                    turn=self._turn_of(key),
                    chunk=shape.windowed,
                )
            except DamagedArtifact as error:
                self._explain(error, versions)
        self.forget([version.id for version in versions if version.id not in self._store.models])
        return found

    def _explain(self, error: DamagedArtifact, versions: Sequence[ModelVersion]) -> NoReturn:
        if any(version.id not in self._store.models for version in versions):
            raise ModelNotFound(param="model") from error  # it was deleted while this request waited
        log.error("model unusable", models=sorted({v.id for v in versions}), why=str(error))
        if isinstance(error, BackboneMissing):
            raise ModelUnusable(f"This model cannot be used: {error}") from error
        raise ModelUnusable from error

    async def _resolve(self, key: Key, name: str, param: str = "model") -> ModelVersion:
        version = await self._store.resolve(key.tenant_id, name)
        if version is None:
            raise ModelNotFound(param=param)
        if version == "waiting":
            raise ModelNotReady(param=param)
        return version

    def _turn_of(self, key: Key) -> asyncio.Semaphore:
        """Return what a key's requests share: however many there are, they take each thread once at a time.

        So another key's request waits for one text of theirs, and not for all of them.
        """
        assert self.predictor is not None
        return self._turns.setdefault(key.id, asyncio.Semaphore(self.predictor.threads))

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


def _check_count(given: Sequence[object], most: int, param: str) -> None:
    if not 1 <= len(given) <= most:
        raise InvalidRequest(f"{param} must hold 1 to {most} entries, and holds {len(given)}", param=param)


def _names(given: GivenRow) -> list[str]:
    if given.model is UNSET:
        raise InvalidRequest("The row has no model", param="model")
    model: str | list[str] = decode_field("model", given.model, str | list[str])
    return [model] if isinstance(model, str) else model


def _at(error: ReflexError, place: str) -> ReflexError:
    """Return the error of a text with the field that the text stood in."""
    return type(error)(error.message, param=place) if place != error.param else error


def _shape(fields: Sequence[str] | None, long_text: LongText, *, indexed: bool = False) -> Shape:
    return Shape(frozenset(fields) if fields else None, indexed, long_text == "chunk")


class Maker:
    """Makes the predictions of one answer, and lets others have their turn between slices of them."""

    def __init__(self, shape: Shape, milliseconds: float) -> None:
        self._shape = shape
        self._milliseconds = milliseconds
        self._made = 0

    async def predictions(
        self, versions: Sequence[ModelVersion], found: Sequence[Scores], index: int | None = None
    ) -> list[Prediction]:
        """Return one text's predictions."""
        answers = []
        for version, scores in zip(versions, found, strict=True):
            answers.append(_answer(version, scores, self._milliseconds, self._shape, index))
            self._made += self._shape.size(version)
            if self._made > SLICE_VALUES:
                self._made = 0
                await asyncio.sleep(0)
        return answers


def _answer(
    version: ModelVersion, scores: Scores, milliseconds: float, shape: Shape, index: int | None = None
) -> Prediction:
    chosen = [number for number, selected in enumerate(scores.selected) if selected]
    best = max(chosen, key=scores.probabilities.__getitem__) if chosen else None
    answer = Prediction()
    if shape.wants("model"):
        answer.model = version.name
    if shape.wants("version"):
        answer.version = version.version
    if shape.wants("label"):
        answer.label = None if best is None else scores.labels[best]
    if shape.wants("confidence"):
        answer.confidence = None if best is None else scores.probabilities[best]
    if shape.wants("mode"):
        answer.mode = scores.mode
    if shape.wants("classes"):
        answer.classes = [*map(ClassScore, scores.labels, scores.probabilities, scores.selected)]
    if shape.wants("all_scores"):
        answer.all_scores = scores.probabilities
    if shape.wants("scores"):
        answer.scores = dict(zip(scores.labels, scores.probabilities, strict=True))
    if shape.wants("labels"):
        answer.labels = scores.labels
    if shape.wants("in_domain"):
        answer.in_domain = scores.in_domain
    if shape.wants("inference_time_ms"):
        answer.inference_time_ms = round(milliseconds, 3)
    if shape.indexed and shape.wants("index"):
        answer.index = index if index is not None else UNSET
    if shape.windowed and shape.wants("windows"):
        answer.windows = scores.windows
    return answer
