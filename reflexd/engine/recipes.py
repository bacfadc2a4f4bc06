"""Decides which head recipes are tried on features, and in what order: the best so far is changed in one respect.

features        the last layer's vector, or the last and the middle one (each scaled by 1 / sqrt 2, so that the row is
                again a unit vector); intents with many labels want the last alone, question types both
regularisation  C of heads.py: 10 is best on frozen features, 1 often on tuned ones, whose labels are already far apart
whitened        whether directions in which rows of one label differ count less (whitening.py)
names           whether the label's own name counts as half a row of it, which helps where labels are said in words
base            whether the rows of labels that the base's head has are what the fit sets out from and is drawn to
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from msgspec import structs

from reflexd.engine.heads import Matrix, Prior, Targets, Wide, fit_head
from reflexd.engine.whitening import LEAST_ROWS, WIDEST, within_labels
from reflexd.registry.artifacts import Head, HeadRef
from reflexd.schemas.worker import Metrics

NAME_WEIGHT = 0.5
WORK_LIMIT = 4e8
"""Rows x labels x width of the fits of one recipe beyond which fewer recipes are tried."""


DEFAULT = HeadRef()


def view(recipe: HeadRef, features: Matrix) -> Matrix:
    """Return the part of features [rows, 2 * width] that a recipe reads, as unit vectors."""
    if recipe.features == "last":
        return features[:, : features.shape[1] // 2]
    return features / np.float32(np.sqrt(2))


def fit(
    recipe: HeadRef,
    features: Matrix,
    targets: Targets,
    labels: int,
    *,
    names: Matrix | None = None,
    prior: Prior | None = None,
    weights: Wide | None = None,
    emit: Callable[[Metrics], None] | None = None,
) -> Head:
    """Return a head whose weight [labels, width or 2 * width] multiplies features as they come.

    `names` are the features of the labels' names [labels, 2 * width]; the prior, where there is one, is of the same
    features; `weights` [rows] say how much each row counts, 1 by default.
    """
    rows = view(recipe, features)
    if not recipe.base:
        prior = None
    if prior is not None and recipe.features == "last+middle":  # the rows are shorter than the features it is of
        prior = Prior(prior.weight * np.sqrt(2), prior.bias)
    metric = None
    if recipe.whitened and prior is None and targets.ndim == 1:
        metric = within_labels(rows, targets.astype(np.int64))
    if recipe.names and names is not None and targets.ndim == 1:
        present = np.unique(targets)  # a name alone must not bring a label in that has no row here
        rows = np.concatenate([rows, view(recipe, names)[present]])
        own = np.ones(len(targets)) if weights is None else weights
        weights = np.concatenate([own, np.full(len(present), NAME_WEIGHT)])
        targets = np.concatenate([targets, present])
    if metric is not None:
        rows = rows @ metric
    head = fit_head(rows, targets, labels, prior, emit=emit, regularisation=recipe.regularisation, weights=weights)
    if metric is not None:
        head = Head(head.weight @ metric, head.bias)
    if recipe.features == "last":
        return head
    return Head((head.weight / np.sqrt(2)).astype(np.float32), head.bias)


def both_layers(best: HeadRef) -> HeadRef:
    """Return a recipe with the middle layer's vector beside the last one's."""
    return structs.replace(best, features="last+middle")


def whitened(best: HeadRef) -> HeadRef:
    """Return a recipe in which directions in which rows of one label differ count less."""
    return structs.replace(best, whitened=True)


def otherwise_regularised(best: HeadRef) -> HeadRef:
    """Return a recipe with the other one of the two regularisation constants."""
    return structs.replace(best, regularisation=1.0 if best.regularisation > 1 else 10.0)


def with_names(best: HeadRef) -> HeadRef:
    """Return a recipe in which the labels' names count as rows."""
    return structs.replace(best, names=True)


def without_base(best: HeadRef) -> HeadRef:
    """Return a recipe in which the rows alone decide: where the encoder has moved, the base's head may not fit it."""
    return structs.replace(best, base=False)


def last_alone(best: HeadRef) -> HeadRef:
    """Return a recipe of the last layer alone, which an encoder that is tuned on moves most, and of the rows alone."""
    return structs.replace(best, features="last", base=False)


def changes(rows: int, labels: int, width: int, folds: int, several: bool) -> list[Callable[[HeadRef], HeadRef]]:
    """Return what is tried one after the other in a cold start, each on the best so far.

    That is the first alone where there are many rows; whitening takes some hundreds, of one label each.
    """
    if rows * labels * width * folds > WORK_LIMIT:
        return [both_layers]
    if several:
        return [both_layers, otherwise_regularised]
    last = [whitened] if rows - labels >= LEAST_ROWS and 2 * width <= WIDEST else []
    return [both_layers, otherwise_regularised, with_names, *last]


def words_of(label: str) -> str:
    """Return a label's name as words: `transfer_not_received?` -> `transfer not received?`."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)
    return re.sub(r"[_\-./]+", " ", spaced).strip()
