"""Shows what becomes of a tuned encoder: kept where it pays, served, and handed to whoever starts from the model."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from reflexd.engine import budget, selection, tuning, warm_start
from reflexd.engine.adapters import read_adapter
from reflexd.engine.encoder import Encoder
from reflexd.engine.trainer import train
from reflexd.engine.warm_start import to_keep
from reflexd.hookspecs import Example
from reflexd.registry import artifacts, runs
from reflexd.registry.artifacts import ADAPTER, ROWS
from reflexd.schemas.reflex import Mode
from reflexd.schemas.worker import Message, Metrics, RunSpec, Trained
from tests.rows import questions
from tests.unit.asking import Said, ask_once, said
from tests.unit.tunings import weights

KEPT = 3
QUESTIONS = [Example(**row) for row in questions(11)]
LABELS = sorted({str(row.label) for row in QUESTIONS})
OLD = LABELS[:4]
"""The base's labels; the others come with the next job."""


class House:
    """A models folder and a runs folder, in which jobs with a budget are trained."""

    def __init__(self, root: Path, encoder: Encoder) -> None:
        self.models, self.runs, self.encoder = root / "models", root / "runs", encoder
        self.models.mkdir()
        self.runs.mkdir()
        self.events: list[Message | Metrics] = []

    def train(
        self,
        name: str,
        rows: list[Example],
        labels: list[str],
        base: str | None = None,
        seconds: float = 60.0,
        keep_rows: int = KEPT,
        mode: Mode = "single_label",
    ) -> Trained:
        given = runs.RunInput(source="training_data", payload=msgspec.Raw(b"[]"))
        runs.create(self.runs, name, given, None if base is None else self.models / base)
        spec = RunSpec(
            job_id=name, stage="train", run_dir=str(self.runs / name), models_dir=str(self.models), model_id=name,
            backbone="", checkpoint=str(weights()), seed=1, threads=1, budget_seconds=seconds, keep_rows=keep_rows,
            lineage={"base_model": base},
        )  # fmt: skip
        self.events.clear()
        return train(spec, rows, labels, self.encoder, self.events.append, mode)

    def said(self, part: str) -> list[Message | Metrics]:
        return [event for event in self.events if part in event.message]

    def manifest(self, name: str) -> artifacts.Manifest:
        return artifacts.load(self.models, name)[1]

    def kept(self, name: str) -> list[Example]:
        content = artifacts.load_rows(self.models, name, self.manifest(name))
        return msgspec.json.Decoder(Example).decode_lines(content)

    def content(self, name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.models / name).iterdir()}

    def predict(self, name: str, text: str, chunk: bool = False) -> Said:
        (answer,) = ask_once(self.encoder, self.models, (text, [name]), chunk=chunk)
        return said(answer)[0]


def of(labels: list[str], start: int, end: int) -> list[Example]:
    """Return the rows `start` to `end` of each label."""
    numbers: Counter[str] = Counter()
    out = []
    for row in QUESTIONS:
        number = numbers[str(row.label)]
        numbers[str(row.label)] += 1
        if row.label in labels and start <= number < end:
            out.append(row)
    return out


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> House:
    """A house with a tuned base of four labels, six rows each."""
    made = House(tmp_path_factory.mktemp("house"), encoder)
    made.train("base", of(OLD, 0, 6), OLD)
    assert made.manifest("base").adapter is not None, "tuning pays for these rows; else nothing below is tested"
    return made


def test_a_tuned_model_serves_what_it_was_trained_to(house: House) -> None:
    manifest = house.manifest("base")
    assert manifest.adapter is not None
    assert (manifest.adapter.kind, manifest.result["recipe"]["encoder"]) == ("biases", "biases")
    rows = of(OLD, 0, 6)
    answers = [house.predict("base", row.text) for row in rows]
    right = [
        answer.labels[int(np.argmax(answer.probabilities))] == row.label
        for answer, row in zip(answers, rows, strict=True)
    ]
    assert np.mean(right) > 0.9


