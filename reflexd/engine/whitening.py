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
"""Fewer rows say too little of how they vary."""

Matrix = NDArray[np.float32]


def within_labels(vectors: Matrix, classes: NDArray[np.int64]) -> Matrix:
    """Return the symmetric matrix [width, width] that vectors [rows, width] of labels [rows] are multiplied with.

    Afterwards they are as long as before in the root mean square, so that regularisation means what it meant.
    """
    _, own = np.unique(classes, return_inverse=True)
    counts = np.bincount(own)
    sums = np.zeros((len(counts), vectors.shape[1]))
    np.add.at(sums, own, vectors)
    means = sums / counts[:, None]
    within = vectors.T.astype(np.float64) @ vectors - (means * counts[:, None]).T @ means
    variances, directions = np.linalg.eigh(within / len(vectors))
    variances = np.maximum(variances, 0.0)
    if not variances.any():  # all rows of each label are identical
        return np.eye(vectors.shape[1], dtype=np.float32)
    variances += FLOOR * variances.mean()
    out = (directions * variances**-POWER) @ directions.T
    before, after = (np.square(some).sum() for some in (vectors, vectors @ out))
    scaled: Matrix = (out * np.sqrt(before / after)).astype(np.float32)
    return scaled
