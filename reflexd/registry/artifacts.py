"""Decides what a trained model is on disk: a folder of safetensors and a manifest.json, published whole or not at all.

head.safetensors    the classifier
domain.safetensors  what tells a usual text from one that is none of the labels'; only where there were enough rows
seen.safetensors    which texts it and its ancestors were trained on, a number each; serving never reads it
rows.jsonl          some rows of each label, for a model that starts from this one; only where the operator allows it
adapter_model.safetensors, adapter_config.json
                    a tuned model's change of the encoder (engine/adapters.py), the second for a low-rank one alone
manifest.json       everything else

Nothing in it is ever unpickled, and the folder's name is random: no user's text becomes a path.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from reflexd.registry.files import TEMPORARY, new_directory, remove_directory, write_durably
from reflexd.schemas.reflex import Mode

FORMAT = 1
HEAD = "head.safetensors"
DOMAIN = "domain.safetensors"
SEEN = "seen.safetensors"
ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
ROWS = "rows.jsonl"
MANIFEST = "manifest.json"


class BackboneRef(Struct, frozen=True, kw_only=True):
    """The encoder whose embeddings a head was fitted on."""

    name: str
    fingerprint: str
    precision: str
    width: int


class Calibration(Struct, frozen=True, kw_only=True):
    """How logits become probabilities: the softmax, or each one's sigmoid, of logits / temperature."""

    method: str
    temperature: float
    rows: int


class DomainRef(Struct, frozen=True, kw_only=True):
    """How `in_domain` is found, and on how many rows its distances were measured."""

    method: str
    rows: int


class AdapterRef(Struct, frozen=True, kw_only=True):
    """Which kind of change the encoder's has (engine/adapters.py), how many numbers it is, and its rank (0: biases)."""

    kind: Literal["biases", "low_rank"]
    parameters: int
    rank: int


class HeadRef(Struct, frozen=True, kw_only=True):
    """How the head was fitted (engine/recipes.py): on which layers, how regularised, with what beside the rows."""

    features: Literal["last", "last+middle"] = "last"
    regularisation: float = 10.0
    whitened: bool = False
    names: bool = False
    base: bool = False


class Manifest(Struct, kw_only=True):
    """Everything that serving a model needs, and where it came from; `labels` are in score order."""

    format: int = FORMAT
    stack: int
    labels: list[str]
    mode: Mode
    backbone: BackboneRef
    head: HeadRef = HeadRef()
    adapter: AdapterRef | None = None
    """None where the encoder is as it came."""
    calibration: Calibration
    thresholds: list[float] = field(default_factory=list)
    """The probability from which on each label is selected; none for single_label, where the likeliest one is."""
    in_domain: DomainRef | None = None
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
    """A linear classifier: logits = weight @ features + bias; weight [labels, width or 2 * width], bias [labels].

    float32. A weight of `width` reads the first of the two layers' vectors that the encoder gives, the last layer's.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


class Domain(Struct, frozen=True):
    """Where a model's rows lie: the labels' means [means, width] and quantiles of rows' distances to them [quantiles].

    `squares` are the means' squared lengths [means]. The quantiles are evenly spaced, from the least distance to the
    greatest.
    """

    means: NDArray[np.float32]
    squares: NDArray[np.float32]
    quantiles: NDArray[np.float32]
    rows: int
    method: str


class DamagedArtifact(Exception):
    """A model's folder is missing, torn or does not match its manifest."""


def publish(
    models_dir: Path,
    model_id: str,
    head: Head,
    manifest: Manifest,
    seen: NDArray[np.uint64] | None = None,
    domain: Domain | None = None,
    more: Mapping[str, bytes] | None = None,
) -> None:
    """Write a model's folder under a temporary name, fsync it and rename it into place.

    The domain's means are stored in half precision, which moves a distance by less than a thousandth.
    `seen` are the identities of all rows that the model knows (engine/warm_start.py); None where they are not known.
    `more` are the files of the adapter and the kept rows, by name.
    """
    contents = {HEAD: save_tensors({"weight": head.weight, "bias": head.bias})}
    if seen is not None:
        contents[SEEN] = save_tensors({"texts": np.unique(seen)})
    manifest.in_domain = None
    if domain is not None:
        contents[DOMAIN] = save_tensors({"means": domain.means.astype(np.float16), "quantiles": domain.quantiles})
        manifest.in_domain = DomainRef(method=domain.method, rows=domain.rows)
    contents |= more or {}
    manifest.files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    contents[MANIFEST] = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    _write(models_dir / model_id, contents)


def read_manifest(models_dir: Path, model_id: str) -> Manifest:
    """Read what a model is; its other files are not looked at. Raises DamagedArtifact as `load` does."""
    with _damage_named():
        manifest = msgspec.json.decode((models_dir / model_id / MANIFEST).read_bytes(), type=Manifest)
    if manifest.format != FORMAT:
        raise DamagedArtifact(f"the model has format {manifest.format}, and this version reads {FORMAT}")
    return manifest


