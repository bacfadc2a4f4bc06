"""Decides how the time that a job may take is spent: which adapters are tuned, in how many steps, judged on which rows.

Seconds are those of one thread of a usual processor. They are turned into work by a nominal speed, and never measured:
the same rows, seed and budget mean the same work on every machine, done sooner by a faster one. On machines of one kind
they give the same model: another processor or another precision (half_precision.py) rounds otherwise. The frozen
encoder's head is always fitted, whatever the budget.

Up to MANY_ROWS rows each adapter is tuned once a fold and judged by cross-validation, and the one that is kept is
tuned again on all rows, where the budget allows it, if need be on the beginnings of long texts; else once, judged on
held-out rows, which up to FEW_ROWS rows would be too few to tell anything. There an encoder that is too large for the
seconds is tuned by its biases, and these in fewer steps, before it is left as it is. What was measured for the kinds,
steps and rates stands in benchmarks/README.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from reflexd.engine.adapters import Adapter, Kind
from reflexd.engine.backbone import EncoderDescription
from reflexd.engine.plan import Plan
from reflexd.registry.backbones import LAST_TOKEN

FLOPS = 45e9
"""Of one thread with AVX2 in single precision, as measured in tuning."""
READING = 90e9
"""The same of reading texts in int8."""
COST = {"biases": 2.0, "low_rank": 2.6}
"""What a step costs in forwards: that and the way back, which for biases needs no gradient of a weight."""
RATE = {"biases": 8e-3, "low_rank": 4e-3}
SLOW_RATE = {"biases": 4e-3, "low_rank": 2e-3}
"""Learning rate of few whole-set steps, and of many small batches."""
STARTED_RATE = {"biases": 8e-3, "low_rank": 2e-3}
"""That of few whole-set steps that go on from a base's adapter."""
LOW_RANK_ROWS = 32
"""With fewer rows the biases do as well as a low-rank adapter, at a sixteenth of its size; with more a little worse."""
FEW_ROWS = 128
"""Up to so many rows each step sees all of them, past lowest layers that are held, and one kind of adapter is tried."""
FEW_STEPS = 8
LONGER_STEPS = {5: 1.5, 3: 2.0}
"""Fewer whole-set steps of biases that the seconds may pay for instead, and by how much their rate is then greater."""
SHALLOW, LEAST_PACE = 6, 0.5
"""Layers of the encoder that the rates were measured on: rates of a deeper one are as much smaller as it is deeper, but
no smaller than by this factor, that of twelve layers; more were not measured."""
CONTRAST = 0.5
BATCH_ROWS = 64
PASSES = 4
LONG_PASSES = 12
"""Where there are seconds for it the last kind is also tuned this long: questions gain by it, opinions rather lose."""
MAX_PASSES_OF_MANY = 3
MANY_ROWS = 2_000
FOLDS = 3
CUTS = (256, 128, 64, 32)
"""Tokens of a text that tuning reads: the first of these with which it can be judged by folds, if with any, else the
first. Features are always made of the whole text."""
PILOT = 0.25
"""Share of its steps after which a kind of adapter is judged on held-out rows; one kind at most then goes on."""
LEAST_STEPS = 40
"""Small batches below which a tuning is not worth beginning, unless they are all that it was to have."""
LEAST_PASSES, PILOTED_STEPS = 2, 12
"""As many passes over the rows are worth it too, where one kind of adapter alone is tried, if they are so many steps: a
quarter of fewer tells nothing."""


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
    cut: int
    """Tokens of a text that tuning reads."""

    @property
    def seconds(self) -> float:
        """Return the nominal seconds of it all."""
        seconds = [work.seconds for work in self.works]
        tuning = self.folds * sum(seconds) + max(work.again_seconds for work in self.works)
        if self.folds == 1:
            tuning = PILOT * sum(seconds) + (1 - PILOT) * max(seconds)
        return tuning + self.reading * (self.folds * len(self.works) + 1)


class Size(Struct, frozen=True):
    """What tuning costs by: distinct rows, their tokens, the encoder's linear weights."""

    rows: int
    tokens: dict[int, int]
    """Of the rows' texts, by how much tuning reads of each (CUTS)."""
    whole: int
    """Tokens of the whole texts, which every tuned encoder reads again."""
    parameters: int
    started: bool = False
    """Whether tuning goes on from a base's adapter."""
    pace: float = 1.0
    """What the learning rates of whole-set steps are multiplied with."""


def pace(encoder: EncoderDescription) -> float:
    """Return what the learning rates of whole-set steps are multiplied with; a decoder's were not measured."""
    layers = max(encoder.layers, SHALLOW)  # 0 where its configuration does not tell
    return 1.0 if encoder.pooling == LAST_TOKEN else max(LEAST_PACE, SHALLOW / layers)


