"""Shows that a reported score is honest: folds, errors by label, calibration error, and a baseline on the same rows."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import numpy as np
import pytest

from reflexd.engine import baseline, evaluation
from reflexd.engine.agreement import agreement
from reflexd.engine.assessment import decide
from reflexd.engine.calibration import calibrate
from reflexd.engine.heads import fit_head, logits_of
from reflexd.engine.reliability import BINS, expected_error, honest_confidences, reliability
from reflexd.engine.result import CONFUSIONS, LABELS, report
from reflexd.schemas.worker import Message
from tests.unit.held import held_out, hold_out

NONE = calibrate(None)


def test_each_held_out_row_is_known_by_its_place_and_its_fold() -> None:
    random = np.random.default_rng(0)
    vectors, truth = random.normal(size=(40, 6)).astype(np.float32), np.arange(40) % 3
    seen = np.arange(40) < 5
    held = hold_out(vectors, truth, 3, lambda x, y: fit_head(x, y, 3), 1, seen)
    assert held is not None
    assert sorted(held.places) == list(range(5, 40))
    assert np.array_equal(held.truth, truth[held.places])
    assert np.bincount(held.folds).tolist() == [7] * 5
    for fold in range(5):
        judged = held.places[held.folds == fold]
        rest = np.setdiff1d(np.arange(40), judged)
        # In the order of the fit: rows that are always trained on stand last.
        head = fit_head(vectors[rest], truth[rest], 3)
        assert held.logits[held.folds == fold] == pytest.approx(logits_of(head, vectors[judged]), abs=0.05)


def test_parts_judge_each_row_once_and_never_choose_on_it() -> None:
    judged = np.zeros(23, int)
    for choose, judge in evaluation.dealt(23):
        assert not (choose & judge).any()
        assert (choose | judge).all()
        judged += judge
    assert (judged == 1).all()


def test_errors_are_told_by_label() -> None:
    truth = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    predicted = np.array([0, 1, 1, 1, 0, 2, 2, 2])
    held = held_out(np.eye(3, dtype=np.float32)[predicted], truth)
    found = report(held, truth, ["a", "b", "c"], NONE, "", predicted, None)
    assert found["confusion"]["matrix"] == [[1, 2, 0], [1, 1, 0], [0, 0, 3]]
    assert found["confusion"]["pairs"] == [
        {"truth": "a", "predicted": "b", "n": 2},
        {"truth": "b", "predicted": "a", "n": 1},
    ]
    assert found["baseline"] == {"majority": 0.375, "tfidf": None}
    assert (found["accuracy"], found["ece"]) == (0.625, None)
    assert found["per_label"]["c"] == {"precision": 1, "recall": 1, "f1_score": 1, "n": 3}


def test_a_result_is_bounded_and_counts_what_it_leaves_out() -> None:
    random = np.random.default_rng(0)
    labels = [f"label {number} " + "x" * 240 for number in range(1_000)]
    truth, predicted = random.integers(0, 1_000, 3_000), random.integers(0, 1_000, 3_000)
    held = held_out(np.eye(1_000, dtype=np.float32)[predicted], truth)
    found = report(held, truth, labels, NONE, "", predicted, None)
    assert len(found["confusion"]["pairs"]) == CONFUSIONS
    assert found["confusion"]["pairs_left_out"] > 2_000
    assert found["confusion"]["matrix"] is None
    assert (len(found["per_label"]), found["per_label_left_out"]) == (LABELS, 750)
    assert len(msgspec.json.encode(found)) < 200_000


@pytest.mark.parametrize("n", [60, 400])
def test_the_calibration_error_leaves_out_what_is_chance(n: int) -> None:
    """Over many draws of perfectly calibrated rows it is well below the plain mean gap of the bins."""
    random = np.random.default_rng(1)
    errors, plain = [], []
    for _ in range(200):
        confidences = random.uniform(0.5, 1, n)
        hits = random.random(n) < confidences
        errors.append(expected_error(confidences, hits))
        bins = reliability(confidences, hits)
        assert sum(bin_["n"] for bin_ in bins) == n
        assert len(bins) == min(BINS, n // 20)
        plain.append(np.mean([abs(bin_["accuracy"] - bin_["confidence"]) for bin_ in bins]))
    assert np.mean(errors) < 0.7 * np.mean(plain)
    too_sure = random.random(2_000) < 0.7
    assert expected_error(np.full(2_000, 0.9), too_sure) == pytest.approx(0.2, abs=0.04)


def test_no_row_has_a_say_in_its_own_temperature() -> None:
    """One row that is wildly wrong moves the temperature of all rows but its own."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, 100)
    logits = np.where(np.arange(2) == truth[:, None], 4.0, 0.0).astype(np.float32)
    logits += random.normal(scale=2, size=logits.shape).astype(np.float32)
    before, _ = honest_confidences(held_out(logits, truth))
    turned = truth.copy()
    turned[17] = 1 - turned[17]
    after, _ = honest_confidences(held_out(logits, turned))
    (part,) = (judge for _, judge in evaluation.dealt(100) if judge[17])
    assert np.array_equal(before[part], after[part])
    assert not np.isclose(before[~part], after[~part]).any()