def test_a_base_hands_on_adapter_and_rows_and_is_left_alone(house: House) -> None:
    before = house.content("base")
    done = house.train("next", of(LABELS, 6, 11), LABELS, "base")
    assert house.content("base") == before
    assert done.labels == LABELS
    manifest, old = house.manifest("next"), house.manifest("base")
    assert manifest.adapter is not None
    assert old.adapter is not None
    assert manifest.adapter.kind == old.adapter.kind
    assert manifest.lineage == {"base_model": "base"}
    (again,) = house.said("are learned again")
    assert isinstance(again, Message)
    assert again.data["rows"] == KEPT * len(OLD)
    assert done.result["n"] == 30, "the replayed rows are learned, and never scored"
    assert len(set(house.kept("next"))) == len(house.kept("next"))
    kept = Counter(row.label for row in house.kept("next"))
    assert set(kept) == set(LABELS)
    assert max(kept.values()) <= KEPT


def test_a_job_with_new_labels_takes_over_a_part_of_an_adapter_that_moved_far(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path, encoder)
    monkeypatch.setattr(budget, "LOW_RANK_ROWS", 1)  # these few rows would move the biases alone
    house.train("base", of(OLD, 0, 6), OLD)
    whole = read_adapter(house.models, "base", house.manifest("base"))
    assert whole is not None
    assert whole.kind == "low_rank", "else nothing is shown here"
    monkeypatch.setattr(warm_start, "MOST_MOVED", whole.movement() / 2)
    house.train("grown", of(LABELS, 6, 11), LABELS, "base", seconds=0.0)
    (told,) = house.said("The base's adapter is taken over at")
    assert "at 50 % of its strength: the job has labels that the base does not" in told.message
    served = read_adapter(house.models, "grown", house.manifest("grown"))
    assert served is not None
    np.testing.assert_equal(served.tensors, whole.weakened(0.5).tensors)
    house.train("same labels", of(OLD, 6, 11), OLD, "base", seconds=0.0)
    assert not house.said("The base's adapter is taken over at")


