"""Decides the predict requests and answers: every generation of clients finds its keys in one object (spec 1.6, 7)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

Field = Literal[
    "model",
    "version",
    "label",
    "confidence",
    "mode",
    "classes",
    "all_scores",
    "scores",
    "labels",
    "in_domain",
    "inference_time_ms",
    "index",
    "windows",
]
"""What a prediction may hold; `fields` of a request chooses among these."""
Fields = Annotated[list[Field], Meta(min_length=1)]
LongText = Literal["error", "chunk"]
"""What becomes of a text that one forward cannot read: a 400, or windows whose vectors are averaged."""

Mode = Literal["single_label", "multi_label"]
"""Exactly one label a text (softmax), or any number of them, none included (a sigmoid each)."""


class PredictRequest(Struct, kw_only=True):
    """Body of POST /v1/reflex/predict: `text` or `texts`, and `model` or `models`."""

    text: str | UnsetType = UNSET
    texts: list[str] | UnsetType = UNSET
    model: str | UnsetType = UNSET
    models: list[str] | UnsetType = UNSET
    fields: Fields | None = None
    long_text: LongText = "error"


class ClassScore(Struct, frozen=True):
    """One label with its probability (0 to 1) and the server's decision."""

    label: str
    score: float
    selected: bool


class Prediction(Struct, kw_only=True):
    """One classifier's answer about one text; `classes`, `all_scores` and `labels` share the manifest's label order.

    `label` and `confidence` are null where a multi_label classifier selects nothing. `in_domain` is the share of the
    classifier's own rows that are at least as unusual as this text; null where it was trained on too few. `index` is
    the place of the text in `texts`, `windows` the number of windows that a text was read in under `long_text: chunk`.
    """

    model: str | UnsetType = UNSET
    version: int | UnsetType = UNSET
    label: str | UnsetType | None = UNSET
    confidence: float | UnsetType | None = UNSET
    mode: str | UnsetType = UNSET
    classes: list[ClassScore] | UnsetType = UNSET
    all_scores: list[float] | UnsetType = UNSET
    scores: dict[str, float] | UnsetType = UNSET
    labels: list[str] | UnsetType = UNSET
    in_domain: float | UnsetType | None = UNSET
    inference_time_ms: float | UnsetType = UNSET
    index: int | UnsetType = UNSET
    windows: int | UnsetType = UNSET


class Predictions(Struct, kw_only=True):
    """Answer to a request with `models` or `texts`: for each text in order, one Prediction a model in order."""

    object: Literal["reflex.predictions"] = "reflex.predictions"
    predictions: list[Prediction]
    inference_time_ms: float


class GivenRow(Struct, kw_only=True):
    """A row as it came: a BatchRow, or what should have been one. Without an id its error would have no place."""

    id: str
    model: Raw | UnsetType = UNSET
    text: Raw | UnsetType = UNSET


class BatchRequest(Struct, kw_only=True):
    """Body of POST /v1/reflex/synchronous_predict_batch; what is wrong with a row but its id is told in its place."""

    requests: list[GivenRow]
    fields: Fields | None = None
    long_text: LongText = "error"


class BatchRow(Struct, kw_only=True):
    """One text with the model or models to ask; `id` is the caller's and comes back."""

    id: str
    model: str | list[str]
    text: str


class BatchResult(Struct, kw_only=True):
    """What came of one row: its predictions, one a model in order, or the error in their place."""

    id: str
    predictions: list[Prediction] | UnsetType = UNSET
    error: dict[str, Any] | UnsetType = UNSET


class BatchResults(Struct, kw_only=True):
    """Answer to a synchronous batch: one result a row, in the request's order."""

    object: Literal["reflex.batch.results"] = "reflex.batch.results"
    results: list[BatchResult]
    inference_time_ms: float
