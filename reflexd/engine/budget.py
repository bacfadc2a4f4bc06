"""Decides how the time that a job may take is spent: which adapters are tuned, in how many steps, judged on which rows.

Seconds are those of one thread of a usual processor. They are turned into work by a nominal speed, and never measured:
the same rows, seed and budget give the same model on every machine, one with more threads sooner. The frozen encoder's
head is always fitted, whatever the budget.

Up to MANY_ROWS rows each adapter is tuned once a fold and judged by cross-validation, where the budget allows it; else
once, judged on held-out rows. What was measured for the steps and rates stands in benchmarks/README.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from reflexd.engine.adapters import Adapter, Kind
from reflexd.engine.backbone import EncoderDescription
from reflexd.engine.tuning import Plan

FLOPS = 45e9
"""Of one thread with AVX2 in single precision, as measured in tuning."""
READING = 90e9
"""The same of reading texts in int8."""
COST = {"biases": 2.0, "low_rank": 2.6}
"""What a step costs in forwards: that and the way back, which for biases needs no gradient of a weight."""
RATE = {"biases": 8e-3, "low_rank": 3e-3}
SLOW_RATE = {"biases": 4e-3, "low_rank": 2e-3}
"""Learning rate of few whole-set steps, and of many small batches."""
FEW_ROWS = 128
FEW_STEPS = 8
BATCH_ROWS = 64
PASSES = 4
MAX_PASSES_OF_MANY = 3
MANY_ROWS = 2_000
FOLDS = 3
MAX_TOKENS = 256
"""Tokens of a text that tuning reads; features are always made of the whole text."""
LEAST_STEPS = 40
"""Small batches below which a tuning is not worth beginning."""


class Work(Struct, frozen=True):
    """What tuning one adapter kind once on `rows` rows means."""

    kind: Kind
    plan: Plan
    seconds: float


class Scheme(Struct, frozen=True):
    """How a job's tuning is judged: by so many folds (1: on held-out rows), and which kinds are tried, best first."""

    folds: int
    works: list[Work]
    reading: float
    """Nominal seconds of making all rows' features once."""

    @property
    def seconds(self) -> float:
        """Return the nominal seconds of it all."""
        tuning = self.folds * sum(work.seconds for work in self.works)
        return tuning + self.reading * (self.folds * len(self.works) + 1)


class Size(Struct, frozen=True):
    """What tuning costs by: distinct rows, their tokens as far as tuning reads them, the encoder's linear weights."""

    rows: int
    tokens: int
    whole: int
    """Tokens of the whole texts, which every tuned encoder reads again."""
    parameters: int
    contrastive: bool
    """Whether each row has one label."""


def kinds_for(rows: int, encoder: EncoderDescription, start: Adapter | None) -> list[Kind]:
    """Return the kinds of adapter to try, the smallest first; one that goes on from a base's is of its kind.

    With few rows a low-rank adapter did no better than the biases, at sixteen times the size.
    """
    if start is not None:
        return [start.kind]
    kinds: list[Kind] = ["biases"] if encoder.biases else []
    if encoder.weights and (rows > FEW_ROWS or not kinds):
        kinds.append("low_rank")
    return kinds


def scheme(size: Size, budget: float, kinds: Sequence[Kind]) -> Scheme | None:
    """Return the most thorough scheme that the seconds pay for; None where they pay for none."""
    if not kinds:
        return None
    reading = 2 * size.parameters * size.whole / READING
    for folds in (FOLDS, 1) if size.rows <= MANY_ROWS else (1,):
        share = (FOLDS - 1) / FOLDS if folds > 1 else 1.0
        for tried in (list(kinds), list(kinds[:1])):
            limit = budget / len(tried) - 2 * reading
            works = [_work(size, kind, share, limit if folds == 1 else None) for kind in tried]
            whole = [work for work in works if work is not None]
            if len(whole) == len(works):
                found = Scheme(folds, whole, reading)
                if found.seconds <= budget:
                    return found
    return None


def _work(size: Size, kind: Kind, share: float, limit: float | None) -> Work | None:
    """Return one tuning on a share of the rows; with a limit, of as many steps as it pays for."""
    rows = int(size.rows * share)
    contrast = 0.5 if size.contrastive else 0.0
    if rows <= FEW_ROWS:
        plan = Plan(FEW_STEPS, FEW_ROWS, RATE[kind], contrast)
    else:
        passes = PASSES if size.rows <= MANY_ROWS else MAX_PASSES_OF_MANY
        plan = Plan(passes * -(-rows // BATCH_ROWS), BATCH_ROWS, SLOW_RATE[kind], contrast)
    if limit is not None and limit <= 0:
        return None
    a_step = _seconds(size, kind, min(rows, plan.batch_rows))
    steps = plan.steps if limit is None else min(plan.steps, int(limit / a_step))
    if steps < min(plan.steps, LEAST_STEPS):
        return None
    return Work(kind, Plan(steps, plan.batch_rows, plan.rate, contrast), steps * a_step)


def _seconds(size: Size, kind: Kind, rows: int) -> float:
    tokens = size.tokens / size.rows * rows
    return COST[kind] * 2 * size.parameters * tokens / FLOPS
