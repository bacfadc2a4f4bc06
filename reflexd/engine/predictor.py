"""Decides how texts are classified: one forward of the shared encoder a text, then every asked head on its vector.

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

from reflexd.engine.backbone import incompatibility
from reflexd.engine.calibration import probabilities
from reflexd.engine.encoder import Encoder, Vector
from reflexd.errors import ContextLengthExceeded, InvalidRequest, ReflexError
from reflexd.registry import artifacts
from reflexd.registry.artifacts import DamagedArtifact, Head
from reflexd.schemas.reflex import Mode

MAX_CHUNKED_TOKENS = 65_536
"""Tokens of the longest text that is read in windows."""

T = TypeVar("T")
Row = tuple[str, Sequence[str]]
"""A text, and the ids of the models that are to classify it."""


class LoadedHead(Struct, frozen=True):
    """A classifier in memory."""

    head: Head
    labels: list[str]
    mode: Mode
    temperature: float
    thresholds: list[float]


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


class Answer(Struct):
    """What came of one text: each of its rows' scores, or why it cannot be read; and when computing began and ended."""

    rows: list[list[Scores]] | ReflexError
    began: float
    ended: float


class Unread(Struct):
    """A text of several windows, still to be read; the heads are at hand."""

    windows: list[list[int]]
    heads: list[list[LoadedHead]]
    began: float


class Predictor:
    """The resident encoder and the heads that were used last; classifies in its own threads, off the event loop."""

    def __init__(self, encoder: Encoder, models_dir: Path, threads: int, resident_heads: int) -> None:
        self._encoder = encoder
        self._models_dir = models_dir
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="predict")
        self._heads: OrderedDict[str, LoadedHead] = OrderedDict()
        self._lock = threading.Lock()
        self._resident_heads = resident_heads

    async def classify(
        self, rows: Sequence[Row], *, turn: asyncio.Semaphore | None = None, chunk: bool = False
    ) -> tuple[list[list[Scores] | ReflexError], float]:
        """Return, for each row, its models' scores in the order asked; and the wall milliseconds of computing.

        `turn` has as many places as there are threads; calls that share one share those (default: one for this call).
        With `chunk` a text that one forward cannot read is read in windows, up to MAX_CHUNKED_TOKENS. A row whose text
        cannot be read has the error in its place: ContextLengthExceeded where it is too long, InvalidRequest where
        there is nothing to read in it. Raises DamagedArtifact for a model whose files do not match their manifest.
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
        vectors: list[Vector | None] = [None] * len(read.windows)
        queue = iter(enumerate(read.windows))

        async def work() -> None:
            for number, ids in queue:
                vectors[number] = await step(self._encoder.forward, ids)

        await _all(*(work() for _ in range(min(self.threads, len(vectors)))))
        return await step(self._join, read, vectors)

    def _read(self, text: str, model_ids: Sequence[Sequence[str]], chunk: bool) -> Answer | Unread:
        """Score a text that one forward can read; split a longer one, or refuse it."""
        heads = [[self._head(model_id) for model_id in ids] for ids in model_ids]
        began = time.perf_counter()
        longest = MAX_CHUNKED_TOKENS if chunk else self._encoder.description.max_tokens
        try:
            ids = self._encoder.token_ids_up_to_limit(text, longest)
        except ValueError:
            problem: ReflexError = InvalidRequest("The text holds nothing that the model can read", param="text")
            return Answer(problem, began, time.perf_counter())
        if ids is None:
            problem = ContextLengthExceeded(
                f"The text has more than the {longest} tokens that fit the model", param="text"
            )
            return Answer(problem, began, time.perf_counter())
        windows = self._encoder.windows(ids)
        if len(windows) > 1:
            return Unread(windows, heads, began)
        return _scored(self._encoder.forward(ids), 1, heads, began)

    def _join(self, read: Unread, vectors: Sequence[Vector]) -> Answer:
        return _scored(self._encoder.join(read.windows, vectors), len(vectors), read.heads, read.began)

    def _head(self, model_id: str) -> LoadedHead:
        with self._lock:
            if model_id in self._heads:
                self._heads.move_to_end(model_id)
                return self._heads[model_id]
        head, manifest = artifacts.load(self._models_dir, model_id)
        about = self._encoder.description
        if problem := incompatibility(manifest, about.fingerprint, about.precision):
            raise DamagedArtifact(problem)
        loaded = LoadedHead(head, manifest.labels, manifest.mode, manifest.calibration.temperature, manifest.thresholds)
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


def _scored(vector: Vector, windows: int, heads: Sequence[Sequence[LoadedHead]], began: float) -> Answer:
    made: dict[int, Scores] = {}  # rows that ask one model about one text share its scores
    for loaded in itertools.chain.from_iterable(heads):
        if id(loaded) not in made:
            made[id(loaded)] = _scores(loaded, vector, windows)
    return Answer([[made[id(loaded)] for loaded in row] for row in heads], began, time.perf_counter())


def _scores(loaded: LoadedHead, vector: Vector, windows: int) -> Scores:
    logits = loaded.head.weight @ vector + loaded.head.bias
    found = probabilities(logits, loaded.temperature, loaded.mode)
    if loaded.mode == "single_label":
        selected = np.arange(len(found)) == found.argmax()
    else:
        selected = found >= np.asarray(loaded.thresholds)
    return Scores(loaded.labels, loaded.mode, found.tolist(), selected.tolist(), windows)


async def _all(*work: Coroutine[None, None, None]) -> None:
    """Await all; the first one that fails ends the others, and its error is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
