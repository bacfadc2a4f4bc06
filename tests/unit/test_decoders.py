"""Shows a decoder as a backbone, on SmolLM2's real weights: added, tuned by activated LoRA, published and served."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from peft.tuners.lora.variants import calculate_alora_offsets
from tokenizers import Tokenizer, processors
from transformers import AutoModel, BertConfig, GPT2Config

from reflexd.engine import architecture, backbone, registration
from reflexd.engine.adapters import Adapter, read_adapter, to_files
from reflexd.engine.backbones import Backbones
from reflexd.engine.decoder import Decoder
from reflexd.engine.decoder_export import export_decoder
from reflexd.engine.encoder import Encoder
from reflexd.engine.heads import fit_head
from reflexd.engine.opening import open_encoder
from reflexd.engine.plan import Plan
from reflexd.engine.predictor import Predictor
from reflexd.engine.trainer import train
from reflexd.engine.tunable_decoder import TunableDecoder, open_tunable
from reflexd.engine.tuning import adapter_of, tune
from reflexd.errors import BackboneRefused, StartupError
from reflexd.hookspecs import Checkpoint, Example
from reflexd.registry import artifacts
from reflexd.registry.backbones import FILES, LAST_TOKEN, read_all
from reflexd.registry.data_directory import DataDirectory
from reflexd.schemas.worker import Message, Metrics, RunSpec
from reflexd.service.backbones import BackboneService
from reflexd.store.store import Store
from reflexd_plugins.checkpoints import MINILM
from tests.checkpoints import copy_of, smollm2, tiny
from tests.daemons import shared_cache
from tests.unit.asking import ask, predicting, said

pytestmark = pytest.mark.anyio
BILLING = ["Refund me now", "You charged me twice", "Cancel my plan", "Update my card", "A wrong invoice", "Too dear"]
BUGS = ["The app crashed", "Nothing happens", "It never loads", "Error 500 on save", "Login fails", "A white page"]
ROWS = [Example(text, "billing") for text in BILLING] + [Example(text, "bug") for text in BUGS]
TEXTS = BILLING + BUGS
TARGETS = np.array([0] * 6 + [1] * 6)


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return smollm2()


@pytest.fixture(scope="module")
def decoder(checkpoint: Path) -> Decoder:
    """SmolLM2 in fp32 on the processor, as it is exported; in the tests' cache."""
    files = dict.fromkeys(FILES, "")
    given = Checkpoint(name="smol", directory=str(checkpoint), files=files, license="", pooling=LAST_TOKEN)
    identity = backbone.fingerprint(given, checkpoint)
    target = backbone.exported_directory(shared_cache(), identity, "fp32")
    if backbone.read_description(target) is None:
        asyncio.run(backbone.export(given, checkpoint, target, "fp32"))
    opened = open_encoder(target)
    assert isinstance(opened, Decoder)
    return opened


@pytest.fixture(scope="module")
def tuned(decoder: Decoder, checkpoint: Path) -> tuple[TunableDecoder, Adapter]:
    """The decoder after three steps, and what it has learned."""
    tunable = open_tunable(checkpoint, decoder, "low_rank")
    assert isinstance(tunable, TunableDecoder)
    width = decoder.description.width
    head = fit_head(decoder.embed_all(TEXTS, 1)[0][:, :width], TARGETS, 2)
    ids = [decoder.token_ids(text) for text in TEXTS]
    losses = tune(tunable, ids, TARGETS, head, Plan(3, 128, 3e-3, 0.5), [1])
    assert losses[-1] < losses[0]
    return tunable, adapter_of(tunable)


@pytest.fixture
def predictor(decoder: Decoder, tmp_path: Path) -> Iterator[Predictor]:
    with predicting(decoder, tmp_path, threads=1) as made:
        yield made


def spec_for(folder: Path, checkpoint: Path, model_id: str, budget: float) -> RunSpec:
    return RunSpec(
        job_id="j", stage="train", run_dir=str(folder), models_dir=str(folder), model_id=model_id, backbone="",
        checkpoint=str(checkpoint), seed=1, threads=1, budget_seconds=budget,
    )  # fmt: skip


def exact(model: torch.nn.Module, ids: list[int], **given: object) -> tuple[torch.Tensor, ...]:
    """Return every layer's hidden states [tokens, width] of one forward, without a cache."""
    with torch.no_grad():
        out = model(input_ids=torch.tensor([ids]), output_hidden_states=True, **given)
    return tuple(layer[0] for layer in (*out.hidden_states[:-1], out.last_hidden_state))


