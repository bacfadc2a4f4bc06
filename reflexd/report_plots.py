"""Decides how the plots of a job's page are drawn: small inline SVG whose colours are the page's own."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

Point = tuple[float, float]
LABEL_CHARS = 24
NUMBERED_CELLS = 16
"""Up to so many labels the cells of the heat map show their numbers; a pointer shows them always."""


def scale(rows: Sequence[tuple[str, float, tuple[float, float] | None]]) -> str:
    """Draw shares (0 to 1) as bars on one scale, each with its name and, where it has one, its interval."""
    left, width, line = 170, 360, 30
    height = line * len(rows) + 24
    parts = [_grid(left, width, 4, line * len(rows))]
    for number, (name, share, interval) in enumerate(rows):
        middle = line * number + 18
        parts.append(_text(left - 8, middle + 4, name, "end"))
        parts.append(f'<rect class="bar" x="{left}" y="{middle - 8}" width="{width * share:.1f}" height="16" rx="2"/>')
        end = share
        if interval is not None:
            low, high = (left + width * bound for bound in interval)
            parts.append(f'<path class="line" d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 5}v10')
            parts.append(f'M{high:.1f} {middle - 5}v10"/>')
            end = interval[1]
        parts.append(_text(left + width * end + 8, middle + 4, f"{share:.3f}"))
    parts += [_text(left + width * tick / 4, height - 4, f"{tick / 4:.2f}", "middle") for tick in range(5)]
    return _svg(left + width + 60, height, "The held-out score beside the baselines", parts)


def reliability(bins: Sequence[dict[str, Any]]) -> str:
    """Draw the share that came true over the confidence, a disc a bin; on the diagonal a confidence says what it is."""
    side, left, top = 260, 44, 8
    parts = [f'<rect class="frame" x="{left}" y="{top}" width="{side}" height="{side}"/>']
    parts.append(f'<path class="guide" d="M{left} {top + side}L{left + side} {top}"/>')
    most = max(bin_["n"] for bin_ in bins)
    for bin_ in bins:
        x, y = left + side * bin_["confidence"], top + side * (1 - bin_["accuracy"])
        told = f"confidence {bin_['confidence']:.3f}, came true {bin_['accuracy']:.3f}, {bin_['n']} decisions"
        radius = 3 + 5 * (bin_["n"] / most) ** 0.5
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{told}</title></circle>')
    for tick in (0, 0.5, 1):
        parts.append(_text(left + side * tick, top + side + 16, f"{tick:g}", "middle"))
        parts.append(_text(left - 6, top + side * (1 - tick) + 4, f"{tick:g}", "end"))
    parts.append(_text(left + side / 2, top + side + 34, "confidence", "middle"))
    parts.append(_turned(14, top + side / 2, "came true"))
    return _svg(left + side + 20, top + side + 42, "Reliability diagram", parts)


def curve(points: Sequence[Point], name: str) -> str:
    """Draw values [0, ...) over training steps."""
    width, height, left, top = 420, 200, 60, 10
    last, most = max(x for x, _ in points) or 1, max(y for _, y in points) or 1
    placed = [(left + width * x / last, top + height * (1 - y / most)) for x, y in points]
    parts = [f'<rect class="frame" x="{left}" y="{top}" width="{width}" height="{height}"/>']
    parts.append('<polyline class="line" points="' + " ".join(f"{x:.1f},{y:.1f}" for x, y in placed) + '"/>')
    for (x, y), (step, value) in zip(placed, points, strict=True):
        told = f"step {step:g}: {value:.4f}"
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{told}</title></circle>')
    for share in (0, 0.5, 1):
        parts.append(_text(left - 6, top + height * (1 - share) + 4, f"{most * share:.3g}", "end"))
        parts.append(_text(left + width * share, top + height + 16, f"{last * share:g}", "middle"))
    parts.append(_text(left + width / 2, top + height + 34, "step", "middle"))
    parts.append(_turned(12, top + height / 2, name))
    return _svg(left + width + 30, top + height + 42, f"{name} over the steps of training", parts)


def heat_map(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """Draw a confusion matrix: a line a true label, a column a predicted one, as dark as its share of the line."""
    cell = 34 if len(labels) <= NUMBERED_CELLS else 22
    left = top = 16 + 7 * min(LABEL_CHARS, max(map(len, labels)))
    side = cell * len(labels)
    parts = []
    for line, (label, counts) in enumerate(zip(labels, matrix, strict=True)):
        y, of = top + cell * line, sum(counts) or 1
        parts.append(_text(left - 8, y + cell / 2 + 4, _short(label), "end"))
        x = left + cell * (line + 0.5) + 4
        parts.append(f'<text transform="rotate(-90 {x:.1f} {top - 8})" x="{x:.1f}" y="{top - 8}">')
        parts.append(f"{escape(_short(label))}</text>")
        for column, count in enumerate(counts):
            kind = "hit" if line == column else "miss"
            x, shade = left + cell * column, count / of
            parts.append(f'<rect class="cell" x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}"/>')
            if count:
                told = escape(f"{label} read as {labels[column]}: {count} of {of}")
                parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}"')
                parts.append(f' fill-opacity="{0.15 + 0.85 * shade:.2f}"><title>{told}</title></rect>')
                if len(labels) <= NUMBERED_CELLS:
                    dark = " on" if shade > 0.5 else ""
                    parts.append(f'<text class="count{dark}" x="{x + cell / 2 - 0.5}" y="{y + cell / 2 + 4}"')
                    parts.append(f' text-anchor="middle">{count}</text>')
    return _svg(left + side + 8, top + side + 8, "Confusion matrix: lines are true labels, columns predictions", parts)


def _svg(width: float, height: float, said: str, parts: Sequence[str]) -> str:
    shape = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {shape} role="img" aria-label="{escape(said)}">{"".join(parts)}</svg>'
    )


def _grid(left: float, width: float, ticks: int, height: float) -> str:
    return "".join(
        f'<path class="guide" d="M{left + width * tick / ticks:g} 0V{height:g}"/>' for tick in range(ticks + 1)
    )


def _text(x: float, y: float, said: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'


def _turned(x: float, y: float, said: str) -> str:
    place = f'transform="rotate(-90 {x:g} {y:g})" x="{x:g}" y="{y:g}"'
    return f'<text {place} text-anchor="middle">{escape(said)}</text>'


def _short(label: str) -> str:
    return label if len(label) <= LABEL_CHARS else label[: LABEL_CHARS - 1] + "…"
