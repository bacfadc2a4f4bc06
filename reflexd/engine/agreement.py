"""Decides what the score of a job means whose labels were made: agreement with them, and beside it what is right.

Right, as far as anybody knows, is what the user has labelled: rows that were given beside a description, or corrected
before training. Each of these is scored by a head that was not fitted on it. Texts that were written after the user's
own resemble them, so this flatters a little; a `validation_file` does not.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from reflexd.engine.assessment import decide
from reflexd.engine.calibration import calibrate
from reflexd.engine.evaluation import HeldOut, wilson
from reflexd.engine.interval import SPREAD, Z
from reflexd.engine.material import Emit
from reflexd.engine.result import matches
from reflexd.schemas.worker import Message

MADE_LABELS = "made_labels"
AGREEMENT = (
    "The labels were made and not given: the held-out score says how often the classifier agrees with them, not how "
    "often it is right; "
)
NO_OWN = "rows of yours among them, or a validation_file with labels of yours, give that"


def agreement(held: HeldOut | None, texts: Sequence[str], given: Collection[str], emit: Emit) -> dict[str, Any]:
    """Return what is added to a job's `result`: what its score is against, and the score of the user's own rows.

    `texts` are those of all rows, and `given` those that the user has labelled. Where none of these was held out there
    is no `own_rows`.
    """
    out: dict[str, Any] = {"scored_against": MADE_LABELS}
    said = NO_OWN
    if (own := _own_rows(held, texts, given)) is not None:
        out["own_rows"] = own
        low, high = own["interval"]
        said = f"of {own['n']} rows that you labelled {own['accuracy']:.0%} came out right ({low:.0%} to {high:.0%})"
    emit(Message(AGREEMENT + said, "warn", {"code": MADE_LABELS}))
    return out


def _own_rows(held: HeldOut | None, texts: Sequence[str], given: Collection[str]) -> dict[str, Any] | None:
    predicted = decide(held, calibrate(held))
    if held is None or predicted is None:
        return None
    own = np.array([texts[place] in given for place in held.places], dtype=np.bool_)
    right = matches(held.truth, predicted)[own]
    n = len(right)
    if n == 0:
        return None
    low, high = wilson(int(right.sum()), n, Z * SPREAD if len(np.unique(held.folds)) > 1 else Z)
    return {
        "accuracy": round(float(right.mean()), 4),
        "n": n,
        "interval": [round(low, 4), round(high, 4)],
        "method": held.method,
    }
