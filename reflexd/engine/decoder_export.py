"""Decides what a decoder's exported form is: its weights in the precision that is served, and what is known of them.

config.json  model.safetensors  tokenizer.json  encoder.json

The file names are a Hugging Face directory's, so that transformers reads it as it is.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import torch

from reflexd.engine.architecture import layers_of, readable_tokens
from reflexd.engine.backbone import DESCRIPTION, STACK, EncoderDescription, ExportSpec
from reflexd.engine.decoder import Decoder, load_decoder
from reflexd.engine.layers import linear_layers, pool
from reflexd.errors import StartupError
from reflexd.registry.backbones import CONFIG, FILES, TOKENIZER, WEIGHTS
from reflexd.registry.files import fsync_file, new_directory, replace_file, sha256_file, write_durably

MIN_COSINE = 0.999
SAMPLE = "I was charged twice this month"
ROOM = 32
"""Tokens of what one forward can read that are left to the invocation."""


def export_decoder(spec: ExportSpec, source: Path, target: Path) -> None:
    """Write the exported decoder to `target`, whole or not at all; raises StartupError where it cannot serve."""
    model = load_decoder(source, spec.precision)
    linear = linear_layers(model)
    with new_directory(target) as temporary:
        model.save_pretrained(temporary, max_shard_size="100GB")
        for path in temporary.iterdir():
            if path.name not in (CONFIG, WEIGHTS):  # what only generating needs
                path.unlink()
        fsync_file(temporary / WEIGHTS)
        fsync_file(temporary / CONFIG)
        write_durably(temporary / TOKENIZER, (source / TOKENIZER).read_bytes())
        description = EncoderDescription(
            name=spec.name,
            fingerprint=spec.fingerprint,
            precision=spec.precision,
            stack=STACK,
            width=model.config.hidden_size,
            layers=layers_of(model),
            max_tokens=readable_tokens(model) - ROOM,
            pooling=spec.pooling,
            biases={},
            weights={f"{name}.weight": list(layer.weight.shape) for name, layer in linear.items()},
            parameters=sum(layer.weight.numel() for layer in linear.values()),
            files={name: sha256_file(temporary / name) for name in FILES},
        )
        replace_file(temporary / DESCRIPTION, msgspec.json.encode(description))
        _check(model, Decoder(temporary))


def _check(model: torch.nn.Module, exported: Decoder) -> None:
    """Raise StartupError unless reading a text and then the invocation gives what reading both at once gives."""
    if len(exported.invocation) > ROOM:
        raise StartupError(f"its tokenizer makes {len(exported.invocation)} tokens of a short sentence")
    ids = exported.token_ids(SAMPLE)
    with torch.no_grad():
        place = next(model.parameters()).device
        hidden = model(input_ids=torch.tensor([[*ids, *exported.invocation]], device=place)).last_hidden_state
    whole = pool(hidden.float(), None, exported.description.pooling)[0].cpu().numpy()
    features = exported.forward(ids)
    cosine = float(whole @ features[: len(whole)])
    if not np.isfinite(features).all() or not cosine >= MIN_COSINE:
        raise StartupError(f"its vectors differ when a text is read in two steps (cosine {cosine:.4f})")
