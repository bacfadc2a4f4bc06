"""Decides what is known of a file's lines before an edit is held against them: each looked at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from reflexd.engine.apply.snippet import indent, name_of

Costs = NDArray[np.float32]

WORD = 0.9
"""What a line weighs at least that is more than brackets."""


class Original(Struct, frozen=True):
    """The lines of a file [n]: without the space around them, and how far each is indented."""

    lines: list[str]
    stripped: list[str]
    places: dict[str, list[int]]
    """Of each line without the space around it."""
    spaced: dict[str, list[int]]
    """The same without any space in them."""
    named: dict[str, list[int]]
    indents: NDArray[np.int32]
    next_indent: NDArray[np.int32]
    """How far the first line from here on is indented that is not empty [n + 1]; -1 behind the last."""
    weights: Costs


def read_original(lines: Sequence[str]) -> Original:
    """Look at a file once."""
    stripped = [line.strip() for line in lines]
    places: dict[str, list[int]] = {}
    spaced: dict[str, list[int]] = {}
    named: dict[str, list[int]] = {}
    for place, text in enumerate(stripped):
        places.setdefault(text, []).append(place)
        spaced.setdefault(without_space(text), []).append(place)
        if name := name_of(text):
            named.setdefault(name, []).append(place)
    indents = np.array([indent(line) for line in lines], dtype=np.int32)
    following = np.full(len(lines) + 1, -1, dtype=np.int32)
    for place in range(len(lines) - 1, -1, -1):
        following[place] = indents[place] if indents[place] >= 0 else following[place + 1]
    weights = np.array([weight(text) for text in stripped], dtype=np.float32)
    return Original(list(lines), stripped, places, spaced, named, indents, following, weights)


def without_space(text: str) -> str:
    """Return what a line says apart from how it is spaced."""
    return "".join(text.split())


def weight(text: str) -> float:
    """Return how much a line says, from 0 to 1: an empty one, brackets alone, a short word, anything else."""
    if not text:
        return 0.02
    said = sum(map(str.isalnum, text))
    return 0.8 if said == 0 else 0.9 if said <= 4 else 1.0
