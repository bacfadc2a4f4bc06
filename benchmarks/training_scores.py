"""Decides the statistics of the training benchmark: how calibrated confidences are, and how sure a difference is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

BINS = 15
RESAMPLES = 10_000
CHUNK = 500

Floats = NDArray[np.float64]


class Difference(Struct, frozen=True):
    """A mean difference of accuracies and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def debiased_ece(confidences: Sequence[float], correct: Sequence[bool], bins: int = BINS) -> float:
    """Return the debiased expected calibration error of Kumar, Liang and Ma (2019), in equal-mass bins.

    With, in bin b of n_b of n rows, the mean confidence c_b and the accuracy a_b:

        E^2 = sum over b of n_b / n * ((c_b - a_b)^2 - a_b * (1 - a_b) / (n_b - 1)),    ECE = sqrt(max(0, E^2))

    The second term is the variance that a_b has by chance; without it, perfect confidences would be charged for how few
    rows a bin holds. It is the root mean square of the bins' errors, which is never less than their mean. Raises
    ValueError where a bin would have fewer than two rows.
    """
    said, right = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if len(said) != len(right) or len(said) < 2 * bins:
        raise ValueError(f"{len(said)} confidences and {len(right)} outcomes do not fill {bins} bins of two rows")
    squared = 0.0
    for places in np.array_split(np.argsort(said, kind="stable"), bins):
        accuracy = right[places].mean()
        by_chance = accuracy * (1 - accuracy) / (len(places) - 1)
        squared += len(places) / len(said) * ((said[places].mean() - accuracy) ** 2 - by_chance)
    return float(np.sqrt(max(0.0, squared)))


def paired_bootstrap(sets: Sequence[Floats], seed: int = 0, resamples: int = RESAMPLES) -> Difference:
    """Return the mean over sets of a mean difference, with an interval over test rows and seeds.

    Each of `sets` is an array [seeds, test rows] of one side's correctness minus the other's (-1, 0 or 1, or the mean
    of several sizes of training sets). A resample draws, within each set, seeds and test rows with replacement, the
    same ones for both sides; the sets are kept.
    """
    random = np.random.default_rng(seed)
    total = np.zeros(resamples)
    for differences in sets:
        seeds, rows = differences.shape
        for start in range(0, resamples, CHUNK):
            size = min(CHUNK, resamples - start)
            of_rows = random.multinomial(rows, np.full(rows, 1 / rows), size) / rows
            of_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), size) / seeds
            total[start : start + size] += ((of_rows @ differences.T) * of_seeds).sum(axis=1)
    low, high = np.quantile(total / len(sets), (0.025, 0.975))
    return Difference(float(np.mean([differences.mean() for differences in sets])), float(low), float(high))


def as_array(correct: str) -> Floats:
    """Return a string of 0 and 1 as numbers."""
    return np.array([float(character) for character in correct])
