"""Decides how far the accuracy that is told may lie from the one on other rows: the 95 % interval of a result.

Wilson's interval of a proportion is the start. Two things make it too narrow, and widen it here:

folds    Where folds were scored their heads share most of their rows. On draws of 16 and 64 rows a label from eight
         train files the cross-validated accuracy lay 1.0 to 1.4 times the binomial standard deviation from that on
         other rows, and Wilson's interval held the latter in 87 to 93 % of draws (Bates, Hastie and Tibshirani, 2023).
shares   Where most labels have as many rows as each other they were mostly chosen so, and say nothing of how often each
         label will be met. All shares are then taken for equally likely (a flat Dirichlet distribution), and the
         accuracy varies with them as far as the labels' recalls differ by more than chance. Labels that are met equally
         often by nature look the same: their interval is wider than it need be.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reflexd.engine.evaluation import HeldOut, label_counts, wilson
from reflexd.engine.heads import Targets

Z = 1.96
SPREAD = 1.3
EVEN = 0.1
"""Numbers of rows up to this share below the largest one count as equal to it, but of many rows only twice its root:
repeats were left out of rows that were chosen evenly, and that is what parts them."""


def interval(held: HeldOut, right: NDArray[np.bool_], targets: Targets, labels: int) -> tuple[float, float]:
    """Return the 95 % interval of the accuracy on other rows.

    `right` [n] says which held-out rows came out right; `targets` are all rows of the job.
    """
    n, share = len(right), float(right.mean())
    variance = max(share * (1 - share), 1 / (n + 2)) / n
    wider = SPREAD**2 if len(np.unique(held.folds)) > 1 else 1.0
    if targets.ndim == 1 and _made_even(label_counts(targets, labels)):
        wider += _of_other_shares(held.truth, right, labels) / variance
    return wilson(int(right.sum()), n, Z * float(np.sqrt(wider)))


def _made_even(counts: NDArray[np.int64]) -> bool:
    most = counts.max()
    apart = max(1.0, min(EVEN * most, 2 * np.sqrt(most)))
    return bool(np.mean(counts[counts > 0] >= most - apart) > 0.5)


def _of_other_shares(truth: Targets, right: NDArray[np.bool_], labels: int) -> float:
    """Return the variance of the accuracy over all label shares, less what chance alone makes of equal recalls."""
    counts = label_counts(truth, labels)
    there = counts > 1
    counts = counts[there]
    if len(counts) < 2:
        return 0.0
    recall = np.bincount(truth, weights=right, minlength=labels)[there] / counts
    by_chance = float(np.mean(recall * (1 - recall) / (counts - 1)))
    return max(0.0, float(recall.var(ddof=1)) - by_chance) * (len(counts) - 1) / len(counts) / (len(counts) + 1)
