"""Decides what a cell of the training benchmark is, which rows it trains on, and how its outcome is kept.

One JSON line a cell, appended and flushed to the disk: a run that is killed goes on where it was, and a line that was
cut off in the middle is measured again.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from benchmarks.few_shot import DATA, draw, read

ALL = "all"
ROWS = ("8", "16", "64", ALL)
MULTI_LABEL = "goemotions"
SINGLE_LABEL = (
    "trec6",
    "sst2",
    "tweet_emotion",
    "snips",
    "tweet_offensive",
    "sentiment_german",
    "banking77",
    "clinc150",
    "sentiment_8_languages",
    "writing_requests_en",
    "spam_assassin",
)
SETS = (*SINGLE_LABEL, MULTI_LABEL)
SETFIT_SETS, SETFIT_ROWS = SINGLE_LABEL[:6], ("8", "16")
SIDES = ("tfidf", "frozen", "ours", "full", "setfit")
"""Cheap ones first, so that they lie together in time."""
SEEDS = (0, 1, 2)


class Example(Struct, frozen=True):
    """One text with its labels: exactly one, but in a multi-label set."""

    text: str
    labels: list[str]


class Cell(Struct, frozen=True):
    """One training: who trains, on which set, on how many rows a label ("all": the whole file), and the seed."""

    side: str
    set: str
    rows: str
    seed: int


class Line(Struct, frozen=True, kw_only=True):
    """The outcome of one cell; core_seconds and wall are those of training alone."""

    side: str
    set: str
    rows: str
    seed: int
    n_train: int
    n_test: int
    accuracy: float
    """Of several labels: the share of texts whose whole set of labels is right."""
    macro_f1: float
    core_seconds: float
    wall: float
    correct: str
    """A character a test row, 1 where the side is right."""
    ece: float | None = None
    """The debiased calibration error on the test rows: ours only, of single-label sets."""
    result: dict[str, Any] | None = None
    """What the job itself says of its accuracy and of its recipe: ours only."""
    at_training_shares: float | None = None
    """The accuracy where labels are weighted by their shares in the training rows; None for several labels."""
    notes: dict[str, Any] = {}
    versions: dict[str, str]
    date: str
    machine: str

    @property
    def cell(self) -> Cell:
        """Which cell this is the outcome of."""
        return Cell(self.side, self.set, self.rows, self.seed)


def is_measured(cell: Cell) -> bool:
    """Whether the benchmark has such a cell.

    SetFit takes too long beyond its sets and rows, and neither it nor full fine-tuning is defined for several labels.
    Full fine-tuning of many rows is run once, and so is everything on all rows: there the seed draws none.
    """
    if cell.side == "setfit":
        return cell.set in SETFIT_SETS and cell.rows in SETFIT_ROWS
    if cell.side == "full":
        return cell.set != MULTI_LABEL and (cell.rows in SETFIT_ROWS or cell.seed == SEEDS[0])
    return cell.rows != ALL or cell.seed == SEEDS[0]


def cells(sides: Iterable[str], sets: Iterable[str], rows: Iterable[str], seeds: Iterable[int]) -> list[Cell]:
    """Return the cells of a run in its order: within a seed, a set and a number of rows, one side after the other."""
    ordered = [side for side in SIDES if side in set(sides)]
    every = product(seeds, sets, rows, ordered)
    return [cell for seed, name, per_label, side in every if is_measured(cell := Cell(side, name, per_label, seed))]


def read_results(path: Path) -> list[Line]:
    """Read the outcomes so far; a last line that was cut off is left out."""
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    return msgspec.json.Decoder(Line).decode_lines(whole) if whole else []


def append(path: Path, line: Line) -> None:
    """Add one outcome, on the disk once this returns; what a killed run left of a line is cut off first."""
    with path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(msgspec.json.encode(line) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def missing(wanted: Iterable[Cell], lines: Iterable[Line]) -> Iterator[Cell]:
    """Return the cells that have no outcome yet, in order."""
    there = {line.cell for line in lines}
    return (cell for cell in wanted if cell not in there)


def load(name: str, part: str) -> list[Example]:
    """Read all rows of a set's train or test file."""
    if name != MULTI_LABEL:
        return [Example(row.text, [row.label]) for row in read(name, part)]
    with gzip.open(DATA / name / f"{part}.jsonl.gz") as file:
        return msgspec.json.Decoder(Example).decode_lines(file.read())


def training_rows(name: str, rows: str, seed: int) -> list[Example]:
    """Return what a cell trains on, the same rows for every side."""
    if rows == ALL:
        return load(name, "train")
    if name == MULTI_LABEL:
        return draw_multi(load(name, "train"), int(rows), seed)
    return [Example(row.text, [row.label]) for row in draw(read(name, "train"), int(rows), seed)]


def draw_multi(examples: Sequence[Example], per_label: int, seed: int) -> list[Example]:
    """Return, for each label, `per_label` rows that have it, each row once and with all its labels."""
    random = np.random.default_rng(seed)
    having: dict[str, list[int]] = {}
    for number, example in enumerate(examples):
        for label in example.labels:
            having.setdefault(label, []).append(number)
    chosen = {
        having[label][place] for label in sorted(having) for place in random.permutation(len(having[label]))[:per_label]
    }
    return [examples[number] for number in sorted(chosen)]
