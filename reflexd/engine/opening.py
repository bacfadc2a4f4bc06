"""Decides what loads an exported encoder: ONNX Runtime, or torch where it is a decoder's and only there."""

from __future__ import annotations

from pathlib import Path

from reflexd.engine.backbone import GRAPH
from reflexd.engine.encoder import Encoder
from reflexd.registry.backbones import WEIGHTS


def open_encoder(folder: Path, forward_threads: int | None = None) -> Encoder:
    """Load what an export has left in a folder; raises StartupError when it is not whole or cannot run here.

    `forward_threads` is on how many threads a decoder's forward may run: as many as torch is set to, without it.
    """
    if (folder / GRAPH).exists() or not (folder / WEIGHTS).exists():
        return Encoder(folder)
    import torch  # here: it takes seconds and 200 MB, which a daemon without a decoder is spared

    from reflexd.engine.decoder import Decoder

    if forward_threads is not None:
        torch.set_num_threads(forward_threads)
    return Decoder(folder)
