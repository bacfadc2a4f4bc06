"""Decides what a job is trained on: its distinct rows and those that its base gives, as texts, truth and features."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from reflexd.engine.dataset import distinct, labels_of
from reflexd.engine.encoder import Encoder
from reflexd.engine.heads import Matrix, Targets, Wide
from reflexd.engine.warm_start import Base, Identities, identities, replay
from reflexd.hookspecs import Example
from reflexd.schemas.reflex import Mode
from reflexd.schemas.worker import Message, Metrics, RunSpec

PROGRESS_EVERY_SECONDS = 2.0

Emit = Callable[[Message | Metrics], None]


class Material(Struct, frozen=True):
    """Distinct rows. The job's own come first, `own` of them; those after them are the base's, learned again.

    `features` [rows, 2 * width] are of the encoder that training starts from: the untouched one, or the base's.
    """

    rows: list[Example]
    targets: Targets
    features: Matrix
    places: NDArray[np.int64]
    """The place of each own row in the rows as given [own]."""
    seen: NDArray[np.bool_]
    """Which rows must not be scored, because the base was trained on them [rows]."""
    known: Identities
    """Of the untouched encoder's vectors of all rows as given and replayed."""
    own: int
    shares: Wide | None
    """How much the rows of each label count [labels]; None where each row counts alike."""
    tokens: int
    windowed: int

    @property
    def texts(self) -> list[str]:
        """Return the rows' texts."""
        return [row.text for row in self.rows]


def gather(
    spec: RunSpec,
    rows: Sequence[Example],
    labels: Sequence[str],
    mode: Mode,
    encoder: Encoder,
    start: Encoder,
    base: Base | None,
    emit: Emit,
) -> Material:
    """Read every distinct row; `encoder` is the untouched one, `start` the one that training starts from."""
    first = distinct(rows)
    used = [rows[place] for place in first]
    again = [] if base is None else replay(base, used, labels, spec.seed)
    texts = [row.text for row in [*used, *again]]
    features, tokens, windowed = encoder.embed_all(texts, spec.threads, _progress(len(texts), emit))
    targets = targets_of([*used, *again], labels, mode)
    known = identities(features[:, : encoder.description.width])
    kept = _one_of_each(features, targets)
    own = int((kept < len(used)).sum())
    if len(rows) > own:
        emit(Message(f"{len(rows) - own} rows repeat another one and count once", "warn"))
    if again:
        emit(Message(f"{len(kept) - own} rows that the base model keeps are learned again", data={"rows": len(again)}))
    if start is not encoder:
        features = start.embed_all(texts, spec.threads)[0]
    return Material(
        rows=[[*used, *again][place] for place in kept],
        targets=targets[kept],
        features=features[kept],
        places=np.asarray(first)[kept[:own]],
        seen=_seen(base, known[kept]) | (kept >= len(used)),
        known=known,
        own=own,
        shares=_shares(targets[kept], own, len(labels)),
        tokens=tokens,
        windowed=windowed,
    )


def targets_of(rows: Sequence[Example], labels: Sequence[str], mode: Mode) -> Targets:
    """Return the truth of checked rows, their labels numbered by their place in `labels`."""
    number_of = {label: number for number, label in enumerate(labels)}
    if mode == "single_label":
        return np.array([number_of[labels_of(row)[0]] for row in rows], dtype=np.int64)
    members = np.zeros((len(rows), len(labels)), dtype=np.bool_)
    for row, line in zip(rows, members, strict=True):
        line[[number_of[label] for label in labels_of(row)]] = True
    return members


def known_from_now_on(base: Base | None, known: Identities) -> Identities | None:
    """Return which rows a new model knows, with those of its base; None where the base does not record its own."""
    if base is None:
        return known
    return None if base.seen is None else np.union1d(base.seen, known)


def _shares(targets: Targets, own: int, labels: int) -> Wide | None:
    """Return how much each label's rows count in a head where a base's rows are learned beside the job's own.

    That is as much as the label's own rows, so that the others shift no share; but a label with few own rows, or none,
    counts by all its rows, up to what the job's labels have on average: it was not asked to become rarer.
    """
    if own == len(targets) or targets.ndim == 2:
        return None
    counts, every = (np.bincount(some, minlength=labels).astype(np.float64) for some in (targets[:own], targets))
    shares: Wide = np.maximum(counts, np.minimum(every, counts[counts > 0].mean()))
    return shares


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


def _progress(total: int, emit: Emit) -> Callable[[int], None]:
    last = time.monotonic()

    def tell(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_EVERY_SECONDS and done < total:
            last = time.monotonic()
            emit(Message(f"Read {done} of {total} texts", data={"done": done, "total": total}))

    return tell
