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
from sklearn.metrics import f1_score, precision_recall_fscore_support
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

from reflexd.engine.heads import Matrix, Members, Targets, logits_of
from reflexd.registry.artifacts import Calibration, Head

Fit = Callable[[Matrix, Targets], Head]

CROSS_VALIDATED_ROWS = 2_000
FOLDS = 5
THRESHOLD = 0.5
"""A multi_label model selects a label from this probability on; a logit of 0, whatever the temperature."""


class HeldOut(Struct, frozen=True):
    """Logits [n, labels] of held-out rows, their truth (n classes, or [n, labels] memberships), how they were held."""

    logits: Matrix
    truth: Targets
    method: str


def hold_out(
    vectors: Matrix, targets: Targets, labels: int, fit: Fit, seed: int, seen: NDArray[np.bool_] | None = None
) -> HeldOut | None:
    """Score every row (or a fifth of many) with a head fitted without it; None where no row can be spared.

    A row that alone has one of its labels is always trained on and never scored, and so is one that the base model has
    `seen`.
    """
    counts = label_counts(targets, labels)
    scarce = counts < 2
    alone = targets[:, scarce].any(axis=1) if targets.ndim == 2 else scarce[targets]
    kept = alone if seen is None else alone | seen
    spare, always = np.flatnonzero(~kept), np.flatnonzero(kept)
    if spare.size < 2:
        return None
    strata = _strata(targets[spare], counts)
    if spare.size > CROSS_VALIDATED_ROWS:
        least = len(np.unique(strata)) / spare.size
        splitter: Any = StratifiedShuffleSplit(n_splits=1, test_size=max(0.2, least), random_state=seed)
        method = "held-out fifth"
    else:
        folds = int(min(FOLDS, np.bincount(strata).max()))  # a label with fewer rows stands in as many folds as it has
        splitter = StratifiedKFold(n_splits=folds, shuffle=True, random_state=seed)
        method = f"{folds}-fold cross-validation"
    logits, truth = [], []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        splits = list(splitter.split(spare, strata))
    for train, test in splits:
        chosen = np.concatenate([spare[train], always])
        logits.append(logits_of(fit(vectors[chosen], targets[chosen]), vectors[spare[test]]))
        truth.append(targets[spare[test]])
    return HeldOut(np.concatenate(logits), np.concatenate(truth), method)


def label_counts(targets: Targets, labels: int) -> NDArray[np.int64]:
    """Return how many rows have each label [labels]."""
    counts: NDArray[np.int64] = targets.sum(axis=0) if targets.ndim == 2 else np.bincount(targets, minlength=labels)
    return counts


def _strata(targets: Targets, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the group of each row, spread evenly over the folds: its class, or the rarest of its labels.

    A row that would be a group of its own goes with the largest one.
    """
    strata = targets
    if targets.ndim == 2:
        rarest_first = np.argsort(counts, kind="stable")
        rarest = rarest_first[targets[:, rarest_first].argmax(axis=1)]
        strata = np.where(targets.any(axis=1), rarest, len(counts))
    sizes = np.bincount(strata)
    strata = np.where(sizes[strata] < 2, sizes.argmax(), strata)
    return strata.astype(np.int64)


def report(
    held: HeldOut | None, targets: Targets, labels: list[str], calibration: Calibration, why_none: str
) -> dict[str, Any]:
    """Return the job's `result`: accuracy and macro-F1 (0 to 1, or None), and what is needed to judge them.

    A multi_label row is right where its set of labels is exactly right. `why_none` says why no row could be held out.
    """
    several = targets.ndim == 2
    commonest = np.unique(targets, axis=0, return_counts=True)[1].max()
    out: dict[str, Any] = {
        "accuracy": None,
        "f1_score": None,
        "n": 0,
        "method": f"none: {why_none}",
        "baseline": {"majority": round(float(commonest / len(targets)), 4)},
        "calibration": calibration.method,
    }
    if several:
        out |= {"accuracy_of": "exact label sets", "micro_f1": None}
    if held is None:
        return out
    predicted = decide(held.logits) if several else held.logits.argmax(axis=1)
    matches = predicted == held.truth
    right, n = int((matches.all(axis=1) if several else matches).sum()), len(held.truth)
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
    if several:
        out["micro_f1"] = round(float(f1_score(held.truth, predicted, average="micro", zero_division=0.0)), 4)
    return out | {
        "accuracy": round(right / n, 4),
        "f1_score": round(float(f1[scored].mean()), 4) if scored.any() else None,
        "n": n,
        "interval": [round(low, 4), round(high, 4)],
        "method": held.method,
        "per_label": per_label,
    }


def decide(logits: Matrix) -> Members:
    """Return which labels a multi_label model selects [rows, labels]: those whose probability reaches THRESHOLD."""
    chosen: Members = logits >= np.log(THRESHOLD / (1 - THRESHOLD))
    return chosen


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion."""
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return max(0.0, centre - half), min(1.0, centre + half)
