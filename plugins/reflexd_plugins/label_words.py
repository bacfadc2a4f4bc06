"""Decides what is said of each label in words: its name, and a line about it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from msgspec import Struct

from reflexd import InvalidInput

MAX_LINE_CHARS = 300
"""Of what is said of one label: a small language model loses the thread in more."""
MOST_CHARS_READ = 1_000
"""Of a line of the description, in which a label may stand with what it is."""
MARKS = (":", "=", " - ", " \N{EN DASH} ", " \N{EM DASH} ")
QUOTES = "\"'`*- \N{BULLET}"
CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Described(Struct, frozen=True):
    """A label, its name as words, and a line about it; "" where nothing is said of it."""

    label: str
    name: str
    line: str

    @property
    def said(self) -> str:
        """What is said of it: its line, else its name."""
        return self.line or self.name


def described(labels: Sequence[str], description: str | None, lines: Mapping[str, str]) -> list[Described]:
    """Return what is said of each label, in their order.

    A line comes from `lines`, else from a line of the description that begins with the label and a colon or a dash. Of
    a label of which nothing is said by itself, the rest of the description is said.
    """
    found = {words_of(label): "" for label in labels}
    rest = []
    for line in (description or "").splitlines():
        name, said = _named(line[:MOST_CHARS_READ], found)
        if said:
            found[name] = found[name] or said
        else:
            rest.append(line)
    whole = " ".join(rest)
    return [
        Described(label, name := words_of(label), _short(lines.get(label) or found[name] or whole)) for label in labels
    ]


def _named(line: str, names: Mapping[str, str]) -> tuple[str, str]:
    """Return the name that a line begins with, before a colon, a dash or an equals sign, and what follows that."""
    line = " ".join(line.split())
    for at, mark in sorted((at, mark) for mark in MARKS if (at := line.find(mark)) > 0):
        name, said = words_of(line[:at].strip(QUOTES)), line[at + len(mark) :].strip()
        if name in names and said:
            return name, said
    return "", ""


def check_lines(lines: Mapping[str, str], labels: Sequence[str]) -> None:
    """Raise InvalidInput for a line about what is no label of the request."""
    for label, line in lines.items():
        if label not in labels:
            raise InvalidInput(f"There is no label {label!r} in `labels`", f".label_descriptions[{label!r}]")
        if not line.strip():
            raise InvalidInput("The description is empty", f".label_descriptions[{label!r}]")


def words_of(label: str) -> str:
    """Return a label's name as words: "cardDeclined", "card_declined" and "Card declined" are the same."""
    return " ".join(CAMEL.sub(" ", label).replace("_", " ").replace("-", " ").split()).lower()


def _short(line: str) -> str:
    return " ".join(line.split())[:MAX_LINE_CHARS].rstrip(" .")
