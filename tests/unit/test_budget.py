"""Shows how a job's seconds become tunings: none, biases over folds, or a contest on held-out rows."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from reflexd.engine.adapters import Adapter
from reflexd.engine.backbone import EncoderDescription
from reflexd.engine.budget import (
    CUTS,
    FEW_ROWS,
    FEW_STEPS,
    LONGER_STEPS,
    LOW_RANK_ROWS,
    MANY_ROWS,
    STARTED_RATE,
    Scheme,
    Size,
    kinds_for,
    pace,
    scheme,
)
from reflexd.engine.encoder import Encoder
from reflexd.engine.tuned import Rows, Tuner
from reflexd.registry.backbones import LAST_TOKEN
from reflexd.schemas.worker import RunSpec

BUDGETS = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 30.0, 60.0, 120.0, 300.0, 1_000.0, 10_000.0, 86_400.0)
ROWS = (4, 10, 48, 128, 129, 200, 256, 257, 258, 400, 1_000, 2_000, 2_001, 5_000, 20_000, 50_000)


@pytest.fixture(scope="module")
def about(encoder: Encoder) -> EncoderDescription:
    return encoder.description


def size(about: EncoderDescription, rows: int, words: int = 14) -> Size:
    return Size(rows, {cut: rows * min(words, cut) for cut in CUTS}, rows * words, about.parameters)


def large(about: EncoderDescription, rows: int) -> Size:
    """Return the size of short rows for an encoder of twelve layers, each twice as wide."""
    return structs.replace(size(about, rows), parameters=8 * about.parameters)


def given(about: EncoderDescription, rows: int, budget: float) -> Scheme | None:
    return scheme(size(about, rows), budget, kinds_for(rows, about, None))


@pytest.mark.parametrize("rows", ROWS)
def test_no_seconds_leave_the_encoder_as_it_is(about: EncoderDescription, rows: int) -> None:
    assert given(about, rows, 0.0) is None


def test_few_rows_are_tuned_over_folds_and_by_one_kind_alone(about: EncoderDescription) -> None:
    for rows, kind in (
        (10, "biases"),
        (LOW_RANK_ROWS - 1, "biases"),
        (LOW_RANK_ROWS, "low_rank"),
        (FEW_ROWS, "low_rank"),
    ):
        found = given(about, rows, 120.0)
        assert found is not None
        assert found.folds > 1
        (work,) = found.works
        assert work.kind == kind
        for plan in (work.plan, work.again):
            assert plan is not None
            assert plan.steps == FEW_STEPS
            assert plan.batch_rows >= rows, "a step sees all rows"
        assert work.again_seconds > work.seconds, "a fold has fewer rows than all"


def test_a_large_encoder_is_moved_by_its_biases_and_in_fewer_steps_before_it_is_left_as_it_is(
    about: EncoderDescription,
) -> None:
    """The fewer the steps, the longer each of them is."""
    kinds = kinds_for(96, about, None)
    found = [scheme(large(about, 96), budget, kinds) for budget in (1_000.0, 300.0, 200.0, 120.0, 60.0)]
    assert found[-1] is None
    works = [one.works for one in found[:-1] if one is not None]
    assert [[(work.kind, work.plan.steps) for work in each] for each in works] == [
        [("low_rank", FEW_STEPS)],
        [("biases", FEW_STEPS)],
        *([("biases", steps)] for steps in LONGER_STEPS),
    ]
    rates = [each[0].plan.rate for each in works[1:]]
    assert rates == sorted(set(rates))
    assert all(each[0].plan.holds and each[0].plan.batch_rows >= 96 for each in works)


def test_only_biases_are_moved_in_fewer_steps(about: EncoderDescription) -> None:
    """Those of a base, too; nothing was measured of a decoder, or of a base's low-rank adapter."""
    on = structs.replace(large(about, 96), started=True, pace=0.5)
    first, fewer = (scheme(on, budget, ["biases"]) for budget in (1_000.0, 120.0))
    assert first is not None
    assert fewer is not None
    assert (first.works[0].plan.steps, fewer.works[0].plan.steps) == (FEW_STEPS, 3)
    assert fewer.works[0].plan.rate == LONGER_STEPS[3] * first.works[0].plan.rate == STARTED_RATE["biases"]
    for size_ in (on, large(about, 96)):
        assert scheme(size_, 120.0, ["low_rank"]) is None


