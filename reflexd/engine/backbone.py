"""Decides which encoder is used: finds a checkpoint's files, checks their hashes, and exports them once per precision.

An exported encoder is a folder in the cache, named by what it was made from, so that a changed file, precision or
training stack makes a new one and never changes an old one.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import msgspec
from msgspec import Struct

from reflexd.engine.lifeline import child_environment
from reflexd.errors import StartupError
from reflexd.hookspecs import Checkpoint
from reflexd.registry.artifacts import DamagedArtifact, Manifest
from reflexd.registry.files import sha256_file

STACK = 3
"""Version of the training stack: a head of another stack is not comparable and never mixed in.

Up to stack 2 low-rank adapters were merged into the weights before these were rounded; all other heads are the same.
"""
MERGED_STACK = 2

GRAPH = "model.onnx"
TOKENIZER = "tokenizer.json"
LOW_RANK_GRAPH = "low_rank.onnx"
BIASES = "biases.safetensors"
DESCRIPTION = "encoder.json"

PRECISIONS = ("int8", "fp32", "bf16")
"""A manifest's precision becomes a part of a path, so it is held against these."""
COMPARED_ROWS = 1_000
"""Jobs with so many rows are read in fp32 too, to see what int8 costs; of fewer 1.3 points would have to be lost."""


class BackboneMissing(DamagedArtifact):
    """A model is whole, and the encoder that it was trained on is not on this machine; the message says what to do."""


NO_GPU = (
    "bf16 takes a GPU, and torch sees none on this machine: use the model where there is one, or train one in another "
    "precision ([backbone] precision; a decoder is added with --cpu)"
)


class NoGpu(StartupError):
    """A backbone cannot run here, for the reason NO_GPU."""


class EncoderDescription(Struct, frozen=True, kw_only=True):
    """What an exported encoder is; `max_tokens` counts the special tokens in."""

    name: str
    fingerprint: str
    """SHA-256 over the names and hashes of the checkpoint's files and its pooling."""
    precision: str
    stack: int
    width: int
    """Of one layer's vector; the encoder gives two side by side."""
    layers: int
    """0 where the configuration does not tell."""
    max_tokens: int
    pooling: str
    biases: dict[str, int]
    """Name and size of each bias of the graph's input `biases`, in order."""
    weights: dict[str, list[int]]
    """Name and shape [out, in] of each linear layer's weight that an adapter can change."""
    parameters: int
    """Numbers in all these weights: what a token's forward costs by."""
    files: dict[str, str]
    """SHA-256 of every other file in the folder."""


class ExportSpec(Struct, kw_only=True):
    """The command line of engine/export.py, as one JSON argument."""

    name: str
    source: str
    target: str
    fingerprint: str
    precision: str
    pooling: str


class AddSpec(Struct, kw_only=True):
    """The command line of engine/registration.py; an empty `name` or `pooling` is what the files say."""

    paths: list[str]
    name: str
    pooling: str
    target: str
    cache_dir: str
    precision: str
    taken: list[str]
    """Names that are in use."""
    known: dict[str, str]
    """Names of the encoders that are there already, by fingerprint."""
    cpu: bool = False
    """Whether a decoder may run on the processor."""


def find_files(checkpoint: Checkpoint) -> Path:
    """Return the folder that holds a checkpoint's files, every given hash checked.

    The package is never imported: its files are looked up in its installed record. Raises StartupError naming what is
    missing or changed.
    """
    label = f"checkpoint {checkpoint.name}"
    if checkpoint.directory:
        folder = Path(checkpoint.directory)
    else:
        try:
            installed = distribution(checkpoint.distribution).files or []
        except PackageNotFoundError as error:
            raise StartupError(f"{label}: the package {checkpoint.distribution} is not installed") from error
        wanted = next(iter(checkpoint.files))
        found = next((f for f in installed if f.name == wanted), None)
        if found is None:
            raise StartupError(f"{label}: the package {checkpoint.distribution} holds no {wanted}")
        folder = Path(str(found.locate())).parent
    for name, expected in checkpoint.files.items():
        path = folder / name
        if not path.is_file():
            raise StartupError(f"{label}: {path} is missing")
        if expected and sha256_file(path) != expected:
            raise StartupError(f"{label}: {path} has not the sha256 it must have: reinstall {checkpoint.distribution}")
    return folder


