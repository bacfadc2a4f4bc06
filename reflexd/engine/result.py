"""Decides what a job's `result` says of its held-out rows: the score, its interval, the errors and the baselines.

It lands in the job's JSON, so every list in it has a greatest length, and what was left out is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

from reflexd.engine.calibration import CALIBRATION_ROWS
from reflexd.engine.evaluation import HeldOut
from reflexd.engine.heads import Targets
from reflexd.engine.interval import interval
from reflexd.engine.reliability import Hits, Values, expected_error, honest_confidences, reliability
from reflexd.registry.artifacts import Calibration

CONFUSIONS = 50
LABELS = 250
MATRIX_LABELS = 30
"""The whole confusion matrix is reported up to so many labels."""


def report(
    held: HeldOut | None,
    targets: Targets,
    labels: list[str],
    calibration: Calibration,
    why_none: str,
    predicted: Targets | None,
    tfidf: Targets | None,
    confidences_of: Callable[[HeldOut], tuple[Values, Hits]] = honest_confidences,
) -> dict[str, Any]:
    """Return the job's `result`: accuracy and macro-F1 (0 to 1, or None), and what is needed to judge them.

    A multi_label row is right where its set of labels is exactly right. `predicted` are the decisions for the held-out
    rows, and `tfidf` those of the baseline where there is one. `why_none` says why no row could be held out;
    `confidences_of` is as reliability.py has them.
    """
    several = targets.ndim == 2
    commonest = np.unique(targets, axis=0, return_counts=True)[1].max()
    baseline: dict[str, Any] = {"majority": round(float(commonest / len(targets)), 4), "tfidf": None}
    out: dict[str, Any] = {
        "accuracy": None,
        "f1_score": None,
        "n": 0,
        "method": f"none: {why_none}",
        "baseline": baseline,
        "calibration": calibration.method,
        "ece": None,
    }
    if several:
        out |= {"accuracy_of": "exact label sets", "micro_f1": None}
    if held is None or predicted is None:
        return out
    rows = matches(held.truth, predicted)
    right, n = int(rows.sum()), len(held.truth)
    low, high = interval(held, rows, targets, len(labels))
    if tfidf is not None:
        baseline["tfidf"] = {
            "accuracy": round(float(matches(held.truth, tfidf).mean()), 4),
            "f1_score": _macro_f1(held.truth, tfidf, len(labels)),
        }
    if several:
        out["micro_f1"] = round(float(f1_score(held.truth, predicted, average="micro", zero_division=0.0)), 4)
    else:
        out["confusion"] = confusion(held.truth.astype(np.int64), predicted.astype(np.int64), labels)
    if n >= CALIBRATION_ROWS:
        confidences, hits = confidences_of(held)
        out["ece"] = round(expected_error(confidences, hits), 4)
        out["reliability"] = reliability(confidences, hits)
    return out | {
        "accuracy": round(right / n, 4),
        "f1_score": _macro_f1(held.truth, predicted, len(labels)),
        "n": n,
        "interval": [round(low, 4), round(high, 4)],
        "method": held.method,
        "per_label": _per_label(held.truth, predicted, labels),
        "per_label_left_out": max(0, len(labels) - LABELS),
    }


def confusion(truth: NDArray[np.int64], predicted: NDArray[np.int64], labels: list[str]) -> dict[str, Any]:
    """Return the most frequent wrong answers, how many pairs of labels were left out, and a small matrix whole.

    `matrix` has a line for each true label and a column for each predicted one, in the order of the labels; None where
    there are more than MATRIX_LABELS of them.
    """
    pairs, counts = np.unique(np.column_stack([truth, predicted])[truth != predicted], axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    matrix = None
    if len(labels) <= MATRIX_LABELS:
        matrix = confusion_matrix(truth, predicted, labels=np.arange(len(labels))).tolist()
    return {
        "pairs": [
            {"truth": labels[pairs[i][0]], "predicted": labels[pairs[i][1]], "n": int(counts[i])}
            for i in order[:CONFUSIONS]
        ],
        "pairs_left_out": max(0, len(order) - CONFUSIONS),
        "matrix": matrix,
    }


def matches(truth: Targets, predicted: Targets) -> NDArray[np.bool_]:
    """Return which rows are right [n]: of a multi_label row, the whole set."""
    same: NDArray[np.bool_] = np.equal(truth, predicted)
    right: NDArray[np.bool_] = np.all(same.reshape(len(same), -1), axis=1)
    return right


def _macro_f1(truth: Targets, predicted: Targets, labels: int) -> float | None:
    """Return the mean F1 over the labels that any held-out row has; None where there is none."""
    _, _, f1, support = precision_recall_fscore_support(truth, predicted, labels=np.arange(labels), zero_division=0.0)
    return round(float(f1[support > 0].mean()), 4) if (support > 0).any() else None


def _per_label(truth: Targets, predicted: Targets, labels: list[str]) -> dict[str, Any]:
    """Return precision, recall, F1 and rows of each label, in the labels' order; of more than LABELS the worst ones."""
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=np.arange(len(labels)), zero_division=0.0
    )
    worst = np.argsort(np.where(support > 0, f1, 1.0), kind="stable")[:LABELS]
    return {
        labels[i]: {
            "precision": round(float(precision[i]), 4),
            "recall": round(float(recall[i]), 4),
            "f1_score": round(float(f1[i]), 4),
            "n": int(support[i]),
        }
        for i in np.sort(worst)
    }