def test_a_large_encoder_reads_the_beginnings_of_few_long_texts_before_it_makes_fewer_steps(
    about: EncoderDescription,
) -> None:
    long = structs.replace(size(about, 24, words=300), parameters=8 * about.parameters)
    given = [scheme(long, float(budget), ["biases"]) for budget in range(20, 2_000, 5)]
    cuts = [(one.works[0].plan.steps, one.cut) for one in given if one is not None]
    assert cuts == sorted(cuts), "the more seconds, the more steps, and of as many the more of each text"
    assert {steps for steps, _ in cuts} == {FEW_STEPS, *LONGER_STEPS}
    assert cuts[0][1] == CUTS[-1]


def test_some_rows_are_passed_over_twice_at_least_and_in_no_fewer_than_twelve_steps(about: EncoderDescription) -> None:
    """That is where the seconds pay for too few passes to be judged by folds."""
    for rows, least in ((129, 12), (300, 12), (385, 14), (400, 14), (449, 16)):
        sized = large(about, rows)
        steps = []
        for budget in range(20, 300):
            found = scheme(sized, float(budget), ["biases"])
            steps += [found.works[0].plan.steps] if found is not None and found.folds == 1 else []
        assert steps[0] == least
        assert steps == sorted(steps)
    assert scheme(large(about, 800), 120.0, ["biases", "low_rank"]) is None
    found = scheme(large(about, 400), 120.0, ["biases", "low_rank"])
    assert found is not None
    assert [work.kind for work in found.works] == ["biases"], "both are tried where both have all their steps"


def test_how_deep_an_encoder_is_decides_what_its_tuning_is_asked(encoder: Encoder, tmp_path: Path) -> None:
    """The depth is a fake: it stands in the description alone."""
    deep = copy.copy(encoder)
    deep.description = structs.replace(encoder.description, layers=12)
    rows = Rows(["a question"], np.zeros(1, np.int64), 1, np.zeros((1, 2 * encoder.description.width), np.float32))
    folder = str(tmp_path)
    spec = RunSpec(
        job_id="j", stage="train", run_dir=folder, models_dir=folder, model_id="m", backbone="", checkpoint="", seed=1,
        threads=1, budget_seconds=1.0,
    )  # fmt: skip
    assert [Tuner(rows, each, spec, lambda _: None).size().pace for each in (encoder, deep)] == [1.0, 0.5]


def test_whole_set_steps_of_a_deeper_encoder_are_shorter(about: EncoderDescription) -> None:
    paces = [pace(structs.replace(about, layers=layers)) for layers in (0, 3, 6, 8, 12, 24)]
    assert paces == [1.0, 1.0, 1.0, 0.75, 0.5, 0.5], "0 where the configuration does not tell"
    assert pace(structs.replace(about, layers=30, pooling=LAST_TOKEN)) == 1.0, "a decoder's were not measured"
    for rows, share in ((48, 0.5), (400, 1.0)):
        usual, deep = (scheme(structs.replace(size(about, rows), pace=each), 1e4, ["biases"]) for each in (1.0, 0.5))
        assert usual is not None
        assert deep is not None
        assert deep.works[0].plan.rate == share * usual.works[0].plan.rate
        assert deep.seconds == usual.seconds


def test_what_goes_on_from_a_base_moves_slowly(about: EncoderDescription) -> None:
    anew = size(about, 48)
    first, on = (scheme(one, 120.0, ["low_rank"]) for one in (anew, structs.replace(anew, started=True)))
    assert first is not None
    assert on is not None
    assert on.works[0].plan.rate < first.works[0].plan.rate


