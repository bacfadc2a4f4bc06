"""Decides whether a model is served in int8 or in fp32: in fp32 where held-out rows show that int8 costs it.

Both encoders read the same rows of a job, a head is fitted on what each makes of one half, and they are compared on the
other half, and the other way round. Some 3 % of the labels differ, half of them for the better, so only many rows can
tell: with 2,000 the difference has a standard error of .4 points. fp32 is taken where the gain lies above COSTS by more
than chance explains. An encoder that int8 suits (all-MiniLM-L6-v2 loses .07 points in the mean of eleven sets) never
comes near that; one whose quantisation went wrong on the job's kind of text does.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from reflexd.engine.backbone import COMPARED_ROWS
from reflexd.engine.encoder import Encoder
from reflexd.engine.evaluation import split
from reflexd.engine.heads import Matrix, fit_head, logits_of
from reflexd.engine.material import Material

MOST_ROWS = 2_000
MOST_WORK = 100_000 * 10_616_832
"""Tokens x linear weights that fp32 reads of a job at most: all-MiniLM-L6-v2 takes some 20 core-seconds for 100,000
tokens. Where COMPARED_ROWS rows take more, because texts are long or the encoder is large, they are not compared."""
COSTS = 0.003
SURE = 1.645
"""Standard errors: one time in twenty, chance alone makes more of no difference."""


class Verdict(Struct, frozen=True):
    """How often held-out rows came out right in each precision, and how often differently."""

    rows: int
    int8: float
    fp32: float
    differing: float
    """The share of rows whose labels are not the same."""
    gain: float
    """What fp32 gains at least, all but surely; less than nothing where nothing tells."""

    @property
    def served(self) -> str:
        """Return the precision to serve in."""
        return "fp32" if self.gain > COSTS else "int8"

    def told(self) -> str:
        """Return the sentence that a job's events say it in."""
        both = f"held-out accuracy {self.int8:.3f} in int8 and {self.fp32:.3f} in fp32, heads alone"
        return f"{self.rows} rows read in both precisions: {both}; {self.differing:.1%} of the labels differ"


def compare(material: Material, labels: int, fp32: Encoder, seed: int, threads: int) -> Verdict | None:
    """Return how a job's rows come out in int8, in which they were read, and in fp32; None where they are too few.

    Each row is held out once. It takes MOST_ROWS rows at most.
    """
    total = len(material.targets)
    tokens = MOST_WORK // fp32.description.parameters
    rows = min(total, MOST_ROWS, tokens * total // max(material.tokens, 1))
    if rows < COMPARED_ROWS:
        return None
    chosen = np.sort(np.random.default_rng(seed).permutation(total)[:rows])
    targets, texts = material.targets[chosen], material.texts
    parts = split(targets, labels, seed, folds=2)
    if parts is None:
        return None
    width = fp32.description.width
    vectors = fp32.embed_all([texts[place] for place in chosen], threads)[0]
    held = np.concatenate([test for _, test in parts.parts])

    def decisions(features: Matrix) -> NDArray[np.bool_]:
        """Return which labels the held-out rows are given [held rows, labels]."""
        out = []
        for train, test in parts.parts:
            logits = logits_of(fit_head(features[train], targets[train], labels), features[test])
            out.append(logits >= 0 if targets.ndim == 2 else logits.argmax(axis=1)[:, None] == np.arange(labels))
        found: NDArray[np.bool_] = np.concatenate(out)
        return found

    truth = targets[held] if targets.ndim == 2 else targets[held][:, None] == np.arange(labels)
    int8, exact = decisions(material.features[chosen, :width]), decisions(vectors[:, :width])
    # A row is right if all of its labels are: of decisions, nearly all say that a row has not a label.
    right = [(said == truth).all(axis=1) for said in (int8, exact)]
    gains = right[1].astype(np.float64) - right[0]
    error = float(gains.std(ddof=1) / np.sqrt(len(gains)))
    return Verdict(
        rows=len(held),
        int8=float(right[0].mean()),
        fp32=float(right[1].mean()),
        differing=float((int8 != exact).any(axis=1).mean()),
        gain=float(gains.mean()) - SURE * error,
    )
