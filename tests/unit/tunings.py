"""Decides how unit tests come by adapters and tunings: real weights of the embedded encoder, moved a little by lot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from reflexd.engine import backbone
from reflexd.engine.adapters import Adapter, Kind
from reflexd.engine.encoder import Encoder
from reflexd.engine.tunable import TunableEncoder
from reflexd.registry import artifacts
from reflexd.registry.artifacts import BackboneRef, Calibration, Head, Manifest
from reflexd_plugins.checkpoints import MINILM


def weights() -> Path:
    """Return the folder of the embedded encoder's weights."""
    return backbone.find_files(MINILM)


def moved(kind: Kind, seed: int) -> tuple[TunableEncoder, Adapter]:
    """Return an encoder whose trained weights stand elsewhere than they came, and the adapter that says so."""
    encoder = TunableEncoder(weights(), MINILM.pooling, kind)
    lot = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in encoder.trained.items():
            if "lora_A" not in name:  # as it is drawn: it stands for nothing while lora_B is zero
                parameter.add_(torch.randn(parameter.shape, generator=lot) * 0.1)
    adapter = encoder.adapter()
    encoder.reset(adapter)  # as it is stored, in half precision
    return encoder, adapter


def publish_tuned(models: Path, name: str, encoder: Encoder, adapter: Adapter, files: dict[str, bytes]) -> None:
    """Write a model of two labels that carries `files` as its adapter."""
    about, random = encoder.description, np.random.default_rng(0)
    manifest = Manifest(
        stack=backbone.STACK,
        labels=["a", "b"],
        mode="single_label",
        backbone=BackboneRef(
            name=about.name, fingerprint=about.fingerprint, precision=about.precision, width=about.width
        ),
        adapter=adapter.reference(),
        calibration=Calibration(method="none", temperature=1.0, rows=0),
        data_sha256="",
        examples=10,
        seed=1,
        packages={},
        created_at=0,
    )
    head = Head(random.normal(size=(2, about.width)).astype(np.float32), np.zeros(2, np.float32))
    artifacts.publish(models, name, head, manifest, more=files)
