"""Shows that an added encoder is copied whole, checked by loading it and exported; and that nothing else is added."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModel, BartConfig, BertConfig, RobertaConfig, ViTConfig

from reflexd.engine import architecture, backbone
from reflexd.engine.backbones import Backbones
from reflexd.engine.encoder import Encoder
from reflexd.errors import BackboneRefused, StartupError
from reflexd.registry import artifacts, backbones, runs
from reflexd.registry.artifacts import BackboneRef, Calibration, Head, Manifest
from reflexd.registry.data_directory import DataDirectory
from reflexd.service.backbones import BackboneService
from reflexd.store.store import Store
from reflexd_plugins.checkpoints import MINILM
from tests.checkpoints import copy_of, pool, shallow, tiny
from tests.daemons import shared_cache
from tests.unit.test_store import add_job, make_key
from tests.unit.vectors import vector_of

pytestmark = pytest.mark.anyio
TEXT = "The rocket engine failed during launch"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shallow(tmp_path_factory.mktemp("checkpoints") / "two-layers")


class Registry:
    """An operator's view of one data directory."""

    def __init__(self, store: Store, root: Path) -> None:
        self.directory = DataDirectory(root)
        for folder in (self.directory.backbones, self.directory.models, self.directory.runs):
            folder.mkdir()
        self.present = Backbones({MINILM.name: MINILM}, self.directory.backbones, shared_cache())
        self.service = BackboneService(store, self.directory, self.present, MINILM.name, "int8")

    async def refuse(self, *paths: Path, **given: str) -> str:
        before = set(self.directory.root.rglob("*"))
        with pytest.raises(BackboneRefused) as caught:
            await self.service.add([str(path) for path in paths], **given)
        assert set(self.directory.root.rglob("*")) == before, "nothing is left behind"
        return str(caught.value)


@pytest.fixture
def registry(store: Store, tmp_path: Path) -> Registry:
    return Registry(store, tmp_path)


async def test_an_encoder_is_added_listed_and_removed(registry: Registry, checkpoint: Path) -> None:
    row = await registry.service.add([str(checkpoint)])
    assert (row["name"], row["width"], row["layers"], row["pooling"]) == ("two-layers", 384, 2, "mean")
    assert (row["models"], row["configured"], row["added"]) == (0, False, True)
    ours, added = await registry.service.rows()
    assert (ours["name"], ours["layers"], ours["configured"], ours["added"]) == (MINILM.name, 6, True, False)
    assert added == row

    found = registry.present.named("two-layers")
    assert {path.name for path in found.folder.iterdir()} == {*backbones.FILES, backbones.RECORD}
    for name in ("model.safetensors", "tokenizer.json"):
        assert (found.folder / name).read_bytes() == (checkpoint / name).read_bytes()
    encoder = Encoder(registry.present.exported(found, "int8"))
    assert (encoder.description.name, encoder.description.fingerprint) == ("two-layers", row["fingerprint"])
    with torch.no_grad():
        ids = torch.tensor([encoder.token_ids(TEXT)])
        exact = AutoModel.from_pretrained(checkpoint)(ids).last_hidden_state[0].mean(0).numpy()
    assert vector_of(encoder, TEXT) @ exact / np.linalg.norm(exact) > 0.95

    assert "there already: its name is two-layers" in await registry.refuse(checkpoint, name="other")
    assert "there is a backbone two-layers already" in await registry.refuse(checkpoint, pooling="cls")
    assert (await registry.service.remove("two-layers"))["name"] == "two-layers"
    assert list(registry.directory.backbones.iterdir()) == []
    with pytest.raises(StartupError, match="there is no 'two-layers'"):
        registry.present.named("two-layers")


def manifest_of(row: dict[str, object]) -> Manifest:
    made_by = BackboneRef(name="x", fingerprint=str(row["fingerprint"]), precision="int8", width=2)
    return Manifest(
        stack=backbone.STACK, labels=["a", "b"], mode="single_label", backbone=made_by,
        calibration=Calibration(method="none", temperature=1, rows=0), data_sha256="", examples=10, seed=1,
        packages={}, created_at=0,
    )  # fmt: skip


