"""Decides what a new model takes over from the base that its job names: the rows of labels that stay, and what it saw.

The encoder is frozen, so a model's knowledge is all in its head, and there is no adapter to reuse. The base itself is a
copy in the job's run directory (registry/runs.py) and is only read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from reflexd.engine.backbone import EncoderDescription, incompatibility
from reflexd.engine.heads import Matrix, Prior
from reflexd.errors import JobFailure
from reflexd.registry import artifacts, runs
from reflexd.registry.artifacts import DamagedArtifact
from reflexd.schemas.reflex import Mode

Identities = NDArray[np.uint64]


class Base(Struct, frozen=True):
    """What is taken over; `seen` is None where the base does not record which texts it was trained on."""

    prior: Prior
    seen: Identities | None


def read_base(run_dir: Path, labels: Sequence[str], mode: Mode, encoder: EncoderDescription) -> Base | None:
    """Return what a job takes over for its labels; None for a cold start.

    Raises JobFailure naming `base_model` where the base cannot be used with this encoder or mode, or is damaged.
    """
    if not (run_dir / runs.BASE).is_dir():
        return None
    try:
        head, manifest = artifacts.load(run_dir, runs.BASE)
        seen = artifacts.load_seen(run_dir, runs.BASE, manifest)
    except DamagedArtifact as error:
        raise JobFailure("model_unusable", f"The base model cannot be used: {error}", "base_model") from error
    problem = incompatibility(manifest, encoder.fingerprint, encoder.precision)
    if problem is None and manifest.mode != mode:
        problem = f"the model is {manifest.mode} and the rows are {mode}"
    if problem is not None:
        raise JobFailure("base_model_incompatible", f"The base model cannot be used: {problem}", "base_model")
    weight, bias = head.weight.astype(np.float64), head.bias.astype(np.float64)
    if mode == "single_label":  # a softmax does not see what all rows have alike; a new label's zeros must not either
        weight, bias = weight - weight.mean(axis=0), bias - bias.mean()
    row_of = {label: number for number, label in enumerate(manifest.labels)}
    prior = Prior(np.zeros((len(labels), weight.shape[1])), np.zeros(len(labels)))
    for number, label in enumerate(labels):
        if label in row_of:
            prior.weight[number], prior.bias[number] = weight[row_of[label]], bias[row_of[label]]
    return Base(prior, seen)


def identities(vectors: Matrix) -> Identities:
    """Return a number for each row of embeddings [rows, width], in order: the first 8 bytes of its SHA-256.

    Of the vectors and not of the texts: what the encoder cannot tell apart (case, blanks, accents, blanks before a
    question mark) is one row to the head. A base has the same encoder, and a text has one vector whatever surrounds it.
    """
    digests = b"".join(hashlib.sha256(vector.tobytes()).digest()[:8] for vector in vectors)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
