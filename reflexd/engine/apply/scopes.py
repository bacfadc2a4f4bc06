"""Decides whether lines of a file stay under the line that they belong to: a header, by indentation, or a section.

A new function that ends as the one above it does can be explained as one whose first lines are new and whose last ones
are the other's. Then the other has lost them, and nobody meant that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate

from reflexd.engine.apply.alignment import Piece
from reflexd.engine.apply.original import Original
from reflexd.engine.apply.snippet import OPENING, Snippet, defines, indent, opens

SECTION = re.compile(r"^\s{0,3}(?:(#{2,6})\s+\S|\[{1,2}[^\[\],=]+\]{1,2}\s*$)")
"""A heading of Markdown, or a section of TOML and INI: where no grammar says otherwise, what follows belongs to it."""
BESIDES = re.compile(rf"{OPENING.pattern}|\{{[{{%]|(?:public|private|protected|default|case\b.*):$")
"""Comments, what a preprocessor reads, and labels: wherever they begin, what follows is under what was above them."""
CLOSES = re.compile(r"[\])}]|\*/|</|end\b(?!\s*[-+*/|%]?[=:])")
TOP = -1


def strayed(
    lines: Sequence[str],
    places: Sequence[int],
    kept: Sequence[bool],
    file: Original,
    before: Sequence[int],
    *,
    flat: bool,
) -> int | None:
    """Return the first line of an answer that has come under a new line, and not under the one it was under any more.

    `places` tells which line of the file each is, -1 for a new one, `kept` which of them the edit does not show, and
    `before` what each line of the file is under. `flat`: what follows a section's line belongs to it. A line that is
    indented anew has been moved on purpose.
    """
    unseen = {place for place, one in zip(places, kept, strict=True) if one}
    numbers = {place: number for number, place in enumerate(places) if place >= 0}
    before_it = [0, *accumulate(kept)]
    for number, above in enumerate(parents(lines, flat)):
        place = places[number]
        text = file.stripped[place] if place >= 0 else ""
        if not text or BESIDES.match(text) or CLOSES.match(text):
            continue
        own = before[place]
        new = above >= 0 and places[above] < 0
        held = own in unseen or own == TOP
        if new and not held and own in numbers and defines(lines[above]) and defines(file.lines[own]):
            # With a marker between, nothing shows that the line has left the definition that it was in.
            held = before_it[number] > before_it[numbers[own]]
        if new and held and indent(lines[number]) == file.indents[place]:
            return number
    return None


def left_block(pieces: Sequence[Piece], edit: Snippet, file: Original) -> Piece | None:
    """Return the first line that a marker within a block keeps of another one, as a piece with the marker's line.

    A marker is within the block whose first line is shown above it, where what follows it is as far in as it is.
    """
    places = {piece.line: piece.start for piece in pieces if piece.line >= 0 and piece.start >= 0}
    row = -1
    for piece in pieces:
        if piece.line >= 0:
            row = piece.line
            continue
        marker = row + 1
        if not (0 < marker < len(edit.lines) - 1 and edit.markers[marker]):
            continue
        header = places.get(edit.header(marker))
        if header is None or edit.indents[marker + 1] < edit.indents[marker]:
            continue
        for place in range(piece.start, piece.end):
            outside = 0 <= file.indents[place] <= file.indents[header]
            if outside and OPENING.match(file.stripped[place]) is None:
                return Piece(place, place + 1, marker)
    return None


def headers_of(edit: Snippet, flat: bool) -> list[int]:
    """Return for each line of an edit what `parents` does for a file's, up to the marker before it."""
    out: list[int] = []
    start = 0
    for row, marker in enumerate([*edit.markers, True]):
        if marker:
            out += [start + above if above >= 0 else TOP for above in parents(edit.lines[start:row], flat)]
            out += [TOP] * (row < len(edit.lines))
            start = row + 1
    return out


def parents(lines: Sequence[str], flat: bool) -> list[int]:
    """Return for each line the nearest one before it that is indented less, or that begins its section; -1 for none."""
    out: list[int] = []
    above: list[tuple[int, int]] = []
    for number, line in enumerate(lines):
        level, text = indent(line), line.strip()
        section = SECTION.match(line) if flat else None
        if level < 0 or (section is None and BESIDES.match(text)):
            out.append(TOP)
            continue
        if section is not None:
            level = len(section[1] or "#") - 10
        while above and above[-1][0] >= level:
            above.pop()
        out.append(above[-1][1] if above else TOP)
        if not CLOSES.match(text) or opens(text):
            above.append((level, number))
    return out