async def test_what_is_in_use_is_not_removed(registry: Registry, checkpoint: Path, store: Store) -> None:
    async def refuse(name: str) -> str:
        with pytest.raises(BackboneRefused) as caught:
            await registry.service.remove(name)
        return str(caught.value)

    row = await registry.service.add([str(checkpoint)], name="mine")
    head = Head(np.zeros((2, 2), np.float32), np.zeros(2, np.float32))
    for number in range(3):
        artifacts.publish(registry.directory.models, f"m{number}", head, manifest_of(row))
    assert "mine is in use by 3 models" in await refuse("mine")
    assert [r["models"] for r in await registry.service.rows()] == [0, 3]
    job = await add_job(store, await make_key(store, "k"))
    given = runs.RunInput(source="training_data", payload=msgspec.Raw(b"[]"))
    runs.create(registry.directory.runs, job.id, given, registry.directory.models / "m0")
    shutil.rmtree(registry.directory.models)
    registry.directory.models.mkdir()
    assert "mine is in use by 1 unfinished job" in await refuse("mine")
    await store.jobs.cancel(job.id)
    registry.service._configured = "mine"
    assert "[training] backbone names it" in await refuse("mine")
    assert "comes with a plugin" in await refuse(MINILM.name)
    assert "no backbone that is here" in await refuse("nobody")
    registry.service._configured = MINILM.name
    assert (await registry.service.remove("mine"))["name"] == "mine"


async def test_shards_become_one_file_that_means_the_same(registry: Registry, checkpoint: Path, tmp_path: Path) -> None:
    sharded = copy_of(checkpoint, tmp_path / "sharded", "model.safetensors")
    AutoModel.from_pretrained(checkpoint).save_pretrained(sharded, max_shard_size="20MB")
    assert not (sharded / "model.safetensors").exists()
    assert len(list(sharded.glob("model-*.safetensors"))) > 1
    await registry.service.add([str(sharded)])
    whole = load_file(checkpoint / "model.safetensors")
    merged = load_file(registry.present.named("sharded").folder / "model.safetensors")
    assert merged.keys() == whole.keys()
    assert all(torch.equal(merged[name], whole[name]) for name in whole)


async def test_an_older_tokenizer_is_converted(registry: Registry, checkpoint: Path, tmp_path: Path) -> None:
    older = copy_of(checkpoint, tmp_path / "older", "tokenizer.json")
    source = backbone.find_files(MINILM)
    for name in ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(source / name, older)
    await registry.service.add([str(older)], pooling="cls")
    found = registry.present.named("older")
    assert {path.name for path in found.folder.iterdir()} == {*backbones.FILES, backbones.RECORD}
    same = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    same.no_padding()
    encoder = Encoder(registry.present.exported(found, "int8"))
    assert encoder.description.pooling == "cls"
    for text in (TEXT, "Der Knopf tut nichts", "naïve 中文 🙂"):
        assert encoder.token_ids(text) == same.encode(text).ids
    (older / "vocab.txt").unlink()
    assert "no tokenizer.json, and nothing that one can be made of" in await registry.refuse(older, name="again")


async def test_bad_words_are_refused_by_name(registry: Registry, checkpoint: Path, tmp_path: Path) -> None:
    assert "absolute path" in await registry.refuse()
    assert "absolute path" in await registry.refuse(Path("relative"))
    assert "max is not supported" in await registry.refuse(checkpoint, pooling="max")
    for name in ("two\nlines", " ", "x" * 65):
        assert "choose one with --name" in await registry.refuse(checkpoint, name=name)
    assert "no config.json" in await registry.refuse(copy_of(checkpoint, tmp_path / "c", "config.json"))
    lost = pool(copy_of(checkpoint, tmp_path / "max"), pooling_mode_max_tokens=True)
    assert "max_tokens is not supported: choose with --pooling" in await registry.refuse(lost)


async def test_files_that_changed_are_not_used(registry: Registry, checkpoint: Path) -> None:
    await registry.service.add([str(checkpoint)])
    weights = registry.present.named("two-layers").folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
    with pytest.raises(StartupError, match=r"model\.safetensors has not the sha256"):
        registry.present.named("two-layers")


SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: BartConfig(d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32),
            "is_encoder_decoder: a model of type bart",
        ),
        (lambda: BertConfig(**SIZE, is_decoder=True), "is_decoder: a model of type bert"),
        (lambda: ViTConfig(**SIZE, image_size=32, patch_size=16), "type vit does not read texts"),
    ],
)
def test_what_is_no_encoder_of_texts(tmp_path: Path, make: Callable[[], object], said: str) -> None:
    with pytest.raises(BackboneRefused) as caught:
        architecture.load_checked(tiny(tmp_path / "t", make()))
    assert said in str(caught.value)
    assert "config.json" in str(caught.value)


def test_weights_that_do_not_fit_their_configuration(checkpoint: Path, tmp_path: Path) -> None:
    def refuse(folder: Path) -> str:
        with pytest.raises(BackboneRefused) as caught:
            architecture.load_checked(folder)
        return str(caught.value)

    lacking = copy_of(checkpoint, tmp_path / "lacking", "model.safetensors")
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, lacking / "model.safetensors", metadata={"format": "pt"})
    assert "lacks the tensor encoder.layer.1.output.dense.weight" in refuse(lacking)
    torn = copy_of(checkpoint, tmp_path / "torn", "model.safetensors")
    (torn / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes()[:1000])
    assert "model.safetensors cannot be loaded" in refuse(torn)
    other = copy_of(checkpoint, tmp_path / "other", "config.json")
    config = json.loads((checkpoint / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "hidden_size": 768}))
    assert "model.safetensors cannot be loaded as config.json says" in refuse(other)
    (other / "config.json").write_text(json.dumps({**config, "model_type": "no-such-model"}))
    assert "config.json cannot be used" in refuse(other)
    ran = tmp_path / "ran"
    (other / "modeling.py").write_text(f"open({str(ran)!r}, 'w')\n")
    foreign = {"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model"}
    (other / "config.json").write_text(json.dumps({**config, "model_type": "foreign", "auto_map": foreign}))
    assert "config.json cannot be used" in refuse(other)
    assert not ran.exists(), "code that comes with a model is never run"


def test_a_tokenizer_of_another_model(checkpoint: Path, tmp_path: Path) -> None:
    few = architecture.load_checked(tiny(tmp_path / "few", BertConfig(**SIZE, vocab_size=1000)))
    with pytest.raises(BackboneRefused, match=r"tokenizer\.json has the token 30521, and model\.safetensors has 1000"):
        architecture.check_tokenizer(checkpoint / "tokenizer.json", few)
    encoder = architecture.load(checkpoint)
    bare = json.loads((checkpoint / "tokenizer.json").read_text())
    (tmp_path / "bare.json").write_text(json.dumps({**bare, "post_processor": None}))
    with pytest.raises(BackboneRefused, match="one special token before and one after"):
        architecture.check_tokenizer(tmp_path / "bare.json", encoder)
    (tmp_path / "bare.json").write_text("{}")
    with pytest.raises(BackboneRefused, match="cannot be used"):
        architecture.check_tokenizer(tmp_path / "bare.json", encoder)
    architecture.check_tokenizer(checkpoint / "tokenizer.json", encoder)


def test_positions_that_the_padding_takes_are_not_read(tmp_path: Path, checkpoint: Path) -> None:
    assert architecture.readable_tokens(architecture.load(checkpoint)) == 512
    roberta = RobertaConfig(**SIZE, max_position_embeddings=50, vocab_size=40_000, pad_token_id=1)
    encoder = architecture.load(tiny(tmp_path / "roberta", roberta))
    assert architecture.readable_tokens(encoder) == 48
    with torch.no_grad():
        encoder(torch.full((1, 48), 5))
        with pytest.raises(RuntimeError, match="out of bounds"):
            encoder(torch.full((1, 49), 5))


def test_weights_of_half_precision_are_read_as_whole_ones(tmp_path: Path) -> None:
    config = BertConfig(**SIZE, vocab_size=40_000)
    half = AutoModel.from_config(config).to(torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    assert load_file(tmp_path / "half" / "model.safetensors")["embeddings.LayerNorm.weight"].dtype == torch.bfloat16
    whole = architecture.load_checked(tmp_path / "half")
    assert {weight.dtype for weight in whole.parameters()} == {torch.float32}
