"""Decides how a head is fitted on embeddings: regularised logistic regression, towards zero or towards a base's rows.

C = 10 on unit vectors was the best of the measured regularisers on intents and topics. Every fit minimises
C * (sum of the rows' losses) + |W - W0|^2 / 2, the maximum a posteriori estimate with W0 as the prior's mean (0 in a
cold start). The loss is the softmax's for one label a text, and the sum of one sigmoid's a label for any number.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from reflexd.registry.artifacts import Head
from reflexd.schemas.worker import Metrics

Matrix = NDArray[np.float32]
Classes = NDArray[np.int64]
Members = NDArray[np.bool_]
Targets = Classes | Members
"""The truth of rows: each one's class [rows] (single_label), or which labels it has [rows, labels] (multi_label)."""
Wide = NDArray[np.float64]
Loss = Callable[[Wide, slice], tuple[float, Wide]]
"""Of logits [rows, labels] of a slice of the rows: the sum of their losses, and its gradient in the logits."""
Emit = Callable[[Metrics], None]

REGULARISATION = 10.0
ROUNDS = (2, 4, 8, 16, 32, 64, 128, 256)
"""L-BFGS iterations of each round; the loss is reported between rounds."""
BLOCK_ROWS = 4_096
"""Rows whose logits stand in memory at once."""
NEVER = -1e9
"""Bias of a label that must not win."""


class Prior(Struct, frozen=True):
    """What is known of the labels before a row is seen: W0 [labels, width] and the biases to start from [labels]."""

    weight: Wide
    bias: Wide


def row_weights(targets: Targets, shares: Wide) -> Wide:
    """Return how much each row of classes [rows] counts, 1 in the mean: the rows of a label as its share [labels]."""
    each = shares / np.maximum(np.bincount(targets, minlength=len(shares)), 1)
    weights: Wide = each[targets] * (len(targets) / each[targets].sum())
    return weights


def fit_head(
    vectors: Matrix,
    targets: Targets,
    labels: int,
    prior: Prior | None = None,
    emit: Emit | None = None,
    regularisation: float = REGULARISATION,
    weights: Wide | None = None,
) -> Head:
    """Return a head with one row a label, whatever rows were given; `emit` is told the training loss meanwhile.

    `weights` [rows] say how much each row counts; they are heeded where a row has one label.
    """
    penalty = 1 / regularisation
    if targets.ndim == 2:
        return _fit_members(vectors, targets.astype(np.bool_), prior, emit, penalty)
    classes = targets.astype(np.int64)
    present = np.unique(classes)
    weight, bias = np.zeros((labels, vectors.shape[1]), np.float32), np.full(labels, NEVER, np.float32)
    if prior is None:
        model = LogisticRegression(C=regularisation, warm_start=True)
        weight[present], bias[present] = _fit_cold(model, vectors, classes, present, emit, weights)
    else:
        numbers = np.searchsorted(present, classes)
        weight[present], bias[present] = _fit_classes(vectors, numbers, prior, present, emit, penalty, weights)
    return Head(weight, bias)


def _fit_cold(
    model: Any, vectors: Matrix, classes: Classes, present: Classes, emit: Emit | None, weights: Wide | None
) -> tuple[Wide, Wide]:
    step = 0
    for number, iterations in enumerate(ROUNDS if emit is not None else (sum(ROUNDS),), 1):
        model.max_iter = iterations
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(vectors, classes, weights)
        step += int(model.n_iter_[0])
        if emit is not None:
            _tell(emit, number, step, float(log_loss(classes, model.predict_proba(vectors), labels=present)))
        if int(model.n_iter_[0]) < iterations:
            break
    weight, bias = model.coef_, model.intercept_
    if len(present) == 2:  # scikit-learn keeps one row for two classes: the difference of their logits
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias


