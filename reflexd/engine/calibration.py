"""Decides how logits become probabilities: by a temperature, found on held-out rows where there are enough of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, softmax

from reflexd.engine.evaluation import HeldOut
from reflexd.engine.heads import Targets
from reflexd.registry.artifacts import Calibration
from reflexd.schemas.reflex import Mode

CALIBRATION_ROWS = 50
"""Fewer held-out rows than this make a temperature worse than none."""


def probabilities(logits: NDArray[np.float32], temperature: float, mode: Mode) -> NDArray[np.float64]:
    """Return the probabilities of logits [labels] or [rows, labels]; for single_label each text's sum is 1."""
    scaled = logits.astype(np.float64) / temperature
    out: NDArray[np.float64] = softmax(scaled, axis=-1) if mode == "single_label" else expit(scaled)
    return out


def calibrate(held: HeldOut | None) -> Calibration:
    """Return how probabilities are made: the likeliest temperature, or 1 where there are too few rows to tell."""
    if held is None or len(held.truth) < CALIBRATION_ROWS:
        return Calibration(method="none", temperature=1.0, rows=0 if held is None else len(held.truth))
    return Calibration(method="temperature", temperature=best_temperature(held), rows=len(held.truth))


def best_temperature(held: HeldOut) -> float:
    """Return the temperature that makes held-out probabilities likeliest.

    The truth is taken as 1 - 1/(n + 2) sure and not as 1 (the rule of succession): where all n held-out rows came out
    right, the likeliest temperature would be 0, and every later confidence 1.
    """

    def at(log_temperature: float) -> float:
        return mean_loss(held, float(np.exp(log_temperature)))

    found = minimize_scalar(at, bounds=(np.log(0.02), np.log(20.0)), method="bounded")
    return float(np.exp(found.x))


def mean_loss(held: HeldOut, temperature: float) -> float:
    """Return minus the mean log likelihood of held-out rows at a temperature, their truth taken as said above."""
    return float(row_losses(held, temperature).mean())


def row_losses(held: HeldOut, temperature: float) -> NDArray[np.float64]:
    """Return minus the log likelihood of each held-out row at a temperature [n]; of several labels their mean."""
    loss = _binary_loss if held.truth.ndim == 2 else _softmax_loss
    return loss(held.logits.astype(np.float64) / temperature, held.truth, 1 / (len(held.truth) + 2))


def _softmax_loss(scaled: NDArray[np.float64], truth: Targets, doubt: float) -> NDArray[np.float64]:
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    true = scaled[np.arange(len(truth)), truth]
    others = (scaled.sum(axis=1) - true) / (scaled.shape[1] - 1)
    out: NDArray[np.float64] = np.log(np.exp(scaled).sum(axis=1)) - (1 - doubt) * true - doubt * others
    return out


def _binary_loss(scaled: NDArray[np.float64], truth: Targets, doubt: float) -> NDArray[np.float64]:
    out: NDArray[np.float64] = (np.logaddexp(0, scaled) - np.where(truth, 1 - doubt, doubt) * scaled).mean(axis=1)
    return out
