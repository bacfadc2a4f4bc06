"""Shows that a model is served in fp32 where int8 costs it points, and in int8 where only chance could say so."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from reflexd.engine import backbone
from reflexd.engine.backbone import COMPARED_ROWS
from reflexd.engine.backbones import Backbones
from reflexd.engine.encoder import Encoder
from reflexd.engine.heads import Matrix
from reflexd.engine.material import Material, gather
from reflexd.engine.precision import compare
from reflexd.engine.trainer import train
from reflexd.errors import StartupError
from reflexd.hookspecs import Example
from reflexd.registry import artifacts, runs
from reflexd.schemas.reflex import Mode
from reflexd.schemas.worker import Message, Metrics, RunSpec
from reflexd_plugins.checkpoints import MINILM
from tests.daemons import shared_cache
from tests.rows import banking77, draw, read_gzip
from tests.unit.asking import ask_once, said

NEEDS_BANKING77 = pytest.mark.skipif(not banking77().is_dir(), reason="banking77 is not beside this checkout")
NOISE = 0.06


class Rough(Encoder):
    """The encoder with noise in its vectors: what no encoder here is, one whose quantisation went wrong."""

    salt = b""

    def embed_all(
        self, texts: Sequence[str], threads: int, progress: Callable[[int], None] | None = None
    ) -> tuple[Matrix, int, int]:
        made, tokens, windows = super().embed_all(texts, threads, progress)
        for text, row in zip(texts, made, strict=True):
            seed = int.from_bytes(hashlib.sha256(text.encode() + self.salt).digest()[:8], "little")
            row += np.random.default_rng(seed).normal(0, NOISE, made.shape[1]).astype(np.float32)
        return made, tokens, windows


def rows_of(count: int) -> list[Example]:
    """Return `count` rows a label of twelve labels of banking77 that are hard to tell apart."""
    pool = read_gzip(banking77() / "train.jsonl.gz")
    sizes = Counter(row["label"] for row in pool)
    labels = sorted(
        label for label, size in sizes.items() if size >= count and ("card" in label or "transfer" in label)
    )
    return [Example(**row) for row in draw([row for row in pool if row["label"] in labels[:12]], count, 0)]


def spec_of(folder: Path) -> RunSpec:
    for name in ("models", "runs"):
        (folder / name).mkdir(exist_ok=True)
    runs.create(folder / "runs", "job", runs.RunInput(source="training_data", payload=msgspec.Raw(b"[]")), None)
    return RunSpec(
        job_id="job", stage="train", run_dir=str(folder / "runs" / "job"), models_dir=str(folder / "models"),
        model_id="model", backbone="", checkpoint="", seed=1, threads=2, lineage={"base_model": None},
    )  # fmt: skip


def material_of(
    folder: Path, encoder: Encoder, rows: list[Example], labels: list[str], mode: Mode = "single_label"
) -> Material:
    return gather(spec_of(folder), rows, labels, mode, encoder, encoder, None, lambda _: None)


@pytest.fixture(scope="module")
def rows() -> list[Example]:
    return rows_of(84)


@pytest.fixture(scope="module")
def labels(rows: list[Example]) -> list[str]:
    return sorted({str(row.label) for row in rows})


@pytest.mark.data
@NEEDS_BANKING77
def test_what_int8_costs_the_embedded_encoder_is_too_little_to_tell(
    tmp_path: Path, encoder: Encoder, full_encoder: Encoder, rows: list[Example], labels: list[str]
) -> None:
    material = material_of(tmp_path, encoder, rows, labels)
    found = compare(material, len(labels), full_encoder, 1, 2)
    assert found is not None
    assert found.served == "int8"
    assert found.rows == len(material.targets) >= COMPARED_ROWS
    assert 0.7 < found.int8 < 1
    assert abs(found.int8 - found.fp32) < 0.02
    assert 0 < found.differing < 0.08
    assert found.gain < found.fp32 - found.int8
    again = compare(material, len(labels), full_encoder, 1, 2)
    assert found == again


@pytest.mark.data
@NEEDS_BANKING77
def test_an_encoder_that_int8_spoils_serves_in_fp32(
    tmp_path: Path, encoder_dir: Path, full_encoder: Encoder, rows: list[Example], labels: list[str]
) -> None:
    events: list[Message | Metrics] = []
    spoilt = Rough(encoder_dir)
    done = train(spec_of(tmp_path), rows, labels, spoilt, events.append, fp32=lambda: full_encoder)
    _, manifest = artifacts.load(tmp_path / "models", "model")
    assert (done.precision, manifest.backbone.precision) == ("fp32", "fp32")
    about = done.result["precision"]
    assert about["served"] == "fp32"
    assert about["gain"] > 0.003
    assert about["fp32"] - about["int8"] > about["gain"]
    (told,) = [event for event in events if "in both precisions" in event.message]
    assert "int8 costs too much here, the model is served in fp32" in told.message
    assert len([event for event in events if "repeat another one" in event.message]) <= 1
    assert done.result["accuracy"] == pytest.approx(about["fp32"], abs=0.06), "scored on what is served"
    text = "My card has not arrived yet"
    (answer,) = ask_once(full_encoder, tmp_path / "models", (text, ["model"]))
    assert any(said(answer)[0].selected)


@pytest.mark.data
@NEEDS_BANKING77
def test_rows_of_several_labels_are_compared_by_their_decisions(
    tmp_path: Path, encoder_dir: Path, full_encoder: Encoder, rows: list[Example], labels: list[str]
) -> None:
    material = material_of(tmp_path, Rough(encoder_dir), rows, labels, "multi_label")
    found = compare(material, len(labels), full_encoder, 1, 2)
    assert found is not None
    assert found.served == "fp32"
    assert 0.3 < found.int8 < found.fp32 < 1


@pytest.mark.data
@NEEDS_BANKING77
def test_two_encoders_that_are_equally_rough_are_told_apart_by_nothing(
    tmp_path: Path, encoder_dir: Path, rows: list[Example], labels: list[str]
) -> None:
    """One label in fifteen differs; what fp32 gains by chance is no gain."""
    one, other = Rough(encoder_dir), Rough(encoder_dir)
    other.salt = b"other"
    found = compare(material_of(tmp_path, one, rows, labels), len(labels), other, 1, 2)
    assert found is not None
    assert found.differing > 0.05
    assert found.served == "int8"


@pytest.mark.data
@NEEDS_BANKING77
def test_too_few_rows_or_too_long_ones_are_not_compared(
    tmp_path: Path, encoder: Encoder, full_encoder: Encoder, rows: list[Example], labels: list[str]
) -> None:
    material = material_of(tmp_path, encoder, rows, labels)
    assert compare(msgspec.structs.replace(material, tokens=110_000 * len(rows)), 12, full_encoder, 1, 2) is None
    some = rows[: COMPARED_ROWS - 1]
    (tmp_path / "few").mkdir()
    assert compare(material_of(tmp_path / "few", encoder, some, labels), len(labels), full_encoder, 1, 2) is None


@pytest.mark.data
@NEEDS_BANKING77
def test_an_encoder_that_cannot_be_loaded_in_fp32_ends_no_job(
    tmp_path: Path, encoder: Encoder, rows: list[Example], labels: list[str]
) -> None:
    def missing() -> Encoder:
        raise StartupError("the exported encoder is missing")

    events: list[Message | Metrics] = []
    done = train(spec_of(tmp_path), rows, labels, encoder, events.append, fp32=missing)
    assert done.precision == "int8"
    assert "precision" not in done.result
    assert any("served in int8: the exported encoder is missing" in event.message for event in events)


@pytest.mark.anyio
async def test_jobs_that_may_be_compared_are_given_the_encoder_in_fp32(
    tmp_path: Path, full_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = Backbones({MINILM.name: MINILM}, tmp_path / "backbones", shared_cache())
    (tmp_path / "backbones").mkdir()
    default = present.named(MINILM.name)
    exact = backbone.exported_directory(shared_cache(), full_encoder.description.fingerprint, "fp32")

    async def given(rows: int | None, precision: str = "int8") -> Path | None:
        folder = tmp_path / f"{rows}-{precision}"
        folder.mkdir(exist_ok=True)
        if rows is not None:
            mark = runs.PreparedRows(rows=rows, labels=["a", "b"], sha256="")
            (folder / runs.PREPARED).write_bytes(msgspec.json.encode(mark))
        return (await present.ground(folder, default, precision)).fp32

    assert await given(COMPARED_ROWS) == exact
    assert await given(COMPARED_ROWS - 1) is None
    assert await given(None) is None, "its rows are still to be prepared"
    assert await given(COMPARED_ROWS, "fp32") is None

    async def fails(*_: object) -> None:
        raise StartupError("the disk is full")

    monkeypatch.setattr(backbone, "read_description", lambda _: None)
    monkeypatch.setattr(backbone, "export", fails)
    assert await given(COMPARED_ROWS) == exact, "whether it is sound, the training process sees"
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(present, "exported", lambda *_: tmp_path / "cache" / "none")
    assert await present._in_fp32(tmp_path / f"{COMPARED_ROWS}-int8", default, "int8") is None, "the job does without"
