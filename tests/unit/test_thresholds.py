"""Shows how a multi-label model's thresholds are chosen: for F1, near a common one where rows are few, and honestly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from reflexd.engine.thresholds import HIGHEST, LOWEST, choose_thresholds, decide_held_out
from reflexd.registry.artifacts import Calibration
from tests.unit.held import held_out

PLAIN = Calibration(method="temperature", temperature=1.0, rows=1)


def rows(rows_of_label: list[int], seed: int, n: int = 2_000) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities of labels of different frequency, and the memberships drawn from them."""
    random = np.random.default_rng(seed)
    shares = np.array(rows_of_label) / n
    probabilities = expit(random.normal(logit(shares) - 1, 2.0, size=(n, len(shares))))
    return logit(probabilities).astype(np.float32), random.random(probabilities.shape) < probabilities


def f1(truth: np.ndarray, decided: np.ndarray) -> np.ndarray:
    return 2 * (truth & decided).sum(axis=0) / np.maximum(truth.sum(axis=0) + decided.sum(axis=0), 1)


def test_thresholds_gain_what_a_half_gives_away_on_other_rows_too() -> None:
    logits, truth = rows([20, 40, 100, 400], 0)
    thresholds = choose_thresholds(held_out(logits, truth), PLAIN)
    assert all(LOWEST <= threshold <= HIGHEST for threshold in thresholds)
    assert max(thresholds) < 0.5
    others, other_truth = rows([20, 40, 100, 400], 1)
    gained = f1(other_truth, expit(others) >= thresholds) - f1(other_truth, others >= 0)
    assert gained.mean() > 0.05
    assert gained.min() > -0.02


def test_a_label_with_few_rows_has_nearly_the_common_threshold() -> None:
    logits, truth = rows([400, 400, 400, 400], 0)
    truth[:, 3] = False
    rare = held_out(logits, truth)
    for place, high in ((7, 6.0), (8, -6.0)):  # the label's one row: far above all others, or far below
        logits[:, 3] = -3.0
        logits[place, 3] = high
        truth[:, 3] = np.arange(len(truth)) == place
        free = choose_thresholds(rare, PLAIN, prior_rows=0)
        shrunk = choose_thresholds(rare, PLAIN)
        common = np.mean(shrunk[:3])
        assert abs(shrunk[3] - common) < abs(free[3] - common)
        assert abs(shrunk[3] - common) < 0.15
    truth[:, 3] = False
    assert choose_thresholds(rare, PLAIN)[3] == pytest.approx(np.mean(choose_thresholds(rare, PLAIN)[:3]), abs=0.15)
    assert choose_thresholds(held_out(logits, np.zeros_like(truth)), PLAIN) == [0.5] * 4


def test_thresholds_are_of_calibrated_probabilities() -> None:
    logits, truth = rows([100, 400], 0)
    plain = choose_thresholds(held_out(logits, truth), PLAIN)
    stretched = Calibration(method="temperature", temperature=3.0, rows=1)
    assert choose_thresholds(held_out(logits * 3, truth), stretched) == pytest.approx(plain, abs=0.011)


def test_the_reported_decisions_do_not_flatter() -> None:
    """Labels drawn by lot: thresholds chosen on the same rows seem better than they are, cross-fitted ones do not."""
    random = np.random.default_rng(0)
    truth = random.random((60, 40)) < 0.15
    held = held_out(random.normal(-2, 1, size=truth.shape).astype(np.float32), truth)
    same = expit(held.logits) >= choose_thresholds(held, PLAIN, prior_rows=0)
    assert f1(truth, decide_held_out(held, PLAIN)).mean() < f1(truth, same).mean() - 0.05
    part = np.random.default_rng(0).permutation(60) % 5
    turned = held_out(held.logits, np.where((part == part[0])[:, None], ~truth, truth))
    assert np.array_equal(
        decide_held_out(turned, PLAIN)[part == part[0]], decide_held_out(held, PLAIN)[part == part[0]]
    )
