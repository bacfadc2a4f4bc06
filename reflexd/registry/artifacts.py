"""Decides what a trained model is on disk: a folder of safetensors and a manifest.json, published whole or not at all.

Nothing in it is ever unpickled, and the folder's name is random: no user's text becomes a path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from reflexd.registry.files import TEMPORARY, new_directory, remove_directory, sha256_file, write_durably

FORMAT = 1
HEAD = "head.safetensors"
MANIFEST = "manifest.json"


class BackboneRef(Struct, frozen=True, kw_only=True):
    """The encoder whose embeddings a head was fitted on."""

    name: str
    fingerprint: str
    precision: str
    width: int


class Calibration(Struct, frozen=True, kw_only=True):
    """How logits become probabilities: softmax(logits / temperature)."""

    method: str
    temperature: float
    rows: int


class Manifest(Struct, kw_only=True):
    """Everything that serving a model needs, and where it came from; `labels` are in score order."""

    format: int = FORMAT
    stack: int
    labels: list[str]
    mode: str
    backbone: BackboneRef
    calibration: Calibration
    data_sha256: str
    examples: int
    seed: int
    packages: dict[str, str]
    lineage: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    created_at: int
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every other file in the folder."""


class Head(Struct, frozen=True):
    """A linear classifier: logits = weight @ embedding + bias; weight [labels, width], bias [labels], float32."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


class DamagedArtifact(Exception):
    """A model's folder is missing, torn or does not match its manifest."""


def publish(models_dir: Path, model_id: str, head: Head, manifest: Manifest) -> None:
    """Write a model's folder under a temporary name, fsync it and rename it into place."""
    with new_directory(models_dir / model_id) as temporary:
        write_durably(temporary / HEAD, save_tensors({"weight": head.weight, "bias": head.bias}))
        manifest.files = {HEAD: sha256_file(temporary / HEAD)}
        write_durably(temporary / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1))


def load(models_dir: Path, model_id: str) -> tuple[Head, Manifest]:
    """Read and verify a model; raises DamagedArtifact rather than return anything that does not match."""
    folder = models_dir / model_id
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
        content = (folder / HEAD).read_bytes()
        if manifest.format != FORMAT or sha256_file(folder / HEAD) != manifest.files.get(HEAD):
            raise DamagedArtifact("the head does not match its manifest")
        tensors = load_tensors(content)
        head = Head(tensors["weight"], tensors["bias"])
    except (OSError, msgspec.DecodeError, SafetensorError, KeyError) as error:
        raise DamagedArtifact(f"the model cannot be read: {type(error).__name__}") from error
    shape = (len(manifest.labels), manifest.backbone.width)
    if head.weight.shape != shape or head.bias.shape != shape[:1] or head.weight.dtype != np.float32:
        raise DamagedArtifact("the head has not the shape that its manifest says")
    return head, manifest


def discard(models_dir: Path, model_id: str) -> None:
    """Remove a model's folder and its unfinished one, if there are any."""
    remove_directory(models_dir / f"{TEMPORARY}{model_id}")
    remove_directory(models_dir / model_id)
