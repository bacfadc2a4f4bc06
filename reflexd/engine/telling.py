"""Decides what the events of a training say of its course: the early score, what was chosen, how sure the score is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from reflexd.engine.calibration import CALIBRATION_ROWS
from reflexd.engine.evaluation import HeldOut
from reflexd.engine.material import Emit, Material
from reflexd.engine.precision import Verdict
from reflexd.engine.selection import Candidate, choose, mean_accuracy
from reflexd.engine.tuned import Tuned, said_of
from reflexd.engine.warm_start import Base
from reflexd.registry.artifacts import Calibration
from reflexd.schemas.worker import Message, Metrics


def tell_early(emit: Emit, one: Candidate) -> None:
    """Tell how the first head on the encoder as it is came out."""
    accuracy = mean_accuracy(one.held)
    said = f"Early score: held-out accuracy {accuracy:.3f} with the encoder as it is"
    emit(Metrics(said, {"step": 0, "early_accuracy": round(accuracy, 4), "n": len(one.held.truth)}))


def tell_base(emit: Emit, base: Base) -> None:
    """Tell where the base's adapter is taken over in part."""
    if base.strength < 1:
        why = "the job has labels that the base does not, and the adapter has moved the encoder far"
        emit(Message(f"The base's adapter is taken over at {int(100 * base.strength)} % of its strength: {why}"))


def tell_choice(emit: Emit, candidates: Sequence[Candidate], tuned: Sequence[Tuned], winner: Candidate) -> None:
    """Tell how the best head on each encoder came out, and which encoder is kept."""
    names = ["as it is", *(said_of(one.work) for one in tuned)]
    best = []
    for number, name in enumerate(names):
        own = [one for one in candidates if one.encoder == number]
        best.append(f"{name} {mean_accuracy(own[choose(own)].held):.3f}")
    kept = "stays as it is" if winner.encoder == 0 else f"is tuned: {names[winner.encoder]}"
    emit(Message(f"Held-out accuracy of the encoder {', '.join(best)}: it {kept}"))


def tell_precision(emit: Emit, verdict: Verdict) -> None:
    """Tell how rows came out in int8 and in fp32, and which of the two serves."""
    costly = verdict.served == "fp32"
    why = "int8 costs too much here, the model is served in fp32" if costly else "the model is served in int8"
    emit(Message(f"{verdict.told()}: {why}", data=msgspec.to_builtins(verdict)))


def tell_unscored(emit: Emit, base: Base | None, material: Material, held: HeldOut | None) -> str:
    """Tell of rows that cannot be scored because of the base; return why there is no score where there is none."""
    own = material.seen[: material.own]
    if not own.any():
        return "too few different rows to spare one"
    why = f"the base model was trained on {int(own.sum())} of the {len(own)} rows"
    if base is not None and base.seen is None:
        why = "the base model does not record the texts that it was trained on"
    said = "they are not scored" if held is not None else "nothing is left to score honestly"
    emit(Message(f"{why[0].upper()}{why[1:]}: {said}", "warn"))
    return why


def tell_score(emit: Emit, result: dict[str, Any], calibration: Calibration) -> None:
    """Tell the score of a result, and of how few rows its confidences are calibrated."""
    if result["n"]:
        named = ("accuracy", "accuracy_of", "f1_score", "micro_f1", "n", "interval", "method")
        low, high = result["interval"]
        of = f" of {result['accuracy_of']}" if "accuracy_of" in result else ""
        interval = f"95 % interval {low:.2f} to {high:.2f}, {result['n']} rows"
        said = f"Held-out accuracy{of} {result['accuracy']:.3f} ({interval})"
        emit(Message(said, data={name: result[name] for name in named if name in result}))
    if calibration.method == "none":
        emit(Message("Too few held-out rows to calibrate on: confidences are uncalibrated", "warn"))
    elif calibration.rows < CALIBRATION_ROWS:
        emit(Message(f"Only {calibration.rows} held-out rows to calibrate on: confidences are rough", "warn"))
