"""Decides which texts the serving benchmark sends: real ones, cut to the number of tokens that is asked for."""

from __future__ import annotations

import functools

import numpy as np
from tokenizers import Tokenizer

from benchmarks.appliance import checkpoint_folder
from benchmarks.few_shot import read

FILLER = "the"
"""A word of one token."""


@functools.cache
def _words() -> list[str]:
    rows = read("banking77", "train")
    return " ".join(row.text for row in rows[::7]).split()


@functools.cache
def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(checkpoint_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def exactly(tokens: int, seed: int = 0) -> str:
    """Return a text of exactly so many tokens, special ones included."""
    words = _words()
    start = int(np.random.default_rng(seed).integers(len(words) - tokens))
    chosen: list[str] = []
    for word in words[start : start + tokens]:
        if len(_tokenizer().encode(" ".join([*chosen, word])).ids) > tokens:
            break
        chosen.append(word)
    missing = tokens - len(_tokenizer().encode(" ".join(chosen)).ids)
    return " ".join([*chosen, *[FILLER] * missing])


def log_uniform(count: int, least: int, most: int) -> list[str]:
    """Return texts whose numbers of tokens are spread evenly over the logarithms between two."""
    random = np.random.default_rng(1)
    sizes = np.exp(random.uniform(np.log(least), np.log(most), count)).astype(int)
    return [exactly(int(size), seed) for seed, size in enumerate(sizes)]