def fingerprint(checkpoint: Checkpoint, folder: Path) -> str:
    """Return the identity of an encoder: the same bytes and pooling give the same embeddings."""
    digest = hashlib.sha256(checkpoint.pooling.encode())
    for name in sorted(checkpoint.files):
        digest.update(f"\n{name} {checkpoint.files[name] or sha256_file(folder / name)}".encode())
    return digest.hexdigest()


def exported_directory(cache_dir: Path, identity: str, precision: str) -> Path:
    """Return where the encoder with this fingerprint lies once it is exported."""
    return cache_dir / "encoders" / f"{identity[:16]}-{precision}-stack{STACK}"


def described(folder: Path) -> EncoderDescription | None:
    """Return what an exported encoder says that it is, its files unread; None where it says nothing."""
    try:
        return msgspec.json.decode((folder / DESCRIPTION).read_bytes(), type=EncoderDescription)
    except (OSError, msgspec.DecodeError):
        return None


def read_description(folder: Path) -> EncoderDescription | None:
    """Return what an exported encoder is; None when there is none or one of its files has changed."""
    found = described(folder)
    try:
        if found is None or found.stack != STACK:
            return None
        return found if all(sha256_file(folder / n) == sha256 for n, sha256 in found.files.items()) else None
    except OSError:
        return None


def incompatibility(manifest: Manifest, fingerprint: str, precision: str) -> str | None:
    """Say why a model cannot be used with the encoder of this fingerprint and precision; None where it can."""
    made_by = manifest.backbone
    is_low_rank = manifest.adapter is not None and manifest.adapter.kind == "low_rank"
    if manifest.stack != STACK and (manifest.stack != MERGED_STACK or is_low_rank):
        age = "an older" if manifest.stack < STACK else "a newer"
        return f"the model was trained by {age} training stack ({manifest.stack}, and this is {STACK})"
    if made_by.fingerprint != fingerprint:
        return f"the model was trained on {made_by.name}, and another sentence encoder is loaded"
    if made_by.precision != precision:
        return f"the model was trained on {made_by.name} in {made_by.precision}, and it is loaded in {precision}"
    return None


async def export(checkpoint: Checkpoint, source: Path, target: Path, precision: str) -> None:
    """Export an encoder in a child process (the daemon itself never imports torch); about 15 s, once.

    Raises StartupError with the child's last words when it fails; NoGpu where that is why.
    """
    spec = ExportSpec(
        name=checkpoint.name,
        source=str(source),
        target=str(target),
        fingerprint=fingerprint(checkpoint, source),
        precision=precision,
        pooling=checkpoint.pooling,
    )
    if why := await run_child("reflexd.engine.export", spec):
        raise (NoGpu if NO_GPU in why else StartupError)(f"checkpoint {checkpoint.name} cannot be exported: {why}")


async def run_child(module: str, spec: Struct) -> str | None:
    """Run a module of ours in a process of its own, which alone imports torch; return its last words if it fails.

    Cancelling the call ends the process.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        msgspec.json.encode(spec).decode(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=child_environment(PYTHONWARNINGS="ignore"),
        start_new_session=True,  # lifeline.give_way says why
    )
    assert child.stderr is not None
    try:
        # Not communicate(): since Python 3.12 it closes stdin, which is the child's lifeline.
        stderr = await child.stderr.read()
        status = await child.wait()
    except BaseException:
        child.kill()
        raise
    if not status:
        return None
    if status < 0:
        return f"its process was ended by signal {-status}; the machine may be short of memory"
    last = stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
    return last[0] if last else f"its process ended with status {status}"
