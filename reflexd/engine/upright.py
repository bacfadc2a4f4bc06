"""Decides how far a model that started from a base leans to the labels that the base knew, and sets it upright.

The base's adapter has drawn its own labels into dense places, and the head learns again from rows that lie there. Texts
that nobody trained on lie less far out, those of the new labels too, and so they come out with the base's labels more
often than they should. The rows of a job that are held out show by how much: one number, the likeliest, is taken from
the logits of the base's labels. (Wu et al., Large Scale Incremental Learning, 2019, fit a scale with it; ours is the
temperature.) Before any row is seen it is normal about 0, with the standard deviation that held-out logits have.

TREC grown from 3 labels to 6 by 5 rows a label, four draws, 1,500 other rows of the train file: .784 before, .794 set
upright; with three to six times as many rows of the base learned again .77 leaning and .810 set upright.
"""

from __future__ import annotations

import numpy as np
from msgspec import structs
from numpy.typing import NDArray
from scipy.optimize import minimize

from reflexd.engine.calibration import SPREAD, best_temperature, row_losses
from reflexd.engine.evaluation import HeldOut, dealt, select
from reflexd.engine.heads import NEVER, Wide, row_weights

LEAST_ROWS = 5
"""Held-out rows of labels that the base knew, and of others, below which nothing is said of a lean."""
MOST_ROWS = 500
"""Held-out rows that are enough to tell it: of 2,000 with 150 labels each search would take seconds."""


def upright(held: HeldOut, knew: NDArray[np.bool_], shares: Wide | None) -> tuple[HeldOut, float]:
    """Return held-out rows set upright, each by what the rows of other parts tell, and what all of them tell.

    That is by how much the logits of the labels that the base `knew` [labels] are too high. Where the rows, or a part's
    others, are too few to tell, nothing is done. `shares` [labels] is how much each label's rows count, if not as many
    as they are.
    """
    told = leaning(held, knew, shares)
    logits = held.logits.copy()
    for chosen_on, judged in dealt(len(held.truth)):
        lean = leaning(select(held, chosen_on), knew, shares)
        if told is None or lean is None:
            return held, 0.0
        logits[judged] = without(select(held, judged), knew, lean).logits
    return structs.replace(held, logits=logits), 0.0 if told is None else told


def leaning(held: HeldOut, knew: NDArray[np.bool_], shares: Wide | None) -> float | None:
    """Return by how much the logits of the labels that the base knew are too high; None where too few rows tell."""
    if held.truth.ndim == 2:
        return None
    # A head without rows of a label never says it. That tells nothing, and would set the scale of all.
    held = select(held, np.asarray((held.logits > NEVER / 2).all(axis=1)))
    if len(held.truth) > MOST_ROWS:
        held = select(held, np.random.default_rng(0).permutation(len(held.truth)) < MOST_ROWS)
    old = int(knew[held.truth].sum())
    if min(old, len(held.truth) - old) < LEAST_ROWS:
        return None
    weights = np.ones(len(held.truth)) if shares is None else row_weights(held.truth, shares)
    weights = weights / weights.sum()
    rows, deviation = 1 / float((weights**2).sum()), float(held.logits.std())
    # The search estimates gradients by small steps, for which single precision has too few digits.
    wide = structs.replace(held, logits=held.logits.astype(np.float64))

    def cost(values: NDArray[np.float64]) -> float:
        lean, log_temperature = values
        pull = (lean**2 + (log_temperature / SPREAD) ** 2) / (2 * rows)
        losses = row_losses(without(wide, knew, lean * deviation), float(np.exp(log_temperature)))
        return float(weights @ losses) + float(pull)

    start = np.array([0.0, np.log(best_temperature(wide))])
    return float(minimize(cost, start, method="L-BFGS-B", bounds=[(-3, 3), (-4, 3)]).x[0]) * deviation


def without(held: HeldOut, knew: NDArray[np.bool_], lean: float) -> HeldOut:
    """Return held-out rows whose logits of the labels that the base knew are less by so much."""
    return structs.replace(held, logits=held.logits - held.logits.dtype.type(lean) * knew)
