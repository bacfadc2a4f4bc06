"""Shows that head recipes read the features they name, and that a base's head is neither shrunk nor grown by them."""

from __future__ import annotations

import numpy as np
import pytest

from reflexd.engine.heads import Prior, logits_of
from reflexd.engine.recipes import both_layers, fit, otherwise_regularised, without_base, words_of
from reflexd.registry.artifacts import HeadRef

LAST, BOTH = HeadRef(), HeadRef(features="last+middle")


def features(rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two unit vectors side by side [rows, 2 * width], of which the second alone tells the two labels apart."""
    random = np.random.default_rng(0)
    targets = np.arange(rows) % 2
    last, middle = random.normal(size=(2, rows, width))
    middle[:, 0] += np.where(targets, 4.0, -4.0)
    pair = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (last, middle)]
    return np.concatenate(pair, axis=1).astype(np.float32), targets


@pytest.mark.parametrize("recipe", [LAST, BOTH])
def test_a_head_that_may_not_move_stays_at_the_base_s(recipe: HeadRef) -> None:
    made, targets = features(40, 6)
    weight = np.random.default_rng(1).normal(size=(2, 12 if recipe is BOTH else 6))
    prior = Prior(weight - weight.mean(axis=0), np.zeros(2))
    rigid = HeadRef(features=recipe.features, regularisation=1e-9, base=True)
    head = fit(rigid, made, targets, 2, prior=prior)
    np.testing.assert_allclose(head.weight, prior.weight, atol=1e-4)


def test_without_the_base_the_rows_alone_decide() -> None:
    made, targets = features(40, 6)
    prior = Prior(np.array([[50.0] * 6, [-50.0] * 6]), np.zeros(2))
    with_base = HeadRef(base=True)
    alone = fit(without_base(with_base), made, targets, 2, prior=prior)
    np.testing.assert_array_equal(alone.weight, fit(LAST, made, targets, 2).weight)
    assert not np.allclose(fit(with_base, made, targets, 2, prior=prior).weight, alone.weight, atol=0.5)


def test_the_middle_layer_counts_where_the_recipe_says_so() -> None:
    made, targets = features(200, 6)
    right = {r.features: (logits_of(fit(r, made, targets, 2), made).argmax(1) == targets).mean() for r in (LAST, BOTH)}
    assert right["last+middle"] > 0.95 > right["last"] + 0.2


def test_label_names_are_rows_of_labels_that_have_rows() -> None:
    made, targets = features(20, 6)
    names = np.concatenate([made[:2], np.ones((1, 12), np.float32)])
    head = fit(HeadRef(names=True), made, targets, 3, names=names)
    plain = fit(LAST, made, targets, 3)
    assert not np.array_equal(head.weight, plain.weight)
    assert head.bias[2] == plain.bias[2] < -1e8, "a name alone makes no label likely"


def test_the_constant_goes_back_and_forth_and_not_down_for_ever() -> None:
    assert otherwise_regularised(otherwise_regularised(LAST)) == LAST
    assert both_layers(LAST) == BOTH


@pytest.mark.parametrize(
    ("label", "words"),
    [("transfer_not_received?", "transfer not received?"), ("getSpareCard", "get Spare Card"), ("a/b-c.d", "a b c d")],
)
def test_labels_are_read_as_words(label: str, words: str) -> None:
    assert words_of(label) == words
