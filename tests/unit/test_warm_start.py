"""Shows what a model takes over from its base, that its score stays honest, and that the base is never changed."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from reflexd.engine import material, recipes
from reflexd.engine.encoder import Encoder
from reflexd.engine.heads import Prior, fit_head, logits_of
from reflexd.engine.trainer import _Heads, train
from reflexd.engine.warm_start import Base, identities, replay
from reflexd.errors import JobFailure
from reflexd.hookspecs import Example
from reflexd.registry import artifacts, runs
from reflexd.registry.artifacts import DamagedArtifact
from reflexd.schemas.reflex import Mode
from reflexd.schemas.worker import Message, Metrics, RunSpec, Trained
from tests.rows import banking77, draw, read_gzip
from tests.unit.asking import ask_once, said
from tests.unit.held import hold_out

NEEDS_BANKING77 = pytest.mark.skipif(not banking77().is_dir(), reason=f"{banking77()} is not there")
TEXTS = {
    "billing": ["I need a refund", "You charged me twice", "Cancel my plan", "Update my card", "The invoice is wrong"],
    "bug": ["The app crashed", "The button does nothing", "It never loads", "Error 500 on save", "Login fails"],
    "praise": [
        "I love this product",
        "Great work",
        "This is wonderful",
        "Thank you, it is perfect",
        "Simply brilliant",
    ],
}
ROWS = [Example(text, label) for label in ("billing", "bug") for text in TEXTS[label]]
FRESH = [
    *(Example(text, "bug") for text in ("Nothing happens on click", "It hangs", "A crash", "It froze", "Blank page")),
    *(Example(text, "praise") for text in TEXTS["praise"]),
]


class Folder:
    """A models folder and a runs folder in which jobs are trained one after the other."""

    def __init__(self, root: Path, encoder: Encoder) -> None:
        self.models, self.runs, self.encoder = root / "models", root / "runs", encoder
        self.models.mkdir()
        self.runs.mkdir()
        self.events: list[Message | Metrics] = []

    def start(self, name: str, base: str | None = None) -> None:
        given = runs.RunInput(source="training_data", payload=msgspec.Raw(b"[]"))
        runs.create(self.runs, name, given, None if base is None else self.models / base)

    def train(self, name: str, rows: list[Example], labels: list[str], mode: Mode = "single_label") -> Trained:
        spec = RunSpec(
            job_id=name, stage="train", run_dir=str(self.runs / name), models_dir=str(self.models), model_id=name,
            backbone="", checkpoint="", seed=1, threads=2, lineage={"base_model": "base"},
        )  # fmt: skip
        self.events.clear()
        return train(spec, rows, labels, self.encoder, self.events.append, mode)

    def warnings(self) -> list[str]:
        return [e.message for e in self.events if isinstance(e, Message) and e.level == "warn"]

    def content(self, name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.models / name).iterdir()}

    def accuracy(self, name: str, rows: list[Example], vectors: np.ndarray) -> float:
        head, manifest = artifacts.load(self.models, name)
        best = logits_of(head, vectors).argmax(axis=1)
        return float(np.mean([manifest.labels[number] == row.label for number, row in zip(best, rows, strict=True)]))


@pytest.fixture
def folder(tmp_path: Path, encoder: Encoder) -> Folder:
    made = Folder(tmp_path, encoder)
    made.start("base")
    made.train("base", ROWS, ["billing", "bug"])
    return made


def test_labels_stay_go_and_come_and_the_base_is_left_alone(folder: Folder) -> None:
    before = folder.content("base")
    folder.start("next", "base")
    done = folder.train("next", FRESH, ["praise", "bug"])
    assert folder.content("base") == before
    assert done.labels == ["praise", "bug"]
    head, manifest = artifacts.load(folder.models, "next")
    assert (manifest.labels, head.weight.shape, manifest.lineage) == (
        ["praise", "bug"],
        (2, head.weight.shape[1]),
        {"base_model": "base"},
    )
    (answer,) = ask_once(folder.encoder, folder.models, ("Saving ends in a server error", ["next"]))
    (found,) = said(answer)
    assert dict(zip(found.labels, found.selected, strict=True)) == {"praise": False, "bug": True}
    losses = [e.data for e in folder.events if isinstance(e, Metrics) and "train_loss" in e.data]
    assert all(0 < e["train_loss"] < np.log(2) for e in losses)
    assert [set(e) for e in losses] == [{"epoch", "step", "train_loss"}] * len(losses)


@pytest.mark.data
@NEEDS_BANKING77
@pytest.mark.parametrize("mode", ["single_label", "multi_label"])
def test_a_warm_start_is_better_than_a_cold_one_on_the_same_rows(tmp_path: Path, encoder: Encoder, mode: Mode) -> None:
    labels = ["card_arrival", "card_delivery_estimate", "lost_or_stolen_card"]
    pools = [
        [row for row in read_gzip(banking77() / f"{part}.jsonl.gz") if row["label"] in labels]
        for part in ("train", "test")
    ]
    unseen = [Example(row["text"], row["label"]) for row in pools[1]]
    vectors = encoder.embed_all([row.text for row in unseen], 2)[0]
    gains = []
    for seed in range(3):
        where = tmp_path / str(seed)
        where.mkdir()
        folder = Folder(where, encoder)
        few = [Example(**row) for row in draw(pools[0], 5, seed)]
        taken = {row.text for row in few}
        many = [
            Example(**row) for row in draw(pools[0], 60, seed) if row["label"] != labels[2] and row["text"] not in taken
        ]
        folder.start("base")
        folder.train("base", many, labels[:2], mode)
        before = folder.content("base")
        for name, base in (("cold", None), ("warm", "base")):
            folder.start(name, base)
            folder.train(name, few, labels, mode)
        assert folder.content("base") == before
        found = {name: folder.accuracy(name, unseen, vectors) for name in ("cold", "warm")}
        print(found)
        gains.append(found["warm"] - found["cold"])
    assert np.mean(gains) > 0.02


def test_a_job_keeps_its_base_when_the_source_goes(folder: Folder) -> None:
    folder.start("first", "base")
    folder.start("second", "base")
    first = folder.train("first", FRESH, ["bug", "praise"])
    artifacts.discard(folder.models, "base")
    second = folder.train("second", FRESH, ["bug", "praise"])
    assert first.result == second.result
    assert folder.content("first")["head.safetensors"] == folder.content("second")["head.safetensors"]
    with pytest.raises(FileNotFoundError):
        folder.start("third", "base")
    assert sorted(path.name for path in folder.runs.iterdir()) == ["base", "first", "second"]


def test_rows_that_the_base_has_seen_are_never_scored(folder: Folder) -> None:
    folder.start("some", "base")
    # Spellings that the encoder cannot tell apart: case, blanks, a format character, an accent.
    first, second, third, *rest = (text.upper() + " " for text in TEXTS["bug"])
    spelt = [first, second.replace("A", "Á"), third[:3] + "\u200b" + third[3:]]
    again = [Example(text, "bug") for text in (*spelt, *rest)]
    done = folder.train("some", [*FRESH, *again], ["bug", "praise"])
    assert done.result["n"] == 10
    assert "The base model was trained on 5 of the 15 rows: they are not scored" in folder.warnings()
    folder.start("all", "base")
    done = folder.train("all", ROWS, ["billing", "bug"])
    assert (done.result["accuracy"], done.result["f1_score"], done.result["n"]) == (None, None, 0)
    assert done.result["method"] == "none: the base model was trained on 10 of the 10 rows"
    assert any("nothing is left to score honestly" in said for said in folder.warnings())
    folder.start("grandchild", "some")
    done = folder.train("grandchild", ROWS + FRESH, ["billing", "bug", "praise"])
    assert done.result["n"] == 0  # "billing" rows were the grandparent's
    _, manifest = artifacts.load(folder.models, "grandchild")
    known = artifacts.load_seen(folder.models, "grandchild", manifest)
    assert known is not None
    vectors, _, _ = folder.encoder.embed_all([row.text for row in ROWS + FRESH], 1)
    assert set(known.tolist()) == set(identities(vectors[:, : folder.encoder.description.width]).tolist())


def test_a_base_that_does_not_say_what_it_saw_lets_nothing_be_scored(folder: Folder) -> None:
    head, manifest = artifacts.load(folder.models, "base")
    artifacts.publish(folder.models, "old", head, manifest)
    folder.start("next", "old")
    done = folder.train("next", FRESH, ["bug", "praise"])
    assert done.result["accuracy"] is None
    assert any("does not record the texts" in said for said in folder.warnings())
    assert "seen.safetensors" not in folder.content("next")


def change(folder: Path, **fields: Any) -> None:
    path = folder / "manifest.json"
    path.write_bytes(msgspec.json.encode(msgspec.json.decode(path.read_bytes()) | fields))


@pytest.mark.parametrize(
    ("harm", "code", "said"),
    [
        ("stack", "base_model_incompatible", "older training stack"),
        ("backbone", "base_model_incompatible", "another sentence encoder"),
        ("precision", "base_model_incompatible", "in fp32"),
        ("mode", "base_model_incompatible", "is single_label and the rows are multi_label"),
        ("seen", "model_unusable", "seen.safetensors does not match"),
        ("head", "model_unusable", "cannot be read"),
    ],
)
def test_an_unusable_base_fails_the_job(folder: Folder, harm: str, code: str, said: str) -> None:
    base = folder.models / "base"
    about = msgspec.to_builtins(artifacts.load(folder.models, "base")[1].backbone)
    match harm:
        case "stack":
            change(base, stack=0)
        case "backbone":
            change(base, backbone=about | {"fingerprint": "0" * 64})
        case "precision":
            change(base, backbone=about | {"precision": "fp32"})
        case "seen":
            (base / "seen.safetensors").write_bytes(b"changed")
        case "head":
            (base / "head.safetensors").unlink()
    folder.start("next", "base")
    with pytest.raises(JobFailure) as caught:
        folder.train("next", FRESH, ["bug", "praise"], "multi_label" if harm == "mode" else "single_label")
    assert (caught.value.code, caught.value.param) == (code, "base_model")
    assert said in caught.value.message
    if harm in ("mode", "seen"):  # serving reads neither the base's mode nor what it saw
        ask_once(folder.encoder, folder.models, ("x", ["base"]))
    else:
        with pytest.raises(DamagedArtifact):
            ask_once(folder.encoder, folder.models, ("x", ["base"]))


def random_rows(labels: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    classes = np.repeat(np.arange(labels), 30)
    vectors = random.normal(size=(labels, 16))[classes] + 1.5 * random.normal(size=(30 * labels, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), classes


@pytest.mark.parametrize("labels", [2, 3, 7])
def test_a_prior_of_nothing_gives_the_cold_fit(labels: int) -> None:
    vectors, classes = random_rows(labels)
    cold = fit_head(vectors, classes, labels)
    warm = fit_head(vectors, classes, labels, Prior(np.zeros((labels, 16)), np.linspace(-3, 3, labels)))
    np.testing.assert_allclose(warm.weight, cold.weight, atol=4e-2)  # scikit-learn stops at 1e-4
    np.testing.assert_allclose(warm.bias, cold.bias, atol=4e-2)


def test_the_fit_is_drawn_to_the_prior_and_knows_no_common_shift() -> None:
    vectors, classes = random_rows(3)
    cold = fit_head(vectors, classes, 3)
    prior = Prior(cold.weight.astype(np.float64), cold.bias.astype(np.float64))
    few = np.arange(0, 90, 15)
    warm, alone = (fit_head(vectors[few], classes[few], 3, given) for given in (prior, None))
    assert np.linalg.norm(warm.weight - cold.weight) < np.linalg.norm(alone.weight - cold.weight)
    shifted = Prior(prior.weight + 5.0, prior.bias + 9.0)
    again = fit_head(vectors[few], classes[few], 3, shifted)
    np.testing.assert_allclose(again.weight, warm.weight, atol=5e-3)
    np.testing.assert_allclose(again.bias, warm.bias, atol=5e-3)
    assert abs(warm.weight.mean(axis=0)).max() < 1e-5


@pytest.mark.parametrize("warm", [False, True])
def test_a_row_that_counts_twice_is_a_row_given_twice(warm: bool) -> None:
    vectors, classes = random_rows(3)
    prior = Prior(np.ones((3, 16)), np.zeros(3)) if warm else None
    twice = np.arange(90) % 4 == 0
    weighted = fit_head(vectors, classes, 3, prior, weights=np.where(twice, 2.0, 1.0))
    repeated = fit_head(np.concatenate([vectors, vectors[twice]]), np.concatenate([classes, classes[twice]]), 3, prior)
    np.testing.assert_allclose(weighted.weight, repeated.weight, atol=4e-2)
    assert np.abs(weighted.weight - fit_head(vectors, classes, 3, prior).weight).max() > 0.1


def test_a_few_times_as_many_rows_are_learned_again_as_are_new() -> None:
    kept = [Example(f"{label} {number}", label) for label in ("a", "b") for number in range(40)]
    base = Base(
        prior=Prior(np.zeros((3, 4)), np.zeros(3)), seen=None, recipe=recipes.DEFAULT, adapter=None, strength=1.0,
        kept=kept, knew=np.array([True, True, False]),
    )  # fmt: skip

    def again(new: int) -> dict[str | None, int]:
        rows = [Example(f"{label} new {number}", label) for label in ("a", "b", "c") for number in range(new)]
        return dict(Counter(row.label for row in replay(base, rows, ["a", "b", "c"], 1)))

    assert again(5) == {"a": 15, "b": 15}
    assert again(24) == {"a": 28, "b": 28}, "128 rows are few, and 129 many"
    assert again(40) == {"a": 40, "b": 40}, "but as many as are new"
    assert again(50) == {"a": 40, "b": 40}, "all that are kept"


def test_rows_that_are_learned_again_shift_no_label_s_share() -> None:
    def shares(own: list[int], again: list[int]) -> list[float]:
        found = material._shares(np.array(own + again), len(own), 3)
        assert found is not None
        return found.tolist()

    four, two = [0] * 4, [1] * 2
    assert shares(four + two, [0, 0, 1, 2, 2, 2, 2, 2]) == [4, 3, 3], "one without own rows: as the others on average"
    assert shares(four + two, [0, 0, 2]) == [4, 2, 1], "but no more than it has rows"
    assert shares([*four, *two, 2], [2] * 5) == [4, 2, 7 / 3], "and one own row makes it no rarer than none does"
    assert material._shares(np.array(four + two), 6, 3) is None


def test_labels_whose_shares_are_given_count_by_those_and_not_by_their_rows() -> None:
    """Twelve rows of one label and four of each other weigh as the shares say, in all as much as the rows are many."""
    vectors, classes = random_rows(3)
    some = np.concatenate([np.flatnonzero(classes == label)[:rows] for label, rows in enumerate((12, 4, 4))])
    vectors, classes = vectors[some], classes[some]
    recipe = artifacts.HeadRef()
    even = _Heads(["a", "b", "c"], None, np.ones(3)).fitted(recipe, vectors, classes, None)
    weights = np.array([20 / 36, 20 / 12, 20 / 12])[classes]
    np.testing.assert_allclose(even.weight, fit_head(recipes.view(recipe, vectors), classes, 3, weights=weights).weight)
    plain = _Heads(["a", "b", "c"], None, None).fitted(recipe, vectors, classes, None)
    assert (even.bias - plain.bias)[0] < 0, "the label with most rows is no longer the likeliest"


def test_seen_rows_are_always_trained_on() -> None:
    vectors, classes = random_rows(3)
    seen = np.arange(90) % 3 == 0
    used: list[np.ndarray] = []

    def fit(x: np.ndarray, y: np.ndarray) -> artifacts.Head:
        used.append(x)
        return fit_head(x, y, 3)

    held = hold_out(vectors, classes, 3, fit, 0, seen)
    assert held is not None
    assert len(held.truth) == 60
    rows = {row.tobytes() for row in vectors[seen]}
    assert all(rows <= {row.tobytes() for row in x} for x in used)
    assert hold_out(vectors, classes, 3, fit, 0, np.arange(90) > 0) is None


def test_a_run_directory_holds_a_copy_and_not_a_link(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "manifest.json").write_bytes(b"{}")
    (tmp_path / "runs").mkdir()
    given = runs.RunInput(source="s", payload=msgspec.Raw(b"[]"), mode="multi_label")
    runs.create(tmp_path / "runs", "job", given, tmp_path / "model")
    shutil.rmtree(tmp_path / "model")
    assert (tmp_path / "runs" / "job" / runs.BASE / "manifest.json").read_bytes() == b"{}"
    assert runs.read_input(tmp_path / "runs" / "job").mode == "multi_label"
