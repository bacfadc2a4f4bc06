"""Decides how unit tests make held-out rows of logits that they have chosen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from reflexd.engine import evaluation
from reflexd.engine.evaluation import HeldOut, split
from reflexd.engine.heads import Matrix, Targets
from reflexd.registry.artifacts import Head


def held_out(logits: NDArray[np.float32], truth: Targets) -> HeldOut:
    """Return all rows of a set as held out in five folds."""
    places = np.arange(len(truth))
    return HeldOut(logits=logits, truth=truth, method="5-fold", places=places, folds=places % 5)


def hold_out(
    vectors: NDArray[np.float32],
    targets: Targets,
    labels: int,
    fit: Callable[[Matrix, Targets], Head],
    seed: int,
    seen: NDArray[np.bool_] | None = None,
) -> HeldOut | None:
    """Split the rows as a job does and score the held-out ones; None where no row can be spared."""
    parts = split(targets, labels, seed, seen)
    if parts is None:
        return None
    return evaluation.hold_out(parts, lambda _: vectors, targets, lambda _, x, y: fit(x, y))
