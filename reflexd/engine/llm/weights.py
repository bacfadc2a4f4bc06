"""Decides what becomes a language model of this machine: copied or converted, loaded and asked once before it counts.

A directory is copied as it is. A GGUF file is unpacked to bfloat16, half of what its numbers take while they are
computed with. On SmolLM2 (Q4_1) that moves the next token's distribution by 7e-5 nats, float16 by 3e-6, and packing it
had moved it a thousand times as far. But a server that computes in the file's type overflows in float16 where the model
was trained in bfloat16, as nearly all are.

It is a process of its own: it imports torch, and reads what strangers made. Code that comes with a model is never run.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging

from reflexd.engine import architecture
from reflexd.engine.backbone_files import INDEX, TOKENIZER_SOURCES, Found
from reflexd.engine.lifeline import end_with_parent, give_way
from reflexd.engine.llm.sources import (
    MAX_WEIGHT_BYTES,
    PACKED,
    ImportSpec,
    Packed,
    checked_name,
    described,
    open_source,
)
from reflexd.errors import BackboneRefused, LanguageModelRefused
from reflexd.registry.backbones import CONFIG, TOKENIZER, WEIGHTS
from reflexd.registry.files import fsync_file, new_directory, sha256_file
from reflexd.registry.llms import Weights, fingerprint, write_record

NICE = 10
GENERATION = "generation_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
SHARD = re.compile(r"\w[\w.-]*\.safetensors", re.ASCII)
SENTENCE = "The parcel arrived on 3 May, two days late, and nobody could say why."
ROOM_BYTES = 64 << 20
"""Left free on the disk: the daemon writes there, too."""


def import_weights(spec: ImportSpec) -> None:
    """Publish the folder `spec.target`, whole or not at all; raises LanguageModelRefused naming what is wrong."""
    paths = [Path(path) for path in spec.paths]
    source_sha256 = ""
    with new_directory(Path(spec.target)) as folder:
        with tempfile.TemporaryDirectory(dir=folder) as scratch, open_source(paths, Path(scratch)) as found:
            name, source = checked_name(spec.name or found.name, spec.taken), described(paths, found)
            if isinstance(found, Packed):
                packed = found.place(Path(scratch))
                source_sha256 = sha256_file(packed)
                license_named = _convert(packed, folder)
            else:
                license_named = found.license()
                _stage(found, folder)
        files = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
        identity = fingerprint(files)
        if identity in spec.known:
            raise LanguageModelRefused(f"this language model is there already: its name is {spec.known[identity]}")
        config = _checked_config(folder)
        dtype = _checked_tensors(folder)
        parameters = _asked_once(folder)
        text_config = config.get_text_config(decoder=True)
        for file in files:
            fsync_file(folder / file)
        write_record(
            folder,
            Weights(
                name=name,
                fingerprint=identity,
                architecture=str(config.model_type),
                parameters=parameters,
                context_tokens=int(getattr(text_config, "max_position_embeddings", 0) or 0),
                dtype=dtype,
                bytes=sum((folder / file).stat().st_size for file in files),
                license=license_named,
                source=source,
                source_sha256=source_sha256,
                files=files,
                created_at=int(time.time()),
            ),
        )


# --- bringing the files together ------------------------------------------------------------------------------------


def _stage(found: Found, folder: Path) -> None:
    """Copy the files that count; of older tokenizers a tokenizer.json is made beside them."""
    if CONFIG not in found:
        raise LanguageModelRefused(f"{found.where} has no {CONFIG}")
    found.json(CONFIG)
    shards = found.shards()
    for shard in shards:
        if not SHARD.fullmatch(shard):
            raise LanguageModelRefused(f"{INDEX} of {found.where} names {shard!r}, which is no plain file name")
    if Path(found.where).is_dir():
        _need_room(folder, sum((Path(found.where) / shard).stat().st_size for shard in shards))
    tokenizer = [name for name in (TOKENIZER, *TOKENIZER_SOURCES) if name in found]
    if TOKENIZER not in found and not any(not name.endswith(".json") or name == "vocab.json" for name in tokenizer):
        raise LanguageModelRefused(f"{found.where} has no {TOKENIZER}, and nothing that one can be made of")
    for name in (CONFIG, GENERATION, CHAT_TEMPLATE, *tokenizer):
        if name in found:
            found.copy(name, folder / name)
    if len(shards) > 1 or shards[0] != WEIGHTS:
        found.copy(INDEX, folder / INDEX)
    for shard in shards:
        found.copy(shard, folder / shard, MAX_WEIGHT_BYTES)
    if TOKENIZER not in found:
        architecture.make_tokenizer(folder)


def _convert(packed: Path, folder: Path) -> str:
    """Write what a GGUF file holds as safetensors with its tokenizer, and return the licence that it names."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(packed)
        licensed = reader.get_field("general.license")
        license_named = str(licensed.contents()) if licensed else ""
        count = sum(int(tensor.n_elements) for tensor in reader.tensors)
    except Exception as error:  # whatever a stranger's or a torn file makes the reader raise
        raise LanguageModelRefused(f"the GGUF file cannot be read: {_sentence(error)}") from error
    _need_room(folder, count * 2)
    if (free := _free_memory()) < count * 6:  # in 4 bytes each, and once more in 2
        raise LanguageModelRefused(
            f"unpacking {count / 1e9:.1f} billion parameters takes {count * 6 / 1e9:.0f} GB of memory, and "
            f"{free / 1e9:.0f} GB are free: import a directory with safetensors"
        )
    given: dict[str, Any] = {"gguf_file": PACKED, "local_files_only": True}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            packed.parent, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **given
        )
        tokenizer = AutoTokenizer.from_pretrained(packed.parent, **given)
    except Exception as error:  # as above
        raise LanguageModelRefused(f"the GGUF file cannot be converted: {_sentence(error)}") from error
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return license_named


