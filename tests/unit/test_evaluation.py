"""Decides that no row is scored by a head that never saw its label."""

import numpy as np
import pytest

from reflexd.engine.evaluation import CROSS_VALIDATED_ROWS, split


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_each_held_out_row_has_its_label_in_the_rows_that_are_trained_on(folds: int) -> None:
    scored = 0
    for seed in range(500):  # a few rows a label, some of them seen by a base: with two folds this once went wrong
        rng = np.random.default_rng(seed)
        labels = int(rng.integers(2, 6))
        targets = np.repeat(np.arange(labels), rng.integers(1, 6, labels))
        parts = split(targets, labels, 0, rng.random(len(targets)) < 0.4, folds=folds)
        for trained, held in parts.parts if parts else []:
            scored += len(held)
            assert set(targets[held]) <= set(targets[trained]), (seed, targets)
    assert scored > 1_000


def test_a_label_with_one_row_to_spare_among_many_rows() -> None:
    targets = np.repeat([0, 1, 2], [CROSS_VALIDATED_ROWS, 500, 2])
    seen = np.zeros(len(targets), dtype=bool)
    seen[-1] = True
    parts = split(targets, 3, 0, seen)
    assert parts is not None
    [(trained, held)] = parts.parts
    assert len(trained) + len(held) == len(targets)
    assert len(targets) - 1 in trained  # the base has seen it
