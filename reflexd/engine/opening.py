"""Decides what loads an exported encoder: ONNX Runtime, or torch for a decoder or in bf16, and only there."""

from __future__ import annotations

from pathlib import Path

from reflexd.engine.backbone import described
from reflexd.engine.encoder import Encoder
from reflexd.registry.backbones import LAST_TOKEN


def open_encoder(folder: Path, forward_threads: int | None = None) -> Encoder:
    """Load what an export has left in a folder.

    Raises StartupError when it is not whole or cannot run here; NoGpu, one of these, where that takes a GPU.
    `forward_threads` is on how many threads a forward in torch may run: as many as torch is set to, without it.
    """
    about = described(folder)
    if about is None or (about.pooling != LAST_TOKEN and about.precision != "bf16"):
        return Encoder(folder)
    import torch  # here: it takes seconds and 200 MB, which a daemon that serves nothing in it is spared

    from reflexd.engine.decoder import Decoder
    from reflexd.engine.torch_encoder import TorchEncoder

    if forward_threads is not None:
        torch.set_num_threads(forward_threads)
    return (Decoder if about.pooling == LAST_TOKEN else TorchEncoder)(folder)
