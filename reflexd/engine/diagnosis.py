"""Decides what a job tells its user about the training rows: findings that can be acted on, each with its rows.

A finding names rows by their place in the rows as they were given, counted from 0, and never quotes a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from reflexd.engine.calibration import probabilities
from reflexd.engine.duplicates import NearDuplicates, across_labels, conflicting, same_text
from reflexd.engine.evaluation import HeldOut, label_counts, wilson
from reflexd.engine.heads import Matrix, Targets
from reflexd.registry.artifacts import Calibration

MOST_FINDINGS = 10
MOST_ROWS = 20
MOST_LABELS = 10
CONFUSED_ERRORS = 5
CONFUSED_SHARE = 0.05
"""A pair of labels counts as confused where the share of their rows that go wrong is surely greater than this."""
MISLABELLED_RATIO = 20.0
"""How many times as probable another label must be. With 5 % of the labels falsified three of four flagged rows were
wrong (20 rows a label) to nine of ten (2,000 rows and more); confident learning alone flagged as many right ones."""
RARE = 20
"""A label is rare that has fewer rows than the commonest one divided by this."""


class TrainingRows(Struct, frozen=True):
    """The rows that a head is fitted on: texts [rows], truth, vectors [rows, width], and their places as given."""

    texts: Sequence[str]
    targets: Targets
    vectors: Matrix
    places: NDArray[np.int64]
    labels: Sequence[str]


class Finding(Struct, frozen=True, kw_only=True):
    """Something about the rows that may be wrong; `rows` are at most MOST_ROWS places of rows as they were given."""

    code: str
    message: str
    labels: list[str] = []
    rows: list[int] = []


def diagnose(
    rows: TrainingRows, held: HeldOut | None, calibration: Calibration, long_rows: Sequence[int] = (), long: int = 0
) -> list[Finding]:
    """Return the findings, those first that cost most; at most MOST_FINDINGS.

    `long_rows` are the places in `rows` of (some of) the `long` rows that were read in several windows.
    """
    same = same_text(rows.texts, rows.vectors)
    found = [
        *_conflicts(rows, conflicting(same, rows.targets)),
        *_identical_rows_only(rows),
        *_mislabelled(rows, held, calibration),
        *_near_duplicates(rows, across_labels(same, rows.targets, rows.vectors)),
        *_rare_labels(rows),
        *_long_rows(rows, long_rows, long),
        *_confused(rows, held),
    ]
    return found[:MOST_FINDINGS]


def _finding(
    code: str, message: str, rows: TrainingRows, labels: Iterable[int] = (), places: Iterable[int] = ()
) -> Finding:
    return Finding(
        code=code,
        message=message,
        labels=[rows.labels[label] for label in list(dict.fromkeys(labels))[:MOST_LABELS]],
        rows=[int(rows.places[place]) for place in list(dict.fromkeys(places))[:MOST_ROWS]],
    )


def _conflicts(rows: TrainingRows, groups: list[list[int]]) -> list[Finding]:
    """Tell of texts that stand there twice with different labels: no classifier can be right about both."""
    if not groups:
        return []
    places = [place for group in groups for place in group]
    said = f"{_count(len(groups), 'text has', 'texts have')} different labels in different rows"
    return [
        _finding(
            "conflicting_labels",
            f"{said}: keep one label for each ({_some(rows, groups[0])} are the first)",
            rows,
            _labels_of(rows, places),
            places,
        )
    ]


def _identical_rows_only(rows: TrainingRows) -> list[Finding]:
    single = np.flatnonzero(label_counts(rows.targets, len(rows.labels)) == 1)
    if not single.size:
        return []
    places = [int(np.flatnonzero(_has(rows.targets, int(label)))[0]) for label in single[:MOST_ROWS]]
    return [
        _finding(
            "identical_rows_only",
            f"Not scored, for want of a second different row: {_names(rows, single)}",
            rows,
            single,
            places,
        )
    ]


def _mislabelled(rows: TrainingRows, held: HeldOut | None, calibration: Calibration) -> list[Finding]:
    """Tell of rows whose own label is held improbable by a head that has not seen them (confident learning).

    A row is flagged where its label is less probable than is usual for the rows of that label, another label is at
    least as probable as is usual for its rows, and that one is MISLABELLED_RATIO times as probable.
    """
    if held is None or held.truth.ndim == 2:
        return []
    found = probabilities(held.logits, calibration.temperature, "single_label")
    numbers = np.arange(len(held.truth))
    own = found[numbers, held.truth]
    counts = np.bincount(held.truth, minlength=len(rows.labels))
    usual = np.where(counts > 0, np.bincount(held.truth, own, len(rows.labels)) / np.maximum(counts, 1), np.inf)
    likeliest = found.argmax(axis=1)
    best = found[numbers, likeliest]
    flagged = (own < usual[held.truth]) & (best >= usual[likeliest]) & (best >= MISLABELLED_RATIO * own)
    worst_first = np.flatnonzero(flagged)[np.argsort(own[flagged], kind="stable")]
    if not worst_first.size:
        return []
    places = held.places[worst_first]
    first = worst_first[0]
    shown = min(len(places), MOST_ROWS)
    return [
        _finding(
            "looks_mislabelled",
            f"{_count(len(places), 'row looks', 'rows look')} mislabelled: check the {shown} most suspect ones first. "
            f"Row {rows.places[places[0]]} is labelled {rows.labels[held.truth[first]]!r} and reads like "
            f"{rows.labels[likeliest[first]]!r}",
            rows,
            held.truth[worst_first],
            places,
        )
    ]


def _near_duplicates(rows: TrainingRows, found: NearDuplicates) -> list[Finding]:
    if not found.pairs:
        return []
    places = [place for pair in found.pairs for place in pair]
    of = "" if found.looked_at == len(rows.texts) else f" (of {found.looked_at} rows that were compared)"
    return [
        _finding(
            "near_duplicates_across_labels",
            f"{_count(found.count, 'pair of rows means', 'pairs of rows mean')} nearly the same under different labels"
            f"{of}: decide on one label, or say in the texts what makes the difference "
            f"({_some(rows, found.pairs[0])} are the closest)",
            rows,
            _labels_of(rows, places),
            places,
        )
    ]


def _confused(rows: TrainingRows, held: HeldOut | None) -> list[Finding]:
    """Tell of pairs of labels that are taken for each other, by more errors than chance brings about.

    With two labels every error is of the one pair, and the accuracy says it all.
    """
    if held is None or held.truth.ndim == 2 or len(rows.labels) == 2:
        return []
    predicted = held.logits.argmax(axis=1)
    support = np.bincount(held.truth, minlength=len(rows.labels))
    wrong = np.flatnonzero(predicted != held.truth)
    pairs = np.sort(np.column_stack([held.truth[wrong], predicted[wrong]]), axis=1)
    each, where, counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    found = []
    for number in np.argsort(-counts, kind="stable"):
        (one, other), errors = each[number], int(counts[number])
        of = int(support[one] + support[other])
        if errors < CONFUSED_ERRORS or wilson(errors, of)[0] < CONFUSED_SHARE:
            continue
        said = (
            f"{rows.labels[one]!r} and {rows.labels[other]!r} are taken for each other in {errors} of their {of} rows"
        )
        advice = "add rows that show the difference, or make them one label"
        places = held.places[wrong[where.ravel() == number]]
        found.append(_finding("confused_labels", f"{said}: {advice}", rows, (one, other), places))
    return found


def _rare_labels(rows: TrainingRows) -> list[Finding]:
    counts = label_counts(rows.targets, len(rows.labels))
    commonest = int(counts.argmax())
    rare = np.flatnonzero(counts * RARE < counts[commonest])
    if not rare.size:
        return []
    share = counts[commonest] / len(rows.texts)
    return [
        _finding(
            "rare_labels",
            f"{rows.labels[commonest]!r} stands in {share:.0%} of the rows, and these labels have less than a "
            f"{RARE}th of its rows: {_names(rows, rare)}. Add rows for them, and judge by f1_score, not accuracy",
            rows,
            rare[np.argsort(counts[rare], kind="stable")],
        )
    ]


def _long_rows(rows: TrainingRows, some: Sequence[int], count: int) -> list[Finding]:
    if not count:
        return []
    said = f"{_count(count, 'row is', 'rows are')} too long to be read at once, and were read in several windows whose"
    advice = "shorten them if what decides stands in one place"
    return [_finding("long_rows", f"{said} mean counts: {advice}", rows, (), some)]


def _has(targets: Targets, label: int) -> NDArray[np.bool_]:
    has: NDArray[np.bool_] = targets[:, label].astype(np.bool_) if targets.ndim == 2 else targets == label
    return has


def _labels_of(rows: TrainingRows, places: Sequence[int]) -> list[int]:
    if rows.targets.ndim == 1:
        return [int(rows.targets[place]) for place in places]
    return [int(label) for place in places for label in np.flatnonzero(rows.targets[place])]


def _names(rows: TrainingRows, labels: Iterable[int]) -> str:
    every = [rows.labels[label] for label in labels]
    return ", ".join(every[:5]) + (f" and {len(every) - 5} more" if len(every) > 5 else "")


def _some(rows: TrainingRows, places: Sequence[int]) -> str:
    return "rows " + " and ".join(str(rows.places[place]) for place in places[:2])


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
