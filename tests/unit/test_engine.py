"""Shows what the engine computes on real weights: vectors, held-out scores, calibration, and a model that serves."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from reflexd.config import Limits
from reflexd.engine import backbone, calibration, dataset, evaluation
from reflexd.engine.dataset import BadRow
from reflexd.engine.encoder import Encoder
from reflexd.engine.heads import fit_head
from reflexd.engine.trainer import train
from reflexd.errors import ContextLengthExceeded, StartupError
from reflexd.hookspecs import Checkpoint, Example
from reflexd.registry import artifacts
from reflexd.registry.artifacts import AdapterRef, DamagedArtifact
from reflexd.schemas.worker import Message, Metrics, RunSpec
from reflexd_plugins.checkpoints import MINILM
from tests.unit.asking import ask_once, said
from tests.unit.held import held_out, hold_out
from tests.unit.vectors import vector_of

BILLING = ["I need a refund", "You charged me twice", "Cancel my plan", "Update my card", "The invoice is wrong"]
BUGS = ["The app crashed", "The button does nothing", "It never loads", "Error 500 on save", "Login fails"]
ROWS = [Example(t, "billing") for t in BILLING] + [Example(t, "bug") for t in BUGS]


def spec_for(folder: Path) -> RunSpec:
    return RunSpec(
        job_id="j",
        stage="train",
        run_dir=str(folder),
        models_dir=str(folder),
        model_id="m",
        backbone="",
        checkpoint="",
        seed=1,
        threads=2,
    )


def test_a_text_has_one_vector_whatever_surrounds_it(encoder: Encoder) -> None:
    alone = encoder.embed("refund please")[0]
    among, tokens, windowed = encoder.embed_all(["x " * 90, "refund please", "y"], threads=2)
    assert np.array_equal(alone, among[1])
    assert np.linalg.norm(alone.reshape(2, -1), axis=1) == pytest.approx([1, 1], abs=1e-5), "of two layers"
    assert (tokens > 90, windowed) == (True, 0)


def test_vectors_know_meaning(encoder: Encoder) -> None:
    a, b, c = (vector_of(encoder, t) for t in ("I want my money back", "Please refund me", "The sun is a star"))
    assert a @ b > a @ c + 0.3


def test_a_long_text_is_read_whole_in_windows(encoder: Encoder) -> None:
    start, end = "refund " * 600, "The rocket engine failed during launch. " * 90
    features, tokens, windows = encoder.embed(start + end)
    both = features[: encoder.description.width]
    assert windows == -(-(tokens - 2) // 510)
    assert windows > 2
    assert both @ vector_of(encoder, end) > vector_of(encoder, start) @ vector_of(encoder, end) + 0.2


def test_training_publishes_a_model_that_serves_what_was_scored(encoder: Encoder, tmp_path: Path) -> None:
    events: list[Message | Metrics] = []
    done = train(spec_for(tmp_path), ROWS, ["billing", "bug"], encoder, events.append)
    assert done.examples == 10
    assert done.result["n"] == 10
    assert done.result["accuracy"] >= 0.7
    losses = [e.data["train_loss"] for e in events if isinstance(e, Metrics) and "train_loss" in e.data]
    assert losses[-1] < losses[0] < 0.7
    _, manifest = artifacts.load(tmp_path, "m")
    assert manifest.backbone.fingerprint == encoder.description.fingerprint
    assert manifest.data_sha256 == dataset.data_sha256(ROWS)
    short, long = ask_once(encoder, tmp_path, ("I was billed twice this month", ["m"]), ("word " * 600, ["m"]))
    (scores,) = said(short)
    assert dict(zip(scores.labels, scores.probabilities, strict=True))["billing"] > 0.55
    assert sum(scores.probabilities) == pytest.approx(1)
    assert isinstance(long, ContextLengthExceeded)
    assert long.param == "text"
    with pytest.raises(DamagedArtifact):
        ask_once(encoder, tmp_path, ("x", ["m", "no-such-model"]))


def test_the_seed_decides_the_result(encoder: Encoder, tmp_path: Path) -> None:
    results = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        done = train(spec_for(tmp_path / name), ROWS, ["billing", "bug"], encoder, lambda _: None)
        results.append((done.result, (tmp_path / name / "m" / "head.safetensors").read_bytes()))
    assert results[0] == results[1]


def test_all_rows_of_a_label_identical_still_trains(encoder: Encoder, tmp_path: Path) -> None:
    rows = [Example("same", "a")] * 5 + [Example("equal", "b")] * 5
    events: list[Message | Metrics] = []
    done = train(spec_for(tmp_path), rows, ["a", "b"], encoder, events.append)
    assert done.result["accuracy"] is None
    said = [e.message for e in events]
    assert "8 rows repeat another one and count once" in said
    assert "Not scored, for want of a second different row: a, b" in said
    mixed = [*rows, *(Example(f"text number {n}", "b") for n in range(5))]
    (tmp_path / "mixed").mkdir()
    again = train(spec_for(tmp_path / "mixed"), mixed, ["a", "b"], encoder, events.append)
    assert again.result["n"] == 6  # the one row of "a" is trained on and never scored


def blobs(labels: int, rows: int, spread: float) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    random = np.random.default_rng(0)
    centres = random.normal(size=(labels, 16))
    classes = np.repeat(np.arange(labels), rows)
    vectors = (centres[classes] + spread * random.normal(size=(labels * rows, 16))).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), classes


@pytest.mark.parametrize(
    ("labels", "rows", "method"), [(3, 30, "5-fold"), (2, 3, "3-fold"), (3, 900, "20% of the rows")]
)
def test_held_out_rows_are_never_trained_on(labels: int, rows: int, method: str) -> None:
    vectors, classes = blobs(labels, rows, 0.5)
    used: list[NDArray[np.float32]] = []

    def fit(x: NDArray[np.float32], y: NDArray[np.int64]) -> artifacts.Head:
        used.append(x)
        return fit_head(x, y, labels)

    held = hold_out(vectors, classes, labels, fit, 0)
    assert held is not None
    assert held.method.startswith(method)
    assert sum(len(vectors) - len(x) for x in used) == len(held.truth)
    assert set(held.truth.tolist()) == set(range(labels))


def test_a_temperature_repairs_overconfidence() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, 400)
    right = random.random(400) < 0.8
    logits = np.zeros((400, 2), np.float32)
    logits[np.arange(400), np.where(right, truth, 1 - truth)] = 12.0  # sure of itself, and wrong every fifth time
    found = calibration.calibrate(held_out(logits, truth))
    confidence = 1 / (1 + np.exp(-12.0 / found.temperature))
    assert confidence == pytest.approx(0.8, abs=0.05)
    faultless = np.zeros((60, 2), np.float32)
    faultless[np.arange(60), truth[:60]] = 3.0
    found = calibration.calibrate(held_out(faultless, truth[:60]))
    assert 1 / (1 + np.exp(-3.0 / found.temperature)) == pytest.approx(61 / 62, abs=0.002)


def test_a_few_rows_move_the_temperature_a_little() -> None:
    assert calibration.calibrate(None).method == "none"
    truth = np.zeros(400, np.int64)
    wrong = np.arange(400) % 5 < 2
    logits = np.zeros((400, 2), np.float32)
    logits[np.arange(400), np.where(wrong, 1, 0)] = 4.0  # as sure as .98, and right in three of five
    found = [calibration.calibrate(held_out(logits[:n], truth[:n])).temperature for n in (5, 20, 400)]
    likeliest = [calibration.best_temperature(held_out(logits[:n], truth[:n])) for n in (5, 20, 400)]
    assert 1.2 < found[0] < found[1] < found[2]
    assert found[2] == pytest.approx(likeliest[2], rel=0.15)
    assert found[0] < likeliest[0] / 3, "five rows that are wrong by chance must not make every confidence a coin's"


def test_the_interval_is_wilsons() -> None:
    low, high = evaluation.wilson(9, 10)
    assert (round(low, 3), round(high, 3)) == (0.596, 0.982)
    assert evaluation.wilson(0, 5)[0] == pytest.approx(0, abs=1e-9)
    assert evaluation.wilson(5, 5)[1] == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    ("rows", "labels", "param", "said"),
    [
        ([Example("t", "a")] * 10, [], "", "At least 2 different labels"),
        ([Example("t", "a")] * 5 + [Example("t", "b")] * 4, [], "", "'b' has 4"),
        ([Example("t", "a")] * 5 + [Example("t", "b")] * 5, ["a", "b", "c"], "", "'c' has 0"),
        ([Example("t", "a"), Example("t", "z")], ["a", "b"], "[1].label", "not among"),
        ([Example("t", "a"), Example(" \n", "a")], [], "[1].text", "empty"),
        ([Example("t\0", "a")], [], "[0].text", "NUL"),
        ([Example("t\udc00", "a")], [], "[0].text", "surrogate"),
        ([Example("t", "a\n")], [], "[0].label", "control"),
        ([Example("t", "")], [], "[0].label", "empty"),
        ([Example("t", "x" * 257)], [], "[0].label", "257"),
        ([Example("x" * 1001, "a")], [], "[0].text", "1001"),
        ([Example("t", "a")] * 101, [], "", "at most 100"),
    ],
)
def test_bad_rows_are_named(rows: list[Example], labels: list[str], param: str, said: str) -> None:
    with pytest.raises(BadRow) as caught:
        dataset.check_rows(rows, labels, Limits(rows=100, text_chars=1000))
    assert caught.value.param == param
    assert said in caught.value.message


def test_label_order_is_the_callers_else_first_appearance() -> None:
    rows = [Example(f"t{n}", label) for label in ("z", "é", "e\u0301", "🙂") for n in range(5)]
    assert dataset.check_rows(rows, [], Limits())[0] == ["z", "é", "e\u0301", "🙂"]
    assert dataset.check_rows(rows, ["🙂", "z", "e\u0301", "é"], Limits())[0][0] == "🙂"


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    files = {"model.safetensors": "0" * 64, "config.json": ""}
    with pytest.raises(StartupError, match=r"model\.safetensors has not the sha256"):
        backbone.find_files(Checkpoint(name="x", distribution=MINILM.distribution, files=files, license=""))
    with pytest.raises(StartupError, match="nonesuch is not installed"):
        backbone.find_files(Checkpoint(name="x", distribution="nonesuch", files=files, license=""))
    with pytest.raises(StartupError, match="is missing"):
        backbone.find_files(Checkpoint(name="x", directory=str(tmp_path), files=files, license=""))


def test_a_changed_graph_is_not_served(encoder_dir: Path, tmp_path: Path) -> None:
    for path in encoder_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert backbone.read_description(tmp_path) is not None
    graph = tmp_path / backbone.GRAPH
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(StartupError, match="missing or damaged"):
        Encoder(tmp_path)


def test_a_model_of_another_precision_is_not_mixed_in(encoder: Encoder, tmp_path: Path) -> None:
    train(spec_for(tmp_path), ROWS, ["billing", "bug"], encoder, lambda _: None)
    path = tmp_path / "m" / "manifest.json"
    manifest = msgspec.json.decode(path.read_bytes())
    manifest["backbone"]["precision"] = "fp32"
    path.write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(DamagedArtifact, match="fp32"):
        ask_once(encoder, tmp_path, ("x", ["m"]))


def test_spellings_that_the_encoder_cannot_tell_apart_do_not_leak(encoder: Encoder, tmp_path: Path) -> None:
    """Labels are drawn by lot, so only a leak between the folds could give a score far above a half."""
    random = np.random.default_rng(3)
    words = ["river", "stone", "paper", "cloud", "lamp", "garden", "engine", "winter", "salt", "mirror"]
    rows = []
    for number in range(40):
        text = " ".join(random.choice(words, 4)) + f" {number}"
        label = "ab"[random.integers(2)]
        rows += [Example(text, label), Example(text.upper(), label), Example(f"  {text} ", label)]
    done = train(spec_for(tmp_path), rows, ["a", "b"], encoder, lambda _: None)
    assert done.result["n"] == 40
    assert done.result["accuracy"] < 0.75


def test_one_scarce_label_does_not_cost_the_others_their_folds() -> None:
    vectors, classes = blobs(4, 20, 0.5)
    kept = np.concatenate([np.arange(60), [60, 61]])
    held = hold_out(vectors[kept], classes[kept], 4, lambda x, y: fit_head(x, y, 4), 0)
    assert held is not None
    assert held.method == "5-fold cross-validation"
    assert len(held.truth) == 62


def test_a_text_is_refused_by_its_beginning_or_for_having_no_token(encoder: Encoder) -> None:
    assert encoder.token_ids_up_to_limit("word " * 600) is None
    assert encoder.token_ids_up_to_limit("中" * 400_000) is None
    assert encoder.token_ids_up_to_limit("short") == encoder.token_ids("short")
    spaced = "a" + " " * 40_000 + "word " * 600
    assert encoder.token_ids_up_to_limit(spaced) is None
    for nothing in ("\u200b\u200b", "\x01\x02"):
        with pytest.raises(ValueError, match="no token"):
            encoder.token_ids_up_to_limit(nothing)


def test_a_head_of_the_stack_before_goes_on_unless_its_adapter_was_merged(encoder: Encoder, tmp_path: Path) -> None:
    train(spec_for(tmp_path), ROWS, ["billing", "bug"], encoder, lambda _: None)
    _, manifest = artifacts.load(tmp_path, "m")
    about = encoder.description

    def refused(stack: int, kind: Literal["biases", "low_rank"] | None) -> bool:
        manifest.stack = stack
        manifest.adapter = None if kind is None else AdapterRef(kind=kind, parameters=1, rank=8)
        return backbone.incompatibility(manifest, about.fingerprint, about.precision) is not None

    assert [refused(backbone.STACK, kind) for kind in (None, "biases", "low_rank")] == [False, False, False]
    assert [refused(backbone.MERGED_STACK, kind) for kind in (None, "biases", "low_rank")] == [False, False, True]
    assert refused(backbone.MERGED_STACK - 1, None)
    assert refused(backbone.STACK + 1, None)
