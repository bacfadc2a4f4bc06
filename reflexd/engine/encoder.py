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
PROBE_CHARS_PER_TOKEN = 64
"""A text's beginning of this many characters a token nearly always tells whether the whole is too long."""


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

    def token_ids_up_to_limit(self, text: str) -> list[int] | None:
        """Return the token ids of a text that one forward can read; None for a longer one, mostly without reading it.

        Raises ValueError for a text without any token of its own (control characters only, say).
        """
        longest = self.description.max_tokens
        beginning = text[: longest * PROBE_CHARS_PER_TOKEN]
        ids = self.token_ids(beginning)
        if len(ids) > longest:
            return None
        if len(beginning) < len(text):
            ids = self.token_ids(text)
        if len(ids) <= self._special:
            raise ValueError("no token")
        return ids if len(ids) <= longest else None

    def forward(self, ids: Sequence[int]) -> Vector:
        """Return the unit vector [width] of one sequence of at most `max_tokens` ids."""
        row = np.asarray([ids], dtype=np.int64)
        vector: Vector = self._session.run(None, {"input_ids": row, "attention_mask": np.ones_like(row)})[0][0]
        return vector

    def embed(self, text: str) -> tuple[Vector, int, int]:
        """Return the unit vector of a text of any length, its number of tokens and of windows.

        A text over `max_tokens` is read in windows of equal length, whose vectors are averaged by their tokens.
        """
        ids = self.token_ids(text)
        if len(ids) <= self.description.max_tokens:
            return self.forward(ids), len(ids), 1
        head, body, tail = ids[: self._special // 2], ids[self._special // 2 : -1], ids[-1:]
        room = self.description.max_tokens - self._special
        windows = -(-len(body) // room)
        parts = np.array_split(np.asarray(body), windows)
        total = np.sum([len(part) * self.forward([*head, *part, *tail]) for part in parts], axis=0)
        return (total / np.linalg.norm(total)).astype(np.float32), len(ids), windows

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