def load(models_dir: Path, model_id: str) -> tuple[Head, Manifest]:
    """Read and verify a model; raises DamagedArtifact rather than return anything that does not match."""
    manifest = read_manifest(models_dir, model_id)
    with _damage_named():
        tensors = load_tensors(_verified(models_dir / model_id, HEAD, manifest))
        head = Head(tensors["weight"], tensors["bias"])
    layers = 2 if manifest.head.features == "last+middle" else 1
    shape = (len(manifest.labels), layers * manifest.backbone.width)
    if head.weight.shape != shape or head.bias.shape != shape[:1] or head.weight.dtype != np.float32:
        raise DamagedArtifact("the head has not the shape that its manifest says")
    if len(manifest.thresholds) != (len(manifest.labels) if manifest.mode == "multi_label" else 0):
        raise DamagedArtifact("the manifest has not one threshold for each label")
    return head, manifest


def load_domain(models_dir: Path, model_id: str, manifest: Manifest) -> Domain | None:
    """Read and verify what `in_domain` needs; None where the model has none. Raises DamagedArtifact as `load` does."""
    if manifest.in_domain is None:
        return None
    with _damage_named():
        tensors = load_tensors(_verified(models_dir / model_id, DOMAIN, manifest))
        means, quantiles = tensors["means"].astype(np.float32), tensors["quantiles"].astype(np.float32)
    if means.ndim != 2 or means.shape[1] != manifest.backbone.width or not means.size or quantiles.shape < (2,):
        raise DamagedArtifact("the domain has not the shape that its manifest says")
    squares = (means * means).sum(axis=1)
    return Domain(means, squares, quantiles, manifest.in_domain.rows, manifest.in_domain.method)


def load_adapter(models_dir: Path, model_id: str, manifest: Manifest) -> bytes | None:
    """Read and verify the file of a model's adapter; None for an untuned encoder. Raises DamagedArtifact."""
    if manifest.adapter is None:
        return None
    with _damage_named():
        return _verified(models_dir / model_id, ADAPTER, manifest)


def load_adapter_config(models_dir: Path, model_id: str, manifest: Manifest) -> bytes | None:
    """Read and verify what peft needs beside an adapter's file; None where there is none. Raises DamagedArtifact."""
    if ADAPTER_CONFIG not in manifest.files:
        return None
    with _damage_named():
        return _verified(models_dir / model_id, ADAPTER_CONFIG, manifest)


def load_rows(models_dir: Path, model_id: str, manifest: Manifest) -> bytes:
    """Read and verify the rows that a model keeps, as JSON lines; none where it keeps none. Raises DamagedArtifact."""
    if ROWS not in manifest.files:
        return b""
    with _damage_named():
        return _verified(models_dir / model_id, ROWS, manifest)


def load_seen(models_dir: Path, model_id: str, manifest: Manifest) -> NDArray[np.uint64] | None:
    """Read and verify which texts a model knows, sorted; None where it does not record them.

    Raises DamagedArtifact as `load` does.
    """
    if SEEN not in manifest.files:
        return None
    with _damage_named():
        seen: NDArray[np.uint64] = load_tensors(_verified(models_dir / model_id, SEEN, manifest))["texts"]
    return seen


def adopt(models_dir: Path, source: Path) -> str:
    """Publish a verified copy of a model's folder, and return its id: the same content always has the same one.

    Raises DamagedArtifact where the folder is no whole model. What it holds beside a model is left out.
    """
    with _damage_named():
        described = (source / MANIFEST).read_bytes()
        _, manifest = load(source.parent, source.name)
        if not set(manifest.files) <= {HEAD, DOMAIN, SEEN, ADAPTER, ADAPTER_CONFIG, ROWS}:
            raise DamagedArtifact("the model names files that this version does not know")
        contents = {name: _verified(source, name, manifest) for name in manifest.files} | {MANIFEST: described}
    model_id = hashlib.sha256(described).hexdigest()[:32]
    if not _holds(models_dir / model_id, contents):
        discard(models_dir, model_id)
        _write(models_dir / model_id, contents)
    return model_id


def _write(folder: Path, contents: dict[str, bytes]) -> None:
    with new_directory(folder) as temporary:
        for name, content in contents.items():
            write_durably(temporary / name, content)


def _holds(folder: Path, contents: dict[str, bytes]) -> bool:
    return all((folder / name).is_file() and (folder / name).read_bytes() == contents[name] for name in contents)


def _verified(folder: Path, name: str, manifest: Manifest) -> bytes:
    content = (folder / name).read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest.files.get(name):
        raise DamagedArtifact(f"{name} does not match its manifest")
    return content


@contextlib.contextmanager
def _damage_named() -> Iterator[None]:
    try:
        yield
    except (OSError, msgspec.DecodeError, SafetensorError, KeyError) as error:
        raise DamagedArtifact(f"the model cannot be read: {type(error).__name__}") from error


def discard(models_dir: Path, model_id: str) -> None:
    """Remove a model's folder and its unfinished one, if there are any."""
    remove_directory(models_dir / f"{TEMPORARY}{model_id}")
    remove_directory(models_dir / model_id)
