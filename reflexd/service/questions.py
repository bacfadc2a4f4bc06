"""Decides what a predict request and a row of a batch ask, and how what is wrong with either is told: by its field."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET, Struct

from reflexd.config import Limits
from reflexd.engine.dataset import text_problem
from reflexd.engine.panel import Scores
from reflexd.errors import BodyTooLarge, ContextLengthExceeded, InvalidRequest, ReflexError
from reflexd.schemas.reflex import BatchRequest, Fields, GivenRow, LongText, PredictRequest
from reflexd.service.decoding import decode, decode_field
from reflexd.service.plans import Asked, Plan, Planner
from reflexd.service.rendering import Shape, encode

BYTES_PER_CHAR = 12
"""A character outside the basic plane can be written as two escapes of six bytes."""
BYTES_PER_NAME = 1_000


class Question(Struct, frozen=True):
    """What one predict request asks: texts, each of the same models; and the form of the answer."""

    asked: list[Asked]
    plan: Plan
    shape: Shape
    several: bool
    """Whether it named `texts`, so that an error names the one it is about."""
    bare: bool
    """Whether the answer is one Prediction and no list."""

    @property
    def values(self) -> int:
        """How many values the answer holds, roughly."""
        return self.plan.values * len(self.asked)

    def answer(self, found: Sequence[Scores | ReflexError], milliseconds: float) -> bytes:
        """Return the answer as JSON: a Prediction, or Predictions; raises what is wrong with a text."""
        answers = []
        for index, scores in enumerate(found):
            if isinstance(scores, ReflexError):
                raise _at(scores, index, several=self.several)
            answers.append(self.plan.renderer.predictions(scores, milliseconds, index))
        if self.bare:
            return answers[0]
        return enveloped(b"reflex.predictions", b"predictions", answers, milliseconds)


class Questions:
    """Reads what is asked, within the limits of one request's content."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.most_bytes = BYTES_PER_CHAR * limits.text_chars + limits.models * BYTES_PER_NAME
        """Of a predict request's body."""
        self.most_models = limits.models
        """That a predict request or a row may name."""

    async def read(self, body: bytes | memoryview, tenant_id: str, plans: Planner) -> Question:
        """Return what a PredictRequest asks; raises the contract's errors, naming the field."""
        limits = self._limits
        if len(body) > self.most_bytes:
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
        check_count(names, limits.models, "models")
        check_count(texts, limits.texts, "texts")
        several = request.texts is not UNSET
        for number, text in enumerate(texts):
            if error := self._text_error(text):
                raise _at(error, number, several=several)
        shape = shape_of(request.fields, request.long_text, indexed=several)
        plan = await plans.find(tenant_id, tuple(names), shape)
        self.check_values(plan.values * len(texts))
        bare = request.models is UNSET and not several
        return Question([Asked(text, plan) for text in texts], plan, shape, several, bare)

    async def read_rows(
        self, request: BatchRequest, tenant_id: str, plans: Planner
    ) -> tuple[list[Asked | ReflexError], Shape]:
        """Return what each row of a batch asks, or what is wrong with it.

        A model that is unknown or not ready refuses them all.
        """
        check_count(request.requests, self._limits.texts, "requests")
        shape = shape_of(request.fields, request.long_text)
        asked: list[Asked | ReflexError] = []
        found: dict[tuple[str, ...], Plan] = {}
        held = 0
        for number, given in enumerate(request.requests):
            try:
                names = tuple(self.names(given))
            except InvalidRequest as error:
                asked.append(error)
                continue
            # Before the text is looked at: an unknown model refuses the whole request.
            if (plan := found.get(names)) is None:
                plan = found[names] = await plans.find(tenant_id, names, shape, f"requests[{number}].model")
            held += plan.values
            self.check_values(held)
            try:
                asked.append(Asked(self.text(given), plan))
            except InvalidRequest as error:
                asked.append(error)
        return asked, shape

    def names(self, given: GivenRow, *, listed: bool = False) -> list[str]:
        """Return the models that a row of a batch names, in a list where that is asked for; raises InvalidRequest."""
        if given.model is UNSET:
            raise InvalidRequest("The row has no model", param="model")
        model: str | list[str] = decode_field("model", given.model, list[str] if listed else str | list[str])
        names = [model] if isinstance(model, str) else model
        check_count(names, self._limits.models, "model")
        return names

    def text(self, given: GivenRow) -> str:
        """Return the text of a row of a batch; raises InvalidRequest for what is none."""
        if given.text is UNSET:
            raise InvalidRequest("The row has no text", param="text")
        text: str = decode_field("text", given.text, str)
        if error := self._text_error(text):
            raise error
        return text

    def check_values(self, held: int) -> None:
        """Raise InvalidRequest for an answer that would hold more than so many values."""
        most = self._limits.answer_values
        if held > most:
            raise InvalidRequest(
                f"The answer would hold {held} values; at most {most} are allowed: send it in parts, or ask for less "
                "of each prediction by `fields`"
            )

    def _text_error(self, text: str) -> InvalidRequest | None:
        longest = self._limits.text_chars
        problem = text_problem(text, longest)
        if problem is None:
            return None
        return (ContextLengthExceeded if len(text) > longest else InvalidRequest)(problem, param="text")


def row_results(
    ids: Sequence[bytes], asked: Sequence[Asked | ReflexError], found: Sequence[Scores | ReflexError], took: float
) -> list[bytes]:
    """Return a BatchResult for each row as JSON, and in one line.

    `ids` are the rows' as JSON, `found` is what came of those of `asked` that are no errors, `took` in milliseconds.
    """
    scored, results = iter(found), []
    for row_id, given in zip(ids, asked, strict=True):
        outcome = next(scored) if isinstance(given, Asked) else given
        if isinstance(given, Asked) and isinstance(outcome, Scores):
            name, value = b"predictions", b"[" + given.plan.renderer.predictions(outcome, took) + b"]"
        else:
            assert isinstance(outcome, ReflexError)
            name, value = b"error", encode(outcome.body()["error"])
        results.append(b'{"id":' + row_id + b',"' + name + b'":' + value + b"}")
    return results


def enveloped(kind: bytes, name: bytes, parts: Sequence[bytes], milliseconds: float) -> bytes:
    """Return an answer of several parts as JSON."""
    took = encode(round(milliseconds, 3))
    opening = b'{"object":"' + kind + b'","' + name + b'":['
    return b"".join((opening, b",".join(parts), b'],"inference_time_ms":', took, b"}"))


def shape_of(fields: Fields | None, long_text: LongText, *, indexed: bool = False) -> Shape:
    """Return what predictions are to hold."""
    return Shape(frozenset(fields) if fields else None, indexed, long_text == "chunk")


def check_count(given: Sequence[object], most: int, param: str) -> None:
    """Raise InvalidRequest for a list that is empty or too long."""
    if not 1 <= len(given) <= most:
        raise InvalidRequest(f"{param} must hold 1 to {most} entries, and holds {len(given)}", param=param)


def _at(error: ReflexError, number: int, *, several: bool) -> ReflexError:
    """Return the error of a text with the field that the text stood in."""
    place = f"texts[{number}]" if several else "text"
    return type(error)(error.message, param=place) if place != error.param else error