def kinds_for(rows: int, encoder: EncoderDescription, start: Adapter | None) -> list[Kind]:
    """Return the kinds of adapter to try, the smallest first; one that goes on from a base's is of its kind.

    Up to FEW_ROWS rows one is tried: the last, or the first where the seconds do not pay for that.
    """
    if start is not None:
        return [start.kind]
    kinds: list[Kind] = ["biases"] if encoder.biases else []
    if encoder.weights and (rows >= LOW_RANK_ROWS or not kinds):
        kinds.append("low_rank")
    return kinds


def scheme(size: Size, budget: float, kinds: Sequence[Kind]) -> Scheme | None:
    """Return the most thorough scheme that the seconds pay for; None where they pay for none."""
    if not kinds:
        return None
    reading = 2 * size.parameters * size.whole / READING
    both, one = list(kinds), list(kinds[:1])
    if size.rows <= MANY_ROWS:
        for works, cut in _few(kinds) if size.rows <= FEW_ROWS else _some(kinds):
            found = Scheme(FOLDS, [_folded(size, kind, amount, cut) for kind, amount in works], reading, cut)
            if found.seconds <= budget:
                return found
    if size.rows > FEW_ROWS:
        for tried, passes in ((both, PASSES), (one, LEAST_PASSES)):
            limit = (budget - reading * (len(tried) + 1)) / (1 + PILOT * (len(tried) - 1))
            begun = [work for kind in tried if (work := _held_out(size, kind, limit, passes)) is not None]
            if len(begun) == len(tried) and (found := Scheme(1, begun, reading, CUTS[0])).seconds <= budget:
                return found
    return None


def _few(kinds: Sequence[Kind]) -> Iterator[tuple[list[tuple[Kind, int]], int]]:
    """Yield what few rows are tuned by, the best first: a kind of adapter with its steps, and a cut."""
    yield from (([(kinds[-1], FEW_STEPS)], cut) for cut in CUTS)
    for steps in (FEW_STEPS, *LONGER_STEPS) if kinds[0] == "biases" else ():
        yield from (([(kinds[0], steps)], cut) for cut in CUTS)


def _some(kinds: Sequence[Kind]) -> Iterator[tuple[list[tuple[Kind, int]], int]]:
    """Yield what some rows are tuned by, the most thorough first: kinds of adapter with their passes, and a cut."""
    each = [(kind, PASSES) for kind in kinds]
    yield [*each, (kinds[-1], LONG_PASSES)], CUTS[0]
    yield each, CUTS[0]
    yield each[-1:], CUTS[0]
    yield from ((each[:1], cut) for cut in CUTS)


def _folded(size: Size, kind: Kind, amount: int, cut: int) -> Work:
    """Return the tunings on each fold's rows and on all."""
    rows = size.rows * (FOLDS - 1) // FOLDS
    plan, again = _plan(size, kind, rows, amount), _plan(size, kind, size.rows, amount)
    seconds = [_seconds(size, each, kind, number, cut) for each, number in ((plan, rows), (again, size.rows))]
    return Work(kind, plan, seconds[0], again, seconds[1])


def _held_out(size: Size, kind: Kind, limit: float, passes: int) -> Work | None:
    """Return one tuning, of as many steps as the seconds pay for; None where those are not worth beginning.

    They are where they are LEAST_STEPS, or so many `passes` in PILOTED_STEPS or more, or all that there are.
    """
    plan = _plan(size, kind, size.rows, PASSES if size.rows <= MANY_ROWS else MAX_PASSES_OF_MANY)
    whole = _seconds(size, plan, kind, size.rows, CUTS[0])
    steps = plan.steps if whole <= limit else int(plan.steps * max(limit, 0.0) / whole)
    if steps < min(plan.steps, LEAST_STEPS, max(PILOTED_STEPS, passes * -(-size.rows // BATCH_ROWS))):
        return None
    return Work(kind, Plan(steps, plan.batch_rows, plan.rate, plan.contrast), whole * steps / plan.steps)


def _plan(size: Size, kind: Kind, rows: int, amount: int) -> Plan:
    """Return how so many of a job's rows are tuned on: by `amount` steps of the whole set, or passes in batches."""
    if size.rows <= FEW_ROWS:
        rate = (STARTED_RATE if size.started else RATE)[kind] * LONGER_STEPS.get(amount, 1.0) * size.pace
        return Plan(amount, FEW_ROWS, rate, CONTRAST, holds=True)
    return Plan(amount * -(-rows // BATCH_ROWS), BATCH_ROWS, SLOW_RATE[kind], CONTRAST)


def _seconds(size: Size, plan: Plan, kind: Kind, rows: int, cut: int) -> float:
    tokens = size.tokens[cut] / size.rows * min(rows, plan.batch_rows)
    return plan.steps * COST[kind] * 2 * size.parameters * tokens / FLOPS
