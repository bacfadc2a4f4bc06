"""Decides how a predict request is answered: names resolved in memory, limits, back-pressure, the union answer."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import NoReturn, TypeVar

import structlog
from msgspec import UNSET, Struct

from reflexd import observability
from reflexd.config import Limits
from reflexd.engine.backbone import BackboneMissing
from reflexd.engine.dataset import text_problem
from reflexd.engine.panel import Scores
from reflexd.engine.predictor import Outcome, Predictor, Row
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
from reflexd.schemas.reflex import BatchRequest, GivenRow, LongText, PredictRequest
from reflexd.service.decoding import decode, decode_field
from reflexd.service.rendering import Renderer, Shape, encode
from reflexd.store.keys import Key
from reflexd.store.models import ModelVersion
from reflexd.store.store import Store

BYTES_PER_CHAR = 12
"""A character outside the basic plane can be written as two escapes of six bytes."""
BYTES_PER_NAME = 1_000
BULK_TEXTS = 16
"""A request for more texts than this gives way to smaller ones."""
PREPARED_VALUES = 200_000
"""Values of the answers that stand prepared: some 20 MB."""

log = structlog.get_logger(__name__)
T = TypeVar("T")


class PredictLimits(Struct, frozen=True, kw_only=True):
    """How much may be classified or waiting at once, in all and for one key; and what one request may hold."""

    queue: int
    concurrent_per_key: int
    batch_bytes: int
    content: Limits


class Plan:
    """What a list of names means at present, and how its answers are made."""

    def __init__(self, asked: Sequence[ModelVersion], shape: Shape) -> None:
        """`asked` are the models in the order of the answer; each is scored once, whatever the order."""
        distinct = sorted({version.id: version for version in asked}.values(), key=lambda version: version.id)
        self.ids = tuple(version.id for version in distinct)
        self.values = sum(map(shape.size, asked))
        """How many values a text's predictions hold, roughly."""
        self._asked, self._distinct, self._shape = asked, distinct, shape

    @cached_property
    def renderer(self) -> Renderer:
        """What makes the answers; made in the thread that first needs it."""
        place = {model: number for number, model in enumerate(self.ids)}
        return Renderer(self._distinct, [place[version.id] for version in self._asked], self._shape)


class Asked(Struct, frozen=True):
    """One text and the models to ask about it."""

    text: str
    plan: Plan


