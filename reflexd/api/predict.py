"""Decides the routes of /v1/reflex."""

from __future__ import annotations

from typing import Any

from litestar import Controller, Request, Response, post

from reflexd.api.callers import WATCHED_BYTES, unless_gone
from reflexd.schemas.reflex import BatchResults, Prediction, Predictions
from reflexd.service.predictions import PredictionService
from reflexd.store.keys import Key


class ReflexController(Controller):
    """Classification."""

    path = "/v1/reflex"
    opt = {"scope": "predict"}  # noqa: RUF012 - Litestar reads it from the class

    @post("/predict", status_code=200)
    async def predict(
        self, request: Request[Any, Any, Any], body: bytes, key: Key, predictions: PredictionService
    ) -> Response[Prediction | Predictions]:
        """Classify a text, or several, with one model or with several at once."""
        work = predictions.predict(key, body)
        return _json(await (work if len(body) < WATCHED_BYTES else unless_gone(request, work)))

    @post("/synchronous_predict_batch", status_code=200)
    async def predict_batch(
        self, request: Request[Any, Any, Any], body: bytes, key: Key, predictions: PredictionService
    ) -> Response[BatchResults]:
        """Classify many rows, each with its own model or models; what is wrong with a row is told in its place."""
        return _json(await unless_gone(request, predictions.predict_batch(key, body)))


def _json(encoded: bytes) -> Response[Any]:
    """Return an answer that is encoded already."""
    return Response(encoded, media_type="application/json")
