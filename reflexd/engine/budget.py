"""Decides how the time that a job may take is spent: which adapters are tuned, in how many steps, judged on which rows.

Seconds are those of one thread of a usual processor. They are turned into work by a nominal speed, and never measured:
the same rows, seed and budget give the same model on every machine, one with more threads sooner. The frozen encoder's
head is always fitted, whatever the budget.

Up to MANY_ROWS rows each adapter is tuned once a fold and judged by cross-validation, and the one that is kept is
tuned again on all rows, where the budget allows it; else once, judged on held-out rows. What was measured for the
kinds, steps and rates stands in benchmarks/README.md.
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
RATE = {"biases": 8e-3, "low_rank": 4e-3}
SLOW_RATE = {"biases": 4e-3, "low_rank": 2e-3}
"""Learning rate of few whole-set steps, and of many small batches."""
LOW_RANK_ROWS = 32
"""With fewer rows the biases do as well as a low-rank adapter, at a sixteenth of its size; with more a little worse."""
FEW_ROWS = 128
"""Up to so many rows each step sees all of them, and one kind of adapter is tried."""
FEW_STEPS = 8
CONTRAST = 0.5
BATCH_ROWS = 64
PASSES = 4
MAX_PASSES_OF_MANY = 3
MANY_ROWS = 2_000
FOLDS = 3
MAX_TOKENS = 256
"""Tokens of a text that tuning reads; features are always made of the whole text."""
PILOT = 0.25
"""Share of its steps after which a kind of adapter is judged on held-out rows; one kind at most then goes on."""
LEAST_STEPS = 40
"""Small batches below which a tuning is not worth beginning."""


class Work(Struct, frozen=True):
    """What one adapter kind means: tuning it on a fold's rows, or on those that are not held out, and then on all."""

    kind: Kind
    plan: Plan
    seconds: float
    again: Plan | None = None
    """The tuning on all rows that follows where folds were judged."""
    again_seconds: float = 0.0


class Scheme(Struct, frozen=True):
    """How a job's tuning is judged: by so many folds (1: on held-out rows), and which kinds are tried, best first."""

    folds: int
    works: list[Work]
    reading: float
    """Nominal seconds of making all rows' features once."""

    @property
    def seconds(self) -> float:
        """Return the nominal seconds of it all."""
        seconds = [work.seconds for work in self.works]
        tuning = self.folds * sum(seconds) + max(work.again_seconds for work in self.works)
        if self.folds == 1:
            tuning = PILOT * sum(seconds) + (1 - PILOT) * max(seconds)
        return tuning + self.reading * (self.folds * len(self.works) + 1)


class Size(Struct, frozen=True):
    """What tuning costs by: distinct rows, their tokens as far as tuning reads them, the encoder's linear weights."""

    rows: int
    tokens: int
    whole: int
    """Tokens of the whole texts, which every tuned encoder reads again."""
    parameters: int
    started: bool = False
    """Whether tuning goes on from a base's adapter: slowly, for it is near already."""


def kinds_for(rows: int, encoder: EncoderDescription, start: Adapter | None) -> list[Kind]:
    """Return the kinds of adapter to try, the smallest first; one that goes on from a base's is of its kind."""
    if start is not None:
        return [start.kind]
    kinds: list[Kind] = ["biases"] if encoder.biases else []
    if encoder.weights and (rows >= LOW_RANK_ROWS or not kinds):
        kinds.append("low_rank")
    return kinds if rows > FEW_ROWS else kinds[-1:]


def scheme(size: Size, budget: float, kinds: Sequence[Kind]) -> Scheme | None:
    """Return the most thorough scheme that the seconds pay for; None where they pay for none."""
    if not kinds:
        return None
    reading = 2 * size.parameters * size.whole / READING
    for folds in (FOLDS, 1) if size.rows <= MANY_ROWS else (1,):
        for tried in (list(kinds), list(kinds[:1])):
            limit = (budget - reading * (len(tried) + 1)) / (1 + PILOT * (len(tried) - 1))
            works = [_folded(size, kind) if folds > 1 else _held_out(size, kind, limit) for kind in tried]
            whole = [work for work in works if work is not None]
            if len(whole) == len(works):
                found = Scheme(folds, whole, reading)
                if found.seconds <= budget:
                    return found
    return None


def _folded(size: Size, kind: Kind) -> Work:
    """Return the tunings on each fold's rows and on all."""
    rows = size.rows * (FOLDS - 1) // FOLDS
    plan, again = _plan(size, kind, rows), _plan(size, kind, size.rows)
    return Work(kind, plan, _seconds(size, plan, kind, rows), again, _seconds(size, again, kind, size.rows))


def _held_out(size: Size, kind: Kind, limit: float) -> Work | None:
    """Return one tuning, of as many steps as the seconds pay for; None where those are not worth beginning."""
    plan = _plan(size, kind, size.rows)
    whole = _seconds(size, plan, kind, size.rows)
    steps = plan.steps if whole <= limit else int(plan.steps * max(limit, 0.0) / whole)
    if steps < min(plan.steps, LEAST_STEPS):
        return None
    return Work(kind, Plan(steps, plan.batch_rows, plan.rate, plan.contrast), whole * steps / plan.steps)


def _plan(size: Size, kind: Kind, rows: int) -> Plan:
    """Return how so many of a job's rows are tuned on."""
    if size.rows <= FEW_ROWS:
        return Plan(FEW_STEPS, FEW_ROWS, (SLOW_RATE if size.started else RATE)[kind], CONTRAST)
    passes = PASSES if size.rows <= MANY_ROWS else MAX_PASSES_OF_MANY
    return Plan(passes * -(-rows // BATCH_ROWS), BATCH_ROWS, SLOW_RATE[kind], CONTRAST)


def _seconds(size: Size, plan: Plan, kind: Kind, rows: int) -> float:
    tokens = size.tokens / size.rows * min(rows, plan.batch_rows)
    return plan.steps * COST[kind] * 2 * size.parameters * tokens / FLOPS
