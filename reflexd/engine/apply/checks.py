"""Decides when the best explanation of an edit is still not believed.

People and models leave things out of an edit that they did not mean to delete. Each check names what a reader of the
edit could not know for sure; its bounds were set on the histories of ten repositories, and held on nine others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from reflexd.engine.apply.alignment import Original, Piece, weight
from reflexd.engine.apply.refusal import Refusal
from reflexd.engine.apply.snippet import Snippet

FEW, MANY = 3, 8
"""Deleted lines from which on one of the sides must stand in the file once only, and from which on both."""
FEW_AT_ENDS = 1
MOST_RUN = 10
"""Lines of a side that are looked at."""
LEAST_ANCHOR = 0.75
"""What the known lines of each part of an edit must say together: a bracket is enough."""
LEAST_KNOWN, LEAST_SHARE = 3, 0.4
NEAR = 4
"""Lines on both sides of a boundary that are compared with each other."""
SHORT, ALIKE, VERSION_ALIKE = 8, 0.75, 0.6
MOST_GONE = 40
COMMENT = re.compile(r"\s*(?://|/\*|\*|#(?!\w)|<!--|--\s)")
"""Files that have nothing else in common begin with the same ones."""
NEW_CODE = 2
AT_END = "The update may leave out the file's first or last lines or delete them: put a marker there to keep them"
VERSION = "This line may be new, or stand for one like it that the update leaves out: show that one's surroundings"


def check(pieces: Sequence[Piece], edit: Snippet, file: Original) -> None:
    """Raise Refusal where any of the checks fails."""
    _anchors(pieces, edit, file)
    _markers(pieces, edit, file)
    _ends(pieces, edit, file)
    _neighbours(pieces, edit, file)
    _deletions(pieces, edit, file)


def said(lines: Sequence[str]) -> int:
    """Return how many lines are not empty."""
    return sum(map(bool, lines))


def _anchors(pieces: Sequence[Piece], edit: Snippet, file: Original) -> None:
    """Each part of the edit between markers must have lines that stand in the file, and say something."""
    found = {piece.line: float(file.weights[piece.start]) for piece in pieces if piece.line >= 0 and piece.start >= 0}
    start = 0
    for row in range(len(edit.lines) + 1):
        if row < len(edit.lines) and not edit.markers[row]:
            continue
        if row > start and sum(found.get(line, 0.0) for line in range(start, row)) < LEAST_ANCHOR:
            raise Refusal("no_anchor", "These lines stand beside no line of the file: add some of its lines", start)
        own = [line for line in range(start, row) if edit.lines[line].strip()]
        if own and own[0] not in found and own[-1] not in found:
            raise Refusal("no_anchor", "Neither the first nor the last of these lines stands in the file", start)
        start = row + 1
    known = [line for line, one in found.items() if one == 1] + list(_versions(pieces, edit, file))
    own = [line for line, text in enumerate(edit.lines) if weight(text.strip()) == 1]
    code = [line for line in known if not COMMENT.match(edit.lines[line])]
    new = [line for line in own if line not in found and not COMMENT.match(edit.lines[line])]
    gone = sum(said(file.stripped[start:end]) for start, end, _ in deletions(pieces))
    few = len(known) < LEAST_KNOWN and len(known) < LEAST_SHARE * len(own)
    if not known or (gone >= FEW and few) or (not code and len(new) >= NEW_CODE):
        raise Refusal("foreign_update", "Hardly a line of the update stands in the file: is it for another one?")


def _markers(pieces: Sequence[Piece], edit: Snippet, file: Original) -> None:
    """Each marker must stand for something."""
    row = -1
    kept: dict[int, bool] = {}
    for piece in pieces:
        if piece.line >= 0:
            row = piece.line
        elif any(file.stripped[piece.start : piece.end]):
            kept[row + 1] = True
    for place, marker in enumerate(edit.markers):
        if marker and not kept.get(place):
            raise Refusal("ambiguous", "This marker stands for no line of the file", place)


def _ends(pieces: Sequence[Piece], edit: Snippet, file: Original) -> None:
    """Where no marker stands for what comes before or behind the edit, that must be more than a few lines.

    Of a few, nobody knows whether they are left out or meant to go. Where there is a marker at the other end, the edit
    reaches to the end of the file; then it must replace what it deletes there.
    """
    for lines, row, step in ((pieces, 0, 1), (list(reversed(pieces)), len(edit.lines) - 1, -1)):
        if edit.markers[row]:
            continue
        if lines[0].line < 0 and lines[0].end > lines[0].start:
            if 0 < said(file.stripped[lines[0].start : lines[0].end]) <= FEW_AT_ENDS:
                raise Refusal("ambiguous", AT_END, row, [lines[0].start])
            continue
        new = 0
        for piece in lines:
            if piece.line < 0 or piece.start >= 0:
                break
            new += bool(edit.lines[piece.line].strip())
        first = next((piece for piece in lines if piece.start >= 0), None)
        if first is None:
            continue
        gone = file.stripped[: first.start] if step > 0 else file.stripped[first.end :]
        if said(gone) > max(FEW_AT_ENDS, 3 * new):
            raise Refusal("ambiguous", AT_END, row, [first.start])


def _neighbours(pieces: Sequence[Piece], edit: Snippet, file: Original) -> None:
    """A new line beside lines that are kept must not be another version of one of these."""
    for number, piece in enumerate(pieces):
        if piece.line >= 0:
            continue
        kept = file.stripped[piece.start : piece.end]
        for beside, others in (
            (pieces[:number][::-1][:NEAR], kept[:NEAR]),
            (pieces[number + 1 :][:NEAR], kept[-NEAR:]),
        ):
            for line, text in _new(beside, edit):
                if any(len(other) >= SHORT and other != text and _alike(text, other) for other in others):
                    raise Refusal("ambiguous", VERSION, line)


def _new(pieces: Sequence[Piece], edit: Snippet) -> Iterator[tuple[int, str]]:
    """Yield the new lines that say something, up to the first that the file has."""
    for piece in pieces:
        text = edit.lines[piece.line].strip() if piece.line >= 0 else ""
        if piece.line < 0 or (piece.start >= 0 and weight(text) == 1):
            return
        if piece.start < 0 and len(text) >= SHORT:
            yield piece.line, text


def _alike(one: str, other: str, least: float = ALIKE) -> bool:
    match = SequenceMatcher(None, one, other, autojunk=False)
    return match.real_quick_ratio() >= least and match.quick_ratio() >= least and match.ratio() >= least


def _deletions(pieces: Sequence[Piece], edit: Snippet, file: Original) -> None:
    """Where lines are deleted, the lines on both sides of them must stand in the file once only."""
    for start, end, line in deletions(pieces):
        gone = said(file.stripped[start:end])
        if gone < FEW:
            continue
        sides = _stand_alone(pieces, start, -1, file) + _stand_alone(pieces, end, 1, file)
        if sides < (1 if gone < MANY else 2):
            message = f"{gone} lines would be deleted, and it is not clear which: show more of what stands around them"
            raise Refusal("unbounded_deletion", message, min(line, len(edit.lines) - 1), [start, end])


def _versions(pieces: Sequence[Piece], edit: Snippet, file: Original) -> Iterator[int]:
    """Yield the new lines that are like one which is deleted where they come: they are its next version."""
    new: list[int] = []
    at = -1
    for piece in pieces:
        if piece.line >= 0 and piece.start < 0:
            new.append(piece.line)
            continue
        gone = [text for text in file.stripped[at : piece.start][:MOST_GONE] if len(text) >= SHORT] if at >= 0 else []
        for line in new:
            text = edit.lines[line].strip()
            if len(text) >= SHORT and any(_alike(text, other, VERSION_ALIKE) for other in gone):
                yield line
        new, at = [], piece.end


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


def _stand_alone(pieces: Sequence[Piece], at: int, step: int, file: Original) -> bool:
    """Whether the lines of the edit that end (step -1) or begin (1) at a place of the file stand there once only."""
    matched = {piece.start for piece in pieces if piece.line >= 0 and piece.start >= 0}
    place = at - 1 if step < 0 else at
    first = place
    while place in matched and abs(place - first) < MOST_RUN:
        place += step
    start, end = (place + 1, at) if step < 0 else (at, place)
    if start >= end:
        return False
    taken = file.stripped[start:end]
    rarest = min(range(len(taken)), key=lambda one: len(file.places[taken[one]]))
    starts = [found - rarest for found in file.places[taken[rarest]]]
    return sum(begin >= 0 and file.stripped[begin : begin + len(taken)] == taken for begin in starts) == 1
