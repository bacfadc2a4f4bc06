"""Decides how usual a text is for a model: the share of its own rows that lie at least as far from the labels' means.

What is measured here in training is looked up in serving by engine/panel.py.

The distance is Euclidean, to the nearest of the labels' mean vectors. Against texts of other sets and out-of-scope
texts it told strangers apart as well as the Mahalanobis distance and the nearest rows did, which need a matrix of
width x width or every row; the head's own confidence did much worse.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reflexd.engine.heads import Matrix, Targets
from reflexd.registry.artifacts import Domain

METHOD = "euclidean distance to the nearest label mean"
QUANTILES = 256
LEAST_ROWS = 10
"""A share of fewer rows says nothing."""
BLOCK_ROWS = 4_096
"""Rows whose distances stand in memory at once."""

Distances = NDArray[np.float32]


def fit_domain(vectors: Matrix, targets: Targets, labels: int) -> Domain | None:
    """Return what `in_domain` needs, from the rows [rows, width] that the head is fitted on; None for too few rows."""
    if len(vectors) < LEAST_ROWS:
        return None
    return domain_of(label_means(vectors, targets, labels)[0], left_out_distances(vectors, targets, labels))


def domain_apart(
    vectors: Matrix,
    targets: Targets,
    labels: int,
    parts: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    folds: Sequence[Matrix],
) -> Domain | None:
    """Return the domain of rows whose encoder was tuned on them: their distances are taken where it was not.

    `folds` are the vectors of all rows [rows, width] as the encoder of each part (rows tuned on, rows held out) makes
    them.
    """
    distances = [
        _distances(label_means(made[train], targets[train], labels)[0], made[held]).min(axis=1)
        for (train, held), made in zip(parts, folds, strict=True)
    ]
    apart = np.concatenate(distances)
    return domain_of(label_means(vectors, targets, labels)[0], apart) if len(apart) >= LEAST_ROWS else None


def domain_of(means: Matrix, distances: Distances) -> Domain:
    """Return the domain of these means [labels, width] and of the distances of rows that they were not made of [n]."""
    spread = np.quantile(distances, np.linspace(0, 1, QUANTILES)).astype(np.float32)
    return Domain(
        means=means, squares=(means * means).sum(axis=1), quantiles=spread, rows=len(distances), method=METHOD
    )


def label_means(vectors: Matrix, targets: Targets, labels: int) -> tuple[Matrix, NDArray[np.int64]]:
    """Return the mean vector of each label that has rows, and its rows' number; rows without any label make one too."""
    members = _members(targets, labels)
    counts = members.sum(axis=0)
    present = counts > 0
    means: Matrix = (members[:, present].T.astype(np.float32) @ vectors) / counts[present, None].astype(np.float32)
    return means.astype(np.float32), counts[present]


def left_out_distances(vectors: Matrix, targets: Targets, labels: int) -> Distances:
    """Return how far each row is from the nearest mean, when the row itself is left out of the means [rows].

    Leaving one of n rows out moves their mean away from it, to n / (n - 1) times the distance.
    """
    means, counts = label_means(vectors, targets, labels)
    members = _members(targets, labels)
    members = members[:, members.any(axis=0)]
    factor = np.where(counts > 1, counts / np.maximum(counts - 1, 1), np.inf).astype(np.float32)
    out = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        distances = _distances(means, vectors[part])
        out[part] = np.where(members[part], np.maximum(distances, 1e-6) * factor, distances).min(axis=1)
    return out


def _distances(means: Matrix, vectors: Matrix) -> Matrix:
    squares = (vectors * vectors).sum(axis=1)[:, None] - 2 * vectors @ means.T + (means * means).sum(axis=1)
    out: Matrix = np.sqrt(np.maximum(squares, 0))
    return out


def _members(targets: Targets, labels: int) -> NDArray[np.bool_]:
    """Return which rows each mean is made of [rows, labels + 1]; the last one is of the rows without a label."""
    if targets.ndim == 2:
        return np.column_stack([targets.astype(np.bool_), ~targets.any(axis=1)])
    members = np.zeros((len(targets), labels + 1), dtype=np.bool_)
    members[np.arange(len(targets)), targets] = True
    return members
