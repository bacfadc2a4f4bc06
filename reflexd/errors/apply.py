"""Decides how an edit that is not applied is refused: with the place that is in doubt, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reflexd.errors.answers import BodyTooLarge, InvalidRequest


class ApplyRefused(InvalidRequest):
    """The update cannot be applied for sure: show more of the file around what it changes.

    `line` is a line of the update and `candidates` are lines of the file, all from 1, as they stand between the tags.
    """

    status = 422
    code = "apply_refused"

    def __init__(
        self,
        message: str | None = None,
        *,
        reason: str = "ambiguous",
        line: int | None = None,
        candidates: Sequence[int] = (),
    ) -> None:
        super().__init__(message, param="messages")
        self.reason = reason
        self.line = line
        self.candidates = list(candidates)

    def body(self) -> dict[str, dict[str, Any]]:
        """Return the envelope with what a program needs to ask again."""
        found = super().body()
        found["error"]["reflexd"] = {"reason": self.reason, "line": self.line, "candidates": self.candidates}
        return found


class ApplyTimeout(InvalidRequest):
    """The update was not applied within [apply] merge_seconds: send a shorter part of the file.

    A 422 and not a 504: the SDK would send it again, and it would take as long.
    """

    status = 422
    code = "apply_timeout"


class SourceTooLarge(BodyTooLarge):
    """The file, or its update, is larger than [apply] file_bytes allows."""
