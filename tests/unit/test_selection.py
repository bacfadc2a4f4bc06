"""Shows that the likeliest candidate is kept, and that having chosen it does not flatter the score that is told."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from reflexd.engine.calibration import calibrate
from reflexd.engine.evaluation import HeldOut, wilson
from reflexd.engine.selection import Candidate, choose, honest, least_loss, mean_accuracy
from reflexd.registry.artifacts import HeadRef
from tests.unit.held import held_out

LABELS = 4
TRIALS = 15


def candidate(number: int, held: HeldOut) -> Candidate:
    return Candidate(number, HeadRef(), held)


def logits_for(truth: NDArray[np.int64], strength: float, seed: int, scale: float = 1.0) -> NDArray[np.float32]:
    """Return noise in which the true class stands out by `strength`; no classifier is behind it."""
    made = np.random.default_rng(seed).normal(size=(len(truth), LABELS))
    made[np.arange(len(truth)), truth] += strength
    return (scale * made).astype(np.float32)


def truth_of(rows: int) -> NDArray[np.int64]:
    return np.random.default_rng(99).integers(0, LABELS, rows)


def test_the_likeliest_is_chosen_whatever_its_scale_and_the_first_of_equals() -> None:
    truth = truth_of(300)
    strengths = [0.5, 2.0, 1.0]
    scales = [1.0, 50.0, 0.01]  # told apart by their own best temperature
    made = [
        candidate(n, held_out(logits_for(truth, strength, n, scale), truth))
        for n, (strength, scale) in enumerate(zip(strengths, scales, strict=True))
    ]
    assert choose(made) == 1
    assert choose([made[1], made[1], made[0]]) == 0
    losses = [least_loss(one.held) for one in made]
    assert losses[1] < losses[2] < losses[0]


def test_a_mask_decides_which_rows_choose() -> None:
    truth = truth_of(200)
    first = np.arange(200) < 100
    good, bad = logits_for(truth, 3.0, 1), logits_for(truth, 0.0, 2)
    one = candidate(0, held_out(np.where(first[:, None], good, bad), truth))
    other = candidate(1, held_out(np.where(first[:, None], bad, good), truth))
    assert choose([one, other], first) == 0
    assert choose([one, other], ~first) == 1


@pytest.mark.parametrize("rows", [40, 200])
def test_twenty_candidates_of_noise_score_as_chance_does(rows: int) -> None:
    """The best of them is better than chance by having been looked for; what is told of the choice is not."""
    best, told = [], []
    for trial in range(TRIALS):
        truth = np.random.default_rng(trial).integers(0, LABELS, rows)
        noise = [candidate(n, held_out(logits_for(truth, 0.0, 1_000 * trial + n), truth)) for n in range(20)]
        best.append(max(mean_accuracy(one.held) for one in noise))
        told.append(mean_accuracy(honest(noise)))
    low, high = wilson(round(rows * TRIALS / LABELS), rows * TRIALS, z=3.3)
    assert low < np.mean(told) < high
    assert np.mean(best) > high + 0.02


def test_luck_on_the_rows_that_choose_does_not_lift_the_score() -> None:
    """One candidate has the truth of a fifth of the rows by heart and knows nothing of the others."""
    truth = truth_of(500)
    solid = candidate(0, held_out(logits_for(truth, 1.5, 1), truth))
    lucky = logits_for(truth, 0.0, 2)
    by_heart = np.random.default_rng(5).random(500) < 0.2
    lucky[by_heart, truth[by_heart]] += 100.0
    found = honest([solid, candidate(1, held_out(lucky, truth))])
    assert mean_accuracy(found) == pytest.approx(mean_accuracy(solid.held), abs=0.03)


def test_a_better_candidate_is_told_as_better() -> None:
    truth = truth_of(300)
    weak = candidate(0, held_out(logits_for(truth, 0.5, 1), truth))
    strong = candidate(1, held_out(logits_for(truth, 3.0, 2, scale=40.0), truth))
    found = honest([weak, strong])
    assert mean_accuracy(found) == pytest.approx(mean_accuracy(strong.held))
    assert 0.5 < calibrate(found).temperature < 2.0, "parts come on one scale, so one temperature fits them"
    assert (found.places.tolist(), found.folds.tolist()) == (weak.held.places.tolist(), weak.held.folds.tolist())
    assert honest([weak]) is weak.held


def test_rows_of_several_labels_are_chosen_by_likelihood_too() -> None:
    random = np.random.default_rng(0)
    truth = random.random((120, 3)) < 0.4
    weak, strong = (((truth - 0.5) * by + random.normal(size=truth.shape)).astype(np.float32) for by in (0.5, 4.0))
    made = [candidate(0, held_out(weak, truth)), candidate(1, held_out(strong, truth))]
    assert choose(made) == 1
    assert mean_accuracy(honest(made)) == pytest.approx(mean_accuracy(made[1].held))


@pytest.mark.parametrize("rows", [2, 3, 4])
def test_a_handful_of_rows_chooses_too(rows: int) -> None:
    truth = np.arange(rows) % 2
    made = [candidate(n, held_out(logits_for(truth, 1.0, n), truth)) for n in range(3)]
    assert 0 <= choose(made) < 3
    assert np.isfinite(honest(made).logits).all()
