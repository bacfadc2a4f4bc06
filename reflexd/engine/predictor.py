"""Decides how texts are classified: one forward a text for each encoder that is asked, then its heads on the features.

Heads on an untouched encoder share its forward. A tuned model's encoder is one of its own to this module, though those
with bias adapters share a session; a low-rank one has its own session, and only some of these stay in memory.

All calls that share a `turn` together put at most as many texts (or windows of long texts) before the threads as there
are threads, so that whoever comes meanwhile, with another one, waits for one forward and not for their whole batches.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from msgspec import Struct

from reflexd.engine.adapters import read_adapter
from reflexd.engine.backbone import incompatibility
from reflexd.engine.calibration import probabilities
from reflexd.engine.encoder import Encoder, Vector
from reflexd.engine.in_domain import in_domain
from reflexd.errors import ContextLengthExceeded, InvalidRequest, ReflexError
from reflexd.registry import artifacts
from reflexd.registry.artifacts import DamagedArtifact, Domain, Head, Manifest
from reflexd.schemas.reflex import Mode

MAX_CHUNKED_TOKENS = 65_536
"""Tokens of the longest text that is read in windows."""

T = TypeVar("T")
Row = tuple[str, Sequence[str]]
"""A text, and the ids of the models that are to classify it."""


class LoadedHead(Struct, frozen=True):
    """A classifier in memory, with the encoder whose vectors it reads."""

    encoder: Encoder
    head: Head
    labels: list[str]
    mode: Mode
    temperature: float
    thresholds: list[float]
    domain: Domain | None


class Scores(Struct, frozen=True):
    """What one classifier says, in the order of `labels`: probabilities, summing to 1 for single_label, and decisions.

    For single_label exactly the likeliest label is selected; for multi_label each one that reaches its threshold.
    """

    labels: list[str]
    mode: Mode
    probabilities: list[float]
    selected: list[bool]
    windows: int
    """How many parts the text was read in."""
    in_domain: float | None
    """The share of the model's rows that lie at least as far from its labels; None where it has no domain."""


class Answer(Struct):
    """What came of one text: each of its rows' scores, or why it cannot be read; and when computing began and ended."""

    rows: list[list[Scores]] | ReflexError
    began: float
    ended: float


class Reading(Struct):
    """What one encoder has to read of a text, and the vectors of what it has read."""

    encoder: Encoder
    windows: list[list[int]]
    vectors: dict[int, Vector]

    def read(self, number: int) -> None:
        """Read one window."""
        self.vectors[number] = self.encoder.forward(self.windows[number])

    def vector(self) -> Vector:
        """Return the vector of the whole text; every window has been read."""
        return self.encoder.join(self.windows, [self.vectors[number] for number in range(len(self.windows))])


class Unread(Struct):
    """A text that takes several forwards, still to be read; the heads are at hand."""

    readings: list[Reading]
    heads: list[list[LoadedHead]]
    began: float