def test_features_are_the_last_token_of_the_last_and_of_the_middle_layer(decoder: Decoder, checkpoint: Path) -> None:
    about = decoder.description
    assert (about.width, about.layers, about.precision, about.pooling) == (576, 30, "fp32", LAST_TOKEN)
    model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    features, tokens, windows = decoder.embed(BILLING[0])
    ids = decoder.token_ids(BILLING[0])
    assert (tokens, windows) == (len(ids), 1)
    hidden = exact(model, [*ids, *decoder.invocation])
    for found, layer in zip(features.reshape(2, -1), (hidden[30], hidden[15]), strict=True):
        expected = torch.nn.functional.normalize(layer[-1], dim=0).numpy()
        assert found == pytest.approx(expected, abs=1e-4)
    among, counted, windowed = decoder.embed_all(["x " * 20, BILLING[0]], threads=2)
    np.testing.assert_allclose(among[1], features, atol=1e-5, err_msg="a text's features depend on the text alone")
    assert (counted > tokens, windowed) == (True, 0)


def test_a_long_text_is_read_in_windows(decoder: Decoder) -> None:
    ids = list(range(100, 100 + 2 * decoder.description.max_tokens + 1))
    windows = decoder.windows(ids)
    assert [token for window in windows for token in window] == ids
    assert max(map(len, windows)) <= decoder.description.max_tokens
    assert decoder.token_ids_up_to_limit("word " * 5000) is None


def test_an_adapter_changes_the_invocation_and_nothing_of_the_text(
    decoder: Decoder, checkpoint: Path, tuned: tuple[TunableDecoder, Adapter], tmp_path: Path
) -> None:
    _, adapter = tuned
    for name, content in to_files(adapter).items():
        (tmp_path / name).write_bytes(content)
    model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    text = decoder.token_ids(BILLING[0])
    ids = [*text, *decoder.invocation]
    without = exact(model, ids)
    loaded = PeftModel.from_pretrained(model, tmp_path).eval()
    # peft finds the invocation itself, by what the adapter's configuration says.
    offsets = calculate_alora_offsets(loaded.peft_config, "default", torch.tensor([ids]))
    assert offsets == [len(decoder.invocation)]
    with_adapter = exact(loaded, ids, alora_offsets=offsets)
    assert len(with_adapter) == 31
    for on, off in zip(with_adapter, without, strict=True):
        assert torch.equal(on[: len(text)], off[: len(text)])
    assert not torch.allclose(with_adapter[-1][-1], without[-1][-1], atol=0.1)

    served = decoder.adapted(adapter).forward(text).reshape(2, -1)
    for found, layer in zip(served, (with_adapter[30], with_adapter[15]), strict=True):
        assert found == pytest.approx(torch.nn.functional.normalize(layer[-1], dim=0).numpy(), abs=1e-4)


def test_what_is_tuned_is_what_is_served(decoder: Decoder, tuned: tuple[TunableDecoder, Adapter]) -> None:
    tunable, adapter = tuned
    ids = [decoder.token_ids(text) for text in TEXTS]
    width = decoder.description.width
    served, untouched = decoder.adapted(adapter).embed_all(TEXTS, 1)[0], decoder.embed_all(TEXTS, 1)[0]
    with torch.no_grad():
        assert served[:, :width] == pytest.approx(tunable.encode(ids).numpy(), abs=1e-3)
        tunable.reset()
        assert untouched[:, :width] == pytest.approx(tunable.encode(ids).numpy(), abs=1e-4)
        tunable.reset(adapter)
        assert served[:, :width] == pytest.approx(tunable.encode(ids).numpy(), abs=1e-3)
    assert np.abs(served - untouched).max() > 0.01


def test_an_adapter_of_another_model_is_refused(decoder: Decoder, tuned: tuple[TunableDecoder, Adapter]) -> None:
    tensors = tuned[1].tensors
    with pytest.raises(ValueError, match="none that this backbone's invocation activates"):
        decoder.adapted(Adapter("low_rank", tensors))
    other = {name.replace("layers.0.", "layers.99."): tensor for name, tensor in tensors.items()}
    with pytest.raises(ValueError, match=r"changes 'layers\.99\..* which the backbone does not have"):
        decoder.adapted(Adapter("low_rank", other, decoder.invocation))
    wrong = {name: tensor[..., :1] for name, tensor in tensors.items()}
    with pytest.raises(ValueError, match="has not the shape of its weight"):
        decoder.adapted(Adapter("low_rank", wrong, decoder.invocation))


