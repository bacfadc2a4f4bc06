"""Decides the training recipe: a regularised linear head on the frozen encoder's embeddings.

C = 10 on unit vectors was the best of the measured regularisers on intents and topics. The result depends on the rows
and the seed alone.
"""

from __future__ import annotations

import functools
import importlib.metadata
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from reflexd.engine.backbone import STACK
from reflexd.engine.dataset import data_sha256, distinct
from reflexd.engine.encoder import Encoder
from reflexd.engine.evaluation import Classes, Matrix, calibrate, hold_out, report
from reflexd.hookspecs import Example
from reflexd.registry import artifacts
from reflexd.registry.artifacts import BackboneRef, Head, Manifest
from reflexd.schemas.worker import Message, Metrics, RunSpec, Trained

REGULARISATION = 10.0
ROUNDS = (2, 4, 8, 16, 32, 64, 128, 256)
"""L-BFGS iterations of each round; the loss is reported between rounds."""
PROGRESS_EVERY_SECONDS = 2.0
PACKAGES = ("reflexd", "torch", "transformers", "onnxruntime", "scikit-learn", "numpy", "tokenizers")

Emit = Callable[[Message | Metrics], None]


def train(spec: RunSpec, rows: Sequence[Example], labels: list[str], encoder: Encoder, emit: Emit) -> Trained:
    """Train, score and publish a classifier; return what the daemon records."""
    used = distinct(rows)
    number_of = {label: number for number, label in enumerate(labels)}
    classes = np.array([number_of[row.label] for row in used], dtype=np.int64)
    vectors, tokens, windowed = encoder.embed_all([row.text for row in used], spec.threads, _progress(len(used), emit))
    vectors, classes = _one_of_each(vectors, classes)
    if len(classes) < len(rows):
        emit(Message(f"{len(rows) - len(classes)} rows repeat another one and count once", "warn"))
    unscored = [label for label, count in zip(labels, np.bincount(classes), strict=True) if count < 2]
    if unscored:
        emit(Message(f"Not scored, for want of a second different row: {', '.join(unscored[:5])}", "warn"))
    if windowed:
        limit = encoder.description.max_tokens
        emit(Message(f"{windowed} rows are longer than {limit} tokens and were read in several windows", "warn"))
    held = hold_out(vectors, classes, len(labels), lambda x, y: fit_head(x, y, len(labels)), spec.seed)
    calibration = calibrate(held)
    result = report(held, classes, labels, calibration)
    if held is not None:
        scores = {name: result[name] for name in ("accuracy", "f1_score", "n", "interval", "method")}
        low, high = result["interval"]
        said = f"Held-out accuracy {result['accuracy']:.3f} (95 % interval {low:.2f} to {high:.2f}, {result['n']} rows)"
        emit(Message(said, data=scores))
    if calibration.method == "none":
        emit(Message("Too few rows to calibrate: confidences are uncalibrated", "warn"))
    head = fit_head(vectors, classes, len(labels), emit)
    about = encoder.description
    backbone = BackboneRef(name=about.name, fingerprint=about.fingerprint, precision=about.precision, width=about.width)
    manifest = Manifest(
        stack=STACK,
        labels=labels,
        mode="single_label",
        backbone=backbone,
        calibration=calibration,
        data_sha256=data_sha256(rows),
        examples=len(rows),
        seed=spec.seed,
        packages=_versions(),
        lineage=spec.lineage,
        result=result,
        created_at=int(time.time()),
    )
    artifacts.publish(Path(spec.models_dir), spec.model_id, head, manifest)
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


def _one_of_each(vectors: Matrix, classes: Classes) -> tuple[Matrix, Classes]:
    """Drop rows whose vector and class stand before: texts that differ in case or blanks alone are one to the encoder.

    Left in, they would stand on both sides of a held-out split and make its score a lie.
    """
    first: dict[tuple[bytes, int], int] = {}
    for position, (vector, number) in enumerate(zip(vectors, classes, strict=True)):
        first.setdefault((vector.tobytes(), int(number)), position)
    kept = np.fromiter(first.values(), dtype=np.int64)
    return vectors[kept], classes[kept]


def fit_head(vectors: Matrix, classes: Classes, labels: int, emit: Emit | None = None) -> Head:
    """Fit a multinomial logistic regression and return it with one row a label, whatever rows were given.

    With `emit` the training loss goes out between rounds. A label without rows gets a bias that never wins.
    """
    present = np.unique(classes)
    model: Any = LogisticRegression(C=REGULARISATION, warm_start=True)
    step = 0
    for number, iterations in enumerate(ROUNDS if emit is not None else (sum(ROUNDS),), 1):
        model.max_iter = iterations
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(vectors, classes)
        step += int(model.n_iter_[0])
        if emit is not None:
            loss = float(log_loss(classes, model.predict_proba(vectors), labels=present))
            emit(Metrics(f"Step {step}: train_loss {loss:.4f}", {"epoch": number, "step": step, "train_loss": loss}))
        if int(model.n_iter_[0]) < iterations:
            break
    weight, bias = model.coef_, model.intercept_
    if len(present) == 2:  # scikit-learn keeps one row for two classes: the difference of their logits
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    full_weight = np.zeros((labels, vectors.shape[1]), dtype=np.float32)
    full_bias = np.full(labels, -1e9, dtype=np.float32)
    full_weight[present], full_bias[present] = weight, bias
    return Head(full_weight, full_bias)


def _progress(total: int, emit: Emit) -> Callable[[int], None]:
    last = time.monotonic()

    def tell(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_EVERY_SECONDS and done < total:
            last = time.monotonic()
            emit(Message(f"Read {done} of {total} texts", data={"done": done, "total": total}))

    return tell
