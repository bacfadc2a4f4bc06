"""Decides how a text is classified: one forward of the shared encoder, then every asked head on its vector."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from reflexd.engine.encoder import Encoder
from reflexd.errors import ContextLengthExceeded, InvalidRequest
from reflexd.registry import artifacts
from reflexd.registry.artifacts import DamagedArtifact, Head


class LoadedHead(Struct, frozen=True):
    """A classifier in memory."""

    head: Head
    labels: list[str]
    mode: str
    temperature: float


class Scores(Struct, frozen=True):
    """What one classifier says: probabilities in the order of `labels`, summing to 1 for single_label."""

    labels: list[str]
    mode: str
    probabilities: list[float]


class Predictor:
    """The resident encoder and the heads that were used last; classifies in its own threads, off the event loop."""

    def __init__(self, encoder: Encoder, models_dir: Path, threads: int, resident_heads: int) -> None:
        self._encoder = encoder
        self._models_dir = models_dir
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="predict")
        self._heads: OrderedDict[str, LoadedHead] = OrderedDict()
        self._lock = threading.Lock()
        self._resident_heads = resident_heads

    async def classify(self, text: str, model_ids: Sequence[str]) -> tuple[list[Scores], float]:
        """Return each model's scores in the order asked, and the milliseconds that computing took.

        Raises ContextLengthExceeded for a text that the encoder cannot read whole, InvalidRequest for one in which it
        finds nothing to read, DamagedArtifact for a model whose
        files do not match their manifest.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._classify, text, model_ids)

    def _classify(self, text: str, model_ids: Sequence[str]) -> tuple[list[Scores], float]:
        heads = [self._head(model_id) for model_id in model_ids]
        started = time.perf_counter()
        try:
            ids = self._encoder.token_ids_up_to_limit(text)
        except ValueError:
            raise InvalidRequest("The text holds nothing that the model can read", param="text") from None
        if ids is None:
            longest = self._encoder.description.max_tokens
            raise ContextLengthExceeded(f"The text has more than the {longest} tokens that fit the model", param="text")
        vector = self._encoder.forward(ids)
        scores = [Scores(h.labels, h.mode, _softmax(h, vector)) for h in heads]
        return scores, (time.perf_counter() - started) * 1e3

    def _head(self, model_id: str) -> LoadedHead:
        with self._lock:
            if model_id in self._heads:
                self._heads.move_to_end(model_id)
                return self._heads[model_id]
        head, manifest = artifacts.load(self._models_dir, model_id)
        about = self._encoder.description
        if (manifest.backbone.fingerprint, manifest.backbone.precision) != (about.fingerprint, about.precision):
            raise DamagedArtifact(
                f"the model was trained on {manifest.backbone.name} in {manifest.backbone.precision}, "
                f"and {about.name} in {about.precision} is loaded"
            )
        loaded = LoadedHead(head, manifest.labels, manifest.mode, manifest.calibration.temperature)
        with self._lock:
            self._heads[model_id] = loaded
            while len(self._heads) > self._resident_heads:
                self._heads.popitem(last=False)
        return loaded

    def forget(self, model_ids: Sequence[str]) -> None:
        """Drop the heads of deleted models from memory."""
        with self._lock:
            for model_id in model_ids:
                self._heads.pop(model_id, None)

    def close(self) -> None:
        """End the threads; a forward under way is finished first, and those that wait are dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _softmax(loaded: LoadedHead, vector: NDArray[np.float32]) -> list[float]:
    logits = (loaded.head.weight @ vector + loaded.head.bias).astype(np.float64) / loaded.temperature
    exponents = np.exp(logits - logits.max())
    probabilities: list[float] = (exponents / exponents.sum()).tolist()
    return probabilities
