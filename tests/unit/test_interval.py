"""Shows that the interval of a result holds what comes true, also for few rows and labels met in other shares."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from reflexd.engine.evaluation import HeldOut, split, wilson
from reflexd.engine.heads import fit_head, logits_of
from reflexd.engine.interval import SPREAD, Z, _made_even, interval
from tests.unit.held import held_out

Rows = tuple[NDArray[np.float32], NDArray[np.int64]]


def drawn(random: np.random.Generator, counts: list[int], strength: list[float]) -> Rows:
    """Return noise in which each label's rows stand out along its own axis by its own strength."""
    classes = np.repeat(np.arange(len(counts)), counts)
    made = random.normal(size=(len(classes), 12))
    made[np.arange(len(classes)), classes] += np.asarray(strength)[classes]
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32), classes


def coverage(given: list[int], strength: list[float], alike: bool, trials: int = 150) -> tuple[float, float]:
    """Return how often the interval, and Wilson's own, hold the accuracy on many rows, met in alike or any shares."""
    held_by = np.zeros(2)
    for seed in range(trials):
        random = np.random.default_rng(seed)
        shares = np.full(len(given), 1 / len(given)) if alike else random.dirichlet(np.ones(len(given)))
        met = (1_000 * shares).astype(int).tolist()
        (x, y), (others, truth) = drawn(random, given, strength), drawn(random, met, strength)
        parts = split(y, len(given), seed)
        assert parts is not None
        right = np.zeros(len(y), np.bool_)
        folds = np.zeros(len(y), np.int64)
        for number, (train, test) in enumerate(parts.parts):
            right[test] = logits_of(fit_head(x[train], y[train], len(given)), x[test]).argmax(1) == y[test]
            folds[test] = number
        accuracy = (logits_of(fit_head(x, y, len(given)), others).argmax(1) == truth).mean()
        held = HeldOut(np.zeros((len(y), len(given)), np.float32), y, "folds", np.arange(len(y)), folds)
        for place, (low, high) in enumerate((interval(held, right, y, len(given)), wilson(right.sum(), len(y)))):
            held_by[place] += low <= accuracy <= high
    return held_by[0] / trials, held_by[1] / trials


def test_few_rows_scored_by_folds() -> None:
    ours, wilsons = coverage([16] * 3, [1.5] * 3, alike=True)
    assert ours >= 0.92 > wilsons + 0.04


def test_labels_that_are_met_in_other_shares_than_those_of_the_rows() -> None:
    ours, wilsons = coverage([40] * 3, [3.0, 1.0, 1.0], alike=False)
    assert ours >= 0.89 > wilsons + 0.18


@pytest.mark.parametrize(("counts", "even"), [
    ([16, 16, 16], True),
    ([16, 15, 3], True),
    ([64, 58, 60], True),
    ([64, 50, 40], False),
    ([26_000, 24_000], False),
    ([25_000, 24_900], True),
    ([1, 0, 1], True),
])  # fmt: skip
def test_what_counts_as_chosen_evenly(counts: list[int], even: bool) -> None:
    """48 and 52 % of 50,000 rows did not come about by choosing as many of each; 58 and 64 rows may, less repeats."""
    assert _made_even(np.array(counts)) == even


def held_of(right: list[bool], truth: list[int]) -> tuple[HeldOut, NDArray[np.bool_], NDArray[np.int64]]:
    classes = np.array(truth)
    return held_out(np.zeros((len(truth), 2), np.float32), classes), np.array(right), classes


def test_shares_that_were_met_are_believed() -> None:
    right, truth = [True] * 30 + [False] * 10, [0] * 30 + [1] * 10
    held, hits, classes = held_of(right, truth)
    assert interval(held, hits, classes, 2) == wilson(30, 40, Z * SPREAD), "three rows of one label to one of the other"
    even = held_of([True] * 20 + [False] * 20, [0] * 20 + [1] * 20)
    low, high = interval(*even, 2)
    assert low < wilson(20, 40, Z * SPREAD)[0] - 0.1
    assert high > wilson(20, 40, Z * SPREAD)[1] + 0.1


@pytest.mark.parametrize("hit", [True, False])
def test_rows_that_all_came_out_alike_have_an_interval_too(hit: bool) -> None:
    low, high = interval(*held_of([hit] * 10, [0, 1] * 5), 2)
    assert 0 <= low < high <= 1
    assert (high == 1) == hit
