"""Decides which rows say the same, or nearly the same, under different labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from reflexd.engine.heads import Matrix, Targets

NEAR = 0.95
"""Cosine from which on two texts count as near-duplicates. Pairs across labels in banking77, clinc150 and TREC-6 read
the same from about here ("Someone took my card without my permission" and "Someone used ..."), a half to three quarters
of a thousandth of the rows are in one, and SST-2 has none; at 0.90 most pairs are different questions in like words."""
MOST_COMPARED = 10_000
"""Every row is compared with every other one: a second of one core for so many."""
BLOCK_ROWS = 512
MOST_PAIRS = 10


class NearDuplicates(Struct, frozen=True):
    """The closest pairs of rows across labels (at most MOST_PAIRS), their number, and how many rows were compared."""

    pairs: list[tuple[int, int]]
    count: int
    looked_at: int


def same_text(texts: Sequence[str], vectors: Matrix) -> NDArray[np.int64]:
    """Return a number for each row [rows], equal where texts are one but for case and blanks, or one to the encoder."""
    text_of: dict[bytes, str] = {}
    number_of: dict[str, int] = {}
    numbers = []
    for text, vector in zip(texts, vectors, strict=True):
        known = text_of.setdefault(vector.tobytes(), " ".join(text.casefold().split()))
        numbers.append(number_of.setdefault(known, len(number_of)))
    return np.array(numbers, dtype=np.int64)


def conflicting(same: NDArray[np.int64], targets: Targets) -> list[list[int]]:
    """Return groups of places of rows that are the `same_text` and have different labels."""
    groups: dict[int, list[int]] = {}
    for place, number in enumerate(same.tolist()):
        groups.setdefault(number, []).append(place)
    return [group for group in groups.values() if len(np.unique(targets[group], axis=0)) > 1]


def across_labels(same: NDArray[np.int64], targets: Targets, vectors: Matrix) -> NearDuplicates:
    """Return pairs of places of rows that nearly say the same and have no label in common.

    Rows that are the `same_text` are `conflicting`, and no near-duplicates; rows without any label stand in no pair.
    """
    looked_at = np.arange(len(same))
    if len(same) > MOST_COMPARED:
        looked_at = np.linspace(0, len(same) - 1, MOST_COMPARED).astype(np.int64)
    unit = vectors[looked_at] / np.maximum(np.linalg.norm(vectors[looked_at], axis=1, keepdims=True), 1e-12)
    same, targets = same[looked_at], targets[looked_at]
    closest: list[tuple[float, int, int]] = []
    count = 0
    for start in range(0, len(unit), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        cosines = np.triu(unit[block] @ unit[start:].T, 1)  # a row's pairs with those before it were seen there
        near = cosines >= NEAR
        if not near.any():
            continue
        near &= (same[block][:, None] != same[start:]) & _disjoint(targets[block], targets[start:])
        pairs = int(near.sum())
        if not pairs:
            continue
        count += pairs
        most = min(MOST_PAIRS, pairs)
        best = np.argpartition(np.where(near, cosines, -1.0).ravel(), -most)[-most:]
        for row, other in zip(*np.unravel_index(best, near.shape), strict=True):
            closest.append((float(cosines[row, other]), int(looked_at[start + row]), int(looked_at[start + other])))
    closest.sort(key=lambda pair: -pair[0])
    return NearDuplicates([(one, two) for _, one, two in closest[:MOST_PAIRS]], count, len(looked_at))


def _disjoint(some: Targets, others: Targets) -> NDArray[np.bool_]:
    """Return which rows of one part and of another have labels, and none in common [some, others]."""
    if some.ndim == 1:
        different: NDArray[np.bool_] = np.not_equal.outer(some, others)
        return different
    common = some.astype(np.float32) @ others.T.astype(np.float32)
    labelled: NDArray[np.bool_] = np.logical_and.outer(np.any(some, axis=1), np.any(others, axis=1))
    apart: NDArray[np.bool_] = labelled & (common == 0)
    return apart
