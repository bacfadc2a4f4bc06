"""Decides which of several recipes a job keeps, and what may honestly be said of having chosen it.

Candidates are compared by the likelihood of held-out rows, each at its own best temperature: with few rows that tells
more than how many came out right. A tuned encoder is kept unless the frozen one is better by more than a standard error
of their difference, row by row. So few rows as a small job has cannot tell the two apart, and in 19 of 24 measured ones
the tuned one was no worse on other rows: asking it to be better came to .662 there, and this rule to .667
(benchmarks/README.md). With many rows the standard error is small, and it must be as good.

A score that was itself chosen flatters, so the reported one is made of parts: each part of the held-out rows is scored
by the candidate that the other parts choose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from reflexd.engine.calibration import best_temperature, mean_loss, row_losses
from reflexd.engine.evaluation import HeldOut, Split, dealt, hold_out, select
from reflexd.engine.heads import Matrix, Targets, Wide
from reflexd.engine.upright import upright
from reflexd.registry.artifacts import Head, HeadRef


class Candidate(Struct, frozen=True):
    """A way to classify: an encoder, by its number, a head recipe on its features, and how held-out rows came out."""

    encoder: int
    recipe: HeadRef
    held: HeldOut
    lean: float = 0.0
    """What is taken from the logits of the labels that a base knew, those of `held` included: upright.py."""


def search(
    encoder: int,
    parts: Split,
    features: Callable[[int], Matrix],
    targets: Targets,
    fitted: Callable[[HeadRef, int, Matrix, Targets], Head],
    steps: Sequence[Callable[[HeadRef], HeadRef]],
    first: HeadRef,
    told: Callable[[Candidate], None] | None = None,
    knew: NDArray[np.bool_] | None = None,
    shares: Wide | None = None,
) -> list[Candidate]:
    """Try head recipes on an encoder's features: `first`, which is `told`, then in each step the best one changed.

    Where `knew` says which labels a base has, each is set upright; `shares` as in upright.py.

    `features` are those of all rows as the encoder of each part, by its number, makes them; `fitted` gets the number.
    """

    def tried(recipe: HeadRef) -> Candidate:
        held = hold_out(parts, features, targets, partial(fitted, recipe))
        if knew is None:
            return Candidate(encoder, recipe, held)
        return Candidate(encoder, recipe, *upright(held, knew, shares))

    out = [tried(first)]
    if told is not None:
        told(out[0])
    for change in steps:
        recipe = change(out[choose(out)].recipe)
        if all(recipe != one.recipe for one in out):
            out.append(tried(recipe))
    return out


def choose(candidates: Sequence[Candidate], rows: NDArray[np.bool_] | None = None) -> int:
    """Return the number of the candidate to keep, judged by all held-out rows or those of a mask [n].

    Of one encoder's candidates that is the one under which the rows are likeliest, and so it is among several tuned
    encoders. Between the frozen one and the best tuned one the standard-error rule decides.
    """
    held = [c.held if rows is None else select(c.held, rows) for c in candidates]
    losses = [least_loss(one) for one in held]
    frozen = [number for number, one in enumerate(candidates) if one.encoder == 0]
    tuned = [number for number, one in enumerate(candidates) if one.encoder != 0]
    best = [min(numbers, key=losses.__getitem__) for numbers in (frozen, tuned) if numbers]
    if len(best) == 1:
        return best[0]
    before, after = (row_losses(held[number], best_temperature(held[number])) for number in best)
    worse = after - before
    error = worse.std(ddof=1) / np.sqrt(len(worse)) if len(worse) > 1 else 0.0
    return best[1] if worse.mean() <= error else best[0]


def least_loss(held: HeldOut) -> float:
    """Return minus the mean log likelihood of held-out rows at their best temperature."""
    return mean_loss(held, best_temperature(held))


def mean_accuracy(held: HeldOut) -> float:
    """Return the share of held-out rows whose label came out right; of several labels each counts."""
    right = held.logits.argmax(axis=1) == held.truth if held.truth.ndim == 1 else (held.logits >= 0) == held.truth
    return float(right.mean())


def honest(candidates: Sequence[Candidate]) -> HeldOut:
    """Return held-out logits of which no row's truth chose among these candidates.

    What led to the candidates themselves (the order of the search, a pilot, leans of others) has seen all of them.

    Those of different candidates come on different scales, so each is divided by its own temperature first.
    """
    first = candidates[0].held
    if len(candidates) == 1:
        return first
    logits = np.empty_like(first.logits)
    for chosen_on, judged in dealt(len(first.truth)):
        held = candidates[choose(candidates, chosen_on)].held
        logits[judged] = held.logits[judged] / best_temperature(select(held, chosen_on))
    return HeldOut(logits, first.truth, first.method, first.places, first.folds)
