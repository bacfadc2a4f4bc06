"""Decides what tests train on: ten support tickets, made-up rows, and banking77 where it lies beside the checkout."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

from tests.daemons import ROOT

Row = dict[str, str]

BILLING = (
    "My card was debited two times for one order",
    "Please send the money for my last purchase back",
    "I want to end my paid plan today",
    "How do I change the credit card you bill",
    "There is a wrong amount on this month's invoice",
)
BUG = (
    "The program closes by itself when I open it",
    "Nothing happens when I press the send button",
    "The start page keeps loading for ever",
    "Saving my work ends in a server error",
    "I can not log in, it always fails",
)
TICKETS: list[Row] = [
    *({"text": text, "label": "billing"} for text in BILLING),
    *({"text": text, "label": "bug"} for text in BUG),
]
"""Ten rows, two labels: the smallest job that is admitted."""


def made_up(count: int, words: int = 3) -> list[Row]:
    """Return `count` different rows with the labels cat and dog, each with `words` filler words."""
    filler = " ".join(f"word{number}" for number in range(words))
    return [
        {"text": f"row {n} has a {('cat', 'dog')[n % 2]} {filler}", "label": ("cat", "dog")[n % 2]}
        for n in range(count)
    ]


def endless() -> list[Row]:
    """Return rows that take minutes to train on: a job to interrupt."""
    return made_up(20_000, words=2)


def banking77() -> Path:
    """Return the folder of the benchmark; it need not exist."""
    return ROOT.parent / "shared" / "data" / "benchmarks" / "banking77"


def read_gzip(path: Path) -> list[Row]:
    """Read a gzipped file of JSON lines."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def draw(rows: list[Row], per_label: int, seed: int) -> list[Row]:
    """Return `per_label` random rows of each label."""
    by_label: dict[str, list[Row]] = {}
    for row in rows:
        by_label.setdefault(row["label"], []).append(row)
    chosen = random.Random(seed)
    return [row for label in sorted(by_label) for row in chosen.sample(by_label[label], per_label)]


def questions(per_label: int, seed: int = 0, joined: int = 1) -> list[Row]:
    """Return TREC-6 questions, `joined` of one label in each row; made-up ones where the benchmark is not there.

    Six labels by what is asked for, which a sentence encoder does not tell apart as it comes: tuning pays.
    """
    path = ROOT.parent / "shared" / "data" / "benchmarks" / "trec6" / "train.jsonl.gz"
    rows = draw(read_gzip(path), per_label * joined, seed) if path.exists() else _asked(per_label * joined)
    return [
        {"text": " ".join(row["text"] for row in rows[start : start + joined]), "label": rows[start]["label"]}
        for start in range(0, len(rows), joined)
    ]


COLOURS = ("red", "blue", "green", "black", "white")


def _asked(per_label: int) -> list[Row]:
    words = {
        "HUM": "Who is",
        "LOC": "Where is",
        "NUM": "How many are",
        "DESC": "Why is",
        "ENTY": "What is",
        "ABBR": "Is",
    }
    return [
        {"text": f"{start} the number {n} of the {COLOURS[n % 5]} things?", "label": label}
        for label, start in sorted(words.items())
        for n in range(per_label)
    ]
