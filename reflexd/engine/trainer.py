"""Decides the course of a training: the frozen encoder's head first, then a tuned encoder unless it does worse.

On machines of one kind the result depends on the rows, the base model where there is one, the seed and the budget.
What each part decides stands in its own module: the head recipes (recipes.py), the choice (selection.py), how the
budget is spent (budget.py), how an encoder is tuned (tuned.py, tuning.py), what is said of it all (assessment.py,
telling.py).
"""

from __future__ import annotations

import functools
import importlib.metadata
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from reflexd.engine.adapters import Adapter, to_files
from reflexd.engine.agreement import agreement
from reflexd.engine.assessment import assess, rows_in_windows
from reflexd.engine.backbone import STACK
from reflexd.engine.budget import kinds_for, scheme
from reflexd.engine.calibration import calibrate
from reflexd.engine.dataset import data_sha256
from reflexd.engine.diagnosis import MOST_ROWS, TrainingRows
from reflexd.engine.encoder import Encoder
from reflexd.engine.evaluation import HeldOut, Split, split
from reflexd.engine.heads import Matrix, Targets, Wide, row_weights
from reflexd.engine.in_domain import domain_apart, fit_domain
from reflexd.engine.material import Emit, Material, gather, known_from_now_on
from reflexd.engine.precision import Verdict, compare
from reflexd.engine.recipes import (
    DEFAULT,
    changes,
    fit,
    last_alone,
    otherwise_regularised,
    with_names,
    without_base,
    words_of,
)
from reflexd.engine.selection import Candidate, choose, honest, search
from reflexd.engine.telling import tell_base, tell_choice, tell_early, tell_precision, tell_score, tell_unscored
from reflexd.engine.tuned import Rows, Tuner
from reflexd.engine.validation import Finished, validated
from reflexd.engine.warm_start import Base, read_base, to_keep
from reflexd.errors import JobFailure, StartupError
from reflexd.hookspecs import Example
from reflexd.registry import artifacts, runs
from reflexd.registry.artifacts import ROWS, BackboneRef, Domain, Head, HeadRef, Manifest
from reflexd.registry.files import remove_directory
from reflexd.schemas.reflex import Mode
from reflexd.schemas.worker import Message, RunSpec, Trained

PACKAGES = ("reflexd", "torch", "transformers", "peft", "onnxruntime", "scikit-learn", "numpy", "tokenizers")
FROZEN = "frozen"


class Chosen(Struct, frozen=True):
    """What the job keeps: a head recipe on the features that an encoder makes of all rows, and how it was judged."""

    recipe: HeadRef
    features: Matrix
    held: HeldOut | None
    """How held-out rows came out under it."""
    honest: HeldOut | None
    """The same, where no row had a say in what scores it."""
    encoder: str = FROZEN
    adapter: Adapter | None = None
    names: Matrix | None = None
    """The features that the same encoder makes of the labels' names, where the recipe may need them."""
    parts: Split | None = None
    folds: Sequence[Matrix] = ()
    lean: float = 0.0
    """What the logits of a base's labels are too high by: upright.py."""


