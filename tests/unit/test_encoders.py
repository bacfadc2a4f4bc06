"""Shows that models of several encoders are asked together, and how one that is not loaded yet comes and goes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from reflexd.engine import backbone
from reflexd.engine.backbones import Backbones
from reflexd.engine.encoder import Encoder
from reflexd.engine.encoders import Encoders
from reflexd.engine.predictor import Predictor
from reflexd.errors import ContextLengthExceeded, StartupError, Unavailable
from reflexd.registry import artifacts
from reflexd.registry.artifacts import DamagedArtifact, Head, Manifest
from reflexd_plugins.checkpoints import MINILM
from tests.daemons import shared_cache
from tests.unit.asking import ask, predicting, said
from tests.unit.test_predictor import LONG, Readings, publish
from tests.unit.vectors import vector_of

pytestmark = pytest.mark.anyio
CLS = msgspec.structs.replace(MINILM, name="all-MiniLM-L6-v2-cls", pooling="cls")


def topic(folder: Path, name: str, encoder: Encoder) -> None:
    rows = np.stack([vector_of(encoder, text) for text in ("a rocket", "a refund")])
    publish(folder, name, Head(rows, np.zeros(2, np.float32)), encoder)


@pytest.fixture
async def predictor(encoder: Encoder, cls_encoder: Encoder, tmp_path: Path) -> AsyncIterator[Predictor]:
    """The configured encoder is the one that pools the mean; models "mean" and "cls" are of one each."""
    topic(tmp_path, "mean", encoder)
    topic(tmp_path, "cls", cls_encoder)
    backbones = Backbones({MINILM.name: MINILM, CLS.name: CLS}, tmp_path / "none", shared_cache())
    with predicting(encoder, tmp_path, others=Encoders(backbones).of_model) as made:
        yield made


def expected(encoder: Encoder, text: str) -> list[float]:
    logits = (
        np.array([vector_of(encoder, label) @ vector_of(encoder, text) for label in ("a rocket", "a refund")]) / 0.5
    )
    exact = np.exp(logits)
    return [float(value) for value in exact / exact.sum()]


async def test_models_of_two_encoders_are_asked_together(
    predictor: Predictor, encoder: Encoder, cls_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ask(predictor, [("warm", ["mean", "cls"])])
    other = predictor.residents.stack(("cls",)).panels[0].encoder
    assert other.description == cls_encoder.description
    first, second = Readings(encoder, monkeypatch), Readings(other, monkeypatch)
    texts = ("The rocket flies", "Send my money back")
    rows = [(texts[0], ["mean", "cls", "mean"]), (texts[1], ["cls"]), (texts[0], ["cls"])]
    answers = await ask(predictor, rows)
    assert (len(first.ids), len(second.ids)) == (1, 2), "one forward a backbone a text"
    found = [[one.probabilities for one in said(answer)] for answer in answers]
    mean, cls, cls_two = expected(encoder, texts[0]), expected(cls_encoder, texts[0]), expected(cls_encoder, texts[1])
    for given, wanted in zip(found, ([mean, cls, mean], [cls_two], [cls]), strict=True):
        for one, exact in zip(given, wanted, strict=True):
            assert one == pytest.approx(exact, abs=1e-5)
    assert mean != pytest.approx(cls, abs=1e-3)


async def test_a_long_text_is_read_in_windows_by_each(
    predictor: Predictor, encoder: Encoder, cls_encoder: Encoder
) -> None:
    ((first, second),) = [said(answer) for answer in await ask(predictor, [(LONG, ["mean", "cls"])], chunk=True)]
    assert first.windows == second.windows == encoder.embed(LONG)[2] > 1
    assert first.probabilities == pytest.approx(expected(encoder, LONG), abs=1e-5)
    assert second.probabilities == pytest.approx(expected(cls_encoder, LONG), abs=1e-5)
    refused, fine = await ask(predictor, [(LONG, ["cls", "mean"]), ("short", ["cls"])])
    assert isinstance(refused, ContextLengthExceeded)
    assert said(fine)


async def test_an_encoder_goes_with_the_last_head_that_needs_it(predictor: Predictor) -> None:
    await ask(predictor, [("x", ["mean", "cls"])])
    others = predictor.residents._others.__self__._loaded  # type: ignore[union-attr]
    assert len(others) == 1
    predictor.residents.forget(["mean"])
    gc.collect()
    assert len(others) == 1
    predictor.residents.forget(["cls"])
    gc.collect()
    assert len(others) == 0
    assert said((await ask(predictor, [("x", ["cls"])]))[0])


def change(folder: Path, model_id: str, **backbone_fields: object) -> Manifest:
    path = folder / model_id / "manifest.json"
    found = msgspec.json.decode(path.read_bytes())
    found["backbone"] |= backbone_fields
    path.write_bytes(msgspec.json.encode(found))
    return artifacts.read_manifest(folder, model_id)


async def test_an_encoder_that_is_not_here_is_named(predictor: Predictor, tmp_path: Path) -> None:
    change(tmp_path, "cls", fingerprint="0" * 64, name="gone-encoder")
    with pytest.raises(backbone.BackboneMissing, match=r"gone-encoder.*reflexd backbones add"):
        await ask(predictor, [("x", ["mean", "cls"])])
    change(tmp_path, "cls", precision="../../elsewhere")
    with pytest.raises(DamagedArtifact, match="trained in"):
        await ask(predictor, [("x", ["cls"])])
    assert said((await ask(predictor, [("x", ["mean"])]))[0]), "the others go on"


async def until_not(refusal: type[Exception], look: Callable[[], Encoder]) -> Encoder:
    async with asyncio.timeout(110):
        while True:
            try:
                return await asyncio.to_thread(look)
            except refusal:
                await asyncio.sleep(0.2)


async def test_an_export_that_is_missing_is_made_while_the_caller_is_told_to_wait(
    predictor: Predictor, cls_encoder: Encoder, tmp_path: Path
) -> None:
    manifest = artifacts.read_manifest(tmp_path, "cls")
    empty = Encoders(Backbones({CLS.name: CLS}, tmp_path / "none", tmp_path / "cache"))
    for _ in range(3):
        with pytest.raises(Unavailable, match="all-MiniLM-L6-v2-cls is being prepared"):
            await asyncio.to_thread(empty.of_model, manifest)
    loaded = await until_not(Unavailable, lambda: empty.of_model(manifest))
    assert float(vector_of(loaded, "a rocket") @ vector_of(cls_encoder, "a rocket")) == pytest.approx(1, abs=1e-5)
    assert empty.of_model(manifest) is loaded


async def test_an_export_that_fails_is_told_and_tried_again(predictor: Predictor, tmp_path: Path) -> None:
    manifest = artifacts.read_manifest(tmp_path, "cls")
    (tmp_path / "cache").write_text("a file stands where the cache should be")
    broken = Encoders(Backbones({CLS.name: CLS}, tmp_path / "none", tmp_path / "cache"))
    for _ in range(2):
        with pytest.raises(DamagedArtifact, match="all-MiniLM-L6-v2-cls cannot be exported"):
            await until_not(Unavailable, lambda: broken.of_model(manifest))


async def test_a_checkpoint_whose_package_is_gone_costs_only_itself(tmp_path: Path) -> None:
    gone = msgspec.structs.replace(MINILM, name="gone", distribution="nonesuch")
    backbones = Backbones({MINILM.name: MINILM, "gone": gone}, tmp_path / "none", tmp_path)
    assert [found.name for found in backbones.all()] == [MINILM.name], "one that is not installed is left out"
    with pytest.raises(StartupError, match="nonesuch is not installed"):
        backbones.named("gone")
    assert backbones.named(MINILM.name) == backbones.all()[0]
