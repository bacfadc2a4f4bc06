"""Shows that rows with several labels, one or none are told apart, trained on, scored and served as sets."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from threading import Event

import msgspec
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from reflexd.config import Limits
from reflexd.engine import calibration, dataset
from reflexd.engine.dataset import BadRow
from reflexd.engine.encoder import Encoder
from reflexd.engine.heads import REGULARISATION, fit_head
from reflexd.engine.prepare import prepare
from reflexd.engine.trainer import train
from reflexd.errors import JobFailure
from reflexd.hookspecs import Example
from reflexd.registry import artifacts, runs
from reflexd.registry.artifacts import HeadRef
from reflexd.schemas.reflex import Mode
from reflexd.schemas.worker import Message, Metrics, Prepared, RunSpec
from reflexd_plugins.inline import InlineRows
from tests.unit.asking import ask, predicting, said
from tests.unit.held import held_out, hold_out

REFUND = [
    "Please refund my order",
    "I want my money back",
    "Return the payment to my card",
    "Reimburse me",
    "Pay it back",
]
CRASH = ["The app crashed again", "It closes by itself", "The program stops with an error", "It hangs", "It freezes"]
BOTH = [f"{crash}, so {refund[0].lower()}{refund[1:]}" for crash, refund in zip(CRASH, REFUND, strict=True)]
NEITHER = ["What a lovely day", "Where is your office", "The weather is fine", "Good morning", "I like your logo"]
ROWS = [
    *(Example(text, labels=("refund",)) for text in REFUND),
    *(Example(text, "crash") for text in CRASH),
    *(Example(text, labels=("crash", "refund")) for text in BOTH),
    *(Example(text, labels=()) for text in NEITHER),
]
LABELS = ["refund", "crash"]


def spec_for(folder: Path) -> RunSpec:
    return RunSpec(
        job_id="j", stage="train", run_dir=str(folder), models_dir=str(folder), model_id="m", backbone="",
        checkpoint="", seed=1, threads=2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "labels", "mode", "param", "said"),
    [
        ([Example("t", "a"), Example("t")], [], None, "[1].label", "needs label or labels"),
        ([Example("t", "a", ("a",))], [], None, "[0].label", "has both"),
        ([Example("t", labels=("a", "b", "a"))], [], None, "[0].labels[2]", "twice"),
        ([Example("t", labels=("a", " "))], [], None, "[0].labels[1]", "empty"),
        ([Example("t", labels=("a", "z"))], ["a", "b"], None, "[0].labels[1]", "not among"),
        ([Example("t", "a"), Example("t", labels=("a",))], [], "single_label", "[1].labels", "single_label"),
        ([Example("t", labels=("a",))] * 9, [], None, "", "At least 2 different labels"),
        ([Example("t", labels=("a", "b"))] * 4 + [Example("t", "b")], [], None, "", "'a' has 4"),
        ([Example("t", labels=("a",))] * 5, ["a", "b"], None, "", "'b' has 0"),
    ],
)
def test_bad_rows_are_named(rows: list[Example], labels: list[str], mode: Mode | None, param: str, said: str) -> None:
    with pytest.raises(BadRow) as caught:
        dataset.check_rows(rows, labels, Limits(), mode)
    assert caught.value.param == param
    assert said in caught.value.message


def test_the_rows_or_the_request_decide_the_mode() -> None:
    single = [Example("t", label) for label in "ab" for _ in range(5)]
    assert dataset.check_rows(single, [], Limits()) == (["a", "b"], "single_label")
    assert dataset.check_rows(single, [], Limits(), "multi_label") == (["a", "b"], "multi_label")
    assert dataset.check_rows(ROWS, [], Limits()) == (LABELS, "multi_label")
    assert dataset.check_rows(ROWS, ["crash", "refund"], Limits()) == (["crash", "refund"], "multi_label")


def test_rows_keep_their_shape_and_old_sets_their_identity(tmp_path: Path) -> None:
    rows = [Example("é", "a"), Example("t", labels=()), Example("u", labels=("b", "a"))]
    list(runs.append_rows(tmp_path, rows))
    lines = (tmp_path / runs.ROWS).read_text().splitlines()
    assert lines == ['{"text":"é","label":"a"}', '{"text":"t","labels":[]}', '{"text":"u","labels":["b","a"]}']
    assert runs.read_rows(tmp_path, Example) == rows
    before = '{"text":"é","label":"a"}\n{"text":"t","label":"b"}\n'
    old = [Example("é", "a"), Example("t", "b")]
    assert dataset.data_sha256(old) == hashlib.sha256(before.encode()).hexdigest()


def test_preparing_finds_the_mode_and_a_restart_keeps_it(tmp_path: Path) -> None:
    given = runs.RunInput(source="training_data", payload=msgspec.Raw(msgspec.json.encode(ROWS)))
    runs.create(tmp_path, "job", given)
    spec = spec_for(tmp_path / "job")

    def again() -> Prepared:
        return prepare(spec, {"training_data": InlineRows()}, lambda: pytest.fail("no encoder"), print, Event())

    assert again() == again() == Prepared(labels=LABELS, examples=20, mode="multi_label")
    runs.create(tmp_path, "strict", runs.RunInput(source="training_data", payload=given.payload, mode="single_label"))
    spec = spec_for(tmp_path / "strict")
    with pytest.raises(JobFailure) as caught:
        again()
    assert (caught.value.code, caught.value.param) == ("invalid_training_row", "training_data[0].labels")
    old = msgspec.json.decode(b'{"rows":1,"labels":["a"],"sha256":""}', type=runs.PreparedRows)
    assert old.mode == "single_label"


def test_training_serves_sets(encoder: Encoder, tmp_path: Path) -> None:
    events: list[Message | Metrics] = []
    repeated = [*ROWS, Example(REFUND[0].upper(), "refund")]
    repeated += [Example(BOTH[0], labels=("refund", "crash"))]  # the same set in another order
    done = train(spec_for(tmp_path), repeated, LABELS, encoder, events.append, "multi_label")
    assert "2 rows repeat another one and count once" in [e.message for e in events]
    result = done.result
    assert (done.mode, done.examples, result["n"], result["accuracy_of"]) == ("multi_label", 22, 20, "exact label sets")
    assert result["baseline"]["majority"] == 0.25
    assert result["accuracy"] > 0.5
    assert min(result["f1_score"], result["micro_f1"]) > 0.7
    assert {label: found["n"] for label, found in result["per_label"].items()} == {"refund": 10, "crash": 10}
    losses = [e.data for e in events if isinstance(e, Metrics) and "train_loss" in e.data]
    assert losses[-1]["train_loss"] < losses[0]["train_loss"] < np.log(2)
    assert [e["step"] for e in losses] == sorted({e["step"] for e in losses})
    _, manifest = artifacts.load(tmp_path, "m")
    assert (manifest.mode, manifest.thresholds) == ("multi_label", [0.5, 0.5])
    texts = ["Give me my money back", "The app crashed and I want a refund", "It is a sunny day"]
    answers = classify(encoder, tmp_path, texts)
    assert [selected for _, selected in answers] == [[True, False], [True, True], [False, False]]
    assert sum(answers[1][0]) > 1
    artifacts.discard(tmp_path, "m")
    manifest.thresholds, manifest.head = [0.0, 1.0], HeadRef()
    artifacts.publish(tmp_path, "m", fit_head(np.zeros((2, 384), np.float32), np.eye(2, dtype=bool), 2), manifest)
    assert [selected for _, selected in classify(encoder, tmp_path, texts)] == [[True, False]] * 3


def classify(encoder: Encoder, folder: Path, texts: list[str]) -> list[tuple[list[float], list[bool]]]:
    with predicting(encoder, folder) as predictor:
        answers = asyncio.run(ask(predictor, [(text, ["m"]) for text in texts]))
    return [(one.probabilities, one.selected) for answer in answers for one in said(answer)]


def random_rows(rows: int, labels: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(rows, 12)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    members = vectors @ random.normal(size=(12, labels)) + 0.3 * random.normal(size=(rows, labels)) > 0.4
    return vectors, members


def test_each_label_is_fitted_against_the_rest_as_scikit_learn_does() -> None:
    vectors, members = random_rows(9_000, 3)  # more rows than one block
    head = fit_head(vectors, members, 3)
    for number in range(3):
        alone = LogisticRegression(C=REGULARISATION, tol=1e-8, max_iter=2000).fit(vectors, members[:, number])
        np.testing.assert_allclose(head.weight[number], alone.coef_[0], atol=2e-2)
        assert head.bias[number] == pytest.approx(alone.intercept_[0], abs=2e-2)


def test_a_label_of_every_row_or_of_none_gets_a_constant_probability() -> None:
    vectors, members = random_rows(38, 3)
    members[:, 0], members[:, 2] = True, False
    head = fit_head(vectors, members, 3)
    assert not head.weight[[0, 2]].any()
    assert head.weight[1].any()
    assert 1 / (1 + np.exp(-head.bias[[0, 2]])) == pytest.approx([39 / 40, 1 / 40])
    members[:, 1] = True
    assert not fit_head(vectors, members, 3).weight.any()


@pytest.mark.parametrize(("rows", "method", "n"), [(60, "5-fold", 59), (2_500, "20% of the rows", 500)])
def test_every_label_stands_in_every_fold_and_no_row_on_both_sides(rows: int, method: str, n: int) -> None:
    vectors, members = random_rows(rows, 4)
    members[:, 3] = False
    members[:10, 3] = rows == 60  # ten rows of a scarce label
    members[0] = False
    members[0, 3] = True
    members = np.column_stack([members, np.arange(rows) == 20])  # and one of a label that no other row has
    fits: list[tuple[np.ndarray, np.ndarray]] = []

    def fit(x: np.ndarray, y: np.ndarray) -> artifacts.Head:
        fits.append((x, y))
        return fit_head(x, y, 5)

    held = hold_out(vectors, members, 5, fit, 0)
    assert held is not None
    assert held.method.startswith(method)
    assert len(held.truth) == pytest.approx(n, abs=1)
    assert not held.truth[:, 4].any()
    for x, y in fits:
        assert y[:, 4].sum() == 1
        assert len(np.unique(x, axis=0)) == len(x)
        if rows == 60:
            assert 6 <= y[:, 3].sum() <= 9
    again = hold_out(vectors, members, 5, fit, 0)
    assert again is not None
    assert np.array_equal(again.logits, held.logits)


def test_a_temperature_repairs_overconfident_sigmoids() -> None:
    random = np.random.default_rng(0)
    truth = random.random((400, 3)) < 0.5
    right = random.random((400, 3)) < 0.8
    logits = np.where(truth == right, 12.0, -12.0).astype(np.float32)
    found = calibration.calibrate(held_out(logits, truth))
    assert 1 / (1 + np.exp(-12 / found.temperature)) == pytest.approx(0.8, abs=0.03)
    faultless = np.where(truth[:60], 3.0, -3.0).astype(np.float32)
    found = calibration.calibrate(held_out(faultless, truth[:60]))
    assert 1 / (1 + np.exp(-3 / found.temperature)) == pytest.approx(61 / 62, abs=0.002)
    assert calibration.calibrate(held_out(logits[:49], truth[:49])).method == "none"


def test_a_label_that_every_row_has_trains_and_serves(encoder: Encoder, tmp_path: Path) -> None:
    rows = [
        Example(text, labels=("all", *extra))
        for texts, extra in ((REFUND, ("refund",)), (NEITHER, ()))
        for text in texts
    ]
    done = train(spec_for(tmp_path), rows, ["all", "refund"], encoder, lambda _: None, "multi_label")
    assert done.result["per_label"]["all"]["recall"] == 1
    ((probabilities, selected),) = classify(encoder, tmp_path, ["Anything at all"])
    assert probabilities[0] == pytest.approx(11 / 12)
    assert selected[0]
