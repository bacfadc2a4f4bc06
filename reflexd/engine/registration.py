"""Decides what becomes a backbone: its files are copied, loaded, checked and exported once before it counts.

It is a process of its own: it imports torch, and reads what strangers made.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers.utils import logging

from reflexd.engine import architecture
from reflexd.engine.backbone import (
    DESCRIPTION,
    AddSpec,
    ExportSpec,
    exported_directory,
    fingerprint,
    read_description,
)
from reflexd.engine.backbone_files import MAX_WEIGHT_BYTES, TOKENIZER_SOURCES, Found, open_files
from reflexd.engine.export import export
from reflexd.engine.lifeline import end_with_parent, give_way
from reflexd.engine.opening import open_encoder
from reflexd.errors import BackboneRefused, StartupError
from reflexd.hookspecs import Checkpoint
from reflexd.registry.backbones import CONFIG, FILES, LAST_TOKEN, TOKENIZER, WEIGHTS, AddedBackbone, write_record
from reflexd.registry.files import fsync_file, new_directory, replace_file, sha256_file

NICE = 10
"""Predictions go on meanwhile, and come first."""
MAX_NAME = 64


def add(spec: AddSpec) -> None:
    """Publish the backbone's folder `spec.target`, whole or not at all; raises BackboneRefused naming what is wrong."""
    with new_directory(Path(spec.target)) as folder:
        with open_files([Path(path) for path in spec.paths], folder) as found:
            name = checked_name(spec.name or found.name, spec.taken)
            asked, license_named = spec.pooling or found.pooling(), found.license()
            _stage(found, folder)
        encoder = architecture.load_checked(folder)
        decoder = architecture.is_decoder(encoder)
        architecture.check_tokenizer(folder / TOKENIZER, encoder, decoder)
        pooling, precision = terms_of_decoder(spec) if decoder else (asked, "")
        if not decoder and asked == LAST_TOKEN:
            raise BackboneRefused("its authors pool the last token, and it is an encoder: choose with --pooling")
        files = {file: sha256_file(folder / file) for file in FILES}
        checkpoint = Checkpoint(name=name, directory=str(folder), files=files, license=license_named, pooling=pooling)
        identity = fingerprint(checkpoint, folder)
        if identity in spec.known:
            raise BackboneRefused(f"this encoder is there already: its name is {spec.known[identity]}")
        record = AddedBackbone(
            name=name,
            fingerprint=identity,
            pooling=pooling,
            precision=precision,
            license=license_named,
            kind="decoder" if decoder else "encoder",
            width=encoder.config.hidden_size,
            layers=architecture.layers_of(encoder),
            max_tokens=architecture.readable_tokens(encoder),
            files=files,
            created_at=int(time.time()),
        )
        del encoder  # exporting loads it again
        _export(spec, record, folder)
        write_record(folder, record)


def terms_of_decoder(spec: AddSpec) -> tuple[str, str]:
    """Return a decoder's pooling and its precision, which says where it runs; raises BackboneRefused."""
    if spec.pooling:
        raise BackboneRefused(f"--pooling {spec.pooling}: it is a decoder, and of these the last token is read")
    if spec.cpu:
        return LAST_TOKEN, "fp32"
    if not torch.cuda.is_available():
        raise BackboneRefused(
            f"{CONFIG}: it is a decoder (its tokens do not see those after them), and torch sees no GPU. "
            "With --cpu it runs on the processor, at a tenth of a second a text or more"
        )
    return LAST_TOKEN, "bf16"


def checked_name(name: str, taken: list[str]) -> str:
    """Return a name that a backbone may have; raises BackboneRefused."""
    if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > MAX_NAME:
        raise BackboneRefused(f"{name!r} is no name of 1 to {MAX_NAME} printable characters: choose one with --name")
    if name in taken:
        raise BackboneRefused(f"there is a backbone {name} already: choose another name with --name")
    return name


def _stage(found: Found, folder: Path) -> None:
    """Copy the files that count, and make of shards one file and of older tokenizers a tokenizer.json."""
    if CONFIG not in found:
        raise BackboneRefused(f"{found.where} has no {CONFIG}")
    found.json(CONFIG)
    names = found.shards()
    found.copy(CONFIG, folder / CONFIG)
    found.stage_tokenizer(folder)
    shards = [folder / f"shard-{number}" for number in range(len(names))]
    for name, shard in zip(names, shards, strict=True):
        found.copy(name, shard, MAX_WEIGHT_BYTES)
    if len(shards) == 1:
        shards[0].rename(folder / WEIGHTS)
    else:
        _merge(shards, folder / WEIGHTS)
    if TOKENIZER not in found:
        architecture.make_tokenizer(folder)
        fsync_file(folder / TOKENIZER)
        for name in TOKENIZER_SOURCES:
            (folder / name).unlink(missing_ok=True)


def _merge(shards: list[Path], target: Path) -> None:
    tensors = {}
    for shard in shards:
        try:
            with safe_open(shard, framework="pt") as file:
                names = file.keys()  # it is no mapping and cannot be walked itself
                tensors.update({name: file.get_tensor(name) for name in names})
        except SafetensorError as error:
            raise BackboneRefused(f"a shard of the weights is no safetensors file: {error}") from error
    save_file(tensors, target, metadata={"format": "pt"})
    fsync_file(target)
    for shard in shards:
        shard.unlink()


def _export(spec: AddSpec, record: AddedBackbone, folder: Path) -> None:
    """Export it, and let it read as long a text as it says it can."""
    precision = record.precision or spec.precision
    target = exported_directory(Path(spec.cache_dir), record.fingerprint, precision)
    try:
        export(
            ExportSpec(
                name=record.name,
                source=str(folder),
                target=str(target),
                fingerprint=record.fingerprint,
                precision=precision,
                pooling=record.pooling,
            )
        )
    except Exception as error:  # whatever a stranger's architecture makes the exporter raise
        said = " ".join(str(error).split())[:300]
        raise BackboneRefused(f"it cannot be exported in {precision}: {said or type(error).__name__}") from error
    about = read_description(target)
    if about is not None and about.name != record.name:  # the cache has it under an earlier name
        replace_file(target / DESCRIPTION, msgspec.json.encode(msgspec.structs.replace(about, name=record.name)))
    encoder = open_encoder(target)
    longest = encoder.windows(encoder.token_ids("word " * 2 * record.max_tokens))[0]
    try:
        encoder.forward(longest)
    except Exception as error:  # as above
        said = " ".join(str(error).split())[:300]
        raise BackboneRefused(f"{CONFIG}: it cannot read {len(longest)} tokens at once: {said}") from error


def main() -> None:
    """Add what the command line names; the last line on stderr says why not."""
    give_way(NICE)
    end_with_parent()
    logging.set_verbosity_error()
    try:
        add(msgspec.json.decode(sys.argv[1], type=AddSpec))
    except (BackboneRefused, StartupError) as error:
        sys.exit(str(error).replace("\n", " "))
    except OSError as error:
        sys.exit(f"the backbone cannot be written: {error}")


if __name__ == "__main__":
    main()