def train(
    spec: RunSpec,
    rows: Sequence[Example],
    labels: list[str],
    encoder: Encoder,
    emit: Emit,
    mode: Mode = "single_label",
    validation: Sequence[Example] | None = None,
    given: Collection[str] | None = None,
    fp32: Callable[[], Encoder] | None = None,
) -> Trained:
    """Train, score and publish a classifier; return what the daemon records.

    It is scored on rows of its own that were held out, or on those of `validation` where there are some. Where the
    labels were made, `given` are the texts whose labels the user gave all the same: see agreement.py.
    `fp32` loads the same encoder in that precision, where it is to be seen what int8 costs: see precision.py.

    Raises JobFailure where the run directory holds a base model that cannot be started from.
    """
    base = read_base(Path(spec.run_dir), labels, mode, encoder.description)
    start = _start(encoder, base)
    if base is not None:
        tell_base(emit, base)
    material = gather(spec, rows, labels, mode, encoder, start, base, emit)
    verdict, exact = (None, None) if fp32 is None else _compared(spec, material, len(labels), fp32, emit)
    if exact is not None:
        encoder = start = exact
        material = gather(spec, rows, labels, mode, encoder, start, base, lambda _: None)
    heads = _Heads(labels, base, material.shares)
    chosen = _choose(spec, material, heads, labels, encoder, start, base, emit)
    calibration = calibrate(chosen.held)
    width = encoder.description.width
    own = slice(0, material.own)
    texts = material.texts[own]
    found = assess(
        TrainingRows(texts, material.targets[own], material.features[own, :width], material.places, labels),
        chosen.honest,
        calibrate(chosen.honest),
        chosen.held,
        tell_unscored(emit, base, material, chosen.held),
        emit,
        rows_in_windows(encoder, texts, MOST_ROWS) if material.windowed else (),
        material.windowed,
    )
    if given is not None and validation is None:
        found.result.update(agreement(chosen.honest, material.texts, given, emit))
    if verdict is not None:
        found.result["precision"] = {"served": verdict.served, **msgspec.to_builtins(verdict)}
    found.result["recipe"] = {"encoder": chosen.encoder, **msgspec.to_builtins(chosen.recipe)}
    tell_score(emit, found.result, calibration)
    head = heads.fitted(chosen.recipe, chosen.features, material.targets, chosen.names, emit)
    if base is not None:
        head.bias[base.knew] -= chosen.lean
    about, result = encoder.description, found.result
    if validation is not None:
        tuned = encoder.adapted(chosen.adapter)
        model = Finished(encoder, tuned, head, calibration, found.thresholds, labels, mode, spec.threads)
        result = validated(model, validation, material, base, result, emit)
    manifest = Manifest(
        stack=STACK,
        labels=labels,
        mode=mode,
        backbone=BackboneRef(name=about.name, fingerprint=about.fingerprint, precision=about.precision, width=width),
        head=chosen.recipe,
        adapter=None if chosen.adapter is None else chosen.adapter.reference(),
        calibration=calibration,
        thresholds=found.thresholds,
        data_sha256=data_sha256(rows),
        examples=len(rows),
        seed=spec.seed,
        packages=_versions(),
        lineage=spec.lineage,
        result=result,
        created_at=int(time.time()),
    )
    files = {} if chosen.adapter is None else to_files(chosen.adapter)
    if kept := to_keep([*material.rows, *([] if base is None else base.kept)], labels, spec.keep_rows, spec.seed):
        files[ROWS] = msgspec.json.Encoder().encode_lines(kept)
    seen = known_from_now_on(base, material.known)
    artifacts.publish(
        Path(spec.models_dir),
        spec.model_id,
        head,
        manifest,
        seen,
        _domain(chosen, material.targets, len(labels), width),
        files,
    )
    remove_directory(Path(spec.run_dir) / runs.TUNING)
    return Trained(
        labels=labels,
        mode=manifest.mode,
        examples=len(rows),
        tokens=material.tokens,
        backbone=about.name,
        precision=about.precision,
        result=result,
    )


class _Heads:
    """Fits heads on a job's rows: with its base's head where it has one, and evened label shares."""

    def __init__(self, labels: Sequence[str], base: Base | None, shares: Wide | None) -> None:
        """`shares` [labels] is how much each label's rows count, if not as many as they are."""
        self._labels = labels
        self._shares = shares
        self._prior = None if base is None else base.prior

    def fitted(
        self, recipe: HeadRef, features: Matrix, targets: Targets, names: Matrix | None, emit: Emit | None = None
    ) -> Head:
        """Return a head on features [rows, 2 * width]; `names` [labels, 2 * width] are of the same encoder."""
        weights = None if self._shares is None else row_weights(targets, self._shares)
        return fit(
            recipe,
            features,
            targets,
            len(self._labels),
            names=names,
            prior=self._prior,
            weights=weights,
            emit=emit,
        )

    def fitter(self, *names: Matrix | None) -> Callable[[HeadRef, int, Matrix, Targets], Head]:
        """Return what fits heads in each part of a split, by the part's number; `names` are of one part, or each."""

        def fitted(recipe: HeadRef, part: int, features: Matrix, targets: Targets) -> Head:
            return self.fitted(recipe, features, targets, names[part if len(names) > 1 else 0])

        return fitted


def _start(encoder: Encoder, base: Base | None) -> Encoder:
    """Return the encoder that training starts from: the untouched one, or as the base's adapter changes it."""
    try:
        return encoder if base is None else encoder.adapted(base.adapter)
    except ValueError as error:
        raise JobFailure("model_unusable", f"The base model cannot be used: {error}", "base_model") from error


