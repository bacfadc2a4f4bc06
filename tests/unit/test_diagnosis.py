"""Shows that what is wrong with rows is found and named by their places as given, and sound rows are left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reflexd.engine import diagnosis, duplicates
from reflexd.engine.calibration import calibrate
from reflexd.engine.diagnosis import Finding, TrainingRows, diagnose
from reflexd.engine.encoder import Encoder
from reflexd.engine.heads import fit_head
from reflexd.engine.trainer import train
from reflexd.hookspecs import Example
from reflexd.schemas.worker import Message, Metrics
from tests.rows import BILLING, BUG, banking77, draw, read_gzip
from tests.unit.held import held_out, hold_out
from tests.unit.test_engine import spec_for

NONE = calibrate(None)


def of(found: list[Finding], code: str) -> Finding:
    (one,) = (finding for finding in found if finding.code == code)
    return one


def rows_of(vectors: np.ndarray, targets: np.ndarray, labels: int) -> TrainingRows:
    texts = [f"text {number}" for number in range(len(vectors))]
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return TrainingRows(texts, targets, unit, np.arange(len(texts)) + 100, [f"label {n}" for n in range(labels)])


def test_a_job_warns_of_rows_by_their_places_as_given(encoder: Encoder, tmp_path: Path) -> None:
    rows = [*(Example(text, "billing") for text in BILLING), *(Example(text, "bug") for text in BUG)]
    rows[1:1] = [rows[0]] * 3  # what repeats counts once, and moves the places of what follows
    rows += [Example("  " + BILLING[4].upper(), "bug"), Example("How do I change the credit card that you bill", "bug")]
    rows += [Example("word " * 600, "bug"), *[Example("Only this", "lone")] * 5]
    events: list[Message | Metrics] = []
    done = train(spec_for(tmp_path), rows, ["billing", "bug", "lone"], encoder, events.append)
    warned = {warning["code"]: warning for warning in done.result["warnings"]}
    assert warned["conflicting_labels"]["rows"] == [7, 13]
    assert sorted(warned["near_duplicates_across_labels"]["rows"]) == [6, 14]
    assert set(warned["near_duplicates_across_labels"]["labels"]) == {"billing", "bug"}
    assert warned["long_rows"]["rows"] == [15]
    assert (warned["identical_rows_only"]["rows"], warned["identical_rows_only"]["labels"]) == ([16], ["lone"])
    told = [event for event in events if isinstance(event, Message) and "code" in event.data]
    assert [(event.message, event.data["code"]) for event in told] == [
        (warning["message"], warning["code"]) for warning in done.result["warnings"]
    ]
    assert {event.level for event in told} == {"warn"}


def test_labels_that_are_taken_for_each_other_are_told_from_noise() -> None:
    random = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 50)
    predicted = truth.copy()
    predicted[:9], predicted[50:55] = 1, 0  # 14 of 100 between the first two
    predicted[100:104] = [0, 1, 3, 3]  # and single errors elsewhere
    rows = rows_of(random.normal(size=(200, 8)), truth, 4)
    held = held_out(np.eye(4, dtype=np.float32)[predicted], truth)
    found = of(diagnose(rows, held, NONE), "confused_labels")
    assert found.labels == ["label 0", "label 1"]
    assert found.rows == [*range(100, 109), *range(150, 155)]
    assert "14 of their 100" in found.message


def test_rare_labels_are_told() -> None:
    truth = np.array([0] * 198 + [1, 1])
    found = of(diagnose(rows_of(np.random.default_rng(0).normal(size=(200, 8)), truth, 2), None, NONE), "rare_labels")
    assert found.labels == ["label 1"]
    assert "99%" in found.message


def test_many_rows_that_are_nearly_one_are_counted_in_bounded_time_and_space() -> None:
    random = np.random.default_rng(0)
    vectors = np.ones(16) + 0.01 * random.normal(size=(30_000, 16))
    found = diagnose(rows_of(vectors, np.arange(30_000) % 2, 2), None, NONE)
    near = of(found, "near_duplicates_across_labels")
    assert int(near.message.partition(" ")[0]) == pytest.approx((duplicates.MOST_COMPARED / 2) ** 2, rel=0.01)
    assert len(near.rows) <= diagnosis.MOST_ROWS


def test_several_labels_conflict_only_where_they_differ_and_are_near_only_where_none_is_shared() -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0.01, 1], [0.02, 1], [0.015, 1]], dtype=float)
    members = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 0], [0, 0, 0]], dtype=bool)
    found = diagnose(rows_of(vectors, members, 3), None, NONE)
    assert of(found, "conflicting_labels").rows == [100, 101]
    assert set(of(found, "near_duplicates_across_labels").rows) == {102, 103, 104}


@pytest.mark.data
def test_falsified_labels_of_banking77_are_found(encoder: Encoder) -> None:
    """5 % of the labels are changed, and most of the rows that are named are among them."""
    if not banking77().is_dir():
        pytest.skip("the benchmark data is not beside this checkout")
    given = draw(read_gzip(banking77() / "train.jsonl.gz"), 12, 0)
    labels = sorted({row["label"] for row in given})[:30]
    given = [row for row in given if row["label"] in labels]
    random = np.random.default_rng(0)
    truth = np.array([labels.index(row["label"]) for row in given])
    wrong = random.permutation(len(given))[: len(given) // 20]
    changed = truth.copy()
    changed[wrong] = (truth[wrong] + random.integers(1, 30, len(wrong))) % 30
    vectors, _, _ = encoder.embed_all([row["text"] for row in given], 2)
    held = hold_out(vectors, changed, 30, lambda x, y: fit_head(x, y, 30), 0)
    rows = TrainingRows([row["text"] for row in given], changed, vectors, np.arange(len(given)), labels)
    found = of(diagnose(rows, held, calibrate(held)), "looks_mislabelled")
    hits = set(found.rows) & set(wrong.tolist())
    assert len(hits) / len(found.rows) > 0.6
    assert len(hits) / len(wrong) > 0.5
