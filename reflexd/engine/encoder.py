"""Decides how a text becomes a vector: one forward a text, in ONNX Runtime, the same in training and in serving.

Dynamic int8 takes its activation scales over the whole batch, so a text's vector would depend on its neighbours. One
text a forward makes it depend on the text alone (training and serving agree to the bit), and needs no padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from reflexd.engine.backbone import GRAPH, TOKENIZER, EncoderDescription, read_description
from reflexd.errors import StartupError

Vector = NDArray[np.float32]
PROBE_CHARS = 32_768
"""A text's beginning of this many characters, then of four times as many, tells whether the whole is too long."""


class Encoder:
    """An exported encoder, loaded; safe to call from several threads, each forward using one of them."""

    def __init__(self, folder: Path) -> None:
        """Load the folder that backbone.export wrote; raises StartupError when it is not whole."""
        found = read_description(folder)
        if found is None:
            raise StartupError(f"the exported encoder in {folder} is missing or damaged: remove the folder and restart")
        self.description: EncoderDescription = found
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(folder / GRAPH, options, providers=["CPUExecutionProvider"])

    def token_ids(self, text: str) -> list[int]:
        """Return the token ids of a text, special tokens included, never truncated."""
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
        """Return the unit vector [width] of one sequence of at most `max_tokens` ids."""
        row = np.asarray([ids], dtype=np.int64)
        vector: Vector = self._session.run(None, {"input_ids": row, "attention_mask": np.ones_like(row)})[0][0]
        return vector

    def windows(self, ids: Sequence[int]) -> list[list[int]]:
        """Return the ids as one forward can read them: as they are, or in windows of equal length."""
        if len(ids) <= self.description.max_tokens:
            return [list(ids)]
        head, body, tail = ids[: self._special // 2], ids[self._special // 2 : -1], ids[-1:]
        room = self.description.max_tokens - self._special
        parts = np.array_split(np.asarray(body), -(-len(body) // room))
        return [[*head, *part.tolist(), *tail] for part in parts]

    def join(self, windows: Sequence[Sequence[int]], vectors: Sequence[Vector]) -> Vector:
        """Return the unit vector of a text from those of its windows, averaged by their tokens."""
        if len(vectors) == 1:
            return vectors[0]
        weighted = [(len(ids) - self._special) * vector for ids, vector in zip(windows, vectors, strict=True)]
        total = np.sum(weighted, axis=0)
        joined: Vector = (total / np.linalg.norm(total)).astype(np.float32)
        return joined

    def embed(self, text: str) -> tuple[Vector, int, int]:
        """Return the unit vector of a text of any length, its number of tokens and of windows.

        A text over `max_tokens` is read in windows.
        """
        ids = self.token_ids(text)
        windows = self.windows(ids)
        return self.join(windows, [self.forward(part) for part in windows]), len(ids), len(windows)

    def embed_all(
        self, texts: Sequence[str], threads: int, progress: Callable[[int], None] | None = None
    ) -> tuple[NDArray[np.float32], int, int]:
        """Return the vectors [len(texts), width], the tokens in all, and how many texts needed several windows.

        `progress` is told how many texts are done, after each.
        """
        out = np.empty((len(texts), self.description.width), dtype=np.float32)
        tokens = windowed = 0
        with ThreadPoolExecutor(threads) as pool:
            for number, (vector, count, windows) in enumerate(pool.map(self.embed, texts)):
                out[number] = vector
                tokens += count
                windowed += windows > 1
                if progress is not None:
                    progress(number + 1)
        return out, tokens, windowed
