"""Decides what a usable training row is, and what a set of rows must have before a classifier can be trained on it."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence

import msgspec

from reflexd.config import Limits
from reflexd.hookspecs import Example

MIN_LABELS = 2
MIN_ROWS_PER_LABEL = 5


class BadRow(ValueError):
    """A row that cannot be trained on; `param` is its path, like `[3].text` ("" = the set as a whole)."""

    def __init__(self, message: str, param: str = "") -> None:
        self.message = message
        self.param = param
        super().__init__(message)


def text_problem(text: str, max_chars: int) -> str | None:
    """Say what is wrong with a text to train on or to classify; None when nothing is."""
    if not text or text.isspace():
        return "The text is empty"
    if len(text) > max_chars:
        return f"The text has {len(text)} characters; at most {max_chars} are allowed"
    if "\0" in text:
        return "The text contains a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "The text contains a lone surrogate, which is not valid Unicode"
    return None


def label_problem(label: str, max_chars: int) -> str | None:
    """Say what is wrong with a label; None when nothing is."""
    if not label or label.isspace():
        return "The label is empty"
    if len(label) > max_chars:
        return f"The label has {len(label)} characters; at most {max_chars} are allowed"
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in label):
        return "The label contains a control character or a lone surrogate"
    return None


def check_labels(labels: Sequence[str], limits: Limits) -> None:
    """Raise BadRow for a list of labels that no classifier could have."""
    for number, label in enumerate(labels):
        if problem := label_problem(label, limits.label_chars):
            raise BadRow(problem, f"[{number}]")
    if len(set(labels)) != len(labels):
        raise BadRow("A label is given twice")
    if labels and len(labels) < MIN_LABELS:
        raise BadRow(f"At least {MIN_LABELS} labels are needed")
    if len(labels) > limits.labels:
        raise BadRow(f"There are {len(labels)} labels; at most {limits.labels} are allowed")


def check_row(row: Example, number: int, labels: Sequence[str] | frozenset[str], limits: Limits) -> None:
    """Raise BadRow for a row that cannot be trained on; `labels` (if any) are the only ones allowed."""
    if problem := text_problem(row.text, limits.text_chars):
        raise BadRow(problem, f"[{number}].text")
    if problem := label_problem(row.label, limits.label_chars):
        raise BadRow(problem, f"[{number}].label")
    if labels and row.label not in labels:
        raise BadRow("The row's label is not among `labels`", f"[{number}].label")


def check_rows(rows: Sequence[Example], labels: Sequence[str], limits: Limits) -> list[str]:
    """Check all rows and their number; return the label order: `labels` if given, else by first appearance."""
    if len(rows) > limits.rows:
        raise BadRow(f"There are {len(rows)} rows; at most {limits.rows} are allowed")
    allowed = frozenset(labels)
    for number, row in enumerate(rows):
        check_row(row, number, allowed, limits)
    return check_counts(Counter(row.label for row in rows), labels, limits)


def check_counts(counts: Counter[str], labels: Sequence[str], limits: Limits) -> list[str]:
    """Raise BadRow when there are too few labels or rows of a label; return the label order."""
    order = list(labels) or list(counts)
    if len(order) < MIN_LABELS:
        raise BadRow(f"At least {MIN_LABELS} different labels are needed, and there are {len(order)}")
    if len(order) > limits.labels:
        raise BadRow(f"There are {len(order)} labels; at most {limits.labels} are allowed")
    short = [label for label in order if counts[label] < MIN_ROWS_PER_LABEL]
    if short:
        named = ", ".join(f"{label!r} has {counts[label]}" for label in short[:5])
        more = f" and {len(short) - 5} more labels" if len(short) > 5 else ""
        raise BadRow(f"Each label needs at least {MIN_ROWS_PER_LABEL} rows: {named}{more}")
    return order


def distinct(rows: Sequence[Example]) -> list[Example]:
    """Return the rows without exact repetitions, which would stand on both sides of a held-out split."""
    return list(dict.fromkeys(rows))


def data_sha256(rows: Sequence[Example]) -> str:
    """Return the identity of a data set: SHA-256 over its rows in order."""
    return hashlib.sha256(msgspec.json.Encoder().encode_lines(rows)).hexdigest()