def test_many_rows_are_held_out_once_and_both_kinds_try(about: EncoderDescription) -> None:
    found = given(about, MANY_ROWS + 1, 10_000.0)
    assert found is not None
    assert found.folds == 1
    assert [work.kind for work in found.works] == ["biases", "low_rank"]


def test_the_more_seconds_the_more_ways_are_tried(about: EncoderDescription) -> None:
    def tried(rows: int, budget: float) -> list[tuple[str, bool]]:
        found = given(about, rows, budget)
        assert found is not None
        assert found.folds > 1
        return [(work.kind, work.plan.steps > found.works[0].plan.steps) for work in found.works]

    assert tried(FEW_ROWS, 10_000.0) == [("low_rank", False)]
    assert tried(FEW_ROWS + 1, 10_000.0) == [("biases", False), ("low_rank", False), ("low_rank", True)]
    assert tried(400, 200.0) == [("biases", False), ("low_rank", False)]
    assert tried(400, 120.0) == [("low_rank", False)]
    assert tried(400, 90.0) == [("biases", False)]


def test_what_an_encoder_cannot_move_is_not_tried(about: EncoderDescription) -> None:
    without = {"biases": {}, "weights": {}}

    def lacking(*names: str) -> EncoderDescription:
        fields = {name: getattr(about, name) for name in about.__struct_fields__}
        return EncoderDescription(**fields | {name: without[name] for name in names})

    assert kinds_for(10, lacking("biases"), None) == ["low_rank"]
    assert kinds_for(5_000, lacking("weights"), None) == ["biases"]
    assert kinds_for(5_000, lacking("weights", "biases"), None) == []
    assert scheme(size(about, 5_000), 10_000.0, []) is None
    for kind in ("biases", "low_rank"):  # what a base has, whatever the number of rows
        assert [kinds_for(rows, about, Adapter(kind, {})) for rows in (10, 5_000)] == [[kind], [kind]]


def test_long_texts_of_few_rows_are_cut_rather_than_judged_by_a_handful(about: EncoderDescription) -> None:
    long = size(about, 40, words=2_000)
    found = {budget: scheme(long, budget, ["low_rank"]) for budget in BUDGETS}
    cuts = {one.cut for one in found.values() if one is not None}
    assert cuts > {CUTS[0], CUTS[-1]}, "the more seconds, the more of each text"
    assert all(one.folds > 1 for one in found.values() if one is not None), "a fifth of 40 rows tells nothing"
    assert scheme(size(about, 40, words=20), 60.0, ["low_rank"]).cut == CUTS[0], "short ones are read whole"


@pytest.mark.parametrize("larger", [1, 8])
@pytest.mark.parametrize("words", [14, 200, 3_000])
@pytest.mark.parametrize("rows", ROWS)
def test_what_is_planned_is_within_the_seconds_and_more_of_them_never_give_less(
    about: EncoderDescription, rows: int, words: int, larger: int
) -> None:
    sized = structs.replace(size(about, rows, words), parameters=larger * about.parameters)
    plans = [scheme(sized, budget, kinds_for(rows, about, None)) for budget in BUDGETS]
    for found, budget in zip(plans, BUDGETS, strict=True):
        assert found is None or 0 < found.seconds <= budget
        assert found is None or all(work.plan.steps > 0 for work in found.works)
    for less, more in itertools.pairwise(plans):
        if less is not None:
            assert more is not None
            assert more.seconds >= less.seconds
            assert (more.folds, len(more.works)) >= (less.folds, len(less.works))
    if larger == 1:
        assert plans[-1] is not None, "a day is enough for anything that is admitted"


def test_reading_long_texts_again_is_paid_for_too(about: EncoderDescription) -> None:
    short = size(about, 600, words=20)
    assert scheme(short, 120.0, ["biases"]) is not None
    assert scheme(structs.replace(short, whole=600 * 20_000), 120.0, ["biases"]) is None


def test_rows_without_a_token_of_their_own_are_planned_too(about: EncoderDescription) -> None:
    assert scheme(size(about, 4, words=2), 60.0, ["biases"]) is not None
