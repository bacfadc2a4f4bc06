"""Shows an encoder in torch, as bf16 has it, to be the one that ONNX Runtime serves; adapted, tuned and published too.

The GPU is a fake one: the same torch code runs on the processor, in single precision where digits are compared.
"""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from reflexd.engine import backbone, torch_backbone
from reflexd.engine.adapters import Adapter, Kind, read_adapter, to_files
from reflexd.engine.backbone import BackboneMissing, ExportSpec, NoGpu
from reflexd.engine.backbones import Backbones
from reflexd.engine.encoder import Encoder
from reflexd.engine.encoders import Encoders
from reflexd.engine.export import export
from reflexd.engine.heads import logits_of
from reflexd.engine.opening import open_encoder
from reflexd.engine.torch_encoder import TorchEncoder
from reflexd.errors import StartupError, Unavailable
from reflexd.registry import artifacts
from reflexd_plugins.checkpoints import MINILM
from tests.unit.asking import ask, predicting, said
from tests.unit.test_adapters import KINDS, TEXTS, bad
from tests.unit.test_encoders import change, until_not
from tests.unit.test_tuned_training import OLD, House, of
from tests.unit.tunings import moved, publish_tuned, weights

pytestmark = pytest.mark.anyio
PROCESSOR = torch.device("cpu")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake GPU that computes in bf16."""
    monkeypatch.setattr(torch_backbone, "place_for", lambda _: (PROCESSOR, torch.bfloat16))


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU, for this process and those that it starts."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def opened(cache: Path, dtype: torch.dtype) -> TorchEncoder:
    """Return the embedded encoder, exported for bf16 on a fake GPU that computes in `dtype`."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch_backbone, "place_for", lambda _: (PROCESSOR, dtype))
        identity = backbone.fingerprint(MINILM, weights())
        target = backbone.exported_directory(cache, identity, "bf16")
        export(
            ExportSpec(
                name=MINILM.name, source=str(weights()), target=str(target), fingerprint=identity, precision="bf16",
                pooling=MINILM.pooling,
            )
        )  # fmt: skip
        encoder = open_encoder(target)
    assert isinstance(encoder, TorchEncoder)
    return encoder


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> TorchEncoder:
    """The torch encoder in single precision."""
    return opened(tmp_path_factory.mktemp("single"), torch.float32)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of exported encoders with the one in bf16."""
    folder = tmp_path_factory.mktemp("cache")
    opened(folder, torch.bfloat16)
    return folder


@pytest.fixture
def half(cache: Path, gpu: None) -> TorchEncoder:
    """The torch encoder in bf16, as it is served."""
    encoder = open_encoder(backbone.exported_directory(cache, backbone.fingerprint(MINILM, weights()), "bf16"))
    assert isinstance(encoder, TorchEncoder)
    return encoder


@pytest.fixture(scope="module")
def adapters() -> dict[Kind, Adapter]:
    return {kind: moved(kind, seed=3)[1] for kind in KINDS}


def test_its_features_are_those_of_the_graph(single: TorchEncoder, full_encoder: Encoder) -> None:
    about, graph = single.description, full_encoder.description
    assert (about.width, about.layers, about.max_tokens, about.parameters, about.fingerprint) == (
        graph.width, graph.layers, graph.max_tokens, graph.parameters, graph.fingerprint,
    )  # fmt: skip
    assert (about.biases, about.weights) == (graph.biases, graph.weights), "the same adapters fit both"
    for text in TEXTS:
        found = single.forward(single.token_ids(text))
        assert (found.shape, found.dtype) == ((2 * about.width,), np.float32)
        np.testing.assert_allclose(np.linalg.norm(found.reshape(2, -1), axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(found, full_encoder.forward(full_encoder.token_ids(text)), atol=1e-4)
    long = "a long text " * 300
    (theirs, *counts), (ours, *counted) = full_encoder.embed(long), single.embed(long)
    assert counts == counted
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_changes_it_as_it_changes_the_graph(
    single: TorchEncoder, full_encoder: Encoder, adapters: dict[Kind, Adapter], kind: Kind
) -> None:
    adapted, graph = single.adapted(adapters[kind]), full_encoder.adapted(adapters[kind])
    for text in TEXTS:
        ids = single.token_ids(text)
        untouched, changed = single.forward(ids), adapted.forward(ids)
        np.testing.assert_allclose(changed, graph.forward(ids), atol=1e-3)
        assert untouched @ changed / 2 < 0.97, "the adapter changes what a text means"
        assert np.array_equal(single.forward(ids), untouched), "and leaves the encoder alone that it was made of"
    assert single.adapted(None) is single
    assert single.own_bytes == 0
    assert adapted.own_bytes == 4 * adapters[kind].parameters


def test_bf16_is_close_and_a_text_depends_on_itself_alone(
    half: TorchEncoder, full_encoder: Encoder, adapters: dict[Kind, Adapter]
) -> None:
    for adapter in (None, *adapters.values()):
        ours, theirs = half.adapted(adapter), full_encoder.adapted(adapter)
        all_at_once = ours.embed_all(TEXTS, threads=2)[0]
        for text, among in zip(TEXTS, all_at_once, strict=True):
            alone = ours.embed(text)[0]
            assert alone @ theirs.embed(text)[0] / 2 > 0.999
            assert np.array_equal(alone, among)


def test_threads_that_ask_for_different_adapters_do_not_mix_them_up(
    single: TorchEncoder, adapters: dict[Kind, Adapter]
) -> None:
    ids = single.token_ids(TEXTS[0])
    asked = [single, *(single.adapted(adapter) for adapter in adapters.values())]
    alone = [one.forward(ids) for one in asked]
    together = threading.Barrier(len(asked))

    def ask_often(number: int) -> float:
        together.wait()
        return max(float(np.abs(asked[number].forward(ids) - alone[number]).max()) for _ in range(20))

    with ThreadPoolExecutor(len(asked)) as pool:
        assert max(pool.map(ask_often, range(len(asked)))) < 1e-5


@pytest.mark.parametrize("harm", ["unknown layer", "too short", "one number", "no numbers", "half a change"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_that_does_not_fit_is_refused(
    single: TorchEncoder, adapters: dict[Kind, Adapter], kind: Kind, harm: str
) -> None:
    if (kind, harm) == ("biases", "half a change"):  # a bias's change has no halves: one of a decoder's instead
        adapter = Adapter(kind, adapters[kind].tensors, (1, 2))
    else:
        adapter = bad(adapters[kind], harm)
    with pytest.raises(ValueError, match="adapter"):
        single.adapted(adapter)


def test_a_damaged_export_is_told(cache: Path, gpu: None, tmp_path: Path) -> None:
    (good,) = (cache / "encoders").glob("*-bf16-stack3")
    for path in good.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes((good / "model.safetensors").read_bytes()[:-4] + bytes(4))
    with pytest.raises(StartupError, match="missing or damaged"):
        open_encoder(tmp_path)


@pytest.mark.parametrize("exported", [True, False])
async def test_without_a_gpu_it_is_said_what_is_missing(
    cache: Path, no_gpu: None, encoder: Encoder, adapters: dict[Kind, Adapter], tmp_path: Path, exported: bool
) -> None:
    publish_tuned(tmp_path, "m", encoder, adapters["biases"], to_files(adapters["biases"]))
    manifest = change(tmp_path, "m", precision="bf16")
    backbones = Backbones({MINILM.name: MINILM}, tmp_path / "none", cache if exported else tmp_path / "cache")
    others = Encoders(backbones)
    with pytest.raises(BackboneMissing, match=rf"trained on {MINILM.name}: bf16 takes a GPU, and torch sees none"):
        await until_not(Unavailable, lambda: others.of_model(manifest))
    if not exported:
        with pytest.raises(NoGpu, match=f"checkpoint {MINILM.name} cannot be exported: bf16 takes a GPU"):
            await backbones.export(backbones.named(MINILM.name), "bf16")
        assert list((tmp_path / "cache" / "encoders").glob("*bf16*")) == []


async def test_a_job_tunes_it_and_what_it_publishes_is_served_beside_a_model_in_int8(
    half: TorchEncoder, cache: Path, encoder: Encoder, tmp_path: Path
) -> None:
    house = House(tmp_path, half)
    rows = of(OLD, 0, 6)
    done = house.train("tuned", rows, OLD)
    manifest = house.manifest("tuned")
    assert (done.precision, manifest.backbone.precision) == ("bf16", "bf16")
    adapter = read_adapter(house.models, "tuned", manifest)
    assert adapter is not None, "tuning pays for these rows; else what is tuned is not tested"
    house.train("next", of(OLD, 6, 9), OLD, "tuned", seconds=3.0)
    house.encoder = encoder
    house.train("plain", rows, OLD, seconds=0.0)

    others = Encoders(Backbones({MINILM.name: MINILM}, tmp_path / "none", cache))
    with predicting(encoder, house.models, others=others.of_model) as predictor:
        answers = [said(a) for a in await ask(predictor, [(row.text, ["tuned", "next", "plain"]) for row in rows])]
    right = Counter(
        number for row, answer in zip(rows, answers, strict=True) for number, one in enumerate(answer)
        if one.best is not None and one.labels[one.best] == row.label
    )  # fmt: skip
    assert min(right[number] for number in range(3)) > 0.8 * len(rows)

    head, _ = artifacts.load(house.models, "tuned")
    features = half.adapted(adapter).embed_all([row.text for row in rows], 1)[0]
    logits = logits_of(head, features) / manifest.calibration.temperature
    exact = np.exp(logits - logits.max(axis=1, keepdims=True))
    exact /= exact.sum(axis=1, keepdims=True)
    np.testing.assert_allclose([answer[0].probabilities for answer in answers], exact, atol=1e-5)
