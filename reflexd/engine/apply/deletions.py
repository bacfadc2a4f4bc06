"""Decides what of the file an explanation deletes, and whether what stands around that tells which lines are meant."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from reflexd.engine.apply.alignment import Piece
from reflexd.engine.apply.original import Original

MOST_RUN = 10
"""Lines of a side that are looked at."""


def deletions(pieces: Sequence[Piece]) -> Iterator[tuple[int, int, int]]:
    """Yield which lines of the file are deleted between others that are kept: from, to, and the edit's next line."""
    at = line = -1
    for piece in pieces:
        line = max(line, piece.line)
        if piece.start < 0:
            continue
        if 0 <= at < piece.start:
            yield at, piece.start, max(line, 0)
        at = piece.end


def reaches_over(pieces: Sequence[Piece], file: Original) -> bool:
    """Whether lines are deleted up to others that stand among them, too: nobody means more than up to the first."""
    matched = {piece.start for piece in pieces if piece.line >= 0 and piece.start >= 0}
    return any(
        any(file.stripped[start:end]) and stands_within(matched, start, end, 1, file)
        for start, end, _ in deletions(pieces)
    )


def stand_alone(matched: set[int], at: int, step: int, file: Original) -> bool:
    """Whether the lines of the edit that end (step -1) or begin (1) at a place of the file stand there once only."""
    start, end = _run(matched, at, step)
    if start >= end:
        return False
    taken = file.stripped[start:end]
    rarest = min(range(len(taken)), key=lambda one: len(file.places[taken[one]]))
    starts = [found - rarest for found in file.places[taken[rarest]]]
    return sum(begin >= 0 and file.stripped[begin : begin + len(taken)] == taken for begin in starts) == 1


def stands_within(matched: set[int], start: int, end: int, step: int, file: Original) -> bool:
    """Whether the lines of the edit before (step -1) or behind (1) a deletion stand among what is deleted, too."""
    first, last = _run(matched, start if step < 0 else end, step)
    taken = [line.rstrip() for line in file.lines[first:last]]
    if not any(taken):
        return False
    rarest = min(
        range(len(taken)), key=lambda one: len(file.places[taken[one].strip()]) if taken[one] else len(file.lines)
    )
    places = file.places[taken[rarest].strip()]
    within = places[bisect_left(places, start + rarest) : bisect_left(places, end)]
    return any(
        [line.rstrip() for line in file.lines[place - rarest : place - rarest + len(taken)]] == taken
        for place in within
        if place - rarest + len(taken) <= (end if step < 0 else len(file.lines))
    )


def _run(matched: set[int], at: int, step: int) -> tuple[int, int]:
    """Return from where to where lines of the edit stand in the file that end (step -1) or begin (1) at a place."""
    first = place = at - 1 if step < 0 else at
    while place in matched and abs(place - first) < MOST_RUN:
        place += step
    return (place + 1, at) if step < 0 else (at, place)
