"""Decides what is said of each label in words: its name, and a line about it where the request has one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from msgspec import Struct

from reflexd import InvalidInput

MAX_LINE_CHARS = 300
"""Of what is said of one label: a small language model loses the thread in more."""
LINE = re.compile(r"\s*[-*•]?\s*[\"'`]?(?P<label>.+?)[\"'`]?\s*(?::|=|\s[-–—])\s+(?P<line>\S.*)")
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

    A line comes from `lines`, else from a line of the description that begins with the label and a colon or a dash.
    """
    found = {words_of(label): "" for label in labels}
    for line in (description or "").splitlines():
        if (matched := LINE.fullmatch(line)) and (name := words_of(matched["label"])) in found:
            found[name] = found[name] or matched["line"]
    return [Described(label, name := words_of(label), _short(lines.get(label) or found[name])) for label in labels]


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
