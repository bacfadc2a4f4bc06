"""Decides how a prediction becomes bytes: what is known before is prepared, and numbers are put in between.

The answer to a thousand classifiers is mostly labels and names. A Renderer holds these as bytes for one list of models
and one choice of fields; for each text it only spells the numbers, all at once, and joins. What comes out is what
msgspec makes of schemas.reflex.Prediction, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from operator import itemgetter
from typing import Any

import msgspec
from msgspec import Struct

from reflexd.engine.panel import Scores
from reflexd.store.models import ModelVersion

encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode

EMPTY, TOOK, INDEX, NUMBERS = range(4)
"""Places in the table of what is put in; Renderer._table says what follows."""
PLAIN_VALUES = 8
PER_LABEL = ("classes", "all_scores", "scores", "labels")


class Shape(Struct, frozen=True):
    """What the predictions of an answer hold."""

    fields: frozenset[str] | None = None
    indexed: bool = False
    windowed: bool = False

    def wants(self, field: str) -> bool:
        """Whether the caller gets this field."""
        return self.fields is None or field in self.fields

    def size(self, version: ModelVersion) -> int:
        """Return how many values a prediction of this model holds, roughly: some, and those of each label."""
        return PLAIN_VALUES + len(version.labels) * max(1, sum(map(self.wants, PER_LABEL)))


Part = bytes | int
"""Bytes that are known, or the place in the table of what is put in."""


class Renderer:
    """Makes the predictions of one list of models."""

    def __init__(self, versions: Sequence[ModelVersion], order: Sequence[int], shape: Shape) -> None:
        """`versions` are those that are scored, each once, and `order` says which of them is answered where."""
        self._shape = shape
        self._names = [encode(label) for version in versions for label in version.labels]
        self._labels, self._models = len(self._names), len(versions)
        pieces, places = [bytearray()], list[int]()
        for part in (*self._parts(versions, order), EMPTY, EMPTY):  # a getter of less than two items returns no tuple
            if isinstance(part, bytes):
                pieces[-1] += part
            else:
                places.append(part)
                pieces.append(bytearray())
        self._pieces = list(map(bytes, pieces))
        self._get = itemgetter(*places)
        self._joined = [b""] * (len(pieces) + len(places))

    def predictions(self, scores: Scores, milliseconds: float, index: int = 0) -> bytes:
        """Return one text's predictions, one a model in order, with commas between them."""
        out = self._joined.copy()
        out[0::2], out[1::2] = self._pieces, self._get(self._table(scores, milliseconds, index))
        return b"".join(out)

    def _table(self, scores: Scores, milliseconds: float, index: int) -> list[bytes]:
        """Return all that may be put in: of each label probability and decision, and then of each model four values."""
        spelled = encode(scores.probabilities)[1:-1].split(b",")
        return [
            b"",
            encode(round(milliseconds, 3)),
            encode(index),
            *spelled,
            *[b"true" if selected else b"false" for selected in scores.selected],
            *[b"null" if best < 0 else self._names[best] for best in scores.best],
            *[b"null" if best < 0 else spelled[best] for best in scores.best],
            *encode(scores.in_domain)[1:-1].split(b","),
            *encode(scores.windows)[1:-1].split(b","),
        ]

    def _parts(self, versions: Sequence[ModelVersion], order: Sequence[int]) -> Iterator[Part]:
        ends = list(accumulate(len(version.labels) for version in versions))
        for place, number in enumerate(order):
            version = versions[number]
            start = ends[number] - len(version.labels)
            opening = b",{" if place else b"{"
            for name, parts in self._fields(version, number, start, self._names[start : ends[number]]):
                yield opening + encode(name) + b":"
                yield from parts
                opening = b","
            yield b"}" if opening == b"," else opening + b"}"

    def _fields(
        self, version: ModelVersion, number: int, start: int, names: Sequence[bytes]
    ) -> Iterator[tuple[str, Iterable[Part]]]:
        """Yield the wanted fields of a prediction in the order that schemas.reflex.Prediction has them in."""
        scores = range(NUMBERS + start, NUMBERS + start + len(names))
        classes = [
            (b'{"label":' + name + b',"score":', score, b',"selected":', score + self._labels, b"}")
            for name, score in zip(names, scores, strict=True)
        ]
        chosen, sure, usual, windows = (
            NUMBERS + 2 * self._labels + column * self._models + number for column in range(4)
        )
        fields: list[tuple[str, Iterable[Part]]] = [
            ("model", [encode(version.name)]),
            ("version", [encode(version.version)]),
            ("label", [chosen]),
            ("confidence", [sure]),
            ("mode", [encode(version.mode)]),
            ("classes", _between(b"[", classes, b"]")),
            ("all_scores", _between(b"[", [(score,) for score in scores], b"]")),
            ("scores", _between(b"{", [(n + b":", score) for n, score in zip(names, scores, strict=True)], b"}")),
            ("labels", _between(b"[", [(name,) for name in names], b"]")),
            ("in_domain", [usual]),
            ("inference_time_ms", [TOOK]),
        ]
        if self._shape.indexed:
            fields.append(("index", [INDEX]))
        if self._shape.windowed:
            fields.append(("windows", [windows]))
        yield from ((name, parts) for name, parts in fields if self._shape.wants(name))


def _between(opening: bytes, items: Iterable[Iterable[Part]], closing: bytes) -> Iterator[Part]:
    yield opening
    for number, item in enumerate(items):
        if number:
            yield b","
        yield from item
    yield closing
