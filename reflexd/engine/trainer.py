"""Decides the training recipe: a regularised linear head on the frozen encoder's embeddings.

The result depends on the rows, the base model where there is one, and the seed alone.
"""

from __future__ import annotations

import functools
import importlib.metadata
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reflexd.engine.backbone import STACK
from reflexd.engine.calibration import calibrate
from reflexd.engine.dataset import data_sha256, distinct, labels_of
from reflexd.engine.encoder import Encoder
from reflexd.engine.evaluation import THRESHOLD, HeldOut, hold_out, label_counts, report
from reflexd.engine.heads import Matrix, Targets, fit_head
from reflexd.engine.warm_start import Base, Identities, identities, read_base
from reflexd.hookspecs import Example
from reflexd.registry import artifacts
from reflexd.registry.artifacts import BackboneRef, Calibration, Manifest
from reflexd.schemas.reflex import Mode
from reflexd.schemas.worker import Message, Metrics, RunSpec, Trained

PROGRESS_EVERY_SECONDS = 2.0
PACKAGES = ("reflexd", "torch", "transformers", "onnxruntime", "scikit-learn", "numpy", "tokenizers")

Emit = Callable[[Message | Metrics], None]


def train(
    spec: RunSpec,
    rows: Sequence[Example],
    labels: list[str],
    encoder: Encoder,
    emit: Emit,
    mode: Mode = "single_label",
) -> Trained:
    """Train, score and publish a classifier; return what the daemon records.

    Raises JobFailure where the run directory holds a base model that cannot be started from.
    """
    base = read_base(Path(spec.run_dir), labels, mode, encoder.description)
    prior = None if base is None else base.prior
    used = distinct(rows)
    vectors, tokens, windowed = encoder.embed_all([row.text for row in used], spec.threads, _progress(len(used), emit))
    targets, known = targets_of(used, labels, mode), identities(vectors)
    kept = _one_of_each(vectors, targets)
    vectors, targets, seen = vectors[kept], targets[kept], _seen(base, known[kept])
    _warn(emit, len(rows) - len(kept), targets, labels, windowed, encoder.description.max_tokens)
    held = hold_out(vectors, targets, len(labels), lambda x, y: fit_head(x, y, len(labels), prior), spec.seed, seen)
    calibration = calibrate(held)
    result = report(held, targets, labels, calibration, _tell_unscored(emit, base, seen, held))
    _tell_score(emit, result, calibration)
    head = fit_head(vectors, targets, len(labels), prior, emit)
    about = encoder.description
    backbone = BackboneRef(name=about.name, fingerprint=about.fingerprint, precision=about.precision, width=about.width)
    manifest = Manifest(
        stack=STACK,
        labels=labels,
        mode=mode,
        backbone=backbone,
        calibration=calibration,
        thresholds=[THRESHOLD] * len(labels) if mode == "multi_label" else [],
        data_sha256=data_sha256(rows),
        examples=len(rows),
        seed=spec.seed,
        packages=_versions(),
        lineage=spec.lineage,
        result=result,
        created_at=int(time.time()),
    )
    artifacts.publish(Path(spec.models_dir), spec.model_id, head, manifest, _known_from_now_on(base, known))
    return Trained(
        labels=labels,
        mode=manifest.mode,
        examples=len(rows),
        tokens=tokens,
        backbone=backbone.name,
        precision=backbone.precision,
        result=result,
    )


@functools.cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def targets_of(rows: Sequence[Example], labels: Sequence[str], mode: Mode) -> Targets:
    """Return the truth of checked rows, their labels numbered by their place in `labels`."""
    number_of = {label: number for number, label in enumerate(labels)}
    if mode == "single_label":
        return np.array([number_of[labels_of(row)[0]] for row in rows], dtype=np.int64)
    members = np.zeros((len(rows), len(labels)), dtype=np.bool_)
    for row, line in zip(rows, members, strict=True):
        line[[number_of[label] for label in labels_of(row)]] = True
    return members


def _one_of_each(vectors: Matrix, targets: Targets) -> NDArray[np.int64]:
    """Return the places of rows whose vector and truth do not stand before.

    Texts that differ in case or blanks alone are one to the encoder. Left in, they would stand on both sides of a
    held-out split and make its score a lie.
    """
    first: dict[tuple[bytes, bytes], int] = {}
    for position, (vector, truth) in enumerate(zip(vectors, targets, strict=True)):
        first.setdefault((vector.tobytes(), truth.tobytes()), position)
    return np.fromiter(first.values(), dtype=np.int64)


def _seen(base: Base | None, known: Identities) -> NDArray[np.bool_]:
    """Return which rows the base has been trained on; where it does not say, any of them may be."""
    if base is None:
        return np.zeros(len(known), dtype=np.bool_)
    return np.ones(len(known), dtype=np.bool_) if base.seen is None else np.isin(known, base.seen)


def _known_from_now_on(base: Base | None, known: Identities) -> Identities | None:
    if base is None:
        return known
    return None if base.seen is None else np.union1d(base.seen, known)


def _warn(emit: Emit, repeated: int, targets: Targets, labels: list[str], windowed: int, limit: int) -> None:
    if repeated:
        emit(Message(f"{repeated} rows repeat another one and count once", "warn"))
    unscored = [label for label, count in zip(labels, label_counts(targets, len(labels)), strict=True) if count < 2]
    if unscored:
        emit(Message(f"Not scored, for want of a second different row: {', '.join(unscored[:5])}", "warn"))
    if windowed:
        emit(Message(f"{windowed} rows are longer than {limit} tokens and were read in several windows", "warn"))


def _tell_unscored(emit: Emit, base: Base | None, seen: NDArray[np.bool_], held: HeldOut | None) -> str:
    """Tell of rows that cannot be scored because of the base; return why there is no score where there is none."""
    if not seen.any():
        return "too few different rows to spare one"
    why = f"the base model was trained on {int(seen.sum())} of the {len(seen)} rows"
    if base is not None and base.seen is None:
        why = "the base model does not record the texts that it was trained on"
    said = "they are not scored" if held is not None else "nothing is left to score honestly"
    emit(Message(f"{why[0].upper()}{why[1:]}: {said}", "warn"))
    return why


def _tell_score(emit: Emit, result: dict[str, Any], calibration: Calibration) -> None:
    if result["n"]:
        named = ("accuracy", "accuracy_of", "f1_score", "micro_f1", "n", "interval", "method")
        low, high = result["interval"]
        of = f" of {result['accuracy_of']}" if "accuracy_of" in result else ""
        interval = f"95 % interval {low:.2f} to {high:.2f}, {result['n']} rows"
        said = f"Held-out accuracy{of} {result['accuracy']:.3f} ({interval})"
        emit(Message(said, data={name: result[name] for name in named if name in result}))
    if calibration.method == "none":
        emit(Message("Too few rows to calibrate: confidences are uncalibrated", "warn"))


def _progress(total: int, emit: Emit) -> Callable[[int], None]:
    last = time.monotonic()

    def tell(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_EVERY_SECONDS and done < total:
            last = time.monotonic()
            emit(Message(f"Read {done} of {total} texts", data={"done": done, "total": total}))

    return tell
