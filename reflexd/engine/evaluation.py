"""Decides which rows a job is scored on: rows that the scored head never saw, held out before anything is chosen.

Up to 2,000 rows by stratified cross-validation (every row is held out once), above by one stratified fifth. The head
that is served is then fitted on all rows, so the score is a little pessimistic.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

from reflexd.engine.heads import Matrix, Targets, logits_of
from reflexd.registry.artifacts import Head

Fit = Callable[[int, Matrix, Targets], Head]
"""Of the number of a part, and features and truth of the rows that it trains on."""
Places = NDArray[np.int64]

CROSS_VALIDATED_ROWS = 2_000
FOLDS = 5
HELD_OUT_ROWS = 1_000
"""Rows that are held out of many: an interval of 3 points at most, and the others are better trained on."""
PARTS = 5
"""Into so many parts held-out rows are dealt where something chosen on them is to be judged on them too."""
THRESHOLD = 0.5
"""A multi_label model selects a label from this probability on where too few rows are there to choose better ones."""


class HeldOut(Struct, frozen=True):
    """Logits [n, labels] of held-out rows, their truth (n classes, or [n, labels] memberships), how they were held."""

    logits: Matrix
    truth: Targets
    method: str
    places: NDArray[np.int64]
    """The place of each held-out row in the vectors that were given [n]."""
    folds: NDArray[np.int64]
    """The number of the fold that each row was held out in [n]; the head was fitted on all rows but that fold's."""


class Split(Struct, frozen=True):
    """Which rows are trained on and which are held out, by their places: each held-out row in one part only."""

    parts: list[tuple[Places, Places]]
    method: str


def split(
    targets: Targets,
    labels: int,
    seed: int,
    seen: NDArray[np.bool_] | None = None,
    *,
    folds: int = FOLDS,
    once: bool = False,
) -> Split | None:
    """Deal the rows into folds, or hold some of many out; None where no row can be spared.

    A row that alone has one of its labels is always trained on and never scored, and so is one that the base model has
    `seen`. With `once` some are held out whatever their number.
    """
    counts = label_counts(targets, labels)
    scarce = counts < 2
    alone = targets[:, scarce].any(axis=1) if targets.ndim == 2 else scarce[targets]
    kept = alone if seen is None else alone | seen
    spare, always = np.flatnonzero(~kept), np.flatnonzero(kept)
    if spare.size < 2:
        return None
    strata = _strata(targets[spare], counts)
    if once or spare.size > CROSS_VALIDATED_ROWS:
        sizes = np.bincount(strata)
        strata = np.where(sizes[strata] < 2, sizes.argmax(), strata)  # the splitter refuses a group of one row
        least = len(np.unique(strata)) / spare.size
        share = max(min(0.2, HELD_OUT_ROWS / spare.size), least)
        splitter: Any = StratifiedShuffleSplit(n_splits=1, test_size=share, random_state=seed)
        method = f"{share:.0%} of the rows held out"
    else:
        folds = int(min(folds, np.bincount(strata).max()))  # a label with fewer rows stands in as many folds as it has
        splitter = StratifiedKFold(n_splits=folds, shuffle=True, random_state=seed)
        method = f"{folds}-fold cross-validation"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        dealt_rows = list(splitter.split(spare, strata))
    return Split([(np.sort(np.concatenate([spare[train], always])), spare[test]) for train, test in dealt_rows], method)


def hold_out(parts: Split, features: Callable[[int], Matrix], targets: Targets, fit: Fit) -> HeldOut:
    """Score every held-out row with a head fitted without it, the rows in the order of their places.

    `features` gives those of all rows [rows, ...] as the encoder of a part, by its number, makes them.
    """
    logits, places, folds = [], [], []
    for number, (train, test) in enumerate(parts.parts):
        made = features(number)
        logits.append(logits_of(fit(number, made[train], targets[train]), made[test]))
        places.append(test)
        folds.append(np.full(len(test), number))
    held = np.concatenate(places)
    order = np.argsort(held)
    return HeldOut(
        logits=np.concatenate(logits)[order],
        truth=targets[held[order]],
        method=parts.method,
        places=held[order],
        folds=np.concatenate(folds)[order],
    )


def label_counts(targets: Targets, labels: int) -> NDArray[np.int64]:
    """Return how many rows have each label [labels]."""
    counts: NDArray[np.int64] = targets.sum(axis=0) if targets.ndim == 2 else np.bincount(targets, minlength=labels)
    return counts


def _strata(targets: Targets, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the group of each row, spread evenly over the folds: its class, or the rarest of its labels.

    Rows that would be groups of their own are one group together: in another label's group they could take its rows'
    places in the other folds, so that one fold holds out all rows of that label.
    """
    strata = targets
    if targets.ndim == 2:
        rarest_first = np.argsort(counts, kind="stable")
        rarest = rarest_first[targets[:, rarest_first].argmax(axis=1)]
        strata = np.where(targets.any(axis=1), rarest, len(counts))
    sizes = np.bincount(strata)
    strata = np.where(sizes[strata] < 2, len(counts) + 1, strata)
    return strata.astype(np.int64)


def select(held: HeldOut, rows: NDArray[np.bool_]) -> HeldOut:
    """Return the part of held-out rows that a mask [n] names."""
    return HeldOut(
        logits=held.logits[rows],
        truth=held.truth[rows],
        method=held.method,
        places=held.places[rows],
        folds=held.folds[rows],
    )


def dealt(rows: int) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Yield (choose on, judge on) [rows] for each of PARTS parts of held-out rows: each row is judged once.

    What is chosen on held-out rows (a temperature, a threshold) flatters itself on the same rows; chosen on the other
    parts it does not. Rows are dealt by lot, the same one each time, for they often come sorted by label.
    """
    part = np.random.default_rng(0).permutation(rows) % PARTS
    for number in range(min(PARTS, rows)):
        yield part != number, part == number


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion."""
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return max(0.0, centre - half), min(1.0, centre + half)
