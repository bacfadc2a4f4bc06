"""Shows that heads heed less the directions in which rows of one label differ, and that serving need not know."""

from __future__ import annotations

import numpy as np
import pytest

from reflexd.engine.heads import Matrix, Prior, fit_head, logits_of
from reflexd.engine.recipes import changes, fit, view, whitened
from reflexd.engine.whitening import FLOOR, LEAST_ROWS, POWER, within_labels
from reflexd.registry.artifacts import HeadRef

LABELS, WIDTH = 3, 8


def loud_and_quiet(rows: int, seed: int) -> tuple[Matrix, np.ndarray]:
    """Return vectors whose labels differ in three quiet directions, beside five in which all rows differ loudly."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, LABELS, rows)
    vectors = random.normal(0, [0.1] * LABELS + [1.0] * (WIDTH - LABELS), (rows, WIDTH))
    vectors[np.arange(rows), classes] += 0.15
    return vectors.astype(np.float32), classes


def test_variances_within_labels_come_out_as_their_square_roots() -> None:
    """Up to one scale, which keeps the vectors as long as they were in the root mean square."""
    vectors, classes = loud_and_quiet(20_000, 0)
    metric = within_labels(vectors, classes)
    np.testing.assert_allclose(metric, metric.T, atol=1e-6)
    moved = vectors @ metric
    assert np.square(moved).sum() == pytest.approx(np.square(vectors).sum(), rel=1e-4)
    apart = [
        np.array([some[classes == label].var(axis=0) for label in range(LABELS)]).mean(axis=0)
        for some in (vectors, moved)
    ]
    held = apart[0] + FLOOR * apart[0].mean()
    expected = apart[0] * held ** (-2 * POWER)
    np.testing.assert_allclose(apart[1] / apart[1].mean(), expected / expected.mean(), rtol=0.02)


def test_a_head_heeds_the_quiet_directions_in_which_labels_differ() -> None:
    """Right on more of other rows than one whose penalty holds all directions alike."""
    right: dict[bool, float] = {}
    for given in (False, True):
        recipe = HeadRef(features="last+middle", regularisation=0.1, whitened=given)
        scores = []
        for seed in range(5):
            vectors, classes = loud_and_quiet(400, seed)
            others, truth = loud_and_quiet(4_000, 100 + seed)
            head = fit(recipe, vectors, classes, LABELS)
            scores.append((logits_of(head, others).argmax(axis=1) == truth).mean())
        right[given] = float(np.mean(scores))
    assert right[True] > right[False] + 0.03


@pytest.mark.parametrize("features", ["last", "last+middle"])
def test_the_head_multiplies_features_as_they_come(features: str) -> None:
    """Its logits are those of a head that was fitted on, and is given, the moved vectors."""
    recipe = HeadRef(features=features, whitened=True)  # type: ignore[arg-type] # the parameters are its literals
    vectors, classes = loud_and_quiet(500, 1)
    rows = view(recipe, vectors)
    metric = within_labels(rows, classes)
    moved = fit_head(rows @ metric, classes, LABELS)
    found = logits_of(fit(recipe, vectors, classes, LABELS), vectors)
    np.testing.assert_allclose(found, logits_of(moved, rows @ metric), atol=1e-4)


def test_labels_without_any_variance_leave_the_vectors_as_they_are() -> None:
    """All rows of each label are identical but for rounding: nothing is known of how rows vary."""
    classes = np.repeat(np.arange(LABELS), 100)
    apart = np.random.default_rng(0).normal(size=(LABELS, WIDTH))
    vectors = (apart / np.linalg.norm(apart, axis=1, keepdims=True)).astype(np.float32)[classes]
    np.testing.assert_array_equal(within_labels(vectors, classes), np.eye(WIDTH))
    head = fit(HeadRef(whitened=True, features="last+middle"), vectors, classes, LABELS)
    assert (logits_of(head, vectors).argmax(axis=1) == classes).all()


def test_names_count_as_rows_and_labels_of_one_row_have_their_place() -> None:
    """How names vary says nothing of how rows do; a label without any row is never said."""
    vectors, classes = loud_and_quiet(400, 3)
    vectors, classes = np.concatenate([vectors, vectors[:1]]), np.append(classes, LABELS)
    names = np.concatenate([vectors[:LABELS], vectors[-1:], vectors[:1]])
    heads = [
        fit(HeadRef(features="last+middle", whitened=True, names=given), vectors, classes, LABELS + 2, names=names)
        for given in (False, True)
    ]
    assert not np.array_equal(heads[0].weight, heads[1].weight)
    for head in heads:
        assert (head.weight.shape, head.weight.dtype, head.bias.dtype) == ((LABELS + 2, WIDTH), np.float32, np.float32)
        assert (logits_of(head, vectors)[:, LABELS + 1] < -1e6).all()


@pytest.mark.parametrize("rows", [3_000, 9_000])
def test_rows_are_taken_in_blocks(rows: int) -> None:
    """Which changes nothing."""
    vectors, classes = loud_and_quiet(rows, 4)
    apart = (
        vectors.astype(np.float64)
        - np.array([vectors[classes == label].mean(axis=0) for label in range(LABELS)])[classes]
    )
    variances, directions = np.linalg.eigh(apart.T @ apart / rows)
    expected = (directions * (variances + FLOOR * variances.mean()) ** -POWER) @ directions.T
    expected *= np.sqrt(np.square(vectors).sum() / np.square(vectors @ expected).sum())
    np.testing.assert_allclose(within_labels(vectors, classes), expected, rtol=1e-3, atol=1e-4)


def test_a_base_s_rows_are_what_a_head_is_drawn_to_and_not_moved() -> None:
    """With a prior there is no whitening: its rows are of the vectors as they come."""
    vectors, classes = loud_and_quiet(400, 2)
    prior = Prior(np.ones((LABELS, WIDTH)), np.zeros(LABELS))
    with_base = [
        fit(HeadRef(features="last+middle", base=True, whitened=given), vectors, classes, LABELS, prior=prior)
        for given in (False, True)
    ]
    np.testing.assert_array_equal(with_base[0].weight, with_base[1].weight)


def test_it_is_tried_where_rows_are_many_enough_and_have_one_label_each() -> None:
    """Few rows do not say how they vary, and a decomposition of wide vectors takes too long."""
    assert whitened in changes(LEAST_ROWS + 6, 6, 384, 3, several=False)
    assert whitened not in changes(LEAST_ROWS + 5, 6, 384, 3, several=False)
    assert whitened not in changes(LEAST_ROWS + 6, 6, 384, 3, several=True)
    assert whitened not in changes(LEAST_ROWS + 6, 6, 1_025, 3, several=False)