class PredictionService:
    """Answers predict requests; touches no database unless a name is unknown or means a default Reflex."""

    def __init__(self, store: Store, limits: PredictLimits) -> None:
        self._store = store
        self._limits = limits
        self._waiting: Counter[str] = Counter()
        self._in_flight = 0
        self._plans: OrderedDict[tuple[str, tuple[str, ...], Shape], Plan] = OrderedDict()
        self._prepared = 0
        self._generation = store.models.generation
        self.predictor: Predictor | None = None
        """Set once the encoder is loaded; until then requests are answered 503."""
        observability.PREDICT_WAITING.set_function(lambda: self._in_flight)

    async def predict(self, key: Key, body: bytes) -> bytes:
        """Classify texts with models, each with each, and return the answer as JSON: a Prediction, or Predictions.

        Raises the contract's errors, naming the field.
        """
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
        several = request.texts is not UNSET
        for number, text in enumerate(texts):
            if error := self._text_error(text):
                raise _at(error, f"texts[{number}]" if several else "text")
        shape = _shape(request.fields, request.long_text, indexed=several)
        plan = await self._plan(key, tuple(names), shape)
        self._check_values(plan.values * len(texts))

        def conclude(found: Sequence[Scores | ReflexError], milliseconds: float) -> bytes:
            answers = []
            for index, scores in enumerate(found):
                if isinstance(scores, ReflexError):
                    raise _at(scores, f"texts[{index}]" if several else "text")
                answers.append(plan.renderer.predictions(scores, milliseconds, index))
            if request.models is UNSET and not several:
                return answers[0]
            return _enveloped(b"reflex.predictions", b"predictions", answers, milliseconds)

        asked = [Asked(text, plan) for text in texts]
        return await self._classify(key, asked, shape, conclude, bulk=len(texts) > BULK_TEXTS)

    async def predict_batch(self, key: Key, body: bytes) -> bytes:
        """Classify rows that name a text and its models each, and return BatchResults as JSON.

        What is wrong with one row is told in its place; a model that is unknown or not ready refuses the whole request.
        """
        if len(body) > self._limits.batch_bytes:
            raise BodyTooLarge(f"A batch can have {self._limits.batch_bytes} bytes at most: send it in parts")
        request = decode(body, BatchRequest)
        _check_count(request.requests, self._limits.content.texts, "requests")
        shape = _shape(request.fields, request.long_text)
        asked: list[Asked | ReflexError] = []
        plans: dict[tuple[str, ...], Plan] = {}
        held = 0
        for number, given_row in enumerate(request.requests):
            try:
                names = _names(given_row)
                _check_count(names, self._limits.content.models, "model")
            except InvalidRequest as error:
                asked.append(error)
                continue
            # Before the text is looked at: an unknown model refuses the whole request.
            if (plan := plans.get(tuple(names))) is None:
                plan = plans[tuple(names)] = await self._plan(key, tuple(names), shape, f"requests[{number}].model")
            held += plan.values
            self._check_values(held)
            try:
                asked.append(Asked(self._text(given_row), plan))
            except InvalidRequest as error:
                asked.append(error)
        good = [row for row in asked if isinstance(row, Asked)]
        ids = [encode(row.id) for row in request.requests]

        def conclude(found: Sequence[Scores | ReflexError], milliseconds: float) -> bytes:
            scored, results = iter(found), []
            for row_id, given in zip(ids, asked, strict=True):
                outcome = next(scored) if isinstance(given, Asked) else given
                if isinstance(given, Asked) and isinstance(outcome, Scores):
                    name, value = b"predictions", b"[" + given.plan.renderer.predictions(outcome, milliseconds) + b"]"
                else:
                    assert isinstance(outcome, ReflexError)
                    name, value = b"error", encode(outcome.body()["error"])
                results.append(b'{"id":' + row_id + b',"' + name + b'":' + value + b"}")
            return _enveloped(b"reflex.batch.results", b"results", results, milliseconds)

        return await self._classify(key, good, shape, conclude, bulk=True)

    def forget(self, model_ids: Sequence[str]) -> None:
        """Let go of deleted models."""
        if self.predictor is not None:
            self.predictor.residents.forget(model_ids)

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
        self,
        key: Key,
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
        with self._place(key):
            try:
                return await predictor.classify(given, concluded, key=key.id, bulk=bulk, chunk=shape.windowed)
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

    async def _plan(self, key: Key, names: tuple[str, ...], shape: Shape, param: str = "model") -> Plan:
        """Return what these names mean now; prepared ones are kept until any model comes or goes."""
        if self._generation != self._store.models.generation:
            self._generation, self._prepared = self._store.models.generation, 0
            self._plans.clear()
        place = (key.tenant_id, names, shape)
        if (known := self._plans.get(place)) is not None:
            self._plans.move_to_end(place)
            return known
        generation = self._generation
        versions = [await self._resolve(key, name, param) for name in names]
        plan = Plan(versions, shape)
        # A job that was just created shadows a default Reflex, and is no model yet: such names are looked up each time.
        if any(version.is_default for version in versions) or plan.values > PREPARED_VALUES:
            return plan
        if generation == self._store.models.generation == self._generation and place not in self._plans:
            self._prepared += plan.values
            self._plans[place] = plan
            while self._prepared > PREPARED_VALUES:
                self._prepared -= self._plans.popitem(last=False)[1].values
        return plan

    def _check_values(self, held: int) -> None:
        most = self._limits.content.answer_values
        if held > most:
            raise InvalidRequest(
                f"The answer would hold {held} values; at most {most} are allowed: send it in parts, or ask for less "
                "of each prediction by `fields`"
            )

    async def _resolve(self, key: Key, name: str, param: str = "model") -> ModelVersion:
        version = await self._store.resolve(key.tenant_id, name)
        if version is None:
            raise ModelNotFound(param=param)
        if version == "waiting":
            raise ModelNotReady(param=param)
        return version

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


def _enveloped(kind: bytes, name: bytes, parts: Sequence[bytes], milliseconds: float) -> bytes:
    took = encode(round(milliseconds, 3))
    opening = b'{"object":"' + kind + b'","' + name + b'":['
    return b"".join((opening, b",".join(parts), b'],"inference_time_ms":', took, b"}"))
