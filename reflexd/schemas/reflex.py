"""Decides the predict request and answer: every generation of clients finds its keys in one object (spec 1.6, 7)."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

Mode = Literal["single_label", "multi_label"]
"""Exactly one label a text (softmax), or any number of them, none included (a sigmoid each)."""


class PredictRequest(Struct, kw_only=True):
    """Body of POST /v1/reflex/predict: one `text`, and `model` or `models`."""

    text: str
    model: str | UnsetType = UNSET
    models: list[str] | UnsetType = UNSET


class ClassScore(Struct, frozen=True):
    """One label with its probability (0 to 1) and the server's decision."""

    label: str
    score: float
    selected: bool


class Prediction(Struct, kw_only=True):
    """One classifier's answer; `classes`, `all_scores` and `labels` share the manifest's label order."""

    model: str
    version: int
    label: str | None
    confidence: float | None
    mode: str
    classes: list[ClassScore]
    all_scores: list[float]
    scores: dict[str, float]
    labels: list[str]
    inference_time_ms: float


class Predictions(Struct, kw_only=True):
    """Answer to a request with `models`: one Prediction a name, in the request's order."""

    object: Literal["reflex.predictions"] = "reflex.predictions"
    predictions: list[Prediction]
    inference_time_ms: float
