"""Decides the routes of /v1/reflex, and that a large request ends with its caller: its work is for nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from litestar import Controller, Request, Response, post

from reflexd.errors import RequestAborted
from reflexd.schemas.reflex import BatchResults, Prediction, Predictions
from reflexd.service.predictions import PredictionService
from reflexd.store.keys import Key

T = TypeVar("T")
WATCHED_BYTES = 16_384
"""A smaller request is answered before its caller could be missed."""


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
        return _json(await (work if len(body) < WATCHED_BYTES else _unless_gone(request, work)))

    @post("/synchronous_predict_batch", status_code=200)
    async def predict_batch(
        self, request: Request[Any, Any, Any], body: bytes, key: Key, predictions: PredictionService
    ) -> Response[BatchResults]:
        """Classify many rows, each with its own model or models; what is wrong with a row is told in its place."""
        return _json(await _unless_gone(request, predictions.predict_batch(key, body)))


def _json(encoded: bytes) -> Response[Any]:
    """Return an answer that is encoded already."""
    return Response(encoded, media_type="application/json")


async def _unless_gone(request: Request[Any, Any, Any], work: Coroutine[Any, Any, T]) -> T:
    """Await the work; raise RequestAborted, and end it, when the caller hangs up."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise RequestAborted
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
