"""Decides what a usable training row is, and what a set of rows must have before a classifier can be trained on it."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from reflexd.config import Limits
from reflexd.hookspecs import DataSource, Example, InputFile, where
from reflexd.schemas.reflex import Mode

MIN_LABELS = 2
MIN_ROWS_PER_LABEL = 5


class BadRow(ValueError):
    """A row that cannot be trained on; `param` is its path, like `[3].text` ("" = the set as a whole)."""

    def __init__(self, message: str, param: str = "") -> None:
        self.message = message
        self.param = param
        super().__init__(message)

    @property
    def row(self) -> int | None:
        """The number of the row; None where the set as a whole is meant."""
        found = re.match(r"\[(\d+)\]", self.param)
        return None if found is None else int(found[1])

    def told_of(self, source: DataSource, file: InputFile) -> str:
        """Return the message for a row of a file, which begins with the place of the row in it."""
        return self.message if self.row is None else f"{where(source, file, self.row)}: {self.message}"


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


def labels_of(row: Example) -> tuple[str, ...]:
    """Return the labels that a checked row has: one for `label`, any number for `labels`."""
    if row.labels is not None:
        return row.labels
    return () if row.label is None else (row.label,)


def check_row(
    row: Example, number: int, labels: Sequence[str] | frozenset[str], limits: Limits, mode: Mode | None
) -> None:
    """Raise BadRow for a row that cannot be trained on in `mode`; `labels` (if any) are the only ones allowed."""
    if problem := text_problem(row.text, limits.text_chars):
        raise BadRow(problem, f"[{number}].text")
    if row.label is None and row.labels is None:
        raise BadRow("A row needs label or labels", f"[{number}].label")
    if row.label is not None and row.labels is not None:
        raise BadRow("A row has both label and labels: give one of them", f"[{number}].label")
    if row.labels is not None and len(row.labels) > limits.labels:  # before each of a million is looked at
        raise BadRow(f"The row has {len(row.labels)} labels; at most {limits.labels} are allowed", f"[{number}].labels")
    if row.labels is not None and mode == "single_label":
        raise BadRow("A row of a single_label job has one label: give it as `label`", f"[{number}].labels")
    seen: set[str] = set()
    for place, label in enumerate(labels_of(row)):
        param = f"[{number}].label" if row.labels is None else f"[{number}].labels[{place}]"
        if problem := label_problem(label, limits.label_chars):
            raise BadRow(problem, param)
        if labels and label not in labels:
            raise BadRow("The row's label is not among `labels`", param)
        if label in seen:
            raise BadRow("The row has this label twice", param)
        seen.add(label)


def check_rows(
    rows: Sequence[Example], labels: Sequence[str], limits: Limits, mode: Mode | None = None
) -> tuple[list[str], Mode]:
    """Check all rows and their number; return the label order and the mode.

    The order is `labels` if given, else by first appearance. The mode is the one asked for; without one it is
    multi_label where any row has `labels`.
    """
    if len(rows) > limits.rows:
        raise BadRow(f"There are {len(rows)} rows; at most {limits.rows} are allowed")
    return check_counts(checked(rows, labels, limits, mode), labels, limits, mode)[:2]


def checked(
    rows: Iterable[Example], labels: Sequence[str], limits: Limits, mode: Mode | None, start: int = 0
) -> Iterator[Example]:
    """Yield rows, the first of which has the number `start`, as long as each is a good one and they are not too many.

    Raises BadRow for the first that is not.
    """
    allowed = frozenset(labels)
    for number, row in enumerate(rows, start):
        if number >= limits.rows:
            raise BadRow(f"There are more than {limits.rows} rows")
        check_row(row, number, allowed, limits, mode)
        yield row


def check_counts(
    rows: Iterable[Example], labels: Sequence[str], limits: Limits, mode: Mode | None
) -> tuple[list[str], Mode, int]:
    """Raise BadRow when there are too few labels or rows that have one; return label order, mode and number of rows."""
    counts: Counter[str] = Counter()
    number, several = 0, False
    for row in rows:
        number += 1
        several |= row.labels is not None
        counts.update(labels_of(row))
    if mode is None:
        mode = "multi_label" if several else "single_label"
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
    return order, mode, number


def distinct(rows: Sequence[Example]) -> list[int]:
    """Return the places of rows without exact repetitions, which would stand on both sides of a held-out split."""
    first: dict[Example, int] = {}
    for place, row in enumerate(rows):
        first.setdefault(row, place)
    return list(first.values())


def data_sha256(rows: Sequence[Example]) -> str:
    """Return the identity of a data set: SHA-256 over its rows in order, each without the field it does not have."""
    return hashlib.sha256(msgspec.json.Encoder().encode_lines(rows)).hexdigest()
