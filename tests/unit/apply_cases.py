"""Decides what a case of a lazy edit is: a file, an update as an agent writes it, and the right answer or refusal."""

from __future__ import annotations

from msgspec import Struct


class Case(Struct, frozen=True):
    """A file, an update for it, and the file that must come out, or the reasons that a refusal may have."""

    name: str
    original: str
    update: str
    expected: str | None
    reasons: tuple[str, ...] = ()


def applied(name: str, original: str, update: str, *edits: tuple[str, str]) -> Case:
    """A case whose answer is the file with these texts, each of which it has once, put in each other's place."""
    expected = original
    for before, after in edits:
        assert expected.count(before) == 1, (name, before)
        expected = expected.replace(before, after)
    return Case(name, original, update, expected)


def refused(name: str, original: str, update: str, *reasons: str) -> Case:
    """A case that nobody could know the answer of."""
    return Case(name, original, update, None, reasons)
