"""Decides the routes of /v1/reflex."""

from __future__ import annotations

from litestar import Controller, post

from reflexd.schemas.reflex import BatchResults, Prediction, Predictions
from reflexd.service.predictions import PredictionService
from reflexd.store.keys import Key


class ReflexController(Controller):
    """Classification."""

    path = "/v1/reflex"
    opt = {"scope": "predict"}  # noqa: RUF012 - Litestar reads it from the class

    @post("/predict", status_code=200)
    async def predict(self, body: bytes, key: Key, predictions: PredictionService) -> Prediction | Predictions:
        """Classify a text, or several, with one model or with several at once."""
        return await predictions.predict(key, body)

    @post("/synchronous_predict_batch", status_code=200)
    async def predict_batch(self, body: bytes, key: Key, predictions: PredictionService) -> BatchResults:
        """Classify many rows, each with its own model or models; what is wrong with a row is told in its place."""
        return await predictions.predict_batch(key, body)
