"""Decides how a text becomes features: one forward a text, in ONNX Runtime, the same in training and in serving.

A text's features [2 * width] are two unit vectors side by side: the encoder's last layer, which is what "the vector"
means everywhere, and its middle one. An adapted encoder is the same object with other inputs of the graph: one session
serves all bias adapters, and a second one, opened when the first is asked for, all low-rank ones.

Dynamic int8 takes its activation scales over the whole batch, so a text's vector would depend on its neighbours. One
text a forward makes it depend on the text alone (training and serving agree to the bit), and needs no padding.
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from safetensors import safe_open
from tokenizers import Tokenizer

from reflexd.engine import huge_pages
from reflexd.engine.adapters import DOWN, UP, Adapter
from reflexd.engine.backbone import BIASES, GRAPH, LOW_RANK_GRAPH, TOKENIZER, EncoderDescription, read_description
from reflexd.engine.words import words_of
from reflexd.errors import StartupError

# One text is spelled in the thread that asks: handing it to another one of the library's own costs a cold wake-up.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

T = TypeVar("T")
Vector = NDArray[np.float32]
PROBE_CHARS = 32_768
"""A text's beginning of this many characters, then of four times as many, tells whether the whole is too long."""


class Encoder:
    """An exported encoder, loaded; safe to call from several threads, each forward using one of them."""

    invocation: tuple[int, ...] = ()
    """Token ids that are read after every text and count as none of it: a decoder's (engine/decoder.py)."""

    def __init__(self, folder: Path) -> None:
        """Load the folder that backbone.export wrote; raises StartupError when it is not whole."""
        found = read_description(folder)
        if found is None:
            raise StartupError(f"the exported encoder in {folder} is missing or damaged: remove the folder and restart")
        self.description: EncoderDescription = found
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._words = words_of(self._tokenizer)
        self._special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        self._before, self._after = self._special // 2, self._special - self._special // 2
        self._folder = folder
        self._origin: Encoder | None = None
        self._load()

    def _load(self) -> None:
        with safe_open(self._folder / BIASES, framework="numpy") as held:
            own = [held.get_tensor(name) for name in self.description.biases]
        self._biases: Vector = np.concatenate(own) if own else np.zeros(0, np.float32)
        self._change: dict[str, onnxruntime.OrtValue] = {}
        self._session = _open(self._folder / GRAPH)
        self._low_rank = _Once(partial(_open, self._folder / LOW_RANK_GRAPH))

    @property
    def spelling(self) -> int:
        """Return a number that encoders have in common which make the same token ids of a text."""
        return id(self._tokenizer)

    @property
    def own_bytes(self) -> int:
        """Return the memory of what it has beside the encoder that it was adapted from; 0 for an untouched one."""
        if self._origin is None:
            return 0
        if not self._change:
            return int(self._biases.nbytes)
        rank = int(next(iter(self._change.values())).shape()[1])
        return 4 * rank * sum(map(sum, self.description.weights.values()))

    def adapted(self, adapter: Adapter | None) -> Encoder:
        """Return this encoder as an adapter changes it; itself without one.

        Raises ValueError for an adapter that names a layer which the encoder does not have, is of another shape or
        holds what is no number: broadcast or cast, it would serve nonsense.
        """
        if adapter is None:
            return self
        if not adapter.sound():
            raise ValueError("the adapter holds no changes, or one that is no number")
        out = copy.copy(self)
        out._origin = self  # whoever counts the users of an encoder counts this one
        try:
            if adapter.kind == "biases":
                out._biases = self._biases + self._bias_changes(adapter)
            else:
                out._change = self._low_rank_change(adapter)
                out._session = self._low_rank.get()
        except KeyError as error:
            raise ValueError(f"the adapter changes {error}, which the encoder does not have") from error
        return out

    def _bias_changes(self, adapter: Adapter) -> Vector:
        sizes = self.description.biases
        starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
        change = np.zeros_like(self._biases)
        for name, values in adapter.tensors.items():
            if values.shape != (sizes[name],):
                raise ValueError(f"the adapter changes {name} in another shape than the encoder has")
            change[starts[name] : starts[name] + sizes[name]] = values
        return change

    def _low_rank_change(self, adapter: Adapter) -> dict[str, onnxruntime.OrtValue]:
        """Return the graph's inputs for an adapter; a layer that it leaves alone is changed by nothing."""
        shapes = self.description.weights
        for layer in adapter.layers():
            if f"{layer}.weight" not in shapes:
                raise KeyError(layer)
        changed, inputs = set(adapter.layers()), {}
        for weight, (out, into) in shapes.items():
            layer = weight.removesuffix(".weight")
            if layer in changed:
                down, up = adapter.halves(layer)
            else:
                down, up = np.zeros((into, adapter.rank), np.float32), np.zeros((adapter.rank, out), np.float32)
            if down.shape != (into, adapter.rank) or up.shape != (adapter.rank, out):
                raise ValueError(f"the adapter changes {layer} in another shape than the encoder has")
            inputs[f"{layer}.{DOWN}"] = onnxruntime.OrtValue.ortvalue_from_numpy(down)
            inputs[f"{layer}.{UP}"] = onnxruntime.OrtValue.ortvalue_from_numpy(up)
        return inputs

    def token_ids(self, text: str) -> list[int]:
        """Return the token ids of a text, special tokens included, never truncated."""
        if self._words is not None and (known := self._words.spelled(text)) is not None:
            return known
        # The batch call, for one text: unlike `encode` it releases the interpreter, and a text may take seconds.
        ids: list[int] = self._tokenizer.encode_batch_fast([text])[0].ids
        return ids

    def token_ids_up_to_limit(self, text: str, limit: int | None = None) -> list[int] | None:
        """Return the token ids of a text of at most `limit` of them (those that one forward can read, without one).

        Returns None for a longer text, mostly without reading the whole of it. Raises ValueError for a text without any
        token of its own (control characters only, say).
        """
        longest = self.description.max_tokens if limit is None else limit
        read = PROBE_CHARS
        while len(ids := self.token_ids(text[:read])) <= longest and read < len(text):
            read *= 4
        if len(ids) > longest:
            return None
        if len(ids) <= self._special:
            raise ValueError("no token")
        return ids

    def forward(self, ids: Sequence[int]) -> Vector:
        """Return the features [2 * width] of one sequence of at most `max_tokens` ids."""
        row = np.asarray([ids], dtype=np.int64)
        given = {"input_ids": row, "attention_mask": np.ones_like(row), "biases": self._biases}
        if self._change:
            values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in given.items()}
            changed: Vector = self._session.run_with_ort_values(None, values | self._change)[0].numpy()[0]
            return changed
        features: Vector = self._session.run(None, given)[0][0]
        return features

    def windows(self, ids: Sequence[int]) -> list[list[int]]:
        """Return the ids as one forward can read them: as they are, or in windows of equal length."""
        if len(ids) <= self.description.max_tokens:
            return [list(ids)]
        end = len(ids) - self._after
        head, body, tail = ids[: self._before], ids[self._before : end], ids[end:]
        room = self.description.max_tokens - self._special
        parts = np.array_split(np.asarray(body), -(-len(body) // room))
        return [[*head, *part.tolist(), *tail] for part in parts]

    def join(self, windows: Sequence[Sequence[int]], vectors: Sequence[Vector]) -> Vector:
        """Return the features of a text from those of its windows, averaged by their tokens."""
        if len(vectors) == 1:
            return vectors[0]
        weighted = [(len(ids) - self._special) * vector for ids, vector in zip(windows, vectors, strict=True)]
        layers = np.sum(weighted, axis=0).reshape(2, -1)
        joined: Vector = (layers / np.linalg.norm(layers, axis=1, keepdims=True)).ravel().astype(np.float32)
        return joined

    def embed(self, text: str) -> tuple[Vector, int, int]:
        """Return the features of a text of any length, its number of tokens and of windows.

        A text over `max_tokens` is read in windows.
        """
        ids = self.token_ids(text)
        windows = self.windows(ids)
        return self.join(windows, [self.forward(part) for part in windows]), len(ids), len(windows)

    def embed_all(
        self, texts: Sequence[str], threads: int, progress: Callable[[int], None] | None = None
    ) -> tuple[NDArray[np.float32], int, int]:
        """Return the features [len(texts), 2 * width], the tokens in all, and how many texts needed several windows.

        `progress` is told how many texts are done, after each.
        """
        out = np.empty((len(texts), 2 * self.description.width), dtype=np.float32)
        tokens = windowed = 0
        with ThreadPoolExecutor(threads) as pool:
            for number, (features, count, windows) in enumerate(pool.map(self.embed, texts)):
                out[number] = features
                tokens += count
                windowed += windows > 1
                if progress is not None:
                    progress(number + 1)
        return out, tokens, windowed


class _Once(Generic[T]):
    """Something that is made when it is first asked for, by one thread, and then shared."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: T | None = None

    def get(self) -> T:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made


def _open(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    huge_pages.gather()
    return session
