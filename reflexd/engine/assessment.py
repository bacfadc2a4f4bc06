"""Decides what a job tells of a head: an honest score beside the baselines, its thresholds, warnings on the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from reflexd.engine.baseline import tfidf
from reflexd.engine.calibration import CALIBRATION_ROWS, calibrate
from reflexd.engine.diagnosis import TrainingRows, diagnose
from reflexd.engine.encoder import Encoder
from reflexd.engine.evaluation import THRESHOLD, HeldOut
from reflexd.engine.heads import Targets
from reflexd.engine.result import report
from reflexd.engine.thresholds import choose_thresholds, decide_held_out
from reflexd.registry.artifacts import Calibration
from reflexd.schemas.worker import Message, Metrics

Emit = Callable[[Message | Metrics], None]


class Assessment(Struct, frozen=True):
    """The job's `result`, and the thresholds of a multi_label model (none for single_label)."""

    result: dict[str, Any]
    thresholds: list[float]


def assess(
    rows: TrainingRows,
    held: HeldOut | None,
    calibration: Calibration,
    kept: HeldOut | None,
    why_none: str,
    emit: Emit,
    long_rows: Sequence[int] = (),
    long: int = 0,
) -> Assessment:
    """Return the score of held-out rows with what is needed to judge it, and emit a `warn` event for each finding.

    `held` are the held-out rows as nothing was chosen on them, and `kept` as the head that is kept scores them.
    `why_none` says why no row could be held out; `long_rows` and `long` are as `diagnose` takes them.
    """
    several = rows.targets.ndim == 2
    rival = tfidf(rows.texts, rows.targets, len(rows.labels), held)
    result = report(
        held,
        rows.targets,
        list(rows.labels),
        calibration,
        why_none,
        decide(held, calibration),
        None if rival is None else decide(rival, calibrate(rival)),
    )
    found = diagnose(rows, held, calibration, long_rows, long)
    for finding in found:
        about = {"code": finding.code, "labels": finding.labels, "rows": finding.rows}
        emit(Message(finding.message, "warn", about))
    result["warnings"] = msgspec.to_builtins(found)
    thresholds = [THRESHOLD] * len(rows.labels) if several else []
    if several and held is not None and len(held.truth) >= CALIBRATION_ROWS:
        thresholds = choose_thresholds(kept or held, calibrate(kept or held))
    return Assessment(result, thresholds)


def decide(held: HeldOut | None, calibration: Calibration) -> Targets | None:
    """Return what an honest score counts as the decisions for held-out rows: no row's truth has a say in its own."""
    if held is None:
        return None
    if held.truth.ndim == 1:
        likeliest: Targets = held.logits.argmax(axis=1)
        return likeliest
    return decide_held_out(held, calibration) if len(held.truth) >= CALIBRATION_ROWS else held.logits >= 0


def rows_in_windows(encoder: Encoder, texts: Sequence[str], most: int) -> list[int]:
    """Return the places of the first texts, `most` at most, that the encoder reads in several windows."""
    limit = encoder.description.max_tokens
    found: list[int] = []
    for place, text in enumerate(texts):
        if len(found) == most:
            break
        if len(text) > limit // 2 and len(encoder.token_ids(text)) > limit:
            found.append(place)
    return found
