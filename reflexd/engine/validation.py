"""Decides how a finished model is scored on rows that its user gives for that: as it is served, on texts new to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from reflexd.engine.baseline import tfidf
from reflexd.engine.calibration import probabilities
from reflexd.engine.dataset import labels_of
from reflexd.engine.diagnosis import MOST_LABELS, Finding
from reflexd.engine.encoder import Encoder
from reflexd.engine.evaluation import HeldOut
from reflexd.engine.heads import Matrix, Targets, logits_of
from reflexd.engine.material import Emit, Material, targets_of
from reflexd.engine.reliability import served_confidences
from reflexd.engine.result import report
from reflexd.engine.warm_start import Base, identities
from reflexd.hookspecs import Example
from reflexd.registry.artifacts import Calibration, Head
from reflexd.schemas.reflex import Mode
from reflexd.schemas.worker import Message, headline

METHOD = "validation_file"
NEVER = -1e9
"""Logit of a label that the model does not have."""


class Finished(Struct, frozen=True):
    """A model as it will be served: the untouched encoder and as the model changes it, its head, how it decides."""

    untouched: Encoder
    encoder: Encoder
    head: Head
    calibration: Calibration
    thresholds: Sequence[float]
    labels: list[str]
    mode: Mode
    threads: int


def validated(
    model: Finished, rows: Sequence[Example], material: Material, base: Base | None, result: dict[str, Any], emit: Emit
) -> dict[str, Any]:
    """Return a job's `result` with the score on `rows`, and what held-out rows had said under `cross_validated`.

    Left out, and counted by a warning, are rows that say what a row of the training says. One with a label that the
    model does not have counts as wrong. Where no row is left the result stays as it was.
    """
    vectors = model.untouched.embed_all([row.text for row in rows], model.threads)[0]
    known = _known(vectors[:, : model.untouched.description.width], material, base)
    fresh = [row for row, seen in zip(rows, known, strict=True) if not seen]
    findings = _findings(model, int(known.sum()), fresh, base)
    for finding in findings:
        emit(Message(finding.message, "warn", {"code": finding.code, "labels": finding.labels, "rows": finding.rows}))
    warnings = [*msgspec.to_builtins(findings), *result["warnings"]]
    if not fresh:
        return {**result, "warnings": warnings}
    features = vectors[~known]
    if model.encoder is not model.untouched:
        features = model.encoder.embed_all([row.text for row in fresh], model.threads)[0]
    found = _score(model, fresh, features, material)
    _tell(found, emit)
    return {**found, "recipe": result["recipe"], "cross_validated": headline(result), "warnings": warnings}


def _known(vectors: Matrix, material: Material, base: Base | None) -> NDArray[np.bool_]:
    """Return which texts the model, or what it started from, was trained on, as far as that is recorded."""
    found = identities(vectors)
    seen: NDArray[np.bool_] = np.isin(found, material.known)
    return seen if base is None or base.seen is None else seen | np.isin(found, base.seen)


def _score(model: Finished, rows: Sequence[Example], features: Matrix, material: Material) -> dict[str, Any]:
    own = set(model.labels)
    foreign = list(dict.fromkeys(label for row in rows for label in labels_of(row) if label not in own))
    labels = [*model.labels, *foreign]
    logits = np.full((len(rows), len(labels)), NEVER, np.float32)
    logits[:, : len(model.labels)] = logits_of(model.head, features)
    truth = targets_of(rows, labels, model.mode)
    places, folds = np.arange(len(rows)), np.zeros(len(rows), np.int64)
    held = HeldOut(logits=logits, truth=truth, method=METHOD, places=places, folds=folds)
    return report(
        held,
        truth,
        labels,
        model.calibration,
        "",
        _decisions(model, logits),
        _rival(model, rows, held, material),
        partial(served_confidences, temperature=model.calibration.temperature),
    )


def _decisions(model: Finished, logits: Matrix) -> Targets:
    """Return what is answered when the model is asked [rows], or [rows, labels] for multi_label."""
    if model.mode == "single_label":
        likeliest: Targets = logits.argmax(axis=1)
        return likeliest
    bars = np.full(logits.shape[1], 1.0)
    bars[: len(model.labels)] = model.thresholds
    reached: Targets = probabilities(logits, model.calibration.temperature, "multi_label") >= bars
    return reached


def _rival(model: Finished, rows: Sequence[Example], held: HeldOut, material: Material) -> Targets | None:
    """Return the decisions of the baseline, which is trained on the job's own rows; None where it takes too long."""
    own = slice(0, material.own)
    before: Targets = material.targets[own]
    if model.mode == "multi_label":
        members = np.zeros((len(before), held.truth.shape[1]), np.bool_)
        members[:, : len(model.labels)] = before
        before = members
    texts = [*material.texts[own], *(row.text for row in rows)]
    found = tfidf(
        texts,
        np.concatenate([before, held.truth]),
        held.logits.shape[1],
        msgspec.structs.replace(held, places=held.places + material.own),
    )
    if found is None:
        return None
    if model.mode == "multi_label":
        return found.logits >= 0
    likeliest: Targets = found.logits.argmax(axis=1)
    return likeliest


def _findings(model: Finished, known: int, fresh: Sequence[Example], base: Base | None) -> list[Finding]:
    found = []
    if known:
        verbs = ("stands in the training rows too and is", "stand in the training rows too and are")
        found.append(_finding("validation_rows_seen", f"{_of_the_file(known, *verbs)} not scored"))
    if not fresh:
        said = "No row of the validation file is left to score: the result is that of held-out training rows"
        found.append(_finding("validation_rows_none_left", said))
    if base is not None and base.seen is None:
        said = "The base model does not record its texts: if the validation file holds some, its score is too good"
        found.append(_finding("validation_rows_perhaps_seen", said))
    own = set(model.labels)
    foreign = [row for row in fresh if not own.issuperset(labels_of(row))]
    if foreign:
        labels = dict.fromkeys(label for row in foreign for label in labels_of(row) if label not in own)
        verbs = ("has a label that the model does not, and counts", "have labels that the model does not, and count")
        said = f"{_of_the_file(len(foreign), *verbs)} as wrong"
        found.append(_finding("validation_labels_unknown", said, list(labels)[:MOST_LABELS]))
    return found


def _finding(code: str, message: str, labels: Sequence[str] = ()) -> Finding:
    return Finding(code=code, message=message, labels=list(labels))


def _of_the_file(number: int, one: str, many: str) -> str:
    return f"{_rows(number)} of the validation file {one if number == 1 else many}"


def _tell(found: dict[str, Any], emit: Callable[[Message], None]) -> None:
    named = ("accuracy", "accuracy_of", "f1_score", "micro_f1", "n", "interval", "method")
    low, high = found["interval"]
    of = f" of {found['accuracy_of']}" if "accuracy_of" in found else ""
    said = f"Accuracy{of} on the validation file {found['accuracy']:.3f}"
    interval = f"95 % interval {low:.2f} to {high:.2f}, {_rows(found['n'])}"
    emit(Message(f"{said} ({interval})", data={name: found[name] for name in named if name in found}))


def _rows(number: int) -> str:
    return f"{number} row{'' if number == 1 else 's'}"
