"""Decides how much the directions count in which rows of one label differ: less, the more they differ there.

What varies among rows of the same label tells labels apart least, yet a head's penalty holds all directions alike.
Vectors are multiplied with S^(-1/4), S being the covariance within labels: half of what whitens them, for whole
whitening trusts the smallest variances too much. As that is linear, the head that is found multiplies vectors as they
come, and serving knows nothing of it. What it brings, on rows of train files: benchmarks/README.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

POWER = 0.25
FLOOR = 0.1
"""What is added to each variance, as a share of their mean: those that few rows show are not known well."""
LEAST_ROWS = 300
"""So many rows more than labels a job has at least: fewer say too little of how they vary."""
WIDEST = 2_048
"""The widest vectors: the time of a decomposition grows with the cube, and is 2 s for these."""
NOTHING = 1e-9
"""Variance, as a share of the vectors' mean square, that is rounding."""
BLOCK_ROWS = 4_096
"""Rows that stand in memory once more at once."""

Matrix = NDArray[np.float32]
Wide = NDArray[np.float64]


def within_labels(vectors: Matrix, classes: NDArray[np.int64]) -> Matrix:
    """Return the symmetric matrix [width, width] that vectors [rows, width] of labels [rows] are multiplied with.

    Afterwards they are as long as before in the root mean square; where the rows of each label are all alike, it leaves
    them as they are.
    """
    width = vectors.shape[1]
    square, within = _products(vectors, classes)
    if np.trace(within) <= NOTHING * np.trace(square):
        return np.eye(width, dtype=np.float32)
    variances, directions = np.linalg.eigh(within)
    variances = np.maximum(variances, 0.0)
    variances += FLOOR * variances.mean()
    out = (directions * variances**-POWER) @ directions.T
    scaled: Matrix = (out * np.sqrt(np.trace(square) / ((square @ out) * out).sum())).astype(np.float32)
    return scaled


def _products(vectors: Matrix, classes: NDArray[np.int64]) -> tuple[Wide, Wide]:
    """Return the mean product [width, width] of rows with themselves, and that of what sets them off their label."""
    _, own = np.unique(classes, return_inverse=True)
    counts = np.bincount(own)
    square, sums = np.zeros((vectors.shape[1],) * 2), np.zeros((len(counts), vectors.shape[1]))
    for start in range(0, len(vectors), BLOCK_ROWS):
        block, labels = vectors[start : start + BLOCK_ROWS].astype(np.float64), own[start : start + BLOCK_ROWS]
        square += block.T @ block
        sums += (labels == np.arange(len(counts))[:, None]) @ block
    between = (sums / counts[:, None]).T @ sums
    return square / len(vectors), (square - between) / len(vectors)
