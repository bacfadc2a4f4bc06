"""Decides what the exported form of a backbone is that runs in torch: its weights as served, and what is known of them.

config.json  model.safetensors  tokenizer.json  encoder.json

The file names are a Hugging Face directory's, so that transformers reads it as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from reflexd.engine.architecture import layers_of, readable_tokens
from reflexd.engine.backbone import DESCRIPTION, STACK, EncoderDescription, ExportSpec
from reflexd.engine.layers import linear_layers
from reflexd.registry.backbones import CONFIG, FILES, LAST_TOKEN, TOKENIZER, WEIGHTS
from reflexd.registry.files import fsync_file, replace_file, sha256_file, write_durably


def write_model(spec: ExportSpec, model: Any, folder: Path, room: int = 0) -> None:
    """Write a model, in the precision that it is loaded in, to a new folder.

    `room` is how many tokens of what one forward can read are not for the text. Adapters may change every linear
    layer's weight, and an encoder's biases.
    """
    model.save_pretrained(folder, max_shard_size="100GB")
    for path in folder.iterdir():
        if path.name not in (CONFIG, WEIGHTS):  # what only generating needs
            path.unlink()
    fsync_file(folder / WEIGHTS)
    fsync_file(folder / CONFIG)
    write_durably(folder / TOKENIZER, (Path(spec.source) / TOKENIZER).read_bytes())
    linear = linear_layers(model)
    biases = {name: layer.bias.numel() for name, layer in linear.items() if layer.bias is not None}
    description = EncoderDescription(
        name=spec.name,
        fingerprint=spec.fingerprint,
        precision=spec.precision,
        stack=STACK,
        width=model.config.hidden_size,
        layers=layers_of(model),
        max_tokens=readable_tokens(model) - room,
        pooling=spec.pooling,
        biases={} if spec.pooling == LAST_TOKEN else {f"{name}.bias": size for name, size in biases.items()},
        weights={f"{name}.weight": list(layer.weight.shape) for name, layer in linear.items()},
        parameters=sum(layer.weight.numel() for layer in linear.values()),
        files={name: sha256_file(folder / name) for name in FILES},
    )
    replace_file(folder / DESCRIPTION, msgspec.json.encode(description))
