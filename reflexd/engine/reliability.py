"""Decides how far confidences are from what comes true: the expected calibration error, and the bins that show it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from reflexd.engine.calibration import calibrate, probabilities
from reflexd.engine.evaluation import HeldOut, dealt, select

BINS = 15
ROWS_A_BIN = 20
"""Fewer would make a bin's accuracy mere chance."""

Values = NDArray[np.float64]
Hits = NDArray[np.bool_]


def honest_confidences(held: HeldOut) -> tuple[Values, Hits]:
    """Return how sure each decision was and whether it was right, by temperatures found on other held-out rows.

    One decision a row for single_label (the likeliest label), one for each row and label for multi_label (the label's
    probability, and whether the row has it).
    """
    several = held.truth.ndim == 2
    found = np.empty(held.logits.shape)
    for choose, judge in dealt(len(held.truth)):
        temperature = calibrate(select(held, choose)).temperature
        found[judge] = probabilities(held.logits[judge], temperature, "multi_label" if several else "single_label")
    if several:
        return found.ravel(), held.truth.ravel().astype(np.bool_)
    return found.max(axis=1), found.argmax(axis=1) == held.truth


def served_confidences(held: HeldOut, temperature: float) -> tuple[Values, Hits]:
    """Return the same at one temperature, for rows that had no say in it."""
    several = held.truth.ndim == 2
    found = probabilities(held.logits, temperature, "multi_label" if several else "single_label")
    if several:
        return found.ravel(), held.truth.ravel().astype(np.bool_)
    return found.max(axis=1), found.argmax(axis=1) == held.truth


def _bins(confidences: Values) -> list[NDArray[np.int64]]:
    """Return the places of the decisions in bins of (nearly) equal size, the least sure ones first."""
    count = max(1, min(BINS, len(confidences) // ROWS_A_BIN))
    return np.array_split(np.argsort(confidences, kind="stable"), count)


def expected_error(confidences: Values, hits: Hits) -> float:
    """Return the expected calibration error (0 to 1) over bins of equal size, less what is mere chance.

    A perfectly calibrated bin is still off by chance, with a standard deviation s of sqrt(p (1 - p) / n). What normal
    noise of that size adds to the mean gap is taken away again (Kumar, Liang and Ma, 2019).
    """
    bins = _bins(confidences)
    size = np.array([len(bin_) for bin_ in bins])
    share = np.array([hits[bin_].mean() for bin_ in bins])
    gap = np.abs(share - np.array([confidences[bin_].mean() for bin_ in bins]))
    s = np.maximum(np.sqrt(share * (1 - share) / size), 1e-9)
    with_noise = s * np.sqrt(2 / np.pi) * np.exp(-((gap / s) ** 2) / 2) + gap * (1 - 2 * ndtr(-gap / s))
    return max(0.0, float(np.average(2 * gap - with_noise, weights=size)))


def reliability(confidences: Values, hits: Hits) -> list[dict[str, float]]:
    """Return what a reliability diagram shows: each bin's mean confidence, the share that came true, and its size."""
    return [
        {
            "confidence": round(float(confidences[bin_].mean()), 4),
            "accuracy": round(float(hits[bin_].mean()), 4),
            "n": len(bin_),
        }
        for bin_ in _bins(confidences)
    ]