def test_rows_of_the_users_own_are_scored_apart_where_the_others_are_made() -> None:
    held = held_out(np.array([[1, 0], [1, 0], [0, 1], [1, 0], [0, 1]], np.float32), np.array([0, 0, 1, 1, 1]))
    told: list[Message] = []
    found = agreement(held, ["a", "b", "c", "d", "e"], {"b", "d", "not held out"}, told.append)  # type: ignore[arg-type]
    assert found["scored_against"] == "made_labels"
    own = found["own_rows"]
    assert (own["accuracy"], own["n"]) == (0.5, 2)
    assert own["interval"][0] < 0.15
    assert own["interval"][1] > 0.85
    assert "of 2 rows that you labelled 50% came out right" in told[-1].message
    for nothing in (agreement(held, list("abcde"), (), told.append), agreement(None, [], {"a"}, told.append)):  # type: ignore[arg-type]
        assert nothing == {"scored_against": "made_labels"}
        assert "validation_file" in told[-1].message


WORDS = ["invoice", "refund", "payment", "crash", "freeze", "error"]


@pytest.mark.parametrize("several", [False, True])
def test_the_baseline_is_trained_in_the_folds_of_the_head(several: bool) -> None:
    random = np.random.default_rng(0)
    truth = np.arange(60) % 2
    texts = [f"{random.choice(WORDS[:3] if kind == 0 else WORDS[3:])} {random.integers(99)}" for kind in truth]
    targets = np.eye(2, dtype=bool)[truth] if several else truth
    vectors = random.normal(size=(60, 4)).astype(np.float32)
    held = hold_out(vectors, targets, 2, lambda x, y: fit_head(x, y, 2), 0)
    assert held is not None
    found = baseline.tfidf(texts, targets, 2, held)
    assert found is not None
    decided = decide(found, calibrate(found))
    assert decided is not None
    assert (decided == held.truth).mean() > 0.95
    unknowable = [f"word{number}" for number in range(60)]
    told = baseline.tfidf(unknowable, targets, 2, held)
    assert told is not None
    assert (told.logits.argmax(axis=1) == truth[held.places]).mean() < 0.7, "a word of the held-out row was learnt"


def test_the_baseline_is_left_out_where_it_would_take_too_long() -> None:
    held = held_out(np.zeros((4, 2), np.float32), np.array([0, 1, 0, 1]))
    assert baseline.tfidf(["x" * (baseline.MOST_CHARS // 3)] * 4, held.truth, 2, held) is None
    assert baseline.tfidf(["a"] * 4, held.truth, 2, None) is None
    words = " ".join(f"w{number}" for number in range(5_000))
    assert baseline.tfidf([words] * 4, held.truth, 1_000, held) is None


def test_a_label_that_a_fold_lacks_costs_the_baseline_nothing() -> None:
    truth = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    held = held_out(np.zeros((10, 3), np.float32), truth)
    found = baseline.tfidf(["?"] * 10, truth, 3, held)
    assert found is not None
    assert (found.logits[:, 2] == baseline.NEVER).all()


def test_the_daemon_does_not_load_the_text_part_of_scikit_learn() -> None:
    code = "import sys, reflexd.daemon; print('sklearn.feature_extraction.text' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
