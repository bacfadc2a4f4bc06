"""Decides whether an edit shows enough of the file at its edges to tell that it is meant for this file, and where.

At its ends and beside a marker an edit shows what it does not change. Where a line there is new, the other lines must
tell the more: an edit for a file like this one has a line or two of it, too (benchmarks/README.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from reflexd.engine.apply.alignment import Piece
from reflexd.engine.apply.checks import IMPORT, said
from reflexd.engine.apply.deletions import deletions
from reflexd.engine.apply.original import WORD, Original, weight
from reflexd.engine.apply.refusal import Refusal
from reflexd.engine.apply.scopes import CLOSES, SECTION
from reflexd.engine.apply.snippet import Snippet, defines

LEAST_ONCE = 2
"""So many lines that the file has once must be among those of an edit which a new line begins or ends."""
HEADING = re.compile(r"##+ \w")
OPENING = ("{", "(", "[", ":")
BESIDE = (
    "This line is new and beside a marker, where lines are deleted or a single line tells the place: show the file's"
    " own line between the two"
)
ONE = "A single line of the update tells where it belongs, and it begins or ends with a new one: show more of the file"


def check_edges(pieces: Sequence[Piece], edit: Snippet, file: Original) -> None:
    """Raise Refusal where a new line is at an edge of the edit, and the others do not make up for it."""
    taken = {piece.line: piece.start for piece in pieces if piece.line >= 0 and piece.start >= 0}
    rows = [row for row, line in enumerate(edit.lines) if line.strip()]
    scarce = _once(taken, edit, file) < LEAST_ONCE
    if scarce and not any(edit.markers) and (new := {rows[0], rows[-1]} - taken.keys()):
        raise Refusal("no_anchor", ONE, min(new))
    # How many markers are before each deletion: in which part of the edit it is.
    gone = {sum(edit.markers[:row]) for start, end, row in deletions(pieces) if said(file.stripped[start:end])}
    for before, row, behind in zip([-1, *rows], rows, [*rows[1:], -1], strict=False):
        beside = (before >= 0 and edit.markers[before]) or (behind >= 0 and edit.markers[behind])
        if not beside or edit.markers[row] or row in taken or _is_of_block(row, edit) or _is_last(row, edit, taken):
            continue
        if (scarce and not _is_of_imports(row, before, edit, taken)) or sum(edit.markers[:row]) in gone:
            raise Refusal("ambiguous", BESIDE, row)


def _once(taken: Mapping[int, int], edit: Snippet, file: Original) -> int:
    """Return how many lines of the edit are taken for one that says something and that the file has once."""
    said_by = {edit.lines[row].strip(): place for row, place in taken.items()}
    return sum(
        weight(text) >= WORD and text == file.stripped[place] and len(file.places[text]) == 1
        for text, place in said_by.items()
    )


def _is_of_block(row: int, edit: Snippet) -> bool:
    """Whether a new line is part of a block that the edit shows, or begins or ends one: that is replaced or added."""
    text = edit.lines[row].strip()
    if edit.header(row) >= 0 or weight(text) <= WORD or CLOSES.match(text) or HEADING.match(text):
        return True
    if row and SECTION.match(edit.lines[row - 1]):
        return True
    head = edit.headed(row)
    text = edit.lines[head].strip()
    behind = next((one for one in range(head + 1, len(edit.lines)) if edit.lines[one].strip()), head)
    return defines(text) or text.endswith(OPENING) or edit.indents[behind] > edit.indents[head]


def _is_last(row: int, edit: Snippet, taken: Mapping[int, int]) -> bool:
    """Whether a new line and those behind it are the last ones of a block whose first and last line the edit shows."""
    level = edit.indents[row]
    header = next((one for one in range(row - 1, -1, -1) if 0 <= edit.indents[one] < level), -1)
    end = next((one for one in range(row, len(edit.lines)) if one in taken or edit.markers[one]), -1)
    if not (header in taken and end in taken and CLOSES.match(edit.lines[end].strip())):
        return False
    return edit.indents[end] == edit.indents[header]


def _is_of_imports(row: int, before: int, edit: Snippet, taken: Mapping[int, int]) -> bool:
    """Whether a new import is behind one of the file's, where it may as well be as anywhere among them."""
    return before in taken and all(IMPORT.match(edit.lines[one].strip()) for one in (before, row))
