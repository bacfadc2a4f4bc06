"""Decides from which probability on a multi_label model selects each label: the one with the best F1 on held-out rows.

One threshold for all does not do: a rare label's probabilities seldom reach a half. But the best threshold of a label
with five rows is chance, so each label's counts are joined by those of PRIOR_ROWS average rows that have the label.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reflexd.engine.calibration import probabilities
from reflexd.engine.evaluation import HeldOut, dealt, select
from reflexd.engine.heads import Members
from reflexd.registry.artifacts import Calibration

PRIOR_ROWS = 10.0
LOWEST, HIGHEST = 0.03, 0.97
GRID = np.linspace(LOWEST, HIGHEST, 95)

Values = NDArray[np.float64]


def choose_thresholds(held: HeldOut, calibration: Calibration, prior_rows: float = PRIOR_ROWS) -> list[float]:
    """Return a threshold for each label, for the probabilities that the calibration makes of the logits.

    Each maximises F1 = 2 TP / (TP + FP + P) with prior_rows * (mean over the labels of TP/P, FP/P, 1) added to TP, FP
    and P. So a label without rows gets the threshold that is best for the average label, and one with many its own.
    """
    positives = held.truth.sum(axis=0).astype(np.float64)
    caught, false = _counts(held, calibration.temperature)
    known = positives > 0
    if not known.any():
        return [0.5] * len(positives)
    average_caught = (caught[known] / positives[known, None]).mean(axis=0)
    average_false = (false[known] / positives[known, None]).mean(axis=0)
    caught += prior_rows * average_caught
    f1 = 2 * caught / (caught + false + prior_rows * average_false + (positives + prior_rows)[:, None])
    return [_middle_of_the_best(line) for line in f1]


def decide_held_out(held: HeldOut, calibration: Calibration) -> Members:
    """Return the decisions [n, labels] that an honest score counts: each row's by thresholds chosen on other rows."""
    decided = np.zeros(held.logits.shape, dtype=np.bool_)
    for choose, judge in dealt(len(held.truth)):
        thresholds = choose_thresholds(select(held, choose), calibration)
        decided[judge] = probabilities(held.logits[judge], calibration.temperature, "multi_label") >= thresholds
    return decided


def _counts(held: HeldOut, temperature: float) -> tuple[Values, Values]:
    """Return how many rows with and without each label reach each threshold of the grid [labels, thresholds]."""
    labels = held.truth.shape[1]
    caught, false = np.empty((labels, len(GRID))), np.empty((labels, len(GRID)))
    scaled = held.logits.astype(np.float64) / temperature
    bars = np.log(GRID / (1 - GRID))
    for label in range(labels):
        with_it = held.truth[:, label].astype(np.bool_)
        for counts, rows in ((caught, with_it), (false, ~with_it)):
            values = np.sort(scaled[rows, label])
            counts[label] = len(values) - np.searchsorted(values, bars)
    return caught, false


def _middle_of_the_best(f1: Values) -> float:
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    return round(float(GRID[best[len(best) // 2]]), 4)
