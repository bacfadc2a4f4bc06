"""Decides when a decoder's exported form is good: reading a text in two steps gives what reading it at once gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from reflexd.engine.backbone import ExportSpec
from reflexd.engine.decoder import Decoder
from reflexd.engine.layers import pool
from reflexd.engine.torch_backbone import load_model
from reflexd.engine.torch_export import write_model
from reflexd.errors import StartupError
from reflexd.registry.files import new_directory

MIN_COSINE = 0.999
SAMPLE = "I was charged twice this month"
ROOM = 32
"""Tokens of what one forward can read that are left to the invocation."""


def export_decoder(spec: ExportSpec, source: Path, target: Path) -> None:
    """Write the exported decoder to `target`, whole or not at all; raises StartupError where it cannot serve."""
    model = load_model(source, spec.precision)
    with new_directory(target) as temporary:
        write_model(spec, model, temporary, ROOM)
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
