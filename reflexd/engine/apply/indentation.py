"""Decides how far an edit's lines are indented in the file: in the file's own way, and moved as a whole if at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import gcd

from reflexd.engine.apply.alignment import Piece
from reflexd.engine.apply.original import Original
from reflexd.engine.apply.snippet import Snippet, indent

LEAST_STEP, MOST_STEP = 2, 8


def restyled(lines: Sequence[str], file: Original) -> list[str]:
    """Return an edit's lines indented by tabs where the file is and the edit is not, or by spaces the other way round.

    A file or an edit that has both stays as it is.
    """
    theirs, ours = _steps(lines), _steps(file.lines)
    if not theirs or not ours or (theirs < 0) == (ours < 0):
        return list(lines)
    before, after = ("\t" if step < 0 else " " * step for step in (theirs, ours))
    return [after * _times(line, before) + line[_times(line, before) * len(before) :] for line in lines]


def placed(lines: Sequence[str], file: Original) -> list[str]:
    """Return an edit's lines moved as far as the file's are, where it was written from the line's begin on.

    That is known where each line that the edit and the file have once is moved by the same.
    """
    own = Counter(line.strip() for line in lines)
    pads: set[str | None] = set()
    for line in lines:
        found = file.places.get(line.strip(), ())
        if len(found) == 1 and own[line.strip()] == 1 and file.weights[found[0]] == 1:
            pads.add(_pad(file.lines[found[0]], line))
    pad = pads.pop() if len(pads) == 1 else None
    if not pad or pad.startswith("-") or all(indent(line) != 0 for line in lines):
        return list(lines)
    return [pad + line if line.strip() else line for line in lines]


def _times(line: str, step: str) -> int:
    times = 0
    while line.startswith(step, times * len(step)):
        times += 1
    return times


def _steps(lines: Sequence[str]) -> int:
    """Return how many spaces a level has; -1 where levels are tabs, 0 where that is not known."""
    pads = {line[: len(line) - len(line.lstrip(" \t"))] for line in lines if line.strip()} - {"", " "}
    # One space more than a level begins the lines of a comment.
    tabs = {pad for pad in pads if pad.rstrip(" ").strip("\t") == "" and pad.startswith("\t")}
    if tabs:
        return -1 if len(tabs) == len(pads) else 0
    if any("\t" in pad for pad in pads):
        return 0
    step = gcd(*(len(pad) for pad in pads if len(pad) % 2 == 0)) if pads else 0
    return step if LEAST_STEP <= step <= MOST_STEP else 0


def shifts(pieces: Sequence[Piece], edit: Snippet, file: Original) -> list[str]:
    """Return for each line of the edit what is put before it: the same for all lines between two markers.

    Where no line that stands in the file too is indented as it is there, the edit was written without that, and its
    first such line tells how far all are moved; those behind it may be indented anew. "-" and spaces: so many are taken
    off.
    """
    out = [""] * len(edit.lines)
    found = {piece.line: piece.start for piece in pieces if piece.line >= 0 and piece.start >= 0}
    start = 0
    for row in range(len(edit.lines) + 1):
        if row < len(edit.lines) and not edit.markers[row]:
            continue
        own = [line for line in range(start, row) if edit.lines[line].strip() and line in found]
        sure = min(1.0, max((float(file.weights[found[line]]) for line in own), default=0.0))
        pads = [
            _pad(file.lines[found[line]], edit.lines[line])
            for line in own
            if file.weights[found[line]] >= sure and file.stripped[found[line]] == edit.lines[line].strip()
        ]
        if pads and "" not in pads and None not in pads:
            out[start:row] = [pads[0] or ""] * (row - start)
        start = row + 1
    return out


def _pad(ours: str, theirs: str) -> str | None:
    """Return what must be put before their line, or "-" and what must go, to have ours; None if neither does."""
    mine, other = (line[: len(line) - len(line.lstrip())] for line in (ours, theirs))
    if mine.endswith(other):
        return mine[: len(mine) - len(other)]
    return "-" + other[: len(other) - len(mine)] if other.endswith(mine) else None