def _need_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size + ROOM_BYTES:
        raise LanguageModelRefused(
            f"the disk is too full: the weights take {size / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free"
        )


# --- proving that it is a language model ----------------------------------------------------------------------------


def _checked_config(folder: Path) -> Any:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a stranger's configuration makes transformers raise
        if "trust_remote_code" in str(error):
            raise LanguageModelRefused(f"{CONFIG}: it needs code that comes with it, which is never run") from error
        raise LanguageModelRefused(f"{CONFIG} cannot be used: {_sentence(error)}") from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise LanguageModelRefused(f"{CONFIG}: a model of type {config.model_type} does not write text")
    writer = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__
    named = list(getattr(config, "architectures", None) or [])
    if named and writer not in named:
        raise LanguageModelRefused(f"{CONFIG}: it is a {named[0]}, which does not write text (a {writer} would)")
    return config


def _checked_tensors(folder: Path) -> str:
    """Return the type of most numbers; raises LanguageModelRefused for a torn file and for numbers that are none."""
    types: Counter[str] = Counter()
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 -- it is no mapping and cannot be walked itself
                    tensor = file.get_tensor(name)
                    types[file.get_slice(name).get_dtype()] += tensor.numel()
                    if tensor.is_floating_point() and not _is_finite(tensor):
                        raise LanguageModelRefused(f"{path.name}: numbers of {name} are not finite")
        except SafetensorError as error:
            raise LanguageModelRefused(f"{path.name} is no whole safetensors file: {error}") from error
    return types.most_common(1)[0][0]


def _is_finite(tensor: torch.Tensor) -> bool:
    if tensor.itemsize == 1:  # of 8-bit types torch knows no extremes
        tensor = tensor.to(torch.float32)
    # Both are NaN where one number is; isfinite() of every number takes twenty times as long.
    return tensor.numel() == 0 or bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def _asked_once(folder: Path) -> int:
    """Return the number of parameters of the model, which has read a sentence as a language model does.

    One that is larger than the memory that is free is left to the machine's GPU: its tensors only are counted.
    """
    tokenizer = _checked_tokenizer(folder)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if _free_memory() < size * 1.2:
        return _stored_numbers(folder)
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype="auto",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # as above
        raise LanguageModelRefused(f"the weights cannot be loaded as {CONFIG} says: {_sentence(error)}") from error
    if missing := sorted(loaded["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise LanguageModelRefused(f"the weights lack the tensor {missing[0]}{more}, which {CONFIG} asks for")
    rows, largest = model.get_input_embeddings().num_embeddings, max(tokenizer.get_vocab().values(), default=0)
    if largest >= rows:
        raise LanguageModelRefused(
            f"the tokenizer has the token {largest}, and the weights {rows} only: is it another's?"
        )
    ids = torch.tensor([tokenizer(SENTENCE)["input_ids"]] * 2)
    half = ids.shape[1] // 2
    ids[1, half:] = (ids[1, half:] + 1) % rows
    try:
        with torch.inference_mode():
            scores = model.eval()(input_ids=ids).logits.to(torch.float32)
    except Exception as error:  # as above
        raise LanguageModelRefused(f"it cannot read a sentence: {_sentence(error)}") from error
    if not scores.isfinite().all():
        raise LanguageModelRefused("it gives tokens scores that are not finite")
    moved = (scores[0] - scores[1]).abs()
    if moved[:half].max() > moved[half:].max() / 20:  # what rounding moves is far less
        raise LanguageModelRefused("its tokens see those after them: it is an encoder, and writes no text")
    return sum(parameter.numel() for parameter in model.parameters())


def _checked_tokenizer(folder: Path) -> Any:
    """Return the tokenizer, which gives back a sentence that it was given."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        said = tokenizer.decode(tokenizer(SENTENCE)["input_ids"], skip_special_tokens=True)
    except Exception as error:  # as above
        raise LanguageModelRefused(f"the tokenizer cannot be used: {_sentence(error)}") from error
    if "".join(said.split()).casefold() != "".join(SENTENCE.split()).casefold():
        raise LanguageModelRefused(f"the tokenizer makes {said[:100]!r} of {SENTENCE!r}")
    return tokenizer


def _stored_numbers(folder: Path) -> int:
    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 -- as above
                count += torch.Size(file.get_slice(name).get_shape()).numel()
    return count


def _free_memory() -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__} of transformers {transformers.__version__}: {text[:300]}"


def main() -> None:
    """Import what the command line names; the last line on stderr says why not."""
    give_way(NICE)
    end_with_parent()
    # Where memory ends all the same, it is this process that goes and not the daemon.
    Path("/proc/self/oom_score_adj").write_text("1000")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        import_weights(msgspec.json.decode(sys.argv[1], type=ImportSpec))
    except (BackboneRefused, LanguageModelRefused) as error:
        sys.exit(str(error).replace("\n", " "))
    except MemoryError:
        sys.exit("there is not enough memory to load it")
    except (OSError, SafetensorError) as error:
        sys.exit(f"the language model cannot be written: {error}")


if __name__ == "__main__":
    main()
