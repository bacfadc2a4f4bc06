"""Decides what a new model takes over from the base that its job names: adapter, rows of labels, replay, what it saw.

The base itself is a copy in the job's run directory (registry/runs.py) and is only read. The head's rows of labels that
stay are offered as the prior mean of the new ones; held-out rows decide whether it is used (recipes.py). An adapter
that has moved the encoder far is taken over in part where the job has labels that the base does not. Where the base
keeps rows, a few times as many of each of its labels are learned again as a label of the job has new ones. They shift
no label's share (material.py); the head still leans to their labels, and is set upright (upright.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from reflexd.engine.adapters import Adapter, read_adapter
from reflexd.engine.backbone import EncoderDescription, incompatibility
from reflexd.engine.budget import FEW_ROWS
from reflexd.engine.dataset import labels_of
from reflexd.engine.heads import Matrix, Prior
from reflexd.errors import JobFailure
from reflexd.hookspecs import Example
from reflexd.registry import artifacts, runs
from reflexd.registry.artifacts import DamagedArtifact, HeadRef
from reflexd.schemas.reflex import Mode

Identities = NDArray[np.uint64]

MOST_MOVED = 6.5e-4
"""What a low-rank adapter adds to a weight, in the root mean square, beyond which it may have drawn its own labels so
close together that what tells others apart is lost: benchmarks/README.md has the figures, of all-MiniLM-L6-v2 alone.
After Ash and Adams, On Warm-Starting Neural Network Training, 2020. Biases that moved far had lost nothing, and a
decoder's adapter was not measured."""
REPLAYED = 3
"""Kept rows of a label that are learned again for each new row that a label has; six did no better."""


class Base(Struct, frozen=True):
    """What is taken over; `seen` is None where the base does not record which texts it was trained on."""

    prior: Prior
    seen: Identities | None
    recipe: HeadRef
    adapter: Adapter | None
    strength: float
    """The share of what the base's adapter adds that is taken over."""
    kept: list[Example]
    """Rows that the base keeps, of any of its labels."""
    knew: NDArray[np.bool_]
    """Which of the job's labels the base has [labels]."""


def read_base(run_dir: Path, labels: Sequence[str], mode: Mode, encoder: EncoderDescription) -> Base | None:
    """Return what a job takes over for its labels, its adapter weakened where it is; None for a cold start.

    The prior's weights [labels, width or 2 * width] are of the features as they come. Raises JobFailure naming
    `base_model` where the base cannot be used with this encoder or mode, or is damaged.
    """
    if not (run_dir / runs.BASE).is_dir():
        return None
    try:
        head, manifest = artifacts.load(run_dir, runs.BASE)
        seen = artifacts.load_seen(run_dir, runs.BASE, manifest)
        adapter = read_adapter(run_dir, runs.BASE, manifest)
        strength = _strength(adapter, set(labels) <= set(manifest.labels))
        kept = msgspec.json.Decoder(Example).decode_lines(artifacts.load_rows(run_dir, runs.BASE, manifest))
    except (DamagedArtifact, msgspec.DecodeError) as error:
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
    if adapter is not None and strength < 1:
        adapter = adapter.weakened(strength)
    knew = np.array([label in row_of for label in labels], np.bool_)
    return Base(prior, seen, manifest.head, adapter, strength, kept, knew)


def _strength(adapter: Adapter | None, knew_all: bool) -> float:
    """Return the share of an adapter that is taken over; all of it where the job has no new label.

    Raises DamagedArtifact where that cannot be told.
    """
    if adapter is None or adapter.invocation or knew_all:
        return 1.0
    try:
        moved = adapter.movement()
    except (KeyError, ValueError) as error:
        raise DamagedArtifact(f"the adapter's two halves of {error.args[0]} do not fit") from error
    return MOST_MOVED / moved if moved > MOST_MOVED else 1.0


def replay(base: Base, rows: Sequence[Example], labels: Sequence[str], seed: int) -> list[Example]:
    """Return kept rows of the base for a job's labels, REPLAYED for each new row that a label has on average.

    They are fewer, though not fewer than those new ones, where a job of few rows would become one of many by them. Rows
    with a label that the job does not have are left out, and so are texts that the job has itself.
    """
    texts = {row.text for row in rows}
    new = -(-sum(len(labels_of(row)) for row in rows) // len(labels))
    fitting = [row for row in base.kept if row.text not in texts]
    most = REPLAYED * new
    if len(rows) <= FEW_ROWS:
        most = max(new, min(most, (FEW_ROWS - len(rows)) // max(int(base.knew.sum()), 1)))
    return _drawn(fitting, labels, most, seed)


def to_keep(rows: Sequence[Example], labels: Sequence[str], most: int, seed: int) -> list[Example]:
    """Return at most `most` different rows of each label for the model to keep; none with a label it does not have."""
    return _drawn(rows, labels, most, seed)


def _drawn(rows: Sequence[Example], labels: Sequence[str], most: int, seed: int) -> list[Example]:
    """Return different rows, drawn by lot, whose labels are all among `labels`: at most `most` of each, and of none."""
    known = set(labels)
    fitting = [row for row in dict.fromkeys(rows) if known.issuperset(labels_of(row))]
    room: dict[str | None, int] = dict.fromkeys([None, *labels], most)
    out = []
    for number in np.random.default_rng(seed).permutation(len(fitting)):
        own = labels_of(fitting[number]) or (None,)
        if all(room[label] > 0 for label in own):
            out.append(fitting[number])
            for label in own:
                room[label] -= 1
    return out


def identities(vectors: Matrix) -> Identities:
    """Return a number for each row of vectors [rows, width], in order: the first 8 bytes of its SHA-256.

    Of the untouched encoder's vectors and not of the texts: what the encoder cannot tell apart (case, blanks, accents,
    blanks before a question mark) is one row to the head. A base has the same encoder, and a text has one vector
    whatever surrounds it.
    """
    digests = b"".join(hashlib.sha256(vector.tobytes()).digest()[:8] for vector in vectors)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
