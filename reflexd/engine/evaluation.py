"""Decides the score that a job reports: from rows that the scored head never saw, with its interval and baseline.

Up to 2,000 rows by stratified cross-validation (every row is held out once), above by one stratified fifth. The head
that is served is then fitted on all rows, so the score is a little pessimistic.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn.metrics import precision_recall_fscore_support
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

from reflexd.registry.artifacts import Calibration, Head

Matrix = NDArray[np.float32]
Classes = NDArray[np.int64]
Fit = Callable[[Matrix, Classes], Head]

CROSS_VALIDATED_ROWS = 2_000
FOLDS = 5
CALIBRATION_ROWS = 50
"""Fewer held-out rows than this make a temperature worse than none."""


class HeldOut(Struct, frozen=True):
    """Logits [n, labels] of held-out rows, their true classes [n], and how they were held out."""

    logits: Matrix
    truth: Classes
    method: str


def logits_of(head: Head, vectors: Matrix) -> Matrix:
    """Return logits [rows, labels] of vectors [rows, width]."""
    out: Matrix = vectors @ head.weight.T + head.bias
    return out


def hold_out(vectors: Matrix, classes: Classes, labels: int, fit: Fit, seed: int) -> HeldOut | None:
    """Score every row (or a fifth of many) with a head fitted without it; None where no row can be spared.

    A label with one distinct row is always trained on and never scored.
    """
    counts = np.bincount(classes, minlength=labels)
    spare = np.flatnonzero(counts[classes] >= 2)
    alone = np.flatnonzero(counts[classes] < 2)
    if spare.size == 0:
        return None
    if spare.size > CROSS_VALIDATED_ROWS:
        splitter: Any = StratifiedShuffleSplit(n_splits=1, test_size=max(0.2, labels / spare.size), random_state=seed)
        method = "held-out fifth"
    else:
        folds = int(min(FOLDS, counts.max()))  # a label with fewer rows stands in as many folds as it has rows
        splitter = StratifiedKFold(n_splits=folds, shuffle=True, random_state=seed)
        method = f"{folds}-fold cross-validation"
    logits, truth = [], []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        splits = list(splitter.split(spare, classes[spare]))
    for train, test in splits:
        chosen = np.concatenate([spare[train], alone])
        logits.append(logits_of(fit(vectors[chosen], classes[chosen]), vectors[spare[test]]))
        truth.append(classes[spare[test]])
    return HeldOut(np.concatenate(logits), np.concatenate(truth), method)


def calibrate(held: HeldOut | None) -> Calibration:
    """Return the temperature that makes held-out probabilities likeliest; 1 where there are too few rows to tell.

    The truth is taken as 1 - 1/(n + 2) sure and not as 1 (the rule of succession): where all n held-out rows came out
    right, the likeliest temperature would be 0, and every later confidence 1.
    """
    if held is None or len(held.truth) < CALIBRATION_ROWS:
        return Calibration(method="none", temperature=1.0, rows=0 if held is None else len(held.truth))
    rows, labels = np.arange(len(held.truth)), held.logits.shape[1]
    doubt = 1 / (len(rows) + 2)

    def loss(log_temperature: float) -> float:
        scaled = held.logits.astype(np.float64) / np.exp(log_temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        true = scaled[rows, held.truth]
        others = (scaled.sum(axis=1) - true) / (labels - 1)
        return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - (1 - doubt) * true - doubt * others))

    found = minimize_scalar(loss, bounds=(np.log(0.02), np.log(20.0)), method="bounded")
    return Calibration(method="temperature", temperature=float(np.exp(found.x)), rows=len(rows))


def report(held: HeldOut | None, classes: Classes, labels: list[str], calibration: Calibration) -> dict[str, Any]:
    """Return the job's `result`: accuracy and macro-F1 (0 to 1, or None), and what is needed to judge them."""
    majority = float(np.bincount(classes).max() / len(classes))
    out: dict[str, Any] = {
        "accuracy": None,
        "f1_score": None,
        "n": 0,
        "method": "none: every label has a single distinct row",
        "baseline": {"majority": round(majority, 4)},
        "calibration": calibration.method,
    }
    if held is None:
        return out
    predicted = held.logits.argmax(axis=1)
    right, n = int((predicted == held.truth).sum()), len(held.truth)
    precision, recall, f1, support = precision_recall_fscore_support(
        held.truth, predicted, labels=np.arange(len(labels)), zero_division=0.0
    )
    scored = support > 0
    low, high = wilson(right, n)
    per_label = {
        label: {
            "precision": round(float(precision[i]), 4),
            "recall": round(float(recall[i]), 4),
            "f1_score": round(float(f1[i]), 4),
            "n": int(support[i]),
        }
        for i, label in enumerate(labels)
    }
    return out | {
        "accuracy": round(right / n, 4),
        "f1_score": round(float(f1[scored].mean()), 4),
        "n": n,
        "interval": [round(low, 4), round(high, 4)],
        "method": held.method,
        "per_label": per_label,
    }


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion."""
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return max(0.0, centre - half), min(1.0, centre + half)