def test_what_held_out_rows_tell_of_a_lean_is_taken_from_the_head(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    biases = []
    for lean in (0.0, 7.0):
        monkeypatch.setattr(selection, "upright", lambda held, *_, lean=lean: (held, lean))
        house.train("leaning", of(LABELS, 6, 11), LABELS, "base", seconds=0.0)
        biases.append(artifacts.load(house.models, "leaning")[0].bias)
        artifacts.discard(house.models, "leaning")
        shutil.rmtree(house.runs / "leaning")
    taken = dict(zip(LABELS, (biases[0] - biases[1]).tolist(), strict=True))
    assert taken == pytest.approx({label: 7.0 if label in OLD else 0.0 for label in LABELS}, abs=1e-5)


def test_rows_that_are_learned_again_weigh_no_label_up_while_the_encoder_moves(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    weighed: list[dict[int, float]] = []
    tune = tuning.tune

    def spied(encoder: Any, ids: Any, targets: Any, *rest: Any, weights: Any = None, **more: Any) -> list[float]:
        assert weights is not None
        weighed.append({int(label): float(weights[targets == label].sum()) for label in np.unique(targets)})
        return tune(encoder, ids, targets, *rest, weights=weights, **more)

    monkeypatch.setattr(tuning, "tune", spied)
    house.train("weighed", of(LABELS, 6, 11), LABELS, "base")
    assert len(weighed) == 4, "three folds, and all rows"
    for sums in weighed:
        assert list(sums.values()) == pytest.approx([np.mean(list(sums.values()))] * len(LABELS))


def test_without_seconds_the_base_is_reused_as_it_is(house: House) -> None:
    house.train("quick", of(LABELS, 6, 11), LABELS, "base", seconds=0.0)
    base, quick = (read_adapter(house.models, name, house.manifest(name)) for name in ("base", "quick"))
    assert base is not None
    assert quick is not None
    assert all(np.array_equal(base.tensors[name], tensor) for name, tensor in quick.tensors.items())
    assert house.content("quick")[ADAPTER] == house.content("base")[ADAPTER]


def test_labels_go_with_their_rows_and_the_same_rows_and_seed_give_the_same_model(house: House) -> None:
    for name in ("one", "other"):
        house.train(name, of(LABELS[2:], 6, 11), LABELS[2:], "base", seconds=3.0)
        assert {row.label for row in house.kept(name)} == set(LABELS[2:])
    one, other = house.manifest("one"), house.manifest("other")
    assert (one.files, one.result, one.adapter) == (other.files, other.result, other.adapter)


@pytest.mark.parametrize("keep_rows", [0, 1, 6, 100])
def test_no_more_rows_are_kept_than_the_operator_allows(house: House, keep_rows: int) -> None:
    rows = of(OLD, 0, 6)
    name = f"keeps-{keep_rows}"
    house.train(name, rows, OLD, seconds=0.0, keep_rows=keep_rows)
    assert (ROWS in house.content(name)) == (keep_rows > 0)
    kept = house.kept(name)
    assert set(kept) <= set(rows)
    assert Counter(row.label for row in kept) == {label: n for label in OLD if (n := min(keep_rows, 6))}


def test_a_base_that_keeps_no_rows_hands_on_none(house: House) -> None:
    house.train("forgetful", of(OLD, 0, 6), OLD, seconds=0.0, keep_rows=0)
    house.train("child", of(LABELS, 6, 11), LABELS, "forgetful", seconds=0.0)
    assert not house.said("are learned again")
    assert set(house.kept("child")) <= set(of(LABELS, 6, 11))


@pytest.mark.parametrize("most", [0, 1, 4])
def test_rows_of_several_labels_are_kept_within_the_limit_of_each_label(most: int) -> None:
    random = np.random.default_rng(0)
    names = ["a", "b", "c"]
    rows = [Example(f"row {n}", None, tuple(name for name in names if random.random() < 0.6)) for n in range(60)]
    kept = to_keep(rows, names, most, 7)
    counts = Counter(label for row in kept for label in row.labels or ())
    assert max(counts.values(), default=0) == most, "no more, and no fewer of the commonest"
    assert sum(row.labels == () for row in kept) <= most, "rows of no label are told by what is not in them"
    assert len(set(kept)) == len(kept)
    assert not any("c" in (row.labels or ()) for row in to_keep([*rows, *rows], names[:2], most, 7))
    assert kept == to_keep(rows, names, most, 7)


def test_rows_longer_than_a_window_are_tuned_on_and_served(house: House) -> None:
    """Tuning reads a text's beginning, features are made of the whole: both must go together."""
    filler = "and so on and so forth " * 90
    rows = [Example(f"{row.text} {filler if n % 8 == 0 else ''}", row.label) for n, row in enumerate(of(OLD, 0, 4))]
    done = house.train("long", rows, OLD, seconds=300.0)
    assert house.said("Tuning the encoder")
    assert house.said("Held-out accuracy of the encoder")
    assert done.result["n"] == len(rows)
    assert "long_rows" in {warning["code"] for warning in done.result["warnings"]}
    answer = house.predict("long", rows[0].text, chunk=True)
    assert answer.windows > 1
    assert sum(answer.probabilities) == pytest.approx(1)


def test_rows_of_several_labels_are_tuned_on_too(house: House) -> None:
    rows = [Example(row.text, None, (str(row.label),) if n % 5 else ()) for n, row in enumerate(of(OLD, 0, 4))]
    done = house.train("several", rows, OLD, mode="multi_label")
    assert house.said("Tuning the encoder")
    assert done.mode == "multi_label"
    answer: Any = house.predict("several", rows[1].text)
    assert all(0 <= share <= 1 for share in answer.probabilities)