def _compared(
    spec: RunSpec, material: Material, labels: int, fp32: Callable[[], Encoder], emit: Emit
) -> tuple[Verdict | None, Encoder | None]:
    """Compare a job's rows in both precisions; return what came of it, and the encoder in fp32 if it is to serve."""
    try:
        exact = fp32()
    except (StartupError, OSError, MemoryError) as error:
        emit(Message(f"The encoder cannot be loaded in fp32, so the model is served in int8: {error}", "warn"))
        return None, None
    verdict = compare(material, labels, exact, spec.seed, spec.threads)
    if verdict is None:
        return None, None
    tell_precision(emit, verdict)
    return verdict, exact if verdict.served == "fp32" else None


def _choose(
    spec: RunSpec,
    material: Material,
    heads: _Heads,
    labels: Sequence[str],
    encoder: Encoder,
    start: Encoder,
    base: Base | None,
    emit: Emit,
) -> Chosen:
    """Find the best head on the encoder as it is, then spend the budget on a tuned one, and choose between the two."""
    targets, several = material.targets, material.targets.ndim == 2
    # A base's head multiplies vectors as they come, so what is drawn to it is not whitened.
    first = DEFAULT if base is None else structs.replace(base.recipe, whitened=False, names=False, base=True)
    parts = split(targets, len(labels), spec.seed, material.seen)
    known = None if base is None else base.adapter
    untuned = Chosen(first, material.features, None, None, FROZEN if known is None else known.kind, known)
    if parts is None:
        return untuned
    size = (len(targets), len(labels), encoder.description.width, len(parts.parts), several)
    steps = changes(*size) if base is None else [otherwise_regularised, without_base]
    words = [words_of(label) for label in labels] if with_names in steps else []
    names = start.embed_all(words, spec.threads)[0] if words else None

    leans = (None, None) if base is None else (base.knew, material.shares)

    def as_it_is(judged: Split, told: Callable[[Candidate], None] | None = None) -> list[Candidate]:
        fitted = heads.fitter(names)
        return search(0, judged, lambda _: material.features, targets, fitted, steps, first, told, *leans)

    found = as_it_is(parts, lambda one: tell_early(emit, one))
    best = found[choose(found)]
    untuned = structs.replace(
        untuned, recipe=best.recipe, held=best.held, honest=honest(found), names=names, lean=best.lean
    )
    rows = Rows(material.texts, targets, len(labels), material.features, words, material.shares)
    tuner = Tuner(rows, encoder, spec, emit, known)
    kinds = kinds_for(tuner.size().rows, encoder.description, known)
    plan = scheme(tuner.size(), spec.budget_seconds, kinds)
    if plan is None:
        emit(Message(f"A budget of {spec.budget_seconds:.0f} seconds leaves the encoder as it is"))
        return untuned
    about = {"folds": plan.folds, "kinds": [work.kind for work in plan.works], "seconds": round(plan.seconds, 1)}
    emit(Message(f"Tuning the encoder: about {plan.seconds:.0f} s on a usual processor", data=about))
    judged = split(targets, len(labels), spec.seed, material.seen, folds=plan.folds, once=plan.folds == 1)
    assert judged is not None
    tuned = tuner.tuned(plan, judged)
    if not tuned:
        return untuned
    candidates = as_it_is(judged)
    # However many the rows: tuned features lie far apart already, and often want the other constant.
    later = steps if otherwise_regularised in steps else [*steps, otherwise_regularised]
    later = later if base is None else [*later, last_alone]
    for number, one in enumerate(tuned, 1):
        fitted = heads.fitter(*one.names)
        candidates += search(number, judged, one.folds.__getitem__, targets, fitted, later, first, None, *leans)
    winner, said = candidates[choose(candidates)], honest(candidates)
    if winner.encoder == 0:
        tell_choice(emit, candidates, tuned, winner)
        return structs.replace(untuned, honest=said)
    kept = tuned[winner.encoder - 1]
    whole = tuner.whole(kept)
    if whole is None:
        return untuned
    tell_choice(emit, candidates, tuned, winner)
    adapter, features, names = whole
    kind, folds, lean = kept.work.kind, kept.folds, winner.lean
    return Chosen(winner.recipe, features, winner.held, said, kind, adapter, names, judged, folds, lean)


def _domain(chosen: Chosen, targets: Targets, labels: int, width: int) -> Domain | None:
    """Return what tells usual texts; of a tuned encoder by rows it had not seen: it draws the others near."""
    vectors = chosen.features[:, :width]
    if chosen.parts is None:
        return fit_domain(vectors, targets, labels)
    return domain_apart(vectors, targets, labels, chosen.parts.parts, [fold[:, :width] for fold in chosen.folds])


@functools.cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}
