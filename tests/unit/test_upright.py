"""Shows that a lean to the labels a base knew is found by held-out rows, taken away, and never made up."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from reflexd.engine.evaluation import HeldOut
from reflexd.engine.heads import NEVER
from reflexd.engine.selection import mean_accuracy
from reflexd.engine.upright import leaning, upright, without
from tests.unit.held import held_out

KNEW = np.array([True, True, False, False])
LEAN = 2.0


def rows(count: int, lean: float, seed: int = 0, labels: int = 4) -> HeldOut:
    """Return rows whose truth stands out by 2 of noise, and the labels that a base knew by `lean` more."""
    random = np.random.default_rng(seed)
    truth = np.arange(count) % labels
    logits = random.normal(size=(count, 4))
    logits[np.arange(count), truth] += 2
    return held_out((logits + lean * KNEW).astype(np.float32), truth)


def told(held: HeldOut, shares: NDArray[np.float64] | None = None) -> float:
    found = leaning(held, KNEW, shares)
    assert found is not None
    return found


@pytest.mark.parametrize("lean", [-LEAN, LEAN])
def test_many_rows_tell_the_lean_and_few_tell_it_roughly(lean: float) -> None:
    assert leaning(rows(2_000, lean), KNEW, None) == pytest.approx(lean, abs=0.2)
    few = [told(rows(32, lean, seed)) for seed in range(10)]
    assert np.mean(few) == pytest.approx(lean, rel=0.2)


def test_rows_that_any_lean_explains_are_pulled_to_none() -> None:
    """Each row comes out as a label that the base knew, by far: the more is taken away, the likelier they all are."""
    held = rows(12, 40.0)
    right = HeldOut(held.logits, np.full(12, 2), held.method, held.places, held.folds)
    half = HeldOut(held.logits, np.array([0] * 5 + [2] * 7), held.method, held.places, held.folds)
    assert leaning(right, KNEW, None) is None, "none of the base's labels is there to say so"
    found = leaning(half, KNEW, None)
    assert found is not None
    assert 0 < found <= 3 * float(held.logits.std())


def test_rows_that_do_not_lean_are_let_be() -> None:
    assert leaning(rows(2_000, 0.0), KNEW, None) == pytest.approx(0.0, abs=0.1)


def test_each_row_is_set_upright_by_others() -> None:
    leaning_rows = rows(400, LEAN)
    straight, lean = upright(leaning_rows, KNEW, None)
    assert lean == leaning(leaning_rows, KNEW, None)
    known = mean_accuracy(without(leaning_rows, KNEW, LEAN))
    assert mean_accuracy(leaning_rows) < known - 0.05
    assert mean_accuracy(straight) == pytest.approx(known, abs=0.02)
    moved = leaning_rows.logits - straight.logits
    np.testing.assert_array_equal(moved[:, ~KNEW], 0)
    assert len(np.unique(np.round(moved[:, 0], 5))) == 5, "each part by what the four others tell"


def test_a_row_has_no_say_in_what_sets_it_upright() -> None:
    held = rows(60, LEAN)
    before = upright(held, KNEW, None)[0].logits
    for place in range(0, 60, 7):
        other = held.truth.copy()
        other[place] = (other[place] + 2) % 4  # of the other side
        after = upright(HeldOut(held.logits, other, held.method, held.places, held.folds), KNEW, None)[0].logits
        np.testing.assert_array_equal(after[place], before[place])
        assert (after != before).any(), "but in what sets the others"


@pytest.mark.parametrize("seed", range(5))
def test_noise_that_is_far_too_sure_shows_no_lean(seed: int) -> None:
    """Logits far larger than they are worth: the search must find their temperature, not the far end of leans."""
    random = np.random.default_rng(seed)
    truth = np.arange(150) % 4
    logits = random.normal(0, 4, (150, 4))
    logits[np.arange(150), truth] += 2
    found = leaning(held_out(logits.astype(np.float32), truth), KNEW, None)
    assert found is not None
    assert abs(found) < 2.5


def test_where_a_part_s_others_are_too_few_nothing_is_done() -> None:
    """What is scored must be what is served: all rows upright, or none."""
    some = rows(200, LEAN)
    old = np.flatnonzero(KNEW[some.truth])[:5]
    new = np.flatnonzero(~KNEW[some.truth])[:25]
    few = np.sort(np.concatenate([old, new]))
    held = held_out(some.logits[few], some.truth[few])
    assert leaning(held, KNEW, None) is not None
    same, lean = upright(held, KNEW, None)
    assert lean == 0.0
    np.testing.assert_array_equal(same.logits, held.logits)


def test_rows_that_a_head_could_not_say_set_no_scale() -> None:
    held = rows(400, LEAN)
    never = held.logits.copy()
    never[:3, 3] = NEVER
    found = leaning(held_out(never, held.truth), KNEW, None)
    assert found == pytest.approx(leaning(held_out(held.logits[3:], held.truth[3:]), KNEW, None))


def test_shares_decide_what_a_label_counts_and_not_its_rows() -> None:
    """Ten times as many rows of the new labels are no reason to lean to these."""
    many = rows(4_000, LEAN)
    old = KNEW[many.truth]
    kept = ~old | (np.arange(len(old)) % 10 < 2)
    uneven = HeldOut(many.logits[kept], many.truth[kept], many.method, many.places[kept], many.folds[kept])
    even = np.ones(4)
    assert leaning(uneven, KNEW, even) == pytest.approx(LEAN, abs=0.3)
    assert told(uneven) > told(uneven, even) + 0.5


@pytest.mark.parametrize("truth", [np.arange(12) % 2, 2 + np.arange(12) % 2, np.array([0] * 4 + [2] * 20)])
def test_rows_of_one_side_say_nothing(truth: NDArray[np.int64]) -> None:
    logits = np.random.default_rng(0).normal(size=(len(truth), 4)).astype(np.float32)
    assert leaning(held_out(logits, truth), KNEW, None) is None


def test_several_labels_a_row_are_let_be() -> None:
    members = np.random.default_rng(0).random((40, 4)) < 0.5
    logits = np.where(members, 3.0, -3.0).astype(np.float32)
    held = held_out(logits, members)
    assert leaning(held, KNEW, None) is None
    np.testing.assert_array_equal(upright(held, KNEW, None)[0].logits, logits)