def _fit_classes(
    vectors: Matrix,
    numbers: NDArray[np.intp],
    prior: Prior,
    present: Classes,
    emit: Emit | None,
    penalty: float,
    weights: Wide | None,
) -> tuple[Wide, Wide]:
    """Fit the rows of the labels that are present by the softmax's loss; the rows come out with mean zero.

    The softmax does not see what is added to every row alike, so each stored head has its rows' mean taken away: the
    zeros of a new label then stand amid the base's labels, and not at one side of them.
    """

    counted = np.ones(len(numbers)) if weights is None else weights

    def loss(logits: Wide, part: slice) -> tuple[float, Wide]:
        rows, truth, weight = np.arange(len(logits)), numbers[part], counted[part]
        normaliser = logsumexp(logits, axis=1)
        slope = np.exp(logits - normaliser[:, None])
        slope[rows, truth] -= 1
        return float(weight @ (normaliser - logits[rows, truth])), slope * weight[:, None]

    # scikit-learn regularises the difference of two classes' rows, which weighs twice what both rows weigh.
    penalty *= 2.0 if len(present) == 2 else 1.0
    start = Prior(prior.weight[present], prior.bias[present])
    weight, bias = _minimise(vectors, loss, start, penalty, len(vectors), emit)
    return weight - weight.mean(axis=0), bias - bias.mean()


def _fit_members(vectors: Matrix, members: Members, prior: Prior | None, emit: Emit | None, penalty: float) -> Head:
    """Fit one against the rest for each label.

    A label that every row has, or none, is given the same probability whatever the text: (its rows + 1) / (rows + 2),
    the rule of succession, for no finite row would fit it.
    """
    total, counts = members.shape[0], members.sum(axis=0)
    varied = np.flatnonzero((counts > 0) & (counts < total))
    weight = np.zeros((members.shape[1], vectors.shape[1]), np.float32)
    bias = np.log((counts + 1) / (total - counts + 1)).astype(np.float32)
    if varied.size:
        wanted = members[:, varied]

        def loss(logits: Wide, part: slice) -> tuple[float, Wide]:
            truth = wanted[part]
            return float(np.logaddexp(0, logits).sum() - logits[truth].sum()), expit(logits) - truth

        start = prior or Prior(weight.astype(np.float64), np.zeros(len(bias)))
        start = Prior(start.weight[varied], start.bias[varied])
        weight[varied], bias[varied] = _minimise(vectors, loss, start, penalty, wanted.size, emit)
    return Head(weight, bias)


def _minimise(
    vectors: Matrix, loss: Loss, prior: Prior, penalty: float, decisions: int, emit: Emit | None
) -> tuple[Wide, Wide]:
    """Return the weights and biases that minimise loss + penalty * |W - W0|^2 / 2; biases are free.

    `decisions` is what the reported loss is a mean over.
    """
    labels, width = prior.weight.shape

    def measure(flat: Wide) -> tuple[float, Wide]:
        """Return the sum of the losses and its gradient in the table of weights and biases."""
        table = flat.reshape(labels, width + 1)
        total, gradient = 0.0, np.zeros_like(table)
        for start in range(0, len(vectors), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            block = vectors[part].astype(np.float64)
            value, slope = loss(block @ table[:, :-1].T + table[:, -1], part)
            total += value
            gradient[:, :-1] += slope.T @ block
            gradient[:, -1] += slope.sum(axis=0)
        return total, gradient

    def objective(flat: Wide) -> tuple[float, Wide]:
        total, gradient = measure(flat)
        away = flat.reshape(labels, width + 1)[:, :-1] - prior.weight
        gradient[:, :-1] += penalty * away
        value = total + penalty / 2 * float((away * away).sum())
        return value / len(vectors), gradient.ravel() / len(vectors)

    step, ends = 0, np.cumsum(ROUNDS).tolist()

    def after(flat: Wide) -> None:
        nonlocal step
        step += 1
        if emit is not None and step in ends:
            _tell(emit, ends.index(step) + 1, step, measure(flat)[0] / decisions)

    found = minimize(
        objective,
        np.column_stack([prior.weight, prior.bias]).ravel(),
        method="L-BFGS-B",
        jac=True,
        callback=after,
        options={"maxiter": sum(ROUNDS), "gtol": 1e-5, "ftol": 64 * np.finfo(np.float64).eps},
    )
    if emit is not None and step not in ends:
        _tell(emit, sum(end < step for end in ends) + 1, step, measure(found.x)[0] / decisions)
    table = found.x.reshape(labels, width + 1)
    return table[:, :-1], table[:, -1]


def _tell(emit: Emit, epoch: int, step: int, loss: float) -> None:
    emit(Metrics(f"Step {step}: train_loss {loss:.4f}", {"epoch": epoch, "step": step, "train_loss": loss}))


def logits_of(head: Head, vectors: Matrix) -> Matrix:
    """Return logits [rows, labels] of vectors [rows, width], or of features that begin with them."""
    out: Matrix = vectors[:, : head.weight.shape[1]] @ head.weight.T + head.bias
    return out