@pytest.mark.slow
async def test_a_job_tunes_publishes_and_the_classifiers_share_one_reading(
    decoder: Decoder, checkpoint: Path, tuned: tuple[TunableDecoder, Adapter], predictor: Predictor,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    events: list[Message | Metrics] = []
    done = train(spec_for(tmp_path, checkpoint, "m", 120), ROWS, ["billing", "bug"], decoder, events.append)
    assert (done.precision, done.result["n"]) == ("fp32", 12)
    (plan,) = [event.data for event in events if event.message.startswith("Tuning the encoder")]
    assert (plan["folds"], plan["kinds"]) == (3, ["low_rank"])
    assert any("Held-out accuracy of the encoder as it is" in event.message for event in events)

    # A tuned model beside it, whether or not tuning paid for these few rows.
    _, manifest = artifacts.load(tmp_path, "m")
    adapter = tuned[1]
    head = fit_head(decoder.adapted(adapter).embed_all(TEXTS, 1)[0][:, : decoder.description.width], TARGETS, 2)
    manifest.adapter, manifest.head, manifest.in_domain = adapter.reference(), artifacts.HeadRef(), None
    artifacts.publish(tmp_path, "tuned", head, manifest, more=to_files(adapter))
    stored = read_adapter(tmp_path, "tuned", artifacts.read_manifest(tmp_path, "tuned"))
    assert stored is not None
    assert stored.invocation == decoder.invocation
    manifest.adapter = None
    artifacts.publish(tmp_path, "plain", fit_head(decoder.embed_all(TEXTS, 1)[0][:, :576], TARGETS, 2), manifest)

    read: list[int] = []
    inner = decoder._model.forward

    def counted(*given: object, **named: object) -> object:
        read.append(int(named["input_ids"].shape[1]))  # type: ignore[attr-defined]
        return inner(*given, **named)

    monkeypatch.setattr(decoder._model, "forward", counted)
    text = "My payment was taken two times this month"
    (answers,) = await ask(predictor, [(text, ["m", "tuned", "plain"])])
    assert [one.best for one in said(answers)] == [0] * 3, "billing"
    prefills = [tokens for tokens in read if tokens != len(decoder.invocation)]
    assert prefills == [len(decoder.token_ids(text))], "the text is read once for all"


@pytest.mark.slow
async def test_a_decoder_is_added_only_where_it_can_run(
    store: Store, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    directory = DataDirectory(tmp_path / "data")
    for folder in (directory.root, directory.backbones, directory.models, directory.runs):
        folder.mkdir()
    present = Backbones({MINILM.name: MINILM}, directory.backbones, shared_cache())
    service = BackboneService(store, directory, present, MINILM.name, "int8")
    with pytest.raises(BackboneRefused, match=r"it is a decoder .* torch sees no GPU\. With --cpu it runs"):
        await service.add([str(checkpoint)], name="smol")
    assert list(directory.backbones.iterdir()) == []

    given = backbone.AddSpec(
        paths=[], name="", pooling="mean", target="", cache_dir="", precision="int8", taken=[], known={}, cpu=True
    )
    with pytest.raises(BackboneRefused, match="--pooling mean: it is a decoder"):
        registration.terms_of_decoder(given)

    row = await service.add([str(checkpoint)], name="smol", cpu=True)
    assert (row["width"], row["layers"], row["pooling"]) == (576, 30, LAST_TOKEN)
    (record,) = read_all(directory.backbones).values()
    assert (record.kind, record.precision) == ("decoder", "fp32")
    ground = await present.ground(tmp_path, present.named("smol"), "int8")
    assert ground.checkpoint == present.named("smol").folder
    assert ground.exported == backbone.exported_directory(shared_cache(), record.fingerprint, "fp32")


def test_what_a_decoder_needs_of_its_machine_and_files(
    decoder: Decoder, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    spec = backbone.ExportSpec(
        name="smol", source=str(checkpoint), target="", fingerprint="f", precision="bf16", pooling=LAST_TOKEN
    )
    with pytest.raises(StartupError, match="takes a GPU, and torch sees none"):
        export_decoder(spec, checkpoint, tmp_path / "none")
    spec.precision = "int8"
    with pytest.raises(StartupError, match="in bf16 or fp32, and not in int8"):
        export_decoder(spec, checkpoint, tmp_path / "none")
    assert not (tmp_path / "none").exists()

    torn = copy_of(decoder._folder, tmp_path / "torn", "model.safetensors")
    (torn / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes()[:-4] + bytes(4))
    with pytest.raises(StartupError, match="missing or damaged"):
        open_encoder(torn)

    gpt = architecture.load_checked(tiny(tmp_path / "gpt", GPT2Config(n_embd=32, n_layer=2, n_head=2)))
    assert architecture.is_decoder(gpt)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    bert = architecture.load_checked(tiny(tmp_path / "bert", BertConfig(**size)))
    assert not architecture.is_decoder(bert)
    ending = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    ending.post_processor = processors.TemplateProcessing("$A <|im_end|>", special_tokens=[("<|im_end|>", 2)])
    ending.save(str(tmp_path / "ending.json"))
    with pytest.raises(BackboneRefused, match="special tokens after a text"):
        architecture.check_tokenizer(tmp_path / "ending.json", decoder._model, decoder=True)


def test_a_process_that_serves_no_decoder_never_imports_torch(encoder_dir: Path) -> None:
    code = (
        "import sys, pathlib, reflexd.daemon; from reflexd.engine.opening import open_encoder; "
        "print(open_encoder(pathlib.Path(sys.argv[1])).embed('hello')[1], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(encoder_dir)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "False"]
    assert not isinstance(open_encoder(encoder_dir), Decoder)
    assert isinstance(open_encoder(encoder_dir), Encoder)
