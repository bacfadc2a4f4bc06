"""Decides how a tuned encoder is come by and what it is judged by: once a fold, or by a pilot and then once.

Up to a few thousand rows the encoder is tuned once on the rows of each fold, so that every row is scored by an encoder
that never saw it; the kind that is kept is then tuned on all rows. Of more rows some are held out; each kind of
adapter tunes for a quarter of its steps, and the better one goes on, if it is then better than the frozen encoder on
the held-out rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from msgspec import Struct

from reflexd.engine.adapters import Adapter, Kind
from reflexd.engine.budget import CUTS, PILOT, Scheme, Size, Work, pace
from reflexd.engine.encoder import Encoder
from reflexd.engine.evaluation import HeldOut, Places, Split, hold_out
from reflexd.engine.heads import Matrix, Targets, Wide, fit_head, row_weights
from reflexd.engine.plan import LossNotFinite, Plan
from reflexd.engine.selection import least_loss, mean_accuracy
from reflexd.registry import runs
from reflexd.registry.files import replace_file
from reflexd.schemas.worker import Message, Metrics, RunSpec

if TYPE_CHECKING:  # torch and peft take seconds to import, which a job that tunes nothing is spared
    from reflexd.engine.tunable import TunableEncoder

PILOT_ROWS = 1_500
"""Rows that the heads of a pilot are fitted on, and at least so many of each label, where there are."""
PILOT_ROWS_OF_LABEL = 5


class Rows(Struct, frozen=True):
    """What is tuned on: checked, distinct rows, and their features under the frozen encoder (or the base's)."""

    texts: Sequence[str]
    targets: Targets
    labels: int
    features: Matrix
    names: Sequence[str] = ()
    """The labels' names as words, of which features are made too; none where no recipe reads them."""
    shares: Wide | None = None
    """How much the rows of each label count [labels]; None where each row counts alike."""


class Tuned(Struct, frozen=True):
    """An encoder tuned once for each part of a split: what it learned, and the features that it makes."""

    work: Work
    adapters: list[Adapter]
    folds: list[Matrix]
    """Of all rows [parts][rows, 2 * width]."""
    names: list[Matrix]
    """Of the labels' names [parts][labels, 2 * width], or [parts][0, 2 * width]."""


class Tuner:
    """Tunes encoders on one job's rows; its state lies in the run directory, and an interrupted job goes on."""

    def __init__(
        self,
        rows: Rows,
        encoder: Encoder,
        spec: RunSpec,
        emit: Callable[[Message | Metrics], None],
        start: Adapter | None = None,
    ) -> None:
        """`encoder` is the untouched one; `start` is the base model's adapter, which tuning then goes on from."""
        self._rows = rows
        self._encoder = encoder
        self._checkpoint = Path(spec.checkpoint)
        self._folder = Path(spec.run_dir) / runs.TUNING
        self._threads = spec.threads
        self._seed = spec.seed
        self._emit = emit
        self._start = start
        whole = [encoder.token_ids(text) for text in rows.texts]
        self._whole = sum(map(len, whole))
        self._ids = [ids[: encoder.description.max_tokens] for ids in whole]
        self._cut = CUTS[0]
        self._opened: TunableEncoder | None = None

    def size(self) -> Size:
        """Return what tuning costs by."""
        read_after = len(self._encoder.invocation) * len(self._ids)
        return Size(
            rows=len(self._ids),
            tokens={cut: sum(min(len(ids), cut) for ids in self._ids) + read_after for cut in CUTS},
            whole=self._whole + read_after,
            parameters=self._encoder.description.parameters,
            started=self._start is not None,
            pace=pace(self._encoder.description),
        )

    def tuned(self, scheme: Scheme, parts: Split) -> list[Tuned]:
        """Return what came of a scheme on the split that it is judged on, at most one for each kind.

        A kind whose loss stops being a number is given up with a warning.
        """
        self._folder.mkdir(exist_ok=True)
        self._cut = scheme.cut
        out = []
        works = list(scheme.works)
        if len(parts.parts) == 1:
            works = self._piloted(works, *parts.parts[0])
        for work in works:
            try:
                out.append(self._tune(work, parts))
            except LossNotFinite as problem:
                self._give_up(work, problem)
        return out

    def _tune(self, work: Work, parts: Split) -> Tuned:
        encoder = self._tunable(work.kind)
        out = Tuned(work, [], [], [])
        for number, (train, _) in enumerate(parts.parts):
            self._train(encoder, work, work.plan, train, number)
            self._add(out, _learned(encoder))
        return out

    def _add(self, out: Tuned, adapter: Adapter) -> None:
        """Note what has been learned, with the features of rows and names under it."""
        made = self._features(adapter, [*self._rows.texts, *self._rows.names])
        rows = len(self._rows.texts)
        out.adapters.append(adapter)
        out.folds.append(made[:rows])
        out.names.append(made[rows:])

    def whole(self, one: Tuned) -> tuple[Adapter, Matrix, Matrix] | None:
        """Return the adapter that a model takes, and the features of all rows and of the labels' names under it.

        Where folds were judged that is one tuned on all rows; None where its loss stopped being a number.
        """
        if one.work.again is None:
            return one.adapters[0], one.folds[0], one.names[0]
        everything, encoder = np.arange(len(self._ids)), self._tunable(one.work.kind)
        try:
            self._train(encoder, one.work, one.work.again, everything, len(one.adapters))
            made = Tuned(one.work, [], [], [])
            self._add(made, _learned(encoder))
            return made.adapters[0], made.folds[0], made.names[0]
        except LossNotFinite as problem:
            self._give_up(one.work, problem)
            return None

    def _piloted(self, works: Sequence[Work], train: Places, held: Places) -> list[Work]:
        """Return the kind that does best after a quarter of its steps, if it is then better than the frozen encoder."""
        verdict = self._folder / "pilot.json"
        if verdict.exists():  # a job that was killed after its pilot goes on with what that one said
            kinds = msgspec.json.decode(verdict.read_bytes(), type=list[str])
            return [work for work in works if work.kind in kinds]
        sample = self._sample(train)
        best = self._pilot(None, sample, held)
        said = [f"frozen {mean_accuracy(best):.3f}"]
        found: list[Work] = []
        for work in works:
            encoder = self._tunable(work.kind)
            try:
                self._train(encoder, work, work.plan, train, 0, max(1, int(PILOT * work.plan.steps)))
                made = self._pilot(_learned(encoder), sample, held)
            except LossNotFinite as problem:
                self._give_up(work, problem)
                continue
            said.append(f"{said_of(work)} {mean_accuracy(made):.3f}")
            if least_loss(made) < least_loss(best):
                best, found = made, [work]
        replace_file(verdict, msgspec.json.encode([work.kind for work in found]))
        going_on = f"going on with {said_of(found[0])}" if found else "the encoder stays frozen"
        self._emit(Message(f"After a quarter of the steps, on held-out rows: {', '.join(said)}; {going_on}"))
        return found

    def _sample(self, train: Places) -> Places:
        """Return PILOT_ROWS rows to fit a pilot's head on, with some of each label among them."""
        order = np.random.default_rng(self._seed).permutation(train)
        members = self._rows.targets[order]
        labels = members.T if members.ndim == 2 else members[None, :] == np.arange(self._rows.labels)[:, None]
        first = np.concatenate([np.flatnonzero(label)[:PILOT_ROWS_OF_LABEL] for label in labels])
        chosen: Places = order[np.unique(np.concatenate([first, np.arange(min(PILOT_ROWS, len(order)))]))]
        return chosen

    def _pilot(self, adapter: Adapter | None, train: Places, held: Places) -> HeldOut:
        """Return how held-out rows come out with a head that is fitted on some of the others."""
        places = np.concatenate([train, held])
        texts = [self._rows.texts[place] for place in places]
        features = self._rows.features[places] if adapter is None else self._features(adapter, texts)
        fold = Split([(np.arange(len(train)), np.arange(len(train), len(places)))], "pilot")
        width = features.shape[1] // 2
        targets, labels = self._rows.targets[places], self._rows.labels
        return hold_out(fold, lambda _: features[:, :width], targets, lambda _, x, y: fit_head(x, y, labels))

    def _train(
        self, encoder: TunableEncoder, work: Work, plan: Plan, train: Places, number: int, until: int | None = None
    ) -> None:
        encoder.reset(self._start)
        width = self._rows.features.shape[1] // 2
        targets, shares = self._rows.targets[train], self._rows.shares
        head = fit_head(self._rows.features[train, :width], targets, self._rows.labels)
        from reflexd.engine.tuning import tune

        tune(
            encoder,
            [self._ids[place][: self._cut] for place in train],
            targets,
            head,
            plan,
            [self._seed, number],
            weights=None if shares is None else row_weights(targets, shares),
            kept=self._folder / f"{work.kind}-{work.plan.steps}-{number}.safetensors",
            emit=self._emit,
            until=until,
        )

    def _give_up(self, work: Work, problem: LossNotFinite) -> None:
        about = {"code": "loss_not_finite"}
        self._emit(Message(f"Tuning {said_of(work)} was given up: {problem}", "warn", about))

    def _features(self, adapter: Adapter, texts: Sequence[str]) -> Matrix:
        made = self._encoder.adapted(adapter).embed_all(texts, self._threads)[0]
        if not np.isfinite(made).all():
            raise LossNotFinite("the tuned encoder's vectors are not finite")
        return made

    def _tunable(self, kind: Kind) -> TunableEncoder:
        """Return an encoder to tune; the last one again, where it is of that kind, for each tuning sets it back."""
        if self._opened is None or self._opened.kind != kind:
            import torch

            from reflexd.engine.tunable_decoder import open_tunable

            torch.set_num_threads(self._threads)
            self._opened = open_tunable(self._checkpoint, self._encoder, kind)
        return self._opened


def _learned(encoder: TunableEncoder) -> Adapter:
    from reflexd.engine.tuning import adapter_of

    return adapter_of(encoder)


def said_of(work: Work) -> str:
    """Return how events speak of a tuning."""
    return f"{'its biases' if work.kind == 'biases' else 'low-rank'} in {work.plan.steps} steps"
