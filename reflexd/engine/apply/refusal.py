"""Decides what is told of an edit that is not applied."""

from __future__ import annotations

from collections.abc import Sequence


class Refusal(Exception):
    """The edit cannot be applied for sure.

    `reason` is a code; `line` the edit's line that is in doubt, and `candidates` places in the file, all from 0.
    """

    def __init__(self, reason: str, message: str, line: int | None = None, candidates: Sequence[int] = ()) -> None:
        self.reason = reason
        self.message = message
        self.line = line
        self.candidates = list(candidates)
        super().__init__(message)
