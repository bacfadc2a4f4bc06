"""Decides what a job's score is compared with: TF-IDF and logistic regression on the same rows, in the same folds.

The training process alone imports this module: scikit-learn's text part would slow the daemon's start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn import config_context
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from reflexd.engine.evaluation import HeldOut
from reflexd.engine.heads import REGULARISATION, Targets

WORD = r"(?u)\w+|[^\w\s]"
"""A word or a sign: a question mark or an emoji is a feature too, and no readable text is without one."""
NEVER = -30.0
"""Logit of a label that no training row of a fold has; its opposite where every row has it."""
MOST_CHARS = 20_000_000
MOST_WORK = 40_000_000
"""Greatest number of words in the texts, times labels, times folds: about 5 seconds of one core."""


def tfidf(texts: Sequence[str], targets: Targets, labels: int, held: HeldOut | None) -> HeldOut | None:
    """Return the baseline's logits for the held-out rows, trained in each fold on the rows that the head had.

    `texts` and `targets` are the rows whose places `held` names. None where no row is held out, and where the rows and
    labels are so many that the baseline would take longer than it is worth.
    """
    if held is None or sum(map(len, texts)) > MOST_CHARS:
        return None
    folds = np.unique(held.folds)
    logits = np.empty((len(held.truth), labels), np.float32)
    for fold in folds:
        judged = held.folds == fold
        rest = np.setdiff1d(np.arange(len(texts)), held.places[judged])
        words = TfidfVectorizer(sublinear_tf=True, token_pattern=WORD)
        known = words.fit_transform([texts[place] for place in rest])
        if known.nnz * labels * len(folds) > MOST_WORK:
            return None
        asked = words.transform([texts[place] for place in held.places[judged]])
        with config_context(skip_parameter_validation=True, assume_finite=True):  # a fifth of a small job's time
            for label in range(labels):
                has = targets[rest, label] if targets.ndim == 2 else targets[rest] == label
                if has.all() or not has.any():
                    logits[judged, label] = NEVER if not has.any() else -NEVER
                    continue
                # A loose tolerance changes no accuracy and takes two thirds of the time.
                model: Any = LogisticRegression(solver="liblinear", C=REGULARISATION, tol=0.1)
                logits[judged, label] = model.fit(known, has).decision_function(asked)
    return HeldOut(logits=logits, truth=held.truth, method=held.method, places=held.places, folds=held.folds)