class Predictor:
    """The resident encoders and the heads that were used last; classifies in its own threads, off the event loop."""

    def __init__(
        self,
        encoder: Encoder,
        models_dir: Path,
        threads: int,
        resident_heads: int,
        resident_merged: int,
        others: Callable[[Manifest], Encoder] | None = None,
    ) -> None:
        """`encoder` is the configured one; `others` finds that of a model which was trained on another one.

        It is called in the threads; engine/encoders.py says what it raises. Without it such models are refused.
        """
        self._encoder = encoder
        self._others = others
        self._models_dir = models_dir
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="predict")
        self._heads: OrderedDict[str, LoadedHead] = OrderedDict()
        self._lock = threading.Lock()
        self._resident_heads = resident_heads
        self._resident_merged = resident_merged

    async def classify(
        self, rows: Sequence[Row], *, turn: asyncio.Semaphore | None = None, chunk: bool = False
    ) -> tuple[list[list[Scores] | ReflexError], float]:
        """Return, for each row, its models' scores in the order asked; and the wall milliseconds of computing.

        `turn` has as many places as there are threads; calls that share one share those (default: one for this call).
        With `chunk` a text that one forward cannot read is read in windows, up to MAX_CHUNKED_TOKENS. A row whose text
        cannot be read has the error in its place: ContextLengthExceeded where it is too long, InvalidRequest where
        there is nothing to read in it. Raises DamagedArtifact for a model whose files do not match their manifest or
        whose encoder is not here, and Unavailable while that is being prepared.
        """
        places: dict[str, list[int]] = {}
        for place, (text, _) in enumerate(rows):
            places.setdefault(text, []).append(place)
        out: list[list[Scores] | ReflexError] = [[] for _ in rows]
        spans: list[tuple[float, float]] = []
        turn = turn or asyncio.Semaphore(self.threads)

        async def work(queue: Iterator[tuple[str, list[int]]]) -> None:
            for text, where in queue:
                answer = await self._answer(text, [rows[place][1] for place in where], chunk, turn)
                spans.append((answer.began, answer.ended))
                for number, place in enumerate(where):
                    out[place] = answer.rows if isinstance(answer.rows, ReflexError) else answer.rows[number]

        queue = iter(places.items())
        if len(places) == 1:
            await work(queue)
        else:
            await _all(*(work(queue) for _ in range(min(self.threads, len(places)))))
        milliseconds = (max(end for _, end in spans) - min(start for start, _ in spans)) * 1e3 if spans else 0.0
        return out, milliseconds

    async def _answer(
        self, text: str, model_ids: Sequence[Sequence[str]], chunk: bool, turn: asyncio.Semaphore
    ) -> Answer:
        """Read a text once and score it with each of its rows' models; `turn` is held for each step in the threads."""

        async def step(function: Callable[..., T], *given: object) -> T:
            async with turn:
                return await asyncio.get_running_loop().run_in_executor(self._pool, function, *given)

        read = await step(self._read, text, model_ids, chunk)
        if isinstance(read, Answer):
            return read
        queue = ((reading, number) for reading in read.readings for number in range(len(reading.windows)))

        async def work() -> None:
            for reading, number in queue:
                await step(reading.read, number)

        forwards = sum(len(reading.windows) for reading in read.readings)
        await _all(*(work() for _ in range(min(self.threads, forwards))))
        return await step(_scored, read)

    def _read(self, text: str, model_ids: Sequence[Sequence[str]], chunk: bool) -> Answer | Unread:
        """Score a text that takes one forward; split one that takes more, or refuse it."""
        heads = [[self._head(model_id) for model_id in ids] for ids in model_ids]
        began = time.perf_counter()
        asked = {id(one.encoder): one.encoder for one in itertools.chain.from_iterable(heads)}
        readings = []
        for encoder in asked.values() or [self._encoder]:
            longest = MAX_CHUNKED_TOKENS if chunk else encoder.description.max_tokens
            try:
                ids = encoder.token_ids_up_to_limit(text, longest)
            except ValueError:
                problem: ReflexError = InvalidRequest("The text holds nothing that the model can read", param="text")
                return Answer(problem, began, time.perf_counter())
            if ids is None:
                problem = ContextLengthExceeded(
                    f"The text has more than the {longest} tokens that fit the model", param="text"
                )
                return Answer(problem, began, time.perf_counter())
            readings.append(Reading(encoder, encoder.windows(ids), {}))
        unread = Unread(readings, heads, began)
        if len(readings) > 1 or len(readings[0].windows) > 1:
            return unread
        readings[0].read(0)
        return _scored(unread)

    def _head(self, model_id: str) -> LoadedHead:
        with self._lock:
            if model_id in self._heads:
                self._heads.move_to_end(model_id)
                return self._heads[model_id]
        head, manifest = artifacts.load(self._models_dir, model_id)
        adapter = read_adapter(self._models_dir, model_id, manifest)
        encoder = self._encoder_of(manifest)
        try:
            encoder = encoder.adapted(adapter)
        except ValueError as error:
            raise DamagedArtifact(str(error)) from error
        loaded = LoadedHead(
            encoder=encoder,
            head=head,
            labels=manifest.labels,
            mode=manifest.mode,
            temperature=manifest.calibration.temperature,
            thresholds=manifest.thresholds,
            domain=artifacts.load_domain(self._models_dir, model_id, manifest),
        )
        with self._lock:
            self._heads[model_id] = loaded
            while len(self._heads) > self._resident_heads:
                self._heads.popitem(last=False)
            merged = [name for name, one in self._heads.items() if one.encoder.merged]
            for name in merged[: max(0, len(merged) - self._resident_merged)]:
                del self._heads[name]
        return loaded

    def _encoder_of(self, manifest: Manifest) -> Encoder:
        about = self._encoder.description
        problem = incompatibility(manifest, about.fingerprint, about.precision)
        if problem is None:
            return self._encoder
        if self._others is None:
            raise DamagedArtifact(problem)
        return self._others(manifest)

    def forget(self, model_ids: Sequence[str]) -> None:
        """Drop the heads of deleted models from memory."""
        with self._lock:
            for model_id in model_ids:
                self._heads.pop(model_id, None)

    def close(self) -> None:
        """End the threads; a forward under way is finished first, and those that wait are dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _scored(read: Unread) -> Answer:
    """Score a text whose windows have all been read."""
    vectors = {id(reading.encoder): (reading.vector(), len(reading.windows)) for reading in read.readings}
    made: dict[int, Scores] = {}  # rows that ask one model about one text share its scores
    for loaded in itertools.chain.from_iterable(read.heads):
        if id(loaded) not in made:
            made[id(loaded)] = _scores(loaded, *vectors[id(loaded.encoder)])
    return Answer([[made[id(loaded)] for loaded in row] for row in read.heads], read.began, time.perf_counter())


def _scores(loaded: LoadedHead, features: Vector, windows: int) -> Scores:
    logits = loaded.head.weight @ features[: loaded.head.weight.shape[1]] + loaded.head.bias
    found = probabilities(logits, loaded.temperature, loaded.mode)
    if loaded.mode == "single_label":
        selected = np.arange(len(found)) == found.argmax()
    else:
        selected = found >= np.asarray(loaded.thresholds)
    usual = None if loaded.domain is None else in_domain(loaded.domain, features[: loaded.domain.means.shape[1]])
    return Scores(loaded.labels, loaded.mode, found.tolist(), selected.tolist(), windows, usual)


async def _all(*work: Coroutine[None, None, None]) -> None:
    """Await all; the first one that fails ends the others, and its error is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
