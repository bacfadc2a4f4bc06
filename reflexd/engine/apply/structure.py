"""Decides whether an answer keeps together what belongs together in the file, and places every part of the edit.

A line of the edit may stand in the file far from where it is meant. An explanation that follows it there tears blocks
apart: a line comes under another header, a block gets a second first line, a part of the edit hangs on a bracket.
"""

from __future__ import annotations

from collections.abc import Sequence

from reflexd.engine.apply.alignment import Piece
from reflexd.engine.apply.original import WORD, Original, weight
from reflexd.engine.apply.scopes import BESIDES, CLOSES, left_block, parents
from reflexd.engine.apply.snippet import Snippet, defines, indent, opens

END = "end"


def torn(
    lines: Sequence[str],
    origins: Sequence[tuple[int, int]],
    file: Original,
    above: Sequence[int],
    flat: bool,
) -> int | None:
    """Return the first line of an answer that the file has under a line which is gone, and that is under another now.

    `origins`: for each line which of the edit's it is or comes behind, and which of the file's, or -1; `above`: what
    each of the file's is under.
    """
    kept = {place for _, place in origins if place >= 0}
    for number, header in enumerate(parents(lines, flat)):
        place = origins[number][1]
        text = file.stripped[place] if place >= 0 else ""
        if not text or lines[number].strip() != text or CLOSES.match(text) or BESIDES.match(text):
            continue
        gone = above[place] >= 0 and above[place] not in kept and _begins(file.lines[above[place]])
        if gone and header >= 0 and origins[header][1] >= 0 and indent(lines[number]) == file.indents[place]:
            own = file.stripped[origins[header][1]] == lines[header].strip()
            if own:
                return number
    return None


def unplaced(pieces: Sequence[Piece], edit: Snippet, file: Original) -> int | None:
    """Return a line of the file in a part of the edit of which no line with a word is taken for one of the file."""
    places = {piece.line: piece.start for piece in pieces if piece.line >= 0 and piece.start >= 0}
    start = 0
    for row in range(len(edit.lines) + 1):
        if row < len(edit.lines) and not edit.markers[row]:
            continue
        rows = [one for one in range(start, row) if weight(edit.lines[one].strip()) >= WORD]
        known = [one for one in rows if edit.lines[one].strip() in file.places]
        if known and not any(one in places for one in rows):
            return known[0]
        start = row + 1
    return None


def left(pieces: Sequence[Piece], edit: Snippet, file: Original, *, directly: bool = False) -> Piece | None:
    """Return what scopes.left_block does, where the block's first line says a word."""
    piece = left_block(pieces, edit, file)
    header = edit.lines[edit.header(piece.line)].strip() if piece is not None else ""
    if directly and piece is not None and edit.header(piece.line) != piece.line - 1:
        return None
    return piece if weight(header) >= WORD and not CLOSES.match(header) else None


def unclosed(lines: Sequence[str], origins: Sequence[tuple[int, int]], file: Original) -> int | None:
    """Return the first line of an answer that begins a block and has lost the line that ends it in the file."""
    own = _ends(lines)
    numbers = {place: number for number, (_, place) in enumerate(origins) if place >= 0}
    for header, end in _ends(file.lines).items():
        number = numbers.get(header)
        # An end in words may have become another block's, which no bracket tells.
        if number is None or number in own or (end in numbers and not file.stripped[end].startswith(END)):
            continue
        if lines[number] == file.lines[header]:
            return number
    return None


def _ends(lines: Sequence[str]) -> dict[int, int]:
    """Return for each line that begins a block, by indentation, the one that closes it where one does."""
    out: dict[int, int] = {}
    open_: list[tuple[int, int]] = []
    for number, line in enumerate(lines):
        level = indent(line)
        if level < 0:
            continue
        while open_ and open_[-1][0] > level:
            open_.pop()
        if open_ and open_[-1][0] == level:
            header = open_.pop()[1]
            if CLOSES.match(line.strip()):
                out[header] = number
        open_.append((level, number))
    return out


def _begins(line: str) -> bool:
    return defines(line) or (opens(line) and weight(line.strip()) == 1)
