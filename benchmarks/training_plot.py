"""Decides how accuracy is drawn against processor time: one point a side and size, a mean over the sets of SetFit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple
from xml.sax.saxutils import escape

from benchmarks.training_cells import ROWS, SETFIT_SETS, SIDES, Line
from benchmarks.training_claims import Outcomes

WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 140, 50, 60
COLOURS = {"tfidf": "#8a6d00", "frozen": "#0b7a75", "ours": "#c2185b", "full": "#1f5fb4", "setfit": "#6a4c93"}


class Point(NamedTuple):
    """Where a side stands with so many rows a label."""

    side: str
    rows: str
    seconds: float
    accuracy: float


def points(lines: Sequence[Line]) -> list[Point]:
    """Return the mean core-seconds and accuracy of each side and size that has an outcome on each of SetFit's sets."""
    outcomes = Outcomes(lines)
    found = []
    for side in SIDES:
        for rows in ROWS:
            of = [list(outcomes.seeds(side, name, rows).values()) for name in SETFIT_SETS]
            if all(of):
                seconds = fmean(fmean(line.core_seconds for line in each) for each in of)
                found.append(Point(side, rows, seconds, fmean(fmean(line.accuracy for line in each) for each in of)))
    return found


def draw(found: Sequence[Point]) -> str:
    """Return the picture as SVG; raises ValueError where there is nothing to draw."""
    if not found:
        raise ValueError(f"no side has outcomes on all of {', '.join(SETFIT_SETS)} with some number of rows")
    decades = [math.log10(max(point.seconds, 1e-3)) for point in found]
    first, last = math.floor(min(decades)), max(math.ceil(max(decades)), math.floor(min(decades)) + 1)
    bottom = math.floor(min(point.accuracy for point in found) * 10) / 10
    top = min(1.0, math.ceil(max(point.accuracy for point in found) * 10 + 1e-9) / 10)
    top = max(top, bottom + 0.1)

    def x(seconds: float) -> float:
        share = (math.log10(max(seconds, 1e-3)) - first) / (last - first)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(accuracy: float) -> float:
        return HEIGHT - BOTTOM - (accuracy - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12" fill="#222">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        text(LEFT, 24, f"Test accuracy and training time, mean of {len(SETFIT_SETS)} sets", size=15),
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, "core-seconds of training (log scale)", anchor="middle"),
        text(LEFT - 10, TOP - 10, "accuracy", anchor="end"),
    ]
    for decade in range(first, last + 1):
        at = x(10**decade)
        out += [rule(at, TOP, at, HEIGHT - BOTTOM), text(at, HEIGHT - BOTTOM + 18, f"{10**decade:g}", anchor="middle")]
    for step in range(round((top - bottom) * 10) + 1):
        at = y(bottom + step / 10)
        out += [
            rule(LEFT, at, WIDTH - RIGHT, at),
            text(LEFT - 10, at + 4, f"{bottom + step / 10:.1f}", anchor="end"),
        ]
    for side, colour in COLOURS.items():
        mine = [(x(point.seconds), y(point.accuracy), point) for point in found if point.side == side]
        if not mine:
            continue
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py, _ in mine)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5" opacity=".6"/>')
        for px, py, point in mine:
            said = f"{side}, {point.rows} rows a label: {point.accuracy:.3f} in {point.seconds:.2f} core-s"
            out.append(
                f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4.5" fill="{colour}"><title>{escape(said)}</title></circle>'
            )
            out.append(text(px, py - 9, point.rows, colour, anchor="middle"))
    for place, side in enumerate(side for side in COLOURS if any(point.side == side for point in found)):
        at = TOP + 20 * place
        out.append(f'<circle cx="{WIDTH - RIGHT + 24}" cy="{at}" r="4.5" fill="{COLOURS[side]}"/>')
        out.append(text(WIDTH - RIGHT + 36, at + 4, side))
    out.append(text(WIDTH - RIGHT + 18, TOP + 20 * len(COLOURS) + 8, "numbers: rows a label", size=10))
    return "\n".join([*out, "</svg>", ""])


def rule(x1: float, y1: float, x2: float, y2: float) -> str:
    """Return a thin line of the grid."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#ddd"/>'


def text(x: float, y: float, said: str, colour: str = "#222", anchor: str = "start", size: int = 12) -> str:
    """Return a piece of text."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-size="{size}">{escape(said)}</text>'
    )
